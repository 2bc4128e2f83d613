"""InternVideo multi-modality, B/16 and L/14: spatio-temporal tokens and an embedding of clips, embeddings of texts.

- `tokens` [T*P, D]: the patch tokens after the last ViT block, frame-major, class tokens not counted
  (8 x 196 of 768 channels for B/16, 8 x 256 of 1024 for L/14).
- `embedding` [E]: of a clip or a text, L2-normalised, in one space (512 numbers for B/16, 768 for L/14).

On a GPU that has bf16 the matrix products run in it, LayerNorms and sums in float32; on a CPU all is float32.

Guarantees
- features equal the output of `encoder.module`
- the provenance of clips depends on the checkpoint only; that of texts also names the vocabulary
"""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch.nn.functional import normalize

from featurize.encoders.base import Encoder, check_texts
from featurize.encoders.folder import checkpoint_file
from featurize.encoders.internvideo.checkpoint import Tokenizer, load_model, load_tokenizer
from featurize.encoders.internvideo.model import SIZES, Size, halve
from featurize.encoders.preprocessing import encode_distinct
from stepdiff.weights import fingerprint
from store import Feature, Provenance

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_SHORT_SIDE = 256 / 224  # of the crop
_CHUNK, _CHUNK_GPU = 8, 64  # frames at once, a bound on memory
_TEXTS = 32  # at once


class InternVideo(Encoder):
    """What the paper calls M_V."""

    entities = ("clips", "texts")
    wanted = "the published .ckpt, or a folder that holds it"
    layer = "patch tokens after the last ViT block, no final LayerNorm; projected embedding, L2-normalised"

    def __init__(self, weights: Path, device: torch.device, size: Size | None = None) -> None:
        """Load a checkpoint.

        Args:
            weights: the checkpoint, or a folder that holds it and CLIP's tokenizer files.
            device: where it runs.
            size: of a model that was never published; None is that of its name.

        Raises:
            StepDiffError: there is no checkpoint, or it is not that model's.
        """
        super().__init__(weights)
        self._size = size or SIZES[self.name]
        self._checkpoint = checkpoint_file(weights)
        self.module = load_model(self._checkpoint, self.name, self._size, device)
        """the torch module: `encode_video` and `encode_text`"""
        self.size, self.short_side = self._size.image, round(self._size.image * _SHORT_SIDE)
        self.max_tokens = self._size.context
        self._device = device
        self._half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        if self._half:
            halve(self.module)
        mean, std = (torch.tensor(value, device=device).view(3, 1, 1) * 255 for value in (_MEAN, _STD))
        self._mean, self._std = mean, std  # in units of a byte, as the pixels are

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 hex of the checkpoint alone."""
        return fingerprint(self._checkpoint)

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        """See `Encoder.features`. StepDiffError too where texts are asked and the tokenizer's files are missing."""
        self.check_entity(entity)
        embedding = Feature((self._size.embedding,), "float32")
        if entity == "clips":
            return {
                "tokens": Feature((self.frames * self._size.patches, self._size.width), dtype),
                "embedding": embedding,
            }
        _ = self.tokenizer  # what is missing is said now, before anything is written
        return {"embedding": embedding}

    def provenance(self, entity: str, dtype: str = "float16") -> Provenance:
        """See `Encoder.provenance`; of texts it tells the vocabulary too, which lies outside the checkpoint."""
        made = super().provenance(entity, dtype)
        if entity == "clips":
            return made
        return replace(made, crop=f"{made.crop}, vocabulary {self._vocabulary.digest}")

    @torch.inference_mode()
    def encode_clips(self, frames: UInt8[np.ndarray, "B T size size 3"]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """`tokens` [B, T*P, D], frame-major, and `embedding` [B, E] of norm 1."""
        self.check_frames(frames)
        states = encode_distinct(self._see, frames, _CHUNK_GPU if self._device.type == "cuda" else _CHUNK)
        with self._precision():
            embedding, tokens = self.module.read_clips(tuple(states))
        return {
            "tokens": tokens.float().cpu().numpy(),
            "embedding": normalize(embedding.float(), dim=-1).cpu().numpy(),
        }

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """`embedding` [B, E] of norm 1."""
        check_texts(texts)
        ids = self.token_ids(texts).to(self._device)
        with self._precision():
            embedding = torch.cat([self.module.encode_text(part).float() for part in ids.split(_TEXTS)])
        return {"embedding": normalize(embedding, dim=-1).cpu().numpy()}

    def token_ids(self, texts: list[str]) -> Int64[torch.Tensor, "B context"]:
        """CLIP's BPE ids: start, at most context - 2 of the text, end, and zeros after it."""
        given = self.tokenizer(texts, truncation=True, max_length=self._size.context)["input_ids"]
        ids = torch.zeros(len(texts), self._size.context, dtype=torch.int64)
        for row, tokens in zip(ids, given, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        return ids

    def _see(self, frames: UInt8[torch.Tensor, "F size size 3"]) -> tuple[Float32[torch.Tensor, "F N D"], ...]:
        """What the ViT makes of frames."""
        pixels = (frames.to(self._device).permute(0, 3, 1, 2).float() - self._mean) / self._std
        with self._precision():
            return self.module.visual(pixels)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._half)

    @cached_property
    def tokenizer(self) -> Any:
        """See `Encoder.tokenizer`. StepDiffError too where its files are damaged, or another model's."""
        return self._vocabulary.encode

    @cached_property
    def _vocabulary(self) -> Tokenizer:
        return load_tokenizer(self._checkpoint.parent, self._size.vocabulary)


class InternVideoB16(InternVideo):
    """8 x 196 tokens of 768 channels."""

    name = "internvideo-mm-b16"


class InternVideoL14(InternVideo):
    """8 x 256 tokens of 1024 channels."""

    name = "internvideo-mm-l14"
