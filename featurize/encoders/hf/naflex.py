"""SigLIP 2 of any resolution (NaFlex): pictures in their own aspect, of up to N patches.

The decoder hands over whole pictures, and the folder's own processor resizes them and cuts them into patches.

- `tokens` [T*N, D]: of each frame the tokens of its patches, row by row, then zeros up to N, the processor's most.
- `grid` [2]: rows and columns of patches of a frame: the first rows * columns of its N tokens are its own.
- `frame_embedding` [T, E], `embedding` [E]: as of other image models; a mean is of the frame's own tokens.

Guarantees
- features equal those of the model's own call (`test_naflex_features_equal_the_models_own_call`)
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

from common.errors import StepDiffError
from featurize.encoders.hf import families
from featurize.encoders.hf.encoder import HuggingFace
from featurize.encoders.hf.settings import Settings
from featurize.encoders.preprocessing import read_processor
from featurize.video.picture import Bounded, Picture
from store import Feature

_FINER = 4  # times the pixels that the model sees: the processor's resize decides, not the decoder's


class NaFlex(HuggingFace):
    """A Siglip2Model or Siglip2VisionModel."""

    def _prepare(self, settings: Settings) -> None:
        """See `HuggingFace._prepare`."""
        self._processor: Any = read_processor(self.weights, self.wanted)
        self._patches, self._patch = int(settings["max_num_patches"]), int(settings["patch_size"])

    @property
    def picture(self) -> Picture:
        """See `Encoder.picture`."""
        return Bounded(_FINER * self._patches * self._patch**2)

    @property
    def crop(self) -> str:
        """See `Encoder.crop`."""
        kind = type(self._processor).__name__
        return (
            f"{self.picture}, resized by {kind} to at most {self._patches} patches of {self._patch}, zeros after them"
        )

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        """See `Encoder.features`."""
        found = super().features(entity, dtype)
        return {**found, "grid": Feature((2,), "float32")} if entity == "clips" else found

    def encode_clips(self, frames: UInt8[np.ndarray, "B T size size 3"]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """Raise StepDiffError: whole pictures are encoded."""
        raise self._refusal("squares of clips")

    @torch.inference_mode()
    def encode_whole(
        self, frames: UInt8[np.ndarray, "T H W 3"], seconds: Float[np.ndarray, " T"]
    ) -> dict[str, Float32[np.ndarray, "..."]]:
        """See `Encoder.encode_whole`."""
        if len(frames) != self.frames:
            raise StepDiffError(f"encoder {self.name} takes {self.frames} frames of a clip, not {len(frames)}")
        seen, inputs = self._see_whole(frames, self._hidden is not None)
        state, _ = self._state(seen)
        own = inputs["pixel_attention_mask"].bool()[..., None]
        tokens = torch.where(own, state.float(), 0)
        values = {"tokens": tokens.flatten(0, 1).cpu().numpy()}
        values["grid"] = inputs["spatial_shapes"][0].float().cpu().numpy()
        embedded = self._embedded(seen, state, tokens.sum(1) / own.sum(1))
        if embedded is not None:
            values["frame_embedding"] = embedded.cpu().numpy()
            values["embedding"] = embedded.mean(0).cpu().numpy()
        return values

    def _see_whole(self, frames: UInt8[np.ndarray, "T H W 3"], hidden: bool) -> tuple[families.Seen, Any]:
        """Return what the model gives for pictures, and what it was given."""
        inputs = self._processor(list(frames), return_tensors="pt", input_data_format="channels_last").to(self._device)
        with torch.autocast("cuda", torch.bfloat16, enabled=self._device.type == "cuda"):
            return families.see_pictures(self._model, hidden, **inputs), inputs

    def _black(self, hidden: bool) -> families.Seen:
        """See `HuggingFace._black`."""
        return self._see_whole(np.zeros((1, 2 * self._patch, 2 * self._patch, 3), np.uint8), hidden)[0]

    def _state(self, seen: families.Seen) -> tuple[torch.Tensor, int]:
        """See `HuggingFace._state`; no token comes before those of patches."""
        return super()._state(seen)[0], 0
