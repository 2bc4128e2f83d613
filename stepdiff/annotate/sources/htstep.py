"""HT-Step in its published form: the step of a recipe that each segment of a video shows.

    annotations.json    {video: {"subset", "activity", "annotations": [{"id": step, "segment": [start, end]}, ...]}}
    taxonomy.csv        global_step_index, activity, headline, and more
    video_splits.json   {subset: [video, ...]}; subsets: train, val_seen, val_unseen, test_seen, test_unseen

Guarantees
- a segment's clip id contains its seconds as the file writes them
- a video in two splits is refused
- an unusable segment is counted with its reason, and the others are kept
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import BaseModel, TypeAdapter

from stepdiff.annotate.people.files import checked
from stepdiff.annotate.sources.narration import heard, read_narration
from stepdiff.common.errors import StepDiffError

if TYPE_CHECKING:
    import polars as pl

SPLITS = ("train", "val", "test")
T = TypeVar("T")


class Step(NamedTuple):
    """A step of a recipe."""

    activity: str
    headline: str


@dataclass(frozen=True)
class Segment:
    """A clip and the step that it shows."""

    clip: str
    video: str
    start: float  # seconds
    end: float
    step_id: int  # global_step_index
    step: Step
    split: str


class _Row(BaseModel):
    id: int
    segment: Any


class _Video(BaseModel):
    subset: str
    annotations: list[_Row]


_VIDEOS = TypeAdapter(dict[str, _Video]).validate_python
_SPLITS = TypeAdapter(dict[str, list[str]]).validate_python


def read_taxonomy(path: str | Path) -> dict[int, Step]:
    """Read the steps by global_step_index. StepDiffError: not such a file, or an index twice."""
    steps: dict[int, Step] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                index = int(row["global_step_index"])
                if index in steps:
                    raise StepDiffError(f"{path}: step {index} occurs twice; keep one")
                steps[index] = Step(row["activity"].strip(), row["headline"].strip())
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, AttributeError) as error:
        raise StepDiffError(f"{path}: no taxonomy of HT-Step ({error!r}); give its taxonomy.csv") from error
    return steps


def read_splits(path: str | Path) -> dict[str, str]:
    """Read the split (train, val, test) of each video. StepDiffError: another subset, or a video in two splits."""
    splits: dict[str, str] = {}
    for subset, videos in _read(path, _SPLITS).items():
        split = split_of(subset, path)
        for video in videos:
            if splits.setdefault(video, split) != split:
                raise StepDiffError(f"{path}: video {video} is of {splits[video]} and of {split}; keep one")
    return splits


def split_of(subset: str, path: str | Path) -> str:
    """Return train, val or test: `val_seen` is of val. StepDiffError: another subset."""
    split = subset.partition("_")[0]
    if split not in SPLITS:
        raise StepDiffError(f"{path}: subset {subset!r} is of none of {', '.join(SPLITS)}; correct it")
    return split


def read_annotations(
    path: str | Path, taxonomy: dict[int, Step], splits: dict[str, str] | None = None
) -> tuple[list[Segment], Counter[str]]:
    """Read the usable segments of annotations.json, and the number of others by reason.

    splits: as `read_splits` returns them, which must agree with the file's; None: the file's own subsets count.
    """
    segments: dict[str, Segment] = {}
    unusable = Counter[str]()
    for video, about in _read(path, _VIDEOS).items():
        split = split_of(about.subset, path)
        if splits is not None and splits.get(video) != split:
            other = splits.get(video, "none")
            raise StepDiffError(f"{path}: video {video} is of {split} here and of {other} in the splits; correct one")
        for row in about.annotations:
            segment = _segment(video, row.segment, row.id, taxonomy, split)
            if isinstance(segment, str):
                unusable[segment] += 1
            elif segment.clip in segments:
                unusable["its clip has a step already"] += 1
            else:
                segments[segment.clip] = segment
    return list(segments.values()), unusable


def read_clips(
    annotations: str,
    taxonomy: str,
    splits: str | None,
    narration: str | None,
    left_out: Counter[str],
    faults: Counter[str],
) -> Iterator["pl.DataFrame"]:
    """Yield the segments as one block of clips, with narration; count unusable segments and faults of the narration."""
    import polars as pl

    of_videos = None if splits is None else read_splits(splits)
    segments, unusable = read_annotations(annotations, read_taxonomy(taxonomy), of_videos)
    left_out.update(unusable)
    if not segments:
        raise StepDiffError(f"{annotations}: no segment in it can be used ({dict(unusable) or 'it has none'})")
    speech = {} if narration is None else _speech(narration, segments, faults)
    rows = [
        (one.clip, one.video, one.start, one.end, one.step.headline, one.step_id, one.step.activity, one.split)
        for one in segments
    ]
    names = ["clip", "video", "start", "end", "step", "step_id", "activity", "split"]
    said = pl.Series("narration", [speech.get(one.clip, "") for one in segments], dtype=pl.String)
    yield pl.DataFrame(rows, names, orient="row").with_columns(said)


def _speech(path: str, segments: Sequence[Segment], faults: Counter[str]) -> dict[str, str]:
    by_video: dict[str, list[Segment]] = {}
    for segment in segments:
        by_video.setdefault(segment.video, []).append(segment)
    return {
        segment.clip: heard(pieces, segment.start, segment.end)
        for video, pieces in read_narration(path, by_video, faults)
        for segment in by_video[video]
    }


def _segment(video: str, written: Any, step_id: int, taxonomy: dict[int, Step], split: str) -> Segment | str:
    """Return the segment, or why it cannot be used."""
    try:
        start, end = map(float, written)
    except (TypeError, ValueError):
        return "its segment is not two numbers"
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
        return "its segment does not end after its start"
    if step_id not in taxonomy:
        return "its step is not in the taxonomy"
    clip = "_".join((video, *map(str, written)))
    return Segment(clip, video, start, end, step_id, taxonomy[step_id], split)


def _read(path: str | Path, validate: Callable[[Any], T]) -> T:
    """Return what a JSON file of HT-Step has; numbers with a point stay as they are written."""
    try:
        keys = json.loads(Path(path).read_text(encoding="utf-8"), parse_float=str)
    except (OSError, ValueError, RecursionError) as error:
        raise StepDiffError(f"{path}: no JSON that can be read ({error}); copy it again") from error
    return checked(validate, keys, f"{path}: ")
