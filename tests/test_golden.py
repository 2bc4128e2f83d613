"""Golden files are read, and written again with the same bytes (tests/golden/make.py made them).

Equal on every machine: every row of the golden store, also as zarr-python reads it; the files of a
view that is requantised and of a store that is imported from Parquet and compacted (arrays,
metadata, failures, lock-free shard records without times; the catalog's Parquet where Polars is of
the recorded version); negatives, the order of neighbours, the text of predictions, all text files
of the kitchen.

Equal in every bit only if `machine` is the recorded one, because matrix products differ between
processors and versions of torch: features of pictures, of a video and of texts, embeddings and
weights of heads, predictions, scores. Elsewhere they are compared to a tolerance, and trained
weights not at all. Everything runs with one thread.
"""

import importlib.util
import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
import zarr

from heads.training.checkpoint import MADE_BY, write_sums
from stepdiff.kitchen.__main__ import FORMAT
from stepdiff_core.weights import fingerprint
from store import Store

HERE = Path(__file__).parent / "golden"
_SPEC = importlib.util.spec_from_file_location("golden_make", HERE / "make.py")
assert _SPEC is not None and _SPEC.loader is not None
make = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make)

GOLDEN: dict[str, Any] = json.loads((HERE / "golden.json").read_text(encoding="utf-8"))
SAME = make.machine() == GOLDEN["machine"]
SAME_PARQUET = make.machine()["packages"]["polars"] == GOLDEN["machine"]["packages"]["polars"]
GONE = {"": ["log_to"], "scaling": ["tensor_parallel", "cpu_offload"]}
"""options of recipes that the version that made the golden heads had"""
PLACES = {"runs": "trained", "out": "out", "small": "small-again", "aligned": "aligned-again"}


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden files, which tests do not change."""
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(HERE / "golden.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for run in (folder / "runs").iterdir():
        recipe = yaml.safe_load((run / "recipe.yaml").read_text())
        for part, gone in GONE.items():
            for name in gone:
                ((recipe[part] or {}) if part else recipe).pop(name, None)
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        write_sums(run, MADE_BY)
    return folder


@pytest.fixture(scope="module")
def again(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the golden files in which the commands run."""
    folder = Path(shutil.copytree(golden, tmp_path_factory.mktemp("again") / "golden"))
    # as the training did: a head leads to no other folder than those in use here
    fingerprint(folder / "lm")
    return folder


def rows(folder: Path, entity: str, view: str, feature: str, keys: list[str]) -> np.ndarray:
    store = Store.open(folder)
    return np.asarray(store.view(entity, view).read(feature, store.catalog(entity).rows(keys)))


def same_values(values: np.ndarray, expected: np.ndarray) -> None:
    """Return whether values are equal in every bit on the recorded machine, close on others."""
    if SAME:
        assert values.tobytes() == expected.tobytes()
    else:
        np.testing.assert_allclose(values, expected, rtol=0.01, atol=0.01)


def same_text(text: str, expected: str) -> None:
    """Return whether texts are equal to the byte; on other machines numbers with a fraction may
    differ slightly."""
    if SAME:
        assert text == expected
    number = re.compile(r"-?\d+\.\d+(?:e[+-]\d+)?")
    assert number.sub("#", text) == number.sub("#", expected)
    found, there = ([float(one) for one in number.findall(each)] for each in (text, expected))
    np.testing.assert_allclose(found, there, rtol=1e-3, atol=1e-3)


def same_files(found: dict[str, str], expected: dict[str, str]) -> None:
    """Check for the same names and bytes; for Parquet the bytes only if the same version of Polars
    wrote it."""
    assert list(found) == list(expected)
    different = {name for name in found if found[name] != expected[name]}
    assert {name for name in different if SAME_PARQUET or not name.endswith(".parquet")} == set()


def test_every_row_of_the_golden_store_reads_as_written(golden: Path, again: Path) -> None:
    make.run("verify", again)
    assert make.rows_of(golden / "features") == GOLDEN["rows"]
    assert make.files_of(golden / "features") == GOLDEN["files"]


def test_zarr_python_reads_the_same_rows(golden: Path) -> None:
    store, arrays = (
        Store.open(golden / "features"),
        zarr.open_group(golden / "features/arrays.zarr", mode="r"),
    )
    for name, digests in GOLDEN["rows"].items():
        if name.endswith(" failed"):
            continue
        here = store.catalog(name.partition("/")[0]).rows(list(digests))
        values = np.asarray(arrays[name].oindex[here])  # type: ignore[union-attr]
        assert [make.sha(value.tobytes()) for value in values] == list(digests.values()), name


def test_a_requantised_view_has_the_same_files(golden: Path, again: Path) -> None:
    make.run("requantise", again, **PLACES)
    for folder in ("features/failures/clips", "features/arrays.zarr/clips"):
        same_files(
            make.files_of(again / folder / "small-again"), make.files_of(golden / folder / "small")
        )


def test_an_imported_and_compacted_store_has_the_same_files(again: Path) -> None:
    make.make_tables(again)
    make.run("import", again, store="imported")
    same_files(make.files_of(again / "imported"), GOLDEN["import"])


def test_features_of_pictures_a_video_and_texts_are_the_same(golden: Path, again: Path) -> None:
    make.run("featurize", again, store="featurized")
    found = make.rows_of(again / "featurized")
    assert found["clips/clip failed"].items() <= GOLDEN["rows"]["clips/clip failed"].items()
    compared = [name for name in found if not name.endswith(" failed")]
    assert len(compared) == 4
    for name in compared:
        place = (*name.split("/"), list(found[name]))
        same_values(rows(again / "featurized", *place), rows(golden / "features", *place))


def test_negatives_and_neighbours_are_the_same(golden: Path, again: Path) -> None:
    make.run("retrieval", again, **PLACES)
    for written in (golden / "out").glob("negatives_*.jsonl"):
        assert (again / "out" / written.name).read_bytes() == written.read_bytes(), written.name
    found, expected = (
        pl.read_parquet(folder / "out/neighbours.parquet") for folder in (again, golden)
    )
    assert found.drop("similarities").equals(expected.drop("similarities"))
    columns = (frame["similarities"].explode().to_numpy() for frame in (found, expected))
    same_values(*columns)


def test_predictions_and_scores_of_the_golden_heads_are_the_same(golden: Path, again: Path) -> None:
    answered = [path.name for path in (golden / "out").iterdir() if path.name.startswith("diff")]
    make.run("evaluate", again, **PLACES)
    assert len(answered) > 20
    for name in answered:
        found, expected = ((folder / "out" / name).read_text() for folder in (again, golden))
        # its options are those of the command, which may have more by now
        if name.endswith(".scores.json"):
            found, expected = ({**json.loads(text), "options": {}} for text in (found, expected))
            found, expected = (
                json.dumps(found, sort_keys=True),
                json.dumps(expected, sort_keys=True),
            )
        same_text(found, expected)


def test_heads_embed_and_train_the_same(golden: Path, again: Path) -> None:
    make.run("embed train" if SAME else "embed", again, **PLACES)
    for entity in ("clips", "texts"):
        keys = list(GOLDEN["rows"][f"{entity}/aligned/embedding"])
        places = [
            (golden / "features", entity, "aligned"),
            (again / "features", entity, "aligned-again"),
        ]
        same_values(*(rows(*place, "embedding", keys) for place in reversed(places)))
    if SAME:
        written = sorted((golden / "runs").rglob("head.safetensors"))
        assert len(written) == 3
        for path in written:
            name = path.relative_to(golden / "runs")
            assert (again / "trained" / name).read_bytes() == path.read_bytes(), name


def test_the_kitchen_has_the_same_texts(tmp_path: Path) -> None:
    (tmp_path / "world/videos").mkdir(parents=True)
    made = {"format": FORMAT, "videos": 24, "steps": 12, "seed": 27, "seconds": 2.0, "fps": 12}
    (tmp_path / "world/world.json").write_text(json.dumps(made) + "\n")
    for number in range(24):  # existing videos are kept
        (tmp_path / f"world/videos/kitchen_{number:04d}.mp4").touch()
    make.run("kitchen", tmp_path)
    for name, digest in GOLDEN["world"].items():
        assert make.sha((tmp_path / "world" / name).read_bytes()) == digest, name
