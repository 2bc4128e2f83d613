"""Guarantees of annotate.people.answers."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from annotate.people.answers import Answer, Difference, answer_line, answer_of, latest, problems, read_answers
from annotate.people.answers import write_answers as write
from annotate.people.pairs import Pair
from common.errors import StepDiffError

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
        ({"pair": 3}, "pair: id: expects a text of 1 to 2,049 characters, not 3"),
        ({"candidate": "p1-a"}, "pairs 'p1-a' with itself"),
        ({"annotator": ""}, "annotator: expects 1 to"),
        ({"keystep": None}, "keystep: expects a text, not None"),
        ({"keystep": "x" * 10_001}, "keystep: expects 0 to 10,000 characters"),
        ({"keystep": "\ud800"}, "keystep: expects 0 to 10,000 characters of text"),
        ({"differences": []}, "differences: expects up to 100 categories"),
        ({"differences": {str(i): {"text": "", "score": 5} for i in range(101)}}, "differences: expects up to 100"),
        ({"differences": {"Visuals": 5}}, "'Visuals': expects text and score, not 5"),
        ({"differences": {"Visuals": {"text": "", "score": 6}}}, "score: expects a whole number from 1 to 5, not 6"),
        ({"differences": {"Visuals": {"text": "", "score": True}}}, "not True"),
        ({"differences": {"Visuals": {"text": "", "score": float("nan")}}}, "not nan"),
        ({"differences": {"Visuals": {"text": "", "score": "5"}}}, "not '5'"),
        ({"differences": {"Visuals": {"text": "", "score": 5, "x": 1}}}, "expects text and score"),
        ({"rejected": ""}, "rejected: expects 1 to"),
        ({"left": "top"}, "left: expects one of reference, candidate, null, not 'top'"),
        ({"seconds": float("inf")}, "seconds: expects a number of seconds, not inf"),
        ({"seconds": float("nan")}, "seconds: expects a number of seconds, not nan"),
        ({"seconds": -1}, "seconds: expects a number of seconds, not -1"),
        ({"submitted": "yesterday"}, "submitted: expects a time in UTC such as"),
        ({"submitted": "2026-11-28T09:30:00"}, "submitted: expects a time in UTC"),
        ({"submitted": "2026-11-28T09:30:00+02:00"}, "submitted: expects a time in UTC"),
        ({"kind": "play"}, "kind: expects one of work, gold, training, adjudication, not 'play'"),
        ({"kind": ["work"]}, "kind: expects one of work"),
        ({"extra": 1}, "an answer has no key 'extra'"),
    ],
)
def test_an_error_names_the_file_and_the_line(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    line = answer_line(answer())
    path = tmp_path / "answers.jsonl"
    path.write_text(line + json.dumps(json.loads(line) | change) + "\n")
    with pytest.raises(StepDiffError, match="answers.jsonl:2: .*" + re.escape(named)) as error:
        list(read_answers(path))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_line_of_another_kind_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    for line, why in ((b"[]", "not a JSON object"), (b"\xff", "not a JSON"), (b"", "empty line"), (b"{}", "no 'pair'")):
        path.write_bytes(answer_line(answer()).encode() + line + b"\n")
        with pytest.raises(StepDiffError, match=f"answers.jsonl:2: .*{why}"):
            list(read_answers(path))
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(StepDiffError, match="answers.jsonl:1: not a JSON object"):
        list(read_answers(path))


def test_the_lines_before_a_fault_are_read_first(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(answer_line(answer()) + "{")
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
    assert problems(given, TASK) == sentences


def test_several_broken_rules_give_several_sentences() -> None:
    assert len(problems(answer(keystep="", differences={}), TASK)) == 6


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
    with pytest.raises(StepDiffError, match="an answer is an object"):
        answer_of([1])
