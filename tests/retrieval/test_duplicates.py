"""Near-duplicates compared with a float64 comparison of all pairs, and refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval import build_index, duplicates
from retrieval.__main__ import main
from retrieval.mining.duplicates import Groups, join
from store import Store, View

Fill = Callable[..., View]


@pytest.fixture
def copied(store: Store, fill: Fill) -> View:
    """A view of 90 clips of 8 channels in 9 videos; every third nearly copies an earlier one; one failed."""
    rng = np.random.default_rng(8)
    vectors = rng.normal(size=(90, 8)).astype(np.float32)
    for at in range(3, 90, 3):
        vectors[at] = vectors[rng.integers(at)] + 0.12 * rng.normal(size=8)
    vectors[50] = 3 * vectors[49]
    columns = {
        "video": [f"v{at % 9}.mp4" if at != 7 else None for at in range(90)],
        "split": [("train", "val", "test", None)[at % 4] for at in range(90)],
    }
    return fill(store, vectors, [f"clip_{at}_0_1" for at in range(90)], failed=(33,), columns=columns)


def naive(
    store: Store, view: View, threshold: float
) -> tuple[set[frozenset[str]], set[frozenset[str]], dict[str, float]]:
    """Return the groups, the chains, and the cosine of each clip to its nearest copy."""
    frame = store.catalog("clips").frame()
    rows = np.flatnonzero(view.status() == 1)
    vectors = view.read("embedding", rows, dtype="float32").astype(np.float64)
    vectors /= np.sqrt(np.sum(vectors**2, axis=1, keepdims=True))
    chains = {frame["key"][int(row)]: {frame["key"][int(row)]} for row in rows}
    firsts: dict[str, set[str]] = {}
    nearest: dict[str, float] = {}
    for a, one in enumerate(rows):
        near = set()
        for b, other in enumerate(rows):
            cosine = float(vectors[a] @ vectors[b])
            videos = frame["video"][int(one)], frame["video"][int(other)]
            if a == b or cosine < threshold - 1e-9 or (videos[0] == videos[1] and videos[0] is not None):
                continue
            first, second = frame["key"][int(one)], frame["key"][int(other)]
            nearest[first] = max(nearest.get(first, -1), cosine)
            near.add(second)
            if chains[first] is not chains[second]:
                both = chains[first] | chains[second]
                for clip in both:
                    chains[clip] = both
        if near:
            joined = next((clip for clip in firsts if clip in near), frame["key"][int(one)])
            firsts.setdefault(joined, set()).add(frame["key"][int(one)])
    of_chains = {frozenset(chain) for chain in chains.values() if len(chain) > 1}
    return {frozenset(group) for group in firsts.values()}, of_chains, nearest


def grouped(found: pl.DataFrame) -> set[frozenset[str]]:
    return {frozenset(clips) for clips in found.group_by("group").agg("clip")["clip"]}


@pytest.mark.parametrize("threshold", [0.9, 0.98, 1.0])
@pytest.mark.parametrize("tile", [1024, 5])
def test_groups_equal_those_of_all_pairs(
    monkeypatch: pytest.MonkeyPatch, store: Store, copied: View, threshold: float, tile: int
) -> None:
    """In one block, and in pieces, blocks and tiles of a few rows that the diagonal crosses."""
    if tile < 1024:
        monkeypatch.setattr("retrieval.mining.duplicates.TILE", tile)
        monkeypatch.setattr("retrieval.mining.duplicates.BLOCK", 7)
        monkeypatch.setattr("retrieval.vectors.BLOCK", 7)
        monkeypatch.setattr("retrieval.mining.duplicates.HELD_BYTES", 16 * 8 * 4)
    found = duplicates(store, store.view("clips", "tiny"), threshold)
    groups, chains, nearest = naive(store, copied, threshold)
    assert len(chains) > 0 and grouped(found) == groups
    assert found["group"].unique().to_list() == list(range(1, len(groups) + 1))
    cosines = dict(zip(found["clip"], found["similarity"], strict=True))
    assert cosines == pytest.approx(nearest, abs=1e-6)


def test_an_exact_index_finds_the_same_duplicates(store: Store, copied: View) -> None:
    build_index(store, copied)
    by_index = duplicates(store, store.view("clips", "tiny"), 0.9, by="index")
    exact = duplicates(store, store.view("clips", "tiny"), 0.9)
    assert grouped(by_index) == grouped(exact)
    assert by_index["similarity"].to_list() == pytest.approx(exact["similarity"].to_list(), abs=1e-6)


def test_clips_of_one_video_are_not_duplicates_of_each_other(store: Store, fill: Fill) -> None:
    vectors = np.ones((5, 4), np.float32)
    fill(store, vectors, list("abcde"), columns={"video": ["one", "one", None, None, "one"]})
    found = duplicates(store, store.view("clips", "tiny"))
    assert sorted(found["clip"]) == list("abcde")  # connected by the clips of unknown video
    store_of_one = Store.open(store.path.with_name("other"), create=True)
    fill(store_of_one, vectors, list("abcde"), columns={"video": ["one"] * 5})
    assert duplicates(store_of_one, store_of_one.view("clips", "tiny")).height == 0


def test_against_split_keeps_the_groups_that_leak(store: Store, copied: View) -> None:
    split = dict(store.catalog("clips").frame().select("key", "split").iter_rows())
    groups, chains, _ = naive(store, copied, 0.9)
    leaking = {chain for chain in chains if len({split[clip] for clip in chain} - {None}) > 1}
    assert 0 < len(leaking) < len(chains)
    found = duplicates(store, store.view("clips", "tiny"), 0.9, against="split")
    assert grouped(found) == {group for group in groups if any(group <= chain for chain in leaking)}
    assert dict(found.select("clip", "split").iter_rows()) == {c: split[c] for chain in leaking for c in chain}


@pytest.mark.parametrize("by", ["exact", "index"])
def test_a_group_has_only_duplicates_of_its_first_clip(store: Store, fill: Fill, by: Literal["exact", "index"]) -> None:
    """A is near B and B near C, but A is not near C; D, a copy of A, is a test clip."""
    angles = np.radians([0, 20, 40, 1])
    vectors = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1).astype(np.float32)
    columns = {"video": ["one", "two", "one", "three"], "split": ["train", "train", "train", "test"]}
    view = fill(store, vectors, list("ABCD"), columns=columns)
    build_index(store, view)
    found = duplicates(store, store.view("clips", "tiny"), 0.9, by=by)
    rows = found.select("group", "clip", "copy").rows()
    assert rows == [(1, "A", "D"), (1, "D", "A"), (1, "B", "D"), (2, "C", "B")]
    leaking = duplicates(store, store.view("clips", "tiny"), 0.9, "split", by)
    assert leaking.filter(split="train")["clip"].to_list() == ["A", "B", "C"], "chains count across splits"


@given(edges=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)).filter(lambda e: e[0] < e[1]), max_size=40))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_connected_rows_have_the_same_root(edges: list[tuple[int, int]]) -> None:
    """Two clips have the same root if and only if a path of edges connects them."""
    groups = Groups.none(np.arange(20))
    first, second = np.array(sorted(edges), np.int64).reshape(-1, 2).T
    cosines = np.ones(len(edges), np.float32)
    join(first, second, cosines, groups.video, groups.first, groups.parent, groups.nearest, groups.cosine)
    for clip, its_first in enumerate(groups.first):
        assert its_first == clip or ((its_first, clip) in edges and groups.first[its_first] == its_first)
    reach = np.eye(20, dtype=bool)
    for a, b in edges:
        reach[a, b] = reach[b, a] = True
    for _ in range(20):
        reach |= reach @ reach
    roots = groups.roots()
    assert ((roots[:, None] == roots) == reach).all()


def test_duplicates_from_the_command_line(
    store: Store, copied: View, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["duplicates", "--store", str(store.path), "--view", "tiny", "--threshold", "0.9"]
    groups, _, nearest = naive(store, copied, 0.9)
    assert main([*start, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["groups"] == len(groups) and {one["clip"] for one in answer["clips"]} == set(nearest)
    assert main([*start, "--out", str(tmp_path / "duplicates.parquet")]) == 0
    title = f"{len(groups)} groups, {len(nearest)} clips with a copy at 0.9 or above in tiny"
    assert capsys.readouterr().out == f"{tmp_path / 'duplicates.parquet'}: {title}\n"
    assert set(pl.read_parquet(tmp_path / "duplicates.parquet")["clip"]) == set(nearest)
    assert main(start) == 0
    printed = capsys.readouterr().out
    assert title in printed and "clip_50_0_1" in printed
    refused = {
        ("--against", "fold"): "clips have no column 'fold': the catalog has key, row, video, split",
        ("--by", "index"): "has no index: run `python -m retrieval build",
        ("--out", "duplicates.txt"): "duplicates.txt is none of .parquet, .csv, .jsonl",
    }
    for words, why in refused.items():
        assert main([*start, *words]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and why in err


def test_a_view_with_nan_is_refused(store: Store, fill: Fill, capsys: pytest.CaptureFixture[str]) -> None:
    vectors = np.eye(4, dtype=np.float32)
    vectors[2] = 0
    fill(store, vectors, list("abcd"), columns={"video": list("wxyz")})
    assert main(["duplicates", "--store", str(store.path), "--view", "tiny"]) == 2
    assert "the embedding of c in clips/tiny is all zeros: run `python -m store verify" in capsys.readouterr().err
