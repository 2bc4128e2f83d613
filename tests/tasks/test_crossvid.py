"""CrossVid, and the figures of choices, rankings and groups against slow definitions."""

import json
import re
from itertools import permutations
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks import registry
from stepdiff_core.tasks.benchmarks.crossvid import ERRORS, read, without_letters
from stepdiff_core.tasks.benchmarks.figures import (
    CUTS,
    first_right,
    groups_of,
    score_rankings,
    share_right,
)
from stepdiff_core.tasks.benchmarks.rows import Ranking
from stepdiff_core.tasks.bootstrap import Resamples

CC: list[dict[str, Any]] = [
    {
        "id": 7,
        "videos": ["cook/a.mp4", "cook/b-_1.mp4", "cook/c.mp4", "cook/d.mkv"],
        "question": "Which video adds salt last?",
        "options": ["A. Video 1", "B. Video 2", "C. Video 3", "D. Video 4"],
        "answer": "C",
    },
    {
        "id": "late",
        "videos": ["cook/a.mp4", "cook/e.mp4"],
        "question": " How do the videos differ? ",
        "options": ["A) Only one fries.", "(B) Only one boils: A. slowly"],
        "answer": "A",
    },
    {
        "id": 9,
        "videos": ["cook/y.mp4", "cook/z.mp4"],
        "question": "Where is butter used?",
        "options": ["both", "neither", "only in Video 2"],
        "answer": "C",
    },
]
PEA: list[dict[str, Any]] = [
    {
        "id": 1,
        "videos": ["assembly/u.mp4", "assembly/v.mp4", "assembly/u.mp4"],
        "begin": [3.9, "4", 0],
        "end": [10.2, "9", 8],
        "question": "What is wrong in Video 2?",
        "options": ["A. wrong order", "B. wrong position"],
        "answer": "B",
    },
    {
        "id": 2,
        "videos": ["assembly/u.mp4"],
        "begin": [3.2],
        "end": [3.9],
        "question": "What is wrong?",
        "options": ["A. wrong order", "B. wrong position"],
        "answer": "B",
    },
]


def folder_of(tmp_path: Path, **files: Any) -> Path:
    (tmp_path / "QA").mkdir(exist_ok=True)
    for name, entries in files.items():
        (tmp_path / "QA" / f"{name}.json").write_text(json.dumps(entries), encoding="utf-8")
    return tmp_path


def broken(index: int = 0, of: list[dict[str, Any]] = CC, **values: Any) -> list[dict[str, Any]]:
    """Return the questions with other values in one of them; None removes a key."""
    changed = {key: value for key, value in (of[index] | values).items() if value is not None}
    return [*of[:index], changed, *of[index + 1 :]]


def test_options_have_no_letters_and_the_answer_is_one_of_them(tmp_path: Path) -> None:
    task_data = registry.get("crossvid-cc").read(folder_of(tmp_path, CC=CC))
    assert [row.key for row in task_data.rows] == ["7", '"late"', "9"]
    assert task_data.rows[0].clips == ("cook/a", "cook/b-_1", "cook/c", "cook/d")
    assert task_data.rows[0].options == ("Video 1", "Video 2", "Video 3", "Video 4")
    assert task_data.rows[1].options == ("Only one fries.", "Only one boils: A. slowly")
    assert task_data.rows[1].question == "How do the videos differ?"
    assert task_data.rows[2].options == ("both", "neither", "only in Video 2")
    right = [row.options[task_data.truth[row.key].answer] for row in task_data.rows]
    assert right == ["Video 3", "Only one fries.", "only in Video 2"]


def test_rows_do_not_contain_the_truth(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path, CC=broken(answer=letter)) for letter in "AC"]
    first = read(folders[0], "CC").rows
    folder_of(tmp_path, CC=CC)
    assert read(folders[1], "CC").rows == first


def test_times_are_whole_seconds_and_errors_precede_questions(tmp_path: Path) -> None:
    benchmark = registry.get("crossvid-pea")
    (row,) = benchmark.read(folder_of(tmp_path, PEA=PEA)).rows
    assert row.clips == ("assembly/u_3_10", "assembly/v_4_9", "assembly/u_0_8")
    assert row.question == f"{ERRORS} What is wrong in Video 2?"
    results = [(clip.clip, clip.video, clip.start, clip.end) for clip in benchmark.clips(tmp_path)]
    assert results == [
        ("assembly/u_3_10", "videos/assembly/u.mp4", 3, 10),
        ("assembly/v_4_9", "videos/assembly/v.mp4", 4, 9),
        ("assembly/u_0_8", "videos/assembly/u.mp4", 0, 8),
    ]


def test_a_segment_without_a_whole_second_is_counted(tmp_path: Path) -> None:
    task_data = read(folder_of(tmp_path, PEA=PEA), "PEA")
    assert len(task_data.rows) == 1 and any(
        "left out: 1 questions" in note for note in task_data.notes
    )
    with pytest.raises(StepDiffError, match="none of its 1 questions can be asked"):
        read(folder_of(tmp_path, PEA=PEA[1:]), "PEA")


def test_accuracy_equals_the_count_of_right_letters(tmp_path: Path) -> None:
    benchmark = registry.get("crossvid-cc")
    task_data = benchmark.read(folder_of(tmp_path, CC=CC))
    predictions = [[0.0, -1.0, 5.0, 2.0], [-3.0, -2.0], [-1.0, -9.0, -1.0]]
    scores = benchmark.score(task_data.rows, predictions, task_data.truth, 100, 0)
    assert scores["accuracy"] == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert scores["chance"]["accuracy"] == pytest.approx((1 / 4 + 1 / 2 + 1 / 3) / 3)
    assert (scores["rows"], scores["ties"], scores["videos"], scores["groups"]) == (3, 1, 7, 2)
    assert (
        scores["intervals"]["accuracy"][0]
        <= scores["accuracy"]
        <= scores["intervals"]["accuracy"][1]
    )
    part = benchmark.score(task_data.rows[:2], predictions[:2], task_data.truth, 100, 0)
    assert part["accuracy"] == 1 / 2 and part["intervals"]["accuracy"] is None, (
        "one group: nothing to resample"
    )
    assert (
        "accuracy"
        not in benchmark.score(task_data.rows, predictions, task_data.truth, 0, 0)["intervals"]
    )


def test_an_export_has_the_ids_and_letters_of_the_published_file(tmp_path: Path) -> None:
    benchmark = registry.get("crossvid-cc")
    rows = benchmark.read(folder_of(tmp_path, CC=CC)).rows
    assert benchmark.export is not None
    (path,) = benchmark.export(tmp_path, rows, [[0, 0, 1, 0], [1, 2], [3, 3, 0]], tmp_path / "out")
    answers = [{"id": 7, "answer": "C"}, {"id": "late", "answer": "B"}, {"id": 9, "answer": "A"}]
    assert json.loads(path.read_text()) == answers
    benchmark.export(tmp_path, rows, [None, [1, 2], None], tmp_path / "out")
    assert json.loads(path.read_text()) == answers[1:2]


@pytest.mark.parametrize(
    ("name", "entries", "message"),
    [
        ("CC", broken(question=None), "question 1: question is missing"),
        ("CC", broken(1, answer="C"), "question 2: answer is 'C', not one of A, B"),
        ("CC", broken(options=["A. one", "C. two"]), "whose letters are not A, B, ... in order"),
        ("CC", broken(videos=["a.mp4", 3]), "videos: 1 should be a valid string, not 3"),
        ("CC", broken(1, id=7), "'7' is there twice"),
        (
            "CC",
            {"questions": CC},
            "not a list with at least one question; get it again from the folder QA",
        ),
        ("PEA", broken(of=PEA, begin=[1, 2]), "question 1: begin has 2 times for 3 videos"),
        ("PEA", broken(of=PEA, end=[9, 9, "soon"]), "end: 2 is 'soon', not a number of seconds"),
        ("PEA", broken(of=PEA, begin=None), "question 1: begin is missing"),
        ("CC", None, "no such file; get it from the folder QA of the data set"),
    ],
)
def test_bad_questions_are_refused_in_one_line(
    tmp_path: Path, name: str, entries: Any, message: str
) -> None:
    folder = folder_of(tmp_path, **({} if entries is None else {name: entries}))
    with pytest.raises(StepDiffError, match=re.escape(message)) as caught:
        read(folder, name)
    assert str(folder / "QA" / f"{name}.json") in str(caught.value) and "\n" not in str(
        caught.value
    )


def test_a_letter_is_not_taken_from_a_sentence() -> None:
    assert without_letters(["A pan", "A pot"]) == ("A pan", "A pot")
    assert without_letters(["A: one\n two ", "B: C. three"]) == ("one\n two", "C. three")


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=6), st.data())
def test_a_tie_counts_its_share(scores: list[float], data: st.DataObject) -> None:
    answer = data.draw(st.integers(0, len(scores) - 1))
    orders = [
        sorted(order, key=lambda option: -scores[option])
        for order in permutations(range(len(scores)))
    ]
    assert share_right(scores, answer) == pytest.approx(
        fmean(order[0] == answer for order in orders)
    )


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0]), st.booleans()), min_size=1, max_size=6))
def test_figures_of_ties_equal_the_mean_over_all_orders(targets: list[tuple[float, bool]]) -> None:
    scores, right = [score for score, _ in targets], [own for _, own in targets]
    if not any(right):
        right[0] = True
    ranks = []
    for order in permutations(range(len(targets))):
        ranked = sorted(order, key=lambda target: -scores[target])
        ranks.append(1 + next(place for place, target in enumerate(ranked) if right[target]))
    figures = first_right(scores, right)
    for k in CUTS:
        assert figures[f"recall@{k}"] == pytest.approx(fmean(rank <= k for rank in ranks))
    assert figures["mean_rank"] == pytest.approx(fmean(ranks))
    assert figures["MRR"] == pytest.approx(fmean(1 / rank for rank in ranks))


def test_a_constant_prediction_scores_chance() -> None:
    rows = [
        Ranking("a", "r_0_1", tuple("bcdef"), "step"),
        Ranking("b", "s_0_1", tuple("ghij"), "step"),
    ]
    right = [{"c", "f"}, {"g"}]
    groups = ["one", "two"]
    scores = score_rankings("any", rows, [[0.5] * 5, [7] * 4], right, Resamples(groups, 100, 0))
    assert scores["chance"] == {name: scores[name] for name in scores["chance"]}
    assert (
        scores["recall@1"] == pytest.approx((2 / 5 + 1 / 4) / 2)
        and scores["mean_rank"] == (6 / 3 + 5 / 2) / 2
    )
    assert scores["rows_with_ties"] == 2
    best = score_rankings(
        "any", rows, [[0, 9, 0, 0, 0], [1, 0, 0, 0]], right, Resamples(groups, 0, 0)
    )
    assert (
        best["recall@1"] == best["MRR"] == best["mean_rank"] == 1
        and best["chance"] == scores["chance"]
    )


@given(
    st.lists(st.sets(st.sampled_from("abcdefgh"), min_size=1, max_size=3), min_size=1, max_size=8)
)
def test_rows_that_share_a_video_are_in_one_group(videos: list[set[str]]) -> None:
    groups = groups_of([sorted(row) for row in videos])
    linked = [{number} for number in range(len(videos))]
    for _ in videos:  # a path between two rows is no longer than their number
        for own in linked:
            own |= {
                other
                for other, names in enumerate(videos)
                if any(names & videos[number] for number in list(own))
            }
    for number, own in enumerate(linked):
        assert {other for other, group in enumerate(groups) if group == groups[number]} == own
