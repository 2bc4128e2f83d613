"""A clip as one strip of frames, to look at beside what is said of it.

Guarantees
- a contact sheet shows frames of the clip, and a clip that cannot be shown is a reason
"""

import io
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from featurize.video.decode import Clip, read_clips
from featurize.video.picture import Crop

FRAMES, SIDE = 4, 152  # pixels
_QUALITY = 78  # of JPEG


def contact_sheets(clips: pl.DataFrame, videos: Path) -> dict[str, bytes | str]:
    """Return the bytes of a JPEG by clip, or a text that says why there is none.

    clips: key, video (a path from the folder `videos`), start and end in seconds.
    """
    sheets: dict[str, bytes | str] = {}
    for (video,), rows in clips.group_by("video", maintain_order=True):
        keys = rows["key"].to_list()
        times = list(zip(rows["start"], rows["end"], strict=True))
        path = videos / str(video)
        for found in read_clips(path, times, FRAMES, Crop(SIDE, SIDE), sampling="segment-centres"):
            sheets[keys[found.index]] = _jpeg(found) if isinstance(found, Clip) else found.reason
    return sheets


def _jpeg(clip: Clip) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.concatenate(list(clip.frames), axis=1)).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()
