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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.harness import GIB, Row, benchmark, measured, race, timed
from stepdiff.common.cli import command
from store import Store

KEYS = 100_000
"""keys looked up, and keys appended"""
_PART = 10_000_000  # rows appended at a time
_MOST_IN_MEMORY = 10_000_000  # rows of a join and of a dict
_MOST_IN_FILES = 1_000_000  # rows of sqlite3 and Parquet
CEILING = "dict"
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


def parts(rows: int) -> Iterator[pl.Series]:
    """Yield the keys of all rows, part by part."""
    for start in range(0, rows, _PART):
        yield clip_ids(pl.int_range(start, min(start + _PART, rows), eager=True))


def build(path: Path, rows: int) -> Row:
    """Make the catalog; return the size of its files of keys."""
    catalog = Store.open(path, create=True).catalog("clips")
    for keys in parts(rows):
        catalog.append(keys.to_frame())
    sizes = [file.stat().st_size for file in (path / "catalog" / "clips").glob("*.keys")]
    return {"indexes": len(sizes), "index_gib": round(sum(sizes) / GIB, 2)}


def look_up(path: Path, rows: int, rounds: int) -> dict[str, float | None]:
    """Open the catalog and look keys up, next to the peers, which must give the same rows."""
    keys = clip_ids(pl.Series(np.random.default_rng(0).integers(0, rows, KEYS))).to_list()
    opening, catalog = timed(lambda: Store.open(path).catalog("clips"))
    counting, length = timed(lambda: len(catalog))
    assert length == rows
    first, expected = timed(lambda: catalog.rows(keys))
    assert catalog.keys(expected) == keys
    ways: dict[str, LookUp] = {"lookup": catalog.rows}
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
    return {
        "open_ms": _ms(opening + counting),
        "first_lookup_ms": _ms(first),
        **{f"{name}_ms": _ms(seconds[name].clock) if name in ways else None for name in ("lookup", *WANTED)},
        "append_ms": _ms(timed(lambda: catalog.append(new_keys))[0]),
    }


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
    """Return the record: look-ups in `rows`, and a table of appending."""
    look_ups: list[Row] = []
    appends: list[Row] = []
    races: list[Row] = []
    for rows in map(round, options.sizes):
        print(f"{rows:,} rows", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            build_s, size = timed(lambda: build(Path(folder, "store"), rows))  # noqa: B023
            looked = look_up(Path(folder, "store"), rows, options.rounds)
        append = {name: looked.pop(name) for name in ("open_ms", "append_ms")}
        look_ups.append({"rows": rows, **looked})
        appends.append({"rows": rows, **append, "build_s": round(build_s, 1), **size})
        for peer, wanted in WANTED.items():
            if peer_ms := looked[f"{peer}_ms"]:
                races.append(race(f"{rows:,} rows", peer_ms, looked["lookup_ms"] or 0.0, wanted, peer))
    return {"rows": look_ups, "races": races, "append": appends, "keys": KEYS}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


main = benchmark("catalog", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
