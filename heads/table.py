"""Print one table of many evaluations, with chance and controls.

python -m heads.table data/demo/*.scores.json --out data/demo/scores.json

A row marked ‡ is of a head that was trained on clips or videos of its test set (heads.evaluate --allow-seen).
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import command
from common.cli.options import parse
from common.errors import StepDiffError
from heads.evaluation.options import BUILT_IN
from heads.reporting.entries import CHANCE, MARK, footnote, marked

COLUMNS = {
    "diffcap": ("BLEU", "CIDEr", "ROUGE-L"),
    "diffmcq": ("accuracy",),
    "diffrank": ("ktau_all_rows", "ktau_within_step_all_rows"),
}


@dataclass(frozen=True)
class TableOptions:
    scores: tuple[str, ...]
    """score records of heads.evaluate (*.scores.json)"""
    out: str | None = None
    """JSON file to write the table to"""


def system(options: dict[str, Any], disclosed: dict[str, Any]) -> str:
    """Return the name of a row of the table."""
    if options["method"] not in BUILT_IN:
        return options["method"] + (f" ({options['view']})" if options["view"] else "")
    if options["method"] == "vlemb":
        pair = options.get("pair_embedding", "average")
        return f"VLEmb ({options['view']}" + (")" if pair == "average" else f", {pair} only)")
    if options["method"] == "step-oracle":
        return "control: knows the step only"
    control = {"none": "", "blind": ", control: no video", "shuffled": ", control: another video"}
    public = {"llava": "VCLM", "idefics": "Interleaved", "socratic": "Socratic"}
    name = public.get(options["method"]) or disclosed["recipe"]["system"]
    source = options["head"] or options.get("weights") or options.get("kind") or options.get("texts")
    return f"{name} ({source}){control[options['control']]}"


def run(options: TableOptions) -> dict[str, Any]:
    table: dict[str, dict[str, Any]] = {"chance": {k: {"value": v} for k, v in CHANCE.items()}}
    disclosed: dict[str, Any] = {}
    for path in options.scores:
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
            task, scores = record["options"]["task"], record["scores"]
            name = system(record["options"], record["disclosed"])
            figures = {
                metric: {"value": scores[metric], "interval": (scores["intervals"] or {}).get(metric)}
                for metric in COLUMNS[task]
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StepDiffError(
                f"{path}: not a score record of this version of heads.evaluate ({error}); evaluate again"
            ) from error
        row = table.setdefault(name, {})
        if task in row.get("rows", {}):
            raise StepDiffError(f"{path}: a second {task} of {name}; give one test set per task")
        row.update(figures)
        row.setdefault("rows", {})[task] = scores["rows"]
        if seen := marked(record):
            row.setdefault("seen", {})[task] = seen
        disclosed[name] = record["disclosed"]
    record = {"systems": table, "disclosed": disclosed}
    if options.out is not None:
        from common.io.files import write_text

        write_text(Path(options.out), json.dumps(record, indent=1, allow_nan=False))
    return record


def cell(row: dict[str, Any], metric: str) -> str:
    figure = row.get(metric)
    if figure is None:
        return ""
    if figure["value"] is None:
        return "undefined"
    interval = figure.get("interval")
    return f"{figure['value']:.3f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def plain(value: Any) -> str:
    """Return a recipe's value in words."""
    if isinstance(value, list):
        return " and ".join(map(plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def show(record: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    names = {
        "accuracy": "DiffMCQ accuracy",
        "ktau_all_rows": "DiffRank tau",
        "ktau_within_step_all_rows": "tau within step",
        "BLEU": "DiffCap BLEU",
        "CIDEr": "CIDEr",
        "ROUGE-L": "ROUGE-L",
    }
    table = Table(Column("system", overflow="fold"), *names.values(), title="scores with 95 % intervals")
    for name, row in record["systems"].items():
        mark = f" {MARK}" if "seen" in row else ""
        table.add_row(name + mark, *(cell(row, metric) for metric in names))
    Console(width=None if sys.stdout.isatty() else 180, markup=False).print(table)  # a folder's name is not markup
    for name, row in record["systems"].items():
        for task, seen in row.get("seen", {}).items():
            print(f"{MARK} {name}, {task}: {footnote(seen)}")
    trained: dict[str, str] = {}  # recipe in words -> the first row with it; its controls have the same
    for name, disclosed in record["disclosed"].items():
        if recipe := disclosed.get("recipe"):
            trained.setdefault(", ".join(f"{key} {plain(value)}" for key, value in recipe.items()), name)
    for facts, name in trained.items():
        print(f"{name}: {facts}")


def main(argv: list[str] | None = None) -> int:
    return parse(TableOptions, argv, "heads.table", __doc__, run, show, ("scores",))


if __name__ == "__main__":
    command.run(main)
