"""Clips as video files and pictures, at /media: cut when they are first needed, and kept in the
site's cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi import Path as InPath
from fastapi.responses import FileResponse

from featurize.video.cut import cut, filmstrip
from stepdiff.app.pages import OfSite
from stepdiff.app.site import Site
from stepdiff_core.io.tars import stat_of

_HEADERS = {"Cache-Control": "private, max-age=3600"}
Key = Annotated[str, InPath(max_length=1000, description="clip id")]


router = APIRouter(prefix="/media", tags=["media"])


@router.get("/video/{key:path}", response_class=FileResponse)
def video(site: OfSite, key: Key) -> FileResponse:
    """The clip as MP4, with byte ranges."""
    return clip_video(site, key)


@router.get("/strip/{key:path}", response_class=FileResponse)
def strip(
    site: OfSite,
    key: Key,
    frames: Annotated[int, Query(ge=1, le=16)] = 8,
    height: Annotated[int, Query(ge=32, le=480)] = 90,
) -> FileResponse:
    """Frames of the clip, side by side, as JPEG; one frame is a thumbnail."""
    return clip_strip(site, key, frames, height)


def clip_video(site: Site, key: str) -> FileResponse:
    """Return a clip as MP4. UnknownError: the store has no such clip, or no file of it."""
    return FileResponse(
        clip_file(site, key, "video", ".mp4", cut), media_type="video/mp4", headers=_HEADERS
    )


def clip_strip(site: Site, key: str, frames: int, height: int) -> FileResponse:
    """Return frames of a clip, side by side, as JPEG. Raises as `clip_video`."""

    def make(file: Path, start: float, end: float, out: Path) -> None:
        filmstrip(file, start, end, frames, height, out)

    path = clip_file(site, key, f"strip of {frames}, {height}", ".jpg", make)
    return FileResponse(path, media_type="image/jpeg", headers=_HEADERS)


def clip_file(
    site: Site, key: str, kind: str, suffix: str, make: Callable[[Path, float, float, Path], None]
) -> Path:
    """Return the file of a clip from the cache, which `make` writes: (video, start, end, path)."""
    clip = site.clip(key)
    file = site.file(clip)
    assert clip.start is not None and clip.end is not None
    start, end = clip.start, clip.end
    about = stat_of(file)  # the video may be replaced
    identity = "\n".join(map(str, (kind, file, about.st_size, about.st_mtime_ns, start, end)))
    return site.cache.get(identity, suffix, lambda out: make(file, start, end, out))
