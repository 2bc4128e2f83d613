"""Tables of other people's benchmarks: our rows, those that the authors publish, and chance.

Guarantees
- a_published_row_is_marked_and_names_its_source
- a_record_of_a_part_of_a_benchmark_is_marked_with_its_rows
- a_record_of_a_published_task_is_refused_in_one_line
- a_note_on_some_methods_names_them
- chance_is_that_of_the_most_rows
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import StepDiffError
from heads.reporting.entries import MARK, marked, score_record
from heads.reporting.grid import Block, Cell, Grid, Row, number
from tasks import benchmarks
from tasks.benchmarks.benchmark import Benchmark


@dataclass(frozen=True)
class BenchmarkEntry:
    method: str
    """name of the method: its row in the table"""
    predictions: str
    """file that heads.evaluate wrote, with its score record next to it"""


@dataclass(frozen=True)
class BenchmarkScore:
    """The scores of a method on a benchmark."""

    task: str
    method: str
    predictions: str
    scores: dict[str, Any]
    """as Benchmark.score returns"""
    seen: dict[str, Any] | None
    """counts of heads.evaluation.seen, if its head was trained on clips or videos of the benchmark"""


def read_scores(entries: Sequence[BenchmarkEntry]) -> list[BenchmarkScore]:
    """Return the scores of each entry. StepDiffError: no score record of a benchmark next to its predictions, or two
    entries for one row of a table."""
    found: dict[tuple[str, str], BenchmarkScore] = {}
    for entry in entries:
        record = score_record(entry.predictions)
        options, scores = (_part(record, name) for name in ("options", "scores"))
        task = str(options.get("task"))
        if task not in benchmarks.MODULES or not {"rows", "intervals"} <= scores.keys():
            raise StepDiffError(
                f"{entry.predictions}: no score record of a benchmark next to it; write both with python -m "
                "heads.evaluate, and list published tasks among predictions"
            )
        if (task, entry.method) in found:
            first = found[task, entry.method].predictions
            raise StepDiffError(f"{entry.predictions}: {first} is the row {entry.method!r} of {task} too; rename one")
        found[task, entry.method] = BenchmarkScore(task, entry.method, entry.predictions, scores, marked(record))
    return list(found.values())


def _part(record: Any, name: str) -> dict[str, Any]:
    found = record.get(name) if isinstance(record, dict) else None
    return found if isinstance(found, dict) else {}


def benchmark_grids(scores: Sequence[BenchmarkScore]) -> list[Grid]:
    """Return a table for each benchmark, in the order of first appearance."""
    names = dict.fromkeys(score.task for score in scores)
    return [_grid(benchmarks.get(name), [score for score in scores if score.task == name]) for name in names]


def _grid(benchmark: Benchmark, scores: Sequence[BenchmarkScore]) -> Grid:
    largest = max(scores, key=lambda score: score.scores["rows"])
    most = largest.scores["rows"]
    ours: list[Row] = []
    notes = [f"{benchmark.title}: {most} rows. Brackets: 95 % intervals."]
    for score in scores:
        rows, seen = score.scores["rows"], score.seen
        name = score.method if rows == most else f"{score.method} ({rows} rows)"
        if seen is not None:
            clips = f"{seen['clips_of_videos']} of {seen['of_clips']} clips are from videos that trained this head"
            notes.append(f"{MARK} {score.method}: {clips}.")
        ours.append((f"{name} {MARK}" if seen else name, _cells(benchmark, score.scores, score.scores["intervals"])))
    for note in dict.fromkeys(note for score in scores for note in score.scores.get("notes", ())):
        methods = [score.method for score in scores if note in score.scores.get("notes", ())]
        notes.append(note if len(methods) == len(scores) else f"{', '.join(methods)}: {note}")
    chance = largest.scores.get("chance") or benchmark.chance
    blocks = [Block("measured here", ours)]
    if chance:
        blocks.append(Block("", [("chance", _cells(benchmark, chance, {}))]))
    if benchmark.published:
        rows_of_others = [(row.method, _cells(benchmark, row.figures, {})) for row in benchmark.published]
        blocks.append(Block("as published", rows_of_others))
        notes.append("As published: " + "; ".join(dict.fromkeys(row.source for row in benchmark.published)) + ".")
    if benchmark.licence:
        notes.append(f"Licence of the data: {benchmark.licence}.")
    return Grid(benchmark.title, "method", [("", name) for name in benchmark.figures.values()], blocks, notes)


def _cells(
    benchmark: Benchmark, values: Mapping[str, Any], intervals: Mapping[str, Sequence[float] | None]
) -> list[Cell | None]:
    return [
        _cell(values[name], intervals.get(name), benchmark.form) if name in values else None
        for name in benchmark.figures
    ]


def _cell(value: float | None, interval: Sequence[float] | None, form: str) -> Cell:
    if value is None:
        return Cell("undefined")
    between = "" if interval is None else f"[{number(interval[0], form)}, {number(interval[1], form)}]"
    return Cell(number(value, form), between)
