"""Guarantees of tasks/bootstrap.py."""

import os
import subprocess
import sys
from itertools import chain, combinations

import numpy as np
import pytest
from scipy import stats

from tasks.bootstrap import Figure, Resamples, holm, interval, mean_figure, paired_p
from tasks.captions import bleu, bleu_parts, count_corpus


def test_p_is_that_of_counting_resample_by_resample() -> None:
    random = np.random.default_rng(0)
    references = [[" ".join(random.choice(list("abcdef"), 6))] for _ in range(40)]
    first, second = ([" ".join(random.choice(list("abcdef"), 7)) for _ in range(40)] for _ in range(2))
    groups = [f"video{number}" for number in random.integers(0, 9, 40)]
    draws = Resamples(groups, 150, seed=3)
    names = list(dict.fromkeys(groups))
    differences = []
    for counts in draws.counts:
        rows = [
            row
            for name, count in zip(names, counts, strict=True)
            for row in range(40)
            if groups[row] == name
            for _ in range(int(count))
        ]
        again = [
            bleu(
                bleu_parts(count_corpus([references[row] for row in rows], [captions[row] for row in rows])).sum(axis=0)
            )
            for captions in (first, second)
        ]
        differences.append(float(again[0] - again[1]))
    below = sum(difference <= 0 for difference in differences)
    above = sum(difference >= 0 for difference in differences)
    values = [
        draws.values(Figure(bleu_parts(count_corpus(references, captions)), bleu)) for captions in (first, second)
    ]
    np.testing.assert_allclose(values[0] - values[1], differences, rtol=1e-9)
    assert 1 < min(below, above) < 75, "the case is not trivial"
    distance = stats.norm.ppf((1 + min(below, above)) / 151)
    expected = 2 * stats.t.cdf(distance * np.sqrt(8 / 9), 8)
    assert expected > 2 * (1 + min(below, above)) / 151  # nine videos are few groups
    assert paired_p(values[0] - values[1], 9) == pytest.approx(expected)


def test_p_and_interval_of_independent_rows_are_near_those_of_scipy() -> None:
    random = np.random.default_rng(1)
    common = random.normal(size=400)  # what makes a row easy for both
    ours, theirs = common + random.normal(0.09, 0.5, 400), common + random.normal(0, 0.5, 400)
    draws = Resamples([str(row) for row in range(400)], 4000, seed=0)
    differences = draws.values(mean_figure(ours)) - draws.values(mean_figure(theirs))
    expected = stats.ttest_rel(ours, theirs).pvalue
    assert 0.001 < expected < 0.1
    assert paired_p(differences, 400) == pytest.approx(expected, rel=0.35)
    assert stats.ttest_ind(ours, theirs).pvalue > 2 * expected, "only the paired test finds the difference"
    found = stats.bootstrap(
        (ours, theirs),
        lambda a, b, axis: (a - b).mean(axis=axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert interval(differences, 400) == pytest.approx((found.low, found.high), abs=0.006)


@pytest.mark.parametrize("videos", [3, 8, 60])
def test_no_difference_is_rejected_as_often_as_the_level_says_of_few_groups_as_well(videos: int) -> None:
    random = np.random.default_rng(2)
    groups = [str(row // 2) for row in range(2 * videos)]
    draws = Resamples(groups, 400, seed=0)
    rejected = []
    for _ in range(400):
        video = np.repeat(random.normal(size=videos), 2)  # rows of a video err together
        ours, theirs = (mean_figure(video * sign + random.normal(size=2 * videos)) for sign in (1.0, -1.0))
        p = paired_p(draws.values(ours) - draws.values(theirs), videos)
        assert p is not None
        rejected.append(p < 0.05)
    assert (0.01 if videos > 3 else 0) <= np.mean(rejected) < 0.08


def test_p_is_never_0_and_none_where_nothing_is_defined() -> None:
    assert paired_p(np.full(999, 2.0), 10**6) == pytest.approx(0.002, rel=1e-3)
    assert paired_p(np.zeros(10), 10) == 1.0
    assert paired_p(np.array([1.0, np.nan, 1.0]), 10**6) == pytest.approx(2 / 3, rel=1e-3)
    assert paired_p(np.array([np.nan]), 10) is None
    assert paired_p(np.empty(0), 10) is None


def test_corrected_values_are_those_of_closed_testing_with_bonferroni() -> None:
    """Holm's procedure is a closed test: a hypothesis is rejected if every set that contains it is rejected."""
    random = np.random.default_rng(0)
    for size in (1, 2, 5, 6):
        values = np.round(random.uniform(0, 0.3, size), 2).tolist()  # rounded: some tie
        sets = list(chain.from_iterable(combinations(range(size), length) for length in range(1, size + 1)))
        expected = [
            max(min(1.0, len(chosen) * min(values[j] for j in chosen)) for chosen in sets if i in chosen)
            for i in range(size)
        ]
        assert holm(values) == pytest.approx(expected)
    assert holm([]) == []


TENTHS = np.random.default_rng(4).integers(0, 4, 90)
SCORES = TENTHS / 10, np.random.default_rng(5).permutation(TENTHS) / 10  # of two methods: their sums often tie
GROUPS = [f"video{row % 18}" for row in range(90)]


def resampled(order: np.ndarray) -> tuple[list[float], float | None]:
    """Return the means of two methods on each resample, and p of their difference, from rows in this order."""
    draws = Resamples([GROUPS[row] for row in order], 2000, seed=0)
    ours, theirs = (draws.values(mean_figure(scores[order])) for scores in SCORES)
    return [*ours.tolist(), *theirs.tolist()], paired_p(ours - theirs, 18)


def test_equal_sums_tie() -> None:
    tenths = np.rint((SCORES[0] - SCORES[1]) * 10).astype(int).reshape(5, 18).sum(axis=0)  # of each video
    exact = Resamples(GROUPS, 2000, seed=0).counts.astype(int) @ tenths
    assert np.sum(exact == 0) > 20
    assert resampled(np.arange(90))[1] == paired_p(exact.astype(float), 18)
    assert paired_p(np.full(10, 0.1 + 0.2 - 0.3), 10) == 1.0, "the last bit of a mean over trainings"


def test_figures_on_resamples_and_p_do_not_depend_on_the_order_of_summation() -> None:
    random, expected = np.random.default_rng(1), resampled(np.arange(90))
    for _ in range(5):
        order = np.concatenate([np.arange(18), 18 + random.permutation(72)])  # first rows number the groups
        assert resampled(order) == expected


@pytest.mark.parametrize("kernel", ["Prescott", "Haswell"])
def test_figures_on_resamples_and_p_do_not_depend_on_the_processor(kernel: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_CORETYPE": kernel}
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{resampled(np.arange(90))}\n"


if __name__ == "__main__":
    print(resampled(np.arange(90)))
