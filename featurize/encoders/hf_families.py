"""How models of transformers are called, family by family: one function each for pictures, clips
and texts.

A family that is not named here is called as most are: `get_image_features` where the model also has
`get_text_features`, else the model itself, with pixels; and its tokens are `last_hidden_state`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_CLASS_TOKEN = ("dinov3_convnext", "timesformer", "vivit")
State = torch.Tensor  # [B, N, D], or [B, D, H, W] of a convolutional model


@dataclass(frozen=True)
class ModelOutput:
    """What a model gives for a batch."""

    tokens: State  # of its last layer, those of class and registers first
    hidden: tuple[State, ...] | None
    """hidden states, if they were asked for and the model gives them; a map has no class token"""
    pooled: torch.Tensor | None  # [B, E], what it compares with texts, or its pooler's output

    @classmethod
    def of(cls, output: Any, pooled: torch.Tensor | None = None, first: int = 0) -> "ModelOutput":
        """Return what an output of transformers holds; `first`: tokens that only its hidden states
        begin with."""
        tokens, hidden = output.last_hidden_state, getattr(output, "hidden_states", None)
        if hidden is not None:
            hidden = tuple(state[:, first:] for state in hidden)
        for name in ("summary", "pooler_output"):  # the first is RADIO's
            if pooled is None:
                pooled = getattr(output, name, None)
        return cls(tokens, hidden, None if pooled is None else pooled.flatten(1))


def takes_videos(model: Any) -> bool:
    """Return whether a model names its pixels as those of videos: then it has a processor of
    videos."""
    return "pixel_values_videos" in inspect.signature(model.forward).parameters


def takes_clips(model: Any, settings: Any) -> bool:
    """Return whether a model sees all frames of a clip at once, which its processor's class
    says."""
    kind = str(settings.get("image_processor_type"))
    return takes_videos(model) or kind.startswith(("VideoMAE", "Vivit"))


def has_texts(model: Any) -> bool:
    """Return whether a model has a text side in the space of its pictures or clips."""
    return hasattr(model, "get_text_features") or model.config.model_type == "pe_video"


def see_pictures(model: Any, hidden: bool, **pixels: torch.Tensor) -> ModelOutput:
    """Return what an image model gives for pictures."""
    more = {"output_hidden_states": True} if hidden else {}
    call = (
        model.get_image_features
        if has_texts(model) and hasattr(model, "get_image_features")
        else model
    )
    return ModelOutput.of(call(**pixels, **more))


def see_clips(model: Any, hidden: bool, pixels: torch.Tensor) -> ModelOutput:
    """Return what a video model gives for clips [B, T, 3, H, W]."""
    more: dict[str, Any] = {"output_hidden_states": True} if hidden else {}
    kind = model.config.model_type
    if kind == "pe_video":  # its `get_video_features` is no method of the class
        output = model.video_encoder(pixels, **more)
        return ModelOutput.of(output, model.video_head(output.pooler_output), first=1)
    if kind == "vjepa2":
        return ModelOutput.of(model(pixels, skip_predictor=True, **more))
    call = (
        model.get_video_features
        if has_texts(model) and hasattr(model, "get_video_features")
        else model
    )
    return ModelOutput.of(call(pixels, **more))


def see_texts(model: Any, inputs: Any) -> torch.Tensor:
    """Return what a model compares with its pictures or clips, [B, E], of tokenised texts."""
    if model.config.model_type == "pe_video":
        seen = model.text_model(**_taken(model.text_model, inputs), output_hidden_states=True)
        return model.text_video_head(seen.hidden_states[-1][:, 0])
    return model.get_text_features(**_taken(model.get_text_features, inputs)).pooler_output.flatten(
        1
    )


def first_tokens(model: Any, tokens: int, side: int, clips: bool) -> int:
    """Return how many of `tokens` are of the class or registers, and come before those of patches.

    side: of a picture in pixels; clips: whether the model sees clips.
    """
    if clips or model.config.model_type in _CLASS_TOKEN:
        return int(model.config.model_type in _CLASS_TOKEN)
    config = getattr(model.config, "vision_config", model.config)
    if config.model_type == "timm_wrapper":
        return int(getattr(model.timm_model, "num_prefix_tokens", 0))
    if config.model_type == "radio":
        return int(config.num_summary_tokens)
    patch = getattr(config, "patch_size", None)
    patches = (side // patch) ** 2 if isinstance(patch, int) else tokens
    return tokens - patches if patches <= tokens else 0


def text_padding(model: Any) -> bool | str:
    """Return how texts are padded, as in the model's training: to the longest of a batch (True) or
    to `max_length`."""
    return (
        "max_length"
        if model.config.model_type in ("siglip", "siglip2", "tipsv2", "videoprism")
        else True
    )


def frames_of(model: Any) -> int | None:
    """Return how many frames a video model was made for, None if it takes any number."""
    config = getattr(model.config, "vision_config", model.config)
    for name in ("frames_per_clip", "num_frames"):
        if isinstance(count := getattr(config, name, None), int):
            return count
    return None


def tubelet_of(model: Any) -> int:
    """Return how many frames a video model sees as one step of time."""
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "tubelet_size", 1)
    return int(size if isinstance(size, int) else size[0])


def _taken(call: Callable[..., Any], inputs: Any) -> dict[str, torch.Tensor]:
    """Return those inputs that a function takes by name."""
    function = call.forward if isinstance(call, torch.nn.Module) else inspect.unwrap(call)
    accepted = inspect.signature(function).parameters
    return {name: value for name, value in inputs.items() if name in accepted}
