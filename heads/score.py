"""Score a file of predictions in the published format, as the published evaluation does.

python -m heads.score --task diffcap --test-set diffcap_test.jsonl --predictions predictions.jsonl
python -m heads.score --task diffcap --test-set diffcap_test.jsonl --predictions raw.jsonl --parse --similarity
python -m heads.score --task diffcap --test-set diffcap_test.jsonl --predictions raw.jsonl --truth attributes.jsonl
python -m heads.score --task diffrank --test-set diffrank_test.jsonl --predictions predictions.jsonl --json
python -m heads.score --task convis --data data/convis --predictions predictions.jsonl
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepdiff.common.cli import command
from stepdiff.common.cli.options import parse
from stepdiff.common.errors import StepDiffError

COUNTS = ("rows", "videos", "ties", "nan_rows", "within_step_rows", "no_difference_rows", "unparsed_rows")


@dataclass(frozen=True)
class ScoreOptions:
    task: str
    """diffcap, diffmcq, diffrank, or a benchmark, as for heads.evaluate"""
    predictions: str
    """one line for each row of the test set: {"generated_text": ...} or {"scores": [...]}; of a benchmark with its
    "key", in any order"""
    test_set: str | None = None
    """test set in the published format, JSON lines"""
    data: str | None = None
    """folder of the files that the authors of a benchmark publish"""
    parse: bool = False
    """post-process captions as the supplement's S4 does before scoring them"""
    similarity: bool = False
    """diffcap: also score MPNet, the sentence similarity to the reference texts; viddiff-open: also match differences
    by it"""
    truth: str | None = None
    """diffcap, on the sample world: also score the details that captions name, checked against the exact attributes in
    this file, its attributes.jsonl (the truth score)"""
    judge: str | None = None
    """language model that judges the texts of vidic or viddiff-open: a name, folder or hub id, or with an endpoint the
    name of the model that is served"""
    endpoint: str | None = None
    """URL of an OpenAI-compatible server of the judge; its key is taken from OPENAI_API_KEY"""
    entailment: str | None = None
    """viddiff-open: folder or hub id of a classifier of text pairs with labels entailment and contradiction"""
    store: str | None = None
    """feature store with mpnet-base embeddings of texts; without it all are computed"""
    export: str | None = None
    """folder to write the predictions for a benchmark into, in its authors' own format"""
    bootstrap: int = 1000
    """resamples of the reference videos for the 95 % intervals; 0: no intervals"""
    seed: int = 0
    """seed of the resamples"""
    device: str = "auto"
    """device for sentence embeddings: auto, cpu, cuda"""


def run(options: ScoreOptions) -> dict[str, Any]:
    from heads.evaluation.options import check_task
    from heads.evaluation.rows import export_predicted, read_predicted, score_rows
    from heads.reporting.entries import marked, recorded_method, score_record

    spec = check_task(options)
    if options.store is not None and not options.similarity:
        raise StepDiffError("--store is read only with --similarity; give both, or neither")
    if options.export is not None and spec.test_set:
        raise StepDiffError("--export is for benchmarks: the published tasks have one format; leave it out")
    next_to_it = {"seen": marked(score_record(options.predictions)), "method": recorded_method(options.predictions)}
    asked = spec.read(Path(options.test_set or options.data or ""))
    rows, predictions, similar = read_predicted(options, asked)
    if options.export is not None:
        export_predicted(options, asked, rows, predictions)
    scores = score_rows(options, asked, rows, predictions, options.predictions, similar)
    return scores | {name: value for name, value in next_to_it.items() if value is not None}


def show_scores(task: str, scores: dict[str, Any], seen: dict[str, Any] | None = None) -> None:
    """Print what stepdiff.tasks.scoring.score returned: a table of all rows with intervals, and one with a line per
    category.

    seen: counts of heads.data.trained_on.Seen, if the head was trained on clips or videos of the test set.
    """
    from rich.console import Console
    from rich.table import Column, Table

    from heads.reporting.entries import MARK, footnote

    categories: dict[str, dict[str, Any]] = scores["per_category"]
    figures = [name for name, value in scores.items() if value is None or isinstance(value, float)]
    integers = [name for name, value in scores.items() if isinstance(value, int)]
    counts = sorted(integers, key=lambda name: COUNTS.index(name) if name in COUNTS else len(COUNTS))
    chance: dict[str, float | None] = scores.get("chance", {})
    columns = ["value", "95 % interval", *(["chance"] if chance else [])]
    whole = Table("figure", *(Column(name, justify="right") for name in columns))
    asked: dict[str, Any] = scores.get("asked_first", {})
    for values, names, after in (
        (scores, figures, ""),
        (asked, [n for n in asked if n != "intervals"], ", asked first"),
    ):
        for name in names:
            interval = values["intervals"].get(name)
            between = "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
            by_chance = [_shown(chance[name])] if name in chance else []
            whole.add_row(name + after, _shown(values[name]), between, *by_chance)
    tables = [whole]
    known = {name for values in categories.values() for name in values} - {"videos"}
    for checked in (False, True):
        names = [name for name in (*figures, *counts) if name in known and name.startswith("truth_") == checked]
        if names:
            headings = (Column(name.replace("_", " "), justify="right") for name in names)  # wrap between words
            tables.append(Table(Column("category", no_wrap=True), *headings))
            for category, values in categories.items():
                tables[-1].add_row(category, *(_shown(values[name]) if name in values else "" for name in names))
    console = Console(width=None if sys.stdout.isatty() else 120, markup=False)  # a category is not markup
    sizes = ", ".join(f"{scores[name]} {name}" for name in counts)
    console.print(f"{task}{'' if seen is None else f' {MARK}'}: {sizes}", *tables, sep="\n")
    if method := scores.get("method"):
        kind = "a control, " if method["control"] else ""
        console.print(f"method: {kind}regime {method['regime'] or 'not recorded'}")
    for note in scores.get("notes", ()):
        console.print(note, soft_wrap=True)
    if seen is not None:
        console.print(f"{MARK} {footnote(seen)}", soft_wrap=True)


def _shown(value: float | int | None) -> str:
    if value is None:
        return "undefined"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def main(argv: list[str] | None = None) -> int:
    return parse(
        ScoreOptions,
        argv,
        "heads.score",
        __doc__,
        run,
        lambda record: show_scores(record["task"], record, record.get("seen")),
    )


if __name__ == "__main__":
    command.run(main)
