"""VidDiffBench: how do two videos of one action differ? Its files, and its closed setting.

The folder holds the files test-*.parquet that the authors publish, or their folder data/. A row of
them is a pair of videos with statements, each "a" (more true of the first video), "b" (of the
second), "c" (of neither) or null (not annotated, dropped). Thumbnails are never read. The open
setting is in viddiff_open.py.

Closed: is a statement more true of the first or of the second video? As in the authors' own runs,
only statements that are more true of one video are asked about. A statement without a prediction of
another program counts wrong; heads.evaluate leaves out those that its options leave out.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Float64
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Json, StrictInt, model_validator

from stepdiff_core.errors import StepDiffError, first_line
from stepdiff_core.io.files import write_text
from stepdiff_core.tasks.benchmarks.figures import (
    Mask,
    check_count,
    chosen,
    scores_of,
    share_right,
    summary,
    truths_of,
)
from stepdiff_core.tasks.benchmarks.rows import (
    BenchmarkRow,
    Choice,
    Text,
    Writing,
    check_keys,
    entry,
)
from stepdiff_core.tasks.bootstrap import Figure, Resamples, mean_figure, ratio_figure
from stepdiff_core.tasks.registry import ClipFile, TaskData, TaskSpec, published
from stepdiff_core.tasks.testsets import Prediction

SOURCE = "jmhb/VidDiffBench on Hugging Face"
SPLITS = ("easy", "medium", "hard")
Letter = Literal["a", "b", "c"]
LETTERS: tuple[Letter, ...] = ("a", "b", "c")
FILMS = (".mp4", ".mov")
"""suffixes of videos; another path is a folder of images"""
LICENCE = "not stated by the authors; the videos have the licences of their owners"
QUESTION = (
    "Both videos show this action: {action}. Of which video is this statement more true: "
    '"{statement}"?'
)
"""ours, because the published prompt asks about all statements of a pair at once"""
OPTIONS = ("The statement is more true of Video 1.", "The statement is more true of Video 2.")


_Frame = Annotated[StrictInt, Field(ge=0, lt=10**12)] | None


class _Video(BaseModel):
    path: Text
    fps_original: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
    frames_trim: tuple[_Frame, _Frame]
    """frame numbers, a Python slice [start, stop)"""

    @model_validator(mode="after")
    def _has_frames(self) -> "_Video":
        start, stop = self.frames_trim
        if start is not None and stop is not None and start >= stop:
            raise ValueError(
                f"frames_trim of {self.path} is {list(self.frames_trim)}, which holds no frame"
            )
        return self


class _Videos(BaseModel):
    model_config = ConfigDict(extra="forbid")
    first: _Video = Field(alias="0")
    second: _Video = Field(alias="1")


class _Described(BaseModel):
    description: str = ""


def _by_number(videos: Any) -> Any:  # a list in some versions of the file
    return (
        {str(number): video for number, video in enumerate(videos)}
        if isinstance(videos, list)
        else videos
    )


class _Row(BaseModel):
    sample_key: Text
    split: Literal["easy", "medium", "hard"]
    domain: str | None = None
    source_dataset: Text
    action_description: Text
    videos: Json[Annotated[_Videos, BeforeValidator(_by_number)]]
    differences_annotated: Json[dict[str, _Described]]
    differences_gt: Json[dict[str, Letter | None]]
    n_differences_open_prediction: Any = None

    @model_validator(mode="after")
    def _is_described(self) -> "_Row":
        for name, letter in self.differences_gt.items():
            if letter is not None and name not in self.differences_annotated:
                raise ValueError(f"differences_annotated has no {name!r}")
        return self


@dataclass(frozen=True)
class Statement:
    description: str
    truth: Letter


@dataclass(frozen=True)
class VideoPair:
    """A pair of videos with its annotated statements."""

    key: str
    action: str
    split: str
    domain: str
    """the domain, or the source of the videos if the file names no domain"""
    videos: tuple[ClipFile, ClipFile]
    statements: Mapping[str, Statement]
    """key -> statement"""
    most: int | None
    """differences that may be predicted in the open setting; None: the file has no such column"""

    @property
    def clips(self) -> tuple[str, str]:
        return self.videos[0].clip, self.videos[1].clip


@dataclass(frozen=True)
class StatementTruth:
    """The video that a statement of the closed setting is true of."""

    letter: Letter
    pair: str
    split: str
    domain: str


def read_samples(folder: Path) -> list[VideoPair]:
    """Return the pairs in published order."""
    files = sorted(folder.glob("test-*.parquet")) or sorted(folder.glob("data/test-*.parquet"))
    if not files:
        raise StepDiffError(
            f"{folder}: has no test-*.parquet; get it from the folder data of {SOURCE}"
        )
    samples = []
    for path in files:
        try:
            present = pl.read_parquet_schema(path)
            frame = pl.read_parquet(
                path, columns=[name for name in _Row.model_fields if name in present]
            )
        except (pl.exceptions.PolarsError, OSError) as error:
            raise StepDiffError(
                f"{path}: not a whole Parquet file ({first_line(error)}); get it again from "
                f"{SOURCE}"
            ) from None
        for number, row in enumerate(frame.iter_rows(named=True), 1):
            samples.append(
                _sample(entry(_Row.model_validate, row, f"{path}: row {number}", SOURCE))
            )
    check_keys([Writing(sample.key, sample.clips, "") for sample in samples], str(folder))
    return samples


def _sample(row: _Row) -> VideoPair:
    statements = {
        name: Statement(row.differences_annotated[name].description, letter)
        for name, letter in row.differences_gt.items()
        if letter is not None
    }
    domain = row.domain or row.source_dataset
    videos = _clip(row.videos.first, domain), _clip(row.videos.second, domain)
    most = row.n_differences_open_prediction
    return VideoPair(
        row.sample_key, row.action_description, row.split, domain, videos, statements, most
    )


def _clip(video: _Video, domain: str) -> ClipFile:
    path, fps = video.path, video.fps_original
    start, end = (None if frame is None else frame / fps for frame in video.frames_trim)
    seconds = (
        ""
        if start is None and end is None
        else f"_{start or 0.0:.3f}_{'end' if end is None else f'{end:.3f}'}"
    )
    kind = "video" if path.lower().endswith(FILMS) else "folder of images"
    return ClipFile(
        path + seconds, path, start, end, {"domain": domain, "kind": kind, "fps": f"{fps:g}"}
    )


def clips(folder: Path) -> Iterator[ClipFile]:
    """Yield the clips of all pairs, each once."""
    yield from {
        clip.clip: clip for sample in read_samples(folder) for clip in sample.videos
    }.values()


def describe(samples: Sequence[VideoPair]) -> str:
    """Return a note with the numbers of pairs and statements."""
    letters = [statement.truth for sample in samples for statement in sample.statements.values()]
    counts = ", ".join(f"{letters.count(letter)} {letter}" for letter in LETTERS)
    return f"{len(samples)} pairs, {len(letters)} annotated statements ({counts}; c is not scored)"


def digest(samples: Sequence[VideoPair]) -> str:
    """Return a sha256 of the pairs and their statements."""
    return hashlib.sha256(json.dumps([asdict(sample) for sample in samples]).encode()).hexdigest()


def write_published(predictions: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write predictions by pair, as a list and as an object."""
    files = {
        "predictions.json": list(predictions.values()),
        "input_predictions.json": dict(predictions),
    }
    for name, content in files.items():
        write_text(folder / name, json.dumps(content, indent=2))
    return [folder / name for name in files]


def split_figures(
    right: Float64[np.ndarray, " rows"],
    statements: Float64[np.ndarray, " rows"],
    splits: Sequence[str],
) -> dict[str, Figure]:
    """Return right / asked over the rows of each split, and `average`, the plain mean of those.

    Args:
        right: How many statements of a row are right.
        statements: How many statements a row has.
        splits: The split of each row.
    """
    masks = {name: np.array([split == name for split in splits]) for name in SPLITS}
    each = {name: ratio_figure(right * mask, statements * mask) for name, mask in masks.items()}
    parts = np.concatenate([figure.parts for figure in each.values()], axis=1)
    return {"average": Figure(parts, _mean_of_ratios), **each}


def _mean_of_ratios(sums: np.ndarray) -> np.ndarray:
    """Return the mean of the ratios of columns 0 / 1, 2 / 3, ..., NaN if one of them is
    undefined."""
    with np.errstate(invalid="ignore"):
        return np.asarray((sums[..., 0::2] / sums[..., 1::2]).mean(axis=-1))


def of_domains(domains: Sequence[str]) -> dict[str, Mask]:
    """Return the rows of each domain, from the domain of each row."""
    return {name: np.array([domain == name for domain in domains]) for name in sorted(set(domains))}


def without_splits(scores: dict[str, Any]) -> dict[str, Any]:
    """Return scores whose categories lack the figures of `split_figures`, which a category seldom
    has."""
    dropped = {name + ending for name in ("average", *SPLITS) for ending in ("", "_ours")}
    parts = scores["per_category"].items()
    return scores | {
        "per_category": {
            name: {key: value for key, value in part.items() if key not in dropped}
            for name, part in parts
        }
    }


def read(folder: Path) -> TaskData:
    """Read the statements with a video."""
    samples = read_samples(folder)
    rows, truth = [], {}
    for sample in samples:
        for name, statement in sample.statements.items():
            if statement.truth != "c":
                question = QUESTION.format(
                    action=sample.action.rstrip(". "), statement=statement.description
                )
                rows.append(
                    Choice(
                        f"{sample.key}/{name}",
                        sample.clips,
                        question,
                        OPTIONS,
                        statement.description,
                    )
                )
                truth[rows[-1].key] = StatementTruth(
                    statement.truth, sample.key, sample.split, sample.domain
                )
    check_keys(rows, str(folder))
    if not rows:
        raise StepDiffError(
            f"{folder}: no statement is truer of one video; get the files again from {SOURCE}"
        )
    notes = (
        describe(samples),
        "the question is ours; the authors ask about all statements of a pair at once",
    )
    return TaskData(rows, truth, notes, digest=digest(samples))


def score(
    rows: Sequence[Choice],
    predictions: Sequence[Prediction | None],
    truth: Mapping[str, StatementTruth],
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Return accuracy of each split, their plain mean (average), and over all statements.

    A prediction is a score for each video, or None, which counts wrong and as `missing`. Statements
    of a pair are drawn together for the intervals.
    """
    check_count(rows, predictions)
    truths = truths_of(rows, truth)
    right, ties = np.zeros(len(rows)), np.zeros(len(rows), bool)
    for place, (row, prediction, statement) in enumerate(
        zip(rows, predictions, truths, strict=True)
    ):
        if prediction is not None:
            ((one, two),) = scores_of([row], [prediction])
            right[place] = share_right((one, two), LETTERS.index(statement.letter))
            ties[place] = one == two
    splits, domains = (
        [statement.split for statement in truths],
        of_domains([statement.domain for statement in truths]),
    )
    figures, chance = (
        split_figures(values, np.ones(len(rows)), splits) | {"accuracy": mean_figure(values)}
        for values in (right, np.full(len(rows), 0.5))
    )
    missing = np.array([prediction is None for prediction in predictions])
    counts = {"ties": ties} | ({"missing": missing} if missing.any() else {})
    draws = Resamples([statement.pair for statement in truths], bootstrap, seed)
    return without_splits(summary("viddiff-closed", rows, figures, draws, chance, counts, domains))


def export(
    data: Path, rows: Sequence[BenchmarkRow], predictions: Sequence[Prediction | None], folder: Path
) -> list[Path]:
    """Write predictions in the authors' format, a list in the order of all pairs, and one by their
    keys."""
    letters: dict[str, dict[str, str]] = {sample.key: {} for sample in read_samples(data)}
    for row, prediction in zip(rows, predictions, strict=True):
        sample, _, name = row.key.rpartition("/")
        if prediction is not None:
            letters[sample][name] = LETTERS[chosen([float(score) for score in prediction])]
    return write_published(letters, folder)


SPEC = TaskSpec(
    name="viddiff-closed",
    title="VidDiffBench, closed",
    figures={
        "average": "average",
        "easy": "easy",
        "medium": "medium",
        "hard": "hard",
        "accuracy": "all statements",
    },
    read=read,
    score=score,
    clips=clips,
    export=export,
    published=published("viddiff-closed"),
    chance=dict.fromkeys(("average", *SPLITS, "accuracy"), 0.5),
    licence=LICENCE,
    missing_is_wrong=True,
)
