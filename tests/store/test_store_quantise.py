"""Quantisation to int8 with a float16 scale per 64 channels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import StepDiffError
from store.format import quantise as quantising
from store.format.quantise import BLOCK, dequantise, quantise, scale_shape


def plain_quantise(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the result that the compiled loops must give exactly."""
    exact = np.maximum.reduceat(np.abs(values), np.arange(0, values.shape[-1], BLOCK), axis=-1) / np.float32(127)
    scale = exact.astype(np.float16)
    scale = np.where(scale < exact, np.nextafter(scale, np.float16(np.inf)), scale)
    scale = np.where(exact == 0, np.float16(1), scale)
    return np.rint(values / spread(scale, values.shape[-1])).astype(np.int8), scale


def plain_dequantise(levels: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return levels * spread(scale, levels.shape[-1])


def spread(scale: np.ndarray, channels: int) -> np.ndarray:
    return np.repeat(scale.astype(np.float32), BLOCK, axis=-1)[..., :channels]


def of_many_sizes(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Return values with magnitudes from float16's subnormals to its maximum, and blocks of zeros."""
    rng = np.random.default_rng(len(shape))
    sizes = np.exp2(rng.integers(-30, 14, (*shape[:-1], 1))) * rng.integers(0, 2, (*shape[:-1], 1))
    values = (rng.normal(size=shape) * sizes).clip(-65504, 65504).astype(dtype)
    values[0, ..., :3] = 65504, -65504, 6e-8
    return values


def block_errors(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the relative RMS error of every block of 64 channels, and of all of them."""
    error = dequantise(*quantise(values)) - values
    blocks = values.shape[-1] // BLOCK
    squares = [np.square(x.astype(np.float64)).reshape(-1, blocks, BLOCK).sum(-1) for x in (error, values)]
    return np.sqrt(squares[0] / squares[1]), float(np.sqrt(squares[0].sum() / squares[1].sum()))


@pytest.mark.parametrize("outlier", [1, 10, 100])
@pytest.mark.parametrize("size", [1e-2, 1.0, 300.0])
def test_the_relative_error_is_bounded(outlier: int, size: float) -> None:
    rng = np.random.default_rng(outlier)
    values = rng.normal(0, size, (64, 49, 768)).astype(np.float32)
    values[..., [3, 200, 201, 700]] *= outlier  # as in a few channels of ViT tokens
    each, every = block_errors(values)
    assert each.max() < 0.032
    assert every < 0.019


def test_an_outlier_does_not_affect_other_blocks() -> None:
    values = np.random.default_rng(0).normal(size=(8, 128)).astype(np.float32)
    values[:, 3] = 1e4
    each, _ = block_errors(values)
    assert each[:, 1].max() < 0.01


finite = st.floats(-65504, 65504, width=16)


@given(hnp.arrays(np.float16, hnp.array_shapes(min_dims=1, max_dims=3, max_side=130), elements=finite))
def test_no_scale_is_zero_and_no_level_exceeds_127(values: np.ndarray) -> None:
    wide = values.astype(np.float32)
    levels, scale = quantise(wide)
    assert scale.shape == scale_shape(values.shape) and scale.dtype == np.float16
    assert (scale > 0).all() and np.isfinite(scale).all()
    assert (np.abs(levels.astype(int)) <= 127).all()
    step = np.repeat(scale.astype(np.float32), BLOCK, axis=-1)[..., : values.shape[-1]]
    assert (np.abs(dequantise(levels, scale) - wide) <= step * 0.5001).all(), "the scale is rounded up"


@pytest.mark.parametrize("channels", [1, 63, 64, 65, 1000])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("threads", [1, 3])
def test_quantisation_equals_plain_numpy_bit_for_bit(
    channels: int, dtype: type, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantising, "cores", lambda: threads)
    monkeypatch.setattr(quantising, "_LEAST", 1)
    values = of_many_sizes((7, 50, channels + 2), dtype)[..., :channels]  # rows that are not adjacent
    levels, scale = quantise(values)
    expected = plain_quantise(values.astype(np.float32))
    np.testing.assert_array_equal(levels, expected[0])
    np.testing.assert_array_equal(scale, expected[1])
    plain = plain_dequantise(levels, scale)
    assert dequantise(levels, scale).tobytes() == plain.tobytes()
    half = dequantise(levels, scale, np.empty(levels.shape, np.float16))
    assert half.tobytes() == plain.clip(-65504, 65504).astype(np.float16).tobytes()


@pytest.mark.parametrize("wrong", [np.nan, -np.nan, np.inf, -np.inf])
def test_the_scale_of_a_float16_block_that_is_not_finite_is_nan(wrong: float) -> None:
    values = of_many_sizes((6, 150), np.float16)
    values[4, 70] = wrong
    scale = quantise(values).scale
    assert np.argwhere(~np.isfinite(scale)).tolist() == [[4, 1]] and np.isnan(scale[4, 1])


def test_empty_arrays_are_quantised() -> None:
    levels, scale = quantise(np.zeros((0, 3, 70), np.float32))
    assert levels.shape == (0, 3, 70) and scale.shape == (0, 3, 2) and dequantise(levels, scale).shape == (0, 3, 70)


@pytest.mark.parametrize(
    "out", [np.empty((2, 64)), np.empty((3, 64), np.float32), np.empty((2, 128), np.float32)[:, ::2]]
)
def test_an_out_that_does_not_fit_is_refused(out: np.ndarray) -> None:
    with pytest.raises(StepDiffError, match="needs C-contiguous float32 or float16"):
        dequantise(np.zeros((2, 64), np.int8), np.ones((2, 1), np.float16), out)
