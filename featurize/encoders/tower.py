"""The image tower of a language model that sees: the tokens that the whole model hands to its projector.

A language head then reads the store, and runs the projector (Q-Former, resampler, connector) on it.

- `tokens` [T*N, D]: N tokens of each of T frames, frame-major.

The whole picture is resized to the one square that the tower was built for, whatever the model's
own processor does: no tiling, no padding. By default a clip is its centre frame.

Guarantees
----------
- Tokens are what the whole model's projector is given for the same pixels
  (`test_tokens_are_what_the_projector_is_given`).
- Nothing of the language model is read (`test_the_language_model_is_not_read`).
"""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from common.errors import StepDiffError
from featurize.encoders.base import Encoder
from featurize.encoders.folder import read_config
from featurize.encoders.part import load_part
from featurize.encoders.preprocessing import read_processor, squared
from featurize.encoders.repeats import encode_distinct
from store import Feature

_CHUNK = 4  # frames at once: a batch of clips by default; towers have up to 5,000 tokens a frame
_PLACE = r"(model\.)?(vision_tower|vision_model)\.(vision_model\.)?"  # in checkpoints old and new


class Tower(Encoder):
    """An image tower out of a whole model's checkpoint."""

    entities = ("clips",)
    choices = ("frames",)
    sampling = "segment-centres"
    model_type: ClassVar[str]
    """what config.json says"""
    _tokens_shape: tuple[int, int]
    """N tokens, D channels of a frame"""

    def __init__(self, weights: Path, device: torch.device, frames: int = 1) -> None:
        """Load the tower.

        Args:
            weights: a folder of the whole model, that transformers saved.
            device: where it runs.
            frames: T of a clip.

        Raises:
            StepDiffError: the folder does not hold such a model.
        """
        from transformers import AutoConfig
        from transformers.initialization import no_init_weights

        super().__init__(weights)
        read_config(weights, self.wanted, "model_type", self.model_type)
        try:
            config = AutoConfig.from_pretrained(weights, local_files_only=True)
        except (OSError, ValueError, TypeError) as problem:
            reason = str(problem).strip().splitlines()[0]
            raise StepDiffError(f"{weights} cannot be loaded ({reason}): give {self.wanted}") from None
        self.short_side, self.size, self.frames = None, config.vision_config.image_size, frames
        self._preprocessing = squared(read_processor(weights, self.wanted), weights, self.size, device)
        self.resample = self._preprocessing.crop.resample
        with no_init_weights():
            module = self._build(config)
        load_part(module, weights, _PLACE, self.wanted)
        self._module, self._device = module.eval().requires_grad_(False).to(device), device

    @abstractmethod
    def _build(self, config: Any) -> torch.nn.Module:
        """The tower without its weights; sets `layer` and `_tokens_shape`."""

    def _tokens(self, pixels: Float32[torch.Tensor, "F 3 H W"]) -> torch.Tensor:
        """Tokens [F, N, D] of normalised frames."""
        return self._module(pixel_values=pixels).last_hidden_state

    @property
    def crop(self) -> str:
        """See `Encoder.crop`."""
        return f"{self.picture}, no tiling, no padding"

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        """See `Encoder.features`."""
        self.check_entity(entity)
        tokens, channels = self._tokens_shape
        return {"tokens": Feature((self.frames * tokens, channels), dtype)}

    @torch.inference_mode()
    def encode_clips(self, frames: UInt8[np.ndarray, "B T size size 3"]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """`tokens` [B, T*N, D]."""
        self.check_frames(frames)
        (tokens,) = encode_distinct(self._encode_frames, frames, _CHUNK)
        return {"tokens": tokens.flatten(1, 2).numpy()}

    def _encode_frames(self, frames: UInt8[torch.Tensor, "F size size 3"]) -> tuple[torch.Tensor]:
        with torch.autocast("cuda", torch.bfloat16, enabled=self._device.type == "cuda"):
            tokens = self._tokens(self._preprocessing.normalised(frames))
        return (tokens.float().cpu(),)
