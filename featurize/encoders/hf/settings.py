"""The preprocessing that a folder's own image or video processor describes, for the decoder and the encoder.

Video processors need torchvision to run. Their settings are read from their file instead, so that the same folder gives
the same pixels whether torchvision is installed or not. The filter is Pillow's, which differs from torchvision's by a
level of 255 in a few pixels.

Guarantees
- pixels equal those of the folder's own processor (`test_pixels_equal_those_of_the_own_processor`)
- settings that the decoder cannot follow are refused, naming them (`test_unsupported_settings_are_refused`)
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from common.errors import StepDiffError
from featurize.encoders.preprocessing import FILTERS, Preprocessing, read_processor
from featurize.video.picture import Crop, Resample

Settings = Mapping[str, Any]
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_COMMON = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255, "resample": 2}
_DEFAULTS: Mapping[str, Settings] = MappingProxyType(
    {  # of video processors, for what their file leaves out
        "VJEPA2VideoProcessor": {**_IMAGENET, "crop_size": 256, "do_center_crop": True},
        "LlavaOnevisionVideoProcessor": {"resample": 3},
    }
)
_TIMM: Mapping[str, Any] = MappingProxyType({"bicubic": 3, "bilinear": 2, "lanczos": 1, "": 3})


def image_settings(folder: Path, wanted: str) -> Settings:
    """Return the settings of a folder's image processor. StepDiffError where it has none."""
    found = read_processor(folder, wanted).to_dict()
    return _convnext({name: value for name, value in found.items() if value is not None})


def _convnext(settings: dict[str, Any]) -> Settings:
    """Return the settings with the crop of ConvNeXt's processor, which its file gives as a share of the picture."""
    if str(settings.get("image_processor_type")).startswith("ConvNext"):
        side, share = int(settings["size"]["shortest_edge"]), settings.pop("crop_pct", 224 / 256)
        if side >= 384:
            return {**settings, "size": {"height": side, "width": side}}
        return {**settings, "size": {"shortest_edge": int(side / share)}, "crop_size": side, "do_center_crop": True}
    return settings


def video_settings(folder: Path, wanted: str) -> Settings | None:
    """Return the settings of a folder's video processor, None where it has none. StepDiffError: they are damaged."""
    for name, part in (("video_preprocessor_config.json", None), ("processor_config.json", "video_processor")):
        path = folder / name
        try:
            found = json.loads(path.read_text())
            if part is not None:
                found = found.get(part)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError) as problem:
            raise StepDiffError(f"{path} cannot be read ({problem!r}): give {wanted}") from None
        if isinstance(found, dict):
            kind = str(found.get("video_processor_type"))
            known = {name: value for name, value in found.items() if value is not None}
            return _resized({**_COMMON, **_DEFAULTS.get(kind, {}), **known})
    return None


def _resized(settings: dict[str, Any]) -> Settings:
    """Return the settings with the size that V-JEPA 2's processor derives from its crop, whatever its file says."""
    if settings.get("video_processor_type") == "VJEPA2VideoProcessor":
        settings["size"] = {"shortest_edge": int((_side(settings["crop_size"]) or 256) * 256 / 224)}
    return settings


def timm_settings(config: Mapping[str, Any]) -> Settings:
    """Return the settings that a timm model's `pretrained_cfg` describes, as `timm.data` reads it."""
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
    """Return the decoder's and the encoder's part of what the settings describe.

    Raises:
        StepDiffError: They are not a resize, of the short side with a centre crop or to a square, and a normalisation.
    """
    size, crop = settings.get("size") or {}, settings.get("crop_size")
    if isinstance(size, int):
        size = {"shortest_edge": size}
    short, height, width = size.get("shortest_edge"), size.get("height"), size.get("width")
    cropped = bool(settings.get("do_center_crop"))
    side = _side(crop) if cropped else height
    off = [step for step in ("do_resize", "do_rescale") if not settings.get(step, True)]
    unknown = [name for name in ("crop_pct", "do_pad", "do_image_splitting", "size_divisor") if settings.get(name)]
    if off or unknown:
        reason = f"it sets {', '.join(f'{name} to {settings[name]}' for name in (*off, *unknown))}"
    elif settings.get("resample") not in FILTERS:
        reason = f"it resizes with filter {settings.get('resample')}, none of {', '.join(FILTERS.values())}"
    elif side is None or (short is None and not height == width == side):
        reason = f"it resizes to {dict(size)} and crops {crop if cropped else 'nothing'}, which gives no square"
    elif short is not None and short < side:
        reason = f"its short side {short} is less than its crop {side}"
    else:
        filter_ = FILTERS[int(settings["resample"])]
        return _fed(settings, Crop(short, side, filter_), device)
    raise StepDiffError(f"the preprocessing of {folder} is not supported: {reason}")


def _fed(settings: Settings, crop: Crop, device: torch.device) -> Preprocessing:
    factor = float(settings.get("rescale_factor", 1 / 255))
    mean, std = [0.0] * 3, [1.0] * 3
    if settings.get("do_normalize", True):
        mean, std = settings["image_mean"], settings["image_std"]
    if settings.get("offset"):  # ViViT's processor subtracts 1 after it rescales
        mean = [value + 1 for value in mean]
    scaled = (torch.tensor(list(value), device=device).view(3, 1, 1) / factor for value in (mean, std))
    return Preprocessing(crop, *scaled)


def _side(crop: Any) -> int | None:
    """Return the side of a square crop, None where it is none."""
    if isinstance(crop, int):
        return crop
    given = dict(crop or {})
    return given.get("height") if given.get("height") == given.get("width") else None


def filter_of(settings: Settings) -> Resample:
    """Return the filter of a processor that resizes by rules of its own."""
    return FILTERS[int(settings["resample"])]
