"""A control of DiffMCQ that knows the world's ground truth and reads no text.

    python -m heads.evaluate --task diffmcq --method stepdiff.kitchen.controls:MostDifferences --store data/features \\
        --test-set data/kitchen/diffmcq_test.jsonl --out data/demo/diffmcq_most.jsonl

Clips of different steps have no differences. Ties are broken at random, in the same way every time.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepdiff.common.errors import StepDiffError
from stepdiff.kitchen.attributes import Attributes, differences
from stepdiff.kitchen.truth import read_world
from stepdiff.tasks.testsets import DiffMCQ, Pair, clips_of


class MostDifferences:
    """The option whose clips differ in the most attributes of the row's category."""

    title, regime, control = "most differences, text not read", "none", True

    def __init__(self, store: Any, view: str | None, device: str) -> None:
        """Find the world of the store's videos. `view` and `device` are not used; every plug-in has them."""
        self.truth = _truth(store)

    def score_options(self, rows: Sequence[DiffMCQ]) -> list[list[float]]:
        """Return the number of differences of each option's clips, plus a random number below 1."""
        return [self._scores(row) for row in rows]

    def _scores(self, row: DiffMCQ) -> list[float]:
        ties = random.Random("\n".join([row.category, *clips_of(row)]))
        return [self._count(row.category, pair) + ties.random() for pair in row.options]

    def _count(self, category: str, pair: Pair) -> int:
        try:
            one, other = (self.truth[clip] for clip in pair)
        except KeyError as error:
            raise StepDiffError(f"{error.args[0]}: not a clip of the rendered world, attributes are unknown") from None
        return len(differences(category, one, other)) if one.step == other.step else 0


def _truth(store: Any) -> dict[str, Attributes]:
    """Return the attributes of every clip of the store's world. StepDiffError: no such world, or several.

    It is in a folder next to the store, or where the catalog's paths lead: those are from the manifest's folder,
    `videos/NAME.mp4`, which the catalog does not name.
    """
    frame = store.catalog("clips").frame()
    if not {"video", "step"} <= set(frame.columns):
        raise StepDiffError(
            f"{store.path}: its catalog has no columns video and step, so it is not of a rendered world"
        )
    steps = dict(zip(frame["key"], frame["step"], strict=True))
    folders = {Path(video).parent.parent for video in frame["video"].drop_nulls().unique()}
    bases = [Path(), *(file.parent for file in Path(str(store.path)).absolute().parent.glob("*/attributes.jsonl"))]
    worlds: list[dict[str, Attributes]] = []
    for file in sorted({(base / folder / "attributes.jsonl").absolute() for base in bases for folder in folders}):
        if file.is_file():
            truth = read_world(file)
            known = truth.keys() & steps.keys()
            if known and all(truth[clip].step == steps[clip] for clip in known):
                worlds.append(truth)
    if not worlds or any(truth != worlds[0] for truth in worlds):
        raise StepDiffError(
            f"{store.path}: {'several worlds' if worlds else 'no world'} of its clips with an attributes.jsonl next to "
            "it; this control is for a world of stepdiff kitchen in a folder next to the store, as in data/"
        )
    return worlds[0]
