"""Score a file of predictions in the published format, as the published evaluation does.

python -m heads.score --task diffcap --test-set diffcap_test.jsonl --predictions predictions.jsonl
python -m heads.score --task diffcap --test-set diffcap_test.jsonl --predictions raw.jsonl --parse --similarity
python -m heads.score --task diffrank --test-set diffrank_test.jsonl --predictions predictions.jsonl --json
"""

import sys
from dataclasses import dataclass
from typing import Any

from common.cli import command
from common.cli.options import parse
from common.errors import StepDiffError
from tasks.testsets import Task, read_predictions, read_test_set

COUNTS = ("rows", "videos", "ties", "nan_rows", "within_step_rows", "no_difference_rows")


@dataclass(frozen=True)
class ScoreOptions:
    task: Task
    """which test set"""
    test_set: str
    """test set in the published format, JSON lines"""
    predictions: str
    """line by line beside the test set: {"generated_text": ...} or {"scores": [...]}"""
    parse: bool = False
    """post-process captions as the supplement's S4 does, before they are scored"""
    similarity: bool = False
    """MPNet too: sentence similarity of captions to the texts (diffcap)"""
    store: str | None = None
    """feature store whose mpnet-base embeddings of texts are read; without it all are computed"""
    bootstrap: int = 1000
    """resamples of the reference videos behind each 95 % interval; 0: no intervals"""
    seed: int = 0
    """seed of the resamples"""
    device: str = "auto"
    """auto, cpu, cuda: where sentence embeddings are computed"""


def run(options: ScoreOptions) -> dict[str, Any]:
    from heads.reporting.seen_marks import beside
    from tasks.postprocess import parse as parse_caption
    from tasks.scoring import score

    if options.task != "diffcap" and (options.parse or options.similarity):
        raise StepDiffError(f"--parse and --similarity are said of captions; {options.task} has scores: leave them out")
    if options.store is not None and not options.similarity:
        raise StepDiffError("--store is read for --similarity alone: give both, or neither")
    rows = read_test_set(options.task, options.test_set)
    predictions = read_predictions(options.task, options.predictions, rows)
    if options.task == "diffcap" and options.parse:
        predictions = [parse_caption(caption) for caption in predictions]
    embed = sentences(options.store, options.device) if options.similarity else None
    scores = score(options.task, rows, predictions, options.bootstrap, options.seed, embed)
    seen = beside(options.predictions)
    return scores if seen is None else scores | {"seen": seen}


def sentences(store: str | None, device: str) -> Any:
    """What embeds texts for the figure MPNet."""
    from heads.methods.similarity import Sentences
    from heads.models.language_model import pick_device
    from store import Store

    return Sentences(Store.open(store) if store is not None else None, pick_device(device))


def show_scores(task: Task, scores: dict[str, Any], seen: dict[str, Any] | None = None) -> None:
    """What score() found, as tables: all rows with intervals, then one line a category.

    seen: counts of heads.evaluation.seen, where the head was trained on clips or videos of the test set.
    """
    from rich.console import Console
    from rich.table import Column, Table

    from heads.reporting.seen_marks import MARK, footnote

    categories: dict[str, dict[str, Any]] = scores["per_category"]
    counts = [name for name in COUNTS if name in scores]
    others = ("task", *counts, "intervals", "per_category", "seen")
    figures = [name for name in scores if name not in others]
    told = ", ".join(f"{scores[name]} {name}" for name in counts)
    whole = Table("figure")
    whole.add_column("value", justify="right")
    whole.add_column("95 % interval", justify="right")
    for name in figures:
        interval = scores["intervals"].get(name)
        between = "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
        whole.add_row(name, _shown(scores[name]), between)
    columns = [*figures, *(name for name in counts if name != "videos")]
    each = Table(Column("category", no_wrap=True))
    for name in columns:
        each.add_column(name.replace("_", " "), justify="right")  # long names wrap between words
    for category, own in categories.items():
        each.add_row(category, *(_shown(own[name]) for name in columns))
    console = Console(width=None if sys.stdout.isatty() else 120, markup=False)  # a category is no markup
    console.print(f"{task}{'' if seen is None else f' {MARK}'}: {told}", whole, each, sep="\n")
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
        "Score a file of predictions in the published format, as the published evaluation does.",
        run,
        lambda record: show_scores(record["task"], record, record.get("seen")),
    )


if __name__ == "__main__":
    command.run(main)
