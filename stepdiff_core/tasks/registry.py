"""The tasks by name: the published ones, the benchmarks of others, and those of installed packages.

A package adds a task with an entry point whose object is a TaskSpec; `package.module:SPEC` names one without it:

    [project.entry-points."stepdiff.tasks"]
    mine = "my_package.tasks:SPEC"
"""

from pathlib import Path
from typing import Any

from stepdiff_core.errors import StepDiffError
from stepdiff_core.plugins import installed, load
from stepdiff_core.tasks.spec import TaskSpec

GROUP = "stepdiff.tasks"
BUILT_IN = {
    "diffcap": "stepdiff_core.tasks.published:DIFFCAP",
    "diffmcq": "stepdiff_core.tasks.published:DIFFMCQ",
    "diffrank": "stepdiff_core.tasks.published:DIFFRANK",
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


def known() -> list[str]:
    """Return the names that data may give, such as a score record: the tasks of this package and installed ones."""
    return list(dict.fromkeys([*BUILT_IN, *installed(GROUP)]))


def get(name: str, flag: str = "--task") -> TaskSpec:
    """Return the spec of a task, by its name or package.module:SPEC; flag: the option that names it.

    Raises:
        StepDiffError: No such task, or its module cannot be imported.
    """
    if ":" not in name and name not in known():
        raise StepDiffError(f"{flag} {name}: no such task; give one of {', '.join(known())}, or package.module:SPEC")
    place, spec = load(BUILT_IN.get(name, name), GROUP, flag)
    if not isinstance(spec, TaskSpec):
        raise StepDiffError(f"{flag} {name}: {place} is not a stepdiff_core.tasks.spec.TaskSpec")
    return spec


def truth_of(file: str | Path | None, name: str = "truth_figures") -> Any:
    """Return a function of the sample world's truth, by the attributes.jsonl of a world; None without a file.

    Args:
        file: of `stepdiff kitchen`.
        name: truth_figures scores captions; as_true_by tells texts that are as true of another pair.

    Raises:
        StepDiffError: The file cannot be read, or the sample world's packages are not installed.
    """
    return None if file is None else load(f"stepdiff.kitchen.truth:{name}", GROUP, "--truth")[1](file)


def readers(option: str) -> list[str]:
    """Return the names of our tasks that read an option of heads.evaluate."""
    return [name for name in BUILT_IN if option in get(name).options]
