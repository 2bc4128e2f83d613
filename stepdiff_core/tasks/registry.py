"""Tasks: the definition of each (TaskSpec), and all of them by name: the published ones, benchmarks
of others, installed ones.

A TaskSpec holds everything that evaluation, tables and pages know about a task: its rows, their
truth, its scorer, the columns of its table, its published figures and its videos. The folder of a
benchmark holds what its authors publish, under the names that they give. `read` returns rows and
truth apart, so that no method can read the truth.

    spec = registry.get("convis")
    data = spec.read(Path("data/convis"))
    scores = spec.score(data.rows, predictions, data.truth, 1000, 0)

Texts of some benchmarks cannot be scored by rules. A judge compares them with the truth first, and
its verdicts are scored instead of the texts:

    verdicts = spec.judge(data, texts, judge)
    scores = spec.score(data.rows, verdicts, data.truth, 1000, 0)

A package adds a task with an entry point whose object is a TaskSpec; `package.module:SPEC` names
one without it:

    [project.entry-points."stepdiff.tasks"]
    mine = "my_package.tasks:SPEC"
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import yaml_file
from stepdiff_core.plugins import installed, load
from stepdiff_core.tasks.benchmarks.judging import Judge
from stepdiff_core.tasks.benchmarks.rows import BenchmarkRow
from stepdiff_core.tasks.testsets import Prediction

GROUP = "stepdiff.tasks"
BUILT_IN = {
    "diffcap": "stepdiff_core.tasks.scoring:DIFFCAP",
    "diffmcq": "stepdiff_core.tasks.scoring:DIFFMCQ",
    "diffrank": "stepdiff_core.tasks.scoring:DIFFRANK",
    "captaincook-mistake": "stepdiff_core.tasks.benchmarks.captaincook:MISTAKE",
    "captaincook-retrieval": "stepdiff_core.tasks.benchmarks.captaincook:RETRIEVAL",
    "captaincook-retrieval-flawed": "stepdiff_core.tasks.benchmarks.captaincook:FLAWED",
    "convis": "stepdiff_core.tasks.benchmarks.convis:SPEC",
    "convis-retrieval": "stepdiff_core.tasks.benchmarks.convis:RETRIEVAL",
    "crossvid-cc": "stepdiff_core.tasks.benchmarks.crossvid:CC",
    "crossvid-pea": "stepdiff_core.tasks.benchmarks.crossvid:PEA",
    "viddiff-closed": "stepdiff_core.tasks.benchmarks.viddiff:SPEC",
    "viddiff-open": "stepdiff_core.tasks.benchmarks.viddiff_open:SPEC",
    "vidic": "stepdiff_core.tasks.benchmarks.vidic:SPEC",
}
"""name -> module and attribute of the spec, which is imported when it is asked for"""


@dataclass(frozen=True)
class TaskData:
    """The rows of a benchmark's folder or of a test set, and their truth."""

    rows: list[Any]
    """BenchmarkRow, or a row of a published task, in the order of the files"""
    truth: Mapping[str, Any]
    """row's key -> truth that its answer is scored against; empty if rows contain it"""
    notes: tuple[str, ...] = ()
    """printed and recorded next to the scores: rows left out and why, the digest of a checklist,
    published rules"""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """name -> template of a message to a judge"""
    digest: str = ""
    """sha256 of the published file, recorded with each judgement"""


@dataclass(frozen=True)
class ClipFile:
    """A clip of a benchmark and its video; a row of a manifest."""

    clip: str
    """its id in rows"""
    video: str
    """path from the folder of the videos"""
    start: float | None = None
    """seconds; None: the file's start"""
    end: float | None = None
    """seconds; None: the file's end"""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """further columns of the manifest, e.g. domain, step"""


@dataclass(frozen=True)
class Published:
    """A published row of a table."""

    method: str
    figures: Mapping[str, float]
    """figure -> value, in the unit of the table"""
    source: str
    """paper or repository, with its table or file"""


@cache
def _tables() -> dict[str, Any]:
    return yaml_file.read(Path(__file__).with_name("benchmarks") / "published.yaml")


def published(table: str) -> tuple[Published, ...]:
    """Return the rows of a table of benchmarks/published.yaml."""
    about = _tables()[table]
    names, unit = about["figures"], about["unit"]
    return tuple(
        Published(
            method,
            {name: value / unit for name, value in zip(names, values, strict=True)},
            about["source"],
        )
        for method, values in about["methods"].items()
    )


@dataclass(frozen=True)
class TaskSpec:
    name: str
    """of --task and --benchmark; lower case, no spaces"""
    title: str
    figures: Mapping[str, str]
    """figure of `score` -> heading of its column; together they are the table"""
    read: Callable[[Path], TaskData]
    """Read the published files in a folder, or a test set. Raises StepDiffError: one is missing or
    damaged; it says where to get it"""
    score: Callable[[Sequence[Any], Sequence[Any], Mapping[str, Any], int, int], dict[str, Any]]
    """Return scores of (rows, predictions, truth, bootstrap, seed), as
    stepdiff_core.tasks.scoring.score does: {"task", figure: value or None, "rows", "videos",
    "intervals": {figure: [low, high]}, "per_category": {category: {figure: value}}}. rows may be a
    part of those read"""
    clips: Callable[[Path], Iterator[ClipFile]] | None = None
    """Yield the clips of a folder's rows, each once, with their files; None: the task has no
    manifest of its own"""
    judge: Callable[[TaskData, Sequence[str | None], Judge], list[Any]] | None = None
    """Return a verdict on each text, which `score` takes instead of the texts; None: texts are
    scored, or scores. Raises StepDiffError: the judge lacks a part that the benchmark needs, or
    stopped; the next run continues"""
    export: (
        Callable[[Path, Sequence[BenchmarkRow], Sequence[Prediction | None], Path], list[Path]]
        | None
    ) = None
    """Write predictions for all rows of a benchmark's folder, None for one without, in the authors'
    own format to another folder, for their own scorer; return the files"""
    published: tuple[Published, ...] = ()
    chance: Mapping[str, float] = field(default_factory=dict)
    """figure -> its value by chance"""
    form: str = ".3f"
    """format of a figure; .1f for those in percent"""
    licence: str = ""
    """of the data, as its authors state it"""
    options: tuple[str, ...] = ()
    """options of heads.evaluate and heads.score that not every task reads: judge, endpoint,
    similarity, ..."""
    missing_is_wrong: bool = False
    """whether heads.score passes None to `score` for a row without a prediction of another program,
    and it counts wrong; else such rows are left out"""
    test_set: bool = False
    """whether `read` takes a test set, whose rows contain the truth and are answered line by line,
    instead of a folder, whose rows are answered by key"""
    further: Mapping[str, str] = field(default_factory=dict)
    """figure on some of the rows, which reports and pages show after `figures` -> its heading in
    heads.table, empty: it is not there"""
    main: str = ""
    """the figure that pages compare methods by, if no other is chosen"""


def names() -> list[str]:
    """Return the names that data may give, such as a score record: the tasks of this package and
    installed ones."""
    return list(dict.fromkeys([*BUILT_IN, *installed(GROUP)]))


def get(name: str, flag: str = "--task") -> TaskSpec:
    """Return the spec of a task, by its name or package.module:SPEC; flag: the option that names
    it.

    Raises:
        StepDiffError: No such task, or its module cannot be imported.
    """
    if ":" not in name and name not in names():
        raise StepDiffError(
            f"{flag} {name}: no such task; give one of {', '.join(names())}, or package.module:SPEC"
        )
    place, spec = load(BUILT_IN.get(name, name), GROUP, flag)
    if not isinstance(spec, TaskSpec):
        raise StepDiffError(
            f"{flag} {name}: {place} is not a stepdiff_core.tasks.registry.TaskSpec"
        )
    return spec


def truth_of(file: str | Path | None, name: str = "truth_figures") -> Any:
    """Return a function of the sample world's truth, by the attributes.jsonl of a world; None
    without a file.

    Args:
        file: of `stepdiff kitchen`.
        name: truth_figures scores captions; as_true_by tells texts that are as true of another
            pair.

    Raises:
        StepDiffError: The file cannot be read, or the sample world's packages are not installed.
    """
    return (
        None if file is None else load(f"stepdiff.kitchen.truth:{name}", GROUP, "--truth")[1](file)
    )


def readers(option: str) -> list[str]:
    """Return the names of our tasks that read an option of heads.evaluate."""
    return [name for name in BUILT_IN if option in get(name).options]
