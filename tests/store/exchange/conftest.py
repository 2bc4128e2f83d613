"""A view with what exports must keep: three dtypes, odd keys, metadata; and rows that failed, are
absent, forgotten."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from stepdiff_core.errors import StepDiffError
from store import Feature, Provenance, Store, View
from store.__main__ import main
from store.exchange.intake import take_in
from store.verbs.options import ImportOptions
from tests.store.conftest import Ended, Run

KEYS = [
    "c0",
    "cüp 1",
    "train/v.2",
    "c3",
    "c4",
    "日本.mp4",
    "c6",
    "c7",
    "%2E",
    "c9",
    "q\"'|8",
    "c11",
    "c12",
]
FAILED, ABSENT, FORGOTTEN = 6, 9, 4
FORMATS = [
    "parquet",
    *(
        pytest.param(name, marks=pytest.mark.full)
        for name in ("lance", "huggingface", "webdataset")
    ),
]
READABLE = ["parquet", pytest.param("lance", marks=pytest.mark.full)]
"""formats that can be imported"""
MADE_BY = {
    "encoder": "net",
    "weights_sha256": "ab" * 32,
    "layer": "last",
    "frames": "8 evenly",
    "crop": "centre 224",
}


def imported(path: Path, to: str = "s", **options: Any) -> dict[str, Any]:
    """Return the record of an import of a file into view `v` of a store next to it."""
    return take_in(
        ImportOptions(**{"path": str(path), "store": str(path.parent / to), "view": "v", **options})
    )


def refused(path: Path, **options: Any) -> str:
    """Return the one line in which an import of a file is refused; nothing is written."""
    with pytest.raises(StepDiffError) as caught:
        imported(path, **MADE_BY | options)
    assert "\n" not in str(caught.value) and not (path.parent / "s").exists()
    return str(caught.value)


@pytest.fixture
def view(tmp_path: Path) -> View:
    """A view `net` of 13 clips with 4 rows per shard, nine of them finished."""
    store = Store.open(tmp_path / "store", create=True)
    about = {
        "video": [f"v{i // 4}.mp4" for i in range(13)],
        "start": [0.5 * i for i in range(13)],
        "step": [None if i == 3 else i for i in range(13)],
        "seen": [i % 2 == 0 for i in range(13)],
        "made": [datetime(2026, 1, 1 + i) for i in range(13)],
    }
    frame = pl.DataFrame({"key": KEYS, **about})
    store.catalog("clips").append(frame[:8])
    # Another part has no column `step`, and whole numbers as `start`.
    store.catalog("clips").append(
        frame[8:].drop("step").with_columns(pl.col("start").round().cast(pl.Int64))
    )
    provenance = Provenance(
        "net", "0" * 64, "last", "8 evenly", "centre 224",
        {"tokens": "float16", "embedding": "float32", "q": "int8 from float32"},
    )  # fmt: skip
    features = {
        "tokens": Feature((3, 5), "float16"),
        "embedding": Feature((7,), "float32"),
        "q": Feature((2, 70), "int8"),
    }
    with store.lock():
        view = store.create_view("clips", "net", provenance, features, 4)
    dice = np.random.default_rng(0)
    for shard in range(4):
        rows = np.arange(shard * 4, min(shard * 4 + 4, 13))
        rows = rows[(rows != FAILED) & (rows != ABSENT)]
        values = {
            name: dice.normal(size=(len(rows), *f.shape)).astype(np.float32)
            for name, f in features.items()
        }
        if shard == 0:
            values = {
                name: array * np.float32(1e-6 if name == "q" else 1)
                for name, array in values.items()
            }
            values["embedding"][0] = 0  # zarr leaves such a row out
        view.write_shard(shard, rows, values, {FAILED: "no video"} if shard == 1 else {})
    assert main(["forget", str(tmp_path / "store"), KEYS[FORGOTTEN], "--reason", "asked"]) == 0
    return store.view("clips", "net")


@pytest.fixture
def finished(view: View) -> np.ndarray:
    """The rows that an export has."""
    rows = np.flatnonzero(view.status() == 1)
    assert len(rows) == 10 and {FAILED, ABSENT, FORGOTTEN}.isdisjoint(rows.tolist())
    return rows


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One shard a part."""
    monkeypatch.setattr("store.exchange.export.PART_BYTES", 1)


@pytest.fixture
def save(view: View, tmp_path: Path, run: Run) -> Callable[..., Ended]:
    """Return a function that exports the view to a name in the test's folder."""

    def export(name: str, *words: object) -> Ended:
        return run("export", tmp_path / name, "--store", view.paths.store, "--view", "net", *words)

    return export


@pytest.fixture
def load(tmp_path: Path, run: Run) -> Callable[..., Ended]:
    """Return a function that imports a name in the test's folder into view `net` of store
    `other`."""
    return lambda name, *words: run(
        "import", tmp_path / name, "--store", tmp_path / "other", "--view", "net", *words
    )
