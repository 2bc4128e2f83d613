"""The rows of an evaluation, of a published test set or of a benchmark: which are answered, written
and scored how.

Guarantees
- rows keep the order of the test set
- every name of a subset selects a row, or is refused
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from heads.evaluation import judges
from heads.evaluation.options import EvaluateOptions
from heads.methods.similarity import sentences
from stepdiff_core.errors import StepDiffError
from stepdiff_core.streams import published
from stepdiff_core.tasks import registry
from stepdiff_core.tasks.benchmarks.rows import BenchmarkRow, Ranking, Rating
from stepdiff_core.tasks.declining import agreeing
from stepdiff_core.tasks.registry import TaskData
from stepdiff_core.tasks.scoring import score, score_asked
from stepdiff_core.tasks.testsets import (
    DiffMCQ,
    drawn,
    published_task,
    read_test_set,
    reference_video,
)

AnyRow = TypeVar("AnyRow")


def read_rows(options: EvaluateOptions) -> tuple[TaskData, list[Any]]:
    """Read the test set, or the folder of a benchmark, and the rows that the options select."""
    task_data = registry.get(options.task).read(Path(options.source))
    groups: list[list[Any]] = [task_data.rows]
    if options.no_difference is not None:
        groups.append(agreeing(read_test_set("diffrank", options.no_difference)))
    if options.subset is not None:
        names = named([row for rows in groups for row in rows], options.subset)
        groups = [select(rows, names) for rows in groups]
    if options.rows is not None:
        groups = [drawn(rows, options.rows, published(options.seed)) for rows in groups]
    return task_data, [row for group in groups for row in group]


def named(rows: Sequence[Any], subset: str) -> list[str]:
    """Return the names of a subset, separated by commas, or else the lines of a file.
    StepDiffError: no names, or one that selects none of the rows."""
    selectable = set().union(*map(_names, rows))
    names = list(filter(None, map(str.strip, subset.split(","))))
    if selectable.issuperset(names) and names:
        return names
    try:
        names = list(
            filter(None, map(str.strip, Path(subset).read_text(encoding="utf-8-sig").split("\n")))
        )
    except UnicodeDecodeError as error:
        raise StepDiffError(
            f"{subset}: not UTF-8 ({error.reason}); give a file of names, one a line"
        ) from error
    except OSError:  # no file, or too long for a file's name
        pass
    if not names:
        raise StepDiffError(
            f"{subset or 'subset'}: no names; give categories, videos or reference clips"
        )
    if unknown := sorted(set(names) - selectable):
        of_test_set = "category, reference video or reference clip of the test set"
        what = (
            "key, concept or clip of the benchmark"
            if isinstance(rows[0], BenchmarkRow)
            else of_test_set
        )
        raise StepDiffError(
            f"subset: {unknown[0]!r} is not a {what}"
            + (f" ({len(unknown)} such names)" if len(unknown) > 1 else "")
        )
    return names


def select(rows: Sequence[AnyRow], names: Collection[str]) -> list[AnyRow]:
    """Return the rows that one of the names selects."""
    return [row for row in rows if _names(row).intersection(names)]


def _names(row: Any) -> set[str]:
    """Return the names that select a row: its category, reference clip and its video, or of a
    benchmark its key, the concept and every clip. A DiffMCQ row's reference is its answer's."""
    if isinstance(row, BenchmarkRow):
        return {row.key, *row.clips, *([row.concept] if isinstance(row, Rating | Ranking) else [])}
    clip = row.answer[0] if isinstance(row, DiffMCQ) else row.reference
    return {row.category, reference_video(row), clip}


def score_rows(
    options: Any,
    task_data: TaskData,
    rows: Sequence[Any],
    predictions: Sequence[Any],
    file: str,
    similar: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Return the scores of predictions. options: of heads.evaluate or heads.score.

    file: of the predictions, next to which a judge's answers are kept; similar: log p(YES) - log
    p(NO) that clips of each row are similar, if captions have it.
    """
    task = published_task(options.task)
    if task is None:
        return _benchmark_scores(options, task_data, rows, predictions, Path(file))
    embed = sentences(options.store, options.device) if options.similarity else None
    scores = score(
        task,
        rows,
        predictions,
        options.bootstrap,
        options.seed,
        embed,
        registry.truth_of(options.truth),
    )
    if similar is not None:
        scores["asked_first"] = score_asked(
            rows, predictions, similar, options.bootstrap, options.seed
        )
    return scores


def _benchmark_scores(
    options: Any, task_data: TaskData, rows: Sequence[Any], predictions: Sequence[Any], file: Path
) -> dict[str, Any]:
    """Return the scores with the benchmark's notes and the number of rows without a prediction."""
    benchmark, notes = registry.get(options.task), list(task_data.notes)
    if benchmark.judge is not None:
        judge = judges.load(options, file.with_suffix(".judged.jsonl"))
        # no lone surrogates
        texts = [text.encode("utf-8", "replace").decode() for text in predictions]
        predictions = benchmark.judge(replace(task_data, rows=list(rows)), texts, judge)
        notes.append(
            f"judge: {judge.name}"
            + (f"; entailment: {options.entailment}" if options.entailment else "")
        )
    if missing := len(task_data.rows) - sum(prediction is not None for prediction in predictions):
        wrong = " and count wrong" if len(rows) == len(task_data.rows) else ""
        notes.append(f"{missing} of {len(task_data.rows)} rows have no prediction{wrong}")
    scores = benchmark.score(rows, predictions, task_data.truth, options.bootstrap, options.seed)
    return scores | {"notes": [*scores.get("notes", ()), *notes]}
