"""VLEmb: cosine of a text and a pair's average embedding in one space (paper, Sec. 4; supplement
S5).

Two variants use the reference's or the candidate's embedding instead of the average (Table S2).

Guarantees
- every embedding is L2-normalised before the average and before the cosine
- DiffRank is the cosine of the two clips, and the variants refuse it
"""

from collections.abc import Sequence

from jaxtyping import Float32
from torch import Tensor
from torch.nn.functional import normalize

from heads.data.clips import Features, Reads
from heads.methods.registry import PairEmbedding
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.benchmarks.rows import Choice, Ranking, Rating
from stepdiff_core.tasks.testsets import DiffMCQ, DiffRank
from store import Store, text_key


def text_of(row: DiffMCQ | Choice) -> str | None:
    """Return the text that is compared with clips; None: the row has none."""
    return row.difference if isinstance(row, DiffMCQ) else row.about


class VLEmb:
    def __init__(
        self, clips: Reads, texts: Reads | None, pair_embedding: PairEmbedding = "average"
    ) -> None:
        """clips, texts: embeddings of a view, or of a head in training; no texts if the space has
        no text side."""
        self.clips, self.texts, self.pair_embedding = clips, texts, pair_embedding

    @classmethod
    def of_view(cls, store: Store, view: str, pair_embedding: PairEmbedding = "average") -> "VLEmb":
        """Return VLEmb over the embeddings of one view of clips and, if it has that side, of
        texts."""
        has_texts = view in store.views("texts")
        texts = Features(store, view, "embedding", "texts") if has_texts else None
        return cls(Features(store, view, "embedding"), texts, pair_embedding)

    def missing_texts(self, rows: Sequence[DiffMCQ | Choice]) -> list[str]:
        """Return texts of the rows without an embedding, each once; none if the view has no text
        side at all."""
        texts = list(dict.fromkeys(filter(None, map(text_of, rows))))
        if not isinstance(self.texts, Features):
            return []
        has = self.texts.has([text_key(text) for text in texts])
        return [text for text, there in zip(texts, has, strict=True) if not there]

    def _clips(self, ids: Sequence[str]) -> Float32[Tensor, "K E"]:
        return normalize(self.clips.read(ids), dim=-1)

    def _text(self, row: DiffMCQ | Choice) -> Float32[Tensor, " E"]:
        if self.texts is None:
            raise StepDiffError(
                "the view has no embeddings of texts; use one that does (of clip, or of a "
                "contrastive head)"
            )
        text = text_of(row)
        if text is None:
            raise StepDiffError(
                "the options of this task are not clips, so the cosine of a text and a clip cannot "
                "choose one; use another method"
            )
        return normalize(self.texts.read([text_key(text)]), dim=-1)[0]

    def choose(self, rows: Sequence[Choice]) -> list[list[float]]:
        """Return the cosine of the text of each row and each of its clips."""
        return [(self._clips(row.clips) @ self._text(row)).tolist() for row in rows]

    def score_options(self, rows: Sequence[DiffMCQ]) -> list[list[float]]:
        """Return the cosine of each question's text and the embedding of each option's pair."""
        chosen = {"average": slice(None), "reference": slice(0, 1), "candidate": slice(1, 2)}[
            self.pair_embedding
        ]
        scores = []
        for row in rows:
            ends = self._clips([clip for pair in row.options for clip in pair]).unflatten(
                0, (-1, 2)
            )
            pairs = normalize(ends[:, chosen].mean(dim=1), dim=-1)
            scores.append((pairs @ self._text(row)).tolist())
        return scores

    def rank(self, rows: Sequence[DiffRank | Rating | Ranking]) -> list[list[float]]:
        if self.pair_embedding != "average":
            raise StepDiffError(
                f"--pair-embedding {self.pair_embedding} is a variant of DiffMCQ: DiffRank matches "
                "a clip to a clip"
            )
        scores = []
        for row in rows:
            clips = self._clips([row.reference, *row.targets])
            scores.append((clips[1:] @ clips[0]).tolist())
        return scores
