"""VLEmb: a difference text against the average of a pair's embeddings, in one space (paper, Sec. 4; supplement S5).

Guarantees
- every embedding is L2-normalised before the average and before the cosine
- DiffRank is the cosine of the two clips; DiffCap is refused
"""

from collections.abc import Sequence

from jaxtyping import Float32
from torch import Tensor
from torch.nn.functional import normalize

from heads.clips import Features
from heads.errors import HeadsError
from heads.testsets import DiffCap, DiffMCQ, DiffRank
from store import Store, text_key


class VLEmb:
    def __init__(self, store: Store, view: str) -> None:
        self.store = store
        self.view = view
        self.clips = Features(store, view, "embedding")

    def _clips(self, ids: Sequence[str]) -> Float32[Tensor, "K E"]:
        return normalize(self.clips.read(ids), dim=-1)

    def score_options(self, rows: Sequence[DiffMCQ]) -> list[list[float]]:
        """Cosine of each question's text with the average embedding of each option's pair."""
        if self.view not in self.store.views("texts"):
            raise HeadsError(
                f"{self.store.path}: view {self.view} has no text side, so it cannot match a text; use a view that "
                "has one (clip, or a contrastive head's)"
            )
        texts = Features(self.store, self.view, "embedding", "texts")
        scores = []
        for row in rows:
            text = normalize(texts.read([text_key(row.difference)]), dim=-1)
            ends = self._clips([clip for pair in row.options for clip in pair])
            pairs = normalize(ends.unflatten(0, (-1, 2)).mean(dim=1), dim=-1)
            scores.append((pairs @ text[0]).tolist())
        return scores

    def rank(self, rows: Sequence[DiffRank]) -> list[list[float]]:
        scores = []
        for row in rows:
            clips = self._clips([row.reference, *row.targets])
            scores.append((clips[1:] @ clips[0]).tolist())
        return scores

    def caption(self, rows: Sequence[DiffCap]) -> list[str]:
        raise HeadsError("vlemb compares embeddings and writes no text: DiffCap is not for it")
