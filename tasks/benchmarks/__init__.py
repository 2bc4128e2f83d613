"""Other people's benchmarks: readers of their published files, prompts, scorers and published figures."""

from importlib import import_module

from common.errors import StepDiffError
from tasks.benchmarks.benchmark import Benchmark

MODULES: dict[str, str] = {}
"""name -> the module that defines BENCHMARK"""


def get(name: str) -> Benchmark:
    """Return a benchmark. StepDiffError: no such name."""
    if name not in MODULES:
        raise StepDiffError(f"--task {name}: no such benchmark; known: {', '.join(sorted(MODULES))}")
    found: Benchmark = import_module(f"tasks.benchmarks.{MODULES[name]}").BENCHMARK
    return found
