"""Guarantees of tasks/benchmarks/convis/retrieval.py."""

import itertools
import json
from pathlib import Path

import pytest
from scipy import stats

from common.errors import StepDiffError
from tasks import registry
from tasks.benchmarks.convis.retrieval import compare
from tasks.benchmarks.rows import Ranking

from .test_convis import DATA, PAIRS, dump, folder

__all__ = ["folder"]  # a fixture

RETRIEVAL = registry.get("convis-retrieval")


def test_targets_with_equal_scores_share_a_rank() -> None:
    for ours, theirs in itertools.product(itertools.product((1.0, 2.0, 3.0), repeat=4), repeat=2):
        if ours[0] < 2 or theirs[0] < 2:  # a third of all cases is enough
            continue
        best = {i for i in range(4) if ours[i] == max(ours)}
        right = {i for i in range(4) if theirs[i] == max(theirs)}
        precision, recall, f1, tau = compare(ours, theirs)
        assert (precision, recall) == (len(best & right) / len(best), len(best & right) / len(right))
        assert f1 == pytest.approx(2 * len(best & right) / (len(best) + len(right)))
        if min(len(set(ours)), len(set(theirs))) > 1:
            assert tau == pytest.approx(stats.kendalltau(ours, theirs).statistic)


def test_a_clip_with_a_pair_that_people_did_not_score_is_not_a_row(folder: Path) -> None:
    asked = RETRIEVAL.read(folder)
    assert {(row.reference, row.targets) for row in asked.rows} == {("1_000", ("2_000", "3_001"))}
    assert len(asked.rows) == 5 and asked.truth["1_000: main action"] == [5.0, 1.5]
    assert asked.notes == ("1 of 2 lists, those whose pairs all have scores; their own ranking is not published",)


def test_a_pair_counts_in_both_orders(folder: Path) -> None:
    one, two = PAIRS[0]
    dump(folder / "human_annotations/to_be_ranked.json", {f"{two}.mp4": [f"{one}.mp4", "3_001.mp4"]})
    assert RETRIEVAL.read(folder).truth[f"{two}: main action"] == [5.0, 3.0]


def test_a_row_without_a_tau_does_not_count_in_tau() -> None:
    rows = [Ranking(name, name, ("1_0", "1_1"), "location") for name in ("a", "b")]
    truth = {"a": [1.0, 2.0], "b": [2.0, 2.0]}
    found = RETRIEVAL.score(rows, [[1.0, 2.0], [2.0, 1.0]], truth, 0, 0)
    assert (found["tau"], found["rows_with_tau"]) == (pytest.approx(100), 1)
    assert (found["P@1"], found["R@1"], found["F1@1"]) == (100, 75, pytest.approx(100 * (1 + 2 / 3) / 2))
    assert found["per_category"]["location"]["rows"] == 2
    assert found["chance"] == {"P@1": 75, "R@1": 50, "F1@1": pytest.approx(100 * (1 / 2 + 2 / 3) / 2), "tau": 0}


@pytest.mark.parametrize("content", [[], {"1_0.mp4": []}, {"1_0.mp4": [3]}, {"a_1_2.mp4": ["1_0.mp4"]}])
def test_a_damaged_list_is_refused_in_one_line(folder: Path, content: object) -> None:
    file = dump(folder / "human_annotations/to_be_ranked.json", content)
    with pytest.raises(StepDiffError, match="get it again from github.com/benedettaliberatori/convisbench") as caught:
        RETRIEVAL.read(folder)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_54_of_the_133_published_lists_have_scores() -> None:
    if not DATA.is_dir():
        pytest.skip("the files of ConViS-Bench are not here")
    asked = RETRIEVAL.read(DATA)
    assert len(json.loads((DATA / "to_be_ranked.json").read_text())) == 133
    assert len(asked.rows) == 54 * 5 and {row.answers for row in asked.rows} == {4}
    truth = RETRIEVAL.score(asked.rows, [asked.truth[row.key] for row in asked.rows], asked.truth, 0, 0)
    assert [truth[name] for name in ("P@1", "R@1", "F1@1", "tau")] == pytest.approx([100] * 4)
    level = RETRIEVAL.score(asked.rows, [[1.0] * 4] * 270, asked.truth, 0, 0)
    assert level["R@1"] == 100 and level["P@1"] < 50 and level["tau"] is None
