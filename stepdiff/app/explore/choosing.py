"""Which clips of a map are chosen: by a condition, by words, by a lasso."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32

from retrieval.queries.condition import DURATION, parts_of, places_where, read_condition
from stepdiff.app.explore.maps import Shown
from stepdiff.app.site import RefusedError
from stepdiff.common.errors import StepDiffError

MOST_CORNERS = 200  # of a lasso
MOST_WORDS = 20
_NOT_SEARCHED = ("video_digest",)

Mask = Bool[np.ndarray, " clips"]


def passing(shown: Shown, where: str, words: str) -> tuple[Mask, str | None]:
    """Return the clips of a map that have `where` and `words`, and where no clip has, the part that excluded all.

    Args:
        where: A condition as `retrieval query --where` takes it, or nothing.
        words: Each must be in a text column as it is written, in upper or lower case.
    """
    parts: list[tuple[str, Mask]] = []
    if where.strip():
        whole = _where(shown, where)
        parts = [(part, whole if part == where.strip() else _where(shown, part)) for part in parts_of(where)]
    parts += [(f"the word {word!r}", _containing(shown, word)) for word in _words(words)]
    mask = np.logical_and.reduce([np.ones(len(shown.map.rows), bool), *(mask for _, mask in parts)])
    return mask, None if mask.any() or not parts else excluded(parts)


def excluded(parts: Sequence[tuple[str, Mask]]) -> str:
    """Return which part of a filter excluded everything, in one line; together they select nothing."""
    alone = [name for name, mask in parts if not mask.any()]
    if alone:
        return f"no clip has {' and none has '.join(alone)}"
    left = np.ones_like(parts[0][1])
    for at, (name, mask) in enumerate(parts):
        if not (left & mask).any():
            before = " AND ".join(other for other, _ in parts[:at])
            return f"{before} selects {_count(left)}, {name} selects {_count(mask)}, and no clip has both"
        left &= mask
    raise AssertionError("the parts select clips")


def inside(xy: Float32[np.ndarray, "clips 2"], corners: Sequence[tuple[float, float]]) -> Mask:
    """Return which points are inside a polygon, by the even-odd rule."""
    polygon = np.array(corners, np.float64).reshape(-1, 2)
    mask = np.zeros(len(xy), bool)
    if len(polygon) < 3:
        return mask
    near = np.flatnonzero(((xy >= polygon.min(axis=0)) & (xy <= polygon.max(axis=0))).all(axis=1))
    x, y = xy[near].T.astype(np.float64)
    odd = np.zeros(len(near), bool)
    for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        crosses = (y1 > y) != (y2 > y)
        if crosses.any():
            odd[crosses] ^= x[crosses] < (x2 - x1) * (y[crosses] - y1) / (y2 - y1) + x1
    mask[near] = odd
    return mask


def read_lasso(text: str) -> list[tuple[float, float]]:
    """Return the corners of `x,y,x,y,...`. StepDiffError where it is not such a list."""
    try:
        numbers = [float(number) for number in text.split(",")] if text else []
    except ValueError:
        numbers = [float("nan")]
    if len(numbers) % 2 or len(numbers) > 2 * MOST_CORNERS or not np.isfinite(numbers).all():
        raise StepDiffError(f"the lasso is not a list x,y,x,y,... of at most {MOST_CORNERS} corners: draw it again")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _where(shown: Shown, where: str) -> Mask:
    try:
        condition = read_condition(where, "the filter")
        places_where(shown.like, condition)  # refuses unknown columns, and values of another type
    except StepDiffError as error:
        text, columns = str(error), ", ".join([*shown.like.drop("row").columns, DURATION])
        text = text if columns in text else f"{text}; the catalog has {columns}"
        raise RefusedError(text, 400, field="where") from None
    needed = {"row", *condition.columns} | ({"start", "end"} if DURATION in condition.columns else set())
    mask = np.zeros(len(shown.map.rows), bool)
    mask[places_where(shown.read(*(name for name in shown.like.columns if name in needed)), condition)] = True
    return mask


def _words(text: str) -> list[str]:
    words = list(dict.fromkeys(text.split()))
    if len(words) > MOST_WORDS:
        raise RefusedError(f"the search has {len(words)} words: give at most {MOST_WORDS}", 400, field="words")
    return words


def _containing(shown: Shown, word: str) -> Mask:
    texts = [name for name, dtype in shown.like.schema.items() if dtype == pl.String and name not in _NOT_SEARCHED]
    pattern = f"(?i){pl.escape_regex(word)}"
    has = [pl.col(name).str.contains(pattern).fill_null(False) for name in texts]
    matches = shown.scan().select(pl.any_horizontal(has).alias("has")).collect(engine="streaming")
    return matches["has"].to_numpy().copy()


def _count(mask: Mask) -> str:
    count = int(np.count_nonzero(mask))
    return "1 clip" if count == 1 else f"{count:,} clips"
