"""A control of DiffMCQ that knows the world's ground truth and reads no text.

    python -m heads.evaluate --task diffmcq --method kitchen.controls:MostDifferences --store data/features \\
        --test-set data/kitchen/diffmcq_test.jsonl --out data/demo/diffmcq_most.jsonl

Guarantees
- clips of different steps have no differences
- ties are broken at random, in the same way every time
- a store whose videos are not of a rendered world is refused in one line
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import StepDiffError
from common.io.jsonl import read_objects
from kitchen.attributes import Attributes, differences
from tasks.testsets import DiffMCQ, Pair, clips_of


class MostDifferences:
    """The option whose clips differ in the most attributes of the row's category."""

    def __init__(self, store: Any, view: str | None, device: str) -> None:
        """store: its catalog names videos of a rendered world, WORLD/videos/NAME.mp4; read is WORLD/attributes.jsonl.

        view, device: not used; every plug-in of heads.evaluate has them.
        """
        frame = store.catalog("clips").frame()
        videos = frame["video"].drop_nulls().unique() if "video" in frame.columns else []
        files = {Path(video).parent.parent / "attributes.jsonl" for video in videos}
        found = sorted(file for file in files if file.is_file())
        if not found:
            raise StepDiffError(
                f"{store.path}: no attributes.jsonl next to the folder of its videos; this control is for a world of "
                "python -m kitchen, run where the catalog's paths of videos lead to it"
            )
        self.truth = {row["clip"]: Attributes.from_dict(row) for file in found for _, row in read_objects(file)}

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
            raise StepDiffError(
                f"{error.args[0]}: not a clip of the rendered world, so its attributes are unknown"
            ) from None
        return len(differences(category, one, other)) if one.step == other.step else 0
