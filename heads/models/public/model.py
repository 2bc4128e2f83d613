"""A public vision-language model without its image tower: cached tokens -> its own projector -> its own language model.

Notation: C clips, T frames of a clip, F = C * T frames, N tokens of a frame, D channels, L outputs of a frame.

Guarantees
- logits from cached tokens are the whole model's logits from pixels, although it has no image tower
- token ids are those of the whole prompt cut in pieces: words do not change where pieces meet
- a user's text never becomes a control token of the model
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heads.data.packing import Chat, ChatPieces, Packer, space_after
from heads.models.language_model import LanguageModel
from heads.models.video_lm import VideoLM
from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.prompts import SYSTEM

IMAGE = "@@image@@"  # added to the tokenizer here, so that text around it is cut as around the model's own
_QUESTION = "@@question@@"
TURN_ENDS = "<end_of_utterance>"  # of the IDEFICS models; others end with the end-of-text token


class ImageChat(Chat):
    """Prompts of a public model: clips and question in one user turn, as the model's own processor writes them.

    show: system prompt with {video} marks -> the same with IMAGE for every frame and the tokens around it.
    """

    def __init__(self, tokenizer: Any, show: Callable[[str], str], begins: bool) -> None:
        """begins: whether the prompt begins with what the tokenizer adds before every text."""
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
                f"{tokenizer.name_or_path}: its chat template drops a text, or takes no images; use another checkpoint"
            )
        has_begin = tokenizer.bos_token is not None and self.before.startswith(tokenizer.bos_token)
        self.begins = begins and not has_begin

    def pieces(self, system: str) -> ChatPieces:
        shown = self.tokenizer(self.before + self.show(system), add_special_tokens=self.begins)["input_ids"]
        around: list[list[int]] = [[]]
        for token in shown:
            if token == self.image:
                around.append([])
            else:
                around[-1].append(token)
        end = self.tokenizer.get_vocab().get(TURN_ENDS, self.tokenizer.eos_token_id)
        to_answer = self.control_ids(self.after)
        return ChatPieces(tuple(map(tuple, around)), to_answer, (end,), " ", space_after(self.after))


class PublicLM(VideoLM, ABC):
    """Base of one subclass per model family. It does all that VideoLM does; nothing of it trains."""

    encoder: ClassVar[str]
    """name of the image tower in python -m featurize"""
    tower: ClassVar[str] = "vision_model"
    """attribute of the image tower in the model's body"""
    template: ClassVar[str | None] = None
    """chat template for checkpoints without one; [begin] begins a text, [end] ends a turn if the tokenizer has it"""
    begins: ClassVar[bool] = True
    """whether a prompt begins with what the tokenizer adds before every text"""
    attends_apart: ClassVar[bool] = True
    """whether heads.models.packed_attention may be used"""

    def __init__(self, whole: Any, tokenizer: Any, shape: tuple[int, ...], clips: int = 2) -> None:
        """Remove the tower of `whole`, a transformers model; shape: of a clip's cached tokens, [T*N, D].

        clips: 2 to compare a pair, 1 to describe a clip. StepDiffError: the tokens are of another tower.
        """
        frame = self.frame_shape(whole.config)
        frames, rest = divmod(shape[0], frame[0])
        if rest or shape[1] != frame[1]:
            raise StepDiffError(
                f"{list(shape)} cached tokens of a clip are not whole frames of {list(frame)}: featurize with "
                f"--encoder {self.encoder}"
            )
        chat = ImageChat(tokenizer, partial(self.show, tokenizer, frames), self.begins)
        outputs = self.outputs_of_frame(whole, frame)
        super().__init__(LanguageModel(self.language_model(whole), chat), nn.Identity(), outputs)
        self.whole, self.frames = whole, frames
        if clips == 1:
            self.packer, self.blind_packer = Packer(chat, outputs, SYSTEM), Packer(chat, 0, SYSTEM)
        self._check_room()
        if self.attends_apart:
            self.lm.attend_apart()
        setattr(self.body(whole), self.tower, None)

    @staticmethod
    @abstractmethod
    def frame_shape(config: Any) -> tuple[int, int]:
        """Return N tokens, D channels of a frame."""

    @staticmethod
    @abstractmethod
    def show(tokenizer: Any, frames: int, system: str) -> str:
        """Return the system prompt with IMAGE for every frame of {video}, as the model's processor writes it."""

    @staticmethod
    @abstractmethod
    def connect(whole: Any, frames: Float[Tensor, "F N D"]) -> Float[Tensor, "F L E"]:
        """Return the language model's inputs for the frames."""

    @classmethod
    def outputs_of_frame(cls, whole: Any, shape: tuple[int, int]) -> int:
        """Return the number of places of a frame in a prompt."""
        with torch.inference_mode():
            return cls.connect(whole, torch.zeros(1, *shape, device=whole.device, dtype=whole.dtype)).shape[1]

    @staticmethod
    def body(whole: Any) -> Any:
        """Return the module that has the image tower."""
        return whole.model

    @staticmethod
    def language_model(whole: Any) -> Any:
        """Return the module that maps input embeddings to logits."""
        return whole

    def _check_room(self) -> None:
        prefix = len(self.packer.prefix(0).ids)
        room = getattr(self.whole.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and prefix >= room:
            raise StepDiffError(
                f"{self.packer.clips} frames of clips are {prefix} tokens, and the language model has {room} places: "
                "featurize with fewer --frames"
            )

    def project(self, tokens: Float[Tensor, "C T_N D"]) -> Float[Tensor, "C T_L E"]:
        """Return the language model's inputs for each clip."""
        frames = tokens.unflatten(1, (self.frames, -1)).flatten(0, 1).to(self.whole.device, self.whole.dtype)
        return self.connect(self.whole, frames).unflatten(0, (-1, self.frames)).flatten(1, 2)


def patches(vision: Any) -> int:
    """Return the tokens of a picture without a class token."""
    return (vision.image_size // vision.patch_size) ** 2
