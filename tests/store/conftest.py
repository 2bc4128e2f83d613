"""A small store to test on, and what tests of many files do with it."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

from store import Feature, Provenance, Store, View
from store.__main__ import main

ROOT = Path(__file__).parents[2]
Values = dict[str, np.ndarray]


def flip(path: Any, at: int, bit: int = 0) -> None:
    """Flip a bit of a byte of a file or of an object."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data) if isinstance(path, Path) else path.put([bytes(data)])


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    errors: str

    @property
    def json(self) -> Any:
        """Return what the command printed with `--json`."""
        return json.loads(self.out)


Run = Callable[..., Ended]


def ended(
    capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], int], *words: object
) -> Ended:
    """Run a command with these words."""
    try:
        status = main([str(word) for word in words])
    except SystemExit as ending:  # of the parser
        status = int(ending.code or 0)
    return Ended(status, *capsys.readouterr())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `python -m store` with words."""
    return partial(ended, capsys, main)


def opened(view: View, **options: Any) -> View:
    """Return the view in its store, which is opened again."""
    return Store.open(view.paths.store).view("clips", view.name, **options)


@pytest.fixture
def provenance() -> Provenance:
    dtypes = {"tokens": "float16", "embedding": "float32"}
    return Provenance("net", "0" * 64, "last", "8 evenly", "centre 224", dtypes)


@pytest.fixture
def features() -> dict[str, Feature]:
    return {"tokens": Feature((3, 5), "float16"), "embedding": Feature((7,), "float32")}


@pytest.fixture
def make_view(
    tmp_path: Path, provenance: Provenance, features: dict[str, Feature]
) -> Callable[..., View]:
    """Return a function that makes a store with 11 clips `c0`... and a view `net` with 4 rows per
    shard."""

    def make(
        features: dict[str, Feature] = features,
        rows: int = 11,
        shard: int | None = 4,
        place: str = str(tmp_path),
    ) -> View:
        store = Store.open(f"{place}/store", create=True)
        store.catalog("clips").append(pl.DataFrame({"key": [f"c{i}" for i in range(rows)]}))
        with store.lock():
            return store.create_view("clips", "net", provenance, features, shard)

    return make


@pytest.fixture
def values() -> Callable[..., Values]:
    """Return a function that computes values of rows from the row number and a seed."""

    def make(view: View, rows: np.ndarray, seed: int = 0) -> Values:
        return {
            name: np.array(
                [
                    np.random.default_rng([seed, row, len(name)]).normal(size=f.shape)
                    for row in rows.tolist()
                ],
                np.float32,
            ).reshape(len(rows), *f.shape)
            for name, f in view.features.items()
        }

    return make


@pytest.fixture
def fill(values: Callable[..., Values]) -> Callable[..., None]:
    """Return a function that writes rows (all by default), shard by shard."""

    def run(view: View, rows: np.ndarray | None = None, seed: int = 0) -> None:
        rows = np.arange(len(view.catalog)) if rows is None else rows
        for shard in np.unique(rows // view.rows_per_shard).tolist():
            here = rows[rows // view.rows_per_shard == shard]
            view.write_shard(shard, here, values(view, here, seed), {}, {"device": "cpu"})

    return run


@pytest.fixture
def filled(make_view: Callable[..., View], fill: Callable[..., None]) -> View:
    """A view in which row 6 has failed and row 9 is absent."""
    view = make_view()
    view.write_shard(1, np.array([], np.int64), {}, {6: "no video"})
    fill(view, np.array([0, 1, 2, 3, 4, 5, 7, 8, 10]))
    return view
