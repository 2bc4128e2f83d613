"""An audit as one HTML page: figures, then pairs with contact sheets of their clips.

The page contains its pictures and needs no other file; page.html is its template.

Guarantees
- nothing of the data is read as HTML
- the pictures are those made for the page: no address in the data is loaded
- a contact sheet shows frames of the clip, and a clip that cannot be shown is a reason
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import polars as pl
from markupsafe import Markup
from PIL import Image

from annotate.qa.job import Question
from featurize.video.decode import Clip, read_clips
from featurize.video.picture import Crop

FRAMES, SIDE = 4, 152  # pixels
_QUALITY = 78  # of JPEG


@dataclass(frozen=True)
class Sample:
    """A pair on the page."""

    reference: str
    candidate: str
    questions: Sequence[Question]
    sheets: tuple[bytes | str, bytes | str]  # JPEG of each clip, or why it has none
    descriptions: tuple[str, str]


def page(record: Mapping[str, Any], samples: Sequence[Sample]) -> str:
    """Return the whole page; record: as annotate.audit prints it."""
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html").render(
        record=record,
        samples=samples,
        style=Markup((here / "page.css").read_text(encoding="utf-8")),
        base64=lambda data: base64.b64encode(data).decode(),
        dropped=lambda counts: [(f"dropped: {reason}", count) for reason, count in counts["dropped"].items()],
        leak_rows=lambda leaks: [(reason, len(clips), ", ".join(clips[:3])) for reason, clips in leaks.items()],
        bars=_bars,
    )


def _bars(counts: Mapping[str, int]) -> Iterator[tuple[int, int, float]]:
    """Yield number of words, count and height in per cent for every number of words up to the largest."""
    for words in range(max(map(int, counts)) + 1):
        count = counts.get(str(words), 0)
        yield words, count, 100 * count / max(counts.values())


def contact_sheets(clips: pl.DataFrame, videos: Path) -> dict[str, bytes | str]:
    """Return clip -> JPEG of a strip of its frames, or why it has none.

    clips: key, video (a path in the folder `videos`), start and end in seconds.
    """
    sheets: dict[str, bytes | str] = {}
    for (video,), rows in clips.group_by("video", maintain_order=True):
        keys = rows["key"].to_list()
        times = list(zip(rows["start"], rows["end"], strict=True))
        for found in read_clips(videos / str(video), times, FRAMES, Crop(SIDE, SIDE), sampling="segment-centres"):
            sheets[keys[found.index]] = _jpeg(found) if isinstance(found, Clip) else found.reason
    return sheets


def _jpeg(clip: Clip) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.concatenate(list(clip.frames), axis=1)).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()
