"""all-mpnet-base-v2: one L2-normalised embedding of 768 numbers for a text.

Texts of a batch are encoded sorted by length, a few at once: the last bits of an embedding depend on its batch.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from featurize.encoders.base import Encoder, check_texts
from featurize.encoders.folder import quiet_loading, read_config
from featurize.errors import FeaturizeError
from store import Feature

_WANTED = "what python -m weights fetch mpnet-base makes"
_CHUNK = 16  # texts at once: those of like length, so that little is padding


class MpnetBase(Encoder):
    """Sentence embeddings: texts of like meaning lie close by cosine."""

    name = "mpnet-base"
    entities = ("texts",)
    layer = "mean of the last layer's tokens, L2-normalised"

    def __init__(self, weights: Path, device: torch.device) -> None:
        """FeaturizeError where the folder does not hold this model."""
        from sentence_transformers import SentenceTransformer

        super().__init__(weights)
        read_config(weights, _WANTED, "model_type", "mpnet")
        if not (weights / "modules.json").is_file():
            raise FeaturizeError(f"{weights} is no sentence-transformers folder: give {_WANTED}")
        try:
            with quiet_loading():
                self._model = SentenceTransformer(
                    str(weights),
                    device=str(device),
                    local_files_only=True,
                    model_kwargs={"use_safetensors": True, "dtype": torch.float32},
                )
        except OSError as problem:
            reason = str(problem).splitlines()[0]
            raise FeaturizeError(f"{weights} cannot be loaded ({reason}): give {_WANTED}") from None
        self._model.eval()
        self.max_tokens = int(self._model.max_seq_length or 0)
        self._width = int(self._model.get_embedding_dimension() or 0)

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        """See `Encoder.features`; there are no tokens, so `dtype` changes nothing."""
        self.check_entity(entity)
        return {"embedding": Feature((self._width,), "float32")}

    def encode_texts(self, texts: list[str]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """`embedding` [B, 768] of norm 1."""
        check_texts(texts)
        embedding = self._model.encode(
            texts,
            batch_size=_CHUNK,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return {"embedding": np.asarray(embedding, np.float32)}
