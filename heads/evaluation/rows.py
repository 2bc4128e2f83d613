"""The rows of an evaluation, of a published test set or of a benchmark: which are answered, written and scored how.

Guarantees
- rows keep the order of the test set
- every name of a subset selects a row, or is refused
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from common.errors import StepDiffError
from common.progress import say
from common.streams import published
from heads.evaluation.judges import load as load_judge
from heads.evaluation.options import EvaluateOptions, judge_options
from heads.methods.similarity import sentences
from tasks import benchmarks
from tasks.benchmarks import predictions as of_benchmarks
from tasks.benchmarks import rows as benchmark_rows
from tasks.benchmarks.benchmark import Asked
from tasks.benchmarks.predictions import write_answers
from tasks.benchmarks.rows import BenchmarkRow, Ranking, Rating
from tasks.declining import agreeing
from tasks.scoring import TruthFigures, score, score_asked
from tasks.testsets import (
    ROWS,
    DiffMCQ,
    Task,
    digest,
    drawn,
    read_test_set,
    reference_video,
    write_predictions,
    write_test_set,
)

AnyRow = TypeVar("AnyRow")


def published_task(name: str) -> Task | None:
    """Return the published task of that name; None for a benchmark."""
    return next((task for task in ROWS if task == name), None)


def read_benchmark(options: EvaluateOptions) -> Asked | None:
    """Read the folder of a benchmark; None: the task is a published one."""
    if published_task(options.task) is not None:
        return None
    return benchmarks.get(options.task).read(Path(options.source))


def read_rows(options: EvaluateOptions, benchmark: Asked | None) -> list[Any]:
    """Return the rows that the options select; benchmark: as `read_benchmark` returns."""
    if benchmark is not None:
        groups: list[list[Any]] = [benchmark.rows]
    else:
        task = published_task(options.task)
        assert task is not None
        groups = [read_test_set(task, options.source)]
    if options.no_difference is not None:
        groups.append(agreeing(read_test_set("diffrank", options.no_difference)))
    if options.subset is not None:
        names = named([row for rows in groups for row in rows], options.subset)
        groups = [select(rows, names) for rows in groups]
    if options.rows is not None:
        groups = [drawn(rows, options.rows, published(options.seed)) for rows in groups]
    return [row for group in groups for row in group]


def digest_of(options: EvaluateOptions, rows: Sequence[Any]) -> str:
    """Return a sha256 of what the rows ask."""
    return benchmark_rows.digest(rows) if published_task(options.task) is None else digest(rows)


def named(rows: Sequence[Any], subset: str) -> list[str]:
    """Return the names of a subset, separated by commas, or else the lines of a file.

    Raises:
        StepDiffError: no names, or one that selects none of the rows.
    """
    known = set().union(*map(_names, rows))
    names = _stripped(subset.split(","))
    if known.issuperset(names) and names:
        return names
    try:
        names = _stripped(Path(subset).read_text(encoding="utf-8-sig").split("\n"))
    except UnicodeDecodeError as error:
        raise StepDiffError(f"{subset}: not UTF-8 ({error.reason}); give a file of names, one a line") from error
    except OSError:  # no file, or too long for a file's name
        pass
    if not names:
        raise StepDiffError(f"{subset or 'subset'}: no names; give categories, videos or reference clips")
    if unknown := sorted(set(names) - known):
        of_test_set = "category, reference video or reference clip of the test set"
        what = "key, concept or clip of the benchmark" if isinstance(rows[0], BenchmarkRow) else of_test_set
        raise StepDiffError(
            f"subset: {unknown[0]!r} is not a {what}" + (f" ({len(unknown)} such names)" if len(unknown) > 1 else "")
        )
    return names


def _stripped(names: Sequence[str]) -> list[str]:
    return [name.strip() for name in names if name.strip()]


def select(rows: Sequence[AnyRow], names: Collection[str]) -> list[AnyRow]:
    """Return the rows that one of the names selects."""
    return [row for row in rows if _names(row).intersection(names)]


def _names(row: Any) -> set[str]:
    """Return the names that select a row: its category, reference clip and its video, or of a benchmark its key, the
    concept and every clip. A DiffMCQ row's reference is its answer's."""
    if isinstance(row, BenchmarkRow):
        return {row.key, *row.clips, *([row.concept] if isinstance(row, Rating | Ranking) else [])}
    clip = row.answer[0] if isinstance(row, DiffMCQ) else row.reference
    return {row.category, reference_video(row), clip}


def write_files(
    options: EvaluateOptions,
    rows: Sequence[Any],
    predictions: Sequence[Any],
    whole: bool,
    similar: Sequence[float] | None,
) -> None:
    """Write the predictions, and unless they answer a whole test set, its answered rows.

    Those of a benchmark name their rows. similar: the number "similar" of each line of captions.
    """
    out, task = Path(options.out), published_task(options.task)
    answered = out.with_suffix(".rows.jsonl")
    answered.unlink(missing_ok=True)
    if task is None:
        write_answers(out, rows, predictions)
        return
    if not whole:
        write_test_set(task, answered, rows)
    write_predictions(task, out, predictions, similar)


def score_rows(
    options: EvaluateOptions,
    benchmark: Asked | None,
    rows: Sequence[Any],
    predictions: Sequence[Any],
    similar: Sequence[float] | None,
) -> dict[str, Any]:
    """Return the scores of predictions; benchmark: as `read_benchmark` returns."""
    if benchmark is not None:
        return benchmark_scores(options, benchmark, rows, predictions, Path(options.out), options.store)
    task = published_task(options.task)
    assert task is not None
    embed = sentences(options.store, options.device) if options.similarity else None
    scores = score(task, rows, predictions, options.bootstrap, options.seed, embed, load_truth(options.truth))
    if similar is not None:
        scores["asked_first"] = score_asked(rows, predictions, similar, options.bootstrap, options.seed)
    return scores


def load_truth(file: str | None) -> TruthFigures | None:
    """Return the truth score by a world's attributes.jsonl, None without a file. StepDiffError: it cannot be read."""
    if file is None:
        return None
    from kitchen.truth import truth_figures  # the sample world needs packages that heads do not

    return truth_figures(file)


def benchmark_scores(
    options: Any, asked: Asked, rows: Sequence[Any], predictions: Sequence[Any], file: Path, store: str | None
) -> dict[str, Any]:
    """Return the scores of predictions for rows of a benchmark, with its notes and the number of rows left out.

    options: of heads.evaluate or heads.score; file: that of the predictions. What a judge says is kept next to it.
    """
    benchmark, notes = benchmarks.get(options.task), list(asked.notes)
    if benchmark.judge is not None:
        judge = load_judge(judge_options(options), file.with_suffix(".judged.jsonl"), store, options.device)
        texts = [text.encode("utf-8", "replace").decode() for text in predictions]  # no lone surrogates
        predictions = benchmark.judge(replace(asked, rows=list(rows)), texts, judge)
        notes.append(f"judge: {judge.name}" + (f"; entailment: {options.entailment}" if options.entailment else ""))
    if left_out := len(asked.rows) - len(rows):
        notes.append(f"{left_out} of {len(asked.rows)} rows have no prediction")
    scores = benchmark.score(rows, predictions, asked.truth, options.bootstrap, options.seed)
    return scores | {"notes": [*scores.get("notes", ()), *notes]}


def score_file(options: Any, folder: Path) -> dict[str, Any]:
    """Return the scores of a file of predictions for a benchmark; options: of heads.score."""
    asked = benchmarks.get(options.task).read(folder)
    answered = of_benchmarks.read_answers(options.predictions, asked.rows)
    file = Path(options.predictions)
    if options.export is not None:
        export = benchmarks.get(options.task).export
        if export is None:
            raise StepDiffError(f"--export: the authors of {options.task} have no format of their own; leave it out")
        given = dict(zip((row.key for row in answered.rows), answered.predictions, strict=True))
        for path in export(folder, asked.rows, [given.get(row.key) for row in asked.rows], Path(options.export)):
            say(f"exported: {path}")
    return benchmark_scores(options, asked, answered.rows, answered.predictions, file, options.store)
