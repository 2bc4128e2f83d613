"""Pairs of clips with all that is asked of them, batch by batch.

Guarantees
- a batch is a pure function of seed and number, and of what was mined last
"""

import numpy as np

from heads.chat import Chat
from heads.errors import HeadsError
from heads.hard_negatives import HardNegatives
from heads.packing import Packer, Turn
from heads.paired_qa import ONE_SIDED, PairQuestions, balanced, draw, one_sided, turns
from heads.recipe import VideoLMRecipe
from heads.sources import Batch


class PairedSource:
    def __init__(
        self,
        recipe: VideoLMRecipe,
        pairs: list[PairQuestions],
        chat: Chat,
        packs: bool,
        seed: int,
        negatives: HardNegatives | None,
    ) -> None:
        """packs: whether the language model reads packed questions."""
        self.recipe, self.pairs, self.seed, self.negatives = recipe, pairs, seed, negatives
        self.packed = recipe.packed and packs
        self.packer = Packer(chat, recipe.projector.outputs)
        self.one_sided = one_sided(pairs)
        if recipe.one_sided_first and (recipe.batch < 2 or not all(self.one_sided)):
            raise HeadsError(
                f"{recipe.pairqa}: one_sided_first needs two pairs a batch, and pairs whose YES / NO answers, "
                f"{ONE_SIDED} or more, are all YES, and such whose are all NO; set video_lm.one_sided_first to 0"
            )

    def drawn_pairs(self, number: int, step: int) -> list[PairQuestions]:
        """The pairs of one batch; in the first steps two of three are one-sided, alike and unlike by turns."""
        recipe, seed = self.recipe, self.seed
        pairs = [self.pairs[i] for i in draw(len(self.pairs), recipe.batch, number, seed)]
        if step < recipe.one_sided_first:
            count = recipe.batch * 2 // 3
            for place in range(count):
                turn = number * count + place
                pool = self.one_sided[turn % 2]
                pairs[place] = pool[draw(len(pool), 1, turn // 2, seed)[0]]
        return pairs

    def batch(self, number: int, step: int) -> Batch:
        recipe = self.recipe
        rng = np.random.default_rng([self.seed, 1, number])
        pairs = self.drawn_pairs(number, step)
        drawn = [turns(pair, recipe.questions, rng, step < recipe.decisions_first) for pair in pairs]
        asked: list[tuple[tuple[str, str], list[Turn]]] = [
            ((pair.reference, pair.candidate), own)
            for pair, own in zip(pairs, balanced(drawn, recipe.yes_no_weight), strict=True)
        ]
        if self.negatives is not None:
            asked = self.negatives.asked_of_neighbours(asked, rng)
        clips = [clip for pair, _ in asked for clip in pair]
        return Batch(clips, self.packer.pack([own for _, own in asked], self.packed))
