"""Work that must not grow with the store: memory and time of drivers and of a training's start, and a fit to any size.

python -m benchmarks.scale --clips '[1e5, 2e5]'        a minute: too few clips for the line
python -m benchmarks.scale                             one, four and ten million clips: 10 GiB of disk, ten minutes
python -m benchmarks.scale --clips '[4e6, 2e7]' --to 50e6

Every size is built, planned, trained and queried in processes of their own, of synthetic clips of which each has
narration. Memory is the peak without mapped files. A line through the two largest sizes is extrapolated, next to the
plan of a store of that size. Smaller sizes are shown only: blocks of the catalog have up to a million rows, and until
a few of them were read, memory grows with their size.

- featurize: all windows of a manifest are read, compared, added to the catalog and planned; no worker runs
- featurize, CSV: the same of a text file with a column of numbers, which is copied to Parquet first
- train, pairs: start of a run on 20,000 pairs, to its first batch; a share of the videos and a test set are held out
- train, narration: the same on sequences and on single clips of all videos
- annotate: the tasks of a captioner for all clips
- query: an index over all clips is opened, and names ten hits
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.memory import GIB, Measured, apart
from benchmarks.harness.report import Row, benchmark, line
from stepdiff.common.cli import command
from stepdiff.common.errors import StepDiffError

MOST_GIB = {"featurize": 4.0, "featurize, CSV": 4.0, "train, pairs": 4.0, "train, narration": 4.0, "annotate": 2.0}
"""memory that each may take at the size of the fit"""
FIRST = 60.0
"""seconds until featurize's first shard is planned, at the size of the fit"""
LEAST = 20_000  # clips of a size: with fewer, no pairs are held out
LISTED = 1000  # objects that one request lists
_SHARD = 128  # rows of a shard of InternVideo L/14 tokens in int8


@dataclass(frozen=True)
class Options:
    clips: tuple[float, ...] = (1e6, 4e6, 1e7)
    """sizes that are measured"""
    to: float = 136e6
    """size that the fit is extrapolated to"""
    encoder: str = "internvideo-mm-l14"
    """encoder of the planned store"""
    clips_per_second: float | None = None
    """measured rate of one worker, for the hours of the plan"""
    workers: int = 1
    """workers of the plan"""
    price: float = 0.005
    """of 1,000 requests that list objects"""
    folder: str | None = None
    """where the stores are made, and removed (default: the folder for temporary files)"""


def train(path: Path, lm: str, narration: bool) -> dict[str, float]:
    """Start a training as heads.train does, and draw the first batch of every source."""
    from heads.data.hold_out import HoldOut
    from heads.models.projector import ProjectorOptions
    from heads.training.recipe import Schedule, Validation, VideoLMRecipe
    from heads.training.video_task import VideoTask
    from store import Store

    recipe = VideoLMRecipe(
        schedule=Schedule(1),
        validation=Validation(share=0.02, rows=4),
        sources=("sequences", "clips") if narration else ("pairs",),
        pairqa=None if narration else str(path.parent / "pairqa.jsonl"),
        view="small",
        language_model=lm,
        projector=ProjectorOptions(width=16, heads=2, outputs=2, frames=1),
        batch=32,
    )
    begin = time.perf_counter()
    task = VideoTask(recipe, Store.open(path), 0, "cpu", HoldOut([str(path.parent / "test.jsonl")]))
    trained = task.trained_on().write(_made(path.parent / "run"))
    assert trained["clips"] > 0
    for number in range(len(recipe.sources)):
        batch = task.batch(number)
        assert len(task.features.read(batch.clips)) == len(batch.clips)
    return {"first batch": time.perf_counter() - begin}


def featurize(manifest: Path, store: Path) -> dict[str, float]:
    """Plan a manifest into a new store, window by window, as featurize's driver does."""
    from featurize.changes import compare
    from featurize.plan import Plan, tasks
    from featurize.manifest import read_windows
    from store import Feature, Provenance, Store

    begin = time.perf_counter()
    asked, opened, first, planned = read_windows(manifest), Store.open(store, create=True), 0.0, 0
    with opened.lock():
        made = Provenance("synthetic", "0", "last", "8", "", {"tokens": "int8"})
        view = opened.create_view("clips", "small", made, {"tokens": Feature((2, 8), "int8")}, _SHARD)
        windows = (compare(opened, window) for window in asked)
        for some in Plan(view).rows(next(windows), windows, opened, replace=False):
            for task in tasks(opened, view, some, 64, 1):
                first = first or time.perf_counter() - begin
                planned += len(task.rows) + len(task.failures)
    assert planned == asked.rows
    return {"first shard": first}


def annotate(path: Path) -> dict[str, float]:
    """Plan a captioner's work on all clips with a step, and make every task."""
    from stepdiff.annotate.stages.stage import Items, clip_blocks, pending, unanswered
    from stepdiff.annotate.stages.versions import Version
    from store import Store

    begin = time.perf_counter()
    store = Store.open(path)
    version = Version(store, "captions-action", {"model": "synthetic"})
    items = Items(lambda: clip_blocks(store, None, ["video", "start", "end"]))
    total, first = sum(rows.height for _, rows in unanswered(version, items, False)), 0.0
    for task in pending(version, items, False):
        first = first or time.perf_counter() - begin
        total -= len(task.rows)
    assert total == 0
    return {"first task": first}


def query(path: Path) -> dict[str, float]:
    """Open the index, which checks that it is of these rows, and name ten hits of a clip."""
    from retrieval.queries.search import compute, of_clips, resolve
    from store import Store

    store = Store.open(path)
    view, clip = store.view("clips", "small"), store.catalog("clips").keys(np.array([len(store.catalog("clips")) // 2]))
    begin = time.perf_counter()
    search = resolve(store, view, partial(of_clips, clips=clip))
    opened = time.perf_counter()
    hits = compute(search, 10)
    assert hits.height == 10 and hits["narration"].null_count() == 0
    found = time.perf_counter()
    store.catalog("clips").select(store.catalog("clips").rows(hits["clip"]))
    return {"opened": opened - begin, "found": found - opened, "names": time.perf_counter() - found}


def build(path: Path, rows: int) -> dict[str, float]:
    """Make the store, its index, paired QA and a test set."""
    from benchmarks.harness.synthetic import write_paired_qa, write_store, write_test_set
    from retrieval import build_index
    from store import Store

    write_store(path, rows)
    write_paired_qa(path.parent / "pairqa.jsonl", rows)
    write_test_set(path.parent / "test.jsonl", rows)
    build_index(Store.open(path), Store.open(path).view("clips", "small"), factory="Flat")
    return {}


def measured(folder: Path, rows: int, lm: str) -> dict[str, Measured]:
    """Return what each work takes with `rows` clips; `folder` is empty afterwards."""
    from benchmarks.harness.synthetic import write_manifest

    store = folder / "store"
    works: dict[str, Callable[[], Measured]] = {
        "build": lambda: apart(build, store, rows),
        "train, pairs": lambda: apart(train, store, lm, False),
        "train, narration": lambda: apart(train, store, lm, True),
        "annotate": lambda: apart(annotate, store),
        "query": lambda: apart(query, store),
        "featurize": lambda: apart(featurize, write_manifest(folder / "videos", rows), folder / "planned"),
        "featurize, CSV": lambda: apart(
            featurize, write_manifest(folder / "csv", rows, ".csv"), folder / "csv planned"
        ),
    }
    found = {}
    for name, work in works.items():
        found[name] = work()
        print(f"{rows:,} clips, {name}: {found[name].seconds:.1f} s, {found[name].gib:.2f} GiB", file=sys.stderr)
    for made in folder.iterdir():
        shutil.rmtree(made) if made.is_dir() else made.unlink()
    return found


def run(options: Options) -> dict[str, Any]:
    """Measure every size, fit, and plan."""
    from benchmarks.harness.tiny_lm import write_tiny_lm

    sizes = sorted({round(size) for size in options.clips})
    if len(sizes) < 2 or sizes[0] < LEAST:
        raise StepDiffError(f"--clips {list(options.clips)}: a line needs two sizes, of {LEAST:,} clips or more")
    within = None if options.folder is None else _made(Path(options.folder))
    with tempfile.TemporaryDirectory(dir=within, prefix="scale-") as folder:
        lm = write_tiny_lm(_made(Path(folder, "lm")))
        taken = {rows: measured(_made(Path(folder, str(rows))), rows, lm) for rows in sizes}
    rows = [
        {
            "clips": size,
            "work": name,
            "seconds": round(one.seconds, 1),
            "peak GiB": round(one.gib, 2),
            "at its start": round(one.peak.before / GIB, 2),
            "with mapped files": round(one.peak.resident / GIB, 2),
            "after s": ", ".join(f"{event} {seconds:.2f}" for event, seconds in one.times.items()),
        }
        for size, works in taken.items()
        for name, one in works.items()
    ]
    sizes = sizes[-2:]
    fits = [fit(name, sizes, [taken[size][name] for size in sizes], options.to) for name in taken[sizes[0]]]
    at = {row["work"]: row for row in fits}
    lines = [
        line(f"memory of {name}", most, at[name]["GiB"], 1.0, f"the GiB at {options.to:,.0f}")
        for name, most in MOST_GIB.items()
    ]
    firsts = [taken[size]["featurize"].times["first shard"] for size in sizes]
    first = max(*firsts, float(np.polyval(np.polyfit(sizes, firsts, 1), options.to)))
    lines.append(line("first shard of featurize", FIRST, first, 1.0, f"the seconds at {options.to:,.0f}"))
    return {"rows": rows, "lines": lines, "fit": fits, "plan": planned(options)}


def fit(name: str, sizes: list[int], taken: list[Measured], to: float) -> Row:
    """Return the line through the sizes, in clips, and its value at `to`."""
    gib, seconds = [one.gib for one in taken], [one.seconds for one in taken]
    more, base, slope, start = map(float, (*np.polyfit(sizes, gib, 1), *np.polyfit(sizes, seconds, 1)))
    return {
        "work": name,
        "bytes per clip": round(more * GIB, 1),
        "base GiB": round(base, 2),
        "us per clip": round(slope * 1e6, 2),
        "base s": round(start, 1),
        "GiB": round(base + more * to, 2),
        "seconds": round(start + slope * to),
    }


def planned(options: Options) -> list[Row]:
    """Return the plan of a store of `to` clips in each dtype: bytes, files, the cost of listing them, and hours."""
    from store.verbs.options import PlanOptions
    from store.verbs.plan import plan

    asked = PlanOptions(
        clips=float(round(options.to)),
        encoder=options.encoder,
        clips_per_second=options.clips_per_second,
        workers=options.workers,
    )
    found = plan(asked)
    hours = [round(one.hours, 1) for one in found.hours]
    return [
        {
            "dtype": one.dtype,
            "TiB": round(one.bytes / 2**40, 1),
            "files": one.files,
            "requests to list": -(-one.files // LISTED),
            "cost to list": round(one.files / LISTED / 1000 * options.price, 4),
            "hours": hours[0] if hours else None,
        }
        for one in found.sizes
    ]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


main = benchmark("scale", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
