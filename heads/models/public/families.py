"""The families of public models, each with its own way from the cached tokens of a frame to the prompt.

    LLaVA (1 and 1.5)   a projector of two layers maps each token of a frame to a token of the prompt
    BLIP-2              a Q-Former turns a frame's tokens into a few tokens before the prompt
    IDEFICS 1           words see frames by gated cross-attention, each the last frame before it
    IDEFICS 2 and 3     frames are tokens between the words

Guarantees
- a word of IDEFICS 1 sees the frame that the model's own processor lets it see, and none before the first
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from common.errors import StepDiffError
from heads.data.packing import PADDING, TEXT, Packed
from heads.models.packed_attention import may_see
from heads.models.public.model import IMAGE, PublicLM, patches
from heads.models.video_lm import columns_to_front

_AROUND = "<fake_token_around_image>"


class Idefics(PublicLM):
    """IDEFICS 1 with 9 or 80 billion parameters, instructed or not. A frame has one place in the prompt."""

    encoder = "idefics"
    template = "[begin]User: {{ messages[0]['content'][0]['text'] }}[end]\nAssistant:"
    attends_apart = False

    @staticmethod
    def frame_shape(config: Any) -> tuple[int, int]:
        return patches(config.vision_config) + 1, config.vision_config.embed_dim

    @staticmethod
    def show(tokenizer: Any, frames: int, system: str) -> str:
        """See PublicLM: no space before a frame, and neighbouring frames share the token between them."""
        return system.replace(" {video}", _AROUND + (IMAGE + _AROUND) * frames)

    @staticmethod
    def connect(whole: Any, frames: Float[Tensor, "F N D"]) -> Float[Tensor, "F N D"]:
        """See PublicLM: the model runs its own resampler on the frames' tokens."""
        return frames

    @classmethod
    def outputs_of_frame(cls, whole: Any, shape: tuple[int, int]) -> int:
        return 1

    def hidden(self, batch: Packed, clips: Float[Tensor, "C T_N D"] | None) -> Float[Tensor, "B S E"]:
        """Return the last hidden states of packed rows."""
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
        """Return the greedy continuation of every row."""
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
        """Return the tokens of each row's I frames, and which of them each token sees; the blind control sees none."""
        slots = batch.video != TEXT
        if clips is None:
            shape = (len(batch.ids), 1, *self.frame_shape(self.whole.config))
            images = torch.zeros(shape, device=self.whole.device, dtype=self.whole.dtype)
        else:
            frames = clips.unflatten(1, (self.frames, -1)).flatten(0, 1)
            images = frames[batch.video[slots]].unflatten(0, (len(slots), -1))
        last = slots.cumsum(1)  # 0: no frame yet
        return images, one_hot(last, images.shape[1] + 1)[..., 1:]


class Idefics2(PublicLM):
    """IDEFICS 2: a Perceiver makes 64 tokens of a frame."""

    encoder = "idefics2"

    @staticmethod
    def frame_shape(config: Any) -> tuple[int, int]:
        return patches(config.vision_config), config.vision_config.hidden_size

    @staticmethod
    def show(tokenizer: Any, frames: int, system: str) -> str:
        """See PublicLM: neighbouring frames share the token between them, and a space follows them."""
        return system.replace("{video}", _AROUND + (IMAGE + _AROUND) * frames + " ")

    @staticmethod
    def connect(whole: Any, frames: Float[Tensor, "F N D"]) -> Float[Tensor, "F L E"]:
        seen = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        return whole.model.connector(frames, attention_mask=seen)


class Idefics3(PublicLM):
    """IDEFICS 3: a pixel shuffle makes one token of several neighbouring ones."""

    encoder = "idefics3"

    @staticmethod
    def frame_shape(config: Any) -> tuple[int, int]:
        return patches(config.vision_config), config.vision_config.hidden_size

    @staticmethod
    def show(tokenizer: Any, frames: int, system: str) -> str:
        """See PublicLM: every frame is a picture that was not tiled."""
        return system.replace("{video}", (_AROUND + "<global-img>" + IMAGE + _AROUND) * frames)

    @staticmethod
    def connect(whole: Any, frames: Float[Tensor, "F N D"]) -> Float[Tensor, "F L E"]:
        return whole.model.connector(frames)


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
