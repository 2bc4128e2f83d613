"""Guarantees of app.explore.choosing and app.explore.colours, against naive oracles."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from app.explore.choosing import excluded, inside, passing, read_lasso
from app.explore.colours import CATEGORIES, MISSING, SHADES, colours, columns_of, default_colour
from app.explore.maps import Shown
from app.site import UnknownError
from common.errors import StepDiffError
from retrieval.projection import Map

CLIPS = 60


@pytest.fixture
def shown() -> Shown:
    """A map of 60 clips."""
    clips = pl.DataFrame(
        {
            "key": [f"clip_{at}" for at in range(CLIPS)],
            "row": [*range(CLIPS)],
            "step": [("whisk (well)", "chop", None)[at % 3] for at in range(CLIPS)],
            "narration": [f"Now 100% {('MIX', 'mix.', 'Näh')[at % 3]} {at}" for at in range(CLIPS)],
            "start": [float(at) for at in range(CLIPS)],
            "end": [at + 1 + at % 4 / 2 for at in range(CLIPS)],
            "video": [f"v{at % 20}.mp4" for at in range(CLIPS)],
            "good": [at % 5 == 0 for at in range(CLIPS)],
        }
    )
    xy = np.random.default_rng(0).uniform(-1, 1, (CLIPS, 2)).astype(np.float32)
    return Shown("tiny", "pca", "0", Map(np.arange(CLIPS), xy, (0.5, 0.2), CLIPS), clips.lazy, clips.clear())


def changed(shown: Shown, change: Callable[[pl.LazyFrame], pl.LazyFrame]) -> Shown:
    """Return a map with other columns."""
    return replace(shown, scan=lambda: change(shown.scan()), like=change(shown.like.lazy()).collect())


CASES = {
    ("", ""): lambda at: True,
    ("step = 'chop'", ""): lambda at: at % 3 == 1,
    ("duration > 1.9 AND start < 30", ""): lambda at: at % 4 >= 2 and at < 30,
    ("", "MIX"): lambda at: at % 3 < 2,
    ("", "mix."): lambda at: at % 3 == 1,
    ("", "100% (WELL)"): lambda at: at % 3 == 0,
    ("", "näh"): lambda at: at % 3 == 2,
    ("good", "clip_5"): lambda at: at % 5 == 0 and (at == 5 or 50 <= at < 60),
    ("step IS NULL OR good", ""): lambda at: at % 3 == 2 or at % 5 == 0,
}


@pytest.mark.parametrize(("where", "words"), CASES)
def test_words_are_searched_as_they_are_written(shown: Shown, where: str, words: str) -> None:
    found, why = passing(shown, where, words)
    assert np.flatnonzero(found).tolist() == [at for at in range(CLIPS) if CASES[where, words](at)] and why is None


@pytest.mark.parametrize(
    ("where", "words", "reason"),
    [
        ("step = 'fry' AND duration > 1", "", "no clip has step = 'fry'"),
        (
            "step = 'fry' AND start < 0", "zebra",
            "no clip has step = 'fry' and none has start < 0 and none has the word 'zebra'",
        ),
        (
            "duration > 1 AND step = 'chop' AND narration LIKE '%MIX%'", "",
            "duration > 1 AND step = 'chop' selects 15 clips, narration LIKE '%MIX%' selects 20 clips, "
            "and no clip has both",
        ),
        (
            "step = 'chop'", "näh",
            "step = 'chop' selects 20 clips, the word 'näh' selects 20 clips, and no clip has both",
        ),
        ("start = 3", "clip_4", "start = 3 selects 1 clip, the word 'clip_4' selects 11 clips, and no clip has both"),
    ],
)  # fmt: skip
def test_an_empty_result_names_the_part_of_the_filter_that_excluded_everything(
    shown: Shown, where: str, words: str, reason: str
) -> None:
    found, why = passing(shown, where, words)
    assert not found.any() and why == reason


def test_any_filter_without_a_clip_has_a_reason(shown: Shown) -> None:
    random = np.random.default_rng(4)
    for _ in range(200):
        parts = [(f"part {at}", random.random(12) < 0.4) for at in range(random.integers(1, 5))]
        if not np.logical_and.reduce([mask for _, mask in parts]).any():
            assert "part" in excluded(parts) and "\n" not in excluded(parts)


def test_a_wrong_filter_is_one_line(shown: Shown) -> None:
    for where, message in [
        ("step ==", "^the filter 'step ==' is not a condition"),
        ("size > 3", "^the filter names no column of the clips: size; the catalog has key, step, .*duration$"),
        ("read_csv('/etc/passwd') = 1", "^the filter uses the function read_csv, which is not allowed"),
    ]:
        with pytest.raises(StepDiffError, match=message) as caught:
            passing(shown, where, "")
        assert "\n" not in str(caught.value)
    with pytest.raises(StepDiffError, match="has 21 words"):
        passing(shown, "", " ".join(map(str, range(21))))


def test_a_lasso_chooses_the_points_that_are_inside_by_the_even_odd_rule(shown: Shown) -> None:
    random = np.random.default_rng(8)
    for corners in (3, 5, 40):
        polygon = [tuple(corner) for corner in random.uniform(-1, 1, (corners, 2)).tolist()]
        found = inside(shown.map.xy, polygon)
        assert found.tolist() == [naive_inside(x, y, polygon) for x, y in shown.map.xy.astype(float).tolist()]
        assert (inside(shown.map.xy, read_lasso(",".join(f"{x},{y}" for x, y in polygon))) == found).all()
    square = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]
    assert (inside(shown.map.xy, square) == (np.abs(shown.map.xy) < 0.5).all(axis=1)).all()
    assert not inside(shown.map.xy, square[:2]).any()


def naive_inside(x: float, y: float, polygon: list[tuple[float, float]]) -> bool:
    """Count the edges that a ray to the right crosses."""
    crossed = 0
    for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
            crossed += 1
    return crossed % 2 == 1


@pytest.mark.parametrize("text", ["1,2,3", "a,b", "nan,1", "inf,2", ",".join(["1"] * 402)])
def test_a_damaged_lasso_is_refused(text: str) -> None:
    with pytest.raises(StepDiffError, match="the lasso is not a list"):
        read_lasso(text)


def test_the_counts_of_the_legend_add_up_and_its_conditions_select_the_clips_that_it_counts(shown: Shown) -> None:
    for column in ("step", "video", "good", "narration"):
        legend, codes = colours(shown, column)
        assert sum(entry.count for entry in legend.entries) + legend.others + legend.missing == CLIPS
        for code, entry in enumerate(legend.entries):
            found, _ = passing(shown, entry.where, "")
            assert np.flatnonzero(found).tolist() == np.flatnonzero(codes == code).tolist()
            assert int(found.sum()) == entry.count
        assert (codes == CATEGORIES).sum() == legend.others and (codes == MISSING).sum() == legend.missing
    legend, _ = colours(changed(shown, lambda clips: clips.rename({"step": "select"})), "select")
    assert legend.entries[0].where == "\"select\" = 'chop'" and len(legend.entries) == 2


def test_numbers_have_a_ramp(shown: Shown) -> None:
    legend, codes = colours(shown, "start")
    order = np.argsort(codes, kind="stable")
    assert order.tolist() == [*range(CLIPS)] and codes.min() == 0 and codes.max() == SHADES - 1
    assert legend.kind == "numbers" and legend.low == pytest.approx(0.59) and legend.high == pytest.approx(58.41)
    size = pl.when(pl.col("row") < 2).then(pl.lit(None)).otherwise(7.0).alias("size")
    legend, codes = colours(changed(shown, lambda clips: clips.with_columns(size)), "size")
    assert (legend.low, legend.high, legend.missing, codes[:3].tolist()) == (7.0, 7.0, 2, [MISSING, MISSING, 0])


def test_columns(shown: Shown) -> None:
    assert [column.name for column in columns_of(shown.like)] == [
        "step", "narration", "start", "end", "video", "good", "duration",
    ]  # fmt: skip
    assert default_colour(shown) == "step"
    assert default_colour(changed(shown, lambda clips: clips.drop("step"))) == "video"
    with pytest.raises(UnknownError, match="no column 'size': the columns are step"):
        colours(shown, "size")
