"""Published data sets of actions, and the clips that they give.

    HT-Step              annotations.json {video: {"subset", "activity", "annotations": [{"id",
                         "segment"}, ...]}}, taxonomy.csv (global_step_index, activity, headline),
                         video_splits.json {subset: [video, ...]}
    captaincook          github.com/CaptainCook4D/annotations: a step of a recipe, with the mistakes
                         in it
    egoexo-exo           Ego-Exo4D: what an expert says about the seconds before a moment, in the
                         best exocentric view
    egoexo-ego           the same in the egocentric view
    assembly101-fine     Assembly101: fine-grained actions of all views
    assembly101-coarse   the same with coarse actions

Videos have the paths that the authors use, from the folder of the dataset.
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import polars as pl
from pydantic import BaseModel, TypeAdapter

from stepdiff.annotate.sources.narration import heard, read_narration
from stepdiff_core.checked import checked
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.benchmarks.captaincook import read_recorded
from stepdiff_core.tasks.benchmarks.rows import Text, read_entries, read_json

SPLITS = ("train", "val", "test")
T = TypeVar("T")
Rows = list[dict[str, Any]]


class TaxonomyStep(NamedTuple):
    activity: str
    headline: str


class _Segment(BaseModel):
    id: int
    segment: Any


class _HTStepVideo(BaseModel):
    subset: str
    annotations: list[_Segment]


_VIDEOS = TypeAdapter(dict[str, _HTStepVideo]).validate_python
_SPLITS = TypeAdapter(dict[str, list[str]]).validate_python


def read_taxonomy(path: str | Path) -> dict[int, TaxonomyStep]:
    """Read the steps by global_step_index. StepDiffError: not such a file, or an index twice."""
    steps: dict[int, TaxonomyStep] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                index = int(row["global_step_index"])
                if index in steps:
                    raise StepDiffError(f"{path}: step {index} occurs twice; keep one")
                steps[index] = TaxonomyStep(row["activity"].strip(), row["headline"].strip())
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, AttributeError) as error:
        raise StepDiffError(
            f"{path}: no taxonomy of HT-Step ({error!r}); give its taxonomy.csv"
        ) from error
    return steps


def read_splits(path: str | Path) -> dict[str, str]:
    """Read the split (train, val, test) of each video. StepDiffError: another subset, or a video in
    two splits."""
    splits: dict[str, str] = {}
    for subset, videos in _read(path, _SPLITS).items():
        split = split_of(subset, path)
        for video in videos:
            if splits.setdefault(video, split) != split:
                raise StepDiffError(
                    f"{path}: video {video} is of {splits[video]} and of {split}; keep one"
                )
    return splits


def split_of(subset: str, path: str | Path) -> str:
    """Return train, val or test: `val_seen` is of val. StepDiffError: another subset."""
    split = subset.partition("_")[0]
    if split not in SPLITS:
        raise StepDiffError(
            f"{path}: subset {subset!r} is of none of {', '.join(SPLITS)}; correct it"
        )
    return split


def read_annotations(
    path: str | Path,
    taxonomy: dict[int, TaxonomyStep],
    splits: dict[str, str] | None,
    left_out: Counter[str],
) -> Rows:
    """Read the usable segments of annotations.json as rows of clips; count the others by reason.

    splits: as `read_splits` returns them, which must agree with the file's; None: the file's own
    subsets count.
    """
    rows: dict[str, dict[str, Any]] = {}
    for video, about in _read(path, _VIDEOS).items():
        split = split_of(about.subset, path)
        if splits is not None and splits.get(video) != split:
            other = splits.get(video, "none")
            raise StepDiffError(
                f"{path}: video {video} is of {split} here and of {other} in the splits; correct "
                "one"
            )
        for row in about.annotations:
            try:
                start, end = map(float, row.segment)
            except (TypeError, ValueError):
                left_out["its segment is not two numbers"] += 1
                continue
            clip = "_".join((video, *map(str, row.segment)))
            if not 0 <= start < end < math.inf:
                left_out["its segment does not end after its start"] += 1
            elif row.id not in taxonomy:
                left_out["its step is not in the taxonomy"] += 1
            elif clip in rows:
                left_out["its clip has a step already"] += 1
            else:
                step = taxonomy[row.id]
                about_step = {
                    "step": step.headline,
                    "step_id": row.id,
                    "activity": step.activity,
                    "split": split,
                }
                rows[clip] = _row(clip, video, start, end) | about_step
    return list(rows.values())


def read_htstep(
    annotations: str,
    taxonomy: str,
    splits: str | None,
    narration: str | None,
    left_out: Counter[str],
    faults: Counter[str],
) -> Iterator[pl.DataFrame]:
    """Yield the segments as one block of clips, with narration; count unusable segments and faults
    of the narration."""
    of_videos = None if splits is None else read_splits(splits)
    rows = read_annotations(annotations, read_taxonomy(taxonomy), of_videos, left_out)
    if not rows:
        raise StepDiffError(
            f"{annotations}: no segment in it can be used ({dict(left_out) or 'it has none'})"
        )
    by_video: dict[str, Rows] = {}
    for row in rows:
        row["narration"] = ""
        by_video.setdefault(row["video"], []).append(row)
    for video, pieces in () if narration is None else read_narration(narration, by_video, faults):
        for row in by_video[video]:
            row["narration"] = heard(pieces, row["start"], row["end"])
    yield _frame(rows)


def _read(path: str | Path, validate: Callable[[Any], T]) -> T:
    """Return the content of a JSON file of HT-Step; numbers with a point stay as they are
    written."""
    try:
        keys = json.loads(Path(path).read_text(encoding="utf-8"), parse_float=str)
    except (OSError, ValueError, RecursionError) as error:
        raise StepDiffError(f"{path}: no JSON that can be read ({error}); copy it again") from error
    return checked(validate, keys, f"{path}: ")


EGOEXO = "docs.ego-exo4d-data.org"
ASSEMBLY = "github.com/assembly-101/assembly101-annotations"
RATE = 30  # frames a second, in which Assembly101 counts
# seconds before a moment that an expert comments, our choice: the annotations have the moment only
BEFORE = 8.0
TWICE = "actions of an interval that has one already"


class _Take(BaseModel):
    take_uid: Text
    root_dir: Text
    best_exo: str | None = None
    frame_aligned_videos: dict[str, dict[str, Any] | None]


def _captaincook(
    folder: Path, seconds: float | None, left_out: Counter[str]
) -> Iterator[pl.DataFrame]:
    for part in SPLITS:
        recorded = read_recorded(folder, part)
        left_out.update(recorded.left_out)
        rows = [
            _row(step.clip, f"{step.recording}_360p.mp4", step.start, step.end)
            | {
                "split": part,
                "step": step.instruction,
                "step_id": step.step_id,
                "activity": step.recipe,
            }
            | {"mistakes": " ".join(mistake.description.strip() for mistake in step.mistakes)}
            for step in recorded.steps
        ]
        yield _frame(rows)


def _egoexo(
    view: str, folder: Path, seconds: float | None, left_out: Counter[str]
) -> Iterator[pl.DataFrame]:
    entries = read_entries(folder / "takes.json", EGOEXO, "take", _Take.model_validate)
    takes = {take.take_uid: take for take in entries}
    for part in SPLITS:
        path = folder / "annotations" / f"expert_commentary_{part}.json"
        if part != "train" and not path.exists():  # test is not public
            continue
        rows: Rows = []
        commentary = read_json(path, EGOEXO)
        try:
            for uid, annotations in commentary["annotations"].items():
                if uid not in takes or (video := _view(takes[uid], view)) is None:
                    left_out["takes without this view"] += 1
                else:
                    rows += _commentary(annotations, video, part, seconds or BEFORE, left_out)
        except (StepDiffError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise StepDiffError(
                f"{path}: not expert commentary ({error!r}); get it again from {EGOEXO}"
            ) from error
        yield _frame(rows)


def _view(take: _Take, view: str) -> str | None:
    """Return the video of a view of a take, from the folder of the dataset; None if it has none."""
    cameras = take.frame_aligned_videos
    if view == "exo":
        camera = (cameras.get(take.best_exo or "") or {}).get("0")
    else:
        names = [name for name in cameras if name.lower().startswith("aria")]
        camera = (cameras[names[0]] or {}).get("rgb") if names else None
    return None if camera is None else f"{take.root_dir}/{camera['relative_path']}"


def _commentary(
    annotations: Sequence[dict[str, Any]],
    video: str,
    part: str,
    before: float,
    left_out: Counter[str],
) -> Rows:
    comments: dict[tuple[float, float], list[str]] = {}
    activity = ""
    for annotation in annotations:
        activity = annotation.get("task_name") or activity
        for comment in annotation["commentary_data"]:
            end, text = float(comment["video_time"]), comment.get("text")
            if comment.get("error") or not isinstance(text, str) or not text.strip():
                left_out["comments without a transcript"] += 1
            elif not 0 < end < float("inf"):
                left_out["comments before the video"] += 1
            else:
                comments.setdefault((round(max(end - before, 0.0), 3), end), []).append(
                    " ".join(text.split())
                )
    name = video.removeprefix("takes/").replace("/frame_aligned_videos", "")
    return [
        _row(_id(name, start, end), video, start, end)
        | {"split": part, "activity": activity, "narration": " ".join(comments[start, end])}
        for start, end in sorted(comments)
    ]


def _fine(folder: Path, seconds: float | None, left_out: Counter[str]) -> Iterator[pl.DataFrame]:
    for part in SPLITS:
        path = (
            folder / "fine-grained-annotations" / f"{'validation' if part == 'val' else part}.csv"
        )
        if part != "train" and not path.exists():
            continue
        actions: dict[tuple[str, int, int], tuple[str, str]] = {}
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                for row in csv.DictReader(file):
                    place = row["video"], int(row["start_frame"]), int(row["end_frame"])
                    left_out[TWICE] += place in actions
                    actions.setdefault(place, (row["action_cls"], row["toy_name"]))
        except (OSError, csv.Error, KeyError, TypeError, ValueError) as error:
            raise StepDiffError(
                f"{path}: not annotations of Assembly101 ({error!r}); see {ASSEMBLY}"
            ) from error
        yield _actions(actions, part, left_out)


def _coarse(folder: Path, seconds: float | None, left_out: Counter[str]) -> Iterator[pl.DataFrame]:
    root = folder / "coarse-annotations"
    views: dict[str, list[str]] = {}
    for line in _lines(root / "coarse_seq_views.txt"):
        sequence, _, view = line.strip().rpartition("/")
        views.setdefault(sequence, []).append(view)
    for part in SPLITS:
        actions: dict[tuple[str, int, int], tuple[str, str]] = {}
        for kind in ("assembly", "disassembly"):
            split = root / "coarse_splits" / f"{part}_coarse_{kind}.txt"
            for line in _lines(split) if part == "train" or split.exists() else ():
                name, *_, toy = line.rstrip("\n").split("\t")
                labels = root / "coarse_labels" / name
                for label in _lines(labels):
                    start, end, *action = label.split(maxsplit=2)
                    if not action:
                        left_out["actions that are withheld"] += 1
                        continue
                    for view in views.get(name.removesuffix(".txt"), ()):
                        video = f"{name.removesuffix('.txt').removeprefix(f'{kind}_')}/{view}"
                        place = video, int(start), int(end)
                        left_out[TWICE] += place in actions
                        actions.setdefault(place, (action[0].strip(), toy))
        yield _actions(actions, part, left_out)


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise StepDiffError(f"{path}: cannot be read ({error}); get it from {ASSEMBLY}") from error


def _actions(
    actions: dict[tuple[str, int, int], tuple[str, str]], part: str, left_out: Counter[str]
) -> pl.DataFrame:
    rows: Rows = []
    for (name, first, last), (action, toy) in sorted(actions.items()):
        if not 0 <= first < last:
            left_out["actions that do not end after their start"] += 1
            continue
        start, end = round(first / RATE, 3), round(last / RATE, 3)
        about = {"split": part, "step": action, "activity": toy}
        rows.append(_row(_id(name, start, end), f"recordings/{name}", start, end) | about)
    return _frame(rows)


def _id(video: str, start: float, end: float) -> str:
    return f"{video.rpartition('.')[0]}_{start!r}_{end!r}"


def _row(clip: str, video: str, start: float, end: float) -> dict[str, Any]:
    return {"clip": clip, "video": video, "start": start, "end": end}


def _frame(rows: Rows) -> pl.DataFrame:
    return pl.DataFrame(rows, infer_schema_length=None)


Read = Callable[[Path, float | None, Counter[str]], Iterator[pl.DataFrame]]
DATASETS: dict[str, Read] = {
    "captaincook": _captaincook,
    "egoexo-exo": partial(_egoexo, "exo"),
    "egoexo-ego": partial(_egoexo, "ego"),
    "assembly101-fine": _fine,
    "assembly101-coarse": _coarse,
}
"""name -> reader: takes the folder, the seconds of a clip about a moment (None: BEFORE) and a
counter of the clips that it leaves out, and yields blocks of clips. StepDiffError: a file is
missing or of another form"""
