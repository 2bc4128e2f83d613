"""Metrics against published implementations, scipy and slow definitions."""

import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from scipy import stats
from scipy.stats import kendalltau

from stepdiff_core.tasks.agreement import alpha, kendall, spearman
from stepdiff_core.tasks.bootstrap import (
    Figure,
    Resamples,
    draw_counts,
    holm,
    interval,
    mean_figure,
    paired_p,
    tail_share,
)
from stepdiff_core.tasks.captions import bleu, bleu_parts, cider_rows, count_corpus, rouge_rows
from stepdiff_core.tasks.scoring import kendall_tau

# Few words, so that n-grams recur; spaces that split() and split(" ") treat differently.
WORDS = ["the", "The", "pan", "pan,", "ein", "Öl", "油", "🍳", "e\u0301", "\ud800", "a"]
SPACES = [" ", "  ", "\t", "\n", "\u00a0", "\u3000", "\u200b", "\x1f", ""]
texts = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join),
    st.lists(st.tuples(st.sampled_from(SPACES), st.sampled_from(WORDS)), max_size=9).map(
        lambda parts: "".join(space + word for space, word in parts)
    ),
    st.text(max_size=8),
)
references_of_a_row = st.lists(texts, min_size=1, max_size=4).flatmap(
    lambda row: st.sampled_from([row, [*row, row[0]]])
)
corpora = st.lists(st.tuples(texts, references_of_a_row), min_size=1, max_size=7)
Corpus = list[tuple[str, list[str]]]


def as_coco(corpus: Corpus) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    return dict(enumerate(row for _, row in corpus)), {i: [c] for i, (c, _) in enumerate(corpus)}


def split(corpus: Corpus) -> tuple[list[list[str]], list[str]]:
    return [row for _, row in corpus], [caption for caption, _ in corpus]


@given(corpora)
def test_bleu_equals_pycocoevalcap(corpus: Corpus) -> None:
    expected = Bleu().compute_score(*as_coco(corpus), verbose=0)[0][0]
    ours = bleu(bleu_parts(count_corpus(*split(corpus))).sum(axis=0))
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=0)


@given(corpora)
def test_cider_equals_pycocoevalcap_row_by_row(corpus: Corpus) -> None:
    ours = cider_rows(count_corpus(*split(corpus)))
    if not any(text.split() for _, row in corpus for text in row):
        assert not ours.any()  # pycocoevalcap raises if no reference has a word
        return
    _, expected = Cider().compute_score(*as_coco(corpus))
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


@given(corpora)
def test_rouge_equals_pycocoevalcap_row_by_row(corpus: Corpus) -> None:
    _, expected = Rouge().compute_score(*as_coco(corpus))
    np.testing.assert_array_equal(rouge_rows(*split(corpus)), expected)


tied_values = st.sampled_from([0.0, -0.0, 1.0, 2.0, 2.5])
any_values = st.floats(allow_nan=False, allow_infinity=False)


def scipy_tau(first: np.ndarray, second: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows with fewer than two values
        return float(kendalltau(first, second).statistic)


def rankings(values: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    sizes = st.tuples(st.just(2), st.integers(1, 5), st.integers(1, 8))
    return sizes.flatmap(lambda size: arrays(np.float64, size, elements=values))


@given(st.one_of(rankings(tied_values), rankings(any_values)), st.data())
def test_tau_is_equal_to_scipy_row_by_row(values: np.ndarray, data: st.DataObject) -> None:
    first, second = values
    expected = [scipy_tau(a, b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(kendall_tau(first, second), expected, rtol=1e-12, atol=1e-12)
    counted = data.draw(arrays(bool, first.shape))
    expected = [
        scipy_tau(a[here], b[here]) for a, b, here in zip(first, second, counted, strict=True)
    ]
    ours = kendall_tau(first, second, counted)
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


few_values = st.integers(-2, 2).map(float)
sides = st.integers(2, 12).flatmap(
    lambda n: st.tuples(*[arrays(float, n, elements=few_values)] * 2)
)
OURS_AND_SCIPYS = [(spearman, stats.spearmanr), (kendall, stats.kendalltau)]


def scipys_value(function: object, one: np.ndarray, two: np.ndarray) -> float:
    if len(set(one)) < 2 or len(set(two)) < 2:
        return float("nan")
    return float(function(one, two).statistic)  # type: ignore[operator]


@given(sides)
@pytest.mark.parametrize(("ours", "scipys"), OURS_AND_SCIPYS)
def test_without_resamples_a_correlation_equals_that_of_scipy(
    ours: object, scipys: object, both: tuple
) -> None:
    assert ours(*both) == pytest.approx([scipys_value(scipys, *both)], abs=1e-12, nan_ok=True)  # type: ignore[operator]


@given(sides, st.integers(0, 2**32))
@pytest.mark.parametrize(("ours", "scipys"), OURS_AND_SCIPYS)
def test_a_resampled_correlation_equals_that_of_repeated_items(
    ours: object, scipys: object, both: tuple, seed: int
) -> None:
    items = len(both[0])
    drawn = np.random.default_rng(seed).integers(items, size=(5, items))
    weights = np.stack([np.bincount(row, minlength=items) for row in drawn]).astype(float)
    expected = [scipys_value(scipys, both[0][row], both[1][row]) for row in drawn]
    assert ours(*both, weights) == pytest.approx(expected, abs=1e-12, nan_ok=True)  # type: ignore[operator]


LEVELS = 5
# the scores of each item
rated = st.lists(st.lists(st.integers(0, LEVELS - 1), min_size=2, max_size=5), max_size=6)


def counted(given: Sequence[Sequence[int]]) -> np.ndarray:
    return np.array([np.bincount(scores, minlength=LEVELS) for scores in given], np.int64).reshape(
        -1, LEVELS
    )


@given(rated)
def test_alpha_is_that_of_the_library_krippendorff(given: list[list[int]]) -> None:
    library = pytest.importorskip("krippendorff", reason="the library is not installed")
    scores = counted(given)
    for level in ("nominal", "ordinal", "interval"):
        ours = alpha(scores, level)
        if ours is None:
            assert len({score for scores in given for score in scores}) < 2
        else:
            theirs = library.alpha(
                value_counts=scores,
                value_domain=list(range(LEVELS)),
                level_of_measurement=level,
                dtype=np.float64,
            )
            assert ours == pytest.approx(theirs, abs=1e-9)


def normal(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=rows)


def test_an_interval_equals_recomputing_each_resample() -> None:
    random = np.random.default_rng(0)
    captions = [" ".join(random.choice(list("abcdef"), random.integers(0, 9))) for _ in range(40)]
    references = [[" ".join(random.choice(list("abcdef"), 6))] for _ in range(40)]
    groups = [f"video{number}" for number in random.integers(0, 9, 40)]
    parts = bleu_parts(count_corpus(references, captions))
    names = list(dict.fromkeys(groups))
    values = []
    for counts in draw_counts(len(names), 100, seed=3):
        rows = [
            row
            for name, count in zip(names, counts, strict=True)
            for row in np.flatnonzero(np.array(groups) == name)
            for _ in range(int(count))
        ]
        again = bleu_parts(
            count_corpus([references[row] for row in rows], [captions[row] for row in rows])
        )
        values.append(bleu(again.sum(axis=0)))
    bounds = Resamples(groups, 100, seed=3).intervals({"BLEU": Figure(parts, bleu)})["BLEU"]
    tail = tail_share(9)
    assert tail < 0.025
    assert bounds == pytest.approx(tuple(np.quantile(values, [tail, 1 - tail])), rel=1e-12)


@pytest.mark.full
@pytest.mark.parametrize("groups", [8, 20])
def test_an_interval_of_few_groups_is_as_wide_as_students(groups: int) -> None:
    """It contains the true mean of normal draws 95 times in 100; with 8 groups plain percentiles do
    so 87 times."""
    random, draws = (
        np.random.default_rng(groups),
        Resamples([str(i) for i in range(groups)], 1000, seed=1),
    )
    held = []
    for _ in range(400):
        bounds = interval(draws.values(mean_figure(random.normal(size=groups))), groups)
        assert bounds is not None
        held.append(bounds[0] <= 0 <= bounds[1])
    assert 0.9 < np.mean(held) < 0.985


def test_rows_of_one_group_are_drawn_together() -> None:
    values = np.repeat(normal(50), 20)
    alone = Resamples([str(i) for i in range(1000)], 1000, 0).intervals({"x": mean_figure(values)})[
        "x"
    ]
    together = Resamples([str(i // 20) for i in range(1000)], 1000, 0).intervals(
        {"x": mean_figure(values)}
    )["x"]
    assert alone is not None and together is not None
    assert together[1] - together[0] > 3 * (alone[1] - alone[0])


def test_no_interval_where_there_is_nothing_to_resample() -> None:
    assert Resamples(["one"] * 3, 1000, 0).intervals({"x": mean_figure(normal(3))}) == {"x": None}
    nowhere = mean_figure(normal(3), np.zeros(3, bool))
    assert np.isnan(nowhere.of())
    assert Resamples(["a", "b", "c"], 1000, 0).intervals({"x": nowhere}) == {"x": None}
    assert Resamples(["a", "b"], 1000, 0).intervals(
        {"x": mean_figure(np.array([1.0, np.nan]))}
    ) == {"x": None}


def test_p_is_that_of_counting_resample_by_resample() -> None:
    random = np.random.default_rng(0)
    references = [[" ".join(random.choice(list("abcdef"), 6))] for _ in range(40)]
    first, second = (
        [" ".join(random.choice(list("abcdef"), 7)) for _ in range(40)] for _ in range(2)
    )
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
                bleu_parts(
                    count_corpus([references[row] for row in rows], [captions[row] for row in rows])
                ).sum(axis=0)
            )
            for captions in (first, second)
        ]
        differences.append(float(again[0] - again[1]))
    below = sum(difference <= 0 for difference in differences)
    above = sum(difference >= 0 for difference in differences)
    values = [
        draws.values(Figure(bleu_parts(count_corpus(references, captions)), bleu))
        for captions in (first, second)
    ]
    np.testing.assert_allclose(values[0] - values[1], differences, rtol=1e-9)
    assert 1 < min(below, above) < 75, "the case is not trivial"
    distance = stats.norm.ppf((1 + min(below, above)) / 151)
    expected = 2 * stats.t.cdf(distance * np.sqrt(8 / 9), 8)
    assert expected > 2 * (1 + min(below, above)) / 151  # nine videos are few groups
    assert paired_p(values[0] - values[1], 9) == pytest.approx(expected)


def test_p_and_interval_are_near_those_of_scipy() -> None:
    random = np.random.default_rng(1)
    common = random.normal(size=400)  # what makes a row easy for both
    ours, theirs = common + random.normal(0.09, 0.5, 400), common + random.normal(0, 0.5, 400)
    draws = Resamples([str(row) for row in range(400)], 4000, seed=0)
    differences = draws.values(mean_figure(ours)) - draws.values(mean_figure(theirs))
    expected = stats.ttest_rel(ours, theirs).pvalue
    assert 0.001 < expected < 0.1
    assert paired_p(differences, 400) == pytest.approx(expected, rel=0.35)
    assert stats.ttest_ind(ours, theirs).pvalue > 2 * expected, (
        "only the paired test finds the difference"
    )
    results = stats.bootstrap(
        (ours, theirs),
        lambda a, b, axis: (a - b).mean(axis=axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert interval(differences, 400) == pytest.approx((results.low, results.high), abs=0.006)


@pytest.mark.full
@pytest.mark.parametrize("videos", [3, 60])
def test_a_true_null_is_rejected_as_often_as_the_level_says(videos: int) -> None:
    random = np.random.default_rng(2)
    groups = [str(row // 2) for row in range(2 * videos)]
    draws = Resamples(groups, 400, seed=0)
    rejected = []
    for _ in range(400):
        video = np.repeat(random.normal(size=videos), 2)  # rows of a video err together
        ours, theirs = (
            mean_figure(video * sign + random.normal(size=2 * videos)) for sign in (1.0, -1.0)
        )
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
    assert paired_p(np.zeros(10), 1) is None and interval(np.zeros(10), 1) is None


def test_corrected_values_equal_closed_testing() -> None:
    """Holm's procedure is a closed test: a hypothesis is rejected if every set that contains it is
    rejected."""
    random = np.random.default_rng(0)
    for size in (1, 2, 5, 6):
        values = np.round(random.uniform(0, 0.3, size), 2).tolist()  # rounded: some tie
        sets = list(
            chain.from_iterable(combinations(range(size), length) for length in range(1, size + 1))
        )
        expected = [
            max(
                min(1.0, len(chosen) * min(values[j] for j in chosen))
                for chosen in sets
                if i in chosen
            )
            for i in range(size)
        ]
        assert holm(values) == pytest.approx(expected)
    assert holm([]) == []


TENTHS = np.random.default_rng(4).integers(0, 4, 90)
# of two methods: their sums often tie
SCORES = TENTHS / 10, np.random.default_rng(5).permutation(TENTHS) / 10
GROUPS = [f"video{row % 18}" for row in range(90)]


def resampled(order: np.ndarray) -> tuple[list[float], float | None]:
    """Return the means of two methods on each resample, and p of their difference, from rows in
    this order."""
    draws = Resamples([GROUPS[row] for row in order], 2000, seed=0)
    ours, theirs = (draws.values(mean_figure(scores[order])) for scores in SCORES)
    return [*ours.tolist(), *theirs.tolist()], paired_p(ours - theirs, 18)


def test_equal_sums_tie() -> None:
    # of each video
    tenths = np.rint((SCORES[0] - SCORES[1]) * 10).astype(int).reshape(5, 18).sum(axis=0)
    exact = Resamples(GROUPS, 2000, seed=0).counts.astype(int) @ tenths
    assert np.sum(exact == 0) > 20
    assert resampled(np.arange(90))[1] == paired_p(exact.astype(float), 18)
    assert paired_p(np.full(10, 0.1 + 0.2 - 0.3), 10) == 1.0, (
        "the last bit of a mean over trainings"
    )


def test_resamples_do_not_depend_on_the_order_of_summation() -> None:
    random, expected = np.random.default_rng(1), resampled(np.arange(90))
    for _ in range(5):
        # first rows number the groups
        order = np.concatenate([np.arange(18), 18 + random.permutation(72)])
        assert resampled(order) == expected


@pytest.mark.full
@pytest.mark.parametrize("kernel", ["Prescott", "Haswell"])
def test_resamples_do_not_depend_on_the_processor(kernel: str) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OPENBLAS_CORETYPE": kernel,
    }
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{resampled(np.arange(90))}\n"


if __name__ == "__main__":
    print(resampled(np.arange(90)))
