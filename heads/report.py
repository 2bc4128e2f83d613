"""The paper's tables from predictions, with intervals and what ours gain over the best baseline.

python -m heads.report --config report.yaml
python -m heads.report --config report.yaml --paper true --out data/report

report.yaml names the predictions, one line each; what it leaves out is a dash in the tables:

    ours: [StepDiff]
    controls: [no video]
    predictions:
    - {method: StepDiff, task: diffcap, parsed: false, test_set: cap.jsonl, predictions: stepdiff_cap.jsonl}
    - {method: StepDiff, task: diffmcq, variant: V1, test_set: mcq.jsonl, predictions: stepdiff_mcq.jsonl}
    - {method: no video, task: diffmcq, variant: V1, test_set: mcq.jsonl, predictions: blind_mcq.jsonl}
    - {method: VLEmb (CLIP), task: diffmcq, pair: reference, test_set: mcq.jsonl, predictions: clip_r_mcq.jsonl}
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.cli import command
from common.cli.options import parse
from common.errors import StepDiffError
from common.io.files import write_bytes, write_text
from heads.reporting.entries import Entry, Setting, check_entries


@dataclass(frozen=True)
class ReportOptions:
    predictions: list[Entry]
    """method, task, test_set, predictions; variant and pair (diffmcq), parsed (diffcap) where they differ"""
    ours: list[str] = field(default_factory=list)
    """methods to compare with the best baseline"""
    controls: list[str] = field(default_factory=list)
    """methods that are neither ours nor a baseline: no video, another video, knowing the step"""
    seeds: int = 1
    """trainings, numbered from 0, that {seed} in the name of predictions stands for; the tables hold their means"""
    paper: bool = False
    """let the figures of the paper's supplement stand beside these"""
    out: str | None = None
    """folder to write report.md, report.tex, report.png and report.json into"""
    bootstrap: int = 2000
    """resamples of the reference videos behind intervals and p; 0: neither"""
    seed: int = 0
    """seed of the resamples"""


def run(options: ReportOptions) -> dict[str, Any]:
    from heads.reporting import latex, markdown, picture
    from heads.reporting.figures import compare, measure
    from heads.reporting.tables import Report, grids

    if options.bootstrap < 0 or options.seed < 0 or options.seeds < 1:
        raise StepDiffError(
            f"bootstrap {options.bootstrap}, seed {options.seed}, seeds {options.seeds}: none may be below 0, 0 and 1"
        )
    entries = [training for entry in options.predictions for training in entry.trainings(options.seeds)]
    check_entries(entries, options.ours, options.controls)
    measured = measure(entries, options.bootstrap, options.seed)
    report = Report(
        [score for score, _ in measured],
        compare(measured, options.ours, options.controls),
        options.controls,
        options.bootstrap,
        options.paper,
    )
    record = asdict(report)
    if options.out is not None:
        out = Path(options.out)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StepDiffError(f"{out}: cannot be made ({error.strerror})") from error
        drawn, points = grids(report), picture.draw(report)
        write_text(out / "report.md", "".join(map(markdown.write, drawn)))
        write_text(out / "report.tex", latex.write(drawn))
        if points is not None:
            write_bytes(out / "report.png", points)
        write_text(out / "report.json", json.dumps(record, indent=1, allow_nan=False))
        print(f"{out}: report.md, report.tex, report.json{', report.png' if points else ''}", file=sys.stderr)
    return record


def show(record: dict[str, Any]) -> None:
    from rich.console import Console

    from heads.reporting import grid as text
    from heads.reporting.figures import Comparison, Score
    from heads.reporting.tables import Report, grids

    def read(kind: type, found: dict[str, Any]) -> Any:
        return kind(**(found | {"setting": Setting(**found["setting"])}))

    scores = [read(Score, found) for found in record["scores"]]
    comparisons = [read(Comparison, found) for found in record["comparisons"]]
    console = Console(width=None if sys.stdout.isatty() else 160)
    for grid in grids(Report(**(record | {"scores": scores, "comparisons": comparisons}))):
        console.print(text.draw(grid))


def main(argv: list[str] | None = None) -> int:
    recipes = Path(__file__).parent / "recipes"
    return parse(ReportOptions, argv, "heads.report", __doc__, run, show, recipes=recipes)


if __name__ == "__main__":
    command.run(main)
