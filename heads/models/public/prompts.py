"""Prompts of a model of transformers that show clips whose pixels are not there.

The processor writes the text of a clip, and numbers what the model needs to place its tokens, from the shape and the
times of its frames. So it is given blank frames in the shape of the clip's, and their pixels are dropped.

Guarantees
- token ids are those of the whole prompt: words do not change where the question begins
- a user's text never becomes a control token of the model
- a clip whose tokens are not as many as its processor expects is refused
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from heads.data.packing import TEXT, Chat, ChatPieces, Packed, Packer, Row, Turn, space_after
from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.prompts import PAIR_SYSTEM

_QUESTION, _ANSWER = "@@question@@", "@@answer@@"
_PER_SECOND = 1000  # frames are numbered by their milliseconds
_KEPT = 256
"""prompts whose text is kept"""


@dataclass(frozen=True)
class ClipLayout:
    """The shape of a clip's frames and tokens."""

    tokens: int
    height: int
    """pixels of the frames that the processor was given"""
    width: int
    seconds: tuple[float, ...]
    """of each frame, from the start of the clip"""

    @property
    def blank(self) -> np.ndarray:
        """Blank frames [T, height, width, 3]."""
        return np.zeros((len(self.seconds), self.height, self.width, 3), np.uint8)

    @property
    def metadata(self) -> dict[str, Any]:
        """What a video processor receives about the clip."""
        numbers = [round(_PER_SECOND * second) for second in self.seconds]
        step = (numbers[-1] - numbers[0]) / (len(numbers) - 1) if len(numbers) > 1 else 0
        whole = max(round(step * len(numbers)), 1)
        return {
            "fps": float(_PER_SECOND),
            "frames_indices": numbers,
            "total_num_frames": whole,
            "duration": whole / _PER_SECOND,
        }


@dataclass(frozen=True)
class Shown:
    """A prompt up to its question."""

    ids: tuple[int, ...]
    is_token: tuple[bool, ...]
    """whether a place takes a token of a clip"""
    slot: str
    """of mm_encoder_outputs: image or video"""
    given: dict[str, Tensor]
    """what else the processor gives to the model: sizes of grids [items, ...], types of tokens [1, len(ids)]"""


@runtime_checkable
class Layouts(Protocol):
    """The layout of clips by id."""

    most: int
    """tokens of a clip, at most"""

    def layouts(self, keys: Sequence[str]) -> list[ClipLayout]:
        """Return the layout of each clip."""


class ProcessorChat(Chat):
    """The prompts of a model: clips and question in one user turn, as its chat template and its processor write them.

    Args:
        processor: of transformers.
        as_videos: whether a clip is a video, else an image per frame.
        places: ids of the tokens whose places take tokens of clips.
        clips: those that prompts may show.
    """

    def __init__(self, processor: Any, as_videos: bool, places: tuple[int, ...], clips: Layouts) -> None:
        tokenizer = processor.tokenizer
        if processor.chat_template is None and tokenizer.chat_template is None:
            raise StepDiffError(f"{tokenizer.name_or_path}: no chat template in its files; use an instruct/chat model")
        tokenizer.chat_template = tokenizer.chat_template or processor.chat_template
        super().__init__(tokenizer)
        self.processor, self.as_videos, self.places, self.clips = processor, as_videos, places, clips
        self._kept: OrderedDict[tuple[str, tuple[ClipLayout, ...]], Shown] = OrderedDict()

    def packer(self, outputs: int, system: str = PAIR_SYSTEM) -> Packer:
        """See Chat; outputs: 0 for prompts without clips, else not used."""
        return ClipPacker(self, system) if outputs else Packer(self, 0, system)

    def pieces(self, system: str, shows: bool = False) -> ChatPieces:
        """Return the pieces of a prompt. Its first part has no clips; where it `shows` some, use `shown` instead."""
        before, to_answer, after = self._written(system, int(shows))
        ids = [] if shows else self.tokenizer(before.rstrip(" "), **self._begins(before))["input_ids"]
        end = [token for token in self.control_ids(after)[:1] if token in self.tokenizer.all_special_ids]
        return ChatPieces(
            (tuple(ids),),
            self.control_ids(to_answer),
            tuple(end) or (self.tokenizer.eos_token_id,),
            before[len(before.rstrip(" ")) :],
            space_after(to_answer),
        )

    def shown(self, system: str, clips: tuple[ClipLayout, ...]) -> Shown:
        """Return a prompt that shows clips at the {video} marks of `system`. StepDiffError: see Guarantees."""
        if (system, clips) not in self._kept:
            self._kept[system, clips] = self._shown(system, clips)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[system, clips]

    def _shown(self, system: str, clips: tuple[ClipLayout, ...]) -> Shown:
        before = self._written(system, 1 if self.as_videos else len(clips[0].seconds))[0]
        given: dict[str, Any] = {"text": [before.rstrip(" ")], **self._begins(before)}
        if self.as_videos:
            given |= {"videos": [clip.blank for clip in clips], "do_sample_frames": False}
            given["video_metadata"] = [clip.metadata for clip in clips]
        else:
            from PIL import Image

            given["images"] = [Image.fromarray(frame) for clip in clips for frame in clip.blank]
        processed = dict(self.processor(**given, return_tensors="pt"))
        ids = tuple(processed.pop("input_ids")[0].tolist())
        is_token = tuple(token in self.places for token in ids)
        expected = sum(clip.tokens for clip in clips)
        if sum(is_token) != expected:
            raise StepDiffError(
                f"{type(self.processor).__name__} makes {sum(is_token)} places for clips of {expected} tokens: it "
                "chooses tokens by what the frames show, which is not supported; use another model"
            )
        slot = "video" if "pixel_values_videos" in processed else "image"
        left_out = ("attention_mask", *(name for name in processed if name.startswith("pixel_")))
        return Shown(ids, is_token, slot, {name: value for name, value in processed.items() if name not in left_out})

    def _written(self, system: str, count: int) -> tuple[str, str, str]:
        """Return the text before the question, from there to the answer, and after the answer.

        count: videos or images at each {video} mark.
        """
        content: list[dict[str, str]] = []
        for place, text in enumerate(f"{system} {_QUESTION}".split("{video}")):
            content += [{"type": "video" if self.as_videos else "image"}] * (count if place else 0)
            content.append({"type": "text", "text": text})
        asked = {"role": "user", "content": content}
        said = {"role": "assistant", "content": [{"type": "text", "text": _ANSWER}]}
        written = self.processor.apply_chat_template([asked], tokenize=False, add_generation_prompt=True)
        before, mark, to_answer = written.partition(_QUESTION)
        if not mark or str(content[-1]) in written:
            raise StepDiffError(
                f"{self.tokenizer.name_or_path}: its chat template drops a text, or takes no clips; use another "
                "checkpoint"
            )
        whole = self.processor.apply_chat_template([asked, said], tokenize=False)
        return before, to_answer, whole.partition(_ANSWER)[2]

    def _begins(self, before: str) -> dict[str, bool]:
        """Return whether the tokenizer adds what it begins a text with: not if the template wrote it."""
        bos = self.tokenizer.bos_token
        return {"add_special_tokens": bos is None or not before.startswith(bos)}


class ClipPacker(Packer):
    """Builder of prompts that show clips; a row is one question."""

    chat: ProcessorChat

    def __init__(self, chat: ProcessorChat, system: str) -> None:
        super().__init__(chat, 0, system)
        self.pieces = chat.pieces(system, shows=True)
        self._system = system
        self._shown: list[tuple[ClipLayout, ...]] = []

    def pack(self, prompts: Sequence[Sequence[Turn]], packed: bool = True, clips: Sequence[str] = ()) -> Packed:
        """See Packer; packed: not used."""
        return self.pack_layouts(prompts, self.chat.clips.layouts(clips))

    def pack_layouts(self, prompts: Sequence[Sequence[Turn]], layouts: Sequence[ClipLayout]) -> Packed:
        """Return one row per turn; layouts: of the prompts' clips, of equally many for each."""
        each = len(layouts) // len(prompts)
        self._shown = [tuple(layouts[first : first + each]) for first in range(0, len(layouts), each)]
        return super().pack(prompts, packed=False)

    def prefix(self, number: int) -> Row:
        """See Packer; a token of a clip is numbered as in Packed, with room for the most tokens of each."""
        layouts, most = self._shown[number], self.chat.clips.most
        shown, row = self.chat.shown(self._system, layouts), Row()
        row.read(shown.ids)
        first = number * len(layouts)
        tokens = iter([(first + at) * most + n for at, clip in enumerate(layouts) for n in range(clip.tokens)])
        row.video = [next(tokens) if is_token else TEXT for is_token in shown.is_token]
        return row
