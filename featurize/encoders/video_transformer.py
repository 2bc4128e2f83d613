"""VideoMAE and V-JEPA 2 of transformers: space-time tokens of a whole clip.

- `tokens` [T/tubelet * P, D]: the last hidden state, time step by time step, row by row.
- `embedding` [D]: their mean.

V-JEPA 2 resizes the short side to 256/224 of the crop, as the model's own processor does. The filter is Pillow's, which
differs from torchvision's by a level of 255 in a few pixels.

Guarantees
- features equal what transformers computes (`test_features_equal_transformers`)
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from common.errors import StepDiffError
from featurize.encoders.base import Encoder
from featurize.encoders.folder import load_model, read_config
from featurize.encoders.preprocessing import Preprocessing, preprocessing, read_processor
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


class VideoMae(VideoTransformer):
    """The encoder of a masked autoencoder, pretrained or fine-tuned; it sees as many frames as it was trained on."""

    name = "videomae"
    wanted = "a transformers VideoMAE folder with safetensors weights, or a hub id such as MCG-NJU/videomae-base"
    layer = "last hidden state, space-time tokens"

    def __init__(self, weights: Path, device: torch.device) -> None:
        """StepDiffError where the folder does not hold a VideoMAE, or its preprocessing cannot be done."""
        from transformers import VideoMAEModel

        super().__init__(weights)
        read_config(weights, self.wanted, "model_type", "videomae")
        self._model = load_model(VideoMAEModel, weights, device, self.wanted)
        config = self._model.config
        self.frames = config.num_frames
        processor = read_processor(weights, self.wanted)
        self._prepare(preprocessing(processor, weights, config.image_size, device), config, device)


_SETTINGS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "rescale_factor", "resample")


class VJepa2(VideoTransformer):
    """The encoder alone; the predictor is left out."""

    name = "vjepa2"
    wanted = "a transformers V-JEPA 2 folder with safetensors, or a hub id such as facebook/vjepa2-vitl-fpc64-256"
    choices = ("frames",)
    layer = "last hidden state of the encoder, space-time tokens"

    def __init__(self, weights: Path, device: torch.device, frames: int | None = None) -> None:
        """Load a checkpoint.

        Args:
            weights: a folder that transformers saved.
            device: where it runs.
            frames: T of a clip; None is what the model was trained on.

        Raises:
            StepDiffError: the folder does not hold a V-JEPA 2, its preprocessing cannot be done,
                or the frames are no whole steps of time.
        """
        from transformers import VJEPA2Model

        super().__init__(weights)
        read_config(weights, self.wanted, "model_type", "vjepa2")
        whole = load_model(VJEPA2Model, weights, torch.device("cpu"), self.wanted)
        self._model, config = whole.encoder.to(device), whole.config
        self.frames = config.frames_per_clip if frames is None else frames
        processor = _processor(weights, self.wanted)
        self._prepare(preprocessing(processor, weights, config.crop_size, device), config, device)


def _processor(folder: Path, wanted: str) -> Any:
    """The folder's video processor as a processor of images, which needs no torchvision."""
    from transformers import VideoMAEImageProcessorPil
    from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    path = folder / "video_preprocessor_config.json"
    try:
        said = json.loads(path.read_text())
        crop = said.get("crop_size", 256)
        crop = crop if isinstance(crop, int) else crop["height"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as problem:
        raise StepDiffError(f"{path} cannot be read ({problem!r}): give {wanted}") from None
    return VideoMAEImageProcessorPil(
        size={"shortest_edge": int(crop * 256 / 224)},
        crop_size={"height": crop, "width": crop},
        image_mean=said.get("image_mean", IMAGENET_DEFAULT_MEAN),
        image_std=said.get("image_std", IMAGENET_DEFAULT_STD),
        **{name: said[name] for name in _SETTINGS if name in said},
    )
