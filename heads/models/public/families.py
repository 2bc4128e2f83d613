"""Public vision-language models without their image tower: cached tokens -> own projector -> own
language model.

    LLaVA (1 and 1.5)   a projector of two layers maps each token of a frame to a token of the
                        prompt
    BLIP-2              a Q-Former turns a frame's tokens into a few tokens before the prompt
    IDEFICS 1           words see frames by gated cross-attention, each the last frame before it
    IDEFICS 2 and 3     frames are tokens between the words

`load_public` loads a checkpoint for a view with its image tower's tokens.

Notation: C clips, T frames of a clip, F = C * T frames, N tokens of a frame, D channels, L outputs
of a frame.

Guarantees
- logits from cached tokens are the whole model's logits from pixels, although it has no image tower
- token ids equal the ids of the whole prompt cut in pieces, and a user's text never becomes a
  control token
- a view of another encoder, or of another checkpoint's tower, is refused
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from heads.data.clips import Features
from heads.data.packing import PADDING, TEXT, Chat, ChatPieces, Packed, Packer, space_after
from heads.models.language_model import LanguageModel, load_model, load_processor
from heads.models.packed_attention import may_see
from heads.models.video_lm import VideoLM, columns_to_front
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.prompts import SYSTEM
from stepdiff_core.weights import fingerprint, resolve
from store import Store, View

# added to the tokenizer here, so that text around it is cut as around the model's own
IMAGE = "@@image@@"
_QUESTION = "@@question@@"
TURN_ENDS = "<end_of_utterance>"  # of the IDEFICS models; others end with the end-of-text token


class ImageChat(Chat):
    """Prompts of a public model: clips and question in one user turn, as the model's own processor
    writes them.

    show: system prompt with {video} marks -> the same with IMAGE for every frame and the tokens
    around it.
    """

    def __init__(self, tokenizer: Any, show: Callable[[str], str], begins: bool) -> None:
        """begins: whether the prompt begins with the tokens that the tokenizer adds before every
        text."""
        super().__init__(tokenizer)
        self.show = show
        tokenizer.add_tokens([IMAGE], special_tokens=True)
        self.image = tokenizer.convert_tokens_to_ids(IMAGE)
        turn = [{"type": "text", "text": _QUESTION}]
        written = tokenizer.apply_chat_template(
            [{"role": "user", "content": turn}], tokenize=False, add_generation_prompt=True
        )
        self.before, mark, self.after = written.partition(_QUESTION)
        if not mark or str(turn) in written:
            raise StepDiffError(
                f"{tokenizer.name_or_path}: its chat template drops a text, or takes no images; "
                "use another checkpoint"
            )
        has_begin = tokenizer.bos_token is not None and self.before.startswith(tokenizer.bos_token)
        self.begins = begins and not has_begin

    def pieces(self, system: str) -> ChatPieces:
        shown = self.tokenizer(self.before + self.show(system), add_special_tokens=self.begins)[
            "input_ids"
        ]
        around: list[list[int]] = [[]]
        for token in shown:
            if token == self.image:
                around.append([])
            else:
                around[-1].append(token)
        end = self.tokenizer.get_vocab().get(TURN_ENDS, self.tokenizer.eos_token_id)
        to_answer = self.control_ids(self.after)
        return ChatPieces(
            tuple(map(tuple, around)), to_answer, (end,), " ", space_after(self.after)
        )


class PublicLM(VideoLM, ABC):
    """Base of one subclass per model family. It does all that VideoLM does; nothing of it
    trains."""

    encoder: ClassVar[str]
    """name of the image tower in python -m featurize"""
    tower: ClassVar[str] = "vision_model"
    """attribute of the image tower in the model's body"""
    template: ClassVar[str | None] = None
    """chat template for checkpoints without one; [begin] begins a text, [end] ends a turn if the
    tokenizer has it"""
    begins: ClassVar[bool] = True
    """whether a prompt begins with the tokens that the tokenizer adds before every text"""
    attends_apart: ClassVar[bool] = True
    """whether heads.models.packed_attention may be used"""

    def __init__(self, whole: Any, tokenizer: Any, shape: tuple[int, ...], clips: int = 2) -> None:
        """Remove the tower of `whole`, a transformers model; shape: of a clip's cached tokens,
        [T*N, D].

        clips: 2 to compare a pair, 1 to describe a clip. StepDiffError: the tokens are of another
        tower.
        """
        frame = self.frame_shape(whole.config)
        frames, rest = divmod(shape[0], frame[0])
        if rest or shape[1] != frame[1]:
            raise StepDiffError(
                f"{list(shape)} cached tokens of a clip are not whole frames of {list(frame)}: "
                f"featurize with --encoder {self.encoder}"
            )
        chat = ImageChat(tokenizer, partial(self.show, tokenizer, frames), self.begins)
        outputs = self.outputs_of_frame(whole, frame)
        super().__init__(LanguageModel(self.language_model(whole), chat), nn.Identity(), outputs)
        self.whole, self.frames = whole, frames
        if clips == 1:
            self.packer, self.blind_packer = Packer(chat, outputs, SYSTEM), Packer(chat, 0, SYSTEM)
        prefix = len(self.packer.prefix(0).ids)
        room = getattr(whole.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and prefix >= room:
            raise StepDiffError(
                f"{self.packer.clips} frames of clips are {prefix} tokens, and the language model "
                f"has {room} places: featurize with fewer --frames"
            )
        if self.attends_apart:
            self.lm.attend_apart()
        setattr(self.body(whole), self.tower, None)

    @staticmethod
    def frame_shape(config: Any) -> tuple[int, int]:
        """Return N tokens, D channels of a frame."""
        return patches(config.vision_config), config.vision_config.hidden_size

    @staticmethod
    @abstractmethod
    def show(tokenizer: Any, frames: int, system: str) -> str:
        """Return the system prompt with IMAGE for every frame of {video}, as the model's processor
        writes it."""

    @staticmethod
    @abstractmethod
    def connect(whole: Any, frames: Float[Tensor, "F N D"]) -> Float[Tensor, "F L E"]:
        """Return the language model's inputs for the frames."""

    @classmethod
    def outputs_of_frame(cls, whole: Any, shape: tuple[int, int]) -> int:
        """Return the number of places of a frame in a prompt."""
        with torch.inference_mode():
            return cls.connect(
                whole, torch.zeros(1, *shape, device=whole.device, dtype=whole.dtype)
            ).shape[1]

    @staticmethod
    def body(whole: Any) -> Any:
        """Return the module that has the image tower."""
        return whole.model

    @staticmethod
    def language_model(whole: Any) -> Any:
        """Return the module that maps input embeddings to logits."""
        return whole

    def project(self, tokens: Float[Tensor, "C T_N D"]) -> Float[Tensor, "C T_L E"]:
        """Return the language model's inputs for each clip."""
        frames = (
            tokens.unflatten(1, (self.frames, -1))
            .flatten(0, 1)
            .to(self.whole.device, self.whole.dtype)
        )
        return self.connect(self.whole, frames).unflatten(0, (-1, self.frames)).flatten(1, 2)


def patches(vision: Any) -> int:
    """Return the tokens of a picture without a class token."""
    return (vision.image_size // vision.patch_size) ** 2


_AROUND = "<fake_token_around_image>"


class IdeficsLM(PublicLM):
    """IDEFICS 1 with 9 or 80 billion parameters, instructed or not. A frame has one place in the
    prompt.

    A word sees the frame that the model's own processor lets it see, and none before the first.
    """

    encoder = "idefics"
    template = "[begin]User: {{ messages[0]['content'][0]['text'] }}[end]\nAssistant:"
    attends_apart = False

    @staticmethod
    def frame_shape(config: Any) -> tuple[int, int]:
        return patches(config.vision_config) + 1, config.vision_config.embed_dim

    @staticmethod
    def show(tokenizer: Any, frames: int, system: str) -> str:
        """See PublicLM: no space before a frame, and neighbouring frames share the token between
        them."""
        return system.replace(" {video}", _AROUND + (IMAGE + _AROUND) * frames)

    @staticmethod
    def connect(whole: Any, frames: Float[Tensor, "F N D"]) -> Float[Tensor, "F N D"]:
        """See PublicLM: the model runs its own resampler on the frames' tokens."""
        return frames

    @classmethod
    def outputs_of_frame(cls, whole: Any, shape: tuple[int, int]) -> int:
        return 1

    def hidden(
        self, batch: Packed, clips: Float[Tensor, "C T_N D"] | None
    ) -> Float[Tensor, "B S E"]:
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

    def go_on(self, batch: Packed, clips: Float[Tensor, "C T_N D"] | None, **how: Any) -> list[str]:
        """Return the greedy continuation of every row."""
        columns = columns_to_front(batch.segment)
        images, seen = self._images(batch, clips)
        return self.write(
            input_ids=self._ids(batch).gather(1, columns),
            attention_mask=(batch.segment != PADDING).gather(1, columns).long(),
            image_hidden_states=images,
            image_attention_mask=seen.gather(1, columns[..., None].expand_as(seen)),
            **how,
        )

    def _ids(self, batch: Packed) -> Int[Tensor, "B S"]:
        image = self.lm.chat.tokenizer.convert_tokens_to_ids("<image>")
        return batch.ids.masked_fill(batch.video != TEXT, image)

    def _images(
        self, batch: Packed, clips: Float[Tensor, "C T_N D"] | None
    ) -> tuple[Float[Tensor, "B I N D"], Int[Tensor, "B S I"]]:
        """Return the tokens of each row's I frames, and which of them each token sees; the blind
        control sees none."""
        slots = batch.video != TEXT
        if clips is None:
            shape = (len(batch.ids), 1, *self.frame_shape(self.whole.config))
            images = torch.zeros(shape, device=self.whole.device, dtype=self.whole.dtype)
        else:
            frames = clips.unflatten(1, (self.frames, -1)).flatten(0, 1)
            images = frames[batch.video[slots]].unflatten(0, (len(slots), -1))
        last = slots.cumsum(1)  # 0: no frame yet
        return images, one_hot(last, images.shape[1] + 1)[..., 1:]


class Idefics2LM(PublicLM):
    """IDEFICS 2: a Perceiver makes 64 tokens of a frame."""

    encoder = "idefics2"

    @staticmethod
    def show(tokenizer: Any, frames: int, system: str) -> str:
        """See PublicLM: neighbouring frames share the token between them, and a space follows
        them."""
        return system.replace("{video}", _AROUND + (IMAGE + _AROUND) * frames + " ")

    @staticmethod
    def connect(whole: Any, frames: Float[Tensor, "F N D"]) -> Float[Tensor, "F L E"]:
        seen = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        return whole.model.connector(frames, attention_mask=seen)


class Idefics3LM(PublicLM):
    """IDEFICS 3: a pixel shuffle makes one token of several neighbouring ones."""

    encoder = "idefics3"

    @staticmethod
    def show(tokenizer: Any, frames: int, system: str) -> str:
        """See PublicLM: every frame is a picture that was not tiled."""
        return system.replace("{video}", (_AROUND + "<global-img>" + IMAGE + _AROUND) * frames)

    @staticmethod
    def connect(whole: Any, frames: Float[Tensor, "F N D"]) -> Float[Tensor, "F L E"]:
        return whole.model.connector(frames)


_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}


class LlavaLM(PublicLM):
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


class Blip2LM(PublicLM):
    """BLIP-2 with a decoder-only language model (OPT). It was trained on single pictures, so it is
    a captioner here."""

    encoder = "blip2"
    template = "{{ messages[0]['content'][0]['text'] }} Answer:"
    begins = False

    @staticmethod
    def frame_shape(config: Any) -> tuple[int, int]:
        return patches(config.vision_config) + 1, config.vision_config.hidden_size

    @staticmethod
    def show(tokenizer: Any, frames: int, system: str) -> str:
        """See PublicLM: the pictures, the begin-of-text token, and the question format of the
        model's authors."""
        return IMAGE * frames * system.count("{video}") + tokenizer.bos_token + "Question:"

    @staticmethod
    def connect(whole: Any, frames: Float[Tensor, "F N D"]) -> Float[Tensor, "F L E"]:
        queries = whole.query_tokens.expand(len(frames), -1, -1)
        seen = torch.ones(frames.shape[:2], dtype=torch.long, device=frames.device)
        queried = whole.qformer(
            query_embeds=queries,
            encoder_hidden_states=frames.to(queries.dtype),
            encoder_attention_mask=seen,
        )
        return whole.language_projection(
            queried.last_hidden_state.to(whole.language_projection.weight.dtype)
        )

    @staticmethod
    def body(whole: Any) -> Any:
        return whole

    @staticmethod
    def language_model(whole: Any) -> Any:
        if not whole.config.use_decoder_only_language_model:
            raise StepDiffError(
                f"{whole.name_or_path}: its language model is an encoder-decoder; use a BLIP-2 "
                "with OPT, such as Salesforce/blip2-opt-2.7b"
            )
        return whole.language_model


FAMILIES: dict[str, type[PublicLM]] = {
    "llava": LlavaLM,
    "blip-2": Blip2LM,
    "idefics": IdeficsLM,
    "idefics2": Idefics2LM,
    "idefics3": Idefics3LM,
}
"""model_type of config.json -> its family"""


def load_public(
    weights: str,
    store: Store,
    view: str,
    device: str = "cpu",
    allowed: tuple[str, ...] = tuple(FAMILIES),
    clips: int = 2,
) -> tuple[PublicLM, Features, dict[str, Any]]:
    """Return the model without its tower, the tokens that it reads, and what to disclose next to
    its scores.

    clips: 2 to compare a pair, 1 to describe a clip. StepDiffError: not such a checkpoint, or the
    view is of another.
    """
    folder = resolve(weights)
    kind = model_type(folder)
    if kind not in allowed:
        raise StepDiffError(
            f"{folder}: its config.json has model_type {kind!r}; give one of {' or '.join(allowed)}"
        )
    family = FAMILIES[str(kind)]
    features = Features(store, view, "tokens")
    check_view(features.view, family.encoder, weights)
    tokenizer = _tokenizer(folder, family)
    whole = load_model("AutoModelForImageTextToText", weights, device, attention="sdpa")
    model = family(whole, tokenizer, features.shape, clips)
    disclosed = {"weights": weights, "view": view, "provenance": features.view.provenance.as_dict()}
    return model.eval(), features, disclosed


def families(method: str) -> tuple[str, ...]:
    """Return the families of a method's name: "idefics" has three."""
    return tuple(name for name in FAMILIES if name.startswith(method))


def model_type(folder: Path) -> str | None:
    """Return the family of a checkpoint, by its config.json. StepDiffError: it has none."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise StepDiffError(
            f"{folder}: no config.json of a model ({error}); give a folder or a hub id"
        ) from error


def check_view(view: View, encoder: str, weights: str) -> None:
    """Raise StepDiffError if a view was not made by this encoder with the checkpoint `weights`."""
    provenance, again = (
        view.provenance,
        f"python -m featurize --encoder {encoder} --weights {weights}",
    )
    if provenance.encoder != encoder:
        raise StepDiffError(
            f"view {view.name} holds tokens of {provenance.encoder}, not of the tower of "
            f"{weights}: run {again}"
        )
    if provenance.weights != (checkpoint := fingerprint(resolve(weights))):
        raise StepDiffError(
            f"view {view.name} holds tokens of another checkpoint (sha256 "
            f"{provenance.weights[:12]}, {weights} has {checkpoint[:12]}): run {again} --view "
            "ANOTHER_NAME"
        )


def _tokenizer(folder: Path, family: type[PublicLM]) -> Any:
    tokenizer, older = load_processor(str(folder), "AutoTokenizer"), folder / "chat_template.json"
    if tokenizer.chat_template is None and older.exists():
        try:
            tokenizer.chat_template = json.loads(older.read_text(encoding="utf-8"))["chat_template"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StepDiffError(f"{older}: damaged ({error}); give a whole checkpoint") from error
    if tokenizer.chat_template is None and family.template is not None:
        end = TURN_ENDS if TURN_ENDS in tokenizer.get_vocab() else ""
        tokenizer.chat_template = family.template.replace("[begin]", tokenizer.bos_token).replace(
            "[end]", end
        )
    return tokenizer
