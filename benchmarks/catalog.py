"""The catalog of a store at scale: opening, looking up, appending.

python -m benchmarks.catalog --sizes '[1e5]'                 seconds
python -m benchmarks.catalog                                 a million and ten million rows, next to peers
python -m benchmarks.catalog --sizes '[136e6]' --join false  as many clips as the largest sets of how-to videos have

The peers are a polars join, which holds all keys in memory, and what could replace our files of keys: sqlite3, LMDB and
Parquet sorted by key. The ceiling is a dict of all keys. Every size is built and looked up in processes of their
own, whose memory is measured. Files are in the page cache. Look-ups are interleaved with those of the peers; figures
are medians.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness import GIB, Row, apart, benchmark, measured, private_bytes, race, timed
from stepdiff.common.cli import command

if TYPE_CHECKING:
    import polars as pl

KEYS = 100_000
"""keys looked up, and keys appended"""
_PART = 10_000_000  # rows appended at a time
_DICT_ROWS = 10_000_000
_FILE_ROWS = 1_000_000  # above, sqlite3, LMDB and Parquet are left out
CEILING = "dict"
WANTED: dict[str, float | None] = {CEILING: None, "join": 5, "sqlite3": 1, "lmdb": 1, "parquet": 1}
"""times the speed of each peer"""
LookUp = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Options:
    sizes: tuple[float, ...] = (1e6, 1e7)
    """rows"""
    rounds: int = 5
    """look-ups of which the median is printed"""
    join: bool = True
    """also measure a polars join, which holds all keys in memory"""
    folder: str | None = None
    """where the stores are made, and removed (default: the folder for temporary files)"""


def clip_ids(rows: "pl.Series") -> "pl.Series":
    """Return the keys of rows: ten clips a video, videos in no order."""
    import polars as pl

    video = (rows // 10).cast(pl.UInt64) * 0x9E3779B1 % 2**40
    start = rows % 10 * 7
    return pl.select(pl.format("{}_{}.00_{}.50", video, start, start + 5).alias("key")).to_series()


def parts(rows: int) -> "Iterator[pl.Series]":
    """Yield the keys of all rows, part by part."""
    import polars as pl

    for start in range(0, rows, _PART):
        yield clip_ids(pl.int_range(start, min(start + _PART, rows), eager=True))


def build(path: Path, rows: int) -> Row:
    """Make the catalog; return the size of its files of keys."""
    from store import Store

    catalog = Store.open(path, create=True).catalog("clips")
    for keys in parts(rows):
        catalog.append(keys.to_frame())
    sizes = [file.stat().st_size for file in (path / "catalog" / "clips").glob("*.keys")]
    return {"indexes": len(sizes), "index_gib": round(sum(sizes) / GIB, 2)}


def look_up(path: Path, rows: int, rounds: int, join: bool) -> dict[str, float | None]:
    """Open the catalog and look keys up, next to the peers, which must give the same rows."""
    import polars as pl

    from store import Store

    keys = clip_ids(pl.Series(np.random.default_rng(0).integers(0, rows, KEYS))).to_list()
    opening, catalog = timed(lambda: Store.open(path).catalog("clips"))
    counting, length = timed(lambda: len(catalog))
    assert length == rows
    before = private_bytes()
    first, expected = timed(lambda: catalog.rows(keys))
    private = private_bytes() - before
    assert catalog.keys(expected) == keys
    ways: dict[str, LookUp] = {"lookup": catalog.rows}
    if join:
        ways["join"] = partial(joined, catalog.frame(["key", "row"]))
    if rows <= _DICT_ROWS:
        places = dict(catalog.frame(["key", "row"]).iter_rows())
        ways[CEILING] = lambda keys: np.array([places.get(key, -1) for key in keys])
        if rows <= _FILE_ROWS:
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
        "lookup_private_mib": round(private / 2**20, 1),
    }


def joined(frame: "pl.DataFrame", keys: list[str]) -> np.ndarray:
    """Return rows [K] as polars finds them."""
    import polars as pl

    return pl.DataFrame({"key": keys}).join(frame, on="key", how="left", maintain_order="left")["row"].to_numpy()


def key_files(folder: Path, places: dict[str, int]) -> dict[str, LookUp]:
    """Write `places` in the formats that could replace our files of keys; return their look-ups."""
    import sqlite3

    import polars as pl

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

    look_ups: dict[str, LookUp] = {"sqlite3": from_sqlite, "parquet": from_parquet}
    try:
        import lmdb
    except ModuleNotFoundError as error:
        print(f"LMDB is left out: {error}", file=sys.stderr)
        return look_ups
    environment = lmdb.open(str(folder / "keys.lmdb"), map_size=2**34, subdir=False)
    with environment.begin(write=True) as writing:
        writing.cursor().putmulti([(key.encode(), row.to_bytes(8, "little")) for key, row in in_order])

    def from_lmdb(keys: list[str]) -> np.ndarray:
        with environment.begin() as reading:
            return np.frombuffer(b"".join([reading.get(key.encode(), b"") for key in keys]), "<i8")

    return look_ups | {"lmdb": from_lmdb}


def run(options: Options) -> dict[str, Any]:
    """Return the record: look-ups in `rows`, and a table of appending."""
    look_ups: list[Row] = []
    appends: list[Row] = []
    races: list[Row] = []
    for rows in map(round, options.sizes):
        print(f"{rows:,} rows", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder, "store")
            building = apart(build, path, rows)
            looked = apart(look_up, path, rows, options.rounds, options.join).result
        append = {name: looked.pop(name) for name in ("open_ms", "append_ms")}
        took = {"build_s": round(building.seconds, 1), "build_gib": round(building.resident / GIB, 2)}
        look_ups.append({"rows": rows, **looked})
        appends.append({"rows": rows, **append, **took, **building.result})
        for peer, wanted in WANTED.items():
            if peer_ms := looked[f"{peer}_ms"]:
                races.append(race(f"{rows:,} rows", peer_ms, looked["lookup_ms"], wanted, peer))
    return {"rows": look_ups, "races": races, "append": appends, "keys": KEYS}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


main = benchmark("catalog", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
