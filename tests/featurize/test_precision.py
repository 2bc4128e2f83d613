"""Stored features compared with features computed from the pixels in the same batch."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from featurize.encoders import Encoder, load
from store import Store
from store.format.quantise import BLOCK
from weights import resolve


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    try:
        resolve("efficientnet-lite0")
    except StepDiffError as problem:
        pytest.skip(str(problem))
    return load("efficientnet-lite0", device="cpu")


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 8, 224, 224, 3), dtype=np.uint8)


def stored(folder: Path, encoder: Encoder, frames: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """Return the features of the frames after storing them with tokens of type `dtype`."""
    rows = np.arange(len(frames))
    store = Store.open(folder, create=True)
    store.catalog("clips").append(pl.DataFrame({"key": [f"c{row}" for row in rows]}))
    with store.lock():
        view = store.create_view("clips", "net", encoder.provenance("clips", dtype), encoder.features("clips", dtype))
    view.write_shard(0, rows, encoder.encode_clips(frames), {})
    return {name: view.read(name, rows, dtype="float32") for name in view.features}


def test_float32_features_are_stored_exactly(tmp_path: Path, encoder: Encoder, frames: np.ndarray) -> None:
    fresh = encoder.encode_clips(frames)
    got = stored(tmp_path / "store", encoder, frames, "float32")
    assert set(got) == set(fresh) == {"tokens", "embedding"}
    for name, values in fresh.items():
        assert got[name].tobytes() == values.tobytes()


def test_float16_features_are_within_half_a_rounding_step(tmp_path: Path, encoder: Encoder, frames: np.ndarray) -> None:
    fresh = encoder.encode_clips(frames)["tokens"].astype(np.float64)
    error = np.abs(stored(tmp_path / "store", encoder, frames, "float16")["tokens"] - fresh)
    assert (error <= np.where(np.abs(fresh) < 2**-14, 2**-25, 2**-11 * np.abs(fresh))).all()
    assert error.any()


@pytest.mark.parametrize("outlier", [1, 100])
def test_int8_features_are_within_their_error_bounds(
    tmp_path: Path, encoder: Encoder, frames: np.ndarray, outlier: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = {name: values.copy() for name, values in encoder.encode_clips(frames).items()}
    fresh["tokens"][..., [3, 200, 201, 700]] *= outlier
    monkeypatch.setattr(encoder, "encode_clips", lambda frames: fresh)
    got = stored(tmp_path / "store", encoder, frames, "int8")["tokens"].astype(np.float64)
    blocks = fresh["tokens"].astype(np.float64).reshape(-1, BLOCK)
    errors = np.square(got.reshape(-1, BLOCK) - blocks).sum(-1)
    sizes = np.square(blocks).sum(-1)
    assert (errors < 0.032**2 * sizes)[sizes > 0].all() and not errors[sizes == 0].any()
    assert errors.sum() < 0.019**2 * sizes.sum()
