"""The figures of a task from its test set and the predictions: the published ones, and what we add.

    diffcap    BLEU (BLEU-1 of the corpus), CIDEr (CIDEr-D, 0 to 10), ROUGE-L, over the rows that hold a text
               MPNet, where it is asked for: highest cosine of sentence embeddings to one of the texts
               declined: of the rows with a text, the part whose caption says that nothing differs
               invented: of the rows without one, the part whose caption does not say so; stands where there are such
               rows, with no_difference_rows: how many
    diffmcq    accuracy (the first of the highest scores is the choice); ties: rows whose highest score is shared
    diffrank   ktau: mean over rows of tau-b, null where any row has none, as one constant row has
               ktau_defined: mean over the rows that have one; nan_rows: how many have none
               ktau_all_rows: mean over the rows whose truth has an order; one that was given none counts 0
               ktau_within_step, ktau_within_step_all_rows: ktau_defined and ktau_all_rows over targets of the
               reference's own step (score above 0); within_step_rows: how many rows have such a tau

Beside them task, rows, videos (of the reference clips), intervals {figure: [low, high]} and per_category
{category: the same figures and counts}.

Guarantees
- equal to the published evaluation, whose rows all have a text
- rows without a text move no other figure than `invented`
- a category's CIDEr keeps the document frequencies of the whole test set
- a method that ties wherever it is unsure gains nothing by it in ktau_all_rows; one that orders no row at all has none
- NaN is never in the result: null stands for it
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from common.errors import StepDiffError
from tasks.declining import declines
from tasks.metrics.bootstrap import Figure, intervals, mean_figure
from tasks.metrics.captions import Embed, bleu, bleu_parts, cider_rows, count_corpus, rouge_rows, similarity_rows
from tasks.metrics.tau import kendall_tau
from tasks.testsets import ROWS, DiffCap, DiffMCQ, DiffRank, Prediction, Row, Task, check_prediction, reference_video

Marks = dict[str, np.ndarray]  # rows that are counted: {name: bool [rows]}


def score(
    task: Task,
    rows: Sequence[Row],
    predictions: Sequence[Prediction],
    bootstrap: int = 1000,
    seed: int = 0,
    embed: Embed | None = None,
) -> dict[str, Any]:
    """Figures as a dict that json.dumps takes. StepDiffError: no rows, or a prediction that does not fit its row.

    bootstrap: resamples of the reference videos behind each 95 % interval; 0 leaves the intervals out.
    embed: sentence embeddings (heads.methods.similarity.Sentences), for diffcap's figure MPNet.
    """
    if not rows or len(rows) != len(predictions):
        raise StepDiffError(f"{len(predictions)} predictions for {len(rows)} rows: nothing to score")
    if bootstrap < 0 or seed < 0:
        raise StepDiffError(f"bootstrap {bootstrap}, seed {seed}: neither may be below 0")
    if not all(isinstance(row, ROWS[task]) for row in rows):
        raise StepDiffError(f"not every row is one of {task}")
    checked: list[Any] = []
    for number, (row, prediction) in enumerate(zip(rows, predictions, strict=True), 1):
        try:
            checked.append(check_prediction(task, row, prediction))
        except StepDiffError as error:
            raise StepDiffError(f"prediction {number}: {error}") from error
    figures, marks = task_figures(task, rows, checked)
    if embed is not None:
        if task != "diffcap":
            raise StepDiffError(f"{task} has no captions whose similarity to a text could be told")
        figures["MPNet"] = _similarity(rows, checked, embed)
    videos = [reference_video(row) for row in rows]
    categories = np.array([row.category for row in rows], object)
    low_high = intervals(figures, videos, bootstrap, seed) if bootstrap else {}
    return {
        "task": task,
        **_summary(figures, marks, np.ones(len(rows), bool)),
        "videos": len(set(videos)),
        "intervals": {name: v if v is None else list(v) for name, v in low_high.items()},
        "per_category": {name: _summary(figures, marks, categories == name) for name in sorted(set(categories))},
    }


def task_figures(task: Task, rows: Sequence[Any], predictions: Sequence[Any]) -> tuple[dict[str, Figure], Marks]:
    """The task's figures by name, and the rows it counts, from predictions that fit their rows."""
    return _TASKS[task](rows, predictions)


def _summary(figures: dict[str, Figure], marks: Marks, chosen: np.ndarray) -> dict[str, Any]:
    values = {name: figure.of(chosen) for name, figure in figures.items()}
    found: dict[str, Any] = {k: v if math.isfinite(v) else None for k, v in values.items()}
    found |= {name: int((marked & chosen).sum()) for name, marked in marks.items()}
    return found | {"rows": int(chosen.sum())}


def _diffcap(rows: Sequence[DiffCap], predictions: Sequence[str]) -> tuple[dict[str, Figure], Marks]:
    differs = np.array([bool(row.text) for row in rows])
    references, captions = _with_text(rows, predictions)
    corpus = count_corpus(references, captions)
    declined = np.array([declines(caption) for caption in predictions], float)
    parts = np.stack([_spread(part, differs) for part in [*bleu_parts(corpus).T, np.ones(corpus.rows)]], axis=1)
    figures = {
        "BLEU": Figure(parts, _bleu_of_some),
        "CIDEr": mean_figure(_spread(cider_rows(corpus), differs), differs),
        "ROUGE-L": mean_figure(_spread(rouge_rows(references, captions), differs), differs),
        "declined": mean_figure(declined, differs),
    }
    if differs.all():
        return figures, {}
    return figures | {"invented": mean_figure(1 - declined, ~differs)}, {"no_difference_rows": ~differs}


def _similarity(rows: Sequence[Any], predictions: Sequence[str], embed: Embed) -> Figure:
    differs = np.array([bool(row.text) for row in rows])
    return mean_figure(_spread(similarity_rows(*_with_text(rows, predictions), embed), differs), differs)


def _with_text(rows: Sequence[DiffCap], predictions: Sequence[str]) -> tuple[list[tuple[str, ...]], list[str]]:
    """References and captions of the rows that have a reference."""
    both = [(row.text, caption) for row, caption in zip(rows, predictions, strict=True) if row.text]
    return [texts for texts, _ in both], [caption for _, caption in both]


def _spread(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Values of the marked rows [marked] as values of all rows [rows], 0 elsewhere."""
    spread = np.zeros(len(there))
    spread[there] = values
    return spread


def _bleu_of_some(sums: np.ndarray) -> np.ndarray:
    """BLEU of sums whose last column counts the rows; undefined for none."""
    return np.where(sums[..., -1] > 0, bleu(sums[..., :-1]), np.nan)


def _diffmcq(rows: Sequence[DiffMCQ], predictions: Sequence[list[float]]) -> tuple[dict[str, Figure], Marks]:
    scores = np.array(predictions, float)
    answers = np.array([row.options.index(row.answer) for row in rows])
    correct = scores.argmax(axis=1) == answers
    ties = (scores == scores.max(axis=1, keepdims=True)).sum(axis=1) > 1
    return {"accuracy": mean_figure(correct.astype(float))}, {"ties": ties}


def _diffrank(rows: Sequence[DiffRank], predictions: Sequence[list[float]]) -> tuple[dict[str, Figure], Marks]:
    width = max(len(row.scores) for row in rows)
    truth, said = np.zeros((2, len(rows), width))
    there = np.zeros((len(rows), width), bool)
    for number, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
        truth[number, : len(prediction)] = row.scores
        said[number, : len(prediction)] = prediction
        there[number, : len(prediction)] = True
    tau = kendall_tau(said, truth, there)
    within = kendall_tau(said, truth, there & (truth > 0))
    undefined, inside = np.isnan(tau), ~np.isnan(within)
    return {
        "ktau": mean_figure(tau),
        "ktau_defined": mean_figure(tau, ~undefined),
        "ktau_all_rows": _on_all_rows(tau, ordered(rows, 0)),
        "ktau_within_step": mean_figure(within, inside),
        "ktau_within_step_all_rows": _on_all_rows(within, ordered(rows, 1)),
    }, {"nan_rows": undefined, "within_step_rows": inside}


def ordered(rows: Sequence[DiffRank], least: int) -> Bool[np.ndarray, " rows"]:
    """Whether the truth orders the row's targets of that score and more."""
    return np.array([len({score for score in row.scores if score >= least}) > 1 for row in rows])


def _on_all_rows(tau: Float64[np.ndarray, " rows"], counted: Bool[np.ndarray, " rows"]) -> Figure:
    """The mean tau where a row that has an order and was given none counts 0, as chance does."""
    given = ~np.isnan(tau)
    return mean_figure(np.where(given, tau, 0.0), counted & given.any())


_TASKS: dict[Task, Any] = {"diffcap": _diffcap, "diffmcq": _diffmcq, "diffrank": _diffrank}
