"""What VideoMAE and V-JEPA 2 share: space-time tokens of a whole clip.

- `tokens` [T/tubelet * P, D]: the last hidden state, step of time by step of time, row by row.
- `embedding` [D]: their mean.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from common.errors import StepDiffError
from featurize.encoders.base import Encoder
from featurize.encoders.preprocessing import Preprocessing
from store import Feature


class VideoTransformer(Encoder):
    """A model of transformers that sees all frames of a clip at once."""

    entities = ("clips",)
    _model: Any
    """gives `last_hidden_state` [1, T/tubelet * P, D] of pixels [1, T, 3, H, W]"""
    _device: torch.device
    _preprocessing: Preprocessing

    def _prepare(self, preprocessing: Preprocessing, config: Any, device: torch.device) -> None:
        """Shapes and preprocessing. StepDiffError where `frames` are no whole steps of time."""
        if self.frames < 1 or self.frames % config.tubelet_size:
            raise StepDiffError(
                f"encoder {self.name} sees {config.tubelet_size} frames at once: give --frames a multiple of it"
            )
        self._device, self._preprocessing = device, preprocessing
        crop = preprocessing.crop
        self.short_side, self.size, self.resample = crop.short_side, crop.size, crop.resample
        steps, side = self.frames // config.tubelet_size, self.size // config.patch_size
        self._shape = (steps * side * side, config.hidden_size)

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        """See `Encoder.features`."""
        self.check_entity(entity)
        return {"tokens": Feature(self._shape, dtype), "embedding": Feature(self._shape[1:], "float32")}

    @torch.inference_mode()
    def encode_clips(self, frames: UInt8[np.ndarray, "B T size size 3"]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """`tokens` [B, T/tubelet * P, D], `embedding` [B, D]."""
        self.check_frames(frames)
        tokens = torch.cat([self._tokens(clip) for clip in torch.from_numpy(frames)])
        return {"tokens": tokens.numpy(), "embedding": tokens.mean(1).numpy()}

    def _tokens(self, clip: UInt8[torch.Tensor, "T size size 3"]) -> Float32[torch.Tensor, "1 N D"]:
        """Of one clip at a time: thousands of tokens keep any machine busy, and bound the memory."""
        pixels = self._preprocessing.normalised(clip)[None]
        with torch.autocast("cuda", torch.bfloat16, enabled=self._device.type == "cuda"):
            return self._model(pixels).last_hidden_state.float().cpu()
