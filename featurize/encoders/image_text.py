"""What CLIP and SigLIP share: patch tokens and embeddings of frames, embeddings of texts in the same space.

- `tokens` [T*P, D]: the patch tokens of one hidden state, frame-major, no class token among them.
- `frame_embedding` [T, E]: what the model compares with texts, L2-normalised.
- `embedding` [E]: for clips the mean over the T frame embeddings, for texts the text's embedding, L2-normalised.
"""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch.nn.functional import normalize

from featurize.encoders.base import Encoder, check_texts
from featurize.encoders.preprocessing import Preprocessing, encode_distinct
from store import Feature

_CHUNK = 32  # frames at once, a bound on memory


class ImageText(Encoder):
    """A model of transformers with an image tower and a text tower."""

    entities = ("clips", "texts")
    choices = ("layer", "frames")
    _model: Any
    _device: torch.device
    _preprocessing: Preprocessing
    _patches: int
    """P of a frame"""
    _widths: tuple[int, int]
    """D and E"""

    @abstractmethod
    def _seen(self, pixels: Float32[torch.Tensor, "N 3 H W"]) -> tuple[torch.Tensor, torch.Tensor]:
        """Patch tokens [N, P, D] and embeddings [N, E] of normalised frames."""

    @abstractmethod
    def _read(self, texts: list[str]) -> torch.Tensor:
        """Embeddings [B, E] of texts."""

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        """See `Encoder.features`."""
        self.check_entity(entity)
        channels, width = self._widths
        embedding = Feature((width,), "float32")
        if entity == "texts":
            _ = self.tokenizer  # where it is absent a run ends before it has written anything
            return {"embedding": embedding}
        return {
            "tokens": Feature((self.frames * self._patches, channels), dtype),
            "frame_embedding": Feature((self.frames, width), "float32"),
            "embedding": embedding,
        }

    @torch.inference_mode()
    def encode_clips(self, frames: UInt8[np.ndarray, "B T size size 3"]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """`tokens` [B, T*P, D], `frame_embedding` [B, T, E], `embedding` [B, E]."""
        self.check_frames(frames)
        tokens, embedded = encode_distinct(self._encode_frames, frames, _CHUNK)
        return {
            "tokens": tokens.flatten(1, 2).numpy(),
            "frame_embedding": embedded.numpy(),
            "embedding": embedded.mean(1).numpy(),
        }

    def pixel_values(self, frames: UInt8[torch.Tensor, "N size size 3"]) -> torch.Tensor:
        """Normalised pixels [N, 3, size, size] of cropped frames, as the checkpoint wants them."""
        return self._preprocessing.normalised(frames)

    def _encode_frames(self, frames: UInt8[torch.Tensor, "N size size 3"]) -> tuple[torch.Tensor, torch.Tensor]:
        """Patch tokens [N, P, D] and unit embeddings [N, E], float32 in main memory."""
        with self._precision():
            tokens, embedded = self._seen(self.pixel_values(frames))
        return tokens.float().cpu(), normalize(embedded.float(), dim=-1).cpu()

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """`embedding` [B, E] of norm 1."""
        check_texts(texts)
        with self._precision():
            embedded = self._read(texts)
        return {"embedding": normalize(embedded.float(), dim=-1).cpu().numpy()}

    def _precision(self) -> torch.autocast:
        return torch.autocast("cuda", torch.bfloat16, enabled=self._device.type == "cuda")
