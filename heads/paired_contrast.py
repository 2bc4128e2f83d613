"""Pairs of clips for the contrastive head: what differs in a pair, and how alike its clips are said to be.

Guarantees
- no clip of another split than train trains, where the catalog knows splits at all
- a pair with a clip that is held out is dropped
- a batch is a pure function of seed and number
- an answer that nothing differs is matched to no pair
"""

from dataclasses import dataclass

import polars as pl
import torch
from jaxtyping import Float32
from torch import Tensor

from common.errors import StepDiffError
from common.streams import generator
from heads.data.clips import Features
from heads.data.hold_out import HoldOut
from heads.data.paired_qa import draw, kind, read_paired_qa
from heads.training.recipe import PairsContrast
from store import text_key
from tasks.declining import declines
from tasks.prompts import NO, YES


@dataclass(frozen=True)
class Told:
    """A pair with answers that say what differs."""

    pair: tuple[str, str]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Decided:
    """A pair with the share of YES among its YES / NO answers."""

    pair: tuple[str, str]
    alike: float


def contrast_pairs(
    path: str, catalog: pl.DataFrame, hold_out: HoldOut | None = None
) -> tuple[list[Told], list[Decided]]:
    """The pairs of a file of paired QA of which either is said; many stand in both lists."""
    told, decided = [], []
    for own in read_paired_qa(path, catalog, hold_out):
        pair, answers = (own.reference, own.candidate), [answer for _, answer in own.questions]
        texts = tuple(answer for answer in answers if kind(answer) == "text" and not declines(answer))
        yes = [answer == YES for answer in answers if answer in (YES, NO)]
        if texts:
            told.append(Told(pair, texts))
        if yes:
            decided.append(Decided(pair, sum(yes) / len(yes)))
    if not told or not decided:
        raise StepDiffError(f"{path}: no answer says what differs, or none is YES or NO; drop contrastive.pairs")
    return told, decided


@dataclass(frozen=True)
class PairBatch:
    """P pairs with a text that says what differs, and P with the share of what their clips share."""

    told: Float32[Tensor, "P 2 N D"]
    texts: Float32[Tensor, "P E"]
    decided: Float32[Tensor, "P 2 N D"]
    alike: Float32[Tensor, " P"]


class PairContrast:
    """Batches of the recipe's pairs, read from cached features."""

    def __init__(
        self,
        options: PairsContrast,
        catalog: pl.DataFrame,
        clips: Features,
        texts: Features,
        seed: int,
        hold_out: HoldOut | None = None,
    ) -> None:
        """StepDiffError: texts without features, clips of another split, or a file that says nothing of the kind."""
        self.options, self.clips, self.texts, self.seed = options, clips, texts, seed
        self.told, self.decided = contrast_pairs(options.pairqa, catalog, hold_out)
        keys = list(dict.fromkeys(text_key(text) for told in self.told for text in told.texts))
        lacking = int((~texts.has(keys)).sum())
        if lacking:
            raise StepDiffError(
                f"{options.pairqa}: {lacking} of {len(keys)} texts that say what differs have no {texts.view.name} "
                f"features; run python -m featurize --manifest {options.pairqa} --column answer --encoder "
                f"{texts.view.provenance.encoder} on the store"
            )

    def trained(self) -> list[str]:
        """The clips of all its pairs, each once."""
        pairs = [*(own.pair for own in self.told), *(own.pair for own in self.decided)]
        return list(dict.fromkeys(clip for pair in pairs for clip in pair))

    def batch(self, number: int, device: str) -> PairBatch:
        """The batch of that number; of a pair with several texts one is drawn."""
        rng = generator(self.seed, "contrastive texts", number)
        size = min(self.options.pairs, len(self.told), len(self.decided))
        order, kinds = "contrastive order of differences", "contrastive order of decisions"
        told = [self.told[place] for place in draw(len(self.told), size, number, self.seed, order)]
        decided = [self.decided[place] for place in draw(len(self.decided), size, number, self.seed, kinds)]
        texts = [own.texts[rng.integers(len(own.texts))] for own in told]
        return PairBatch(
            self._read([own.pair for own in told], device),
            self.texts.read([text_key(text) for text in texts], device),
            self._read([own.pair for own in decided], device),
            torch.tensor([own.alike for own in decided], device=device),
        )

    def _read(self, pairs: list[tuple[str, str]], device: str) -> Float32[Tensor, "P 2 N D"]:
        return self.clips.read([clip for pair in pairs for clip in pair], device).unflatten(0, (-1, 2))
