"""BLIP-2: a Q-Former turns a frame's tokens into a few tokens before the prompt."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import StepDiffError
from heads.models.public.model import IMAGE, PublicLM, patches


class Blip2(PublicLM):
    """BLIP-2 with a decoder-only language model (OPT). It was trained on single pictures, so it is a captioner here."""

    encoder = "blip2"
    template = "{{ messages[0]['content'][0]['text'] }} Answer:"
    begins = False

    @staticmethod
    def frame_shape(config: Any) -> tuple[int, int]:
        return patches(config.vision_config) + 1, config.vision_config.hidden_size

    @staticmethod
    def show(tokenizer: Any, frames: int, system: str) -> str:
        """See PublicLM: the pictures, the begin-of-text token, and the question format of the model's authors."""
        return IMAGE * frames * system.count("{video}") + tokenizer.bos_token + "Question:"

    @staticmethod
    def connect(whole: Any, frames: Float[Tensor, "F N D"]) -> Float[Tensor, "F L E"]:
        queries = whole.query_tokens.expand(len(frames), -1, -1)
        seen = torch.ones(frames.shape[:2], dtype=torch.long, device=frames.device)
        found = whole.qformer(
            query_embeds=queries, encoder_hidden_states=frames.to(queries.dtype), encoder_attention_mask=seen
        )
        return whole.language_projection(found.last_hidden_state.to(whole.language_projection.weight.dtype))

    @staticmethod
    def body(whole: Any) -> Any:
        return whole

    @staticmethod
    def language_model(whole: Any) -> Any:
        if not whole.config.use_decoder_only_language_model:
            raise StepDiffError(
                f"{whole.name_or_path}: its language model is an encoder-decoder; use a BLIP-2 with OPT, such as "
                "Salesforce/blip2-opt-2.7b"
            )
        return whole.language_model
