"""stepdiff annotate statistics data/kitchen/diffcap_test.jsonl data/kitchen/diffrank_test.jsonl --out data/statistics

Statistics of difference annotations, as supplement S2 reports them: totals, captions by category, aggregate scores of
pairs, scores where a text was written (Fig. S5), and prominent terms of each category (Fig. S6). FILE holds collected
answers (JSON lines, CSV, Label Studio export) or published rows of DiffCap or DiffRank; several are counted together.

Writes statistics.md, statistics.json, scores.png and words.png.

Scores: 5 = not different, 1 = very different.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from heads.reporting.grid import Block, Cell, Grid, escape_markdown, to_markdown
from heads.reporting.grid import show as show_tables
from stepdiff.common.cli import command
from stepdiff.common.cli.options import incomplete, parse

SHOWN = 12  # terms of a category on the page
DEFINITION = (
    "Terms: by TF-IDF, where one document is one caption; mean over the captions of a category. Left out are terms in "
    "more than 25 % of all captions and function words."
)


@dataclass(frozen=True)
class StatisticsOptions:
    files: tuple[str, ...]
    """collected answers, or DiffCap and DiffRank files"""
    out: str
    """folder to write to"""


def run(options: StatisticsOptions) -> dict[str, Any]:
    from stepdiff.annotate.people.pictures import clouds_figure, scores_figure
    from stepdiff.annotate.people.statistics import read_files, statistics_of
    from stepdiff.common.io.files import write_bytes, write_text

    refused: list[str] = []
    statistics = statistics_of(read_files(options.files, refused.append))
    out = Path(options.out)
    record: dict[str, Any] = {"files": list(options.files), **asdict(statistics), "pictures": []}
    for name, data in {"scores.png": scores_figure(statistics), "words.png": clouds_figure(statistics)}.items():
        if data is None:
            (out / name).unlink(missing_ok=True)  # of an earlier run on other files
        else:
            write_bytes(out / name, data)
            record["pictures"].append(name)
    write_text(out / "statistics.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    write_text(out / "statistics.md", _page(record))
    return {"out": options.out, **record, "failed": refused}


def _page(record: dict[str, Any]) -> str:
    lines = ["# Difference annotations", "", f"{escape_markdown(record['sentence'])}.", "", *_facts(record)]
    titles = {"scores.png": "Scores and captions (Fig. S5)", "words.png": "Prominent terms (Fig. S6)"}
    for name, title in titles.items():
        missing = f"{title}: no picture, because the files have no data for it."
        lines += [f"![{title}]({name})" if name in record["pictures"] else missing, ""]
    return "\n".join(lines) + "\n" + "".join(map(to_markdown, _grids(record)))


def _facts(record: dict[str, Any]) -> list[str]:
    """Return what else is known, as lines of a list, and an empty line."""
    facts = [f"Scores: {record['direction']}."]
    if record["aggregate"] is not None:
        facts.append(f"Aggregate score of a pair, mean over its categories: {record['aggregate']:.2f} on average.")
    if record["people"]:
        facts.append(f"{record['people']:,} people.")
    if record["other_step"]:
        facts.append(f"{record['other_step']:,} targets of another step have score 0 and are left out.")
    return [*(f"- {fact}" for fact in facts), ""]


def _grids(record: dict[str, Any]) -> list[Grid]:
    """Return the table of categories and that of terms."""

    def row(name: str, of: dict[str, Any]) -> tuple[str, list[Cell | None]]:
        written = [Cell(f"{count:,}") if sum(of["written"].values()) else None for count in of["written"].values()]
        share = None if of["share"] is None else Cell(f"{of['share']:.1%}")
        mean = None if of["mean"] is None else Cell(f"{of['mean']:.2f}")
        return name, [Cell(f"{of['captions']:,}"), share, mean, *written]

    categories = record["categories"]
    scores = next(iter(categories.values()))["written"] if categories else {}
    columns = [("", "captions"), ("", "share"), ("", "mean score"), *(("with a text", score) for score in scores)]
    rows = [row(name, of) for name, of in categories.items()]
    grids = [Grid("Categories", "category", columns, [Block("", rows)], [])]
    terms: list[tuple[str, list[Cell | None]]] = [
        (name, [Cell(", ".join(f"{term['term']} ({term['captions']:,})" for term in of["terms"][:SHOWN]))])
        for name, of in categories.items()
        if of["terms"]
    ]
    if terms:
        title = "Prominent terms, and how many captions have them"
        grids.append(Grid(title, "category", [("", "terms")], [Block("", terms)], [DEFINITION]))
    return grids


def show(record: dict[str, Any]) -> None:
    from stepdiff.annotate.people.answers import show_refused

    show_refused(record)
    print(f"{record['sentence']}.")
    print("\n".join(line.removeprefix("- ") for line in _facts(record)[:-1]))
    show_tables(_grids(record))
    print(f"{record['out']}: statistics.md, statistics.json" + "".join(f", {name}" for name in record["pictures"]))


def main(argv: list[str] | None = None) -> int:
    return parse(StatisticsOptions, argv, "stepdiff.annotate.statistics", __doc__, run, show, ("files",), incomplete)


if __name__ == "__main__":
    command.run(main)
