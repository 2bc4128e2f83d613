"""What the catalog and the video files say about two clips."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from featurize.video.stream import opened
from stepdiff.app.site import ClipRecord, Site
from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.testsets import Pair

MOST_CHARACTERS = 2000
"""of a value that is shown"""
RATE, SIZE = 25.0, (160, 90)
"""where the video file is not known"""


@dataclass(frozen=True)
class Picture:
    """The pictures of a video file."""

    rate: float
    """frames a second"""
    width: int
    height: int


@dataclass(frozen=True)
class Shown:
    """A clip on the page of a pair."""

    clip: ClipRecord
    picture: Picture
    path: str
    """of its video file; empty: the catalog names none"""
    missing: str
    """why its video cannot be shown; empty: its file can be opened"""


@dataclass(frozen=True)
class Column:
    """A column of the catalog."""

    name: str
    reference: str
    candidate: str
    differs: bool


def shown(site: Site, clip: ClipRecord) -> Shown:
    """Return a clip with its frame rate; usual values, and the reason, where its video cannot be opened."""
    path = "" if clip.video is None else str(Path(site.videos or "") / clip.video)
    try:
        file = site.file(clip)
        return Shown(clip, _picture(file, file.stat().st_mtime_ns), path, "")
    except (StepDiffError, OSError) as error:
        return Shown(clip, Picture(RATE, *SIZE), path, str(error))


@lru_cache(maxsize=1024)
def _picture(path: Path, _changed: int) -> Picture:
    with opened(path) as video:
        rate = float(video.rate)
        context = video.stream.codec_context
        width, height = context.width or SIZE[0], context.height or SIZE[1]
    return Picture(rate if 1 <= rate <= 1000 else RATE, width, height)


def columns(site: Site, pair: Pair) -> list[Column]:
    """Return all columns of the catalog for two clips, empty where it has no value."""
    catalog = site.store.catalog("clips")
    rows = catalog.rows(list(pair))
    found = {row["row"]: row for row in catalog.select(rows).to_dicts()}
    one, two = (found[int(row)] for row in rows)
    names = [name for name in one if name not in ("row", "key")]
    return [Column(name, _text(one[name]), _text(two[name]), one[name] != two[name]) for name in names]


def _text(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + " ..."
