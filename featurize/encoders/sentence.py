"""Any sentence encoder of sentence-transformers: one L2-normalised embedding for a text.

Texts of a batch are encoded sorted by length, a few at once: the last bits of an embedding depend
on its batch.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from featurize.encoders.base import Encoder, check_texts
from featurize.encoders.folder import loading, read_config
from stepdiff_core.errors import StepDiffError
from store import Feature

_CHUNK = 16  # texts at once on a CPU, of similar length, so that little is padding


class Sentence(Encoder):
    """Sentence embeddings: texts of similar meaning have a high cosine."""

    name = "sentence"
    weights_needed = (
        "a sentence-transformers folder with safetensors weights, or a hub id such as "
        "sentence-transformers/all-MiniLM-L6-v2"
    )
    entities = ("texts",)

    def __init__(self, weights: Path, device: torch.device) -> None:
        from sentence_transformers import SentenceTransformer

        super().__init__(weights)
        if not (weights / "modules.json").is_file():
            raise StepDiffError(
                f"{weights} is no sentence-transformers folder: give {self.weights_needed}"
            )
        with loading(weights, self.weights_needed):
            self._model = SentenceTransformer(
                str(weights),
                device=str(device),
                local_files_only=True,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
        self._model.eval()
        limit = self._model.max_seq_length
        self.max_tokens = None if limit is None or math.isinf(limit) else int(limit)
        self.layer = self._words()
        self._width = int(self._model.get_embedding_dimension() or 0)

    @property
    def tokenizer(self) -> Any:  # type: ignore[override]
        return self._model.tokenizer

    def _words(self) -> str:
        steps = json.loads((self.weights / "modules.json").read_text())
        return f"{', '.join(step['type'].rpartition('.')[2] for step in steps)}; L2-normalised"

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        self.check_entity(entity)
        return {"embedding": Feature((self._width,), "float32")}

    def encode_texts(self, texts: list[str]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        check_texts(texts)
        embedding = self._model.encode(
            texts,
            batch_size=self.at_once(len(texts), _CHUNK),
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return {"embedding": np.asarray(embedding, np.float32)}


class MpnetBase(Sentence):
    """The sentence encoder that this project fetches."""

    name = "mpnet-base"
    weights_needed = "what stepdiff weights fetch mpnet-base makes"

    def __init__(self, weights: Path, device: torch.device) -> None:
        read_config(weights, self.weights_needed, "model_type", "mpnet")
        super().__init__(weights, device)

    def _words(self) -> str:
        return "mean of the last layer's tokens, L2-normalised"
