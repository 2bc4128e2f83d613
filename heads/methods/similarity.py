"""MPNet: how alike a caption is to what people wrote, by sentence embeddings of all-mpnet-base-v2.

A row scores the highest cosine of its caption to one of its references, from -1 to 1.

Guarantees
- a caption that repeats a reference scores 1, whatever the other references are
- a text without a word is like nothing: cosine 0
- embeddings that the store holds are read; others are computed with the same weights, or refused
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from common.errors import StepDiffError
from store import Store, text_key
from store.view import OK
from weights import fingerprint, resolve

MODEL = "mpnet-base"
BATCH = 64
TEXTS_AT_ONCE = 1024  # between two lines of progress


class Sentences:
    """Embeddings of texts: the store's, or computed where it has none."""

    def __init__(self, store: Store | None = None, device: str = "cpu", model: str = MODEL) -> None:
        self.store, self.device, self.model = store, device, model

    def __call__(self, texts: Sequence[str]) -> Float32[np.ndarray, "T E"]:
        """[T, E] of norm 1, rows in the order of the texts. StepDiffError: the store's are of other weights."""
        texts = [text.encode("utf-8", "replace").decode() for text in texts]  # no half of a surrogate pair
        if self.store is None or MODEL not in self.store.views("texts"):
            return self._encode(texts)
        view = self.store.view("texts", MODEL)
        rows = np.asarray(self.store.catalog("texts").rows([text_key(text) for text in texts]))
        there = rows >= 0
        there[there] = view.status()[rows[there]] == OK
        if not there.any():
            return self._encode(texts)
        cached = np.asarray(view.read("embedding", rows[there], dtype="float32"))
        vectors = np.empty((len(texts), cached.shape[1]), np.float32)
        vectors[there] = cached
        missing = [text for text, is_there in zip(texts, there, strict=True) if not is_there]
        if missing:
            folder = resolve(self.model)
            if view.provenance.weights != fingerprint(folder):
                raise StepDiffError(
                    f"{self.store.path}: {MODEL} of texts was made with other weights than {folder}: their embeddings "
                    "do not compare; leave the store out, or fetch the weights that made it"
                )
            vectors[~there] = self._encode(missing)
        return vectors

    def _encode(self, texts: list[str]) -> Float32[np.ndarray, "T E"]:
        import torch
        import transformers
        from sentence_transformers import SentenceTransformer

        from heads.training.loop import Progress

        transformers.utils.logging.disable_progress_bar()  # of tensors that load in a moment
        model = SentenceTransformer(
            str(resolve(self.model)),
            device=self.device,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
        progress = Progress(f"{MODEL}, texts", len(texts))
        parts = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = texts[start : start + TEXTS_AT_ONCE]
            parts.append(model.encode(some, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False))
            progress.count(start + len(some), len(texts))
        return np.concatenate(parts).astype(np.float32)
