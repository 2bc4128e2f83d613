"""The catalog of a store at scale: opening, looking up, appending, planning what is missing.

python -m benchmarks.catalog --sizes '[1e5]'                 seconds
python -m benchmarks.catalog                                 a million and ten million rows, next to peers
python -m benchmarks.catalog --sizes '[1e6, 1e7, 1e8]'       the join holds all keys in memory
python -m benchmarks.catalog --sizes '[136e6]' --join false  as many clips as the largest sets of how-to videos have

The peers are a polars join and a dict, which hold all keys in memory, and what could replace our files of keys:
sqlite3, LMDB and Parquet sorted by key.

Every size is built, asked and planned in processes of their own, whose memory is measured.
Files are in the page cache. Look-ups are interleaved with those of the peers; figures are medians.
"""

import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from benchmarks.harness.report import benchmark, line
from stepdiff.common.cli import command

if TYPE_CHECKING:
    import polars as pl

ASKED = 100_000
"""keys looked up, and keys appended"""
_PART = 10_000_000  # rows appended at a time
_ROWS_PER_SHARD = 128  # of 2 MiB features: no view has more shards
_STATUSES = 20_000  # status files that are read, to tell what all of them take
_DICT_ROWS = 10_000_000
_FILE_ROWS = 1_000_000  # above, sqlite3, LMDB and Parquet are left out
_PEERS = ("join", "dict", "sqlite3", "lmdb", "parquet")
_GIB = 2**30

Figures = dict[str, Any]
Result = TypeVar("Result")


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


def build(path: Path, rows: int) -> Figures:
    """Make the catalog; return what that took."""
    import polars as pl

    from store import Store

    catalog = Store.open(path, create=True).catalog("clips")
    begin = time.perf_counter()
    for first in range(0, rows, _PART):
        run = pl.int_range(first, min(first + _PART, rows), eager=True)
        catalog.append(pl.DataFrame({"key": clip_ids(run)}))
    sizes = [file.stat().st_size for file in (path / "catalog" / "clips").glob("*.keys")]
    return {
        "build_s": round(time.perf_counter() - begin, 1),
        "build_gib": _peak_gib(),
        "indexes": len(sizes),
        "index_gib": round(sum(sizes) / _GIB, 2),
    }


def ask(path: Path, rows: int, rounds: int, join: bool) -> Figures:
    """Open the catalog and look keys up, next to the peers, which must give the same rows."""
    import polars as pl

    from store import Store

    asked = clip_ids(pl.Series(np.random.default_rng(0).integers(0, rows, ASKED))).to_list()
    opening, catalog = _timed(lambda: Store.open(path).catalog("clips"))
    counting, length = _timed(lambda: len(catalog))
    assert length == rows
    before = _private_mib()
    first, found = _timed(lambda: catalog.rows(asked))
    private = _private_mib() - before
    assert catalog.keys(found) == asked
    ways: dict[str, Callable[[], Any]] = {"lookup": lambda: catalog.rows(asked)}
    from_parts = None
    if join:
        from_parts, joined = _timed(lambda: _join(asked, catalog.frame(["key", "row"])))
        assert (joined == found).all()
        frame = catalog.frame(["key", "row"])
        ways["join"] = lambda: _join(asked, frame)
    fill = None
    if rows <= _DICT_ROWS:
        fill, places = _timed(lambda: dict(catalog.frame(["key", "row"]).iter_rows()))
        ways["dict"] = lambda: [places.get(key, -1) for key in asked]
        if rows <= _FILE_ROWS:
            ways |= {name: partial(look, asked) for name, look in key_files(path.parent, places).items()}
    for name, look in ways.items():
        assert np.array_equal(look(), found), f"{name} gives other rows"
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, look in ways.items():
            times[way].append(_timed(look)[0])
    medians = {way: _ms(median(times[way])) if way in times else None for way in ("lookup", *_PEERS)}
    appended = pl.DataFrame({"key": [f"another_{n}" for n in range(ASKED)]})
    return {
        "open_ms": _ms(opening + counting),
        "first_lookup_ms": _ms(first),
        **{f"{way}_ms": time for way, time in medians.items()},
        "join_from_parts_ms": from_parts and _ms(from_parts),
        "dict_fill_ms": fill and _ms(fill),
        "append_ms": _ms(_timed(lambda: catalog.append(appended))[0]),
        "lookup_private_mib": round(private, 1),
    }


def key_files(folder: Path, places: dict[str, int]) -> dict[str, Callable[[list[str]], np.ndarray]]:
    """Write `places` in the formats that could replace our files of keys; return their look-ups."""
    import sqlite3

    import polars as pl

    in_order = sorted(places.items())
    database = sqlite3.connect(folder / "keys.sqlite3")
    database.execute("CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID")
    database.execute("DELETE FROM keys")
    database.executemany("INSERT INTO keys VALUES (?, ?)", in_order)
    database.commit()

    def from_sqlite(asked: list[str]) -> np.ndarray:
        found = (database.execute("SELECT row FROM keys WHERE key = ?", (key,)).fetchone() for key in asked)
        return np.array([row for (row,) in found])

    pl.DataFrame(in_order, {"key": pl.String, "row": pl.Int64}, orient="row").write_parquet(
        folder / "keys.parquet", row_group_size=2**14
    )

    def from_parquet(asked: list[str]) -> np.ndarray:
        wanted = pl.LazyFrame({"key": asked}).unique()
        return _join(asked, pl.scan_parquet(folder / "keys.parquet").join(wanted, on="key", how="semi").collect())

    looks: dict[str, Callable[[list[str]], np.ndarray]] = {"sqlite3": from_sqlite, "parquet": from_parquet}
    try:
        import lmdb
    except ModuleNotFoundError as error:
        print(f"LMDB is left out: {error}", file=sys.stderr)
        return looks
    environment = lmdb.open(str(folder / "keys.lmdb"), map_size=2**34, subdir=False)
    with environment.begin(write=True) as writing:
        writing.cursor().putmulti([(key.encode(), row.to_bytes(8, "little")) for key, row in in_order])

    def from_lmdb(asked: list[str]) -> np.ndarray:
        with environment.begin() as reading:
            return np.frombuffer(b"".join([reading.get(key.encode(), b"") for key in asked]), "<i8")

    return looks | {"lmdb": from_lmdb}


def plan_all(path: Path, rows: int) -> Figures:
    """Plan what is missing where every row is asked for and half are present."""
    import polars as pl

    from featurize.plan import shards_of, todo
    from store import Store

    catalog = Store.open(path).catalog("clips")
    status = np.random.default_rng(0).integers(0, 2, len(catalog), np.uint8)
    finding, runs = 0.0, []
    for first in range(0, rows, _PART):  # as a manifest of each part would ask
        ids = clip_ids(pl.int_range(first, min(first + _PART, rows), eager=True))
        seconds, found = _timed(partial(catalog.rows, ids))
        finding += seconds
        runs.append(found)
    every = np.concatenate(runs)
    asked = status[every]

    def plan() -> list[int]:
        rows_to_compute = pl.DataFrame({"row": np.sort(every[todo(asked)])})
        return [len(shard) for _, shard in shards_of(rows_to_compute, _ROWS_PER_SHARD)]

    planning, planned = _timed(plan)
    assert sum(planned) == np.count_nonzero(status[:rows] == 0)
    return {"rows_of_all_s": round(finding, 1), "plan_s": round(planning, 1), "plan_gib": _peak_gib()}


def read_statuses(path: Path) -> float:
    """Return the seconds that `View.status` takes for each existing shard, of `_STATUSES`."""
    import polars as pl

    from store import Feature, Provenance, Store
    from store.format.shard import encode_chunk

    store = Store.open(path, create=True)
    store.catalog("clips").append(
        pl.DataFrame({"key": clip_ids(pl.int_range(_STATUSES * _ROWS_PER_SHARD, eager=True))})
    )
    with store.lock():
        made = Provenance("net", "0", "last", "8", "224", {"embedding": "float32"})
        view = store.create_view("clips", "net", made, {"embedding": Feature((1,), "float32")}, _ROWS_PER_SHARD)
    folder = Path(str(view.paths.status(0).parent))
    folder.mkdir()
    for shard in range(_STATUSES):
        (folder / str(shard)).write_bytes(encode_chunk(np.ones(_ROWS_PER_SHARD, np.uint8)))
    seconds, status = _timed(view.status)
    assert status.all()
    return seconds / _STATUSES


def run(options: Options) -> dict[str, Any]:
    """Measure every size."""
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        a_status = _apart(read_statuses, Path(folder, "statuses"))
        for size in options.sizes:
            path, count = Path(folder, "store"), round(size)
            print(f"{count:,} rows", file=sys.stderr)
            built = _apart(build, path, count)
            asked = _apart(ask, path, count, options.rounds, options.join)
            planned = _apart(plan_all, path, count)
            statuses = {"statuses_s": round(a_status * count / _ROWS_PER_SHARD, 1)}
            rows.append({"rows": count, **asked, **planned, **statuses, **built})
            shutil.rmtree(path)
    lines = [
        line(f"{row['rows']:,} rows", 1 / row["lookup_ms"], 1 / row[f"{peer}_ms"], least, f"the rate of {peer}")
        for row in rows
        for peer, least in (("join", 5), ("sqlite3", 1), ("lmdb", 1), ("parquet", 1))
        if row[f"{peer}_ms"]
    ]
    tables = {
        name: [{key: row[key] for key in ("rows", *columns)} for row in rows] for name, columns in _TABLES.items()
    }
    extrapolated = f"statuses_s is extrapolated from {_STATUSES:,} files, one for {_ROWS_PER_SHARD} rows"
    return {"rows": tables.pop("look_up"), "lines": lines, **tables, "keys": ASKED, "statuses": extrapolated}


_LOOK_UP = ("first_lookup_ms", "lookup_ms", *(f"{peer}_ms" for peer in _PEERS), "join_from_parts_ms", "dict_fill_ms")
_TABLES = {
    "look_up": (*_LOOK_UP, "lookup_private_mib"),
    "append": ("open_ms", "append_ms", "build_s", "build_gib", "indexes", "index_gib"),
    "plan": ("rows_of_all_s", "statuses_s", "plan_s", "plan_gib"),
}


def _join(asked: list[str], frame: "pl.DataFrame") -> np.ndarray:
    """Return rows [K] as polars finds them."""
    import polars as pl

    return pl.DataFrame({"key": asked}).join(frame, on="key", how="left", maintain_order="left")["row"].to_numpy()


def _apart(work: Callable[..., Result], *arguments: Any) -> Result:
    """Return what `work` returns in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


def _peak_gib() -> float:
    """Return the peak memory of this process, mapped files included."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIB, 2)


def _private_mib() -> float:
    """Return the memory of this process without mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1024


main = benchmark("catalog", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
