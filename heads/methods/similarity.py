"""MPNet: how similar a caption is to human texts, by sentence embeddings of all-mpnet-base-v2.

A row's score is the highest cosine of its caption and one of its references, from -1 to 1.

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

from stepdiff.common.errors import StepDiffError
from stepdiff.common.progress import progress
from stepdiff.weights import fingerprint, resolve
from store import Store, text_key
from store.view import OK

MODEL = "mpnet-base"
BATCH = 64
TEXTS_AT_ONCE = 1024  # per progress update


class Sentences:
    """Sentence embeddings: read from the store, or computed if it has none."""

    def __init__(self, store: Store | None = None, device: str = "cpu", model: str = MODEL) -> None:
        self.store, self.device, self.model = store, device, model

    def __call__(self, texts: Sequence[str]) -> Float32[np.ndarray, "T E"]:
        """Return unit-norm embeddings in the order of the texts. StepDiffError: the store's have other weights."""
        texts = [text.encode("utf-8", "replace").decode() for text in texts]  # no lone surrogates
        if self.store is None or MODEL not in self.store.views("texts"):
            return self._encode(texts)
        view = self.store.view("texts", MODEL)
        rows = np.asarray(self.store.catalog("texts").rows([text_key(text) for text in texts]))
        present = rows >= 0
        present[present] = view.status()[rows[present]] == OK
        if not present.any():
            return self._encode(texts)
        cached = np.asarray(view.read("embedding", rows[present], dtype="float32"))
        vectors = np.empty((len(texts), cached.shape[1]), np.float32)
        vectors[present] = cached
        missing = [text for text, is_present in zip(texts, present, strict=True) if not is_present]
        if missing:
            folder = resolve(self.model)
            if view.provenance.weights != fingerprint(folder):
                raise StepDiffError(
                    f"{self.store.path}: {MODEL} of texts was made with other weights than {folder}, so their "
                    "embeddings cannot be compared; leave the store out, or fetch the weights that made it"
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
    """Return the embeddings for the figure MPNet. store: folder of a store with embeddings of texts; None: compute."""
    from heads.models.language_model import pick_device

    return Sentences(Store.open(store) if store is not None else None, pick_device(device))
