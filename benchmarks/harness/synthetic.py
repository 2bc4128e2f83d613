"""Synthetic stores of any size: clips with narration, a view of small rows, a manifest, and paired QA.

Clips are ten seconds of videos of `CLIPS_A_VIDEO` clips, every one with narration, one in a hundred with a step, in the
order of their videos as manifests of large data sets are.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from store import Feature, Provenance, Store

CLIPS_A_VIDEO = 100
VIEW = "small"
FEATURES = {"tokens": Feature((2, 8), "int8"), "embedding": Feature((8,), "float32")}
PAIRS = 20_000
"""pairs of paired QA at most, with QUESTIONS each: as many as a language model answers in some days"""
QUESTIONS = 4
_BLOCK = 2**20  # clips made at a time
_FILES = 1000  # video files of a manifest


def clips(count: int) -> Iterator[pl.DataFrame]:
    """Yield `count` clips, block by block: key, video, start, end (seconds), split, step and narration."""
    for first in range(0, count, _BLOCK):
        place = pl.int_range(first, min(first + _BLOCK, count), eager=True).alias("place")
        frame = place.to_frame().select(
            "place",
            video=pl.format("v{}", ((pl.col("place") // CLIPS_A_VIDEO) * 2654435761) % 2**36),
            start=(pl.col("place") % CLIPS_A_VIDEO) * 10.0,
        )
        yield frame.select(
            key=pl.format("{}_{}_{}", "video", "start", pl.col("start") + 10),
            video=pl.format("videos/{}.mp4", "video"),
            start="start",
            end=pl.col("start") + 10,
            split=pl.lit("train"),
            step=pl.when(pl.col("place") % 100 == 0).then(pl.format("step {}", pl.col("place") % 7000)),
            narration=pl.format("so now you take whisk number {} and stir the batter until it is smooth", "place"),
        )


def write_store(path: Path, count: int) -> None:
    """Write a store of `count` clips, all with features."""
    store = Store.open(path, create=True)
    for block in clips(count):
        store.catalog("clips").append(block)
    with store.lock():
        made = Provenance("synthetic", "0", "last", "1", "", {name: form.dtype for name, form in FEATURES.items()})
        view = store.create_view("clips", VIEW, made, FEATURES)
        view.resize()
        rng = np.random.default_rng(0)
        for shard in range(-(-count // view.rows_per_shard)):
            first = shard * view.rows_per_shard
            rows = np.arange(first, min(first + view.rows_per_shard, count))
            values = {
                name: rng.standard_normal((len(rows), *form.shape), np.float32) for name, form in FEATURES.items()
            }
            view.write_shard(shard, rows, values, {})


def write_paired_qa(path: Path, count: int) -> None:
    """Write paired QA about clips that are spread over the store."""
    with path.open("w") as file:
        some = pl.concat(block.gather_every(max(count // (2 * PAIRS), 1)).select("key") for block in clips(count))
        keys = some["key"].to_list()
        for reference, candidate in zip(keys[::2], keys[1::2], strict=False):
            for number in range(QUESTIONS):
                answer = "YES" if number % 2 else f"In Video 2, the whisk is {number}."
                row = {"reference": reference, "candidate": candidate, "question": f"Alike? {number}", "answer": answer}
                file.write(json.dumps(row) + "\n")


def write_test_set(path: Path, count: int) -> None:
    """Write a DiffCap test set about some clips."""
    some = next(clips(min(count, _BLOCK)))["key"].gather_every(1 + count // 200).head(100).to_list()
    rows = [{"reference": a, "candidate": b, "category": "Actions", "text": ["x"]} for a, b in pairwise(some)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_manifest(folder: Path, count: int, suffix: Literal[".parquet", ".csv"] = ".parquet") -> Path:
    """Write a manifest of `count` clips of _FILES video files, which are there but hold no video."""
    folder.mkdir(parents=True)
    for number in range(_FILES):
        (folder / f"{number}.mp4").write_bytes(b"no video")
    path, each = folder / f"clips{suffix}", -(-count // _FILES)
    place = pl.int_range(0, count, eager=True).alias("place").to_frame().lazy()
    start = (pl.col("place") % each) * 10.0
    rows = place.select(
        clip=pl.format("v{}_{}", pl.col("place") // each, start),
        video=pl.format("{}.mp4", pl.col("place") // each),
        start=start,
        end=start + 10,
    )
    if suffix == ".csv":
        rows.with_columns(camera=pl.col("start") % 7).sink_csv(path, engine="streaming")
    else:
        rows.sink_parquet(path, engine="streaming")
    return path
