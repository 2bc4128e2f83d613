"""Moments of a clip: one vector for each of its frames, or for each of several consecutive clips of one video.

Guarantees
- the moments of a clip are in the order of time, and their times are those of the video
- moments with NaN, infinity or only zeros are refused, and the error names the clip and the moment
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from stepdiff.common.errors import StepDiffError
from store import View

_CATALOG = {"key": pl.String, "video": pl.String, "start": pl.Float64, "end": pl.Float64}


@dataclass(frozen=True)
class Moments:
    """T vectors of D channels with their times.

    Raises:
        StepDiffError: No moments, times that do not rise or are not one for each moment, or a vector without a
            direction.
    """

    vectors: Float[np.ndarray, "T D"]
    seconds: Float[np.ndarray, " times"]
    """T times, rising"""
    clip: str = "clip"
    """name for messages"""

    def __post_init__(self) -> None:
        if not len(self.vectors):
            raise StepDiffError(f"{self.clip} has no moments: give one vector or more")
        if len(self.seconds) != len(self.vectors):
            raise StepDiffError(
                f"{self.clip} has {len(self.vectors)} moments and {len(self.seconds)} times: give one time for each"
            )
        if not np.isfinite(self.seconds).all() or (np.diff(self.seconds) <= 0).any():
            raise StepDiffError(f"times of {self.clip} do not rise: sort its moments, and give each its time once")
        finite, zero = np.isfinite(self.vectors).all(axis=1), ~self.vectors.any(axis=1)
        for bad in np.flatnonzero(~finite | zero):
            fault = "is all zeros" if zero[bad] else "holds NaN or infinity"
            raise StepDiffError(f"moment {bad} of {self.clip} {fault}: it has no direction, leave it out")


def read_moments(view: View, clips: str | Sequence[str]) -> Moments:
    """Read the moments of a clip, or of a video that is cut into clips.

    Args:
        view: Of clips.
        clips: A clip, whose moments are its frames: the mean of the `tokens` of each. Or the clips of one video, which
            are one moment each: their `embedding`, at the middle of the clip.

    Raises:
        StepDiffError: A clip without features or times, a view without the tokens of frames, clips of several videos.
    """
    keys = [clips] if isinstance(clips, str) else list(dict.fromkeys(clips))
    if not keys:
        raise StepDiffError("no clip is given: name one, or the clips of a video")
    known = view.catalog.select(view.rows(keys), pl.DataFrame(schema=_CATALOG)).sort("start", "end")
    if missing := known.filter(pl.any_horizontal(pl.col("start", "end").is_null()))["key"].to_list():
        raise StepDiffError(f"the catalog has no start and end of {missing[0]}: featurize it from a manifest with them")
    start, end = (known[name].to_numpy() for name in ("start", "end"))
    if not isinstance(clips, str):
        if known["video"].n_unique() > 1:
            raise StepDiffError(f"{keys[0]} and {len(keys) - 1} more clips are of several videos: give those of one")
        embedding = view.read("embedding", keys=known["key"], dtype="float32")
        return Moments(embedding, (start + end) / 2, f"{known['key'][0]} to {known['key'][-1]}")
    tokens = view.read("tokens", keys=keys, dtype="float32")[0]
    frames = frames_of(view.provenance.frames, len(tokens))
    if frames == 1 or "repeated" in view.provenance.frames:
        raise StepDiffError(
            f"view {view.name} has no tokens of several frames ({view.provenance.frames}): give the clips of a video, "
            "or another view"
        )
    vectors = tokens.reshape(frames, -1, tokens.shape[-1]).mean(axis=1)
    return Moments(vectors, np.array(seconds_of(view.provenance.frames, frames, start[0], end[0])), keys[0])


def frames_of(rule: str, tokens: int) -> int:
    """Return the frames of a clip that has so many tokens, by the rule of its view; 1 if tokens belong to no frame."""
    number = re.match(r"[1-9]\d*", rule)
    return int(number[0]) if number and tokens % int(number[0]) == 0 else 1


def seconds_of(rule: str, frames: int, start: float | None, end: float | None) -> list[float]:
    """Return the times of a clip's frames in its video, to about a frame; none if they are unknown."""
    if start is None or end is None or frames == 1:
        return []
    if "linspace" in rule:
        return [float(each) for each in np.linspace(start, end, frames)]
    return [start + (frame + 0.5) / frames * (end - start) for frame in range(frames)]
