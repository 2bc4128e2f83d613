"""LLaVA (1 and 1.5): the tokens of a frame stand in the prompt, each through a projector of two layers."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from heads.models.public.chat import IMAGE
from heads.models.public.model import PublicLM, patches

_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}


class Llava(PublicLM):
    """With any language model; both clips of a pair are images of one prompt."""

    encoder = "llava"
    tower = "vision_tower"

    @staticmethod
    def frame_shape(config: Any) -> tuple[int, int]:
        """See PublicLM; of several layers of the tower, side by side."""
        vision, layer = config.vision_config, config.vision_feature_layer
        left_out = config.vision_feature_select_strategy == "default"
        tokens = patches(vision) + _CLASS_TOKENS.get(vision.model_type, 0) - left_out
        return tokens, vision.hidden_size * (1 if isinstance(layer, int) else len(layer))

    @staticmethod
    def show(tokenizer: Any, frames: int, system: str) -> str:
        """See PublicLM."""
        return system.replace("{video}", IMAGE * frames)

    @staticmethod
    def connect(whole: Any, frames: Float[Tensor, "F N D"]) -> Float[Tensor, "F L E"]:
        """See PublicLM."""
        return whole.model.multi_modal_projector(frames)
