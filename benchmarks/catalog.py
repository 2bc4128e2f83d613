"""The catalog of a store at scale: opening, looking up, appending.

python -m benchmarks.catalog --sizes '[1e5]'        seconds
python -m benchmarks.catalog                        a million and ten million rows, next to peers
python -m benchmarks.catalog --sizes '[136e6]'      as many clips as the largest sets of how-to videos have

The peers are a polars join, which holds all keys in memory, and what could replace our files of keys: sqlite3 and
Parquet sorted by key. The ceiling is a dict of all keys. Files are in the page cache. Look-ups are interleaved with
those of the peers; figures are medians.
"""

import sqlite3
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.harness import GIB, Row, Seconds, benchmark, measured, races, timed, times
from stepdiff.common.cli import command
from store import Store

KEYS = 100_000
"""keys looked up, and keys appended"""
_PART = 10_000_000  # rows appended at a time
_MOST_IN_MEMORY = 10_000_000  # rows of a join and of a dict
_MOST_IN_FILES = 1_000_000  # rows of sqlite3 and Parquet
OURS, CEILING = "lookup", "dict"
WANTED: dict[str, float | None] = {CEILING: None, "join": 5, "sqlite3": 1, "parquet": 1}
"""times the speed of each peer"""
LookUp = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Options:
    sizes: tuple[float, ...] = (1e6, 1e7)
    """rows"""
    rounds: int = 5
    """look-ups of which the median is printed"""
    folder: str | None = None
    """where the stores are made, and removed (default: the folder for temporary files)"""


def clip_ids(rows: pl.Series) -> pl.Series:
    """Return the keys of rows: ten clips a video, videos in no order."""
    video = (rows // 10).cast(pl.UInt64) * 0x9E3779B1 % 2**40
    start = rows % 10 * 7
    return pl.select(pl.format("{}_{}.00_{}.50", video, start, start + 5).alias("key")).to_series()


def build(path: Path, rows: int) -> Row:
    """Make the catalog; return the size of its files of keys."""
    catalog = Store.open(path, create=True).catalog("clips")
    for start in range(0, rows, _PART):
        catalog.append(clip_ids(pl.int_range(start, min(start + _PART, rows), eager=True)).to_frame())
    sizes = [file.stat().st_size for file in (path / "catalog" / "clips").glob("*.keys")]
    return {"indexes": len(sizes), "index_gib": round(sum(sizes) / GIB, 2)}


def look_up(path: Path, rows: int, rounds: int) -> tuple[dict[str, Seconds], Row]:
    """Return the seconds to look keys up, next to the peers, which must give the same rows; and those of other work."""
    keys = clip_ids(pl.Series(np.random.default_rng(0).integers(0, rows, KEYS))).to_list()
    opening, catalog = timed(lambda: Store.open(path).catalog("clips"))
    counting, length = timed(lambda: len(catalog))
    assert length == rows
    first, expected = timed(lambda: catalog.rows(keys))
    assert catalog.keys(expected) == keys
    ways: dict[str, LookUp] = {OURS: catalog.rows}
    if rows <= _MOST_IN_MEMORY:
        frame = catalog.frame(["key", "row"])
        places = dict(frame.iter_rows())
        ways["join"] = partial(joined, frame)
        ways[CEILING] = lambda keys: np.array([places.get(key, -1) for key in keys])
        if rows <= _MOST_IN_FILES:
            ways |= key_files(path.parent, places)
    for name, way in ways.items():
        assert np.array_equal(way(keys), expected), f"{name} gives other rows"
    seconds = measured({name: partial(way, keys) for name, way in ways.items()}, rounds, f"{rows:,} rows, ")
    new_keys = pl.DataFrame({"key": [f"another_{n}" for n in range(KEYS)]})
    appending, _ = timed(lambda: catalog.append(new_keys))
    others = {"open ms": opening + counting, "first look-up ms": first, "append ms": appending}
    return seconds, {name: round(took * 1e3, 2) for name, took in others.items()}


def joined(frame: pl.DataFrame, keys: list[str]) -> np.ndarray:
    """Return rows [K] as polars finds them."""
    return pl.DataFrame({"key": keys}).join(frame, on="key", how="left", maintain_order="left")["row"].to_numpy()


def key_files(folder: Path, places: dict[str, int]) -> dict[str, LookUp]:
    """Write `places` in the formats that could replace our files of keys; return their look-ups."""
    in_order = sorted(places.items())
    database = sqlite3.connect(folder / "keys.sqlite3")
    database.execute("CREATE TABLE keys (key TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID")
    database.executemany("INSERT INTO keys VALUES (?, ?)", in_order)
    database.commit()

    def from_sqlite(keys: list[str]) -> np.ndarray:
        return np.array([database.execute("SELECT row FROM keys WHERE key = ?", (key,)).fetchone()[0] for key in keys])

    sorted_frame = pl.DataFrame(in_order, {"key": pl.String, "row": pl.Int64}, orient="row")
    sorted_frame.write_parquet(folder / "keys.parquet", row_group_size=2**14)

    def from_parquet(keys: list[str]) -> np.ndarray:
        wanted = pl.LazyFrame({"key": keys}).unique()
        return joined(pl.scan_parquet(folder / "keys.parquet").join(wanted, on="key", how="semi").collect(), keys)

    return {"sqlite3": from_sqlite, "parquet": from_parquet}


def run(options: Options) -> dict[str, Any]:
    """Return the record: look-ups in `rows`, and a table of other work."""
    look_ups: list[Row] = []
    others: list[Row] = []
    held: list[Row] = []
    for rows in map(round, options.sizes):
        print(f"{rows:,} rows", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            build_s, size = timed(lambda: build(Path(folder, "store"), rows))  # noqa: B023
            seconds, more = look_up(Path(folder, "store"), rows, options.rounds)
        look_ups += times(seconds, 1, "look-up", rows=rows)
        others.append({"rows": rows, **more, "build s": round(build_s, 1), **size})
        wanted = {peer: least for peer, least in WANTED.items() if peer in seconds}
        held += races(f"{rows:,} rows", seconds, OURS, wanted)
    return {"rows": look_ups, "races": held, "other work": others, "keys": KEYS}


main = benchmark("catalog", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
