"""Sentence embeddings: the figure MPNet of captions, and a method that compares clips by texts
about them.

MPNet is how similar a caption is to human texts, by all-mpnet-base-v2: the highest cosine of a
row's caption and one of its references, from -1 to 1.

Guarantees
- a caption that repeats a reference scores 1, whatever the other references are
- a text without a word has cosine 0 with every text
- embeddings in the store are read; others are computed with the same weights, or refused
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32

from heads.data.clip_texts import ClipTexts
from heads.data.clips import Features
from stepdiff_core.errors import StepDiffError
from stepdiff_core.progress import progress
from stepdiff_core.tasks.benchmarks.rows import Ranking, Rating
from stepdiff_core.tasks.testsets import DiffRank
from stepdiff_core.weights import fingerprint, resolve
from store import Store, text_key

MODEL = "mpnet-base"
CAPTIONS_MODEL = "minilm-l6"
BLOCK = 256  # texts of captions-cosine that are embedded together
BATCH = 64
TEXTS_AT_ONCE = 1024  # per progress update


class Sentences:
    """Sentence embeddings: read from the store, or computed if it has none."""

    def __init__(self, store: Store | None = None, device: str = "cpu", model: str = MODEL) -> None:
        self.store, self.device, self.model = store, device, model

    def __call__(self, texts: Sequence[str]) -> Float32[np.ndarray, "T E"]:
        """Return unit-norm embeddings in the order of the texts. StepDiffError: the store's have
        other weights."""
        texts = [text.encode("utf-8", "replace").decode() for text in texts]  # no lone surrogates
        if self.store is None or MODEL not in self.store.views("texts"):
            return self._encode(texts)
        stored = Features(self.store, MODEL, "embedding", "texts")
        keys = [text_key(text) for text in texts]
        present = stored.has(keys)
        if not present.any():
            return self._encode(texts)
        cached = stored.read(
            [key for key, is_present in zip(keys, present, strict=True) if is_present]
        ).numpy()
        vectors = np.empty((len(texts), cached.shape[1]), np.float32)
        vectors[present] = cached
        missing = [text for text, is_present in zip(texts, present, strict=True) if not is_present]
        if missing:
            folder = resolve(self.model)
            if stored.view.provenance.weights != fingerprint(folder):
                raise StepDiffError(
                    f"{self.store.path}: {MODEL} of texts was made with other weights than "
                    f"{folder}, so their embeddings cannot be compared; leave the store out, or "
                    "fetch the weights that made it"
                )
            vectors[~present] = self._encode(missing)
        return vectors

    def _encode(self, texts: list[str]) -> Float32[np.ndarray, "T E"]:
        parts = []
        with progress(f"{self.model} embeddings", len(texts), "texts") as advance:
            for start in range(0, len(texts), TEXTS_AT_ONCE):
                part = texts[start : start + TEXTS_AT_ONCE]
                vectors = self._loaded.encode(
                    part, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
                )
                parts.append(vectors)
                advance(len(part))
        return np.concatenate(parts).astype(np.float32)

    @cached_property
    def _loaded(self) -> Any:
        import torch
        import transformers
        from sentence_transformers import SentenceTransformer

        transformers.utils.logging.disable_progress_bar()
        return SentenceTransformer(
            str(resolve(self.model)),
            device=self.device,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )


def sentences(store: str | None, device: str) -> Sentences:
    """Return the embeddings for the figure MPNet. store: folder of a store with embeddings of
    texts; None: compute."""
    from heads.models.language_model import pick_device

    return Sentences(Store.open(store) if store is not None else None, pick_device(device))


class CaptionsCosine:
    """A method that ranks and rates clips by the cosine of the texts about each alone, whatever the
    category.

    With the published captions of ConViS-Bench and all-MiniLM-L6-v2 it is that benchmark's SBERT
    baseline. Texts are embedded in blocks that depend on the file of texts only, so that a batch of
    rows does not change an embedding.
    """

    def __init__(self, texts: ClipTexts, model: str = CAPTIONS_MODEL, device: str = "cpu") -> None:
        """texts: one about each clip; model: a sentence-transformers model, as weights.resolve
        takes it."""
        self.texts = texts
        self.sentences = Sentences(device=device, model=model)
        self._ordered = sorted({text.strip() for text in texts.texts.values()})
        self._places = {text: place for place, text in enumerate(self._ordered)}
        self._blocks: dict[int, Float32[np.ndarray, "T E"]] = {}

    def rank(self, rows: Sequence[DiffRank | Ranking | Rating]) -> list[list[float]]:
        """Return the cosine of the reference's text with each target's text. StepDiffError: a clip
        without a text."""
        clips = list(dict.fromkeys(clip for row in rows for clip in (row.reference, *row.targets)))
        self.texts.check(clips)
        of = {clip: self._embedding(clip) for clip in clips}
        return [[float(of[row.reference] @ of[target]) for target in row.targets] for row in rows]

    def _embedding(self, clip: str) -> Float32[np.ndarray, " E"]:
        block, place = divmod(self._places[self.texts.texts[clip].strip()], BLOCK)
        if block not in self._blocks:
            self._blocks[block] = self.sentences(self._ordered[block * BLOCK : (block + 1) * BLOCK])
        return self._blocks[block][place]
