"""Score a file of predictions in the published format, as the published evaluation does.

python -m heads.score --task diffcap --test-set diffcap_test.jsonl --predictions predictions.jsonl
python -m heads.score --task diffcap --test-set diffcap_test.jsonl --predictions raw.jsonl \\
    --parse --similarity
python -m heads.score --task diffcap --test-set diffcap_test.jsonl --predictions raw.jsonl \\
    --truth attributes.jsonl
python -m heads.score --task diffrank --test-set diffrank_test.jsonl \\
    --predictions predictions.jsonl --json
python -m heads.score --task convis --data data/convis --predictions predictions.jsonl
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stepdiff_core.cli import command
from stepdiff_core.cli.options import WRITTEN, parse
from stepdiff_core.errors import StepDiffError
from stepdiff_core.progress import say

COUNTS = (
    "rows",
    "videos",
    "ties",
    "nan_rows",
    "within_step_rows",
    "no_difference_rows",
    "unparsed_rows",
)


@dataclass(frozen=True)
class ScoreOptions:
    task: str
    """diffcap, diffmcq, diffrank, or a benchmark, as for heads.evaluate"""
    predictions: str
    """one line for each row of the test set: {"generated_text": ...} or {"scores": [...]}; of a
    benchmark with its "key", in any order"""
    test_set: str | None = None
    """test set in the published format, JSON lines"""
    data: str | None = None
    """folder of the files that the authors of a benchmark publish"""
    parse: bool = False
    """post-process captions as the supplement's S4 does before scoring them"""
    similarity: bool = False
    """diffcap: also score MPNet, the sentence similarity to the reference texts; viddiff-open: also
    match differences by it"""
    truth: str | None = None
    """diffcap, on the sample world: also score the details that captions name, checked against the
    exact attributes in this file, its attributes.jsonl (the truth score)"""
    judge: str | None = None
    """language model that judges the texts of vidic or viddiff-open: a name, folder or hub id, or
    with an endpoint the name of the model that is served"""
    endpoint: str | None = None
    """URL of an OpenAI-compatible server of the judge; its key is taken from OPENAI_API_KEY"""
    entailment: str | None = None
    """viddiff-open: folder or hub id of a classifier of text pairs with labels entailment and
    contradiction"""
    store: str | None = None
    """feature store with mpnet-base embeddings of texts; without it all are computed"""
    export: str | None = field(default=None, metadata=WRITTEN)
    """folder to write the predictions for a benchmark into, in its authors' own format"""
    bootstrap: int = 1000
    """resamples of the reference videos for the 95 % intervals; 0: no intervals"""
    seed: int = 0
    """seed of the resamples"""
    device: str = "auto"
    """device for sentence embeddings: auto, cpu, cuda"""


def run(options: ScoreOptions) -> dict[str, Any]:
    from heads.evaluation import judges
    from heads.evaluation.options import check_task
    from heads.evaluation.rows import score_rows
    from heads.methods.registry import is_control, regime_of, section
    from heads.reporting.entries import marked, score_record
    from stepdiff_core.tasks import postprocess
    from stepdiff_core.tasks.benchmarks.rows import read_answers
    from stepdiff_core.tasks.testsets import published_task, read_with_similar

    spec = check_task(options)
    if options.store is not None and not options.similarity:
        raise StepDiffError("--store is read only with --similarity; give both, or neither")
    if options.export is not None and spec.export is None:
        raise StepDiffError(f"--export: {options.task} has no format of its own; leave it out")
    if (
        options.export is not None
        and Path(options.export).resolve() in Path(options.predictions).resolve().parents
    ):
        raise StepDiffError(
            f"--export {options.export}: --predictions are in this folder; name another"
        )
    record = score_record(options.predictions)
    task_data = spec.read(Path(options.test_set or options.data or ""))
    task, rows, similar = published_task(options.task), task_data.rows, None
    predictions: list[Any]
    if task is None:
        rows, predictions = read_answers(options.predictions, rows)
    else:
        predictions, similar = read_with_similar(task, options.predictions, rows)
    if options.parse:
        predictions = [postprocess.parse(str(text)) for text in predictions]
    if task is None:
        by_key = {row.key: prediction for row, prediction in zip(rows, predictions, strict=True)}
        of_all = [by_key.get(row.key) for row in task_data.rows]
        if options.export is not None and spec.export is not None:
            for path in spec.export(
                Path(str(options.data)), task_data.rows, of_all, Path(options.export)
            ):
                say(f"exported: {path}")
        # heads.evaluate answers the rows that its options ask for
        if spec.missing_is_wrong and record is None:
            rows, predictions = task_data.rows, of_all
    judges.check(options)  # the authors' scorers, which read what is exported, have their own
    scores = score_rows(options, task_data, rows, predictions, options.predictions, similar)
    if (seen := marked(record)) is not None:
        scores["seen"] = seen
    if "method" in section(record, "options"):
        scores["method"] = {"regime": regime_of(record), "control": is_control(record)}
    return scores


def show(record: dict[str, Any]) -> None:
    show_scores(record["task"], record, record.get("seen"))


def show_scores(task: str, scores: dict[str, Any], seen: dict[str, Any] | None = None) -> None:
    """Print what stepdiff_core.tasks.scoring.score returned: a table of all rows with intervals,
    and one with a line per category.

    seen: counts of heads.data.training_clips.SeenClips, if the head was trained on clips or videos
    of the test set.
    """
    from heads.reporting import grid
    from heads.reporting.entries import MARK, footnote
    from heads.reporting.grid import Block, Grid, Result, pivot, results_of

    def figures(values: dict[str, Any]) -> dict[str, float | None]:
        return {
            name: value
            for name, value in values.items()
            if value is None or isinstance(value, float)
        }

    integers = [name for name, value in scores.items() if isinstance(value, int)]
    counts = sorted(
        integers, key=lambda name: COUNTS.index(name) if name in COUNTS else len(COUNTS)
    )
    chance = scores.get("chance", {})
    results = [
        Result(name + after, column, value, values.get("intervals", {}).get(name))
        for values, after, column in (
            (scores, "", "value [95 % interval]"),
            (scores.get("asked_first", {}), ", asked first", "value [95 % interval]"),
            (chance, "", "chance"),
        )
        for name, value in figures(values).items()
    ]
    columns = list(dict.fromkeys(result.figure for result in results))

    def table(title: str, first: str, results: list[Result], names: dict[str, str]) -> Grid:
        return Grid(
            title,
            first,
            [("", name) for name in names.values()],
            [Block("", list(pivot(results, names, ".4f").items()))],
        )

    sizes = ", ".join(f"{scores[name]} {name}" for name in counts)
    mark = "" if seen is None else f" {MARK}"
    grids = [
        table(
            f"{task}{mark}: {sizes}", "figure", results, {str(name): str(name) for name in columns}
        )
    ]
    categories: dict[str, dict[str, Any]] = scores["per_category"]
    results = [
        each for category, values in categories.items() for each in results_of(category, values)
    ]
    measured = {result.figure for result in results} - {"videos"}
    for of_truth in (False, True):
        names = [
            n
            for n in (*figures(scores), *counts)
            if n in measured and n.startswith("truth_") == of_truth
        ]
        if names:  # words wrap where they have spaces
            grids.append(
                table(
                    "by category",
                    "category",
                    results,
                    {name: name.replace("_", " ") for name in names},
                )
            )
    notes = list(scores.get("notes", ()))
    if method := scores.get("method"):
        kind = "a control, " if method["control"] else ""
        notes.insert(0, f"method: {kind}regime {method['regime'] or 'not recorded'}")
    if seen is not None:
        notes.append(f"{MARK} {footnote(seen)}")
    grid.show([*grids[:-1], replace(grids[-1], notes=notes)], 120)


def main(argv: list[str] | None = None) -> int:
    return parse(ScoreOptions, argv, "heads.score", __doc__, run, show)


if __name__ == "__main__":
    command.run(main)
