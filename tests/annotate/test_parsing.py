"""Parsing of answers that language models have written."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from annotate.qa import parsing
from annotate.qa.parsing import QA, Dropped, Reading, read_pairs, read_yes_no

WHISK = QA("Which video uses a whisk?", "Video 1")
WRITTEN = Path(__file__).with_name("written.txt").read_text(encoding="utf-8")
CASES = {case.partition("\n")[0]: case.partition("\n")[2] for case in WRITTEN.split("%% ")[1:]}
"""name -> what a model wrote, then "%+ question | answer" for each pair in it and "%- reason" for what is dropped"""


@pytest.mark.parametrize("name", CASES)
def test_pairs_of_question_and_answer_are_read(name: str) -> None:
    lines = CASES[name].splitlines()
    reading = read_pairs("\n".join(line for line in lines if line[:2] not in ("%+", "%-")))
    assert [f"%+ {pair.question} | {pair.answer}" for pair in reading.pairs] == [x for x in lines if x[:2] == "%+"]
    assert [f"%- {dropped.reason}" for dropped in reading.dropped] == [x for x in lines if x[:2] == "%-"]


def test_windows_line_ends_and_empty_answers_are_read() -> None:
    assert read_pairs("Q: Which video uses a whisk?\r\nA: Video 1\r\n").pairs == [WHISK]
    assert read_pairs(" \n ") == Reading([], [Dropped(parsing.EMPTY, "")])


def test_an_endless_answer_is_dropped() -> None:
    (dropped,) = read_pairs("Q: Which video uses a whisk?\nA: " + "Video 1 and then " * 60).dropped
    assert dropped.reason == parsing.RUNAWAY


YES_NO = {
    "YES": "YES",
    "NO": "NO",
    "yes": "YES",
    "Yes.": "YES",
    "No.": "NO",
    "**YES**": "YES",
    '"NO"': "NO",
    "A: YES": "YES",
    "Answer: NO": "NO",
    "Q: Do the two videos share a similar main action?\nA: YES": "YES",
    "YES. Both videos show a person who whisks eggs.": "YES",
    "No, the two videos do not share a similar main action.": "NO",
    "The answer is YES.": "YES",
    "The two videos differ, so the answer is: no": "NO",
    "YES<|im_end|>\n<|im_start|>user NO": "YES",
    " YES</s>": "YES",
    "YES or NO": parsing.NOT_YES_NO,
    "Yes and no.": parsing.NOT_YES_NO,
    "Q: Do they?\nA: Yes": "YES",
    "A: YES\nQ: And the tools?\nA: NO": "YES",
    "Yes they do.": "YES",
    "No idea": parsing.NOT_YES_NO,
    "NO information is available": parsing.NOT_YES_NO,
    "yes \u2014 NO": parsing.NOT_YES_NO,
    "Video NO. 1": parsing.NOT_YES_NO,
    "YES/NO": parsing.NOT_YES_NO,
    "Nothing is similar.": parsing.NOT_YES_NO,
    "The two videos both show cooking.": parsing.NOT_YES_NO,
    "I cannot answer that.": parsing.REFUSAL,
    "As an AI, I do not have access to videos.": parsing.REFUSAL,
    "": parsing.EMPTY,
}


@pytest.mark.parametrize("written", YES_NO)
def test_yes_and_no_are_read(written: str) -> None:
    found = read_yes_no(written)
    assert (found if isinstance(found, str) else found.reason) == YES_NO[written]


PIECES = st.sampled_from(
    "Q: A: **Q:** 1. Q2. Answer: ? [ ] - YES NO … “ <s> ** <|im_end|>".split()
    + ["\n", "\n\n", " ", "\u2028", "\0", "Video 1", "Which video", "I hope this helps", "I'm sorry", "Question 1"]
)
ANY = st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=40).map("".join))


@settings(deadline=None)
@given(ANY)
def test_any_text_is_read_without_an_error(text: str) -> None:
    reading = read_pairs(text)
    assert isinstance(reading, Reading)
    assert reading.pairs or reading.dropped
    assert all(dropped.reason for dropped in reading.dropped)
    found = read_yes_no(text)
    assert found in ("YES", "NO") or (isinstance(found, Dropped) and found.reason)


@settings(deadline=None)
@given(ANY)
@example("Q:Q:*A:0")
@example("Q:Q:what is whisked?\nA:*A:Video 1")
def test_a_question_or_answer_is_one_line_without_markers_formatting_or_control_tokens(text: str) -> None:
    for pair in read_pairs(text).pairs:
        for part in pair:
            assert part == part.strip() and len(part.splitlines()) == 1
            assert "**" not in part and "<|im_end|>" not in part and not re.match(r"(?:Q|A|Question|Answer):", part)


TEXT = "the person whisks eggs in a glass bowl Video 1 2 slowly, gently oil it's"
WORDS = st.lists(st.sampled_from(TEXT.split()), min_size=1)


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_pairs_written_as_q_and_a_lines_are_read_back(words: list[tuple[list[str], list[str]]]) -> None:
    pairs = [QA(" ".join(question[:20]) + "?", " ".join(answer[:20]) + ".") for question, answer in words]
    reading = read_pairs("\n".join(f"Q: {pair.question}\nA: {pair.answer}" for pair in pairs))
    assert reading == Reading(pairs, [])
