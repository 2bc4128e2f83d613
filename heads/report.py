"""Print the paper's tables from predictions, with intervals and comparisons with the best baseline.

python -m heads.report --config report.yaml
python -m heads.report --config report.yaml --paper --out data/report

report.yaml lists the predictions; what it leaves out is a dash in the tables:

    ours: [StepDiff]
    controls: [no video]
    methods:
    - {method: StepDiff, regime: supervised, learns_from: paired QA, steps: 1990}
    - {method: VLEmb (CLIP), regime: none}
    predictions:
    - {method: StepDiff, task: diffcap, parsed: false, test_set: cap.jsonl,
       predictions: stepdiff_cap.jsonl}
    - {method: StepDiff, task: diffmcq, variant: V1, test_set: mcq.jsonl,
       predictions: stepdiff_mcq.jsonl}
    - {method: no video, task: diffmcq, variant: V1, test_set: mcq.jsonl,
       predictions: blind_mcq.jsonl}
    - {method: VLEmb (CLIP), task: diffmcq, pair: reference, test_set: mcq.jsonl,
       predictions: clip_r_mcq.jsonl}
    benchmarks:
    - {method: StepDiff, predictions: stepdiff_convis.jsonl}

Each benchmark has a table of its own, with the rows that its authors publish.
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from heads.methods.registry import is_control
from heads.reporting.entries import (
    BenchmarkEntry,
    MethodTraining,
    PredictionEntry,
    check_entries,
    score_record,
    trainings,
)
from stepdiff_core.cli import command
from stepdiff_core.cli.options import at_least, parse

if TYPE_CHECKING:
    from heads.reporting.tables import Report


FILES = ("/report.md", "/report.tex", "/report.png", "/report.json")


@dataclass(frozen=True)
class ReportOptions:
    predictions: tuple[PredictionEntry, ...] = ()
    """method, task, test_set, predictions; variant and pair (diffmcq) and parsed (diffcap) if not
    the defaults"""
    benchmarks: tuple[BenchmarkEntry, ...] = ()
    """method and predictions of heads.evaluate on a benchmark, with the score record next to
    them"""
    ours: tuple[str, ...] = ()
    """methods to compare with the best baseline"""
    controls: tuple[str, ...] = ()
    """methods that are neither ours nor a baseline: no video, another video, knowing the step.
    Methods whose score record is that of a control are among them, unless they are listed as ours
    or as baselines"""
    baselines: tuple[str, ...] = ()
    """methods to compare ours with; none: all that are neither ours nor controls"""
    methods: tuple[MethodTraining, ...] = ()
    """how methods were trained: method, regime (none, s1, supervised, truth), learns_from, steps"""
    seeds: int = 1
    """number of trainings, from 0, that {seed} in the name of predictions is replaced by; the
    tables show their mean"""
    truth: str | None = None
    """attributes.jsonl of the sample world that the test sets are of: also show the truth score of
    captions"""
    paper: bool = False
    """show the figures of the paper's supplement next to these"""
    out: str | None = field(default=None, metadata={"written": FILES})
    """folder to write report.md, report.tex, report.png and report.json into"""
    bootstrap: int = 2000
    """resamples of the reference videos for intervals and p values; 0: neither"""
    seed: int = 0
    """seed of the resamples"""


def run(options: ReportOptions) -> "Report":
    from heads.reporting.figures import compare, measure
    from heads.reporting.tables import Report, read_scores
    from stepdiff_core.tasks import registry

    at_least(options, bootstrap=0, seed=0, seeds=1)
    entries = [
        training for entry in options.predictions for training in entry.trainings(options.seeds)
    ]
    if entries or not options.benchmarks:
        check_entries(entries, options.ours, options.controls, options.baselines)
    others = read_scores(options.benchmarks)
    methods = trainings(options.methods, entries)
    measured = measure(entries, options.bootstrap, options.seed, registry.truth_of(options.truth))
    listed = {*options.ours, *options.controls, *options.baselines}
    unlisted = [entry for entry in entries if entry.method not in listed]
    recorded = dict.fromkeys(e.method for e in unlisted if is_control(score_record(e.predictions)))
    controls = (*options.controls, *recorded)
    report = Report(
        [score for score, _ in measured],
        compare(measured, options.ours, controls, methods, options.baselines),
        controls,
        options.bootstrap,
        options.paper,
        methods,
        options.baselines,
        others,
    )
    if options.out is not None:
        write(report, options.out)
    return report


def write(report: "Report", folder: str) -> None:
    """Write the report in every form into a folder, which may be in an object store."""
    from heads.reporting.grid import to_latex, to_markdown
    from heads.reporting.picture import draw
    from heads.reporting.tables import grids
    from stepdiff_core.io.files import place, write_bytes, write_text

    out = place(folder)
    tables, picture = grids(report), draw(report)
    write_text(out / "report.md", "".join(map(to_markdown, tables)))
    write_text(out / "report.tex", to_latex(tables))
    if picture is not None:
        write_bytes(out / "report.png", picture)
    write_text(out / "report.json", json.dumps(asdict(report), indent=1, allow_nan=False))
    print(
        f"{out}: report.md, report.tex, report.json{', report.png' if picture else ''}",
        file=sys.stderr,
    )


def show(report: "Report") -> None:
    from heads.reporting import grid
    from heads.reporting.tables import grids

    grid.show(grids(report))


def main(argv: list[str] | None = None) -> int:
    recipes = Path(__file__).parent / "recipes"
    return parse(ReportOptions, argv, "heads.report", __doc__, run, show, recipes=recipes)


if __name__ == "__main__":
    command.run(main)
