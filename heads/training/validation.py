"""Validation during training: DiffMCQ and DiffRank on rows of the val split, drawn by seed, choose the checkpoint.

Guarantees
- no clip that trains chooses the checkpoint, whether or not the catalog has splits
- a row whose targets all get the same score counts 0; a method that orders no row has no tau and no credit for it
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
        """Draw the rows. StepDiffError: an invalid test set."""
        choices, ranks = generator(seed, "validation DiffMCQ rows"), generator(seed, "validation DiffRank rows")
        self.choices: list[DiffMCQ] = drawn(read_test_set("diffmcq", options.diffmcq), options.rows, choices)
        self.ranks: list[DiffRank] = drawn(read_test_set("diffrank", options.diffrank), options.rows, ranks)

    def clips(self) -> list[str]:
        """Return the clips of its rows, each once."""
        rows: list[DiffMCQ | DiffRank] = [*self.choices, *self.ranks]
        return list(dict.fromkeys(clip for row in rows for clip in clips_of(row)))

    def refuse(self, clips: Iterable[str], path: str) -> None:
        """Raise StepDiffError if one of the training clips, named in `path`, is also a validation clip."""
        if shared := sorted(set(clips).intersection(self.clips())):
            raise StepDiffError(
                f"{path}: {len(shared)} training clips are in the val test sets, e.g. {shared[0]}; remove their rows "
                "from either"
            )

    def figures(self, method: Compares) -> dict[str, float | None]:
        """Return "score", the mean of accuracy and tau, and its parts; None for an undefined figure."""
        choices = score("diffmcq", self.choices, method.score_options(self.choices), 0)
        ranks = score("diffrank", self.ranks, method.rank(self.ranks), 0)
        accuracy, tau = choices["accuracy"], ranks["ktau_all_rows"]
        return {
            "score": (accuracy + (tau or 0.0)) / 2,
            "accuracy": accuracy,
            "ktau": tau,
            "ktau_within_step": ranks["ktau_within_step_all_rows"],
        }
