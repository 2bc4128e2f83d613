"""Print one table of many evaluations, with chance and controls.

python -m heads.table data/demo/*.scores.json --out data/demo/scores.json

Several test sets of DiffMCQ differ in their variant: V1, or the V2 or V3 in the name of the file
(diffmcq_V2.jsonl). The accuracy of a method that prefers no option in any row, such as one without
video, is undefined. The regime says what trained a row: – nothing, s1 what the paper's methods
learn from, supervised also answers to DiffRank's question; it is blank where that is not recorded.

Where score records have the truth score (heads.evaluate --truth), a second table has it.

A row marked ‡ is of a head that was trained on clips or videos of its test set (heads.evaluate
--allow-seen).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from heads.methods.registry import regime_of, regime_words, title_of
from heads.reporting import grid
from heads.reporting.entries import CHANCE, MARK, TRUTH_METRICS, footnote, marked
from heads.reporting.grid import Block, Cell, Grid, Result, Row, pivot
from stepdiff_core.cli import command
from stepdiff_core.cli.options import WRITTEN, parse
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.scoring import PUBLISHED

COLUMNS: dict[str, dict[str, str]] = {
    task: {
        **spec.figures,
        **{figure: heading for figure, heading in spec.further.items() if heading},
    }
    for task, spec in PUBLISHED.items()
}
"""task -> heading of each figure"""


@dataclass(frozen=True)
class TableOptions:
    scores: tuple[str, ...]
    """score records of heads.evaluate (*.scores.json)"""
    out: str | None = field(default=None, metadata=WRITTEN)
    """JSON file to write the table to"""


def variant(options: dict[str, Any]) -> str:
    """Return the variant of a DiffMCQ set by the name of its file, "" for V1 and other tasks."""
    match = re.search(
        r"(?<![A-Za-z0-9])V[23](?![A-Za-z0-9])", Path(options.get("test_set", "")).stem
    )
    return f"_{match[0]}" if match and options["task"] == "diffmcq" else ""


def run(options: TableOptions) -> dict[str, Any]:
    chance = CHANCE | {"accuracy_V2": CHANCE["accuracy"], "accuracy_V3": CHANCE["accuracy"]}
    systems: dict[str, Any] = {"chance": {name: {"value": value} for name, value in chance.items()}}
    systems["chance"]["regime"] = "none"
    disclosed: dict[str, Any] = {}
    for path in options.scores:
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
            evaluated, scores = record["options"], record["scores"]
            task = evaluated["task"]
            if task not in COLUMNS:
                raise StepDiffError(
                    f"{path}: {task} is a benchmark of others; python -m heads.report has its table"
                )
            form, name = variant(evaluated), title_of(record)
            figures = {
                metric + form: {
                    "value": scores[metric],
                    "interval": (scores["intervals"] or {}).get(metric),
                }
                for metric in (
                    *COLUMNS[task],
                    *(metric for metric in TRUTH_METRICS if metric in scores),
                )
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StepDiffError(
                f"{path}: not a score record of this version of heads.evaluate ({error}); evaluate "
                "again"
            ) from error
        row = systems.setdefault(name, {})
        if task + form in row.get("rows", {}):
            raise StepDiffError(
                f"{path}: a second {task}{form} of {name}; give one test set per task, or of "
                "DiffMCQ one per variant, with V2 or V3 in the name of its file"
            )
        row |= figures | {"regime": regime_of(record)}
        row.setdefault("rows", {})[task + form] = scores["rows"]
        if seen := marked(record):
            row.setdefault("seen", {})[task + form] = seen
        disclosed[name] = record["disclosed"]
    table = {"systems": systems, "disclosed": disclosed}
    if options.out is not None:
        from stepdiff_core.io.files import write_text

        write_text(Path(options.out), json.dumps(table, indent=1, allow_nan=False))
    return table


def plain(value: Any) -> str:
    """Return a recipe's value in words."""
    if isinstance(value, list):
        return " and ".join(map(plain, value))
    if isinstance(value, dict):
        return f"({', '.join(f'{key} {plain(each)}' for key, each in value.items())})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else str(value)


def show(record: dict[str, Any]) -> None:
    """Print the table, one of the truth score if records have it, and how each head was trained."""
    systems = record["systems"]
    measured = {metric for name, row in systems.items() if name != "chance" for metric in row}
    variants = {name: name[-2:] for name in ("accuracy_V2", "accuracy_V3") if name in measured}
    choices = COLUMNS["diffmcq"] | variants | COLUMNS["diffrank"]
    # recipe in words -> the first row with it; its controls have the same
    trained: dict[str, str] = {}
    for name, disclosed in record["disclosed"].items():
        if recipe := disclosed.get("recipe"):
            trained.setdefault(
                ", ".join(f"{key} {plain(value)}" for key, value in recipe.items()), name
            )
    notes = [
        f"{MARK} {name}, {task}: {footnote(seen)}"
        for name, row in systems.items()
        for task, seen in row.get("seen", {}).items()
    ]
    notes += [f"{name}: {facts}" for facts, name in trained.items()]
    titles: dict[str, Mapping[str, str]] = {
        "choices and ranking, with 95 % intervals": choices,
        "captions, with 95 % intervals": COLUMNS["diffcap"],
        "details that captions name, checked against the truth": TRUTH_METRICS,
    }
    tables = [table(title, headings, systems) for title, headings in titles.items()]
    *others, last = [each for each in tables if each.blocks[0].rows]
    grid.show([*others, replace(last, notes=notes)], 100)


def table(title: str, headings: Mapping[str, str], systems: Mapping[str, Any]) -> Grid:
    """Return a table with a column for each figure, and a row for each system that has one."""
    results = [
        Result(name, figure, row[figure]["value"], row[figure].get("interval"))
        for name, row in systems.items()
        for figure in headings
        if figure in row
    ]
    rows: list[Row] = [
        (
            f"{name} {MARK}" if "seen" in systems[name] else name,
            [Cell(regime_words(systems[name]["regime"])), *cells],
        )
        for name, cells in pivot(results, headings, ends=".2f").items()
    ]
    columns = [("", heading) for heading in ("regime", *headings.values())]
    return Grid(title, "system", columns, [Block("", rows)])


def main(argv: list[str] | None = None) -> int:
    return parse(TableOptions, argv, "heads.table", __doc__, run, show, ("scores",))


if __name__ == "__main__":
    command.run(main)
