"""int8 with a float16 scale for every 64 channels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from store.quantise import BLOCK, dequantise, quantise, scale_shape


def block_errors(values: np.ndarray) -> tuple[np.ndarray, float]:
    """The relative RMS error of every block of 64 channels, and that of all."""
    error = dequantise(*quantise(values)) - values
    blocks = values.shape[-1] // BLOCK
    squares = [np.square(x.astype(np.float64)).reshape(-1, blocks, BLOCK).sum(-1) for x in (error, values)]
    return np.sqrt(squares[0] / squares[1]), float(np.sqrt(squares[0].sum() / squares[1].sum()))


@pytest.mark.parametrize("outlier", [1, 10, 100])
@pytest.mark.parametrize("size", [1e-2, 1.0, 300.0])
def test_the_relative_error_is_bounded(outlier: int, size: float) -> None:
    rng = np.random.default_rng(outlier)
    values = rng.normal(0, size, (64, 49, 768)).astype(np.float32)
    values[..., [3, 200, 201, 700]] *= outlier  # as a few channels of ViT tokens have it
    each, every = block_errors(values)
    assert each.max() < 0.032
    assert every < 0.019


def test_an_outlier_drowns_no_other_block() -> None:
    values = np.random.default_rng(0).normal(size=(8, 128)).astype(np.float32)
    values[:, 3] = 1e4
    each, _ = block_errors(values)
    assert each[:, 1].max() < 0.01


finite = st.floats(-65504, 65504, width=16)


@given(hnp.arrays(np.float16, hnp.array_shapes(min_dims=1, max_dims=3, max_side=130), elements=finite))
def test_no_scale_is_zero_and_no_value_passes_127(values: np.ndarray) -> None:
    wide = values.astype(np.float32)
    levels, scale = quantise(wide)
    assert scale.shape == scale_shape(values.shape) and scale.dtype == np.float16
    assert (scale > 0).all() and np.isfinite(scale).all()
    assert (np.abs(levels.astype(int)) <= 127).all()
    step = np.repeat(scale.astype(np.float32), BLOCK, axis=-1)[..., : values.shape[-1]]
    assert (np.abs(dequantise(levels, scale) - wide) <= step * 0.5001).all(), "the scale is rounded up"
