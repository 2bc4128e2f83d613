"""stepdiff annotate agreement data/people/answers.jsonl --task data/people/task.yaml --out data/people/agreement.md

How far people agree about the differences of clips: two of three, Cohen's kappa, Krippendorff's alpha, the distance of
different scores, and each person's time, distance from the others and agreement on gold pairs. FILE holds collected
answers as JSON lines or CSV, a Label Studio export, or user_inputs.json of ConViS-Bench.

Scores: 5 = not different, 1 = very different.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from heads.reporting.grid import Block, Cell, Grid, number, to_markdown
from heads.reporting.grid import show as show_tables
from stepdiff.common.cli import command
from stepdiff.common.cli.options import incomplete, parse

NOTES = (
    "Scores: {scores}. An item is a pair of clips in a category that at least two people scored.",
    "2 of 3: share of all triples of people who scored one item in which at least two gave the same score. "
    "Equal: share of all pairs of people. "
    "Kappa: Cohen's, mean over pairs of people who share items; weighted: by how many items they share. "
    "Distance: mean distance of two different scores of one item. "
    "Alpha: Krippendorff's; 0 = chance, 1 = all agree.",
)
PERSON = {
    "answers": ("pairs", ","), "rejected": ("rejected", ","), "seconds": ("median s", ".0f"),
    "distance": ("distance", ".2f"), "gold_scores": ("gold scores", ","), "gold": ("gold", ".0%"),
}  # fmt: skip
"""figure of a person -> its heading, and its form"""
PEOPLE_NOTE = (
    "Distance: of a person's score from the median of the others' scores, mean. Gold: share of scores of gold pairs "
    "within the tolerance of the known score."
)


@dataclass(frozen=True)
class AgreementOptions:
    file: str
    """collected answers"""
    task: str | None = None
    """YAML file of the annotation task, which has the known scores of gold pairs"""
    out: str | None = None
    """Markdown file to write the tables to"""


def run(options: AgreementOptions) -> dict[str, Any]:
    from stepdiff.annotate.people.agreement import agreement
    from stepdiff.annotate.people.answers import read_collected
    from stepdiff.annotate.people.form import read_task
    from stepdiff.common.io.files import write_text

    task = None if options.task is None else read_task(options.task)
    refused: list[str] = []
    answers = read_collected(options.file, refused.append)
    record = {"file": options.file, **asdict(agreement(answers, task)), "failed": refused}
    if options.out is not None:
        page = f"# Agreement\n\n{summary(record)}\n\n" + "".join(map(to_markdown, grids(record)))
        write_text(Path(options.out), page)
    return record


def summary(record: dict[str, Any]) -> str:
    counts = "{answers:,} answers of {people:,} people about {pairs:,} pairs, {rejected:,} of them rejections"
    replaced = "; {replaced:,} earlier answers do not count." if record["replaced"] else "."
    return (counts + replaced).format(**record)


def grids(record: dict[str, Any]) -> list[Grid]:
    names = ("nominal", "ordinal", "interval")
    columns = [("", "items"), ("", "scores"), ("", "2 of 3"), ("", "equal"), ("kappa", "mean"), ("kappa", "weighted")]
    columns += [("", "distance"), *(("alpha", name) for name in names)]

    def row(name: str, figures: dict[str, Any]) -> tuple[str, list[Cell | None]]:
        shares = ("two_of_three", "pairwise", "kappa", "kappa_weighted", "distance", *names)
        counts = [cell(figures["items"], ","), cell(figures["ratings"], ",")]
        return name, [*counts, *(cell(figures[key], ".3f") for key in shares)]

    blocks = [Block("", [row(name, figures) for name, figures in record["categories"].items()])]
    blocks.append(Block("", [row("all categories", record["overall"])]))
    if record["rejected"]:
        blocks.append(Block("", [row("rejecting the pair", record["rejections"])]))
    notes = [note.format(**record) for note in NOTES]
    people = [
        (person["annotator"], [cell(person[key], form) for key, (_, form) in PERSON.items()])
        for person in record["annotators"]
    ]
    headings = [("", heading) for heading, _ in PERSON.values()]
    table = Grid("People", "annotator", headings, [Block("", people)], [PEOPLE_NOTE])
    return [Grid("Agreement by category", "category", columns, blocks, notes), table]


def cell(value: int | float | None, form: str) -> Cell | None:
    """Return a figure's cell, None where it is not defined."""
    return None if value is None else Cell(f"{value:{form}}" if form in (",", ".0%") else number(value, form))


def show(record: dict[str, Any]) -> None:
    from stepdiff.annotate.people.answers import show_refused

    show_refused(record)
    print(f"{record['file']}: {summary(record)}")
    show_tables(grids(record))


def main(argv: list[str] | None = None) -> int:
    return parse(AgreementOptions, argv, "stepdiff.annotate.agreement", __doc__, run, show, ("file",), incomplete)


if __name__ == "__main__":
    command.run(main)
