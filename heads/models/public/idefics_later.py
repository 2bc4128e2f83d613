"""IDEFICS 2 and 3: frames stand between the words, each through a connector that makes few tokens of it."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from heads.models.public.chat import IMAGE
from heads.models.public.model import PublicLM, patches

_AROUND = "<fake_token_around_image>"


class Idefics2(PublicLM):
    """A Perceiver makes 64 tokens of a frame."""

    encoder = "idefics2"

    @staticmethod
    def frame_shape(config: Any) -> tuple[int, int]:
        """See PublicLM."""
        return patches(config.vision_config), config.vision_config.hidden_size

    @staticmethod
    def show(tokenizer: Any, frames: int, system: str) -> str:
        """See PublicLM: neighbours share the token between them, and a space parts them from what follows."""
        return system.replace("{video}", _AROUND + (IMAGE + _AROUND) * frames + " ")

    @staticmethod
    def connect(whole: Any, frames: Float[Tensor, "F N D"]) -> Float[Tensor, "F L E"]:
        """See PublicLM."""
        seen = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        return whole.model.connector(frames, attention_mask=seen)


class Idefics3(PublicLM):
    """A pixel shuffle makes one token of several neighbours."""

    encoder = "idefics3"

    @staticmethod
    def frame_shape(config: Any) -> tuple[int, int]:
        """See PublicLM."""
        return patches(config.vision_config), config.vision_config.hidden_size

    @staticmethod
    def show(tokenizer: Any, frames: int, system: str) -> str:
        """See PublicLM: every frame is a picture that was not tiled."""
        return system.replace("{video}", (_AROUND + "<global-img>" + IMAGE + _AROUND) * frames)

    @staticmethod
    def connect(whole: Any, frames: Float[Tensor, "F N D"]) -> Float[Tensor, "F L E"]:
        """See PublicLM."""
        return whole.model.connector(frames)
