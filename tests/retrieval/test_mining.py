"""Near-duplicates, neighbours of a step and DiffMCQ negatives compared with naive implementations;
killed runs."""

import json
import math
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from operator import ne
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import (
    Drawn,
    StatedDifference,
    StatedDifferences,
    build_index,
    duplicates,
    hard_negatives,
)
from retrieval.mining import negatives
from retrieval.mining.negatives import AsTrue, random_negatives, write_questions
from retrieval.mining.neighbours import join
from retrieval.verbs.files import Negatives, Neighbours
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.testsets import Pair, read_test_set
from store import Store, View
from tests.retrieval.conftest import Fill, error
from tests.store.conftest import Run


@pytest.fixture
def copied(store: Store, fill: Fill) -> View:
    """A view of 90 clips of 8 channels in 9 videos; every third nearly copies an earlier one; one
    failed."""
    rng = np.random.default_rng(8)
    vectors = rng.normal(size=(90, 8)).astype(np.float32)
    for at in range(3, 90, 3):
        vectors[at] = vectors[rng.integers(at)] + 0.12 * rng.normal(size=8)
    vectors[50] = 3 * vectors[49]
    columns = {
        "video": [f"v{at % 9}.mp4" if at != 7 else None for at in range(90)],
        "split": [("train", "val", "test", None)[at % 4] for at in range(90)],
    }
    return fill(
        store, vectors, [f"clip_{at}_0_1" for at in range(90)], failed=(33,), columns=columns
    )


def naive_groups(
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
            if (
                a == b
                or cosine < threshold - 1e-9
                or (videos[0] == videos[1] and videos[0] is not None)
            ):
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


def grouped(clips: pl.DataFrame) -> set[frozenset[str]]:
    return {frozenset(clips) for clips in clips.group_by("group").agg("clip")["clip"]}


@pytest.mark.parametrize("threshold", [0.9, 0.98, 1.0])
def test_groups_equal_those_of_all_pairs(store: Store, copied: View, threshold: float) -> None:
    clips = duplicates(store, store.view("clips", "tiny"), threshold)
    groups, chains, nearest = naive_groups(store, copied, threshold)
    assert len(chains) > 0 and grouped(clips) == groups
    assert clips["group"].unique().to_list() == list(range(1, len(groups) + 1))
    assert dict(zip(clips["clip"], clips["similarity"], strict=True)) == pytest.approx(
        nearest, abs=1e-6
    )


@pytest.mark.full
def test_copies_in_other_blocks_are_found(store: Store, fill: Fill) -> None:
    """Each clip of the second half, in another order, copies one of the first, so that most pairs
    cross blocks."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(4500, 16)).astype(np.float32)
    order = rng.permutation(4500)
    columns = {"video": [f"v{at}.mp4" for at in range(9000)]}
    fill(
        store,
        np.concatenate([first, first[order]]),
        [f"c{at}" for at in range(9000)],
        columns=columns,
        shard=4096,
    )
    clips = duplicates(store, store.view("clips", "tiny"), 0.9999)
    expected = {frozenset({f"c{one}", f"c{4500 + at}"}) for at, one in enumerate(order.tolist())}
    assert grouped(clips) == expected


def test_clips_of_one_video_are_not_duplicates_of_each_other(store: Store, fill: Fill) -> None:
    vectors = np.ones((5, 4), np.float32)
    fill(store, vectors, list("abcde"), columns={"video": ["one", "one", None, None, "one"]})
    clips = duplicates(store, store.view("clips", "tiny"))
    assert sorted(clips["clip"]) == list("abcde")  # connected by the clips of unknown video
    store_of_one = Store.open(store.path.with_name("other"), create=True)
    fill(store_of_one, vectors, list("abcde"), columns={"video": ["one"] * 5})
    assert duplicates(store_of_one, store_of_one.view("clips", "tiny")).height == 0


def test_against_split_keeps_the_groups_that_leak(store: Store, copied: View) -> None:
    split = dict(store.catalog("clips").frame().select("key", "split").iter_rows())
    groups, chains, _ = naive_groups(store, copied, 0.9)
    leaking = {chain for chain in chains if len({split[clip] for clip in chain} - {None}) > 1}
    assert 0 < len(leaking) < len(chains)
    clips = duplicates(store, store.view("clips", "tiny"), 0.9, against="split")
    assert grouped(clips) == {group for group in groups if any(group <= chain for chain in leaking)}
    assert dict(clips.select("clip", "split").iter_rows()) == {
        c: split[c] for chain in leaking for c in chain
    }


@pytest.mark.parametrize("by", ["exact", "index"])
def test_a_group_has_only_duplicates_of_its_first_clip(
    store: Store, fill: Fill, by: Literal["exact", "index"]
) -> None:
    """A is near B and B near C, but A is not near C; D, a copy of A, is a test clip."""
    angles = np.radians([0, 20, 40, 1])
    vectors = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1).astype(np.float32)
    columns = {
        "video": ["one", "two", "one", "three"],
        "split": ["train", "train", "train", "test"],
    }
    view = fill(store, vectors, list("ABCD"), columns=columns)
    build_index(store, view)
    clips = duplicates(store, store.view("clips", "tiny"), 0.9, by=by)
    rows = clips.select("group", "clip", "copy").rows()
    assert rows == [(1, "A", "D"), (1, "D", "A"), (1, "B", "D"), (2, "C", "B")]
    leaking = duplicates(store, store.view("clips", "tiny"), 0.9, "split", by)
    assert leaking.filter(split="train")["clip"].to_list() == ["A", "B", "C"], (
        "chains count across splits"
    )


def test_duplicates_from_the_command_line(
    store: Store, copied: View, tmp_path: Path, run: Run
) -> None:
    start, out = (
        ["duplicates", "--store", store.path, "--view", "tiny", "--threshold", 0.9],
        tmp_path / "d.parquet",
    )
    groups, _, nearest = naive_groups(store, copied, 0.9)
    answer = run(*start, "--json").json
    assert answer["groups"] == len(groups) and {one["clip"] for one in answer["clips"]} == set(
        nearest
    )
    title = f"{len(groups)} groups, {len(nearest)} clips with a copy at 0.9 or above in tiny"
    assert run(*start, "--out", out) == (0, f"{out}: {title}\n", "")
    assert set(pl.read_parquet(out)["clip"]) == set(nearest)
    printed = run(*start).out
    assert title in printed and "clip_50_0_1" in printed
    refused = {
        (
            "--against",
            "fold",
        ): "clips have no column 'fold': the catalog has key, row, video, split",
        ("--against", "key"): "--against key: the output needs that name itself",
        ("--against", "group"): "--against group: the output needs that name itself",
        ("--by", "index"): "has no index: run `python -m retrieval build",
        ("--out", "duplicates.txt"): "duplicates.txt is none of .parquet, .csv, .jsonl",
    }
    for words, why in refused.items():
        assert why in error(run, *start, *words)
    build_index(store, copied)
    assert "compares embedding, not tokens" in error(
        run, *start, "--by", "index", "--feature", "tokens"
    )


STEPS = ["chop"] * 40 + ["whisk"] * 7 + ["lone"] + [None] * 3 + ["fry"] * 21


@pytest.fixture
def steps(store: Store, fill: Fill) -> View:
    """A view of 72 clips of four steps in mixed order: two failed, three without step, eight
    without video."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(72, 12)).astype(np.float32)
    vectors[10] = vectors[11]
    step = [STEPS[at] for at in rng.permutation(72)]
    columns = {
        "step": step,
        "video": [None if at % 9 == 8 else f"v{at % 5}.mp4" for at in range(72)],
    }
    return fill(
        store, vectors, [f"video_{at}_0_1" for at in range(72)], failed=(4, 30), columns=columns
    )


def naive_neighbours(
    store: Store, view: View, k: int, other_videos: bool = False
) -> dict[str, list[tuple[str, float]]]:
    """Return clip -> neighbours and cosines, from comparing it with every other clip."""
    frame, status = store.catalog("clips").frame(), view.status()
    unit = {}
    for key, row in zip(frame["key"], frame["row"], strict=True):
        if status[row] == 1:
            vector = view.read("embedding", np.array([row]), dtype="float32")[0].astype(np.float64)
            unit[key] = vector / np.sqrt(np.sum(vector * vector))
    filled = {
        row["key"]: row for row in frame.iter_rows(named=True) if row["key"] in unit and row["step"]
    }
    neighbours = {}
    for one, mine in filled.items():
        others = [
            (float(np.sum(unit[one] * unit[other])), theirs["row"], other)
            for other, theirs in filled.items()
            if other != one and mine["step"] == theirs["step"]
            if not (other_videos and mine["video"] is not None and mine["video"] == theirs["video"])
        ]
        others.sort(key=lambda at: (-at[0], at[1]))
        neighbours[one] = [(other, cosine) for cosine, _, other in others[:k]]
    return neighbours


def check_neighbours(out: Path, expected: dict[str, list[tuple[str, float]]]) -> None:
    frame = pl.read_parquet(out)
    assert frame["clip"].is_unique().all() and set(frame["clip"]) == set(expected)
    assert frame["step"].to_list() == sorted(frame["step"].to_list())
    for row in frame.iter_rows(named=True):
        assert row["neighbours"] == [clip for clip, _ in expected[row["clip"]]]
        np.testing.assert_allclose(
            row["similarities"], [cosine for _, cosine in expected[row["clip"]]], atol=1e-6
        )


@pytest.mark.parametrize("other_videos", [False, True])
def test_neighbours_equal_those_of_a_naive_join(
    store: Store, steps: View, tmp_path: Path, other_videos: bool
) -> None:
    out = tmp_path / "neighbours.parquet"
    assert join(Neighbours(store.path, "tiny", out, k=9, other_videos=other_videos))["clips"] == 67
    check_neighbours(out, naive_neighbours(store, steps, 9, other_videos))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["features", "neighbours.parquet"]


@pytest.mark.full
def test_neighbours_in_a_step_of_many_blocks(store: Store, fill: Fill, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(9000, 16)).astype(np.float32)
    fill(
        store,
        vectors,
        [f"c{at}" for at in range(9000)],
        columns={"step": ["chop"] * 9000},
        shard=4096,
    )
    assert join(Neighbours(store.path, "tiny", tmp_path / "n.parquet", k=3))["clips"] == 9000
    frame = pl.read_parquet(tmp_path / "n.parquet")
    unit_vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float64)
    for row in frame[::97].iter_rows(named=True):
        at = int(row["clip"][1:])
        cosines = unit_vectors @ unit_vectors[at]
        cosines[at] = -2
        assert row["neighbours"] == [f"c{other}" for other in np.argsort(-cosines)[:3]]


def test_a_killed_run_resumes_with_the_same_file(store: Store, fill: Fill, tmp_path: Path) -> None:
    """After the first of three pieces; damaged pieces, and pieces of another join, are refused in
    one line."""
    clips = 140_000
    columns = {"step": [f"step {at // 40}" for at in range(clips)]}
    vectors = np.random.default_rng(0).normal(size=(clips, 4)).astype(np.float32)
    fill(store, vectors, [f"c{at}" for at in range(clips)], columns=columns, shard=32_768)
    out = tmp_path / "killed.parquet"
    words = ["neighbours", "--store", str(store.path), "--view", "tiny", "--out", str(out)]
    folder = tmp_path / "killed.parquet.parts"
    # a join that ends before it is killed is started again
    while not list(folder.glob("0*.parquet")):
        out.unlink(missing_ok=True)
        run = subprocess.Popen(
            [sys.executable, "-m", "retrieval", *words], cwd=Path(__file__).parents[2]
        )
        while not list(folder.glob("0*.parquet")) and run.poll() is None:
            time.sleep(0.001)
        run.kill()
        assert run.wait() in (0, -signal.SIGKILL)
    piece = min(folder.glob("0*.parquet"))
    whole = piece.read_bytes()
    pl.read_parquet(piece)[:-1].write_parquet(tmp_path / "shorter.parquet")
    for content in (b"", whole[:-9], b"PAR1" * 9, (tmp_path / "shorter.parquet").read_bytes()):
        piece.write_bytes(content)
        with pytest.raises(
            StepDiffError, match=f"a piece in {folder} is damaged .*: delete that folder"
        ) as refused:
            join(Neighbours(store.path, "tiny", out))
        assert "\n" not in str(refused.value) and not out.exists()
    piece.write_bytes(whole)
    card = (folder / "join.json").read_bytes()
    for content in (b"[]", b"7", b"[" * 100_000, b"{"):
        (folder / "join.json").write_bytes(content)
        with pytest.raises(StepDiffError, match="holds pieces of another join"):
            join(Neighbours(store.path, "tiny", out))
    (folder / "join.json").write_bytes(card)
    with pytest.raises(
        StepDiffError,
        match=r"killed.parquet.parts holds pieces of another join \(k differ\): delete",
    ):
        join(Neighbours(store.path, "tiny", out, k=5))
    join(Neighbours(store.path, "tiny", out))
    join(Neighbours(store.path, "tiny", tmp_path / "whole.parquet"))
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes() and not folder.exists()


def test_neighbours_from_the_command_line(
    store: Store, steps: View, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "n.parquet"
    start = ["neighbours", "--store", store.path, "--view", "tiny", "--out", out]
    assert run(*start, "-k", 3, "--json").json["clips"] == 67
    check_neighbours(out, naive_neighbours(store, steps, 3))
    assert run(*start, "--within", "video", "--other-videos").status == 0
    assert pl.read_parquet(out)["neighbours"].list.len().max() == 0
    refused = {
        ("--within", "stop"): "clips have no column 'stop': the catalog has key, row, step, video",
        ("--within", "key"): "--within key: the output needs that name itself",
        ("--within", "row"): "--within row: the output needs that name itself",
        ("--out", str(tmp_path / "no" / "n.parquet")): "cannot write",
        ("--feature", "tokens"): "has no embedding called tokens",
    }
    for words, why in refused.items():
        assert why in error(run, *start, *words)


CATEGORIES = ["Actions", "Visuals", "Tools/Equipment"]


def naive_negatives(
    rows: list[StatedDifference],
    clip: dict[str, np.ndarray],
    text: dict[str, np.ndarray],
    variant: str,
    threshold: float = 0.8,
    as_true: AsTrue | None = None,
) -> list[list[tuple[str, str]]]:
    """Return the negatives of each difference, fewer than three if no more exist."""
    pairs: list[tuple[str, str]] = []
    for row in rows:
        if row.pair not in pairs:
            pairs.append(row.pair)

    unit_text = {words: unit(vector) for words, vector in text.items()}
    average = {(a, b): (unit(clip[a]) + unit(clip[b])) / 2 for a, b in pairs}
    negatives_of = []
    for row in rows:
        distances = []
        for place, pair in enumerate(pairs):
            apart = average[pair] - average[row.pair]
            distances.append((math.sqrt(float(np.sum(apart * apart))), place))
        chosen: list[tuple[str, str]] = []
        for _, place in sorted(distances):
            reference, candidate = pairs[place]
            if variant == "V1" and (reference in row.pair or candidate in row.pair):
                continue
            if variant == "V2" and pairs[place] in (row.pair, row.pair[::-1]):
                continue
            if variant == "V2 reversed" and pairs[place] == row.pair:
                continue
            theirs = [r.text for r in rows if (r.pair, r.category) == (pairs[place], row.category)]
            if any(float(np.sum(unit_text[t] * unit_text[row.text])) > threshold for t in theirs):
                continue
            if as_true is not None and as_true(row.text, row.category, row.pair, pairs[place]):
                continue
            chosen.append(pairs[place])
            if len(chosen) == 3:
                break
        negatives_of.append(chosen)
    return negatives_of


def unit(vector: np.ndarray) -> np.ndarray:
    vector = vector.astype(np.float64)
    return vector / math.sqrt(float(np.sum(vector * vector)))


def stacked(names: list[str], vectors: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([unit(vectors[name]) for name in names])


def check_negatives(
    rows: list[StatedDifference],
    clip: dict[str, np.ndarray],
    text: dict[str, np.ndarray],
    variant: str,
    as_true: AsTrue | None = None,
) -> Drawn:
    """Check that the questions equal the naive ones, with options as a set, and that dropped and
    other ones are counted."""
    test_set = StatedDifferences(rows)
    drawn = hard_negatives(
        test_set,
        stacked(test_set.clips, clip),
        stacked(test_set.texts, text),
        "V1" if variant == "V1" else "V2",
        0.8,
        seed=0,
        allow_reversed=variant == "V2 reversed",
        as_true=as_true,
    )
    expected = naive_negatives(rows, clip, text, variant, as_true=as_true)
    assert drawn.passed == sum(map(ne, expected, naive_negatives(rows, clip, text, variant)))
    whole = [(row, three) for row, three in zip(rows, expected, strict=True) if len(three) == 3]
    assert drawn.dropped == len(rows) - len(whole)
    assert len(drawn.questions) == len(whole)
    for question, (row, three) in zip(drawn.questions, whole, strict=True):
        assert (question.difference, question.category) == (row.text, row.category)
        assert question.answer == row.pair
        assert sorted(question.options) == sorted([row.pair, *three])
    return drawn


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[StatedDifference], dict, dict]:
    """Draw few clips, few distinct vectors, reversed and repeated pairs, which give many ties."""
    vector = st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any)
    clips = [f"c{at}" for at in range(draw(st.integers(4, 12)))]
    texts = [f"t{at}" for at in range(draw(st.integers(1, 8)))]
    clip = {name: np.array(draw(vector), np.float32) for name in clips}
    text = {name: np.array(draw(vector), np.float32) for name in texts}
    pair = st.tuples(st.sampled_from(clips), st.sampled_from(clips)).filter(lambda p: p[0] != p[1])
    row = st.builds(StatedDifference, pair, st.sampled_from(CATEGORIES[:2]), st.sampled_from(texts))
    return draw(st.lists(row, min_size=1, max_size=40)), clip, text


@pytest.mark.parametrize("variant", ["V1", "V2", "V2 reversed"])
@given(world=worlds())
def test_negatives_equal_the_naive_ones_with_ties(variant: str, world: tuple) -> None:
    check_negatives(*world, variant)


def big_world(
    seed: int, pairs: int, dim: int = 64
) -> tuple[list[StatedDifference], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Make clips in tight groups, every fifth a copy of another, and texts in groups of similar
    ones."""
    rng = np.random.default_rng(seed)
    clips = [f"clip_{at}" for at in range(pairs)]
    steps = rng.normal(size=(6, dim))
    near = steps[rng.integers(6, size=pairs)] + 0.2 * rng.normal(size=(pairs, dim))
    near[::5] = near[rng.integers(pairs, size=len(near[::5]))]
    says = rng.normal(size=(12, 32))
    texts = [f"text {at}" for at in range(2 * pairs)]
    vectors = says[rng.integers(12, size=2 * pairs)] + 0.45 * rng.normal(size=(2 * pairs, 32))
    rows = []
    for _ in range(pairs):
        one, other = rng.choice(pairs, 2, replace=False)
        for _ in range(rng.integers(1, 4)):
            words = texts[rng.integers(2 * pairs)]
            category = CATEGORIES[rng.integers(3)]
            rows.append(StatedDifference((clips[one], clips[other]), category, words))
    clip = dict(zip(clips, near.astype(np.float32), strict=True))
    return rows, clip, dict(zip(texts, vectors.astype(np.float32), strict=True))


def as_true_by_number(text: str, category: str, own: Pair, other: Pair) -> bool:
    """Return whether the numbers of the text and of the other pair fit, as one in five does."""
    return sum(int(name.replace("_", " ").split()[-1]) for name in (text, *other)) % 5 == 0


@pytest.mark.parametrize("variant", ["V1", "V2", "V2 reversed"])
def test_negatives_equal_the_naive_ones(variant: str) -> None:
    rows, clip, text = big_world(4, 150)
    drawn = check_negatives(rows, clip, text, variant)
    unfiltered = {word: np.eye(300, dtype=np.float32)[at] for at, word in enumerate(text)}
    # the filter removed something
    assert drawn.questions != check_negatives(rows, clip, unfiltered, variant).questions
    assert drawn.passed == 0 < check_negatives(rows, clip, text, variant, as_true_by_number).passed


@pytest.mark.full
def test_negatives_of_several_blocks_equal_the_naive_ones() -> None:
    check_negatives(*big_world(5, 600), "V1")


def test_negatives_equal_the_naive_ones_if_most_texts_are_similar() -> None:
    """The search continues after its shortlist to the end and drops questions that it cannot
    complete."""
    rng = np.random.default_rng(3)
    clip = {f"c{at}": rng.normal(size=8).astype(np.float32) for at in range(400)}
    text = {"same": np.array([1, 0], np.float32), "other": np.array([0, 1], np.float32)}
    words = ["same"] * 195 + ["other"] * 5
    rows = [
        StatedDifference((f"c{2 * at}", f"c{2 * at + 1}"), "Actions", words[at])
        for at in range(200)
    ]
    drawn = check_negatives(rows, clip, text, "V1")
    assert drawn.dropped == 0
    others = {row.pair for row in rows if row.text == "other"}
    assert all(
        set(question.options) - {question.answer} <= others
        for question in drawn.questions
        if question.difference == "same"
    )
    drawn = check_negatives(rows[:197], clip, text, "V1")
    assert drawn.dropped == 195


def test_distances_nearer_than_float32_are_ordered_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 pairs two are near each other, and the other 58 equally far from them up to the
    rounding of float32."""
    monkeypatch.setattr(negatives, "SHORTLIST", 8)
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(2, 64)), (4, 116), axis=0)
    clip = {
        f"c{at}": vector
        for at, vector in enumerate(centres + 3e-8 * rng.normal(size=centres.shape))
    }
    rows = [
        StatedDifference((f"c{2 * at}", f"c{2 * at + 1}"), "Actions", f"text {at}")
        for at in range(60)
    ]
    check_negatives(rows, clip, {row.text: np.eye(60)[at] for at, row in enumerate(rows)}, "V1")
    for dim in (1, 64, 4096):  # Higham's bound of the sum, and of the roundings of its terms
        products = (dim + 5) * 2.0**-24
        assert 2 * 4 * products / (1 - products) <= negatives.error_of(dim) < 1e-2


def test_the_threshold_is_strict() -> None:
    rng = np.random.default_rng(0)
    clip = {f"c{at}": rng.normal(size=8).astype(np.float32) for at in range(8)}
    rows = [
        StatedDifference((f"c{2 * at}", f"c{2 * at + 1}"), "Actions", "same") for at in range(4)
    ]
    test_set, vectors = StatedDifferences(rows), np.array([[1.0, 0.0]])
    clips = stacked(test_set.clips, clip)
    assert hard_negatives(test_set, clips, vectors, "V1", 1.0, 0).dropped == 0
    assert hard_negatives(test_set, clips, vectors, "V1", 0.999, 0).dropped == 4


def naive_random(rows: list[StatedDifference], seed: int) -> list[list[tuple[str, str]]]:
    """Return V3 negatives by the protocol, drawn from the same random source in the same order."""
    clips = list(dict.fromkeys(clip for row in rows for clip in row.pair))
    triples = []
    for row in rows:
        source = random.Random(json.dumps([seed, *row.pair, row.category, row.text]))
        keep_reference = source.random() < 0.5
        chosen: list[tuple[str, str]] = []
        for other in source.sample(clips, min(5, len(clips))):
            pair = (row.pair[0], other) if keep_reference else (other, row.pair[1])
            if pair[0] == pair[1] or pair in (row.pair, row.pair[::-1]) or len(chosen) == 3:
                continue
            chosen.append(pair)
        triples.append(chosen)
    return triples


def test_v3_equals_the_naive_draw() -> None:
    rows, _, _ = big_world(4, 80)
    drawn = random_negatives(StatedDifferences(rows), seed=7)
    assert drawn.dropped == 0
    kept = Counter()
    expected = naive_random(rows, 7)
    for question, row, three in zip(drawn.questions, rows, expected, strict=True):
        assert (question.difference, question.answer) == (row.text, row.pair)
        assert sorted(question.options) == sorted([row.pair, *three])
        assert len(set(question.options)) == 4
        assert row.pair[::-1] not in question.options
        references = {pair[0] for pair in question.options}
        candidates = {pair[1] for pair in question.options}
        assert sorted([len(references), len(candidates)]) == [1, 4]
        kept["reference" if len(references) == 1 else "candidate"] += 1
    assert min(kept.values()) > len(rows) / 4
    told = random_negatives(StatedDifferences(rows), 7, as_true_by_number)
    assert told.passed > 0 and told.dropped + len(told.questions) == len(rows)
    for question in told.questions:
        wrong = set(question.options) - {question.answer}
        assert len(wrong) == 3 and not any(
            as_true_by_number(question.difference, "", question.answer, o) for o in wrong
        )


@pytest.mark.full
def test_v3_draws_all_other_clips_equally_often() -> None:
    clips = [f"c{at}" for at in range(10)]
    rows = [StatedDifference((clips[0], clips[1]), "Actions", f"text {at}") for at in range(3000)]
    rows += [StatedDifference((one, clips[0]), "Actions", "more") for one in clips[2:]]
    drawn = random_negatives(StatedDifferences(rows), seed=0).questions[:3000]
    seen = Counter(c for q in drawn for pair in q.options for c in pair if c not in clips[:2])
    assert set(seen) == set(clips[2:])
    assert max(seen.values()) < 1.12 * min(seen.values())


def test_the_order_of_options_depends_on_seed_and_content_only() -> None:
    rows, clip, text = big_world(5, 60)

    def options(rows: list[StatedDifference], seed: int) -> dict:
        test_set = StatedDifferences(rows)
        vectors = stacked(test_set.clips, clip), stacked(test_set.texts, text)
        drawn = hard_negatives(test_set, *vectors, "V1", 0.8, seed).questions
        return {(q.answer, q.category, q.difference): q.options for q in drawn}

    first = options(rows, 0)
    assert first == options(rows, 0) == options(rows[::-1], 0)
    other = options(rows, 1)
    assert first != other
    assert {key: sorted(four) for key, four in first.items()} == {
        key: sorted(four) for key, four in other.items()
    }
    places = Counter(four.index(key[0]) for key, four in first.items())
    assert min(places[at] for at in range(4)) > len(first) / 8


def write_diffcap(path: Path, rows: list[StatedDifference]) -> Path:
    lines = [
        {
            "reference": row.pair[0],
            "candidate": row.pair[1],
            "category": row.category,
            "text": [row.text],
        }
        for row in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("variant", ["V1", "V2", "V2 reversed", "V3"])
def test_negatives_from_a_store(
    tmp_path: Path, store: Store, fill: Fill, fill_texts: Fill, variant: str
) -> None:
    rows, clip, text = big_world(6, 70)
    fill(store, np.stack([*clip.values()])[::-1], [*clip][::-1])
    fill_texts(store, np.stack([*text.values()]), [*text], "mpnet-base")
    path = write_diffcap(tmp_path / "diffcap.jsonl", rows)
    options = Negatives(store.path, "tiny", path, tmp_path / "diffmcq.jsonl", seed=3)
    with pytest.raises(StepDiffError, match="--allow-reversed is for V2; V1 never has"):
        write_questions(replace(options, allow_reversed=True))
    counts = write_questions(
        replace(options, variant=variant[:2], allow_reversed=variant == ("V2 reversed"))  # type: ignore[arg-type]
    )
    naive = naive_random(rows, 3) if variant == "V3" else naive_negatives(rows, clip, text, variant)
    whole = [sorted([row.pair, *n]) for row, n in zip(rows, naive, strict=True) if len(n) == 3]
    assert [sorted(question.options) for question in read_test_set("diffmcq", options.out)] == whole
    assert counts["dropped"] == len(rows) - len(whole)
