"""Pooled tokens: values, provenance, refusals, planned bytes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from store import Feature, Provenance, Store, View
from store.__main__ import main
from store.format.pool import pool_of, pooled, pooled_view, time_steps, unpooled
from store.verbs.options import PlanOptions, PoolOptions
from store.verbs.plan import plan
from store.verbs.pool import pool
from store.verbs.verify import verify

Make = Callable[..., Any]
FRAMES = 8  # as the provenance of tests says
SHAPE = (FRAMES * 4 * 4, 5)


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)


def test_each_pooled_token_is_the_mean_of_neighbouring_patches_of_one_frame(tokens: np.ndarray) -> None:
    found = pooled(tokens, FRAMES, 2)
    assert found.shape == (3, FRAMES * 2 * 2, 5) and found.dtype == np.float32
    grid, small = tokens.reshape(3, FRAMES, 4, 4, 5), found.reshape(3, FRAMES, 2, 2, 5)
    for frame in range(FRAMES):
        for y in range(2):
            for x in range(2):
                patches = grid[:, frame, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                np.testing.assert_allclose(small[:, frame, y, x], patches.mean((1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pooled(tokens, FRAMES, 4)[:, 0], grid[:, 0].mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_the_bits_of_a_pooled_row_depend_on_the_row_only(tokens: np.ndarray) -> None:
    together = pooled(tokens, FRAMES, 2)
    for row in range(3):
        assert pooled(tokens[row : row + 1], FRAMES, 2).tobytes() == together[row].tobytes()
    half = tokens.astype(np.float16)
    assert pooled(half, FRAMES, 2).tobytes() == pooled(half.astype(np.float32), FRAMES, 2).tobytes()


@pytest.mark.parametrize(
    ("number", "frames", "steps"),
    [(2048, "8 at linspace", 8), (1568, "8 evenly", 8), (256, "1 at the centre", 1), (1568, "16 at linspace", 8)],
)
def test_time_steps_are_frames_or_pairs_of_frames(number: int, frames: str, steps: int) -> None:
    assert time_steps(number, frames) == steps


def test_tokens_that_cannot_be_pooled_are_refused_in_one_line(provenance: Provenance) -> None:
    made = replace(provenance, frames="8 at linspace")
    for shape, frames, side, message in (
        ((8 * 257, 4), "8 at linspace", 2, "2056 tokens of 8 frames are no square grids"),
        ((392, 4), "8 at linspace", 2, "--pool 2 does not divide 7 x 7 patches: give 7"),
        ((8 * 144, 4), "8 at linspace", 5, "does not divide 12 x 12 patches: give 2 or 3 or 4 or 6 or 12"),
        ((392, 4), "all frames", 7, "'all frames' does not begin with one"),
        ((392, 4), "0 frames", 7, "does not begin with one"),
        ((392,), "8 at linspace", 7, "this one has tokens"),
        ((392, 4), "8 at linspace", 0, "--pool 0 is too small"),
    ):
        with pytest.raises(StepDiffError) as error:
            pooled_view(replace(made, frames=frames), {"tokens": Feature(shape, "float16")}, side)
        assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(StepDiffError, match="this one has embedding"):
        pooled_view(made, {"embedding": Feature((4,), "float32")}, 2)


def test_the_provenance_records_pooling(provenance: Provenance) -> None:
    made, features, steps = pooled_view(provenance, {"tokens": Feature(SHAPE, "int8")}, 2)
    assert made.layer == f"{provenance.layer}; mean of 2 x 2 patches" and steps == FRAMES
    assert features == {"tokens": Feature((FRAMES * 4, 5), "int8")}
    assert (pool_of(made), pool_of(provenance)) == (2, 1) and unpooled(made) == provenance


@pytest.fixture
def old(tmp_path: Path, provenance: Provenance, fill: Make) -> Callable[[str], View]:
    def make(dtype: str) -> View:
        """Return a view in which row 6 has failed and row 9 is absent."""
        store = Store.open(tmp_path / "store", create=True)
        store.catalog("clips").append(pl.DataFrame({"key": [f"c{i}" for i in range(11)]}))
        features = {"tokens": Feature(SHAPE, dtype), "embedding": Feature((7,), "float32")}
        with store.lock():
            made = replace(provenance, dtypes={"tokens": dtype, "embedding": "float32"})
            view = store.create_view("clips", "net", made, features, 4)
        view.write_shard(1, np.array([], np.int64), {}, {6: "no video"})
        fill(view, np.array([0, 1, 2, 3, 4, 5, 7, 8, 10]))
        return view

    return make


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_pooled_view_is_made_from_an_existing_one(
    old: Callable[[str], View], dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    view = old(dtype)
    steps = time_steps(SHAPE[0], view.provenance.frames)
    command = ["pool", str(view.paths.store), "--view", view.name, "--to", "small", "--pool", "2"]
    assert main(command) == 0
    assert f"9 clips of view {view.name} made into view small, tokens in {dtype}" in capsys.readouterr().out
    new = Store.open(view.paths.store).view("clips", "small")
    assert new.status().tolist() == view.status().tolist()
    assert new.failures().rows() == view.failures().rows()
    rows = np.flatnonzero(view.status() == 1)
    assert new.read("embedding", rows).tobytes() == view.read("embedding", rows).tobytes()
    expected = pooled(view.read("tokens", rows, dtype="float32"), steps, 2)
    if dtype == "int8":
        np.testing.assert_allclose(new.read("tokens", rows, dtype="float32"), expected, atol=0.05)
    else:
        assert new.read("tokens", rows).tobytes() == expected.astype(dtype).tobytes()
    assert new.provenance.dtypes["tokens"] == ("float32" if dtype == "float32" else f"{dtype} from {dtype}")
    assert verify(Store.open(view.paths.store)) == []
    assert main(command) == 0 and "0 clips of" in capsys.readouterr().out


def test_pool_options_are_refused_in_one_line(old: Callable[[str], View]) -> None:
    view = old("float16")
    for side, message in ((1, "averages nothing"), (3, "does not divide")):
        with pytest.raises(StepDiffError, match=message):
            pool(PoolOptions(str(view.paths.store), view.name, "small", side))
    assert Store.open(view.paths.store).views("clips") == [view.name]


def test_a_plan_shows_the_bytes_of_pooled_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "--clips", "136e6", "--encoder", "internvideo-mm-l14", "--dtype", "int8", "--json"]
    bytes_of = {}
    for side in ("1", "2"):
        assert main([*command, "--pool", side]) == 0
        found = json.loads(capsys.readouterr().out)
        bytes_of[side] = next(size["bytes"] for size in found["sizes"] if size["dtype"] == "int8")
    assert found["features"]["tokens"] == [512, 1024]
    assert 3.9 < bytes_of["1"] / bytes_of["2"] < 4
    with pytest.raises(StepDiffError, match="does not divide 7 x 7"):
        plan(PlanOptions(clips=1.0, encoder="efficientnet-lite0", pool=2))
