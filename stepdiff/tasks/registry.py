"""The tasks by name: the published ones, the benchmarks of others, and those of installed packages.

A package adds a task with an entry point whose object is a TaskSpec; `package.module:SPEC` names one without it:

    [project.entry-points."stepdiff.tasks"]
    mine = "my_package.tasks:SPEC"
"""

from stepdiff.common.errors import StepDiffError
from stepdiff.common.plugins import installed, load
from stepdiff.tasks.spec import TaskSpec

GROUP = "stepdiff.tasks"
BUILT_IN = {
    "diffcap": "stepdiff.tasks.published:DIFFCAP",
    "diffmcq": "stepdiff.tasks.published:DIFFMCQ",
    "diffrank": "stepdiff.tasks.published:DIFFRANK",
    "captaincook-mistake": "stepdiff.tasks.benchmarks.captaincook:MISTAKE",
    "captaincook-retrieval": "stepdiff.tasks.benchmarks.captaincook:RETRIEVAL",
    "captaincook-retrieval-flawed": "stepdiff.tasks.benchmarks.captaincook:FLAWED",
    "convis": "stepdiff.tasks.benchmarks.convis:SPEC",
    "convis-retrieval": "stepdiff.tasks.benchmarks.convis:RETRIEVAL",
    "crossvid-cc": "stepdiff.tasks.benchmarks.crossvid:CC",
    "crossvid-pea": "stepdiff.tasks.benchmarks.crossvid:PEA",
    "viddiff-closed": "stepdiff.tasks.benchmarks.viddiff:SPEC",
    "viddiff-open": "stepdiff.tasks.benchmarks.viddiff_open:SPEC",
    "vidic": "stepdiff.tasks.benchmarks.vidic:SPEC",
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
        raise StepDiffError(f"{flag} {name}: {place} is not a stepdiff.tasks.spec.TaskSpec")
    return spec


def readers(option: str) -> list[str]:
    """Return the names of our tasks that read an option of heads.evaluate."""
    return [name for name in BUILT_IN if option in get(name).options]
