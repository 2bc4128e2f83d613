"""Guarantees of annotate/pairs.py, compared with all pairs of a small world."""

from collections import Counter
from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from annotate.qa.pair_choice import other_step, same_step

CLIPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=24)
NAMES = ["whisk", "pour", "chop", "bake"]


def allowed(clips: list[tuple[int, int]], one_step: bool) -> set[frozenset[int]]:
    """Return the pairs of clips of two videos, of one step or of two steps."""
    return {
        frozenset((a, b))
        for a, b in combinations(range(len(clips)), 2)
        if (clips[a][0] == clips[b][0]) == one_step and clips[a][1] != clips[b][1]
    }


def columns(clips: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(clips, np.uint32).reshape(-1, 2)
    return array[:, 0], array[:, 1]


@settings(deadline=None)
@given(CLIPS, st.integers(1, 30), st.integers(0, 3))
def test_a_step_gives_all_its_pairs_or_as_many_as_the_cap_and_no_pair_twice(
    clips: list[tuple[int, int]], cap: int, seed: int
) -> None:
    pairs = [frozenset(pair) for pair in same_step(*columns(clips), NAMES, cap, seed).tolist()]
    assert len(set(pairs)) == len(pairs)
    there = allowed(clips, True)
    assert set(pairs) <= there
    of_step = Counter(clips[min(pair)][0] for pair in pairs)
    assert of_step == {step: min(cap, count) for step, count in Counter(clips[min(pair)][0] for pair in there).items()}


def test_every_pair_of_clips_of_one_step_and_of_two_videos_is_equally_likely() -> None:
    clips = [(0, 0), (0, 0), (0, 0), (0, 1), (0, 1), (0, 2), (1, 0), (1, 2)]
    draws = 3000
    found = Counter[tuple[int, int]]()
    for seed in range(draws):
        found.update(map(tuple, same_step(*columns(clips), NAMES, 2, seed).tolist()))
    of_first = {pair for pair in allowed(clips, True) if clips[min(pair)][0] == 0}
    assert len(of_first) == 11
    expected = draws * 2 / 11 / 2  # two pairs per draw, each in one of its two orders
    for a, b in map(sorted, of_first):
        for pair in ((a, b), (b, a)):
            assert abs(found[pair] - expected) < 5 * expected**0.5, pair
    assert abs(found[6, 7] - draws / 2) < 5 * (draws / 4) ** 0.5


def test_the_pairs_of_a_step_depend_on_the_seed_its_name_and_its_clips_on_no_other_step() -> None:
    rng = np.random.default_rng(0)
    whisk = [(0, int(video)) for video in rng.integers(0, 9, 30)]
    pour = [(1, int(video)) for video in rng.integers(0, 9, 30)]
    alone = same_step(*columns(whisk), ["whisk"], 10, 5)
    behind = same_step(*columns([*pour, *[(0, video) for _, video in whisk]]), ["whisk", "pour"], 10, 5)
    of_whisk = behind[behind[:, 0] >= 30] - 30
    assert of_whisk.tolist() == alone.tolist()
    assert same_step(*columns(whisk), ["whisk"], 10, 6).tolist() != alone.tolist()
    assert same_step(*columns(whisk), ["bake"], 10, 5).tolist() != alone.tolist()


@settings(deadline=None)
@given(CLIPS, st.integers(0, 10), st.integers(0, 3))
def test_pairs_of_different_steps_are_of_different_videos_too_and_no_pair_comes_twice(
    clips: list[tuple[int, int]], count: int, seed: int
) -> None:
    pairs = [frozenset(pair) for pair in other_step(*columns(clips), count, seed).tolist()]
    assert len(pairs) == len(set(pairs)) <= count
    assert set(pairs) <= allowed(clips, False)


def test_a_large_world_gives_as_many_pairs_of_different_steps_as_are_wanted() -> None:
    step, video = np.arange(1000) // 10, np.arange(1000) // 3
    assert len(other_step(step, video, 500, 0)) == 500
