"""EfficientNet-Lite0: 49 tokens of 1280 channels for each frame of a clip.

The tokens are the last feature map before the classifier (7 x 7, after ReLU6), frame by frame, row
by row. Statistics are of the maps after blocks 2, 4, 7 and 10 of 0 to 15.

Guarantees
- tokens are what the package `efficientnet-lite-pytorch` computes, to 1e-4 of their largest value,
  at twice its speed
"""

from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from jaxtyping import Float, Float32, UInt8
from torch.nn.utils.fusion import fuse_conv_bn_eval

from featurize.encoders.base import FRAMES, STATISTICS, Encoder, Statistics
from featurize.encoders.folder import half_products, load_part, read_config
from featurize.encoders.preprocessing import encode_distinct, statistics_of, summaries
from store import Feature

_MAP = 7  # sides of the last feature map
_CHANNELS = 1280
_EARLY = {2: 24, 4: 40, 7: 80, 10: 112}  # blocks whose maps have statistics, and their channels
_CHUNK = 16  # frames at once: their maps stay in the processor's cache


class EfficientNetLite0(Encoder):
    """ImageNet features of single frames, cheap enough for a laptop."""

    name = "efficientnet-lite0"
    weights_needed = "what stepdiff weights fetch efficientnet-lite0 makes"
    entities = ("clips",)
    choices = ("statistics",)
    layer = "last feature map, after ReLU6"
    compiled = "_maps"

    def __init__(
        self, weights: Path, device: torch.device, statistics: Statistics | None = None
    ) -> None:
        super().__init__(weights)
        self.statistics = statistics
        config = read_config(weights, self.weights_needed, "architecture", self.name)
        self.size = self.short_side = int(config["image_size"])
        self._mean, self._std = float(config["pixel_mean"]), float(config["pixel_std"])
        self._device = device
        model = EfficientNet.from_name(self.name)
        load_part(model, weights, self.weights_needed)
        model = model.eval().requires_grad_(False)
        _speed_up(model)
        self._model = model.to(device, memory_format=torch.channels_last)

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        self.check_entity(entity)
        features = {
            "tokens": Feature((FRAMES * _MAP * _MAP, _CHANNELS), dtype),
            "embedding": Feature((_CHANNELS,), "float32"),
        }
        return self.declared(features)

    def early_maps(self) -> dict[str, int]:
        return {f"block {block}": channels for block, channels in _EARLY.items()}

    @torch.inference_mode()
    def forward_clips(
        self, frames: UInt8[torch.Tensor, "B T size size 3"]
    ) -> dict[str, Float[torch.Tensor, "B ..."]]:
        """Tokens [B, 392, 1280], frame-major, and their mean as `embedding` [B, 1280]; `statistics`
        [B, 4, 256]."""
        self.check_frames(frames)
        maps, *early = encode_distinct(self._maps, frames, self.at_once(len(frames), _CHUNK))
        tokens = maps.reshape(len(frames), -1, _CHANNELS)
        values = {"tokens": tokens, "embedding": tokens.mean(1)}
        return self.stored(values | ({STATISTICS: statistics_of(early[0])} if early else {}))

    def _maps(
        self, frames: UInt8[torch.Tensor, "N size size 3"]
    ) -> tuple[Float32[torch.Tensor, "N ..."], ...]:
        """Return the last maps [N, 7, 7, 1280], and the summaries of early ones where they have
        statistics."""
        # seen through N size size 3: channels last without a copy
        pixels = frames.permute(0, 3, 1, 2)
        values = (pixels.to(self._device).float() - self._mean) / self._std
        with half_products(self._device):
            model = self._model  # its `extract_features`, which returns no other maps
            maps, early = model._swish(model._bn0(model._conv_stem(values))), []
            for number, block in enumerate(model._blocks):
                maps = block(maps)
                if self.statistics and number in _EARLY:
                    early.append(maps.flatten(2).transpose(1, 2))
            maps = model._swish(model._bn1(model._conv_head(maps))).float()
        return (maps.permute(0, 2, 3, 1), *([summaries(early)] if early else []))


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
