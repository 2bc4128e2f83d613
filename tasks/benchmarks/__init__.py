"""Other people's benchmarks: readers of their published files, prompts, scorers and published figures."""

from importlib import import_module

from common.errors import StepDiffError
from tasks.benchmarks.benchmark import Benchmark

MODULES: dict[str, str] = {
    "convis": "convis.pairs",
    "convis-retrieval": "convis.retrieval",
    "captaincook-mistake": "captaincook:MISTAKE",
    "captaincook-retrieval": "captaincook:RETRIEVAL",
    "captaincook-retrieval-flawed": "captaincook:FLAWED",
    "crossvid-cc": "crossvid:CC",
    "crossvid-pea": "crossvid:PEA",
    "viddiff-closed": "viddiff.closed",
    "viddiff-open": "viddiff.open",
    "vidic": "vidic.checklist",
}
"""name -> the module that defines it as BENCHMARK, or MODULE:NAME"""
JUDGED = ("viddiff-open", "vidic")
"""those whose texts a judge compares with the truth"""


def get(name: str) -> Benchmark:
    """Return a benchmark. StepDiffError: no such name."""
    if name not in MODULES:
        raise StepDiffError(f"--task {name}: no such benchmark; known: {', '.join(sorted(MODULES))}")
    module, _, attribute = MODULES[name].partition(":")
    found: Benchmark = getattr(import_module(f"tasks.benchmarks.{module}"), attribute or "BENCHMARK")
    return found
