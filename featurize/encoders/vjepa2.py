"""Any V-JEPA 2 of transformers: space-time tokens of the encoder's last hidden state, and their mean.

The short side is resized to 256/224 of the crop, as the model's own processor does; the filter is
Pillow's, a level of 255 from torchvision's here and there.

Guarantees
----------
- Features equal what transformers computes (`test_features_equal_transformers`).
"""

import json
from pathlib import Path
from typing import Any

import torch

from common.errors import StepDiffError
from featurize.encoders.folder import load_model, read_config
from featurize.encoders.preprocessing import preprocessing
from featurize.encoders.video_transformer import VideoTransformer

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
