"""A public model that sees, without its image tower: cached tokens -> its own projector -> its own language model.

Notation: C clips, T frames of a clip, F = C * T frames, N tokens of a frame, D channels, L what a frame becomes.

Guarantees
- logits from cached tokens are the whole model's logits from pixels
- there is no image tower in it: it cannot see a pixel
"""

from abc import ABC, abstractmethod
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from common.errors import StepDiffError
from heads.data.packing import Packer, Turn
from heads.models.language_model import LanguageModel
from heads.models.public.chat import ImageChat
from heads.models.video_lm import VideoLM
from tasks.prompts import SYSTEM


class PublicLM(VideoLM, ABC):
    """One family of models a subclass. Everything that VideoLM does, it does; nothing of it trains."""

    encoder: ClassVar[str]
    """what python -m featurize calls the image tower"""
    tower: ClassVar[str] = "vision_model"
    """where the image tower hangs in the model's body"""
    template: ClassVar[str | None] = None
    """a chat template for checkpoints that bring none; [begin] is what begins a text, and [end] what ends a turn where
    the tokenizer knows it"""
    begins: ClassVar[bool] = True
    """whether a prompt begins with what the tokenizer sets before every text"""
    attends_apart: ClassVar[bool] = True
    """whether questions may attend as heads.models.packed_attention lets them"""

    def __init__(self, whole: Any, tokenizer: Any, shape: tuple[int, ...], clips: int = 2) -> None:
        """whole: the model of transformers, whose tower is taken out; shape: of a clip's cached tokens, [T*N, D].

        clips: 2, a pair to compare; 1, a clip to describe. StepDiffError where the tokens are of another tower.
        """
        frame = self.frame_shape(whole.config)
        frames, rest = divmod(shape[0], frame[0])
        if rest or shape[1] != frame[1]:
            raise StepDiffError(
                f"{list(shape)} cached tokens of a clip are no whole frames of {list(frame)}: featurize with "
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
        """N tokens, D channels of a frame."""

    @staticmethod
    @abstractmethod
    def show(tokenizer: Any, frames: int, system: str) -> str:
        """The system prompt with IMAGE for every frame in the place of {video}, as the model's processor writes it."""

    @staticmethod
    @abstractmethod
    def connect(whole: Any, frames: Float[Tensor, "F N D"]) -> Float[Tensor, "F L E"]:
        """What stands before the language model in the place of the frames."""

    @classmethod
    def outputs_of_frame(cls, whole: Any, shape: tuple[int, int]) -> int:
        """Places of a prompt that a frame takes."""
        with torch.inference_mode():
            return cls.connect(whole, torch.zeros(1, *shape, device=whole.device, dtype=whole.dtype)).shape[1]

    @staticmethod
    def body(whole: Any) -> Any:
        """What the image tower hangs in."""
        return whole.model

    @staticmethod
    def language_model(whole: Any) -> Any:
        """What takes input embeddings and gives logits."""
        return whole

    def _check_room(self) -> None:
        prefix = len(self.packer.prefix(0).ids)
        room = getattr(self.whole.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and prefix >= room:
            raise StepDiffError(
                f"{self.packer.clips} frames of clips are {prefix} tokens, and the language model has {room} places: "
                "featurize with fewer --frames"
            )

    def project(self, tokens: Float[Tensor, "C T_N D"], leave_out: float = 0.0) -> Float[Tensor, "C T_L E"]:
        """What stands for each clip; nothing is left out here."""
        frames = tokens.unflatten(1, (self.frames, -1)).flatten(0, 1).to(self.whole.device, self.whole.dtype)
        return self.connect(self.whole, frames).unflatten(0, (-1, self.frames)).flatten(1, 2)

    def describe(self, tokens: Float[Tensor, "C T_N D"], question: str, max_tokens: int) -> list[str]:
        """What is said, greedily, to one question on each clip (of a model made for clips=1)."""
        turns = [Turn(question, "", ends=False)] * len(tokens)
        with torch.inference_mode():
            return self.generate(turns, self.project(tokens), max_tokens)


def patches(vision: Any) -> int:
    """Tokens of a picture without a class token."""
    return (vision.image_size // vision.patch_size) ** 2
