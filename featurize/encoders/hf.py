"""Any image or video model of transformers' `AutoModel`, with the preprocessing of its own
processor.

    python -m featurize clip.mp4 --store features --encoder hf:facebook/dinov2-base
    python -m featurize clip.mp4 --store features --encoder hf:facebook/vjepa2-vitl-fpc64-256 \\
        --frames 32 --window 16

An image model sees frame by frame:

- `tokens` [T*P, D]: the P patch tokens of each of T frames, frame-major, without class and register
  tokens.
- `frame_embedding` [T, E]: the embedding of each frame.
- `embedding` [E]: their mean.
- `statistics` [4, C], if they are chosen: of the hidden states after a quarter and a half of its
  blocks.

A video model sees W frames (a window) at once:

- `tokens` [(T/W)*N, D]: the N tokens of each window.
- `embedding` [E]: the mean of the windows' embeddings.

A model with a text side also encodes texts: `embedding` [E]. Its embeddings of frames, windows and
texts are L2-normalised. `--pooling` chooses the embedding: `model` (what the model compares with
texts, or the output of its pooler; of a model without one the mean), `mean` (of the tokens that are
stored), `cls` (the first token) or `none`.

No code of a checkpoint is run, and only safetensors are loaded.

Guarantees
- features equal those of the model's own call
- a model whose class transformers does not have is refused
"""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch.nn.functional import normalize

from featurize.encoders import hf_families as families
from featurize.encoders.base import FRAMES, STATISTICS, Encoder, Statistics, check_texts
from featurize.encoders.folder import half_products, hidden_state, load_model, loading
from featurize.encoders.preprocessing import (
    Settings,
    encode_distinct,
    image_settings,
    preprocessing_of,
    read_processor,
    statistics_of,
    summaries,
    timm_settings,
    video_settings,
)
from featurize.video.picture import Bounded, Crop, Picture
from stepdiff_core.errors import StepDiffError, first_line
from store import Feature

# times the pixels that the model sees: the processor's resize decides, not the decoder's
_FINER = 4
POOLINGS = ("model", "mean", "cls", "none")


class HuggingFace(Encoder):
    """A model of a folder that transformers saved, or of a timm repository of the hub."""

    name = "hf"
    entities: tuple[str, ...] = ("clips", "texts")
    choices: ClassVar[tuple[str, ...]] = ("layer", "frames", "pooling", "window", "statistics")
    weights_needed = (
        "a folder of an image or video model of transformers, or a hub id such as "
        "facebook/dinov2-base"
    )
    compiled = "_encode"
    chunk: ClassVar[int] = 16  # frames that an image model sees at once on a CPU

    def __init__(
        self,
        weights: Path,
        device: torch.device,
        layer: int | None = None,
        frames: int | None = None,
        pooling: str = "model",
        window: int | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        """Load a checkpoint. StepDiffError: transformers has no such model, files lack, or a choice
        does not fit.

        Args:
            weights: a folder.
            device: where it runs.
            layer: index of the hidden state whose tokens are kept: 0 is the embeddings, n the
                output of the n-th block, negative numbers count from the end; None is the model's
                last hidden state, after its final norm.
            frames: T of a clip; None is what a video model was made for, else 8.
            pooling: one of POOLINGS.
            window: frames W that a video model sees at once; None is all of them.
            statistics: whether an image model's hidden states after a quarter and a half of its
                blocks have statistics.
        """
        super().__init__(weights)
        if pooling not in POOLINGS:
            raise StepDiffError(f"there is no pooling {pooling!r}: give {', '.join(POOLINGS)}")
        self._device, self._pooling = device, pooling
        self._model = self._load(weights, device)
        settings = self._settings()
        self._clips = families.takes_clips(self._model, settings)
        self._texts = families.has_texts(self._model)
        if not self._texts:
            self.entities = ("clips",)
        self._prepare(settings)
        self.frames = frames or (families.frames_of(self._model) if self._clips else None) or FRAMES
        self._window = self._checked_window(window)
        if statistics is not None and (self._clips or not isinstance(self.picture, Crop)):
            raise StepDiffError(
                f"{self._title} does not see square frames one by one: leave --statistics out"
            )
        self.statistics = statistics
        self._hidden: int | None = None
        if layer is not None:
            seen = self._probed(hidden=True)  # the one pass that `_shape` needs too
            self._hidden = self._checked_layer(layer, seen)
            self._shape = self._shape_of(seen)
        self.max_tokens = (
            int(self._model.config.text_config.max_position_embeddings) if self._texts else 0
        )

    @classmethod
    def variant(cls, weights: Path) -> type[Encoder]:
        if _model_type(weights) in ("siglip2", "siglip2_vision_model"):
            return NaFlex
        return cls

    def _prepare(self, settings: Settings) -> None:
        """Set what the decoder does to frames, and what is left to do."""
        self._preprocessing = preprocessing_of(settings, self.weights, self._device)
        crop = self._preprocessing.crop
        self.short_side, self.size, self.resample = crop.short_side, crop.size, crop.resample

    def _config(self, weights: Path) -> Any:
        from transformers import AutoConfig

        with loading(weights, self.weights_needed):
            return AutoConfig.from_pretrained(
                weights, local_files_only=True, trust_remote_code=False
            )

    def _load(self, weights: Path, device: torch.device) -> Any:
        from transformers import AutoModel

        config = self._config(weights)
        if type(config) not in AutoModel._model_mapping:
            raise StepDiffError(
                f"transformers has no AutoModel of {config.model_type} in {weights}: give "
                f"{self.weights_needed}"
            )
        # of AIMv2's texts sdpa leaves out the causal mask where no text of a batch is padded
        # (transformers 5.24)
        attention = "eager" if config.model_type == "aimv2" else None
        with redirect_stdout(sys.stderr):  # some classes print remarks about themselves
            return load_model(AutoModel, weights, device, self.weights_needed, attention)

    def _settings(self) -> Settings:
        """Return the settings of the folder's own processor."""
        config = self._model.config
        if config.model_type == "timm_wrapper":
            return timm_settings(config.pretrained_cfg or {})
        jepa = (
            {"video_processor_type": "VJEPA2VideoProcessor"}
            if config.model_type == "vjepa2"
            else {}
        )
        settings = (
            video_settings(self.weights, self.weights_needed, jepa)
            if families.takes_videos(self._model)
            else None
        )
        settings = settings or image_settings(self.weights, self.weights_needed)
        # its processor says so, whatever the file says
        if config.model_type.startswith("videoprism"):
            side = getattr(config, "vision_config", config).image_size
            side = side if isinstance(side, int) else side[0]
            settings = {**settings, "size": {"height": side, "width": side}, "do_normalize": False}
        return settings

    def _checked_window(self, window: int | None) -> int:
        if window is not None and not self._clips:
            raise StepDiffError(f"{self._title} sees one frame at a time: leave --window out")
        window = self.frames if window is None else window
        if window < 1 or self.frames % window:
            raise StepDiffError(
                f"--window {window} does not divide {self.frames} frames: change it or --frames"
            )
        step = families.tubelet_of(self._model) if self._clips else 1
        if window % step:
            raise StepDiffError(
                f"{self._title} sees {step} frames as one, and {window} are no multiple: change "
                "--frames or --window"
            )
        return window

    def _checked_layer(self, layer: int, seen: families.ModelOutput) -> int:
        state = seen.hidden
        if state is None:
            raise StepDiffError(f"{self._title} gives no hidden states: leave --layer out")
        index, last = hidden_state(layer, len(state) - 1, self._title), seen.tokens
        if state[index].ndim == 3 and state[index].shape[:2] != last.shape[:2]:
            raise StepDiffError(
                f"hidden state {index} of {self._title} has other tokens than its last one: leave "
                "--layer out"
            )
        return index

    @property
    def _title(self) -> str:
        return type(self._model).__name__

    def _probed(self, hidden: bool) -> families.ModelOutput:
        """Return what the model gives for a black frame or window. StepDiffError if it cannot
        take one."""
        try:
            with torch.inference_mode():
                return self._black(hidden)
        except (RuntimeError, ValueError, IndexError) as problem:
            if self._clips:
                what, remedy = f"{self._window} frames at once", "give other --frames"
            else:
                what = f"frames of {self.size} x {self.size} pixels"
                remedy = "correct the size in the preprocessor_config.json of its folder"
            raise StepDiffError(
                f"{self._title} cannot take {what} ({first_line(problem)}): {remedy}"
            ) from None

    def _black(self, hidden: bool) -> families.ModelOutput:
        black = torch.zeros((1, self._window, self.size, self.size, 3), dtype=torch.uint8)
        return self._see(black if self._clips else black[:, 0], hidden)

    def _see(self, frames: UInt8[torch.Tensor, "*N H W 3"], hidden: bool) -> families.ModelOutput:
        """Return what the model gives for frames [N, H, W, 3], or clips [N, W, H, W, 3] of a video
        model."""
        pixels = self._preprocessing.normalised(frames)
        with half_products(self._device):
            if self._clips:
                return families.see_clips(self._model, hidden, pixels)
            return families.see_pictures(self._model, hidden, pixel_values=pixels)

    @property
    def _needs_hidden(self) -> bool:
        return self._hidden is not None or self.statistics is not None

    def _state(self, seen: families.ModelOutput) -> tuple[torch.Tensor, int]:
        """Return the tokens of the chosen layer, and how many of them come before those of
        patches."""
        return self._tokens(
            seen.tokens
            if self._hidden is None or seen.hidden is None
            else seen.hidden[self._hidden]
        )

    def _early(self, seen: families.ModelOutput) -> dict[int, Float[torch.Tensor, "N _ _"]]:
        """Return the hidden states that have statistics, tokens [N, P, D] of patches, by number."""
        if seen.hidden is None:
            raise StepDiffError(f"{self._title} gives no hidden states: leave --statistics out")
        blocks, early = len(seen.hidden) - 1, {}
        for number in sorted({-(-blocks // 4), -(-blocks // 2)}):
            state, first = self._tokens(seen.hidden[number])
            early[number] = state[:, first:]
        return early

    def early_maps(self) -> dict[str, int]:
        return {
            f"hidden state {number}": channels for number, channels in self._shape.early.items()
        }

    def _tokens(self, state: families.State) -> tuple[torch.Tensor, int]:
        if state.ndim == 4:  # a map
            return state.flatten(2).transpose(1, 2), 0
        return state, families.first_tokens(self._model, state.shape[1], self.size, self._clips)

    @cached_property
    def _shape(self) -> "_Shape":
        """The shape of what the model gives for a frame or window."""
        return self._shape_of(self._probed(hidden=self._needs_hidden))

    def _shape_of(self, seen: families.ModelOutput) -> "_Shape":
        tokens, first = self._state(seen)
        if self._pooling == "cls" and not first:
            raise StepDiffError(f"{self._title} has no class token: give --pooling mean or none")
        pooling = "mean" if self._pooling == "model" and seen.pooled is None else self._pooling
        width = {"none": None, "model": None if seen.pooled is None else seen.pooled.shape[-1]}
        channels = tokens.shape[2]
        early = (
            {}
            if self.statistics is None
            else {place: each.shape[2] for place, each in self._early(seen).items()}
        )
        return _Shape(
            tokens.shape[1] - first, channels, pooling, width.get(pooling, channels), early
        )

    @property
    def layer(self) -> str:  # type: ignore[override]
        shape = self._shape
        state = "last hidden state" if self._hidden is None else f"hidden state {self._hidden}"
        pooled = "no embedding" if shape.width is None else f"embedding {shape.pooling}"
        windows = (
            f", windows of {self._window} frames"
            if self._clips and self._window != self.frames
            else ""
        )
        return f"{self._title}: {state}{windows}; {pooled}"

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        self.check_entity(entity)
        shape, shapes = self._shape, {}
        if entity == "texts":
            self._check_texts()
        else:
            times = self.frames // self._window if self._clips else self.frames
            shapes["tokens"] = Feature((times * shape.tokens, shape.channels), dtype)
        if shape.width is not None:
            if entity == "clips" and not self._clips:
                shapes["frame_embedding"] = Feature((self.frames, shape.width), "float32")
            shapes["embedding"] = Feature((shape.width,), "float32")
        return self.declared(shapes) if entity == "clips" else shapes

    @torch.inference_mode()
    def forward_clips(
        self, frames: UInt8[torch.Tensor, "B T size size 3"]
    ) -> dict[str, Float[torch.Tensor, "B ..."]]:
        self.check_frames(frames)
        if self._clips:
            windows = frames.unflatten(1, (-1, self._window)).flatten(0, 1)
            parts = [self._encode(part) for part in windows.split(self.at_once(len(frames), 1))]
            encoded = [
                torch.cat(part).unflatten(0, (len(frames), -1)) for part in zip(*parts, strict=True)
            ]
        else:
            encoded = encode_distinct(self._encode, frames, self.at_once(len(frames), self.chunk))
        early = {STATISTICS: statistics_of(encoded.pop())} if self.statistics else {}
        values = {"tokens": encoded[0].flatten(1, 2)}
        if len(encoded) > 1:
            if not self._clips:
                values["frame_embedding"] = encoded[1]
            values["embedding"] = encoded[1].mean(1)
        return self.stored(values | early)

    def _encode(self, frames: UInt8[torch.Tensor, "*N H W 3"]) -> tuple[torch.Tensor, ...]:
        """Return tokens [N, P, D], embeddings [N, E] if any, and summaries of early states if they
        have statistics."""
        seen = self._see(frames, self._needs_hidden)
        state, first = self._state(seen)
        tokens = state[:, first:].float()
        embedded = self._embedded(seen, state, tokens.mean(1))
        early = [summaries(self._early(seen).values())] if self.statistics else []
        return (tokens, *([] if embedded is None else [embedded]), *early)

    def _embedded(
        self, seen: families.ModelOutput, state: torch.Tensor, mean: torch.Tensor
    ) -> torch.Tensor | None:
        """Return embeddings [N, E] of frames or windows, if there are any; `mean`: of their
        tokens."""
        pooling = self._shape.pooling
        if pooling == "none":
            return None
        if pooling == "model":
            assert seen.pooled is not None
            pooled = seen.pooled.float()
            return normalize(pooled, dim=-1) if self._texts else pooled
        return state[:, 0].float() if pooling == "cls" else mean

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        check_texts(texts)
        self._check_texts()
        padding = families.text_padding(self._model)
        inputs = self.tokenizer(
            texts, padding=padding, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self._device)
        with half_products(self._device):
            embedded = families.see_texts(self._model, inputs)
        return {"embedding": normalize(embedded.float(), dim=-1).cpu().numpy()}

    def _check_texts(self) -> None:
        """Raise StepDiffError if texts cannot be encoded."""
        self.check_entity("texts")
        if self._pooling != "model":
            raise StepDiffError(
                f"--pooling {self._pooling} gives embeddings outside the space of texts: leave it "
                "out"
            )
        _ = self.tokenizer  # if it is missing, a run ends before it has written anything


def _model_type(weights: Path) -> str:
    """Return the type that a folder's config.json names, empty if it cannot be read."""
    try:
        return str(json.loads((weights / "config.json").read_text()).get("model_type"))
    except (OSError, ValueError, AttributeError):  # loading it says why
        return ""


@dataclass(frozen=True)
class _Shape:
    tokens: int  # without those of class and registers
    channels: int
    pooling: str  # how the embedding is made: one of POOLINGS
    width: int | None  # numbers of the embedding, None without one
    early: dict[int, int]  # hidden states that have statistics, and the channels of each


class NaFlex(HuggingFace):
    """SigLIP 2 of any resolution (NaFlex): pictures in their own aspect, of up to N patches.

    The decoder hands over whole pictures, and the folder's own processor resizes them and cuts them
    into patches.

    - `tokens` [T*N, D]: of each frame the tokens of its patches, row by row, then zeros up to N,
      the processor's most.
    - `grid` [2]: rows and columns of patches of a frame: the first rows * columns of its N tokens
      are its own.
    - `frame_embedding` [T, E], `embedding` [E]: as of other image models; a mean is of the frame's
      own tokens.
    """

    def _prepare(self, settings: Settings) -> None:
        self._processor: Any = read_processor(self.weights, self.weights_needed)
        self._patches, self._patch = int(settings["max_num_patches"]), int(settings["patch_size"])

    @property
    def picture(self) -> Picture:
        return Bounded(_FINER * self._patches * self._patch**2)

    @property
    def crop(self) -> str:
        kind = type(self._processor).__name__
        return (
            f"{self.picture}, resized by {kind} to at most {self._patches} patches of "
            f"{self._patch}, zeros after them"
        )

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        shapes = super().features(entity, dtype)
        return {**shapes, "grid": Feature((2,), "float32")} if entity == "clips" else shapes

    def encode_clips(
        self, frames: UInt8[np.ndarray, "B T size size 3"]
    ) -> dict[str, Float32[np.ndarray, "B ..."]]:
        raise self._refusal("squares of clips")

    @torch.inference_mode()
    def encode_whole(
        self, frames: UInt8[np.ndarray, "T H W 3"], seconds: Float[np.ndarray, " T"]
    ) -> dict[str, Float32[np.ndarray, "..."]]:
        if len(frames) != self.frames:
            raise StepDiffError(
                f"encoder {self.name} takes {self.frames} frames of a clip, not {len(frames)}"
            )
        seen, inputs = self._see_whole(frames, self._hidden is not None)
        state, _ = self._state(seen)
        real = inputs["pixel_attention_mask"].bool()[..., None]
        tokens = torch.where(real, state.float(), 0)
        values = {"tokens": tokens.flatten(0, 1).cpu().numpy()}
        values["grid"] = inputs["spatial_shapes"][0].float().cpu().numpy()
        embedded = self._embedded(seen, state, tokens.sum(1) / real.sum(1))
        if embedded is not None:
            values["frame_embedding"] = embedded.cpu().numpy()
            values["embedding"] = embedded.mean(0).cpu().numpy()
        return values

    def _see_whole(
        self, frames: UInt8[np.ndarray, "T H W 3"], hidden: bool
    ) -> tuple[families.ModelOutput, Any]:
        inputs = self._processor(
            list(frames), return_tensors="pt", input_data_format="channels_last"
        ).to(self._device)
        with half_products(self._device):
            return families.see_pictures(self._model, hidden, **inputs), inputs

    def _black(self, hidden: bool) -> families.ModelOutput:
        return self._see_whole(
            np.zeros((1, 2 * self._patch, 2 * self._patch, 3), np.uint8), hidden
        )[0]

    def _state(self, seen: families.ModelOutput) -> tuple[torch.Tensor, int]:
        return super()._state(seen)[0], 0
