"""The image tower of LLaVA (1 and 1.5): the tokens of the layer that its config names, as its projector takes them."""

from typing import Any

import torch
from jaxtyping import Float32

from common.errors import StepDiffError
from featurize.encoders.folder import hidden_state
from featurize.encoders.tower import Tower

_TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0}  # class tokens of a frame


class Llava(Tower):
    """With a CLIP or a SigLIP as its tower."""

    name = "llava"
    model_type = "llava"
    wanted = "a transformers LLaVA folder with safetensors weights, or a hub id such as llava-hf/llava-1.5-7b-hf"

    def _build(self, config: Any) -> torch.nn.Module:
        from transformers import AutoModel

        vision = config.vision_config
        if vision.model_type not in _TOWERS:
            raise StepDiffError(
                f"the image tower of {self.weights} is {vision.model_type}, not {' or '.join(_TOWERS)}: "
                f"give {self.wanted}"
            )
        named = config.vision_feature_layer
        layers = [named] if isinstance(named, int) else list(named)
        self._layers = [hidden_state(layer, vision.num_hidden_layers, "LLaVA's tower") for layer in layers]
        self._first = 1 if config.vision_feature_select_strategy == "default" else 0
        self.layer = (
            f"hidden state {', '.join(map(str, self._layers))} of {vision.num_hidden_layers}, "
            f"{'the first token left out' if self._first else 'all tokens'}"
        )
        tokens = (vision.image_size // vision.patch_size) ** 2 + _TOWERS[vision.model_type] - self._first
        self._tokens_shape = (tokens, vision.hidden_size * len(self._layers))
        return AutoModel.from_config(vision, dtype=torch.float32, attn_implementation="sdpa")

    def _tokens(self, pixels: Float32[torch.Tensor, "F 3 H W"]) -> torch.Tensor:
        """See `Tower._tokens`; of several layers, side by side."""
        states = self._module(pixel_values=pixels, output_hidden_states=True).hidden_states
        return torch.cat([states[layer][:, self._first :] for layer in self._layers], dim=-1)
