"""A decoded frame becomes the square that an encoder is fed, or the whole picture for a model that
crops by itself.

The recipe, the same on every machine: to RGB at full size (swscale), turned upright by the file's
rotation, resized by one of Pillow's antialiased filters (`featurize.video.resize`). Stored pixels
count as square.

Guarantees
- a frame is seen upright and unmirrored, as its file says; a picture smaller than the crop is
  enlarged, never padded
- a picture that the resize would make larger than MAX_PIXELS is a ValueError
- crops that give different pixels have different descriptions
"""

import math
from dataclasses import dataclass

import av
import numpy as np
from av.sidedata.sidedata import SideData
from jaxtyping import UInt8
from PIL import Image

from featurize.video.media_file import MAX_PIXELS
from featurize.video.resize import Resample, resized_part


@dataclass(frozen=True)
class Crop:
    """The square fed to an encoder."""

    # pixels of the short side after the resize; None if both sides are resized to `size`
    short_side: int | None
    size: int  # pixels of the square's sides, short_side at most
    resample: Resample = "bicubic"

    def __str__(self) -> str:
        """Return the crop in words, as the provenance of a view has it."""
        if self.short_side is None:
            return f"square resize to {self.size}, {self.resample}"
        words = f"short side {self.short_side}, centre crop {self.size}"
        return words if self.resample == "bicubic" else f"{words}, {self.resample}"


@dataclass(frozen=True)
class Whole:
    """The whole picture, for models that resize and crop by themselves."""

    short_side: int  # pixels, where it is longer


@dataclass(frozen=True)
class Bounded:
    """The whole picture in its own aspect, for encoders that take any shape."""

    pixels: int  # of the picture, where it has more

    def __str__(self) -> str:
        return f"whole pictures of at most {self.pixels} pixels, bicubic"


Picture = Crop | Whole | Bounded


def pixels_of(frame: av.VideoFrame, picture: Picture) -> UInt8[np.ndarray, "height width 3"]:
    """RGB pixels of the frame, upright: the square, or the whole made smaller if it is larger than
    asked."""
    pixels = _upright(frame.to_ndarray(format="rgb24"), frame)
    height, width = pixels.shape[:2]
    if not isinstance(picture, Crop):
        if isinstance(picture, Bounded):
            factor = min(math.sqrt(picture.pixels / (width * height)), 1)
            size = (max(int(width * factor), 1), max(int(height * factor), 1))
        else:
            factor = min(picture.short_side / min(width, height), 1)
            size = (round(width * factor), round(height * factor))
        return np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BICUBIC)
        )
    return resized_part(pixels, *_size_and_part(height, width, picture), picture.resample)


def _size_and_part(
    height: int, width: int, picture: Crop
) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Return width and height after the resize, and the part that is kept: left, top, right,
    bottom."""
    side, short = picture.size, min(height, width)
    if picture.short_side is None:
        return (side, side), (0, 0, side, side)
    size = (width * picture.short_side // short, height * picture.short_side // short)
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(
            f"a picture of {width} x {height} is too narrow to resize its short side to "
            f"{picture.short_side}"
        )
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return size, (left, top, left + side, top + side)


def _upright(
    picture: UInt8[np.ndarray, "height width 3"], frame: av.VideoFrame
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Apply the quarter turn and mirroring of the frame's display matrix, if it has one."""
    try:
        side_data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV has no name for the EXIF block of a photograph; it still knows turns
        return np.rot90(picture, frame.rotation // 90)
    if not isinstance(side_data, SideData):
        return picture
    # 3x3, fixed point: a point (x, y) of the stored picture is shown at (ax + cy, bx + dy)
    a, b, _, c, d = np.frombuffer(bytes(side_data), np.int32)[:5].astype(float)
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
