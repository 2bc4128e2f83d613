"""Raw speech given to the clips that it is about.

People speak of what they do before and after they do it. So each piece of speech goes to the clip that it is most like,
among the clips of its video that lie near it in time.

Guarantees
- a piece goes to the likest clip near it, or to none, in order of time
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from annotate.sources.narration import Piece


def given(
    pieces: Sequence[Piece],
    clips: Sequence[tuple[float, float]],
    cosine: Float[np.ndarray, "P C"],
    window: float,
    least: float,
) -> list[str]:
    """The speech of each clip of one video.

    pieces: by time; clips: start and end in seconds; window: seconds between a piece and a clip, at most; least: a
    piece goes to no clip below this cosine.
    """
    said: list[list[str]] = [[] for _ in clips]
    if not clips:
        return []
    start, end = np.array(clips).T
    for piece, row in zip(pieces, cosine, strict=True):
        near = (piece.start < end + window) & (piece.end > start - window)
        likeness = np.where(near & (row >= least), row, -np.inf)
        best = int(likeness.argmax())
        if np.isfinite(likeness[best]):
            said[best].append(piece.text)
    return [" ".join(texts) for texts in said]
