"""A decoded frame becomes the square that an encoder is fed.

The recipe, the same on every machine: to RGB at full size (swscale), turned upright by the file's
rotation, short side resized by Pillow's antialiased bicubic filter, centre cropped. Stored pixels
count as square.

Guarantees
- a frame that is stored turned is seen upright, and one that a video's matrix mirrors is unmirrored
- a picture smaller than the crop is enlarged, never padded
"""

from dataclasses import dataclass

import av
import numpy as np
from av.sidedata.sidedata import SideData
from jaxtyping import UInt8
from PIL import Image


@dataclass(frozen=True)
class Crop:
    """The square fed to an encoder."""

    short_side: int
    """pixels of the short side after the resize"""
    size: int
    """pixels of the centre crop's sides, short_side at most"""


def square(frame: av.VideoFrame, crop: Crop) -> UInt8[np.ndarray, "size size 3"]:
    """RGB pixels of the frame: upright, resized, centre cropped."""
    picture = np.ascontiguousarray(_upright(frame.to_ndarray(format="rgb24"), frame))
    height, width = picture.shape[:2]
    short = min(height, width)
    resized = Image.fromarray(picture).resize(
        (width * crop.short_side // short, height * crop.short_side // short),
        Image.Resampling.BICUBIC,
    )
    left = (resized.width - crop.size) // 2
    top = (resized.height - crop.size) // 2
    return np.asarray(resized.crop((left, top, left + crop.size, top + crop.size)))


def _upright(picture: UInt8[np.ndarray, "height width 3"], frame: av.VideoFrame) -> UInt8[np.ndarray, "_ _ 3"]:
    """Apply the quarter turn and mirroring of the frame's display matrix, where it has one."""
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
