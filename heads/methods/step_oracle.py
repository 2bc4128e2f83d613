"""A control: knows which step each clip shows and nothing else."""

from collections.abc import Sequence

from common.errors import StepDiffError
from store import Store
from tasks.testsets import DiffCap, DiffMCQ, DiffRank


class StepOracle:
    def __init__(self, store: Store) -> None:
        frame = store.catalog("clips").frame()
        if "step" not in frame.columns:
            raise StepDiffError(f"{store.path}: its catalog has no column step, which this control reads")
        self.steps = dict(zip(frame["key"], frame["step"], strict=True))

    def rank(self, rows: Sequence[DiffRank]) -> list[list[float]]:
        """1 for a target of the reference's step, else 0: clips of which no step is known share none."""
        return [[float(self.steps[t] == self.steps[row.reference] is not None) for t in row.targets] for row in rows]

    def score_options(self, rows: Sequence[DiffMCQ]) -> list[list[float]]:
        raise StepDiffError("step-oracle ranks targets by their step and says nothing about options")

    def caption(self, rows: Sequence[DiffCap]) -> list[str]:
        raise StepDiffError("step-oracle ranks targets by their step and writes no text")
