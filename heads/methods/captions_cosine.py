"""Captions compared by sentence embeddings: how similar two clips are, from a text about each alone.

The score of two clips is the cosine of their texts' embeddings. It does not know the category or concept. With the
published captions of ConViS-Bench and all-MiniLM-L6-v2 it is that benchmark's SBERT baseline.

Guarantees
- a batch does not change an embedding: texts are embedded in blocks that depend on the file of texts only
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from heads.data.clip_texts import ClipTexts
from heads.methods.similarity import Sentences
from stepdiff.tasks.benchmarks.rows import Ranking, Rating
from stepdiff.tasks.testsets import DiffRank

MODEL = "minilm-l6"
BLOCK = 256
"""texts that are embedded together"""


class CaptionsCosine:
    """A method that ranks and rates clips by the texts about them."""

    def __init__(self, texts: ClipTexts, model: str = MODEL, device: str = "cpu") -> None:
        """texts: one about each clip; model: a sentence-transformers model, as weights.resolve takes it."""
        self.texts = texts
        self.sentences = Sentences(device=device, model=model)
        self._ordered = sorted({text.strip() for text in texts.texts.values()})
        self._places = {text: place for place, text in enumerate(self._ordered)}
        self._blocks: dict[int, Float32[np.ndarray, "T E"]] = {}

    def rank(self, rows: Sequence[DiffRank | Ranking | Rating]) -> list[list[float]]:
        """Return the cosine of the reference's text with that of each target. StepDiffError: a clip without a text."""
        clips = list(dict.fromkeys(clip for row in rows for clip in (row.reference, *row.targets)))
        self.texts.check(clips)
        of = {clip: self._embedding(clip) for clip in clips}
        return [[float(of[row.reference] @ of[target]) for target in row.targets] for row in rows]

    def _embedding(self, clip: str) -> Float32[np.ndarray, " E"]:
        block, place = divmod(self._places[self.texts.texts[clip].strip()], BLOCK)
        if block not in self._blocks:
            self._blocks[block] = self.sentences(self._ordered[block * BLOCK : (block + 1) * BLOCK])
        return self._blocks[block][place]
