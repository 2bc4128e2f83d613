"""Test sets and predictions: files in the published format, ids of clips, and refusals that name
file and line."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.testsets import (
    DiffCap,
    DiffMCQ,
    DiffRank,
    Row,
    Task,
    clips_of,
    read_predictions,
    read_test_set,
    read_with_similar,
    reference_video,
    split_clip,
    write_predictions,
    write_test_set,
)

REAL = Path(__file__).parents[3] / "shared/data/stepdiff/diffrank_dataset.jsonl"
A, B, C, D = "a_0_1", "b_2_3.5", "c-_d_4_5", "d_6_7"
PAIRS = ((A, B), (B, A), (C, D), (D, A))
CAP = DiffCap(A, B, "Visuals", ("one \u2028 two", "zwei", "\ud800"))
MCQ = DiffMCQ("a difference", "Technique", PAIRS, (C, D))
RANK = DiffRank(A, (B, C, D), "Serving / Presentation", (5, 0, 3))
ROWS: dict[Task, Row] = {"diffcap": CAP, "diffmcq": MCQ, "diffrank": RANK}
PREDICTIONS: dict[Task, Any] = {
    "diffcap": "a text\nof two lines \U0001f373",
    "diffmcq": [0.1, -2.0, 1e-300, 3.0],
    "diffrank": [1.0, 0.1 + 0.2, -0.0],
}
TASKS: list[Task] = ["diffcap", "diffmcq", "diffrank"]


@pytest.mark.parametrize("task", TASKS)
def test_written_files_read_back_equal(task: Task, tmp_path: Path) -> None:
    rows = [ROWS[task]] * 3
    write_test_set(task, tmp_path / "set.jsonl", rows)
    assert read_test_set(task, tmp_path / "set.jsonl") == rows
    predictions = [PREDICTIONS[task]] * 3
    write_predictions(task, tmp_path / "predictions.jsonl", predictions)
    assert read_predictions(task, tmp_path / "predictions.jsonl", rows) == predictions
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.jsonl", "set.jsonl"]


def test_every_line_has_the_number_similar_or_none(tmp_path: Path) -> None:
    path, rows = tmp_path / "said.jsonl", [CAP] * 3
    write_predictions("diffcap", path, ["a", "b", "c"], [0.5, -1.0, 0.0])
    assert read_with_similar("diffcap", path, rows) == (["a", "b", "c"], [0.5, -1.0, 0.0])
    assert read_predictions("diffcap", path, rows) == ["a", "b", "c"], "other readers ignore it"
    whole = path.read_text().splitlines(keepends=True)
    write_predictions("diffcap", path, ["a", "b", "c"])
    assert read_with_similar("diffcap", path, rows) == (["a", "b", "c"], None)
    plain = path.read_text().splitlines(keepends=True)
    wrong = [whole[0].replace("0.5", value) for value in ("true", "NaN", '"x"')]
    for lines, message in (
        ([whole[0], plain[1], whole[2]], ":2: some lines have 'similar' and others do not"),
        ([plain[0], whole[1], whole[2]], ":2: some lines have 'similar' and others do not"),
        *(([line, *whole[1:]], ":1: similar should be a ") for line in wrong),
    ):
        path.write_text("".join(lines))
        with pytest.raises(StepDiffError, match=message):
            read_with_similar("diffcap", path, rows)


def test_the_clips_of_a_row_are_all_that_it_names() -> None:
    assert [clips_of(row) for row in (CAP, MCQ, RANK)] == [
        [A, B],
        [A, B, B, A, C, D, D, A],
        [A, B, C, D],
    ]


def test_files_are_in_the_published_format(tmp_path: Path) -> None:
    write_test_set("diffmcq", tmp_path / "a", [MCQ])
    assert json.loads((tmp_path / "a").read_text()) == {
        "difference": "a difference",
        "category": "Technique",
        "options": [list(pair) for pair in PAIRS],
        "answer": [C, D],
    }
    write_predictions("diffcap", tmp_path / "a", ["x"])
    assert (tmp_path / "a").read_text() == '{"generated_text": "x"}\n'
    write_predictions("diffrank", tmp_path / "a", [[1.0, 0.5]])
    assert (tmp_path / "a").read_text() == '{"scores": [1.0, 0.5]}\n'


FAULTS: list[tuple[Task, dict[str, Any], str]] = [
    ("diffcap", {"reference": None}, "reference should be a valid string, not None"),
    ("diffcap", {"candidate": ""}, "candidate should have at least 1 character"),
    ("diffcap", {"text": ["a", 1]}, "text: 1 should be a valid string, not 1"),
    ("diffmcq", {"options": [[A, B]] * 3}, "options should have at least 4 items"),
    ("diffmcq", {"options": [[A, B]] * 4, "answer": [A, B]}, "all options are the same pair"),
    ("diffmcq", {"answer": [A, D]}, "'answer' is not one of the options"),
    ("diffrank", {"scores": [5, 0]}, "2 scores for 3 targets"),
    ("diffrank", {"scores": [5, 0, 6]}, "scores: 2 should be less than or equal to 5, not 6"),
    ("diffrank", {"scores": [5, 0, True]}, "scores: 2 should be a valid integer, not True"),
]


@pytest.mark.parametrize(("task", "change", "message"), FAULTS)
def test_every_row_that_is_read_can_be_scored(
    task: Task, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "set.jsonl"
    write_test_set(task, path, [ROWS[task]])
    row = json.loads(path.read_text())
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | change) + "\n")
    with pytest.raises(StepDiffError, match=f"^{re.escape(str(path))}:2: {message}.*$"):
        read_test_set(task, path)
    del row[next(iter(change))]
    path.write_text(json.dumps(row))
    with pytest.raises(StepDiffError, match=f":1: {next(iter(change))} is missing"):
        read_test_set(task, path)


BAD_PREDICTIONS: list[tuple[Task, str, str]] = [
    ("diffcap", '{"generated_text": 3}', "generated_text should be a valid string, not 3"),
    ("diffcap", '{"text": "x"}', "the row has no 'generated_text', only 'text'"),
    ("diffrank", '{"scores": [1, 2]}', "2 scores for a row that needs 3"),
    ("diffrank", '{"scores": [1, 2, NaN]}', "scores 2 should be a finite number, not nan"),
    ("diffrank", f'{{"scores": [1, 2, 1{"0" * 400}]}}', "scores 2 should be a valid number, not 1"),
    ("diffrank", '{"scores": [1, 2, true]}', "scores 2 should be a valid number, not True"),
    ("diffmcq", "[1, 2]", "not a JSON object but list"),
    ("diffmcq", '{"scores": [1, 2', "not a JSON object \\("),
    ("diffmcq", "", "an empty line; remove it"),
    ("diffmcq", "[" * 100_000, "not a JSON object \\("),
]


@pytest.mark.parametrize(("task", "line", "message"), BAD_PREDICTIONS)
def test_an_error_names_the_file_and_the_line(
    task: Task, line: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "predictions.jsonl"
    write_predictions(task, path, [PREDICTIONS[task]])
    path.write_text(path.read_text() + line + "\n" + path.read_text())
    with pytest.raises(StepDiffError, match=f"^{re.escape(str(path))}:2: {message}.*$"):
        read_predictions(task, path, [ROWS[task]] * 3)


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match="nowhere: no such file"):
        read_test_set("diffcap", tmp_path / "nowhere")
    with pytest.raises(StepDiffError, match="cannot be read"):
        read_test_set("diffcap", tmp_path)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(StepDiffError, match="empty: has no rows"):
        read_test_set("diffcap", tmp_path / "empty")
    (tmp_path / "latin").write_bytes(b'{"reference": "\xe9"}\n')
    with pytest.raises(StepDiffError, match="latin:1: not a JSON object"):
        read_test_set("diffcap", tmp_path / "latin")


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write_predictions("diffrank", path, [[1.0]])
    with pytest.raises(StepDiffError, match="jsonl:2: scores 0 should be a finite number, not nan"):
        write_predictions("diffrank", path, [[1.0], [float("nan")]])
    with pytest.raises(StepDiffError, match="jsonl:1: a DiffRank is not a row of diffmcq"):
        write_test_set("diffmcq", path, [RANK])
    assert path.read_text() == '{"scores": [1.0]}\n' and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("clip", ["a", "clip 7", "ü/x", "a_1_x"])
def test_a_clip_with_another_id_is_a_video_of_its_own(clip: str, tmp_path: Path) -> None:
    write_test_set("diffcap", tmp_path / "set.jsonl", [row := DiffCap(clip, B, "Visuals", ("x",))])
    assert (
        read_test_set("diffcap", tmp_path / "set.jsonl") == [row] and reference_video(row) == clip
    )


@pytest.mark.skipif(not REAL.exists(), reason="the published DiffRank test set is not here")
def test_the_published_diffrank_test_set_is_read(tmp_path: Path) -> None:
    rows = read_test_set("diffrank", REAL)
    assert len(rows) == 4080
    assert {len(row.targets) for row in rows} == {4}
    assert Counter(row.category for row in rows)["Serving / Presentation"] == 41
    assert sum(len(set(row.scores)) < 4 for row in rows) == 3504
    write_test_set("diffrank", tmp_path / "again.jsonl", rows)
    assert (tmp_path / "again.jsonl").read_bytes() == REAL.read_bytes()


NEARLY = st.lists(
    st.sampled_from(
        [
            "_",
            ".",
            "-",
            "0",
            "12",
            "3.5",
            "1e5",
            "+1",
            "\u0663",
            "v",
            "\n",
            " ",
            "nan",
            "inf",
            "\ud800",
        ]
    )
)


@given(st.text() | NEARLY.map("".join))
@example("a_0_1\n")
@example("_0_1")
@example("a_\u0660_\u0661")
@example("a\nb_0_1")
def test_random_text_is_a_clip_id_or_refused_in_one_line(text: str) -> None:
    try:
        video, start, end = split_clip(text)
    except StepDiffError as error:
        assert "\n" not in str(error) and "is not a clip id" in str(error)
        return
    assert f"{video}_{start}_{end}" == text and [video, start, end] == text.rsplit("_", 2)
    assert video and all(math.isfinite(float(time)) and float(time) >= 0 for time in (start, end))
