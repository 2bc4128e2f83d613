"""Pairs of clips with all that is asked of them, batch by batch.

Guarantees
- a batch is a pure function of seed and number, and of what was mined last
"""

from common.streams import generator
from heads.data.chat import Chat
from heads.data.hard_negatives import HardNegatives
from heads.data.packing import Packer, Turn
from heads.data.paired_qa import PairQuestions, balanced, draw, turns
from heads.training.recipe import VideoLMRecipe
from heads.training.sources import Batch


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

    def batch(self, number: int, step: int) -> Batch:
        recipe = self.recipe
        rng = generator(self.seed, "questions of a pair", number)
        pairs = [self.pairs[i] for i in draw(len(self.pairs), recipe.batch, number, self.seed, "order of pairs")]
        asked: list[tuple[tuple[str, str], list[Turn]]] = [
            ((pair.reference, pair.candidate), turns(pair, recipe.questions, rng)) for pair in pairs
        ]
        if recipe.yes_no_weight is not None:
            asked = [(pair, balanced(own, recipe.yes_no_weight)) for pair, own in asked]
        if self.negatives is not None:
            asked = self.negatives.asked_of_neighbours(asked, generator(self.seed, "hard negatives", number))
        clips = [clip for pair, _ in asked for clip in pair]
        return Batch(clips, self.packer.pack([own for _, own in asked], self.packed))
