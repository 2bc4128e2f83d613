"""A checkpoint's own image preprocessing, split between the decoder (resize, crop) and the encoder (normalise).

A frame that repeats the previous one is encoded once: a still image is one frame, eight times. The saving depends on
the batch, because chunks are filled up: four stills take one chunk of 16 instead of two.

Guarantees
- pixels equal what the processor makes of the same picture (`test_pixels_equal_the_image_processor`)
- a preprocessing that the decoder cannot do is refused, naming the step
  (`test_unsupported_preprocessing_is_refused`)
- a frame's features are those of encoding every frame (`test_repeated_frames_are_encoded_once`)
- on the CPU a frame's bits do not depend on the other frames of its batch, nor on their number
  (`test_a_frame_has_the_same_bits_in_any_batch`)
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch.nn.functional import pad

from common.errors import StepDiffError
from featurize.video.picture import Crop, Resample

FILTERS: dict[int, Resample] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""of the resize, by Pillow's numbers"""


@dataclass(frozen=True)
class Preprocessing:
    """The decoder's part and the encoder's part."""

    crop: Crop
    """what the decoder does"""
    mean: Float32[torch.Tensor, "3 1 1"]
    """in units of a byte, as the pixels are"""
    std: Float32[torch.Tensor, "3 1 1"]
    """likewise"""

    def normalised(self, frames: UInt8[torch.Tensor, "*N H W 3"]) -> Float32[torch.Tensor, "*N 3 H W"]:
        """Pixel values of cropped frames, as the checkpoint wants them, on the device of `mean`."""
        return (frames.movedim(-1, -3).to(self.mean.device).float() - self.mean) / self.std


def read_processor(folder: Path, wanted: str) -> Any:
    """The image processor that the folder describes, in Pillow's way. StepDiffError where there is none."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    except (OSError, ValueError, ImportError) as problem:
        reason = str(problem).strip().splitlines()[0]
        raise StepDiffError(f"{folder} has no image processor ({reason}): give {wanted}") from None


def preprocessing(processor: Any, folder: Path, size: int, device: torch.device) -> Preprocessing:
    """What the processor does to feed a model of `size` x `size` pixels.

    Raises:
        StepDiffError: it is not a resize, of the short side with a centre crop or to a square,
            followed by a normalisation.
    """
    short_side, crop = processor.size.get("shortest_edge"), processor.crop_size
    square = (processor.size.get("height"), processor.size.get("width"))
    off = [step for step in ("do_resize", "do_rescale", "do_normalize") if not getattr(processor, step)]
    if short_side is not None and not processor.do_center_crop:
        off.append("do_center_crop")
    if off:
        reason = f"it sets {', '.join(off)} to false"
    elif processor.resample not in FILTERS:
        reason = f"it resizes with filter {processor.resample}, none of {', '.join(FILTERS.values())}"
    elif short_side is None and square != (size, size):
        reason = f"it resizes to {dict(processor.size)}, neither the short side nor a square of {size}"
    elif processor.do_center_crop and not crop["height"] == crop["width"] == size:
        reason = f"it crops to {dict(crop)}, where the model takes {size}"
    elif short_side is not None and short_side < size:
        reason = f"its short side {short_side} is less than its crop {size}"
    else:
        return _fed(processor, Crop(short_side, size, FILTERS[processor.resample]), device)
    raise StepDiffError(f"the preprocessing of {folder} is not supported: {reason}")


def squared(processor: Any, folder: Path, size: int, device: torch.device) -> Preprocessing:
    """The processor's filter and normalisation, after a resize to a square whatever else it does.

    Raises:
        StepDiffError: it has another filter, or does not normalise.
    """
    off = [step for step in ("do_rescale", "do_normalize") if not getattr(processor, step)]
    if off or processor.resample not in FILTERS:
        reason = f"it sets {', '.join(off)} to false" if off else f"it resizes with filter {processor.resample}"
        raise StepDiffError(f"the preprocessing of {folder} is not supported: {reason}")
    return _fed(processor, Crop(None, size, FILTERS[processor.resample]), device)


def _fed(processor: Any, crop: Crop, device: torch.device) -> Preprocessing:
    mean, std = (
        torch.tensor(value, device=device).view(3, 1, 1) / processor.rescale_factor
        for value in (processor.image_mean, processor.image_std)
    )
    return Preprocessing(crop, mean, std)


Encode = Callable[[UInt8[torch.Tensor, "chunk H W 3"]], tuple[torch.Tensor, ...]]
"""features [chunk, ...] of so many frames"""


def encode_distinct(encode: Encode, frames: UInt8[np.ndarray, "B T H W 3"], chunk: int) -> list[torch.Tensor]:
    """Features [B, T, ...] of all frames, of which those are encoded, `chunk` at once, that differ from the one before.

    The last chunk is filled up, since a library may compute another number of frames another way.
    """
    new = np.ones(frames.shape[:2], bool)
    new[:, 1:] = (frames[:, 1:] != frames[:, :-1]).any(axis=(2, 3, 4))
    places = torch.from_numpy(new.cumsum().reshape(new.shape) - 1)
    shown = torch.from_numpy(frames[new])
    shown = pad(shown, (0, 0) * 3 + (0, -len(shown) % chunk))
    encoded = [encode(part) for part in shown.split(chunk)]
    return [torch.cat(parts)[places] for parts in zip(*encoded, strict=True)]
