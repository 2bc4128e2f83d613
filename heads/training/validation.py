"""What chooses a checkpoint: DiffMCQ and DiffRank on rows of the val split, drawn by seed.

Guarantees
- no clip that trains chooses the checkpoint, whatever the catalog knows of splits
- a row all of whose targets a method says the same of counts 0; one that ranks no row has no tau, and no credit
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from common.errors import StepDiffError
from common.streams import generator
from heads.training.recipe import Validation
from tasks.scoring import score
from tasks.testsets import DiffMCQ, DiffRank, clips_of, drawn, read_test_set


@runtime_checkable
class Compares(Protocol):
    """A method that scores options and ranks targets (heads.methods)."""

    def score_options(self, rows: Sequence[DiffMCQ]) -> list[list[float]]: ...

    def rank(self, rows: Sequence[DiffRank]) -> list[list[float]]: ...


class Validator:
    def __init__(self, options: Validation, seed: int) -> None:
        """StepDiffError: a fault in a test set."""
        choices, ranks = generator(seed, "validation DiffMCQ rows"), generator(seed, "validation DiffRank rows")
        self.choices: list[DiffMCQ] = drawn(read_test_set("diffmcq", options.diffmcq), options.rows, choices)
        self.ranks: list[DiffRank] = drawn(read_test_set("diffrank", options.diffrank), options.rows, ranks)

    def clips(self) -> list[str]:
        """The clips of its rows, each once."""
        rows: list[DiffMCQ | DiffRank] = [*self.choices, *self.ranks]
        return list(dict.fromkeys(clip for row in rows for clip in clips_of(row)))

    def refuse(self, clips: Iterable[str], path: str) -> None:
        """StepDiffError: one of the clips that train, which `path` names, is among those that choose the checkpoint."""
        if shared := sorted(set(clips).intersection(self.clips())):
            raise StepDiffError(
                f"{path}: {len(shared)} clips that would train stand in the val test sets, e.g. {shared[0]}; remove "
                "their rows from either"
            )

    def figures(self, method: Compares) -> dict[str, float | None]:
        """ "score", the mean of accuracy and tau, and what it is made of; None where a figure is undefined."""
        choices = score("diffmcq", self.choices, method.score_options(self.choices), 0)
        ranks = score("diffrank", self.ranks, method.rank(self.ranks), 0)
        accuracy, tau = choices["accuracy"], ranks["ktau_all_rows"]
        return {
            "score": (accuracy + (tau or 0.0)) / 2,
            "accuracy": accuracy,
            "ktau": tau,
            "ktau_within_step": ranks["ktau_within_step_all_rows"],
        }
