"""Work that must not grow with the store: memory and time of drivers and of a training's start, and a fit to any size.

python -m benchmarks.scale --clips '[2e4, 4e4]'        a minute: too few clips for the line
python -m benchmarks.scale                             one, four and ten million clips: 10 GiB of disk, ten minutes
python -m benchmarks.scale --clips '[4e6, 2e7]' --to 50e6

Every size is built, planned, trained and queried in processes of their own, of synthetic clips of which each has
narration and a step. Memory is the peak without mapped files. A line through the two largest sizes is extrapolated:
until a few blocks of a million rows were read, memory grows with their size. There are no peers: the limits are of a
driver's machine.

- featurize: all windows of a manifest are read, compared, added to the catalog and planned; no worker runs
- train, pairs: start of a run on 20,000 pairs, to its first batch; a share of the videos and a test set are held out
- train, narration: the same on sequences and on single clips of all videos
- annotate: the tasks of a captioner for all clips
- pairs: pairs of one step are chosen out of all clips, without those of a test set; its memory grows with the clips
- query: an index over all clips is opened, and names ten hits
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.harness import GIB, Measured, Row, apart, benchmark, race, write_tiny_lm, write_view
from stepdiff.common.cli import command
from stepdiff.common.errors import StepDiffError
from store import Feature, Provenance, Store

MOST_GIB = {"featurize": 4.0, "train, pairs": 4.0, "train, narration": 4.0, "annotate": 2.0}
"""memory that each may take at the size of the fit"""
PAIRS_GIB_A_CLIP = 4.0 / 1e7
FIRST = 60.0
"""seconds until featurize's first shard is planned, at the size of the fit"""
LEAST = 20_000  # clips of a size: with fewer, no pairs are held out
VIEW = "small"
PAIRS = 20_000  # of paired QA at most
CLIPS_A_VIDEO, CLIPS_A_STEP = 100, 100
_BLOCK = 2**20  # clips made at a time
_FILES = 1000  # video files of a manifest
_SHARD = 128  # rows of a shard of InternVideo L/14 tokens in int8


@dataclass(frozen=True)
class Options:
    clips: tuple[float, ...] = (1e6, 4e6, 1e7)
    """sizes that are measured"""
    to: float = 136e6
    """size that the fit is extrapolated to"""
    folder: Path | None = None
    """where the stores are made, and removed (default: the folder for temporary files)"""


def clip_blocks(count: int) -> Iterator[pl.DataFrame]:
    """Yield the catalog of `count` clips of ten seconds, block by block, in the order of their videos."""
    place, start = pl.col("place"), (pl.col("place") % CLIPS_A_VIDEO) * 10.0
    video = pl.format("v{}", (place // CLIPS_A_VIDEO * 2654435761) % 2**36)
    for first in range(0, count, _BLOCK):
        places = pl.int_range(first, min(first + _BLOCK, count), eager=True).alias("place").to_frame()
        yield places.select(
            key=pl.format("{}_{}_{}", video, start, start + 10),
            video=pl.format("videos/{}.mp4", video),
            start=start,
            end=start + 10,
            split=pl.lit("train"),
            step=pl.format("step {}", place % (count // CLIPS_A_STEP)),
            narration=pl.format("so now you take whisk number {} and stir the batter until it is smooth", "place"),
        )


def build(folder: Path, count: int) -> None:
    """Write a store of `count` clips, its index, paired QA about clips spread over it, and a DiffCap test set."""
    from retrieval import build_index

    features = {"tokens": Feature((2, 8), "int8"), "embedding": Feature((8,), "float32")}
    dice = np.random.default_rng(0)

    def rows() -> Iterator[tuple[pl.DataFrame, dict[str, np.ndarray]]]:
        for block in clip_blocks(count):
            size = block.height
            yield block, {key: dice.standard_normal((size, *form.shape), np.float32) for key, form in features.items()}

    view = write_view(folder / "store", VIEW, features, rows(), rows_per_shard=_BLOCK)
    build_index(Store.open(folder / "store"), view, factory="Flat")
    every = max(count // (2 * PAIRS), 1)
    keys = pl.concat([block["key"].gather_every(every) for block in clip_blocks(count)])
    pairs = pl.DataFrame({"reference": keys.gather_every(2), "candidate": keys.gather_every(2, 1)})
    asked = pl.DataFrame({"question": ["Alike?", "What differs?"], "answer": ["YES", "In Video 2, the whisk is red."]})
    pairs.join(asked, how="cross").write_ndjson(folder / "pairqa.jsonl")
    tested = next(clip_blocks(count))["key"].gather_every(1 + min(count, _BLOCK) // 200).head(100)
    test_set = pl.DataFrame({"reference": tested[:-1], "candidate": tested[1:]})
    test_set.with_columns(category=pl.lit("Actions"), text=pl.lit(["x"])).write_ndjson(folder / "test.jsonl")


def write_manifest(folder: Path, count: int) -> Path:
    """Write a manifest of `count` clips of _FILES video files, which exist but hold no video."""
    folder.mkdir()
    for number in range(_FILES):
        (folder / f"{number}.mp4").write_bytes(b"no video")
    path, each = folder / "clips.parquet", -(-count // _FILES)
    place = pl.int_range(count)
    start = place % each * 10.0
    clip, video = pl.format("v{}_{}", place // each, start), pl.format("{}.mp4", place // each)
    pl.select(clip=clip, video=video, start=start, end=start + 10).write_parquet(path)
    return path


def train(folder: Path, lm: str, narration: bool) -> dict[str, float]:
    """Start a training as heads.train does, and draw the first batch of every source; return seconds until then."""
    from heads.data.hold_out import HoldOut
    from heads.data.training_clips import TrainedOn
    from heads.training.recipe import ProjectorOptions, Schedule, Validation, VideoLMRecipe
    from heads.training.video_task import VideoTask

    recipe = VideoLMRecipe(
        schedule=Schedule(1),
        validation=Validation(share=0.02, rows=4),
        sources=("sequences", "clips") if narration else ("pairs",),
        pairqa=None if narration else str(folder / "pairqa.jsonl"),
        view=VIEW,
        language_model=lm,
        projector=ProjectorOptions(width=16, heads=2, outputs=2, frames=1),
        batch=32,
    )
    begin = time.perf_counter()
    task = VideoTask(recipe, Store.open(folder / "store"), 0, "cpu", HoldOut([str(folder / "test.jsonl")]))
    (folder / "run").mkdir(exist_ok=True)
    trained = TrainedOn.of_catalog(task.catalog, task.trained_rows())
    assert trained.write(folder / "run")["clips"] > 0
    for number in range(len(recipe.sources)):
        batch = task.batch(number)
        assert len(task.features.read(batch.clips)) == len(batch.clips)
    return {"first batch": time.perf_counter() - begin}


def featurize(manifest: Path, store: Path) -> dict[str, float]:
    """Plan a manifest into a new store, window by window, as featurize's driver does; return seconds to a shard."""
    from featurize.changes import compare
    from featurize.manifest import read_windows
    from featurize.plan import Plan, tasks

    begin = time.perf_counter()
    asked, opened, first, planned = read_windows(manifest), Store.open(store, create=True), 0.0, 0
    with opened.lock():
        provenance = Provenance("synthetic", "0", "last", "8", "", {"tokens": "int8"})
        view = opened.create_view("clips", VIEW, provenance, {"tokens": Feature((2, 8), "int8")}, _SHARD)
        windows = (compare(opened, window) for window in asked)
        for rows in Plan(view).rows(next(windows), windows, opened, replace=False):
            for task in tasks(opened, view, rows, 64, 1):
                first = first or time.perf_counter() - begin
                planned += len(task.rows) + len(task.failures)
    assert planned == asked.rows
    return {"first shard": first}


def annotate(folder: Path) -> dict[str, float]:
    """Plan a captioner's work on all clips, and make every task; return seconds to the first."""
    from stepdiff.annotate.stages.stage import Items, Version, clip_blocks, pending, unanswered

    begin = time.perf_counter()
    store = Store.open(folder / "store")
    version = Version(store, "captions-action", {"model": "synthetic"})
    items = Items(lambda: clip_blocks(store, None, ["video", "start", "end"]))
    total, first = sum(rows.height for _, rows in unanswered(version, items, False)), 0.0
    for task in pending(version, items, False):
        first = first or time.perf_counter() - begin
        total -= len(task.rows)
    assert total == 0
    return {"first task": first}


def pairs(folder: Path) -> dict[str, float]:
    """Choose pairs of one step out of all clips, without those of the test set."""
    from stepdiff.annotate.pairs import PairsOptions, run

    options = PairsOptions(str(folder / "store"), str(folder / "pairs.parquet"), hold_out=(str(folder / "test.jsonl"),))
    assert run(options)["pairs"]
    return {}


def query(folder: Path) -> dict[str, float]:
    """Open the index, which checks that it is of these rows, and name ten hits of a clip; return seconds of each."""
    from retrieval.queries.search import compute, of_clips, resolve

    store = Store.open(folder / "store")
    catalog, view = store.catalog("clips"), store.view("clips", VIEW)
    clip = catalog.keys(np.array([len(catalog) // 2]))
    begin = time.perf_counter()
    search = resolve(store, view, partial(of_clips, clips=clip))
    opened = time.perf_counter()
    hits = compute(search, 10)
    assert hits.height == 10 and hits["narration"].null_count() == 0
    return {"opened": opened - begin, "found": time.perf_counter() - opened}


def measure(folder: Path, count: int, lm: str) -> dict[str, Measured]:
    """Return what each work takes with `count` clips."""
    works: dict[str, tuple[Any, ...]] = {
        "build": (build, folder, count),
        "train, pairs": (train, folder, lm, False),
        "train, narration": (train, folder, lm, True),
        "annotate": (annotate, folder),
        "pairs": (pairs, folder),
        "query": (query, folder),
        "featurize": (featurize, write_manifest(folder / "videos", count), folder / "planned"),
    }
    measured = {}
    for name, work in works.items():
        one = measured[name] = apart(*work)
        print(f"{count:,} clips, {name}: {one.seconds:.1f} s, {one.peak / GIB:.2f} GiB", file=sys.stderr)
    return measured


def run(options: Options) -> dict[str, Any]:
    """Measure every size, and fit."""
    sizes = sorted({round(size) for size in options.clips})
    if len(sizes) < 2 or sizes[0] < LEAST:
        raise StepDiffError(f"--clips {list(options.clips)}: a line needs two sizes, of {LEAST:,} clips or more")
    measured = {}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="scale-") as place:
        lm = write_tiny_lm(Path(place, "lm"))
        for size in sizes:
            folder = Path(place, str(size))
            folder.mkdir()
            measured[size] = measure(folder, size, lm)
            shutil.rmtree(folder)
    rows = [
        {
            "clips": size,
            "work": name,
            "seconds": round(one.seconds, 1),
            "peak GiB": round(one.peak / GIB, 2),
            "after s": ", ".join(f"{event} {seconds:.2f}" for event, seconds in (one.result or {}).items()),
        }
        for size, works in measured.items()
        for name, one in works.items()
    ]
    largest = [measured[size] for size in sizes[-2:]]
    at = {name: fit(name, sizes[-2:], [works[name] for works in largest], options.to) for name in largest[0]}
    target = f"at {options.to:,.0f} clips"
    races = [
        race(f"memory of {name}", most, at[name]["GiB"], 1.0, f"{most:g} GiB {target}")
        for name, most in {**MOST_GIB, "pairs": round(PAIRS_GIB_A_CLIP * options.to, 1)}.items()
    ]
    firsts = [works["featurize"].result["first shard"] for works in largest]
    first = max(*firsts, float(np.polyval(np.polyfit(sizes[-2:], firsts, 1), options.to)))
    races.append(race("first shard of featurize", FIRST, first, 1.0, f"{FIRST:g} s {target}"))
    return {"rows": rows, "races": races, "fit": list(at.values())}


def fit(name: str, sizes: list[int], measured: list[Measured], to: float) -> Row:
    """Return the line through the sizes, in clips, and its value at `to`."""
    memory = np.polyfit(sizes, [one.peak / GIB for one in measured], 1)
    seconds = np.polyfit(sizes, [one.seconds for one in measured], 1)
    slopes = {"bytes per clip": round(float(memory[0]) * GIB, 1), "us per clip": round(float(seconds[0]) * 1e6, 2)}
    at = {"GiB": round(float(np.polyval(memory, to)), 2), "seconds": round(float(np.polyval(seconds, to)))}
    return {"work": name, **slopes, **at}


main = benchmark("scale", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
