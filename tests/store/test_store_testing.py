"""The tiny store of `store.testing`."""

import uuid
from pathlib import Path

import numpy as np
import pytest

from store import Store, text_key
from store.testing import tiny_store
from store.verbs.verify import verify


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
