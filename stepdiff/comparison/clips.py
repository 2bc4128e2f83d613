"""A clip that a user names by its file and, if it is not the whole file, its seconds: FILE or
FILE@START-END.

Guarantees
- the id of a clip depends on its file's content and its seconds alone: a file that is moved is the
  same clip
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featurize.manifest import length
from featurize.video.media_file import Identity, identity
from featurize.video.stream import opened
from stepdiff_core.errors import StepDiffError

UNLIKE = 4.0  # ratio of two lengths, or of two frame rates, from which a note says that they differ
# seconds between two frames that a model sees, from which a note says that it may miss actions
SPARSE = 5.0
_SPAN = re.compile(r"(?P<file>.+)@(?P<start>[^@-]+)-(?P<end>[^@-]+)")
_TIME = re.compile(r"(?:(?:(\d+):)?([0-5]?\d):)?(\d+(?:\.\d*)?)")
_SLACK = 0.05  # seconds past the end of a file that are taken for its end


@dataclass(frozen=True)
class FileClip:
    """A part of a video file."""

    path: Path
    start: float
    """seconds in the file"""
    end: float
    rate: float
    """frames a second, by the file's header"""
    identity: Identity

    @property
    def key(self) -> str:
        """Id in a store."""
        return f"{self.identity.digest}_{self.start:.3f}_{self.end:.3f}"

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.path.name}, {clock(self.start)} to {clock(self.end)}"


def read_clip(named: str | Path) -> FileClip:
    """Return the clip that FILE or FILE@START-END names; a file of that very name comes first.

    Raises:
        StepDiffError: no such file, no video, or seconds outside it.
    """
    named = str(named)
    path, span = Path(named).expanduser(), None
    if not path.exists() and (match := _SPAN.fullmatch(named)) is not None:
        path, span = (
            Path(match["file"]).expanduser(),
            (_seconds(match["start"], named), _seconds(match["end"], named)),
        )
    if not path.is_file():
        raise StepDiffError(
            f"no video {path}: give FILE, or FILE@START-END such as clip.mp4@12-20 or "
            "clip.mp4@3:05-3:15"
        )
    with opened(path) as video:
        if video.is_still:
            raise StepDiffError(f"{path} is a picture: give a video")
        rate = float(video.rate)
    whole = round(length(path), 3)
    start, end = span or (0.0, whole)
    if not start < end <= whole + _SLACK:
        why = "ends before it starts" if end <= start else "is outside it"
        raise StepDiffError(
            f"{path} lasts {whole:g} s ({clock(whole)}), and {start:g}-{end:g} {why}: correct the "
            "span"
        )
    content = identity(path)
    if content is None:
        raise StepDiffError(f"{path} cannot be read: check its permissions")
    return FileClip(path.absolute(), start, min(end, whole), rate, content)


def notes(clips: Sequence[FileClip], frames: int) -> list[str]:
    """Return reasons to doubt a comparison of these clips; frames: that a model sees of each."""
    lines = []
    first, *others = clips
    for number, other in enumerate(others, start=2):
        for what, one, two, unit in (
            ("lasts", first.seconds, other.seconds, "s"),
            ("has", first.rate, other.rate, "frames/s"),
        ):
            if max(one, two) >= UNLIKE * min(one, two):
                advice = ": compare parts of equal length, FILE@START-END" if unit == "s" else ""
                lines.append(
                    f"Video 1 {what} {one:.3g} {unit}, Video {number} {two:.3g} {unit}{advice}"
                )
    for number, clip in enumerate(clips, start=1):
        if clip.seconds >= SPARSE * frames:
            lines.append(
                f"the model sees {frames} frames of Video {number}, one every "
                f"{clip.seconds / frames:.0f} s, and may miss actions: give a shorter part, "
                "FILE@START-END"
            )
    return lines


def clock(seconds: float) -> str:
    """Return seconds as 3:05.5, or 1:02:03."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    shown = f"{rest:04.1f}".removesuffix(".0")
    return f"{hours}:{minutes:02}:{shown}" if hours else f"{minutes}:{shown}"


def _seconds(text: str, named: str) -> float:
    if (match := _TIME.fullmatch(text)) is None:
        raise StepDiffError(f"{named}: {text!r} is not a time; write seconds, M:SS or H:MM:SS")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds
