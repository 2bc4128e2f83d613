"""Choices, rankings and groups of benchmarks equal their definitions, computed slowly."""

from itertools import permutations
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import StepDiffError
from tasks.benchmarks.choosing import share_right
from tasks.benchmarks.ranking import CUTS, first_right, score_rankings
from tasks.benchmarks.rows import Ranking
from tasks.benchmarks.summary import groups_of

UNHURRIED = settings(deadline=None)


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=6), st.data())
def test_a_tie_counts_its_share(scores: list[float], data: st.DataObject) -> None:
    answer = data.draw(st.integers(0, len(scores) - 1))
    orders = [sorted(order, key=lambda option: -scores[option]) for order in permutations(range(len(scores)))]
    assert share_right(scores, answer) == pytest.approx(fmean(order[0] == answer for order in orders))


@UNHURRIED
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0]), st.booleans()), min_size=1, max_size=6))
def test_figures_of_ties_equal_the_mean_over_all_orders(targets: list[tuple[float, bool]]) -> None:
    scores, right = [score for score, _ in targets], [own for _, own in targets]
    if not any(right):
        right[0] = True
    ranks = []
    for order in permutations(range(len(targets))):
        ranked = sorted(order, key=lambda target: -scores[target])
        ranks.append(1 + next(place for place, target in enumerate(ranked) if right[target]))
    found = first_right(scores, right)
    for k in CUTS:
        assert found[f"recall@{k}"] == pytest.approx(fmean(rank <= k for rank in ranks))
    assert found["mean_rank"] == pytest.approx(fmean(ranks))
    assert found["MRR"] == pytest.approx(fmean(1 / rank for rank in ranks))


def test_a_constant_prediction_scores_chance() -> None:
    rows = [Ranking("a", "r_0_1", tuple("bcdef"), "step"), Ranking("b", "s_0_1", tuple("ghij"), "step")]
    right = [{"c", "f"}, {"g"}]
    groups = ["one", "two"]
    scores = score_rankings("any", rows, [[0.5] * 5, [7] * 4], right, groups, {}, 100, 0)
    assert scores["chance"] == {name: scores[name] for name in scores["chance"]}
    assert scores["recall@1"] == pytest.approx((2 / 5 + 1 / 4) / 2) and scores["mean_rank"] == (6 / 3 + 5 / 2) / 2
    assert scores["rows_with_ties"] == 2
    best = score_rankings("any", rows, [[0, 9, 0, 0, 0], [1, 0, 0, 0]], right, groups, {}, 0, 0)
    assert best["recall@1"] == best["MRR"] == best["mean_rank"] == 1 and best["chance"] == scores["chance"]


@given(st.lists(st.sets(st.sampled_from("abcdefgh"), min_size=1, max_size=3), min_size=1, max_size=8))
def test_rows_that_share_a_video_are_in_one_group(videos: list[set[str]]) -> None:
    found = groups_of([sorted(row) for row in videos])
    linked = [{number} for number in range(len(videos))]
    for _ in videos:  # a path between two rows is no longer than their number
        for own in linked:
            own |= {other for other, names in enumerate(videos) if any(names & videos[number] for number in list(own))}
    for number, own in enumerate(linked):
        assert {other for other, group in enumerate(found) if group == found[number]} == own


def test_bad_numbers_are_refused() -> None:
    row = Ranking("a", "r_0_1", ("b", "c"), "step")
    with pytest.raises(StepDiffError, match="bootstrap -1, seed 0: neither may be negative"):
        score_rankings("any", [row], [[0, 1]], [{"b"}], ["one"], {}, -1, 0)
    with pytest.raises(StepDiffError, match="row 'a': scores holds nan"):
        score_rankings("any", [row], [[0, float("nan")]], [{"b"}], ["one"], {}, 0, 0)
