"""Scores of a task from its test set and predictions: the published figures and additional ones.

    diffcap    BLEU (BLEU-1 of the corpus), CIDEr (CIDEr-D, 0 to 10), ROUGE-L, over the rows with a
               text MPNet (optional): highest cosine of sentence embeddings to one of the texts
               truth_precision, truth_recall, truth_swapped, truth_shared, truth_invented
                   (optional): details that
               captions name, checked against the exact attributes of both clips
               (stepdiff.kitchen.truth)
               declined: share of the rows with a text whose caption states that nothing differs
               invented: share of the rows without a text whose caption does not state it; only if
                   such rows exist,
               with no_difference_rows, their number
               unparsed_rows: number of captions that still name a video, since post-processing has
                   no pattern for them
    diffmcq    accuracy (the choice is the first of the highest scores), null if every row has
               several of them, as a method without video has; ties: rows with several highest
               scores
    diffrank   ktau: mean tau-b over rows, null if any row has no tau, as a constant row has none
               ktau_defined: mean over the rows that have a tau; nan_rows: number of rows without
                   one
               ktau_all_rows: mean over the rows with an order in the truth; a constant prediction
                   counts 0
               ktau_within_step, ktau_within_step_all_rows: ktau_defined and ktau_all_rows over
                   targets of the
               reference's own step (score above 0); within_step_rows: number of rows with such a
               tau

The result also holds task, rows, videos (of the reference clips), intervals {figure: [low, high]}
and per_category {category: the same figures and counts}. A clip's video is named by its id,
<video_uid>_<start>_<end>; a clip with another id counts as a video of its own.

Guarantees
- equal to the published evaluation, whose rows all have a text; rows without a text affect only
  `invented`
- a category's CIDEr keeps the document frequencies of the whole test set
- ties gain a method nothing: one that orders no row has no ktau_all_rows, one that prefers no
  option no accuracy
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.bootstrap import Figure, Resamples, mean_figure, values_and_counts
from stepdiff_core.tasks.captions import (
    Embed,
    bleu,
    bleu_parts,
    cider_rows,
    count_corpus,
    rouge_rows,
    similarity_rows,
)
from stepdiff_core.tasks.declining import asked_first, declines
from stepdiff_core.tasks.postprocess import names_video
from stepdiff_core.tasks.registry import TaskData, TaskSpec
from stepdiff_core.tasks.testsets import (
    ROWS,
    DiffCap,
    DiffMCQ,
    DiffRank,
    Prediction,
    Row,
    Task,
    check_prediction,
    read_test_set,
    reference_video,
)

PAIRS_AT_ONCE = 1 << 20
ASKED = "_asked"
"""suffix of the figures of captions that decline if the method, asked first, finds the clips
similar"""


def kendall_tau(
    first: Float64[np.ndarray, "rows targets"],
    second: Float64[np.ndarray, "rows targets"],
    counted: Bool[np.ndarray, "rows targets"] | None = None,
) -> Float64[np.ndarray, " rows"]:
    """Return tau-b of each row over the targets that `counted` marks (default: all). Values are
    finite."""
    rows, targets = first.shape
    if counted is None:
        counted = np.ones(first.shape, bool)
    earlier, later = np.triu_indices(targets, 1)
    step = max(1, PAIRS_AT_ONCE // max(len(earlier), 1))
    tau = np.empty(rows)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        both = counted[part, earlier] & counted[part, later]
        signs = [
            (values[part, earlier] > values[part, later]).astype(np.int8)
            - (values[part, earlier] < values[part, later])
            for values in (first, second)
        ]
        agreement = (signs[0] * signs[1] * both).sum(axis=1, dtype=np.int64)
        untied = [((sign != 0) & both).sum(axis=1) for sign in signs]
        with np.errstate(invalid="ignore"):
            tau[part] = agreement / np.sqrt(untied[0]) / np.sqrt(untied[1])
    return tau.clip(-1, 1)


Marks = dict[str, np.ndarray]
"""masks whose true entries are counted: {name: bool [rows]}"""
TruthFigures = Callable[[Sequence[DiffCap], Sequence[str]], dict[str, Figure]]
"""figures of captions by name, from rows and predictions"""


def score(
    task: Task,
    rows: Sequence[Row],
    predictions: Sequence[Prediction],
    bootstrap: int = 1000,
    seed: int = 0,
    embed: Embed | None = None,
    truth: TruthFigures | None = None,
) -> dict[str, Any]:
    """Return the scores as a dict for JSON.

    Args:
        task: Name of the task.
        rows: Rows of its test set.
        predictions: One prediction per row.
        bootstrap: Resamples of the reference videos for each 95 % interval; 0 omits the intervals.
        seed: Seed of the resamples.
        embed: Sentence embeddings for MPNet, a figure of diffcap.
        truth: The figures of the truth score, of diffcap (stepdiff.kitchen.truth.truth_figures).
    """
    if not rows or len(rows) != len(predictions):
        raise StepDiffError(
            f"{len(predictions)} predictions for {len(rows)} rows: nothing to score"
        )
    if not all(isinstance(row, ROWS[task]) for row in rows):
        raise StepDiffError(f"not every row is one of {task}")
    checked: list[Any] = []
    for number, (row, prediction) in enumerate(zip(rows, predictions, strict=True), 1):
        try:
            checked.append(check_prediction(row, prediction))
        except StepDiffError as error:
            raise StepDiffError(f"prediction {number}: {error}") from error
    figures, marks = task_figures(task, rows, checked)
    if truth is not None:
        figures |= truth([row for row in rows if isinstance(row, DiffCap)], checked)
    if embed is not None:
        if task != "diffcap":
            raise StepDiffError(f"{task} has no captions, so no similarity to a text")
        figures["MPNet"] = _similarity(rows, checked, embed)
    videos = [reference_video(row) for row in rows]
    categories = np.array([row.category for row in rows], object)
    return {
        "task": task,
        **values_and_counts(figures, marks, np.ones(len(rows), bool)),
        "videos": len(set(videos)),
        "intervals": Resamples(videos, bootstrap, seed).intervals(figures),
        "per_category": {
            name: values_and_counts(figures, marks, categories == name)
            for name in sorted(set(categories))
        },
    }


def score_asked(
    rows: Sequence[DiffCap],
    captions: Sequence[str],
    similar: Sequence[float],
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Return declined, invented (if some pairs agree) and their intervals, as `score`, if the
    method is asked first whether the clips are similar (`asked_first`)."""
    scores = score("diffcap", rows, asked_first(rows, captions, similar), bootstrap, seed)
    names = [name for name in ("declined", "invented") if name in scores]
    low_high = {name: scores["intervals"][name] for name in names if bootstrap}
    return {name: scores[name] for name in names} | {"intervals": low_high}


def task_figures(
    task: Task, rows: Sequence[Any], predictions: Sequence[Any]
) -> tuple[dict[str, Figure], Marks]:
    """Return the task's figures and marks by name, from predictions that fit their rows."""
    return _TASKS[task](rows, predictions)


def _diffcap(
    rows: Sequence[DiffCap], predictions: Sequence[str]
) -> tuple[dict[str, Figure], Marks]:
    differs = np.array([bool(row.text) for row in rows])
    references, captions = _with_text(rows, predictions)
    corpus = count_corpus(references, captions)
    declined = np.array([declines(caption) for caption in predictions], float)
    parts = np.stack(
        [_spread(part, differs) for part in [*bleu_parts(corpus).T, np.ones(corpus.rows)]], axis=1
    )
    figures = {
        "BLEU": Figure(parts, _bleu_of_some),
        "CIDEr": mean_figure(_spread(cider_rows(corpus), differs), differs),
        "ROUGE-L": mean_figure(_spread(rouge_rows(references, captions), differs), differs),
        "declined": mean_figure(declined, differs),
    }
    marks = {"unparsed_rows": np.array([names_video(caption) for caption in predictions])}
    if differs.all():
        return figures, marks
    return figures | {"invented": mean_figure(1 - declined, ~differs)}, marks | {
        "no_difference_rows": ~differs
    }


def cider_figure(rows: Sequence[DiffCap], predictions: Sequence[str]) -> Figure:
    """Return CIDEr alone, with the document frequencies of these rows, as `task_figures` does."""
    differs = np.array([bool(row.text) for row in rows], bool)
    return mean_figure(
        _spread(cider_rows(count_corpus(*_with_text(rows, predictions))), differs), differs
    )


def _similarity(rows: Sequence[Any], predictions: Sequence[str], embed: Embed) -> Figure:
    differs = np.array([bool(row.text) for row in rows])
    return mean_figure(
        _spread(similarity_rows(*_with_text(rows, predictions), embed), differs), differs
    )


def _with_text(
    rows: Sequence[DiffCap], predictions: Sequence[str]
) -> tuple[list[tuple[str, ...]], list[str]]:
    """References and captions of the rows with a text."""
    both = [(row.text, caption) for row, caption in zip(rows, predictions, strict=True) if row.text]
    return [texts for texts, _ in both], [caption for _, caption in both]


def _spread(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Values of the marked rows as values of all rows, 0 elsewhere."""
    spread = np.zeros(len(there))
    spread[there] = values
    return spread


def _bleu_of_some(sums: np.ndarray) -> np.ndarray:
    """BLEU from sums whose last column is the number of rows; NaN for no rows."""
    return np.where(sums[..., -1] > 0, bleu(sums[..., :-1]), np.nan)


def _diffmcq(
    rows: Sequence[DiffMCQ], predictions: Sequence[list[float]]
) -> tuple[dict[str, Figure], Marks]:
    scores = np.array(predictions, float)
    answers = np.array([row.options.index(row.answer) for row in rows])
    correct = scores.argmax(axis=1) == answers
    ties = (scores == scores.max(axis=1, keepdims=True)).sum(axis=1) > 1
    parts = np.stack([correct, np.ones(len(rows)), ties], axis=1).astype(float)
    return {"accuracy": Figure(parts, _accuracy)}, {"ties": ties}


def _accuracy(sums: Float64[np.ndarray, "*batch 3"]) -> Float64[np.ndarray, "*batch"]:
    """Accuracy from sums of right rows, rows and ties."""
    right, rows, ties = np.moveaxis(sums, -1, 0)
    # where every row ties, all choices are first options, which says nothing
    with np.errstate(invalid="ignore"):
        return np.where(ties < rows, right / rows, np.nan)


def _diffrank(
    rows: Sequence[DiffRank], predictions: Sequence[list[float]]
) -> tuple[dict[str, Figure], Marks]:
    width = max(len(row.scores) for row in rows)
    truth, predicted = np.zeros((2, len(rows), width))
    there = np.zeros((len(rows), width), bool)
    for number, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
        truth[number, : len(prediction)] = row.scores
        predicted[number, : len(prediction)] = prediction
        there[number, : len(prediction)] = True
    tau = kendall_tau(predicted, truth, there)
    within = kendall_tau(predicted, truth, there & (truth > 0))
    undefined, inside = np.isnan(tau), ~np.isnan(within)
    return {
        "ktau": mean_figure(tau),
        "ktau_defined": mean_figure(tau, ~undefined),
        "ktau_all_rows": _on_all_rows(tau, ordered(rows, 0)),
        "ktau_within_step": mean_figure(within, inside),
        "ktau_within_step_all_rows": _on_all_rows(within, ordered(rows, 1)),
    }, {"nan_rows": undefined, "within_step_rows": inside}


def ordered(rows: Sequence[DiffRank], least: int) -> Bool[np.ndarray, " rows"]:
    """Return for each row whether the truth orders its targets with a score of at least `least`."""
    return np.array([len({score for score in row.scores if score >= least}) > 1 for row in rows])


def _on_all_rows(tau: Float64[np.ndarray, " rows"], counted: Bool[np.ndarray, " rows"]) -> Figure:
    """The mean tau of the counted rows; a row without a tau counts 0, as by chance."""
    defined = ~np.isnan(tau)
    return mean_figure(np.where(defined, tau, 0.0), counted & defined.any())


_TASKS: dict[Task, Any] = {"diffcap": _diffcap, "diffmcq": _diffmcq, "diffrank": _diffrank}


def _read(task: Task, file: Path) -> TaskData:
    return TaskData(read_test_set(task, file), {})


def _score(
    task: Task,
    rows: Sequence[Any],
    predictions: Sequence[Any],
    truth: Mapping[str, Any],
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    return score(task, rows, predictions, bootstrap, seed)


def _published(task: Task, title: str, figures: dict[str, str], main: str, **more: Any) -> TaskSpec:
    read, score_rows = partial(_read, task), partial(_score, task)
    return TaskSpec(task, title, figures, read, score_rows, main=main, test_set=True, **more)


DIFFCAP = _published(
    "diffcap",
    "DiffCap",
    {"BLEU": "DiffCap BLEU", "CIDEr": "CIDEr", "ROUGE-L": "ROUGE-L"},
    "CIDEr",
    further=dict.fromkeys(("declined", "invented", f"declined{ASKED}", f"invented{ASKED}"), ""),
    options=(
        "no_difference",
        "similarity",
        "truth",
        "parse",
        "seeded",
        "decline_at",
        "ask_similar",
    ),
)
DIFFMCQ = _published(
    "diffmcq",
    "DiffMCQ",
    {"accuracy": "DiffMCQ accuracy"},
    "accuracy",
    chance={"accuracy": 0.25},
    options=("pair_embedding",),
)
DIFFRANK = _published(
    "diffrank",
    "DiffRank",
    {"ktau_all_rows": "DiffRank tau"},
    "ktau_all_rows",
    further={"ktau_within_step_all_rows": "tau within step"},
    chance={"ktau_all_rows": 0.0, "ktau_within_step_all_rows": 0.0},
)
PUBLISHED: dict[Task, TaskSpec] = {"diffcap": DIFFCAP, "diffmcq": DIFFMCQ, "diffrank": DIFFRANK}
