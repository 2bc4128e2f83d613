"""Guarantees of annotate.people.answers."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from annotate.people.answers import latest, read_answers
from annotate.people.answers import write_answers as write
from annotate.people.form import Answer, Difference, answer_of
from annotate.people.task import Pair
from common.errors import StepDiffError
from common.io.jsonl import object_line

from .people_made import answer, answers, usual

TASK = replace(usual(), pairs=(Pair("p1", "p1-a", "p1-b"),))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answers())
def test_written_answers_read_back_equal(tmp_path: Path, made: list[Answer]) -> None:
    write(tmp_path / "answers.jsonl", made)
    assert list(read_answers(tmp_path / "answers.jsonl")) == made


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pair": 3}, "pair should be"),
        ({"pair": " "}, "pair should not be empty"),
        ({"candidate": "p1-a"}, "pairs 'p1-a' with itself"),
        ({"annotator": ""}, "annotator should have at least 1"),
        ({"keystep": None}, "keystep should be a valid string, not None"),
        ({"keystep": "x" * 10_001}, "keystep should have at most 10000"),
        ({"keystep": "\ud800"}, "keystep should be a valid string"),
        ({"differences": []}, "differences should be"),
        (
            {"differences": {str(i): {"text": "", "score": 5} for i in range(101)}},
            "should have at most 100",
        ),
        ({"differences": {"Visuals": 5}}, "differences: Visuals should be an object, not 5"),
        ({"differences": {"Visuals": {"text": "", "score": 6}}}, "Visuals: score should be less than or equal to 5"),
        ({"differences": {"Visuals": {"text": "", "score": True}}}, "not True"),
        ({"differences": {"Visuals": {"text": "", "score": float("nan")}}}, "not nan"),
        ({"differences": {"Visuals": {"text": "", "score": "5"}}}, "not '5'"),
        ({"differences": {"Visuals": {"text": "", "score": 5, "x": 1}}}, "Visuals: x is no key"),
        ({"rejected": ""}, "rejected should have at least 1"),
        ({"left": "top"}, "left should be 'reference' or 'candidate', not 'top'"),
        ({"seconds": float("inf")}, "seconds should be"),
        ({"seconds": float("nan")}, "seconds should be"),
        ({"seconds": -1}, "seconds should be"),
        ({"seconds": True}, "seconds should be"),
        ({"submitted": "yesterday"}, "submitted should be a time in UTC such as"),
        ({"submitted": "2026-11-28T09:30:00"}, "submitted should be a time in UTC"),
        ({"submitted": "2026-11-28T09:30:00+02:00"}, "submitted should be a time in UTC"),
        ({"kind": "play"}, "kind should be 'work', 'gold'"),
        ({"kind": ["work"]}, "kind should be"),
        ({"extra": 1}, "extra is no key"),
    ],
)
def test_an_error_names_the_file_and_the_line(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    line = object_line(asdict(answer()))
    path = tmp_path / "answers.jsonl"
    path.write_text(line + json.dumps(json.loads(line) | change) + "\n")
    with pytest.raises(StepDiffError, match="answers.jsonl:2: .*" + re.escape(named)) as error:
        list(read_answers(path))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_line_of_another_kind_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    for line, why in (
        (b"[]", "not a JSON object"),
        (b"\xff", "not a JSON"),
        (b"", "empty line"),
        (b"{}", "is missing"),
    ):
        path.write_bytes(object_line(asdict(answer())).encode() + line + b"\n")
        with pytest.raises(StepDiffError, match=f"answers.jsonl:2: .*{why}"):
            list(read_answers(path))
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(StepDiffError, match="answers.jsonl:1: not a JSON object"):
        list(read_answers(path))


def test_the_lines_before_a_fault_are_read_first(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(object_line(asdict(answer())) + "{")
    assert next(read_answers(tmp_path / "a.jsonl")) == answer()


def changed(name: str, text: str, score: int) -> Answer:
    made = answer()
    return replace(made, differences={**made.differences, name: Difference(text, score)})


@pytest.mark.parametrize(
    ("given", "sentences"),
    [
        (answer(), []),
        (answer(scores={"Visuals": 1}), []),
        (changed("Tools/Equipment", "a blue bowl", 5), []),
        (answer(keystep=" "), ["Write the keystep that both clips show, in at most 10 words."]),
        (answer(keystep="a " * 11), ["The keystep has 11 words; write at most 10."]),
        (answer(keystep="a " * 10), []),
        (
            changed("Tools/Equipment", " ", 4),
            ["Tools / Equipment: describe the difference, or choose score 5 (not different)."],
        ),
        (
            replace(answer(), differences={n: d for n, d in answer().differences.items() if n != "Technique"}),
            ["Techniques: choose a score from 1 (very different) to 5 (not different)."],
        ),
        (changed("Taste", "", 5), ["Taste is not a category of the task."]),
        (answer("p2"), ["The pair p2 with these two clips is not part of the task."]),
        (answer(candidate="c"), ["The pair p1 with these two clips is not part of the task."]),
        (answer(rejected="too short", keystep="", differences={}), []),
        (
            answer(rejected="dull"),
            ["Choose one of the reasons to reject a pair: different steps, unclear, too short, other."],
        ),
    ],
)
def test_an_answer_that_breaks_a_rule_of_fig_s2_or_s3_gets_one_sentence_for_each(
    given: Answer, sentences: list[str]
) -> None:
    assert TASK.problems(given) == sentences


def test_of_several_answers_of_one_person_about_a_pair_the_last_one_counts() -> None:
    first, second = answer(submitted="2026-11-28T09:30:00Z"), answer(submitted="2026-11-28T09:31:00+00:00", seconds=9.0)
    other, gold = answer(annotator="bob"), answer(kind="gold")
    assert latest([second, first, other, gold]) == [second, other, gold]
    unknown = answer(submitted=None)
    assert latest([unknown, replace(unknown, seconds=1.0)]) == [replace(unknown, seconds=1.0)]
    assert latest([first, unknown]) == [first]


def test_a_text_says_how_the_right_video_differs_from_the_left_one() -> None:
    assert answer(left="candidate").shown == ("p1-b", "p1-a")
    assert answer(left=None).shown == answer().shown == ("p1-a", "p1-b")


def test_an_answer_is_an_object() -> None:
    with pytest.raises(StepDiffError, match="should be an object, not"):
        answer_of([1])
