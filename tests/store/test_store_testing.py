"""What `store.testing` ships: the tiny store, the strategies, and the error without hypothesis."""

import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from common.errors import StepDiffError
from store import Store, text_key
from store.testing import SmallView, small_view, tiny_store
from store.verbs.verify import verify

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_the_tiny_store_has_the_documented_values(where: str, tmp_path: Path) -> None:
    path = str(tmp_path / "store") if where == "folder" else f"memory://{uuid.uuid4().hex}/store"
    assert tiny_store(path).path == Store.open(path).path
    store = Store.open(path)
    clips = store.catalog("clips").frame()
    assert clips["key"].to_list() == [f"clip_{n}" for n in range(6)] and clips["end"].to_list() == [2.0] * 6
    assert clips["step"].to_list() == ["crack", "whisk"] * 3
    assert clips["split"].to_list() == ["train"] * 4 + ["test"] * 2
    assert clips["video"][3] == "videos/clip_3.mp4"
    view = store.view("clips", "tiny")
    rows = np.arange(4)
    tokens = view.read("tokens", rows)
    assert tokens.dtype == np.float16 and tokens.shape == (4, 3, 4)
    for row, n, d in np.ndindex(4, 3, 4):
        assert tokens[row, n, d] == row + n / 4 + d / 16
    assert (view.read("embedding", rows) == np.eye(4)).all() and view.features["embedding"].dtype == "float32"
    int8 = store.view("clips", "tiny-int8")
    levels, scale = int8.read_quantised("tokens", rows)
    assert levels.dtype == np.int8 and (scale == 1).all()
    for row, n in np.ndindex(4, 3):
        assert levels[row, n].tolist() == [127, row, n, -row]
    for one in (view, int8):
        assert one.status().tolist() == [1, 1, 1, 1, 2, 0] and one.rows_per_shard == 4
        assert one.failures().rows() == [("clip_4", "no video videos/clip_4.mp4")]
    texts = store.view("texts", "tiny")
    keys = [text_key(text) for text in ("crack", "whisk", "pour", "bake")]
    assert (texts.read("embedding", keys=keys) == np.eye(4)).all() and texts.features["embedding"].dtype == "float16"
    assert verify(store) == []


def test_the_tiny_store_is_made_in_well_under_a_second(tmp_path: Path) -> None:
    tiny_store(tmp_path / "warm")
    begin = time.process_time()
    tiny_store(tmp_path / "store")
    assert time.process_time() - begin < 0.7


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # type checks of the tests look at random items
@settings(max_examples=10, deadline=None, derandomize=True)
@given(view=small_view())
def test_a_small_view_is_stored_as_it_says(view: SmallView) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = view.write(Path(folder) / "store")
        assert written.features == view.features and written.provenance == view.provenance
        assert written.catalog.keys(np.arange(len(view.keys))) == list(view.keys)
        for name in view.features:
            found = written.read(name, keys=list(view.good))
            assert found.dtype == view.stored(name).dtype and (found == view.stored(name)).all()
        assert dict(written.failures().rows()) == view.failures
        for key in {*view.keys} - {*view.good}:
            with pytest.raises(StepDiffError, match="is failed" if key in view.failures else "is absent"):
                written.read("main", keys=[key])
        assert verify(Store.open(Path(folder) / "store")) == []


def test_without_hypothesis_one_line_names_the_extra(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from store.testing import tiny_store\n"
        f"tiny_store({str(tmp_path / 'store')!r})\n"
        "from store.testing import StoreMachine"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    line = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1 and (tmp_path / "store").is_dir()
    assert line == (
        "ImportError: store.testing needs packages that are not installed (hypothesis): pip install 'stepdiff[testing]'"
    )
