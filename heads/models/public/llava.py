"""LLaVA (1 and 1.5): a projector of two layers maps each token of a frame to a token of the prompt."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from heads.models.public.model import IMAGE, PublicLM, patches

_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}


class Llava(PublicLM):
    """LLaVA with any language model; both clips of a pair are images of one prompt."""

    encoder = "llava"
    tower = "vision_tower"

    @staticmethod
    def frame_shape(config: Any) -> tuple[int, int]:
        """See PublicLM; channels of several layers of the tower are concatenated."""
        vision, layer = config.vision_config, config.vision_feature_layer
        left_out = config.vision_feature_select_strategy == "default"
        tokens = patches(vision) + _CLASS_TOKENS.get(vision.model_type, 0) - left_out
        return tokens, vision.hidden_size * (1 if isinstance(layer, int) else len(layer))

    @staticmethod
    def show(tokenizer: Any, frames: int, system: str) -> str:
        return system.replace("{video}", IMAGE * frames)

    @staticmethod
    def connect(whole: Any, frames: Float[Tensor, "F N D"]) -> Float[Tensor, "F L E"]:
        return whole.model.multi_modal_projector(frames)
