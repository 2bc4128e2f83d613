"""Methods that know the world's ground truth: a control of DiffMCQ that reads no text, and the
ceiling.

    python -m heads.evaluate --task diffmcq --method stepdiff.kitchen.controls:MostDifferences \\
        --store data/features --test-set data/kitchen/diffmcq_test.jsonl \\
            --out data/demo/diffmcq_most.jsonl
    python -m heads.evaluate --task diffmcq --method stepdiff.kitchen.controls:TrueAttributes \\
        --store data/features --test-set data/kitchen/diffmcq_test.jsonl \\
            --out data/demo/diffmcq_truth.jsonl

Clips of different steps have no differences. Ties of options are broken at random, in the same way
every time.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepdiff.kitchen.attributes import Attributes, differences
from stepdiff.kitchen.truth import details_of, named_details, read_world
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.testsets import DiffMCQ, DiffRank, Pair, clips_of

UNTRUE, OTHER_STEP = 100, 10_000
"""what a named detail counts that is not true, more than all that a text can leave out, and a pair
of two steps"""


class MostDifferences:
    """The option whose clips differ in the most attributes of the row's category."""

    title, regime, control = "most differences, text not read", "none", True

    def __init__(self, store: Any, view: str | None, device: str) -> None:
        """Find the world of the store's videos. `view` and `device` are not used; every plug-in has
        them."""
        self.truth = _truth(store)

    def score_options(self, rows: Sequence[DiffMCQ]) -> list[list[float]]:
        """Return the score of each option, a whole number, plus a random number below 1."""
        return [self._scores(row) for row in rows]

    def _scores(self, row: DiffMCQ) -> list[float]:
        ties = random.Random("\n".join([row.category, *clips_of(row)]))
        return [self._score(row, *self._attributes(pair)) + ties.random() for pair in row.options]

    def _attributes(self, pair: Pair) -> tuple[Attributes, Attributes]:
        try:
            return self.truth[pair[0]], self.truth[pair[1]]
        except KeyError as error:
            raise StepDiffError(
                f"{error.args[0]}: not a clip of the rendered world, attributes are unknown"
            ) from None

    def _score(self, row: DiffMCQ, one: Attributes, other: Attributes) -> int:
        """Return the number of differences."""
        return len(differences(row.category, one, other)) if one.step == other.step else 0


class TrueAttributes(MostDifferences):
    """A reader of the true attributes: what a method could reach that sees every detail, the
    ceiling.

    It reads texts as the truth score does (stepdiff.kitchen.truth).
    """

    title, regime = "a reader of the true attributes", "truth"

    def _score(self, row: DiffMCQ, one: Attributes, other: Attributes) -> int:
        """Return minus the number of details that the text names and the pair lacks, then of those
        it leaves out."""
        if one.step != other.step:
            return -OTHER_STEP
        named, details = (
            named_details(row.difference, row.category, one, other),
            details_of(row.category, one, other),
        )
        return -UNTRUE * len(named - details) - len(details - named)

    def rank(self, rows: Sequence[DiffRank]) -> list[list[float]]:
        """Return minus the number of differences; a clip of another step comes last."""
        return [
            [self._likeness(row.category, (row.reference, target)) for target in row.targets]
            for row in rows
        ]

    def _likeness(self, category: str, pair: Pair) -> float:
        one, other = self._attributes(pair)
        return -float(
            len(differences(category, one, other)) if one.step == other.step else OTHER_STEP
        )


def _truth(store: Any) -> dict[str, Attributes]:
    """Return the attributes of every clip of the store's world. StepDiffError: no such world, or
    several.

    It is in a folder next to the store, or where the catalog's paths lead: those are from the
    manifest's folder, `videos/NAME.mp4`, which the catalog does not name.
    """
    frame = store.catalog("clips").frame()
    if not {"video", "step"} <= set(frame.columns):
        raise StepDiffError(
            f"{store.path}: its catalog has no columns video and step, so it is not of a rendered "
            "world"
        )
    steps = dict(zip(frame["key"], frame["step"], strict=True))
    folders = {Path(video).parent.parent for video in frame["video"].drop_nulls().unique()}
    bases = [
        Path(),
        *(
            file.parent
            for file in Path(str(store.path)).absolute().parent.glob("*/attributes.jsonl")
        ),
    ]
    worlds: list[dict[str, Attributes]] = []
    for file in sorted(
        {(base / folder / "attributes.jsonl").absolute() for base in bases for folder in folders}
    ):
        if file.is_file():
            truth = read_world(file)
            known = truth.keys() & steps.keys()
            if known and all(truth[clip].step == steps[clip] for clip in known):
                worlds.append(truth)
    if not worlds or any(truth != worlds[0] for truth in worlds):
        raise StepDiffError(
            f"{store.path}: {'several worlds' if worlds else 'no world'} of its clips with an "
            "attributes.jsonl next to it; this method is for a world of stepdiff kitchen in a "
            "folder next to the store, as in data/"
        )
    return worlds[0]
