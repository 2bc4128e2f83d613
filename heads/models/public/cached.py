"""Any video language model of transformers without its vision tower: the store has what the tower and the projector
computed, and the model takes it through one slot, `mm_encoder_outputs`.

A row is one question, because models differ in how they mask and number what they see.

Notation: C clips, H rows of a layout, N tokens of a clip at most, D channels, B rows, S tokens of a row.

Guarantees
- logits and greedy text from the store are the whole model's from pixels, for clips of different shapes too
- the vision tower is neither made nor loaded, so that the model cannot see a pixel
- a view of another checkpoint, and a model that takes no cached tokens, are refused
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from heads.data.clips import Features
from heads.data.packing import PADDING, TEXT, Packed, Packer, Turn
from heads.evidence.naming import Naming
from heads.models.language_model import LanguageModel
from heads.models.pretrained import load_model, load_processor
from heads.models.public.families import check_view
from heads.models.public.prompts import ClipLayout, ClipPacker, ProcessorChat
from heads.models.video_lm import Tokens, VideoLM, Words
from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.prompts import system
from stepdiff.weights import resolve
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


class CachedClips(Features):
    """Tokens and layout of clips by key, in one array: the H rows before the N tokens hold the layout."""

    def __init__(self, store: Store, view: str) -> None:
        """StepDiffError: the view has no such features."""
        source = store.view("clips", view).provenance
        if source.encoder != ENCODER:
            raise StepDiffError(
                f"view {view} holds tokens of {source.encoder}, not of a video language model: run python -m featurize "
                f"--encoder {ENCODER} --weights WEIGHTS"
            )
        super().__init__(store, view, "tokens")
        self._layout = Features(store, view, "layout")
        (self.numbers,), (self.most, channels) = self._layout.shape, self.shape
        self.header = ceil(self.numbers / channels)

    def read(self, keys: Sequence[str], device: str | torch.device = "cpu") -> Float32[Tensor, "C H_N D"]:
        """Return the clips on `device`. StepDiffError names the first key without any."""
        tokens, layout = super().read(keys, device), self._layout.read(keys, device)
        room = self.header * tokens.shape[2] - self.numbers
        return torch.cat([nn.functional.pad(layout, (0, room)).unflatten(1, (self.header, -1)), tokens], dim=1)

    def layouts(self, keys: Sequence[str]) -> list[ClipLayout]:
        """Return the layout of each clip; raises as `read`."""
        return self.parsed(self._layout.read(keys))

    def layouts_of(self, clips: Float[Tensor, "C H_N D"]) -> list[ClipLayout]:
        """Return the layout of clips as `read` returns them."""
        return self.parsed(clips[:, : self.header].flatten(1)[:, : self.numbers])

    @staticmethod
    def parsed(numbers: Float[Tensor, "C numbers"]) -> list[ClipLayout]:
        """Return layouts from what the store has of each clip."""
        rows = numbers.tolist()
        return [ClipLayout(int(n), int(height), int(width), tuple(seconds)) for n, height, width, *seconds in rows]


class CachedLM(VideoLM):
    """A model whose clips are cached projected tokens. Questions and answers are those of its chat template."""

    def __init__(self, whole: Any, chat: ProcessorChat, clips: CachedClips) -> None:
        """StepDiffError: the view's tokens are of another kind, or the logits are no linear map of the hidden state."""
        super().__init__(LanguageModel(whole, chat), nn.Identity(), clips.most)
        self.whole, self.chat, self.clips = whole, chat, clips
        self._accepted = inspect.signature(whole.forward).parameters
        layer = unpooled(clips.view.provenance).layer
        if (match := _LAYER.fullmatch(layer)) is None:
            raise StepDiffError(f"view {clips.view.name} holds {layer!r}: run python -m featurize --encoder {ENCODER}")
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
            asked = system(_USUAL if count is None else count)
            return Packer(self.chat, 0, asked).pack(prompts, packed=False).to(self.lm.device), None
        asked = system(len(clips) // len(prompts) if count is None else count)
        rows = ClipPacker(self.chat, asked).pack_layouts(prompts, self.clips.layouts_of(clips))
        return rows.to(self.lm.device), clips

    def hidden(self, batch: Packed, clips: Float[Tensor, "C H_N D"] | None) -> Float[Tensor, "B S E"]:
        """Return the last hidden states of the batch's tokens; those of padding are meaningless.

        Without gradients, rows that show the same clips share the computation of their prompt.
        """
        states: list[Tensor] = []
        shown = [self._shown(batch, row) for row in range(len(batch.ids))]
        for _, same in groupby(range(len(shown)), shown.__getitem__):
            rows = list(same)
            if len(rows) == 1 or clips is None or torch.is_grad_enabled():
                states += [self._alone(batch, row, clips) for row in rows]
            else:
                states += [each for some in _batches(rows) for each in self._together(batch, some, clips)]
        return torch.stack(states)

    def _alone(self, batch: Packed, row: int, clips: Float[Tensor, "C H_N D"] | None) -> Float[Tensor, "S E"]:
        states = self.whole.base_model(**self._inputs(batch, row, clips), use_cache=False).last_hidden_state[0]
        return nn.functional.pad(states, (0, 0, 0, batch.ids.shape[1] - len(states)))

    def _together(
        self, batch: Packed, rows: Sequence[int], clips: Float[Tensor, "C H_N D"]
    ) -> Iterator[Float[Tensor, "S E"]]:
        """Yield the states of rows whose prompts are the same."""
        from transformers import DynamicCache

        inputs = self._inputs(batch, rows[0], clips)
        common = int((batch.segment[rows[0]] == 0).sum())
        inputs = {name: _first(value, inputs["input_ids"].shape, common) for name, value in inputs.items()}
        cache = DynamicCache(config=self.whole.config.get_text_config(decoder=True))
        prompt = self.whole.base_model(**inputs, cache=cache, use_cache=True).last_hidden_state[0]
        cache.batch_repeat_interleave(len(rows))
        # Without a mask: what follows a token is not seen by it, padding included.
        asked = self.whole.base_model(input_ids=batch.ids[list(rows), common:], cache=cache, use_cache=True)
        for states in asked.last_hidden_state:
            yield torch.cat([prompt, states])

    def go_on(
        self,
        batch: Packed,
        clips: Float[Tensor, "C H_N D"] | None,
        max_tokens: int,
        streamer: Tokens | Words | None = None,
        naming: Naming | None = None,
    ) -> list[str]:
        """Return the greedy continuation of every row."""
        assert naming is None  # recipes of public models have no evidence
        return [
            text
            for row in range(len(batch.ids))
            for text in self.write(**self._inputs(batch, row, clips), max_new_tokens=max_tokens, streamer=streamer)
        ]

    def _shown(self, batch: Packed, row: int) -> tuple[int, ...]:
        """Return the numbers of the clips that a row shows."""
        video = batch.video[row]
        return tuple((video[video != TEXT] // self.clips.most).unique_consecutive().tolist())

    def _inputs(self, batch: Packed, row: int, clips: Float[Tensor, "C H_N D"] | None) -> dict[str, Any]:
        """Return the arguments of the model for a row of a batch."""
        used = batch.segment[row] != PADDING
        ids = batch.ids[row][used]
        inputs: dict[str, Any] = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
        if clips is None:
            return inputs
        own = clips[list(self._shown(batch, row))]
        layouts = self.clips.layouts_of(own)
        shown = self.chat.shown(system(len(own)), tuple(layouts))
        for name, value in shown.given.items():
            if name in self._accepted:
                by_token = value.shape == (1, len(shown.ids))
                filled = nn.functional.pad(value, (0, len(ids) - len(shown.ids))) if by_token else value
                inputs[name] = filled.to(ids.device)
        tokens = [
            clip[self.clips.header : self.clips.header + layout.tokens].to(self.whole.dtype)
            for clip, layout in zip(own, layouts, strict=True)
        ]
        return inputs | {"mm_encoder_outputs": {shown.slot: self._encoded(tokens)}}

    def _encoded(self, tokens: list[Float[Tensor, "_ D"]]) -> Any:
        """Return what the vision part of the model would return for clips of these tokens."""
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

        axes = (1,) * (self.axes - 2)  # each token is an item of its own, because clips differ in how many they have
        parts: list[Any] = []
        for place, kind in enumerate(self.kinds):
            level = [each.chunk(len(self.kinds), dim=1)[place] for each in tokens]
            level = [each.view(len(each), *axes, -1) for each in level]
            parts.append(tuple(level) if kind == "list" else torch.cat(level))
        return BaseModelOutputWithDeepstackFeatures(pooler_output=parts[0], deepstack_features=parts[1:] or None)


def _batches(rows: list[int]) -> list[list[int]]:
    return [rows[first : first + _ROWS] for first in range(0, len(rows), _ROWS)]


def _first(value: Any, shape: tuple[int, int], tokens: int) -> Any:
    """Return an argument of the model for the first tokens; shape: of an argument that has a number for each token."""
    return value[:, :tokens] if isinstance(value, Tensor) and value.shape == shape else value


def load_cached(
    weights: str, store: Store, view: str, device: str = "cpu"
) -> tuple[CachedLM, CachedClips, dict[str, Any]]:
    """Return the model without its vision tower, the clips that it reads, and what to disclose next to its scores.

    Raises:
        StepDiffError: the model takes no cached tokens, or the view is of another checkpoint.
    """
    clips = CachedClips(store, view)
    disclosed = {"weights": weights, "view": view, "provenance": clips.view.provenance.as_dict()}
    return cached_model(weights, clips, device).eval(), clips, disclosed


def cached_model(weights: str, clips: CachedClips, device: str = "cpu", exact: bool = False) -> CachedLM:
    """Return the model that reads these clips; exact: float32 on a GPU too. Raises as `load_cached`."""
    check_view(clips.view, ENCODER, weights)
    folder, provenance = resolve(weights), clips.view.provenance
    config, processor = load_processor(weights, "AutoConfig"), load_processor(weights)
    named = [getattr(config, f"{kind}_token_{end}", None) for kind in ("image", "video") for end in ("id", "index")]
    places = tuple(place for place in named if place is not None)
    chat = ProcessorChat(processor, provenance.crop.endswith("as a video"), places, clips)
    whole = load_model(headless(config, folder), weights, device, "float32" if exact else None, "sdpa")
    return CachedLM(whole, chat, clips)


def headless(config: Any, folder: Path) -> type:
    """Return the model's class without its vision part, which is neither made nor loaded."""
    from transformers import AutoModelForImageTextToText

    kind: Any = AutoModelForImageTextToText._model_mapping.get(type(config), None)
    if kind is None or "mm_encoder_outputs" not in inspect.signature(kind.forward).parameters:
        raise StepDiffError(
            f"{folder}: a {config.model_type} takes no cached tokens in transformers; use a model that does, such as "
            f"{', '.join(PROVEN)}"
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
