"""The choice of pairs: by seed among all pairs of clips that a step has.

No list of all pairs is ever made. The clips of a step are sorted by video, and the partners of a
clip are the clips of later videos. So the pairs of a step have consecutive numbers, and one binary
search finds the two clips of a number.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from jaxtyping import Int64, Integer

from heads.data.catalog_rows import knows_splits
from heads.data.clip_texts import ClipTexts
from heads.data.hold_out import REASONS, VIDEO, HoldOut, known_clips
from stepdiff_core.errors import StepDiffError
from stepdiff_core.streams import generator
from store import Store

SCHEMA = {
    "pair": pl.Int64,
    "reference": pl.String,
    "candidate": pl.String,
    "reference_step": pl.String,
    "candidate_step": pl.String,
    "same_step": pl.Boolean,
}
ROWS = 2**18  # pairs written at once
OTHER_SPLIT = "not of the train split"
_DRAWS = 4  # random pairs for each one that is wanted: most are of different steps


def same_step(
    step: Integer[np.ndarray, " C"],
    video: Integer[np.ndarray, " C"],
    names: Sequence[str],
    cap: int,
    seed: int,
) -> Int64[np.ndarray, "P 2"]:
    """Choose at most `cap` pairs of each step; returns the places of the two clips of each, in
    random order.

    step: of each clip, as a place in `names`; video: of each clip, as a number.
    """
    order = np.lexsort((video, step))
    starts, step_end = _groups(step[order])
    _, video_end = _groups(step[order], video[order])
    # pairs before those that begin with each clip
    numbered = np.concatenate([[0], np.cumsum(step_end - video_end)])
    numbers: list[int] = []
    tosses: list[int] = []
    for clip, low, high in zip(
        order[starts], numbered[starts].tolist(), numbered[step_end[starts]].tolist(), strict=True
    ):
        count = min(cap, high - low)
        if count:
            rng = generator(seed, "pairs of a step", names[step[clip]])
            numbers += (low + rng.choice(high - low, count, replace=False)).tolist()
            tosses += rng.integers(2, size=count).tolist()
    number, toss = np.array(numbers, np.int64), np.array(tosses, bool)
    first = np.searchsorted(numbered, number, side="right") - 1
    second = video_end[first] + number - numbered[first]
    return np.stack(
        [order[np.where(toss, second, first)], order[np.where(toss, first, second)]], axis=1
    )


def other_step(
    step: Integer[np.ndarray, " C"], video: Integer[np.ndarray, " C"], count: int, seed: int
) -> Int64[np.ndarray, "Q 2"]:
    """Choose at most `count` pairs of clips of different steps and videos; fewer if few exist."""
    if not len(step):
        return np.zeros((0, 2), np.int64)
    rng = generator(seed, "pairs of other steps", len(step))
    drawn = rng.integers(len(step), size=(_DRAWS * count, 2))
    drawn = drawn[
        (step[drawn[:, 0]] != step[drawn[:, 1]]) & (video[drawn[:, 0]] != video[drawn[:, 1]])
    ]
    _, once = np.unique(np.sort(drawn, axis=1), axis=0, return_index=True)
    return drawn[np.sort(once)[:count]]


def _groups(
    *keys: Integer[np.ndarray, " C"],
) -> tuple[Int64[np.ndarray, " groups"], Int64[np.ndarray, " C"]]:
    """Return the starts of runs of equal keys, and for each place the end of its run."""
    size = len(keys[0])
    change = np.zeros(max(size - 1, 0), bool)
    for key in keys:
        change |= key[1:] != key[:-1]
    starts = np.concatenate([np.zeros(min(size, 1), np.int64), np.flatnonzero(change) + 1])
    ends = np.append(starts[1:], size)[: len(starts)]
    return starts, np.repeat(ends, ends - starts)


def candidates(
    store: str, column: str, texts: str | None, hold_out: HoldOut
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return key, label, step and video of the clips that may be in a pair, and the number of
    others by reason.

    column: of the catalog, whose value (`label`) the clips of a pair share; texts: a file or folder
    in which a clip must have a text.
    """
    frame = known_clips(Store.open(store), "step", column)
    if column not in frame.columns:
        raise StepDiffError(
            f"{store}: no clip has a {column}; featurize a manifest with that column"
        )
    hold_out.look_up(frame)
    left_out = {}

    def keep(reason: str, kept: pl.Series | pl.Expr) -> None:
        nonlocal frame
        before = frame.height
        frame = frame.filter(kept)
        left_out[reason] = before - frame.height

    label = pl.col(column).cast(pl.String).str.strip_chars()
    step = pl.col("step").str.strip_chars() if "step" in frame.columns else label
    keep("no step", (label != "").fill_null(False))
    if knows_splits(frame):
        keep(OTHER_SPLIT, (pl.col("split") == "train").fill_null(False))
    if hold_out.files:
        frame = pl.concat(hold_out.kept([frame], "clips"))
        left_out |= {reason: hold_out.sources["clips"][reason] for reason in REASONS}
    if texts is not None:
        described = pl.Series(list(dict(ClipTexts(texts).items())), dtype=pl.String)
        keep("no text", pl.col("key").is_in(described.implode()))
    return frame.select(
        "key",
        label.alias("label"),
        step.fill_null("").alias("step"),
        VIDEO.fill_null("").alias("video"),
    ), left_out


def coded(values: pl.Series) -> tuple[Integer[np.ndarray, " C"], list[str]]:
    """Return each value as its place among the distinct values, and those, sorted."""
    different = values.unique().sort()
    return values.cast(pl.Enum(different)).to_physical().to_numpy(), different.to_list()


def rows(
    clips: pl.DataFrame, pairs: Int64[np.ndarray, "P 2"], order: Int64[np.ndarray, " P"], same: int
) -> Iterator[pl.DataFrame]:
    """Yield the rows of the file, ROWS at a time; the first `same` of the `pairs` are of one
    step."""
    for start in range(0, len(order), ROWS):
        chosen = order[start : start + ROWS]
        reference, candidate = (clips[pairs[chosen, side]] for side in (0, 1))
        yield pl.DataFrame(
            {
                "pair": np.arange(start, start + len(chosen)),
                "reference": reference["key"],
                "candidate": candidate["key"],
                "reference_step": reference["step"],
                "candidate_step": candidate["step"],
                "same_step": chosen < same,
            },
            schema=SCHEMA,
        )
