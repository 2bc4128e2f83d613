"""The image tower of BLIP-2: all tokens of the last hidden state behind its final norm, as its Q-Former takes them."""

from typing import Any

import torch

from featurize.encoders.tower import Tower


class Blip2(Tower):
    """Of BLIP-2 with any language model."""

    name = "blip2"
    model_type = "blip-2"
    wanted = "a transformers BLIP-2 folder with safetensors weights, or a hub id such as Salesforce/blip2-opt-2.7b"
    layer = "last hidden state, final norm, class token first"

    def _build(self, config: Any) -> torch.nn.Module:
        from transformers import Blip2VisionModel

        vision = config.vision_config
        self._tokens_shape = ((vision.image_size // vision.patch_size) ** 2 + 1, vision.hidden_size)
        return Blip2VisionModel._from_config(vision, dtype=torch.float32, attn_implementation="sdpa")
