"""The first IDEFICS: words look at frames by gated cross-attention, each at the last frame that stands before it.

Guarantees
- a word sees the frame that the model's own processor lets it see, and none before the first
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from heads.data.packing import PADDING, TEXT, Packed
from heads.models.packed_attention import may_see
from heads.models.public.chat import IMAGE
from heads.models.public.model import PublicLM, patches
from heads.models.video_lm import columns_to_front

_AROUND = "<fake_token_around_image>"


class Idefics(PublicLM):
    """Of 9 or 80 billion parameters, instructed or not. A frame takes one place of the prompt."""

    encoder = "idefics"
    template = "[begin]User: {{ messages[0]['content'][0]['text'] }}[end]\nAssistant:"
    attends_apart = False

    @staticmethod
    def frame_shape(config: Any) -> tuple[int, int]:
        """See PublicLM."""
        return patches(config.vision_config) + 1, config.vision_config.embed_dim

    @staticmethod
    def show(tokenizer: Any, frames: int, system: str) -> str:
        """See PublicLM: no space before a frame, and neighbours share the token between them."""
        return system.replace(" {video}", _AROUND + (IMAGE + _AROUND) * frames)

    @staticmethod
    def connect(whole: Any, frames: Float[Tensor, "F N D"]) -> Float[Tensor, "F N D"]:
        """See PublicLM: the model takes the frames' tokens as they are, and runs its resampler on them."""
        return frames

    @classmethod
    def outputs_of_frame(cls, whole: Any, shape: tuple[int, int]) -> int:
        """See PublicLM."""
        return 1

    def hidden(self, batch: Packed, clips: Float[Tensor, "C T_N D"] | None) -> Float[Tensor, "B S E"]:
        """Last hidden states of packed rows."""
        images, seen = self._images(batch, clips)
        return self.lm.model.base_model(
            input_ids=self._ids(batch),
            attention_mask=may_see(batch.segment)[:, None],
            position_ids=batch.positions,
            image_encoder_embeddings=images,
            image_attention_mask=seen,
            use_cache=False,
        ).last_hidden_state

    def go_on(self, batch: Packed, clips: Float[Tensor, "C T_N D"] | None, max_tokens: int) -> list[str]:
        """What is said, greedily, behind the last token of every row."""
        columns = columns_to_front(batch.segment)
        images, seen = self._images(batch, clips)
        return self.write(
            input_ids=self._ids(batch).gather(1, columns),
            attention_mask=(batch.segment != PADDING).gather(1, columns).long(),
            image_hidden_states=images,
            image_attention_mask=seen.gather(1, columns[..., None].expand_as(seen)),
            max_new_tokens=max_tokens,
        )

    def _ids(self, batch: Packed) -> Int[Tensor, "B S"]:
        image = self.lm.chat.tokenizer.convert_tokens_to_ids("<image>")
        return batch.ids.masked_fill(batch.video != TEXT, image)

    def _images(
        self, batch: Packed, clips: Float[Tensor, "C T_N D"] | None
    ) -> tuple[Float[Tensor, "B I N D"], Int[Tensor, "B S I"]]:
        """Tokens of the I frames of each row, and which of them each token sees; the blind control sees none."""
        slots = batch.video != TEXT
        if clips is None:
            shape = (len(batch.ids), 1, *self.frame_shape(self.whole.config))
            images = torch.zeros(shape, device=self.whole.device, dtype=self.whole.dtype)
        else:
            frames = clips.unflatten(1, (self.frames, -1)).flatten(0, 1)
            images = frames[batch.video[slots]].unflatten(0, (len(slots), -1))
        last = slots.cumsum(1)  # 0: no frame yet
        return images, one_hot(last, images.shape[1] + 1)[..., 1:]
