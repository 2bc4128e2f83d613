"""A checkpoint's own preprocessing, split between the decoder (resize, crop) and the encoder
(normalise).

Settings of video processors, which need torchvision to run, are read from their file. The filter is
Pillow's, which differs from torchvision's by a level of 255 in a few pixels. A frame that repeats
the previous one is encoded once.

Guarantees
- pixels equal those of the folder's own processor; settings that the decoder cannot follow are
  refused
- on the CPU a frame's bits do not depend on the other frames of its batch, nor on their number
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Float32, UInt8
from torch.nn.functional import pad

from featurize.encoders.folder import loading
from featurize.video.picture import Crop, Resample
from stepdiff_core.errors import StepDiffError

# of the resize, by Pillow's numbers
FILTERS: dict[int, Resample] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
Settings = Mapping[str, Any]
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_COMMON = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "resample": 2,
}
_DEFAULTS: Mapping[str, Settings] = MappingProxyType(
    {  # of video processors, for what their file leaves out
        "VJEPA2VideoProcessor": {**_IMAGENET, "crop_size": 256, "do_center_crop": True},
        "LlavaOnevisionVideoProcessor": {"resample": 3},
    }
)
_TIMM: Mapping[str, Any] = MappingProxyType({"bicubic": 3, "bilinear": 2, "lanczos": 1, "": 3})


@dataclass(frozen=True)
class Preprocessing:
    """The decoder's part and the encoder's part."""

    crop: Crop  # what the decoder does
    mean: Float32[torch.Tensor, "3 1 1"]  # in units of a byte, as the pixels are
    std: Float32[torch.Tensor, "3 1 1"]  # likewise

    def normalised(
        self, frames: UInt8[torch.Tensor, "*N H W 3"]
    ) -> Float32[torch.Tensor, "*N 3 H W"]:
        """Pixel values of cropped frames, as the checkpoint wants them, on the device of `mean`."""
        return (frames.movedim(-1, -3).to(self.mean.device).float() - self.mean) / self.std


def read_processor(folder: Path, contents: str) -> Any:
    """The image processor that the folder describes, in Pillow's way. StepDiffError if there is
    none."""
    from transformers import AutoImageProcessor

    with loading(folder, contents, "has no image processor"):
        return AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)


def image_settings(folder: Path, contents: str) -> Settings:
    """Return the settings of a folder's image processor. StepDiffError if it has none."""
    settings = read_processor(folder, contents).to_dict()
    settings = {name: value for name, value in settings.items() if value is not None}
    # its crop is a share of the picture
    if str(settings.get("image_processor_type")).startswith("ConvNext"):
        side, share = int(settings["size"]["shortest_edge"]), settings.pop("crop_pct", 224 / 256)
        if side >= 384:
            return {**settings, "size": {"height": side, "width": side}}
        return {
            **settings,
            "size": {"shortest_edge": int(side / share)},
            "crop_size": side,
            "do_center_crop": True,
        }
    return settings


def video_settings(folder: Path, contents: str, defaults: Settings) -> Settings | None:
    """Return the settings of a folder's video processor over `defaults`, None without one.
    StepDiffError: damaged."""
    for name, part in (
        ("video_preprocessor_config.json", None),
        ("processor_config.json", "video_processor"),
    ):
        path = folder / name
        try:
            settings = json.loads(path.read_text())
            if part is not None:
                settings = settings.get(part)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError) as problem:
            raise StepDiffError(f"{path} cannot be read ({problem!r}): give {contents}") from None
        if isinstance(settings, dict):
            complete = {
                **defaults,
                **{name: value for name, value in settings.items() if value is not None},
            }
            kind = str(complete.get("video_processor_type"))
            complete = {**_COMMON, **_DEFAULTS.get(kind, {}), **complete}
            # it derives the size from its crop, whatever its file says
            if kind == "VJEPA2VideoProcessor":
                complete["size"] = {
                    "shortest_edge": int((_side(complete["crop_size"]) or 256) * 256 / 224)
                }
            return complete
    return None


def timm_settings(config: Mapping[str, Any]) -> Settings:
    """Return the settings that a timm model's `pretrained_cfg` describes, as `timm.data` reads
    it."""
    size = int(config.get("input_size", (3, 224, 224))[-1])
    scaled = math.floor(size / (config.get("crop_pct") or 0.875))
    mode = config.get("crop_mode") or "center"
    square = mode == "squash" or (mode == "border" and scaled == size)
    return {
        **_COMMON,
        "size": {"height": scaled, "width": scaled} if square else {"shortest_edge": scaled},
        "do_center_crop": not square or scaled != size,
        "crop_size": size,
        "crop_mode": mode,
        "resample": _TIMM.get(str(config.get("interpolation") or ""), config.get("interpolation")),
        "image_mean": config.get("mean") or _IMAGENET["image_mean"],
        "image_std": config.get("std") or _IMAGENET["image_std"],
    }


def preprocessing_of(settings: Settings, folder: Path, device: torch.device) -> Preprocessing:
    """Return the decoder's and the encoder's part of what the settings describe. StepDiffError:
    they cannot do it."""
    size, crop = settings.get("size") or {}, settings.get("crop_size")
    if isinstance(size, int):
        size = {"shortest_edge": size}
    short, height, width = size.get("shortest_edge"), size.get("height"), size.get("width")
    cropped = bool(settings.get("do_center_crop"))
    side = _side(crop) if cropped else height
    off = [step for step in ("do_resize", "do_rescale") if not settings.get(step, True)]
    unknown = [
        name
        for name in ("crop_pct", "do_pad", "do_image_splitting", "size_divisor")
        if settings.get(name)
    ]
    if off or unknown:
        reason = f"it sets {', '.join(f'{name} to {settings[name]}' for name in (*off, *unknown))}"
    elif settings.get("resample") not in FILTERS:
        reason = (
            f"it resizes with filter {settings.get('resample')}, none of "
            f"{', '.join(FILTERS.values())}"
        )
    elif side is None or (short is None and not height == width == side):
        reason = (
            f"it resizes to {dict(size)} and crops {crop if cropped else 'nothing'}, which gives "
            "no square"
        )
    elif short is not None and short < side:
        reason = f"its short side {short} is less than its crop {side}"
    else:
        return Preprocessing(
            Crop(short, side, FILTERS[int(settings["resample"])]), *_mean_and_std(settings, device)
        )
    raise StepDiffError(f"the preprocessing of {folder} is not supported: {reason}")


def _mean_and_std(
    settings: Settings, device: torch.device
) -> Iterator[Float32[torch.Tensor, "3 1 1"]]:
    """Return both in units of a byte."""
    factor = float(settings.get("rescale_factor", 1 / 255))
    mean, std = [0.0] * 3, [1.0] * 3
    if settings.get("do_normalize", True):
        mean, std = settings["image_mean"], settings["image_std"]
    if settings.get("offset"):  # ViViT's processor subtracts 1 after it rescales
        mean = [value + 1 for value in mean]
    return (
        torch.tensor(list(value), device=device).view(3, 1, 1) / factor for value in (mean, std)
    )


def _side(crop: Any) -> int | None:
    """Return the side of a square crop, None if it is none."""
    if isinstance(crop, int):
        return crop
    sides = dict(crop or {})
    return sides.get("height") if sides.get("height") == sides.get("width") else None


Encode = Callable[[UInt8[torch.Tensor, "chunk H W 3"]], tuple[torch.Tensor, ...]]
"""features [chunk, ...] of so many frames"""


def encode_distinct(
    encode: Encode, frames: UInt8[torch.Tensor, "B T H W 3"], chunk: int
) -> list[torch.Tensor]:
    """Features [B, T, ...] of all frames, of which those are encoded, `chunk` at once, that differ
    from the one before.

    The last chunk is filled up, since a library may compute another number of frames another way.
    """
    new = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
    new[:, 1:] = (frames[:, 1:] != frames[:, :-1]).flatten(2).any(2)
    places = new.flatten().cumsum(0).view(new.shape) - 1
    shown = frames[new]
    shown = pad(shown, (0, 0) * 3 + (0, -len(shown) % chunk))
    encoded = [encode(part) for part in shown.split(chunk)]
    return [torch.cat(parts)[places] for parts in zip(*encoded, strict=True)]


# Statistics of early maps are the mean, maximum, minimum and deviation of each channel over all
# frames of a clip: early layers see shades and textures that the last one has lost, and their
# statistics need few bytes. They come from one summary of each frame, so a clip's statistics depend
# on other clips no more than its tokens do.


def summaries(maps: Iterable[Float[torch.Tensor, "N _ _"]]) -> Float32[torch.Tensor, "N 4 C"]:
    """Return mean, maximum, minimum and variance of each channel over the places of each of N
    frames.

    maps: [N, places, channels]; their channels follow one another.
    """
    parts = []
    for values in (one.float() for one in maps):
        mean = values.mean(1, keepdim=True)
        variance = (values - mean).square_().mean(1)
        parts.append(torch.stack([mean[:, 0], values.amax(1), values.amin(1), variance], 1))
    return torch.cat(parts, 2)


def statistics_of(frames: Float32[torch.Tensor, "B T 4 C"]) -> Float32[torch.Tensor, "B 4 C"]:
    """Return mean, maximum, minimum and standard deviation over all frames from the summaries of
    each."""
    means, highest, lowest, variances = frames.unbind(2)
    mean = means.mean(1, keepdim=True)
    # within the frames, and between them
    variance = variances.mean(1) + (means - mean).square().mean(1)
    return torch.stack([mean[:, 0], highest.amax(1), lowest.amin(1), variance.sqrt()], 1)
