"""Clips that never train: those of the published test sets, and whatever overlaps them.

Guarantees
- a clip of a test set is held out by its id
- a clip that shares a moment with a test clip of the same video is held out, whatever its id is: the video is known
  by the clip's id, and by its file with or without folder and extension
- a clip that only touches a test clip, or lies in another video, is not
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from annotate.errors import AnnotateError
from heads.jsonl import read_objects
from heads.testsets import Task, clips_of, read_test_set, split_clip
from store import Store

_FIELDS: dict[str, Task] = {"options": "diffmcq", "targets": "diffrank", "candidate": "diffcap"}
_KNOWN = {"key": pl.String, "video": pl.String, "start": pl.Float64, "end": pl.Float64, "split": pl.String}
VIDEO = pl.coalesce(pl.col("key").str.extract(r"^(.+)_[0-9][0-9.eE+-]*_[0-9][0-9.eE+-]*$"), pl.col("video"))
"""the video of a clip, by its id where that names one, else by its file"""
_STEM = pl.col("video").str.split("/").list.last().str.replace(r"\.[^.]*$", "")


def read_held_out(paths: Sequence[str | Path]) -> pl.DataFrame:
    """Clips of test sets: key, video, start and end in seconds. AnnotateError, HeadsError: not a test set."""
    clips = sorted({clip for path in paths for row in read_test_set(task_of(path), path) for clip in clips_of(row)})
    parts = [split_clip(clip) for clip in clips]
    return pl.DataFrame(
        {
            "key": clips,
            "video": [video for video, _, _ in parts],
            "start": [float(start) for _, start, _ in parts],
            "end": [float(end) for _, _, end in parts],
        },
        schema={"key": pl.String, "video": pl.String, "start": pl.Float64, "end": pl.Float64},
    )


def task_of(path: str | Path) -> Task:
    """Which of the three test sets a file is, by the fields of its first line."""
    for _, row in read_objects(path):
        for field, task in _FIELDS.items():
            if field in row:
                return task
        break
    raise AnnotateError(f"{path}: no test set; its rows have none of {', '.join(_FIELDS)}")


def known_clips(store: Store, *more: str) -> pl.DataFrame:
    """What the catalog knows of each clip: key, video, start, end and split, null where it does not, and `more`."""
    frame = store.catalog("clips").frame(list(dict.fromkeys([*_KNOWN, *more])))
    return frame.with_columns(
        pl.lit(None, kind).alias(name) for name, kind in _KNOWN.items() if name not in frame.columns
    )


def held_out_by(clips: pl.DataFrame, held_out: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    """Of each clip (key, video, start, end): whether it is held out by its id, and whether by overlap in time.

    A clip without times is held out by overlap wherever its video has test clips.
    """
    by_id = clips["key"].is_in(held_out["key"].implode())
    names = pl.concat_list(VIDEO, "video", _STEM)  # any of them may be the test set's name for the video
    suspects = clips.with_row_index("place").select("place", names.alias("video"), "start", "end").explode("video")
    suspects = suspects.join(held_out.select("video").unique(), on="video", how="semi")
    met = suspects.join(held_out.select("video", "start", "end"), on="video", suffix="_test")
    overlap = (pl.col("start") < pl.col("end_test")) & (pl.col("end") > pl.col("start_test"))
    places = met.filter(overlap.fill_null(True))["place"].unique()
    return by_id, pl.Series(pl.int_range(clips.height, dtype=pl.UInt32, eager=True).is_in(places.implode()))
