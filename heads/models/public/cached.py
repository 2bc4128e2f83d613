"""Any video language model of transformers without its vision tower: the store has the output of
the tower and the projector, and the model takes it through one slot, `mm_encoder_outputs`.

A row is one question, because models differ in how they mask and number what they see.

Notation: C clips, H rows of a layout, N tokens of a clip at most, D channels, B rows, S tokens of a
row.

Guarantees
- logits and greedy text from the store are the whole model's from pixels, for clips of different
  shapes too
- the vision tower is neither made nor loaded, so that the model cannot see a pixel
- a view of another checkpoint, and a model that takes no cached tokens, are refused
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from heads.data.clips import Features
from heads.data.packing import (
    PADDING,
    TEXT,
    Chat,
    ChatPieces,
    Packed,
    Packer,
    Row,
    Turn,
    space_after,
)
from heads.models.language_model import LanguageModel, load_model, load_processor
from heads.models.public.families import FAMILIES, Blip2LM, check_view, load_public, model_type
from heads.models.video_lm import VideoLM
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.prompts import PAIR_SYSTEM, system
from stepdiff_core.weights import fingerprint, resolve
from store import Store
from store.format.pool import unpooled

ENCODER = "vlm"
"""name of the encoder in python -m featurize"""
PROVEN = (
    "gemma3",
    "glm4v",
    "internvl",
    "llava_next_video",
    "llava_onevision",
    "minicpmv4_6",
    "molmo2",
    "perception_lm",
    "qwen2_5_vl",
    "qwen3_vl",
    "smolvlm",
)
"""model_type of the families whose logits the tests compare with those from pixels"""
_USUAL = 2  # clips of a prompt without them
_ROWS = 16  # that share a prompt at once: its keys and values are copied for each
_LAYER = re.compile(
    r"get_\w+_features: (?P<kind>list|array) of (?P<axes>\d) axes"
    r"(; (?P<levels>\d+) deepstack levels: (?P<level>list|array) of .*)?"
)
_QUESTION, _ANSWER = "@@question@@", "@@answer@@"
_PER_SECOND = 1000  # frames are numbered by their milliseconds
_KEPT = 256  # prompts


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
        """The input of a video processor for the clip."""
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
class ShownPrompt:
    """A prompt up to its question."""

    ids: tuple[int, ...]
    is_token: tuple[bool, ...]
    """whether a place takes a token of a clip"""
    slot: str
    """of mm_encoder_outputs: image or video"""
    inputs: dict[str, Tensor]
    """further inputs from the processor to the model: sizes of grids [items, ...], types of tokens
    [1, len(ids)]"""


class ProcessorChat(Chat):
    """The prompts of a model: clips and question in one user turn, as its chat template and its
    processor write them.

    The processor writes the text of a clip, and numbers what the model needs to place its tokens,
    from the shape and the times of its frames. So it is given blank frames in the shape of the
    clip's, and their pixels are dropped. Token ids equal the ids of the whole prompt, and a user's
    text never becomes a control token of the model.
    """

    def __init__(
        self, processor: Any, as_videos: bool, places: tuple[int, ...], clips: "CachedClips"
    ) -> None:
        """as_videos: whether a clip is a video, else an image per frame; places: ids of the tokens
        whose places take tokens of clips; clips: those that prompts may show."""
        tokenizer = processor.tokenizer
        if processor.chat_template is None and tokenizer.chat_template is None:
            raise StepDiffError(
                f"{tokenizer.name_or_path}: no chat template in its files; use an instruct/chat "
                "model"
            )
        tokenizer.chat_template = tokenizer.chat_template or processor.chat_template
        super().__init__(tokenizer)
        self.processor, self.as_videos, self.places, self.clips = (
            processor,
            as_videos,
            places,
            clips,
        )
        self.shown = lru_cache(_KEPT)(self._shown)

    def packer(self, outputs: int, system: str = PAIR_SYSTEM) -> Packer:
        """See Chat; outputs: 0 for prompts without clips, else not used."""
        return ClipPacker(self, system) if outputs else Packer(self, 0, system)

    def pieces(self, system: str, shows: bool = False) -> ChatPieces:
        """Return the pieces of a prompt. Its first part has no clips; if it `shows` some, use
        `shown` instead."""
        before, to_answer, after = self._written(system, int(shows))
        ids = (
            [] if shows else self.tokenizer(before.rstrip(" "), **self._begins(before))["input_ids"]
        )
        end = [
            token
            for token in self.control_ids(after)[:1]
            if token in self.tokenizer.all_special_ids
        ]
        return ChatPieces(
            (tuple(ids),),
            self.control_ids(to_answer),
            tuple(end) or (self.tokenizer.eos_token_id,),
            before[len(before.rstrip(" ")) :],
            space_after(to_answer),
        )

    def _shown(self, system: str, clips: tuple[ClipLayout, ...]) -> ShownPrompt:
        """Return a prompt that shows clips at the {video} marks of `system`. StepDiffError: the
        processor makes another number of places than the clips have tokens."""
        before = self._written(system, 1 if self.as_videos else len(clips[0].seconds))[0]
        inputs: dict[str, Any] = {"text": [before.rstrip(" ")], **self._begins(before)}
        if self.as_videos:
            inputs |= {"videos": [clip.blank for clip in clips], "do_sample_frames": False}
            inputs["video_metadata"] = [clip.metadata for clip in clips]
        else:
            from PIL import Image

            inputs["images"] = [Image.fromarray(frame) for clip in clips for frame in clip.blank]
        processed = dict(self.processor(**inputs, return_tensors="pt"))
        ids = tuple(processed.pop("input_ids")[0].tolist())
        is_token = tuple(token in self.places for token in ids)
        expected = sum(clip.tokens for clip in clips)
        if sum(is_token) != expected:
            raise StepDiffError(
                f"{type(self.processor).__name__} makes {sum(is_token)} places for clips of "
                f"{expected} tokens: it chooses tokens by what the frames show, which is not "
                "supported; use another model"
            )
        slot = "video" if "pixel_values_videos" in processed else "image"
        left_out = ("attention_mask", *(name for name in processed if name.startswith("pixel_")))
        return ShownPrompt(
            ids,
            is_token,
            slot,
            {name: value for name, value in processed.items() if name not in left_out},
        )

    def _written(self, system: str, count: int) -> tuple[str, str, str]:
        """Return the text before the question, from there to the answer, and after the answer.

        count: videos or images at each {video} mark.
        """
        content: list[dict[str, str]] = []
        for place, text in enumerate(f"{system} {_QUESTION}".split("{video}")):
            content += [{"type": "video" if self.as_videos else "image"}] * (count if place else 0)
            content.append({"type": "text", "text": text})
        question = {"role": "user", "content": content}
        answer = {"role": "assistant", "content": [{"type": "text", "text": _ANSWER}]}
        written = self.processor.apply_chat_template(
            [question], tokenize=False, add_generation_prompt=True
        )
        before, mark, to_answer = written.partition(_QUESTION)
        if not mark or str(content[-1]) in written:
            raise StepDiffError(
                f"{self.tokenizer.name_or_path}: its chat template drops a text, or takes no "
                "clips; use another checkpoint"
            )
        whole = self.processor.apply_chat_template([question, answer], tokenize=False)
        return before, to_answer, whole.partition(_ANSWER)[2]

    def _begins(self, before: str) -> dict[str, bool]:
        """Return whether the tokenizer adds its opening tokens to a text: not if the template wrote
        it."""
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

    def pack(
        self, prompts: Sequence[Sequence[Turn]], packed: bool = True, clips: Sequence[str] = ()
    ) -> Packed:
        """See Packer; packed: not used."""
        return self.pack_layouts(prompts, self.chat.clips.layouts(clips))

    def pack_layouts(
        self, prompts: Sequence[Sequence[Turn]], layouts: Sequence[ClipLayout]
    ) -> Packed:
        """Return one row per turn; layouts: of the prompts' clips, of equally many for each."""
        each = len(layouts) // len(prompts)
        self._shown = [
            tuple(layouts[first : first + each]) for first in range(0, len(layouts), each)
        ]
        return super().pack(prompts, packed=False)

    def prefix(self, number: int) -> Row:
        """See Packer; a token of a clip is numbered as in Packed, with room for the most tokens of
        each."""
        layouts, most = self._shown[number], self.chat.clips.most
        shown, row = self.chat.shown(self._system, layouts), Row()
        row.read(shown.ids)
        first = number * len(layouts)
        tokens = iter(
            [(first + at) * most + n for at, clip in enumerate(layouts) for n in range(clip.tokens)]
        )
        row.video = [next(tokens) if is_token else TEXT for is_token in shown.is_token]
        return row


class CachedClips(Features):
    """Tokens and layout of clips by key, in one array: the H rows before the N tokens hold the
    layout."""

    def __init__(self, store: Store, view: str) -> None:
        """StepDiffError: the view has no such features."""
        source = store.view("clips", view).provenance
        if source.encoder != ENCODER:
            raise StepDiffError(
                f"view {view} holds tokens of {source.encoder}, not of a video language model: run "
                f"python -m featurize --encoder {ENCODER} --weights WEIGHTS"
            )
        super().__init__(store, view, "tokens")
        self._layout = Features(store, view, "layout")
        (self.numbers,), (self.most, channels) = self._layout.shape, self.shape
        self.header = ceil(self.numbers / channels)

    def read(
        self, keys: Sequence[str], device: str | torch.device = "cpu"
    ) -> Float32[Tensor, "C H_N D"]:
        """Return the clips on `device`. StepDiffError names the first key without any."""
        tokens, layout = super().read(keys, device), self._layout.read(keys, device)
        room = self.header * tokens.shape[2] - self.numbers
        return torch.cat(
            [nn.functional.pad(layout, (0, room)).unflatten(1, (self.header, -1)), tokens], dim=1
        )

    def layouts(self, keys: Sequence[str]) -> list[ClipLayout]:
        """Return the layout of each clip; raises as `read`."""
        return self.parsed(self._layout.read(keys))

    def layouts_of(self, clips: Float[Tensor, "C H_N D"]) -> list[ClipLayout]:
        """Return the layout of clips as `read` returns them."""
        return self.parsed(clips[:, : self.header].flatten(1)[:, : self.numbers])

    @staticmethod
    def parsed(numbers: Float[Tensor, "C numbers"]) -> list[ClipLayout]:
        """Return layouts from the store's numbers for each clip."""
        rows = numbers.tolist()
        return [
            ClipLayout(int(n), int(height), int(width), tuple(seconds))
            for n, height, width, *seconds in rows
        ]


class CachedLM(VideoLM):
    """A model whose clips are cached projected tokens. Its chat template writes questions and
    answers."""

    def __init__(self, whole: Any, chat: ProcessorChat, clips: CachedClips) -> None:
        """StepDiffError: the view's tokens are of another kind, or the logits are no linear map of
        the hidden state."""
        super().__init__(LanguageModel(whole, chat), nn.Identity(), clips.most)
        self.whole, self.chat, self.clips = whole, chat, clips
        self._accepted = inspect.signature(whole.forward).parameters
        layer = unpooled(clips.view.provenance).layer
        if (match := _LAYER.fullmatch(layer)) is None:
            raise StepDiffError(
                f"view {clips.view.name} holds {layer!r}: run python -m featurize --encoder "
                f"{ENCODER}"
            )
        self.axes = int(match["axes"])
        self.kinds = [match["kind"]] + [match["level"]] * int(match["levels"] or 0)
        self.lm.check_logits(whole.name_or_path)

    def project(self, tokens: Float[Tensor, "C H_N D"]) -> Float[Tensor, "C H_N D"]:
        """Return the clips as they are: their tokens are projected."""
        return tokens

    def pack(
        self,
        prompts: Sequence[Sequence[Turn]],
        clips: Float[Tensor, "C H_N D"] | None,
        packed: bool,
        count: int | None = None,
    ) -> tuple[Packed, Float[Tensor, "C H_N D"] | None]:
        """See VideoLM; a row is one question, whatever `packed` says."""
        if clips is None:
            prompt = system(_USUAL if count is None else count)
            return Packer(self.chat, 0, prompt).pack(prompts, packed=False).to(self.lm.device), None
        prompt = system(len(clips) // len(prompts) if count is None else count)
        rows = ClipPacker(self.chat, prompt).pack_layouts(prompts, self.clips.layouts_of(clips))
        return rows.to(self.lm.device), clips

    def hidden(
        self, batch: Packed, clips: Float[Tensor, "C H_N D"] | None
    ) -> Float[Tensor, "B S E"]:
        """Return the last hidden states of the batch's tokens; states of padding are meaningless.

        Without gradients, rows that show the same clips share the computation of their prompt.
        """
        states: list[Tensor] = []
        shown = [self._shown(batch, row) for row in range(len(batch.ids))]
        for _, same in groupby(range(len(shown)), shown.__getitem__):
            rows = list(same)
            if len(rows) == 1 or clips is None or torch.is_grad_enabled():
                for row in rows:
                    alone = self.whole.base_model(
                        **self._inputs(batch, row, clips), use_cache=False
                    )
                    state = alone.last_hidden_state[0]
                    states.append(
                        nn.functional.pad(state, (0, 0, 0, batch.ids.shape[1] - len(state)))
                    )
            else:
                for first in range(0, len(rows), _ROWS):
                    states += self._together(batch, rows[first : first + _ROWS], clips)
        return torch.stack(states)

    def _together(
        self, batch: Packed, rows: Sequence[int], clips: Float[Tensor, "C H_N D"]
    ) -> Iterator[Float[Tensor, "S E"]]:
        """Yield the states of rows whose prompts are the same."""
        common, cache, prompt = self._prompt(batch, rows[0], clips)
        cache.batch_repeat_interleave(len(rows))
        # Without a mask: what follows a token is not seen by it, padding included.
        answered = self.whole.base_model(
            input_ids=batch.ids[list(rows), common:], cache=cache, use_cache=True
        )
        for states in answered.last_hidden_state:
            yield torch.cat([prompt, states])

    def _prompt(
        self, batch: Packed, row: int, clips: Float[Tensor, "C H_N D"]
    ) -> tuple[int, Any, Float[Tensor, "S E"]]:
        """Return the number of tokens of a row's prompt, its keys and values as a cache of
        transformers, and its states."""
        from transformers import DynamicCache

        inputs = self._inputs(batch, row, clips)
        common = int((batch.segment[row] == 0).sum())
        shape = inputs["input_ids"].shape  # of what has a number for each token
        for name, value in inputs.items():
            if isinstance(value, Tensor) and value.shape == shape:
                inputs[name] = value[:, :common]
        cache = DynamicCache(config=self.whole.config.get_text_config(decoder=True))
        prompt = self.whole.base_model(**inputs, cache=cache, use_cache=True).last_hidden_state[0]
        return common, cache, prompt

    def go_on(self, batch: Packed, clips: Float[Tensor, "C H_N D"] | None, **how: Any) -> list[str]:
        """Return the greedy continuation of every row.

        Neighbouring rows that show the same clips share the computation of their prompt.
        """
        groups: list[list[int]] = []
        for row in range(len(batch.ids)):
            if row and clips is not None and self._alike(batch, row - 1, row, clips):
                groups[-1].append(row)
            else:
                groups.append([row])
        texts: list[str] = []
        for rows in groups:
            cache = None
            if clips is not None and len(rows) > 1:
                with torch.inference_mode():
                    _, cache, _ = self._prompt(batch, rows[0], clips)
            for row in rows:
                inputs = self._inputs(batch, row, clips)
                if cache is not None:
                    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
                    inputs["cache"] = deepcopy(cache)
                texts += self.write(**inputs, **how)
        return texts

    def _alike(self, batch: Packed, one: int, other: int, clips: Float[Tensor, "C H_N D"]) -> bool:
        """Return whether two rows show the same clips."""
        return torch.equal(*(clips[list(self._shown(batch, row))] for row in (one, other)))

    def _shown(self, batch: Packed, row: int) -> tuple[int, ...]:
        """Return the numbers of the clips that a row shows."""
        video = batch.video[row]
        return tuple((video[video != TEXT] // self.clips.most).unique_consecutive().tolist())

    def _inputs(
        self, batch: Packed, row: int, clips: Float[Tensor, "C H_N D"] | None
    ) -> dict[str, Any]:
        """Return the arguments of the model for a row of a batch."""
        used = batch.segment[row] != PADDING
        ids = batch.ids[row][used]
        inputs: dict[str, Any] = {
            "input_ids": ids[None],
            "attention_mask": torch.ones_like(ids)[None],
        }
        if clips is None:
            return inputs
        shown_clips = clips[list(self._shown(batch, row))]
        layouts = self.clips.layouts_of(shown_clips)
        shown = self.chat.shown(system(len(shown_clips)), tuple(layouts))
        for name, value in shown.inputs.items():
            if name in self._accepted:
                by_token = value.shape == (1, len(shown.ids))
                filled = (
                    nn.functional.pad(value, (0, len(ids) - len(shown.ids))) if by_token else value
                )
                inputs[name] = filled.to(ids.device)
        tokens = [
            clip[self.clips.header : self.clips.header + layout.tokens].to(self.whole.dtype)
            for clip, layout in zip(shown_clips, layouts, strict=True)
        ]
        return inputs | {"mm_encoder_outputs": {shown.slot: self._encoded(tokens)}}

    def _encoded(self, tokens: list[Float[Tensor, "_ D"]]) -> Any:
        """Return the output of the model's vision part for clips of these tokens."""
        from transformers.models.qwen3_vl.modeling_qwen3_vl import (
            BaseModelOutputWithDeepstackFeatures,
        )

        # each token is an item of its own, because clips differ in how many they have
        axes = (1,) * (self.axes - 2)
        parts: list[Any] = []
        for place, kind in enumerate(self.kinds):
            level = [each.chunk(len(self.kinds), dim=1)[place] for each in tokens]
            level = [each.view(len(each), *axes, -1) for each in level]
            parts.append(tuple(level) if kind == "list" else torch.cat(level))
        return BaseModelOutputWithDeepstackFeatures(
            pooler_output=parts[0], deepstack_features=parts[1:] or None
        )


def load_cached(
    weights: str, store: Store, view: str, device: str = "cpu"
) -> tuple[CachedLM, CachedClips, dict[str, Any]]:
    """Return the model without its vision tower, the clips that it reads, and what to disclose next
    to its scores.

    Raises:
        StepDiffError: the model takes no cached tokens, or the view is of another checkpoint.
    """
    clips = CachedClips(store, view)
    disclosed = {"weights": weights, "view": view, "provenance": clips.view.provenance.as_dict()}
    return cached_model(weights, clips, device).eval(), clips, disclosed


def cached_model(
    weights: str, clips: CachedClips, device: str = "cpu", exact: bool = False
) -> CachedLM:
    """Return the model that reads these clips; exact: float32 on a GPU too. Raises as
    `load_cached`."""
    check_view(clips.view, ENCODER, weights)
    folder, provenance = resolve(weights), clips.view.provenance
    config, processor = load_processor(weights, "AutoConfig"), load_processor(weights)
    named = [
        getattr(config, f"{kind}_token_{end}", None)
        for kind in ("image", "video")
        for end in ("id", "index")
    ]
    places = tuple(place for place in named if place is not None)
    chat = ProcessorChat(processor, provenance.crop.endswith("as a video"), places, clips)
    whole = load_model(
        headless(config, folder), weights, device, "float32" if exact else None, "sdpa"
    )
    return CachedLM(whole, chat, clips)


def headless(config: Any, folder: Path) -> type:
    """Return the model's class without its vision part, which is neither made nor loaded."""
    from transformers import AutoModelForImageTextToText

    kind: Any = AutoModelForImageTextToText._model_mapping.get(type(config), None)
    if kind is None or "mm_encoder_outputs" not in inspect.signature(kind.forward).parameters:
        raise StepDiffError(
            f"{folder}: a {config.model_type} takes no cached tokens in transformers; use a model "
            f"that does, such as {', '.join(PROVEN)}"
        )

    class Headless(kind):  # type: ignore[misc, valid-type]
        _keys_to_ignore_on_load_unexpected = (".*",)  # of the vision part

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            for name, child in list(self.base_model.named_children()):
                if child is not self.get_decoder():
                    setattr(self.base_model, name, None)

    # transformers renames the tensors of older checkpoints by the name and module of the class.
    Headless.__name__, Headless.__module__ = kind.__name__, kind.__module__
    return Headless


def encoder_of(weights: str) -> str:
    """Return the encoder of python -m featurize whose tokens a public model reads. StepDiffError:
    no such model, or one that sees one clip only."""
    family = FAMILIES.get(str(model_type(resolve(weights))))
    if family is Blip2LM:
        raise StepDiffError(
            f"{weights}: a BLIP-2 reads one picture, not two videos; give another model"
        )
    return ENCODER if family is None else family.encoder


def view_of(weights: str, store: Store) -> str:
    """Return the view of clips that was made by a public model's vision part. StepDiffError: the
    store has none."""
    encoder, checkpoint = encoder_of(weights), fingerprint(resolve(weights))
    for name in sorted(store.views("clips")):
        provenance = store.view("clips", name).provenance
        if (provenance.encoder, provenance.weights) == (encoder, checkpoint):
            return name
    raise StepDiffError(
        f"{store.path}: no view of clips was made by {weights}; run python -m featurize --encoder "
        f"{encoder} --weights {weights}"
    )


def load_for_pairs(
    weights: str, store: Store, view: str, device: str = "cpu"
) -> tuple[VideoLM, Features, dict[str, Any]]:
    """Return the model without its vision part, the clips that it reads, and what to disclose next
    to its scores.

    Raises StepDiffError as `load_cached` and `load_public`.
    """
    load = load_cached if store.view("clips", view).provenance.encoder == ENCODER else load_public
    return load(weights, store, view, device)
