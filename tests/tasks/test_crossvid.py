"""CrossVid's questions: the published keys, clips, scores, chance, groups and the export."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from common.errors import StepDiffError
from tasks import registry
from tasks.benchmarks.crossvid import ERRORS, read, without_letters

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
    asked = registry.get("crossvid-cc").read(folder_of(tmp_path, CC=CC))
    assert [row.key for row in asked.rows] == ["7", '"late"', "9"]
    assert asked.rows[0].clips == ("cook/a", "cook/b-_1", "cook/c", "cook/d")
    assert asked.rows[0].options == ("Video 1", "Video 2", "Video 3", "Video 4")
    assert asked.rows[1].options == ("Only one fries.", "Only one boils: A. slowly")
    assert asked.rows[1].question == "How do the videos differ?"
    assert asked.rows[2].options == ("both", "neither", "only in Video 2")
    right = [row.options[asked.truth[row.key].answer] for row in asked.rows]
    assert right == ["Video 3", "Only one fries.", "only in Video 2"]


def test_rows_do_not_contain_the_truth(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path, CC=broken(answer=letter)) for letter in "AC"]
    first = read(folders[0], "CC").rows
    folder_of(tmp_path, CC=CC)
    assert read(folders[1], "CC").rows == first


def test_times_are_cut_to_whole_seconds_and_the_errors_precede_the_question(tmp_path: Path) -> None:
    benchmark = registry.get("crossvid-pea")
    (row,) = benchmark.read(folder_of(tmp_path, PEA=PEA)).rows
    assert row.clips == ("assembly/u_3_10", "assembly/v_4_9", "assembly/u_0_8")
    assert row.question == f"{ERRORS} What is wrong in Video 2?"
    found = [(clip.clip, clip.video, clip.start, clip.end) for clip in benchmark.clips(tmp_path)]
    assert found == [
        ("assembly/u_3_10", "videos/assembly/u.mp4", 3, 10),
        ("assembly/v_4_9", "videos/assembly/v.mp4", 4, 9),
        ("assembly/u_0_8", "videos/assembly/u.mp4", 0, 8),
    ]


def test_a_segment_without_a_whole_second_is_left_out_and_counted(tmp_path: Path) -> None:
    asked = read(folder_of(tmp_path, PEA=PEA), "PEA")
    assert len(asked.rows) == 1 and any("left out: 1 questions" in note for note in asked.notes)
    with pytest.raises(StepDiffError, match="none of its 1 questions can be asked"):
        read(folder_of(tmp_path, PEA=PEA[1:]), "PEA")


def test_each_clip_is_listed_once(tmp_path: Path) -> None:
    found = [clip.clip for clip in registry.get("crossvid-cc").clips(folder_of(tmp_path, CC=CC))]
    assert found == ["cook/a", "cook/b-_1", "cook/c", "cook/d", "cook/e", "cook/y", "cook/z"]
    videos = ["cook/a.mp4", "cook/a.webm"]
    with pytest.raises(StepDiffError, match=r"cook/a\.mp4 and videos/cook/a\.webm have one id; rename"):
        list(registry.get("crossvid-cc").clips(folder_of(tmp_path, CC=broken(videos=videos))))


def test_accuracy_equals_the_count_of_right_letters(tmp_path: Path) -> None:
    benchmark = registry.get("crossvid-cc")
    asked = benchmark.read(folder_of(tmp_path, CC=CC))
    predictions = [[0.0, -1.0, 5.0, 2.0], [-3.0, -2.0], [-1.0, -9.0, -1.0]]
    scores = benchmark.score(asked.rows, predictions, asked.truth, 100, 0)
    assert scores["accuracy"] == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert scores["chance"]["accuracy"] == pytest.approx((1 / 4 + 1 / 2 + 1 / 3) / 3)
    assert (scores["rows"], scores["ties"], scores["videos"], scores["groups"]) == (3, 1, 7, 2)
    assert scores["intervals"]["accuracy"][0] <= scores["accuracy"] <= scores["intervals"]["accuracy"][1]
    part = benchmark.score(asked.rows[:2], predictions[:2], asked.truth, 100, 0)
    assert part["accuracy"] == 1 / 2 and part["intervals"]["accuracy"] is None, "one group: nothing to resample"
    assert "accuracy" not in benchmark.score(asked.rows, predictions, asked.truth, 0, 0)["intervals"]


def test_an_export_has_the_ids_and_letters_of_the_published_file(tmp_path: Path) -> None:
    benchmark = registry.get("crossvid-cc")
    rows = benchmark.read(folder_of(tmp_path, CC=CC)).rows
    assert benchmark.export is not None
    (path,) = benchmark.export(tmp_path, rows, [[0, 0, 1, 0], [1, 2], [3, 3, 0]], tmp_path / "out")
    answers = [{"id": 7, "answer": "C"}, {"id": "late", "answer": "B"}, {"id": 9, "answer": "A"}]
    assert json.loads(path.read_text()) == answers
    benchmark.export(tmp_path, rows, [None, [1, 2], None], tmp_path / "out")
    assert json.loads(path.read_text()) == answers[1:2]


def test_the_interval_of_few_groups_is_that_of_resampled_groups(tmp_path: Path) -> None:
    """Rows of one video are drawn together: ten copies of two questions have the interval of two groups."""
    entries = [
        CC[1] | {"id": number, "videos": [f"cook/{number % 2}.mp4", f"cook/{number % 2}-{number}.mp4"]}
        for number in range(20)
    ]
    benchmark = registry.get("crossvid-cc")
    asked = benchmark.read(folder_of(tmp_path, CC=entries))
    predictions = [[1.0, 0.0] if number % 2 else [0.0, 1.0] for number in range(20)]
    scores = benchmark.score(asked.rows, predictions, asked.truth, 200, 0)
    assert scores["groups"] == 2 and scores["accuracy"] == 0.5 and scores["intervals"]["accuracy"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (broken(question=None), "question 1: no 'question', only 'id', 'videos', 'options', 'answer'"),
        (broken(1, answer="C"), "question 2: 'answer' is 'C', not one of A, B"),
        (broken(answer="c"), "question 1: 'answer' is 'c', not one of A, B, C, D"),
        (broken(options=["A. one", "C. two"]), "whose letters are not A, B, ... in order"),
        (broken(options=["A. one", "two"]), "whose letters are not A, B, ... in order"),
        (broken(options=["A. one"]), "not at least two texts"),
        (broken(videos=[]), "question 1: 'videos' is [], not a list with at least one entry"),
        (broken(videos=["a.mp4", 3]), "not only paths of files"),
        (broken(id=True), "'id' is True, not a number or a text"),
        (broken(1, id=7), "'7' is there twice (1 such rows); fetch the published file again"),
        ({"questions": CC}, "not a list with at least one question; get it again from the folder QA"),
        (["a question"], "question 1 is str, not an object"),
    ],
)
def test_bad_questions_are_refused_in_one_line(tmp_path: Path, entries: Any, message: str) -> None:
    folder = folder_of(tmp_path, CC=entries)
    with pytest.raises(StepDiffError, match=re.escape(message)) as caught:
        read(folder, "CC")
    assert str(folder / "QA" / "CC.json") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"begin": [1, 2]}, "question 1: 'begin' has 2 times for 3 videos"),
        ({"end": [9, 9, "soon"]}, "'end' holds [9, 9, 'soon'], not only seconds"),
        ({"end": [9, 9, None]}, "'end' holds [9, 9, None], not only seconds"),
        ({"begin": [-1, 0, 0]}, "'begin' holds -1, a negative time"),
        ({"begin": None}, "question 1: no 'begin'"),
    ],
)
def test_bad_times_are_refused_in_one_line(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    folder = folder_of(tmp_path, PEA=broken(of=PEA, **values))
    with pytest.raises(StepDiffError, match=re.escape(message)):
        read(folder, "PEA")


def test_a_missing_or_damaged_file_is_named_with_its_source(tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match=r"QA/PEA\.json: no such file; get it from the folder QA of the data set"):
        read(tmp_path, "PEA")
    folder_of(tmp_path, CC=CC)
    (tmp_path / "QA" / "CC.json").write_bytes(b'[{"id": 1,')
    with pytest.raises(StepDiffError, match=r"QA/CC\.json: not JSON .*; get it again from"):
        read(tmp_path, "CC")


def test_predictions_must_fit_their_rows(tmp_path: Path) -> None:
    benchmark = registry.get("crossvid-cc")
    asked = benchmark.read(folder_of(tmp_path, CC=CC))
    with pytest.raises(StepDiffError, match="row '\"late\"': 3 scores for a row that needs 2"):
        benchmark.score(asked.rows, [[0] * 4, [0] * 3, [0] * 3], asked.truth, 0, 0)
    with pytest.raises(StepDiffError, match="2 predictions for 3 rows"):
        benchmark.score(asked.rows, [[0] * 4, [0] * 2], asked.truth, 0, 0)
    with pytest.raises(StepDiffError, match="row '7' has no truth"):
        benchmark.score(asked.rows[:1], [[0] * 4], {}, 0, 0)


def test_a_letter_is_not_taken_from_a_sentence() -> None:
    assert without_letters(["A pan", "A pot"]) == ("A pan", "A pot")
    assert without_letters(["A: one\n two ", "B: C. three"]) == ("one\n two", "C. three")
