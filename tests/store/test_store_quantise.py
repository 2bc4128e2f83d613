"""Quantisation to int8 with a float16 scale per 64 channels, and back to floats that give the same
bits."""

import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from store import Feature, Store, text_key
from store.format.quantise import BLOCK, dequantise, quantise, scale_shape
from store.testing import tiny_store
from store.verbs.verify import verify
from tests.store.store_model import quantised, spread
from tests.stores import write_view


def of_many_sizes(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Return values with magnitudes from float16's subnormals to its maximum, and blocks of
    zeros."""
    rng = np.random.default_rng(len(shape))
    sizes = np.exp2(rng.integers(-30, 14, (*shape[:-1], 1))) * rng.integers(0, 2, (*shape[:-1], 1))
    values = (rng.normal(size=shape) * sizes).clip(-65504, 65504).astype(dtype)
    values[0, ..., :3] = 65504, -65504, 6e-8
    return values


def block_errors(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the relative RMS error of every block of 64 channels, and of all of them."""
    error = dequantise(*quantise(values)) - values
    blocks = values.shape[-1] // BLOCK
    squares = [
        np.square(x.astype(np.float64)).reshape(-1, blocks, BLOCK).sum(-1) for x in (error, values)
    ]
    return np.sqrt(squares[0] / squares[1]), float(np.sqrt(squares[0].sum() / squares[1].sum()))


@pytest.mark.parametrize("outlier", [1, 10, 100])
@pytest.mark.parametrize("size", [1e-2, 300.0])
def test_the_relative_error_is_bounded(outlier: int, size: float) -> None:
    rng = np.random.default_rng(outlier)
    values = rng.normal(0, size, (64, 49, 768)).astype(np.float32)
    values[..., [3, 200, 201, 700]] *= outlier  # as in a few channels of ViT tokens
    each, every = block_errors(values)
    assert each.max() < 0.032
    assert every < 0.019


@pytest.mark.full
def test_float32_in_a_float16_view_is_rounded_as_numpy_rounds_it(tmp_path: Path) -> None:
    """Compiled loops round calls of 2**28 bytes and more: values at, between and next to all
    float16."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves[1:] + halves[:-1]) / 2
    ties = np.concatenate(
        [halves, between, np.nextafter(between, np.float32(0)), np.nextafter(between, halves[1:])]
    )
    dice = np.random.default_rng(0).integers(0, 0x477FE000, 2**26, np.uint32).view(np.float32)
    values = np.resize(np.concatenate([ties, -ties, dice]), (64, 2**20))
    values[1, 7], values[2, 7], values[3, 7], values[4, 7] = 65520, np.nan, -np.inf, 65519.99
    view = write_view(
        tmp_path, 64, {"tokens": Feature((2**20,), "float16")}, {"tokens": values}, shard=64
    )
    assert view.failures()["key"].to_list() == ["c1", "c2", "c3"]
    good = np.delete(np.arange(64), [1, 2, 3])
    np.testing.assert_array_equal(
        view.read("tokens", good).view(np.uint16), values[good].astype("<f2").view(np.uint16)
    )


finite = st.floats(-65504, 65504, width=16)


@given(
    hnp.arrays(np.float16, hnp.array_shapes(min_dims=1, max_dims=3, max_side=130), elements=finite)
)
def test_no_scale_is_zero_and_no_level_exceeds_127(values: np.ndarray) -> None:
    wide = values.astype(np.float32)
    levels, scale = quantise(wide)
    assert scale.shape == scale_shape(values.shape) and scale.dtype == np.float16
    assert (scale > 0).all() and np.isfinite(scale).all()
    assert (np.abs(levels.astype(int)) <= 127).all()
    step = np.repeat(scale.astype(np.float32), BLOCK, axis=-1)[..., : values.shape[-1]]
    assert (np.abs(dequantise(levels, scale) - wide) <= step * 0.5001).all(), (
        "the scale is rounded up"
    )


@pytest.mark.parametrize(
    "shape", [(7, 50, 1), (7, 50, 63), (7, 50, 64), (7, 50, 65), (60, 70, 130), (3, 10, 1000)]
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_quantisation_equals_plain_numpy_bit_for_bit(shape: tuple[int, ...], dtype: type) -> None:
    # rows that are not adjacent
    values = of_many_sizes((*shape[:-1], shape[-1] + 2), dtype)[..., : shape[-1]]
    expected = quantised(values.astype(np.float32))
    for threads in (1, 3):  # of more than 2^17 channels
        levels, scale = quantise(values, threads)
        np.testing.assert_array_equal(levels, expected[0])
        np.testing.assert_array_equal(scale, expected[1])
    plain = levels * spread(scale, shape[-1])
    assert dequantise(levels, scale).tobytes() == plain.tobytes()
    half = dequantise(levels, scale, "float16")
    assert half.tobytes() == plain.clip(-65504, 65504).astype(np.float16).tobytes()


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_the_tiny_store_has_the_documented_values(where: str, tmp_path: Path) -> None:
    path = str(tmp_path / "store") if where == "folder" else f"memory://{uuid.uuid4().hex}/store"
    assert tiny_store(path).path == Store.open(path).path
    store = Store.open(path)
    clips = store.catalog("clips").frame()
    assert (
        clips["key"].to_list() == [f"clip_{n}" for n in range(6)]
        and clips["end"].to_list() == [2.0] * 6
    )
    assert clips["step"].to_list() == ["crack", "whisk"] * 3
    assert clips["split"].to_list() == ["train"] * 4 + ["test"] * 2
    assert clips["video"][3] == "videos/clip_3.mp4"
    view = store.view("clips", "tiny")
    rows = np.arange(4)
    tokens = view.read("tokens", rows)
    assert tokens.dtype == np.float16 and tokens.shape == (4, 3, 4)
    for row, n, d in np.ndindex(4, 3, 4):
        assert tokens[row, n, d] == row + n / 4 + d / 16
    assert (view.read("embedding", rows) == np.eye(4)).all() and view.features[
        "embedding"
    ].dtype == "float32"
    int8 = store.view("clips", "tiny-int8")
    levels, scale = int8.read_quantised("tokens", rows)
    assert levels.dtype == np.int8 and (scale == 1).all()
    for row, n in np.ndindex(4, 3):
        assert levels[row, n].tolist() == [127, row, n, -row]
    for one in (view, int8):
        assert one.status().tolist() == [1, 1, 1, 1, 2, 0] and one.rows_per_shard == 4
        assert one.failures().rows() == [("clip_4", "no video videos/clip_4.mp4")]
    texts = store.view("texts", "tiny")
    keys = [text_key(text) for text in ("crack", "whisk", "pour", "bake")]
    assert (texts.read("embedding", keys=keys) == np.eye(4)).all() and texts.features[
        "embedding"
    ].dtype == "float16"
    assert verify(store) == []
