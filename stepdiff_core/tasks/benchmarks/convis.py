"""ConViS-Bench (arXiv 2509.19245): how similar are two clips in a concept, in the scores of people?

A folder holds the authors' repository, the data set that they publish, or both; a flat folder of
the same files works too.

    human_annotations/vicos.user_inputs.json, or user_inputs.json
                                             scores of people, 1 (different) to 5 (the same)
    human_annotations/to_be_ranked.json, or to_be_ranked.json
                                             clips and the four clips to rank for each
    ConVIS.jsonl                             the videos' files, videos_trimmed/DOMAIN/CLIP.mp4
    captions/MODEL/CLIP.txt, or one JSON object {clip: text}
                                             captions of the clips

A clip's id is its file's name without folder and suffix, <video>_<number of the clip>: captions and
features of the authors have the same names. Such an id has two parts and is never taken for
<video_uid>_<start>_<end>, which has three.

    convis             a pair of clips and one of five concepts; its truth is the mean of all
                       answers about it. Figures: Spearman's rho and Kendall's tau-b of predictions
                       and truths over the pairs, for each concept, times 100. A pair without a
                       prediction is not scored but counted
    convis-retrieval   which of four clips is the most similar one in a concept? The authors' ground
                       truth (ranked.json) is not published, so the mean scores of pairs are the
                       truth, and only clips whose four pairs all have scores are rows. P@1, R@1 and
                       F1@1 compare the targets with the highest score of the method and those with
                       the highest one of people: several where scores are equal, so ties gain a
                       method recall. tau is the mean tau-b of the rows that have one. All are times
                       100

Pairs are drawn for the intervals. They share clips, but those that share a video cannot be drawn
together, because 483 of the 610 are connected. Drawing videos, with each pair weighted by the
product of its videos, gives intervals 1.7 times as wide, as that procedure does for independent
pairs (the square root of 3).

Guarantees
- figures of the published predictions equal the published table to its digit
- a mean over concepts has all five; a constant prediction has no figure
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, create_model

from stepdiff_core.io.files import write_text
from stepdiff_core.io.jsonl import read_objects
from stepdiff_core.tasks.agreement import kendall, spearman
from stepdiff_core.tasks.benchmarks.figures import scores_of, summary, truths_of
from stepdiff_core.tasks.benchmarks.rows import (
    Ranking,
    Rating,
    entry,
    find,
    read_entries,
    read_json,
)
from stepdiff_core.tasks.bootstrap import Resamples, interval, mean_figure
from stepdiff_core.tasks.registry import ClipFile, TaskData, TaskSpec, published
from stepdiff_core.tasks.testsets import Pair, Prediction, parts_of

SOURCE = "github.com/benedettaliberatori/convisbench"
VIDEOS = "the data set bliberatori/ConViS-Bench"
ANSWERS = ("human_annotations/vicos.user_inputs.json", "user_inputs.json")
RANKINGS = ("human_annotations/to_be_ranked.json", "to_be_ranked.json")
LICENCE = "not stated by the authors"
CORRELATIONS = {"rho": spearman, "tau": kendall}
FIGURES = ("P@1", "R@1", "F1@1", "tau")
"""of retrieval"""


@dataclass(frozen=True)
class Concept:
    name: str
    """in the words of a question"""
    key: str
    """in the answers"""
    file: str
    """in names of files of predictions"""


CONCEPTS = (
    Concept("main action", "MainAction", "Main_Action"),
    Concept("main subjects", "MainSubjects", "Main_Subjects"),
    Concept("main objects", "MainObjects", "Main_Objects"),
    Concept("location", "Location", "Location"),
    Concept("order of actions", "OrderofActions", "Order_Of_Actions"),
)


def clip_of(path: str) -> str:
    """Return the id of the clip in a file. ValueError: an id with seconds of a video, or none."""
    clip = PurePosixPath(path).stem
    if not clip or parts_of(clip) is not None:
        raise ValueError(
            f"holds {path!r}: {clip!r} is not a clip of ConViS-Bench, <video>_<number>"
        )
    return clip


def _split_pair(text: Any) -> Pair:
    one, dash, two = str(text).partition("-")
    if not dash or not one or not two:
        raise ValueError(f"is {text!r:.60}, not an id of a pair, <clip>.mp4-<clip>.mp4")
    return clip_of(one), clip_of(two)


def _clip_file(path: str) -> ClipFile:
    return ClipFile(clip_of(path), path, metadata={"domain": PurePosixPath(path).parent.name})


_Clip = Annotated[str, AfterValidator(clip_of)]
_ANSWER: Any = create_model(
    "_Answer",
    video_pair_id=Annotated[Pair, BeforeValidator(_split_pair)],
    user_inputs=create_model(
        "_Scores", **{concept.key: Literal[tuple("12345")] for concept in CONCEPTS}
    ),  # type: ignore[call-overload, valid-type]
)
_LISTS = TypeAdapter(dict[_Clip, Annotated[tuple[_Clip, ...], Field(min_length=1)]])
_VIDEO = Annotated[str, AfterValidator(_clip_file)]
_VIDEOS: Any = create_model("_Videos", video1=_VIDEO, video2=_VIDEO)


def read_answers(folder: Path) -> dict[Pair, list[tuple[int, ...]]]:
    """Return the answers about each pair, in the order of the file: scores of 1 to 5 in the order
    of CONCEPTS."""
    answers: dict[Pair, list[tuple[int, ...]]] = defaultdict(list)
    for answer in read_entries(
        find(folder, ANSWERS, SOURCE), SOURCE, "answer", _ANSWER.model_validate
    ):
        scores = answer.user_inputs.model_dump().values()
        answers[answer.video_pair_id].append(tuple(map(int, scores)))
    return answers


def clips(folder: Path) -> Iterator[ClipFile]:
    """Yield the clips of the pairs, each once."""
    files: dict[str, ClipFile] = {}
    for place, line in read_objects(find(folder, ["ConVIS.jsonl"], f"{VIDEOS}, with the videos")):
        pair = entry(_VIDEOS.model_validate, line, place, VIDEOS)
        for clip in (pair.video1, pair.video2):
            files.setdefault(clip.clip, clip)
    yield from files.values()


def export(
    _: Path, rows: Sequence[Any], predictions: Sequence[Prediction | None], folder: Path
) -> list[Path]:
    """Write one file for each concept, where the authors' scorer looks for a model with the
    folder's name.

    A score of 0 is written as the smallest number above it, because that scorer takes 0.0 for a
    missing score.
    """
    entries: dict[str, list[dict[str, Any]]] = {concept.name: [] for concept in CONCEPTS}
    for row, prediction in zip(rows, predictions, strict=True):
        if prediction is not None:
            ((score,),) = scores_of([row], [prediction])
            one, two = (f"videos_trimmed/{clip}.mp4" for clip in row.clips)
            entries[row.concept].append(
                {"video1": one, "video2": two, "similarity": score or 5e-324}
            )
    name = folder.absolute().name
    files = []
    for concept in CONCEPTS:
        if entries[concept.name]:
            place = folder / "computed_conditioned_similarities" / concept.file / name
            files.append(place / f"{name}_{concept.file}_similarities.json")
            write_text(files[-1], json.dumps(entries[concept.name], indent=4, allow_nan=False))
    return files


def read(folder: Path) -> TaskData:
    """Read the pairs and the people's scores, in the order of the answers."""
    answers = read_answers(folder)
    rows, truth = [], {}
    for pair, scores in answers.items():
        for concept, mean in zip(CONCEPTS, np.mean(scores, axis=0).tolist(), strict=True):
            rows.append(Rating(f"{pair[0]}-{pair[1]}: {concept.name}", pair, concept.name))
            truth[rows[-1].key] = mean
    return TaskData(
        rows, truth, (f"{len(answers)} pairs, {sum(map(len, answers.values()))} answers of people",)
    )


def score(
    rows: Sequence[Rating],
    predictions: Sequence[Prediction],
    truth: Mapping[str, float],
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the scores as TaskSpec.score: "rho CONCEPT" and "tau CONCEPT" of each concept, "rho"
    and "tau", their means over the concepts (ours), and "missing", the number of rows without a
    prediction."""
    values = np.array(scores_of(rows, predictions))[:, 0]
    means = np.array(truths_of(rows, truth))
    draws = Resamples(["-".join(row.clips) for row in rows], bootstrap, seed)
    expected = Counter(key.rpartition(": ")[2] for key in truth)
    concepts = np.array([row.concept for row in rows])
    parts: dict[str, Any] = {}
    resampled: dict[str, np.ndarray] = {}
    for concept in [c.name for c in CONCEPTS if expected[c.name]]:
        chosen = np.flatnonzero(concepts == concept)
        parts[concept] = {"rows": len(chosen), "missing": expected[concept] - len(chosen)}
        both, weights = (values[chosen], means[chosen]), draws.counts[:, draws.member[chosen]]
        for name, correlation in CORRELATIONS.items():
            value = 100 * float(correlation(*both)[0]) if len(chosen) > 1 else math.nan
            defined = math.isfinite(value)
            parts[concept][name] = value if defined else None
            resampled[f"{name} {concept}"] = (
                100 * correlation(*both, weights) if defined else np.full(len(weights), np.nan)
            )
    figures = {
        f"{name} {concept}": part[name] for name in CORRELATIONS for concept, part in parts.items()
    }
    for name in CORRELATIONS:
        keys = [f"{name} {concept}" for concept in parts]
        each = [figures[key] for key in keys]
        figures[name] = None if None in each else float(np.mean(each))
        resampled[name] = np.mean([resampled[key] for key in keys], axis=0)
    low_high = (
        {name: interval(resampled[name], draws.groups) for name in figures} if bootstrap else {}
    )
    return {
        "task": "convis",
        **figures,
        "rows": len(rows),
        "missing": len(truth) - len(rows),
        "videos": _videos(rows),
        "chance": dict.fromkeys(figures, 0.0),
        "intervals": {name: both and list(both) for name, both in low_high.items()},
        "per_category": parts,
    }


def _videos(rows: Sequence[Rating | Ranking]) -> int:
    """Return the number of videos that the clips are parts of."""
    return len({clip.rpartition("_")[0] or clip for row in rows for clip in row.clips})


def read_retrieval(folder: Path) -> TaskData:
    """Read the lists whose pairs have scores, each in five concepts; a pair counts in both
    orders."""
    pairs = read(folder)
    scores = {(frozenset(row.clips), row.concept): pairs.truth[row.key] for row in pairs.rows}
    path = find(folder, RANKINGS, SOURCE)
    lists = entry(_LISTS.validate_python, read_json(path, SOURCE), str(path), SOURCE)
    rows, truth = [], {}
    for reference, targets in lists.items():
        for concept in CONCEPTS:
            means = [
                scores.get((frozenset((reference, target)), concept.name)) for target in targets
            ]
            if None not in means:
                rows.append(
                    Ranking(f"{reference}: {concept.name}", reference, targets, concept.name)
                )
                truth[rows[-1].key] = means
    count = len({row.reference for row in rows})
    note = (
        f"{count} of {len(lists)} lists, those whose pairs all have scores; their own ranking is "
        "not published"
    )
    return TaskData(rows, truth, (note,))


def compare(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float, float]:
    """Return precision, recall and F1 of the best targets, and tau-b, which is NaN if all values of
    a side tie."""
    best, right = (
        {i for i, value in enumerate(side) if value == max(side)} for side in (ours, theirs)
    )
    hits = len(best & right)
    precision, recall = hits / len(best), hits / len(right)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return precision, recall, f1, float(kendall(np.array(ours, float), np.array(theirs, float))[0])


def score_retrieval(
    rows: Sequence[Ranking],
    predictions: Sequence[Prediction],
    truth: Mapping[str, Sequence[float]],
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the scores as TaskSpec.score; lists are drawn for the intervals, not their concepts.
    `chance` scores random orders without ties."""
    truths = truths_of(rows, truth)
    values = np.array(
        [compare(*sides) for sides in zip(scores_of(rows, predictions), truths, strict=True)]
    )
    level = np.array(
        [
            np.mean([compare(one, means)[:3] for one in np.eye(len(means)).tolist()], axis=0)
            for means in truths
        ]
    )
    defined = ~np.isnan(values[:, 3])
    figures = {name: mean_figure(100 * values[:, i]) for i, name in enumerate(FIGURES[:3])}
    chance = {name: mean_figure(100 * level[:, i]) for i, name in enumerate(FIGURES[:3])}
    figures["tau"], chance["tau"] = (
        mean_figure(100 * values[:, 3], defined),
        mean_figure(np.zeros(len(rows))),
    )
    concepts = {c.name: np.array([row.concept == c.name for row in rows]) for c in CONCEPTS}
    draws = Resamples([row.reference for row in rows], bootstrap, seed)
    scores = summary(
        "convis-retrieval", rows, figures, draws, chance, {"rows_with_tau": defined}, concepts
    )
    return scores | {"videos": _videos(rows)}


_KEYS = {
    f"{kind} {concept.name}": f"{concept.name}, {kind}"
    for kind in CORRELATIONS
    for concept in CONCEPTS
}
SPEC = TaskSpec(
    name="convis",
    title="ConViS-Bench",
    figures=_KEYS,
    read=read,
    score=score,
    clips=clips,
    export=export,
    published=published("convis"),
    chance=dict.fromkeys(_KEYS, 0.0),
    form=".1f",
    licence=LICENCE,
)
RETRIEVAL = TaskSpec(
    name="convis-retrieval",
    title="ConViS-Bench, retrieval",
    figures={name: name for name in FIGURES},
    read=read_retrieval,
    score=score_retrieval,
    clips=clips,
    form=".1f",
    licence=LICENCE,
)
