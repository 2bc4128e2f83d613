"""Guarantees of retrieval.atlas."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from retrieval import atlas, build_index
from retrieval.__main__ import main
from retrieval.projection import project
from store import Store, View
from tests.retrieval.test_projection import made

Fill = Callable[..., View]


def written(store: Store, out: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[pl.DataFrame, dict]:
    """Run the verb; return the file and the record."""
    assert main(["atlas", "--store", str(store.path), "--view", "tiny", "--out", str(out), "--json", *options]) == 0
    return pl.read_parquet(out), json.loads(capsys.readouterr().out)


def naive(vectors: np.ndarray, k: int) -> tuple[list[list[int]], np.ndarray]:
    """Places of the k nearest other vectors, and their distances."""
    unit = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.lexsort((np.broadcast_to(np.arange(len(unit)), cosines.shape), -cosines.round(7)))[:, :k]
    return order.tolist(), 1 - np.take_along_axis(cosines, order, axis=1)


def test_coordinates_are_those_of_the_map(
    store: Store, clips: View, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame, record = written(store, tmp_path / "map.parquet", capsys)
    rows = np.setdiff1d(np.arange(30), [3, 8, 29])
    xy, _ = project(clips, rows)
    assert (frame.select("x", "y").to_numpy() == xy).all()
    assert frame["clip"].to_list() == [f"video_{at}_0_{at + 1}" for at in rows]
    assert frame.columns == ["clip", "step", "video", "narration", "x", "y", "neighbors"]
    assert frame["step"].to_list() == [f"step {at % 3}" for at in rows]
    assert record["command"] == (
        f"embedding-atlas {tmp_path / 'map.parquet'} --x x --y y --neighbors neighbors --text narration "
        "--disable-projection"
    )


@pytest.mark.parametrize("indexed", [False, True])
def test_neighbours_are_places_in_the_file(
    store: Store, clips: View, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    indexed: bool,
) -> None:  # fmt: skip
    if indexed:
        build_index(store, clips, factory="Flat")
        monkeypatch.setattr(atlas, "FLAT_BELOW", 5)
    options = ["--neighbours", "4", "--where", "step != 'step 1'"]
    frame, record = written(store, tmp_path / "map.parquet", capsys, *options)
    rows = np.array([at for at in range(30) if at not in (3, 8, 29) and at % 3 != 1])
    places, distances = naive(clips.read("embedding", rows, dtype="float32"), 4)
    assert record["clips"] == frame.height == len(rows) and record["neighbours"] == 4
    assert [one["ids"] for one in frame["neighbors"]] == places
    found = np.array([one["distances"] for one in frame["neighbors"]])
    np.testing.assert_allclose(found, distances, atol=1e-6)


def test_memory_is_bounded_by_a_piece(
    store: Store, clips: View, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = written(store, tmp_path / "whole.parquet", capsys)
    monkeypatch.setattr(atlas, "PIECE", 4)
    monkeypatch.setattr(atlas, "READ", 2)
    frame, _ = written(store, tmp_path / "map.parquet", capsys)
    assert frame.equals(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features", "map.parquet", "whole.parquet"]


def test_clips_with_few_neighbours_and_none(
    store: Store, fill: Fill, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, np.eye(2, 4, dtype=np.float32), ["a", "b"], columns={"x": ["catalog's own", "x"]})
    frame, record = written(store, tmp_path / "map.parquet", capsys)
    assert frame["neighbors"].to_list() == [{"ids": [1], "distances": [1.0]}, {"ids": [0], "distances": [1.0]}]
    assert frame.schema["x"] == pl.Float32 and record["neighbours"] == 1
    frame, record = written(store, tmp_path / "map.parquet", capsys, "--neighbours", "0")
    assert "neighbors" not in frame.columns and "--neighbors" not in record["command"]


def test_a_view_with_tokens_only(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = np.random.default_rng(5).normal(size=(20, 6, 8)).astype(np.float32)
    made(store, {"tokens": tokens})
    frame, _ = written(store, tmp_path / "map.parquet", capsys, "--neighbours", "3")
    assert [one["ids"] for one in frame["neighbors"]] == naive(tokens.mean(axis=1), 3)[0]


def test_what_cannot_be_written_is_one_line(
    store: Store, clips: View, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*options: str) -> str:
        given = ["--store", str(store.path), "--view", "tiny", "--out", str(tmp_path / "map.parquet")]
        assert main(["atlas", *given, *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "no clip of" in refused("--where", "step = 'none'")
    assert "has no embedding called size" in refused("--feature", "size")
    monkeypatch.setattr(atlas, "FLAT_BELOW", 5)
    assert "has no index: run `python -m retrieval build" in refused()
    assert not (tmp_path / "map.parquet").exists()
