"""Moments of a clip or video: vectors with times, of its frames or of its consecutive clips.

Guarantees
- the moments of a clip are in the order of time, and their times are seconds of the video
- moments with NaN, infinity or only zeros are refused, and the error names the clip and the moment
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from stepdiff_core.errors import StepDiffError
from store import View

_CATALOG = {"key": pl.String, "video": pl.String, "start": pl.Float64, "end": pl.Float64}


@dataclass(frozen=True)
class Moments:
    """T vectors of D channels with their times.

    Raises:
        StepDiffError: No moments, times that go back or are not one for each moment, or a vector
            without a direction.
    """

    vectors: Float[np.ndarray, "T D"]
    seconds: Float[np.ndarray, " times"]
    """T times that do not go back"""
    clip: str = "clip"
    """name for messages"""

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or not self.vectors.size:
            raise StepDiffError(
                f"{self.clip} has no moments, but an array {list(self.vectors.shape)}: give [T, D]"
            )
        if len(self.seconds) != len(self.vectors):
            raise StepDiffError(
                f"{self.clip} has {len(self.vectors)} moments and {len(self.seconds)} times: give "
                "one time for each"
            )
        if not np.isfinite(self.seconds).all() or (np.diff(self.seconds) < 0).any():
            raise StepDiffError(
                f"times of {self.clip} go back: sort its moments, and leave out clips that overlap"
            )
        lengths = np.sqrt(np.einsum("td,td->t", self.vectors, self.vectors, dtype=np.float64))
        for bad in np.flatnonzero(~np.isfinite(lengths) | (lengths == 0)):
            fault = "is all zeros" if lengths[bad] == 0 else "holds NaN or infinity"
            raise StepDiffError(
                f"moment {bad} of {self.clip} {fault}: it has no direction, leave it out"
            )


def read_moments(view: View, clips: str | Sequence[str], feature: str = "tokens") -> Moments:
    """Read the moments of a clip, or of several clips of one video in the order of time.

    Args:
        view: Of clips.
        clips: A clip, or clips of a video that do not overlap.
        feature: With `tokens`, moments are the frames of each clip: the mean of a frame's tokens.
            With a feature that is one vector, such as `embedding`, each clip is a moment, at its
            middle.

    Raises:
        StepDiffError: A clip without features or times, a view without tokens of frames, clips of
            several videos or clips that overlap.
    """
    keys = [clips] if isinstance(clips, str) else list(dict.fromkeys(clips))
    if not keys:
        raise StepDiffError("no clip is given: name one, or clips of a video")
    rows = view.catalog.select(view.rows(keys), pl.DataFrame(schema=_CATALOG)).sort("start", "end")
    if missing := rows.filter(pl.any_horizontal(pl.col("start", "end").is_null()))["key"].to_list():
        raise StepDiffError(
            f"the catalog has no start and end of {missing[0]}: featurize it from a manifest with "
            "them"
        )
    if rows["video"].n_unique() > 1:
        raise StepDiffError(
            f"{keys[0]} and the {len(keys) - 1} other clips are of several videos: give those of "
            "one"
        )
    values = view.read(feature, keys=rows["key"], dtype="float32")
    name = " to ".join(dict.fromkeys(rows["key"][[0, -1]]))
    if values.ndim == 2:
        return Moments(values, ((rows["start"] + rows["end"]) / 2).to_numpy(), name)
    rule = view.provenance.frames
    frames = frames_of(rule, values.shape[1])
    if frames == 1 or "repeated" in rule:
        raise StepDiffError(
            f"view {view.name} has no {feature} of several frames ({rule}): give the clips of a "
            "video and feature='embedding', or another view"
        )
    vectors = values.reshape(len(values) * frames, -1, values.shape[-1]).mean(axis=1)
    seconds = [
        seconds_of(rule, frames, start, end)
        for start, end in rows.select("start", "end").iter_rows()
    ]
    return Moments(vectors, np.concatenate(seconds), name)


def has_frames(view: View) -> bool:
    """Return whether `read_moments` can read frames of a view's clips from their tokens.

    Tokens of a video language model, which have a layout, belong to no frame.
    """
    tokens, rule = view.features.get("tokens"), view.provenance.frames
    if tokens is None or "layout" in view.features or "repeated" in rule:
        return False
    return frames_of(rule, tokens.shape[0]) > 1


def frames_of(rule: str, tokens: int) -> int:
    """Return the frames of a clip of `tokens` tokens, by the rule of its view; 1 if tokens belong
    to no frame."""
    number = re.match(r"[1-9]\d*", rule)
    return int(number[0]) if number and tokens % int(number[0]) == 0 else 1


def seconds_of(rule: str, frames: int, start: float | None, end: float | None) -> list[float]:
    """Return the times of a clip's frames in its video, to about a frame; none if they are
    unknown."""
    if start is None or end is None or frames == 1:
        return []
    if "linspace" in rule:
        return [float(each) for each in np.linspace(start, end, frames)]
    return [start + (frame + 0.5) / frames * (end - start) for frame in range(frames)]
