"""A small VidDiffBench: a Parquet file with the published columns."""

import json
from pathlib import Path
from typing import Any

import polars as pl

SPLITS = ("easy", "medium", "hard")


def entry(number: int, truth: dict[str, str | None], split: str, **more: Any) -> dict[str, Any]:
    """Return a row of the published file. truth: statement's key -> a, b, c or None."""
    videos = {
        str(side): {
            "path": f"videos/{number}_{side}.mp4",
            "fps_original": 30,
            "frames_trim": [15, 90 + number],
        }
        for side in (0, 1)
    }
    annotated = {
        key: {"name": f"n{key}", "description": f"statement {key} of {number}"} for key in truth
    }
    thumbnail = {"bytes": b"\x89PNG", "path": "x.png"}
    return {
        "sample_key": f"{split}_{number}",
        "vid0_thumbnail": thumbnail,
        "vid1_thumbnail": thumbnail,
        "videos": json.dumps(videos),
        "action": f"{split}_0",
        "action_name": "squat",
        "action_description": "a person squats once.",
        "source_dataset": "humman",
        "sample_hash": number,
        "retrieval_frames": "{}",
        "differences_annotated": json.dumps(annotated),
        "differences_gt": json.dumps(truth),
        "split": split,
        "domain": "fitness" if split == "easy" else "surgery",
        "n_differences_open_prediction": 3,
    } | more


def write(
    folder: Path, entries: list[dict[str, Any]], name: str = "test-00000-of-00001.parquet"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(entries).write_parquet(folder / name)
    return folder


TRUTHS: list[dict[str, str | None]] = [
    {"0": "a", "1": "b", "2": None, "3": "c"},
    {"0": "b", "10": "a", "2": "a"},
    {"0": None, "1": "a"},
    {"4": "b", "5": "c"},
    {"0": "a", "1": "a", "2": "b", "3": "b"},
    {"7": "b", "8": None},
]


def benchmark(folder: Path) -> Path:
    """Write six pairs, two of each split."""
    return write(
        folder, [entry(number, truth, SPLITS[number % 3]) for number, truth in enumerate(TRUTHS)]
    )
