"""int8 levels with scales, as floats that are quantised to the same bits."""

import numpy as np
import pytest

from store.format import levels
from store.format.levels import exact_floats
from store.format.quantise import Quantised, quantise


def kept(given: Quantised) -> np.ndarray:
    floats, same = exact_floats(given.levels, given.scale)
    made = quantise(floats[same])
    assert made.levels.tobytes() == given.levels[same].tobytes()
    assert made.scale.tobytes() == given.scale[same].tobytes()
    return same


@pytest.mark.parametrize("exponent", [-45, -35, -30, -28, -26, -24, -20, -16, -10, 0, 8, 15])
@pytest.mark.parametrize("width", [1, 63, 64, 65, 130])
def test_levels_and_scales_that_a_store_wrote_are_kept_to_the_bit(exponent: int, width: int) -> None:
    """Also where the scale is so small that the largest level of its block is below 127, or 0."""
    dice = np.random.default_rng(width)
    for dtype in (np.float32, np.float16):
        values = dice.uniform(-1, 1, size=(200, 2, width)) * 2.0**exponent
        values[:7] *= 2.0 ** -dice.integers(0, 8, size=(7, 2, width))
        values[3] = 0
        values = values.astype(dtype)
        assert kept(quantise(values)).all()


def test_levels_that_no_store_writes_are_found() -> None:
    given = quantise(np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32))
    given.levels[0] = np.clip(given.levels[0], -100, 100)
    given.scale[1], given.scale[2], given.scale[3] = np.nan, 0, -given.scale[3]
    given.levels[4, 5] = -128
    assert kept(given).tolist() == [False] * 5 + [True]


def test_pieces_give_the_same_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    given = quantise((np.random.default_rng(0).normal(size=(9, 2, 70)) * 1e-6).astype(np.float32))
    whole = exact_floats(*given)
    monkeypatch.setattr(levels, "_PIECE", 300)
    parts = exact_floats(*given)
    assert (whole[0] == parts[0]).all() and (whole[1] == parts[1]).all()
    assert all(array.shape[0] == 0 for array in exact_floats(given.levels[:0], given.scale[:0]))
