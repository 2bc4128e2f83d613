"""The vision part of any video language model of transformers: the projected tokens that its
language model reads.

- `tokens` [N, (1 + L) * D]: what `get_video_features` or `get_image_features` returns for a clip,
  zeros after its own tokens; the L deepstack levels, where the model has some, follow by channel.
- `embedding` [D]: the mean of the clip's own tokens, without deepstack levels and before they are
  pooled.
- `layout` [3 + T], float32: the number of the clip's own tokens, height and width of the frames
  that the model's processor was given, and the seconds of each of T frames from the start of the
  clip.

A clip is a video where the processor takes several videos in a prompt, else T images. N is the most
tokens that a clip of ordinary aspect has; a clip with more fails.

Tokens of a model whose processor makes more of them of a larger frame are pooled (`pool`) as if the
frames were smaller: the layout has the height and width of frames that make as many.

Guarantees
- no tensor of the language model is loaded
- tokens are those that the whole model computes of the same frames, padded; they do not depend on
  other clips of a batch
"""

import inspect
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

from featurize.encoders.base import FRAMES, Encoder, Whole
from featurize.encoders.folder import half_products, load_model, loading
from featurize.video.picture import Bounded, Picture
from stepdiff_core.errors import StepDiffError, first_line
from stepdiff_core.weights.resolving import uncapped
from store import Feature
from store.format.pool import Grids, pooled, pooled_layer

PIXELS = 448**2  # of a frame that the processor is given, at most, by default
_ASPECTS = (1, 4 / 3, 16 / 9, 2.4)  # of the frames that decide N, and their inverses


class Vlm(Encoder):
    """Vision tower, projector and processor of a checkpoint."""

    name = "vlm"
    entities = ("clips",)
    choices = ("frames", "pixels")
    pools = True
    weights_needed = (
        "a transformers folder of a video language model, or a hub id such as "
        "Qwen/Qwen3-VL-4B-Instruct"
    )

    def __init__(
        self, weights: Path, device: torch.device, frames: int = FRAMES, pixels: int = PIXELS
    ) -> None:
        """Load the vision part of a whole model's folder; `pixels`: of a frame, at most.

        StepDiffError: the folder does not hold such a model, or its class does not take cached
        tokens.
        """
        from transformers import AutoConfig, AutoProcessor

        super().__init__(weights)
        self.frames, self._pixels, self._device = frames, pixels, device
        with loading(weights, self.weights_needed):
            config = AutoConfig.from_pretrained(
                weights, trust_remote_code=False, local_files_only=True
            )
            processor = AutoProcessor.from_pretrained(
                weights, trust_remote_code=False, local_files_only=True
            )
        self._processor = uncapped(processor)
        self._model = load_model(
            _vision_class(config, weights), weights, device, self.weights_needed
        )
        names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
        self._placeholders = [
            getattr(config, name) for name in names if getattr(config, name, None) is not None
        ]
        self._video = self._takes_videos()
        self._shrunk: dict[tuple[int, int], tuple[int, int]] = {}

    @cached_property
    def _most(self) -> int:
        """N. StepDiffError: `pool` is not for this model."""
        heights = [
            round((self._pixels * ratio) ** 0.5)
            for aspect in _ASPECTS
            for ratio in (aspect, 1 / aspect)
        ]
        shapes = {(height, self._pixels // height) for height in heights}
        return max(
            self._count(self._blank(self._shrink(shape) if self.pool > 1 else shape))
            for shape in shapes
        )

    @property
    def picture(self) -> Picture:
        return Bounded(self._pixels)

    @property
    def crop(self) -> str:
        how = "a video" if self._video else "images"
        return f"{self.picture}, given to {type(self._processor).__name__} as {how}"

    @cached_property
    def _probed(self) -> tuple[str, int, int]:
        """Return the layer in words, the channels of a token, and those without deepstack levels,
        of a blank clip."""
        function, output = self._encoded(self._inputs(np.zeros((self.frames, 64, 64, 3), np.uint8)))
        parts = _parts(output)
        deepstack = f"; {len(parts) - 1} deepstack levels: {_kind(parts[1])}" if parts[1:] else ""
        first, *levels = (_flat(part).shape[-1] for part in parts)
        return f"{function}: {_kind(parts[0])}{deepstack}", first + sum(levels), first

    @property
    def layer(self) -> str:  # type: ignore[override]
        return pooled_layer(self._probed[0], self.pool)

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        self.check_entity(entity)
        _, channels, first = self._probed
        return {
            "tokens": Feature((self._most, channels), dtype),
            "embedding": Feature((first,), "float32"),
            "layout": Feature((3 + self.frames,), "float32"),
        }

    def encode_whole(
        self, frames: UInt8[np.ndarray, "T H W 3"], seconds: Float[np.ndarray, " T"]
    ) -> dict[str, Float32[np.ndarray, "..."]]:
        return self._encode_alike([(frames, seconds)])[0]

    def encode_wholes(
        self, clips: Sequence[Whole]
    ) -> list[dict[str, Float32[np.ndarray, "..."]] | StepDiffError]:
        """Return what `encode_whole` does of each; where `whole_batches`, clips of one shape are
        encoded at once."""
        if not self.whole_batches:
            return super().encode_wholes(clips)
        places_of: dict[tuple[int, ...], list[int]] = {}
        for place, (frames, _) in enumerate(clips):
            places_of.setdefault(frames.shape, []).append(place)
        encoded: dict[int, Any] = {}
        for places in places_of.values():
            alike = [clips[place] for place in places]
            try:
                encoded.update(zip(places, self._encode_alike(alike), strict=True))
            except StepDiffError:  # each fails, or not, for itself
                encoded.update(zip(places, super().encode_wholes(alike), strict=True))
        return [encoded[place] for place in range(len(clips))]

    @torch.inference_mode()
    def _encode_alike(self, clips: Sequence[Whole]) -> list[dict[str, Float32[np.ndarray, "..."]]]:
        """Return features of clips whose frames have one shape, from one forward pass."""
        try:
            inputs = self._inputs(*(frames for frames, _ in clips))
        except ValueError as problem:  # such as an aspect that the processor refuses
            reason = first_line(problem)
            raise StepDiffError(
                f"{type(self._processor).__name__} refuses its frames ({reason})"
            ) from None
        with half_products(self._device):
            _, output = self._encoded(inputs)
        tokens = torch.cat([_flat(part) for part in _parts(output)], dim=-1).float().cpu().numpy()
        expected = self._count(inputs)
        if len(tokens) != expected:
            raise StepDiffError(
                f"the model made {len(tokens)} tokens of it, and its processor expects {expected}"
            )
        embeddings = tokens.reshape(len(clips), -1, tokens.shape[-1])[..., : self._probed[2]].mean(
            axis=1
        )
        height, width = shape = clips[0][0].shape[1:3]
        if self.pool > 1:
            tokens, shape = (
                pooled(tokens[None], self._grids(inputs)[0], self.pool)[0],
                self._shrink(shape),
            )
        tokens = tokens.reshape(len(clips), -1, tokens.shape[-1])
        count = tokens.shape[1]
        if count > self._most:
            raise StepDiffError(
                f"frames of {width} x {height} pixels make {count} tokens, and the view holds "
                f"{self._most} of a clip: crop the video"
            )
        return [
            {
                "tokens": np.pad(values, ((0, self._most - count), (0, 0))),
                "embedding": embedding,
                "layout": np.array([count, *shape, *seconds], np.float32),
            }
            for values, embedding, (_, seconds) in zip(tokens, embeddings, clips, strict=True)
        ]

    def _inputs(self, *clips: UInt8[np.ndarray, "T H W 3"]) -> dict[str, Any]:
        """Return the processor's output for clips in one prompt. Times change its words, which are
        not used here."""
        from PIL import Image

        if self._video:
            metadata = {
                "fps": 1,
                "frames_indices": list(range(self.frames)),
                "total_num_frames": self.frames,
            }
            processor_inputs: dict[str, Any] = {
                "text": [self._processor.video_token * len(clips)],
                "videos": list(clips),
                "do_sample_frames": False,
                "video_metadata": [dict(metadata, duration=float(self.frames)) for _ in clips],
            }
        else:
            images = [Image.fromarray(frame) for clip in clips for frame in clip]
            processor_inputs = {
                "text": [self._processor.image_token * len(images)],
                "images": images,
            }
        return {
            key: value.to(self._device) if isinstance(value, torch.Tensor) else value
            for key, value in self._processor(**processor_inputs, return_tensors="pt").items()
        }

    def _blank(self, shape: tuple[int, int]) -> dict[str, Any]:
        """Return the processor's output for a blank clip."""
        return self._inputs(np.zeros((self.frames, *shape, 3), np.uint8))

    def _grids(self, inputs: dict[str, Any]) -> tuple[Grids, int]:
        """Return the grids of a clip's tokens, and the side of a token's square in pixels.
        StepDiffError: none."""
        kind = "video" if self._video else "image"
        patches, processor = (
            inputs.get(f"{kind}_grid_thw"),
            getattr(self._processor, f"{kind}_processor"),
        )
        merged = getattr(processor, "merge_size", None)
        if patches is not None and merged is not None:
            _, down, across = (patches[0] // merged).tolist()
            grids = int(patches[:, 0].sum()), down, across
            if math.prod(grids) == self._count(inputs):
                return grids, processor.patch_size * merged
        raise StepDiffError(
            "--pool is for models whose tokens follow the size of the frames, such as Qwen3-VL: "
            f"give {type(self._processor).__name__} fewer --frames, or --dtype int8"
        )

    def _shrink(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of frames that make as many tokens as pooled ones. StepDiffError:
        there are none."""
        if shape not in self._shrunk:
            (steps, rows, columns), side = self._grids(self._blank(shape))
            down, across = -(-rows // self.pool), -(-columns // self.pool)
            smaller = down * side, across * side
            if self._grids(self._blank(smaller))[0] != (steps, down, across):
                raise StepDiffError(
                    f"--pool {self.pool} leaves {down} x {across} tokens of {rows} x {columns}, "
                    f"fewer than {type(self._processor).__name__} makes of any frame: give a "
                    "smaller --pool"
                )
            self._shrunk[shape] = smaller
        return self._shrunk[shape]

    def _takes_videos(self) -> bool:
        """Return whether the processor takes two videos in one prompt: some take none, Molmo2 takes
        one."""
        self._video = getattr(self._processor, "video_processor", None) is not None
        blank = np.zeros((self.frames, 64, 64, 3), np.uint8)
        try:
            self._inputs(blank, blank)
        except ValueError:
            return False
        return self._video

    def _count(self, inputs: dict[str, Any]) -> int:
        """Return the number of places of tokens in a prompt."""
        return int(np.isin(inputs["input_ids"].cpu().numpy(), self._placeholders).sum())

    def _encoded(self, inputs: dict[str, Any]) -> tuple[str, Any]:
        """Return the name of the model's function that encodes these inputs, and its output."""
        body, processor_inputs = self._model.base_model, dict(inputs)
        videos = processor_inputs.get("pixel_values_videos")
        name = "get_image_features" if videos is None else "get_video_features"
        if not hasattr(body, name):  # PerceptionLM encodes videos as images
            name, processor_inputs["pixel_values"] = "get_image_features", videos
        function = getattr(body, name)
        accepted = inspect.signature(function).parameters
        return name, function(
            **{key: value for key, value in processor_inputs.items() if key in accepted},
            return_dict=True,
        )


Part = torch.Tensor | list[torch.Tensor] | tuple[torch.Tensor, ...]


def _parts(output: Any) -> list[Part]:
    """Return the tokens of an output, and its deepstack levels. StepDiffError: it has its tokens
    elsewhere."""
    if getattr(output, "pooler_output", None) is None:
        raise StepDiffError(
            f"the model's {type(output).__name__} has no pooler_output, as cached tokens need it: "
            f"give {Vlm.weights_needed}"
        )
    return [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]


def _kind(part: Part) -> str:
    """Return the structure of a part in words, which a head restores."""
    return (
        f"array of {part.ndim} axes"
        if isinstance(part, torch.Tensor)
        else f"list of {part[0].ndim} axes"
    )


def _flat(part: Part) -> Float[torch.Tensor, "N D"]:
    return torch.cat(
        [one.flatten(0, -2) for one in ([part] if isinstance(part, torch.Tensor) else part)]
    )


def _vision_class(config: Any, weights: Path) -> type:
    """Return the model's class without its language model, which is neither made nor loaded."""
    from transformers import AutoModelForImageTextToText

    kind: Any = AutoModelForImageTextToText._model_mapping.get(type(config), None)
    if kind is None or "mm_encoder_outputs" not in inspect.signature(kind.forward).parameters:
        raise StepDiffError(
            f"{weights} is a {config.model_type}, whose class in transformers takes no "
            f"mm_encoder_outputs: give {Vlm.weights_needed}"
        )

    class Vision(kind):  # type: ignore[misc, valid-type]
        _keys_to_ignore_on_load_unexpected = (".*",)  # of the language model

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            for module in (self, self.base_model):
                for name, child in list(module.named_children()):
                    if child in (self.get_output_embeddings(), self.get_decoder()):
                        setattr(module, name, None)
            self.all_tied_weights_keys: dict[str, str] = {}  # they are of the language model

    # transformers renames the tensors of older checkpoints by the name and module of the class.
    Vision.__name__, Vision.__module__ = kind.__name__, kind.__module__
    return Vision
