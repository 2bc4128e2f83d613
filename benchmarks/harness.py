"""What benchmarks share: command line, stopwatch and report; the rendered world; rows in other
formats than ours.

Rows are named arrays [R, ...]. A writer of a format writes them, at its best; benchmarks.read has
the readers.
"""

import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeVar

import numpy as np
import polars as pl

from stepdiff.kitchen import __main__ as kitchen
from stepdiff_core.cli.options import parse
from stepdiff_core.io.tables import print_table
from stepdiff_core.threads import cores
from store import Feature, Provenance, Store, View

Row = Mapping[str, Any]
"""one line of a table"""
Result = TypeVar("Result")
# seconds, in which threads that still spin after one way give up their core to the next
PAUSE = 0.2
Arrays = dict[str, np.ndarray]
CASES: dict[str, tuple[tuple[int, int], str, int]] = {
    "4 MiB float16": ((2048, 1024), "float16", 16),
    "4 MiB int8": ((2048, 2048), "int8", 16),
    "96 KiB float16": ((48, 1024), "float16", 256),
    "96 KiB int8": ((96, 1024), "int8", 256),
}
"""name: shape of a row, dtype, rows of a batch"""
LANCE: Literal["2.2"] = "2.2"  # version of its file format


def benchmark(
    name: str, options: type, description: str | None, run: Callable[[Any], dict[str, Any]]
) -> Callable[..., int]:
    """Return the `main` of `python -m benchmarks.NAME`. `run` takes the options and returns the
    record for `report`."""

    def main(argv: list[str] | None = None) -> int:
        return parse(options, argv, f"benchmarks.{name}", description, run, partial(report, name))

    return main


@dataclass(frozen=True)
class Seconds:
    """Medians over rounds. Other programs disturb the processor's time less than the clock's."""

    clock: float
    cpu: float
    """of all threads, and of processes that were started and have ended"""


def cpu_seconds() -> float:
    """Return the processor's seconds of this process and of those that it started and waited
    for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measured(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    case: str = "",
    before: Callable[[str], None] = lambda name: None,
    warm_up: bool = True,
) -> dict[str, Seconds]:
    """Run every way `rounds` times after once to warm up, each round beginning with another way.

    Args:
        case: begins the lines on stderr.
        before: called with a way's name before each run; its time does not count.
        warm_up: whether the ways run once before the rounds.
    """
    names = list(ways)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(rounds + warm_up):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            before(name)
            time.sleep(PAUSE)
            clock, cpu = time.perf_counter(), cpu_seconds()
            ways[name]()
            seconds = time.perf_counter() - clock, cpu_seconds() - cpu
            if turn >= warm_up:
                taken[name].append(seconds)
                print(
                    f"{case}{name}: {seconds[0]:.2f} s, {seconds[1]:.2f} s of CPU", file=sys.stderr
                )
    return {
        name: Seconds(median(c for c, _ in times), median(p for _, p in times))
        for name, times in taken.items()
    }


def times(seconds: Mapping[str, Seconds], count: int, unit: str, **facts: Any) -> list[Row]:
    """Return a line for each way: the milliseconds of one of `count` units, by the clock and of the
    processor."""
    return [
        {
            **facts,
            "way": way,
            f"ms a {unit}": round(took.clock / count * 1e3, 3),
            f"CPU ms a {unit}": round(took.cpu / count * 1e3, 3),
        }
        for way, took in seconds.items()
    ]


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Return the seconds that `work` took, and its result."""
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def race(case: str, speed: float, peer_speed: float, wanted: float | None, peer: str) -> Row:
    """Return whether our speed is at least `wanted` times that of a peer, a ceiling or a target;
    None: no target.

    Times are compared with their places exchanged: `race(case, peer_seconds, seconds, ...)`.
    """
    ratio = round(speed / peer_speed, 3)
    met = wanted is None or ratio >= wanted
    return {"case": case, "compared with": peer, "ratio": ratio, "wanted": wanted, "met": met}


def races(
    case: str, seconds: Mapping[str, Seconds], ours: str, wanted: Mapping[str, float | None]
) -> list[Row]:
    """Return the race of our way against each way in `wanted`, by the clock."""
    return [
        race(case, seconds[peer].clock, seconds[ours].clock, least, peer)
        for peer, least in wanted.items()
    ]


def report(name: str, record: Mapping[str, Any]) -> None:
    """Print each list of rows of the record as a table, the races that are lost, and all of it as
    one JSON line."""
    for fact, value in record.items():
        if not isinstance(value, list):
            print(f"{fact}: {value}")
        elif value:
            frame = pl.DataFrame(value, infer_schema_length=None)
            print_table(frame, frame.columns, name if fact == "rows" else fact)
    lost = [
        f"\n  {one['case']} ({one['compared with']})" for one in record["races"] if not one["met"]
    ]
    print(f"lost {len(lost)} of {len(record['races'])}" + "".join(lost))
    machine = {"machine": platform.machine(), "cores": cores(), "python": platform.python_version()}
    print(json.dumps({"benchmark": name, **record, **machine}))


def write_view(
    place: Path | str,
    name: str,
    features: Mapping[str, Feature],
    blocks: Iterable[tuple[pl.DataFrame, Mapping[str, np.ndarray]]],
) -> View:
    """Write a new store with one view of clips. `blocks` are rows of the catalog with their
    features."""
    store = Store.open(place, create=True)
    provenance = Provenance(
        "synthetic", "0" * 64, "last", "1", "", {key: form.dtype for key, form in features.items()}
    )
    with store.writer("clips", name, provenance, features) as writer:
        for frame, arrays in blocks:
            writer.write(frame, arrays)
    return store.view("clips", name)


def render_kitchen(folder: Path, videos: int) -> tuple[Path, pl.DataFrame]:
    """Render a sample world of 384 x 288, 12 frames/s, if `folder` has none of that size.

    Returns:
        Its folder, and its clips: clip, video (a path), start, end (seconds), split.
    """
    world = folder / f"kitchen_{videos}"
    kitchen.run(kitchen.KitchenOptions(world, videos=videos))
    return world, pl.read_csv(world / "clips.csv").with_columns(
        video=pl.format("{}/{}", pl.lit(str(world)), "video")
    )


def random_features(shape: tuple[int, ...], rows: int, seed: int) -> np.ndarray:
    """Return float16 [rows, *shape] of magnitudes below 2, nothing that compresses."""
    bits = np.random.default_rng(seed).integers(0, 2**16, (rows, *shape), np.uint16)
    return (bits & 0xBFFF).view(np.float16)


def write_zarr(folder: Path, arrays: Arrays) -> None:
    import zarr

    for name, array in arrays.items():
        chunk = (1, *array.shape[1:])
        zarr.create_array(
            folder / name,
            shape=array.shape,
            dtype=array.dtype,
            chunks=chunk,
            shards=array.shape,
            compressors=None,
        )[:] = array


def write_h5(folder: Path, arrays: Arrays, chunked: bool = True) -> None:
    """Write an HDF5 file: a chunk a row, as an array that may grow needs, or one piece, which can
    never grow."""
    import h5py

    folder.mkdir(parents=True)
    with h5py.File(folder / "rows.h5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, chunks=(1, *array.shape[1:]) if chunked else None)


def write_lance(folder: Path, arrays: Arrays) -> None:
    """Write a Lance dataset, a row of bytes an array: lists of numbers are slower."""
    import lance
    import pyarrow

    columns = {}
    for name, array in arrays.items():
        kind, buffers = pyarrow.binary(array[0].nbytes), [None, pyarrow.py_buffer(array)]
        columns[name] = pyarrow.FixedSizeBinaryArray.from_buffers(kind, len(array), buffers)
    lance.write_dataset(pyarrow.table(columns), folder, data_storage_version=LANCE)


def write_raw(folder: Path, arrays: Arrays) -> None:
    """Write one raw file an array: nothing can be missing, checked or replaced in it."""
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        array.tofile(folder / name)


WRITERS: dict[str, Callable[[Path, Arrays], None]] = {
    "zarr-python": write_zarr,
    "h5py": write_h5,
    "h5py contiguous": partial(write_h5, chunked=False),
    f"lance {LANCE}": write_lance,
    "memmap": write_raw,
}
