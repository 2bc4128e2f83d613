"""VidDiffBench's files: pairs of videos of one action, with statements about them.

The folder holds the files test-*.parquet that the authors publish, or their folder data/. A row of them is a pair of
videos with statements, each "a" (more true of the first video), "b" (of the second), "c" (of neither) or null (not
annotated).

Guarantees
- a_statement_that_is_not_annotated_is_dropped
- thumbnails_are_never_read
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Float64

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import make_folder, write_text
from stepdiff.tasks.benchmarks.published_files import list_of, read_json, text_of, value_of
from stepdiff.tasks.benchmarks.rows import Writing, check_keys
from stepdiff.tasks.benchmarks.summary import Mask
from stepdiff.tasks.bootstrap import Figure, ratio_figure
from stepdiff.tasks.spec import ClipFile, Published

SOURCE = "jmhb/VidDiffBench on Hugging Face"
SPLITS = ("easy", "medium", "hard")
Letter = Literal["a", "b", "c"]
LETTERS: tuple[Letter, ...] = ("a", "b", "c")
COLUMNS = ("sample_key", "videos", "action_description", "source_dataset", "differences_annotated", "differences_gt")
OPTIONAL = ("domain", "n_differences_open_prediction")
FILMS = (".mp4", ".mov")
"""suffixes of videos; another path is a folder of images"""
LICENCE = "not stated by the authors; the videos have the licences of their owners"


@dataclass(frozen=True)
class Statement:
    description: str
    truth: Letter


@dataclass(frozen=True)
class Sample:
    """A pair of videos with its annotated statements."""

    key: str
    action: str
    split: str
    domain: str
    """the domain, or the source of the videos where the file names no domain"""
    videos: tuple[ClipFile, ClipFile]
    statements: Mapping[str, Statement]
    """key -> statement"""
    most: int | None
    """differences that may be predicted in the open setting; None: the file has no such column"""

    @property
    def clips(self) -> tuple[str, str]:
        return self.videos[0].clip, self.videos[1].clip


def read_samples(folder: Path) -> list[Sample]:
    """Return the pairs in published order. Raises StepDiffError: a file is missing or damaged."""
    files = sorted(folder.glob("test-*.parquet")) or sorted(folder.glob("data/test-*.parquet"))
    if not files:
        raise StepDiffError(f"{folder}: has no test-*.parquet; get it from the folder data of {SOURCE}")
    samples = [sample for path in files for sample in _samples(path)]
    check_keys([Writing(sample.key, sample.clips, "") for sample in samples], str(folder))
    return samples


def _samples(path: Path) -> Iterator[Sample]:
    try:
        present = pl.read_parquet_schema(path)
        missing = [name for name in (*COLUMNS, "split") if name not in present]
        if missing:
            raise StepDiffError(f"{path}: has no column {missing[0]!r}; get it again from {SOURCE}")
        names = [*COLUMNS, "split", *(name for name in OPTIONAL if name in present)]
        frame = pl.read_parquet(path, columns=names)
    except (pl.exceptions.PolarsError, OSError) as error:
        why = str(error).strip().splitlines()[0]
        raise StepDiffError(f"{path}: not a whole Parquet file ({why}); get it again from {SOURCE}") from None
    for number, row in enumerate(frame.iter_rows(named=True), 1):
        try:
            yield _sample(row)
        except StepDiffError as error:
            raise StepDiffError(f"{path}: row {number}: {error}; get the file again from {SOURCE}") from error


def _sample(row: dict[str, Any]) -> Sample:
    key, split = text_of(row, "sample_key"), text_of(row, "split")
    if split not in SPLITS:
        raise StepDiffError(f"split {split!r} is none of {', '.join(SPLITS)}")
    domain = row.get("domain") or text_of(row, "source_dataset")
    annotated, truth = (_object(row, name) for name in ("differences_annotated", "differences_gt"))
    statements = {}
    for name, letter in truth.items():
        if letter is None:
            continue
        if letter not in LETTERS:
            raise StepDiffError(f"differences_gt {name!r} is {letter!r}, none of {', '.join(LETTERS)} and null")
        found = value_of(annotated, name)
        if not isinstance(found, dict):
            raise StepDiffError(f"differences_annotated {name!r} is not an object")
        statements[name] = Statement(text_of(found, "description"), letter)
    videos = _json(row, "videos")
    if isinstance(videos, list):  # in some versions of the file
        videos = {str(number): video for number, video in enumerate(videos)}
    if not isinstance(videos, dict) or videos.keys() != {"0", "1"}:
        raise StepDiffError("videos are not an object with keys 0 and 1")
    first, second = (_clip(videos[number], domain) for number in ("0", "1"))
    most = row.get("n_differences_open_prediction")
    return Sample(key, text_of(row, "action_description"), split, domain, (first, second), statements, most)


def _json(row: dict[str, Any], name: str) -> Any:
    try:
        return json.loads(text_of(row, name))
    except (ValueError, RecursionError) as error:
        raise StepDiffError(f"{name} is not JSON ({error})") from None


def _object(row: dict[str, Any], name: str) -> dict[str, Any]:
    found = _json(row, name)
    if not isinstance(found, dict):
        raise StepDiffError(f"{name} is a JSON {type(found).__name__}, not an object")
    return found


def _clip(video: Any, domain: str) -> ClipFile:
    """Return the clip of a video's description; its frames are a Python slice [start, stop)."""
    if not isinstance(video, dict):
        raise StepDiffError("a video is not an object")
    path, fps, frames = text_of(video, "path"), value_of(video, "fps_original"), list_of(video, "frames_trim")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < float("inf"):
        raise StepDiffError(f"fps_original of {path} is {fps!r}, not a number above 0")
    whole = [frame is None or (type(frame) is int and 0 <= frame < 1e12) for frame in frames]
    if len(frames) != 2 or not all(whole):
        raise StepDiffError(f"frames_trim of {path} is {frames}, not two frame numbers from 0")
    start, end = (None if frame is None else frame / fps for frame in frames)
    if start is not None and end is not None and start >= end:
        raise StepDiffError(f"frames_trim of {path} is {frames}, which holds no frame")
    seconds = "" if start is None and end is None else f"_{start or 0.0:.3f}_{'end' if end is None else f'{end:.3f}'}"
    kind = "video" if path.lower().endswith(FILMS) else "folder of images"
    return ClipFile(path + seconds, path, start, end, {"domain": domain, "kind": kind, "fps": f"{fps:g}"})


def clips(folder: Path) -> Iterator[ClipFile]:
    """Yield the clips of all pairs, each once."""
    yield from {clip.clip: clip for sample in read_samples(folder) for clip in sample.videos}.values()


def describe(samples: Sequence[Sample]) -> str:
    """Return a note with the numbers of pairs and statements."""
    letters = [statement.truth for sample in samples for statement in sample.statements.values()]
    counts = ", ".join(f"{letters.count(letter)} {letter}" for letter in LETTERS)
    return f"{len(samples)} pairs, {len(letters)} annotated statements ({counts}; c is not scored)"


def digest(samples: Sequence[Sample]) -> str:
    """Return a sha256 of the pairs and their statements."""
    return hashlib.sha256(json.dumps([asdict(sample) for sample in samples]).encode()).hexdigest()


def write_published(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write predictions by pair, as a list and as an object."""
    make_folder(folder)
    files = {"predictions.json": list(found.values()), "input_predictions.json": dict(found)}
    for name, content in files.items():
        write_text(folder / name, json.dumps(content, indent=2))
    return [folder / name for name in files]


def by_pair(path: Path, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return the predictions of each pair from a file in the authors' format; an object may lack pairs."""
    found = read_json(path, "the method that wrote it")
    if isinstance(found, dict):
        if unknown := found.keys() - {sample.key for sample in samples}:
            raise StepDiffError(f"{path}: {min(unknown)!r} is not a pair of the benchmark; remove it")
        found = [found.get(sample.key, {}) for sample in samples]
    if not isinstance(found, list) or len(found) != len(samples):
        raise StepDiffError(f"{path}: not a list of predictions for {len(samples)} pairs; write one for each pair")
    for sample, own in zip(samples, found, strict=True):
        if not isinstance(own, dict):
            raise StepDiffError(f"{path}: the predictions of pair {sample.key!r} are not an object; write one")
    return found


def published(method: str, easy: float, medium: float, hard: float, average: float) -> Published:
    values = {"easy": easy, "medium": medium, "hard": hard, "average": average}
    return Published(method, {name: value / 100 for name, value in values.items()}, "leaderboard of jmhb0/viddiff")


def split_figures(
    right: Float64[np.ndarray, " rows"], asked: Float64[np.ndarray, " rows"], splits: Mapping[str, Mask]
) -> dict[str, Figure]:
    """Return right / asked over the rows of each split, and `average`, the plain mean of those.

    Args:
        right: How many statements of a row are right.
        asked: How many statements a row has.
        splits: Split -> its rows.
    """
    each = {name: ratio_figure(right * mask, asked * mask) for name, mask in splits.items()}
    parts = np.concatenate([figure.parts for figure in each.values()], axis=1)
    return {"average": Figure(parts, _mean_of_ratios), **each}


def without_splits(scores: dict[str, Any]) -> dict[str, Any]:
    """Return scores whose categories lack the figures of `split_figures`, which a category seldom has."""
    dropped = {name + ending for name in ("average", *SPLITS) for ending in ("", "_ours")}
    parts = scores["per_category"].items()
    return scores | {
        "per_category": {name: {key: own for key, own in part.items() if key not in dropped} for name, part in parts}
    }


def _mean_of_ratios(sums: np.ndarray) -> np.ndarray:
    """Return the mean of the ratios of columns 0 / 1, 2 / 3, ..., NaN if one of them is undefined."""
    with np.errstate(invalid="ignore"):
        return np.asarray((sums[..., 0::2] / sums[..., 1::2]).mean(axis=-1))
