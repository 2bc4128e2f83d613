"""What language models really write, read."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotate import parsing
from annotate.parsing import QA, Reading, read_pairs, read_yes_no

WHISK = QA("Which video uses a whisk?", "Video 1")
FORK = QA("Which video uses a fork?", "Video 2")
TEXT = QA("How do the bowls differ?", "In Video 1 it is glass, while in Video 2 it is steel.")

# name: (what a model wrote, the pairs in it, the reasons of what was dropped)
WRITTEN: dict[str, tuple[str, list[QA], list[str]]] = {
    "plain": ("Q: Which video uses a whisk?\nA: Video 1\nQ: Which video uses a fork?\nA: Video 2", [WHISK, FORK], []),
    "blank lines between": ("Q: Which video uses a whisk?\n\nA: Video 1\n\n\nQ: Which video uses a fork?\n\nA: Video 2\n", [WHISK, FORK], []),
    "numbered lines": ("1. Q: Which video uses a whisk?\n   A: Video 1\n2. Q: Which video uses a fork?\n   A: Video 2", [WHISK, FORK], []),
    "numbers in brackets": ("1) Q: Which video uses a whisk?\nA: Video 1\n\n(2) Q: Which video uses a fork?\nA: Video 2", [WHISK, FORK], []),
    "numbers in the marker": ("Q1: Which video uses a whisk?\nA1: Video 1\nQ2. Which video uses a fork?\nA2. Video 2", [WHISK, FORK], []),
    "number on a line of its own": ("1.\nQ: Which video uses a whisk?\nA: Video 1\n2.\nQ: Which video uses a fork?\nA: Video 2", [WHISK, FORK], []),
    "bold": ("**Q:** Which video uses a whisk?\n**A:** Video 1\n\n**Q: Which video uses a fork?**\n**A: Video 2**", [WHISK, FORK], []),
    "bold with numbers": ("**Q1:** Which video uses a whisk?\n**A1:** Video 1\n**2. Q:** Which video uses a fork?\n**A:** **Video 2**", [WHISK, FORK], []),
    "headings": ("### Question 1:\nWhich video uses a whisk?\n### Answer:\nVideo 1\n\n### Question 2\nWhich video uses a fork?\n### Answer 2\nVideo 2", [WHISK, FORK], []),
    "words for letters": ("Question: Which video uses a whisk?\nAnswer: Video 1\nQuestion 2: Which video uses a fork?\nAnswer 2: Video 2", [WHISK, FORK], []),
    "lists": ("- Q: Which video uses a whisk?\n- A: Video 1\n* **Q:** Which video uses a fork?\n  * **A:** Video 2", [WHISK, FORK], []),
    "one line": ("Q: Which video uses a whisk? A: Video 1 Q: Which video uses a fork? A: Video 2", [WHISK, FORK], []),
    "one line a pair, numbered": ("1. Q: Which video uses a whisk? A: Video 1\n2. Q: Which video uses a fork? A: Video 2", [WHISK, FORK], []),
    "all on one line, numbered": ("1. Q: Which video uses a whisk? A: Video 1 2. Q: Which video uses a fork? A: Video 2", [WHISK, FORK], []),
    "answer that ends with a number": ("Q: How many eggs?\nA: Video 1 takes 3, Video 2 takes 2.", [QA("How many eggs?", "Video 1 takes 3, Video 2 takes 2.")], []),
    "small letters": ("q: Which video uses a whisk?\na: Video 1", [WHISK], []),
    "space before the colon": ("Q : Which video uses a whisk?\nA : Video 1", [WHISK], []),
    "colons of another script": ("Q：Which video uses a whisk?\nA：Video 1", [WHISK], []),
    "quoted": ('Q: "Which video uses a whisk?"\nA: "Video 1"', [WHISK], []),
    "block quote": ("> Q: Which video uses a whisk?\n> A: Video 1", [WHISK], []),
    "greeting": ("Sure! Here are three question-answer pairs comparing the two videos:\n\nQ: Which video uses a whisk?\nA: Video 1", [WHISK], []),
    "chat behind": ("Q: Which video uses a whisk?\nA: Video 1\n\nI hope this helps! Let me know if you need more questions.", [WHISK], []),
    "chat right behind": ("Q: Which video uses a whisk?\nA: Video 1\nLet me know if you'd like me to generate more.", [WHISK], []),
    "a note behind": ("Q: Which video uses a whisk?\nA: Video 1\n\nThe two videos differ in many more ways, as one can see.", [WHISK], []),
    "answer of several lines": ("Q: How do the bowls differ?\nA: In Video 1 it is glass,\nwhile in Video 2 it is steel.", [TEXT], []),
    "answer below its marker": ("Q: How do the bowls differ?\nA:\nIn Video 1 it is glass, while in Video 2 it is steel.", [TEXT], []),
    "answer in a list": ("Q: How do the bowls differ?\nA:\n- In Video 1 it is glass,\n- while in Video 2 it is steel.", [TEXT], []),
    "answer goes on behind a gap": ("Q: How do the bowls differ?\nA: In Video 1 it is glass,\n\nwhile in Video 2 it is steel.", [TEXT], []),
    "rulers": ("Q: Which video uses a whisk?\nA: Video 1\n---\nQ: Which video uses a fork?\nA: Video 2\n***", [WHISK, FORK], []),
    "Windows line ends": ("Q: Which video uses a whisk?\r\nA: Video 1\r\n", [WHISK], []),
    "control tokens": ("<|im_start|>Q: Which video uses a whisk?\nA: Video 1<|im_end|>\n<|im_start|>user\nQ: Which video uses a fork?\nA: Video 2", [WHISK], []),
    "llama's tokens": (" Q: Which video uses a whisk?\nA: Video 1 </s>[INST] Thank you [/INST]", [WHISK], []),
    "talks to itself": ("Q: Which video uses a whisk?\nA: Video 1\nUser: Thanks.\nAssistant: You are welcome.", [WHISK], []),
    "missing answer": ("Q: Which video is longer?\nQ: Which video uses a whisk?\nA: Video 1", [WHISK], [parsing.NO_ANSWER]),
    "cut off behind a question": ("Q: Which video uses a whisk?\nA: Video 1\nQ: Which video shows the", [WHISK], [parsing.NO_ANSWER]),
    "cut off behind a marker": ("Q: Which video uses a whisk?\nA: Video 1\nQ: Which video uses a fork?\nA:", [WHISK], [parsing.NO_ANSWER]),
    "answer without question": ("A: Video 2\nQ: Which video uses a whisk?\nA: Video 1", [WHISK], [parsing.NO_QUESTION]),
    "two answers": ("Q: Which video uses a whisk?\nA: Video 1\nA: Video 2", [WHISK], [parsing.NO_QUESTION]),
    "refusal": ("I'm sorry, but I cannot watch videos. I am a text-based assistant.", [], [parsing.REFUSAL]),
    "refusal of an AI": ("As an AI language model, I don't have access to the videos you mention.", [], [parsing.REFUSAL]),
    "refusal as an answer": ("Q: Which video uses a whisk?\nA: Video 1\nQ: Which video is longer?\nA: I cannot determine that from the descriptions.", [WHISK], [parsing.REFUSAL]),
    "template echoed": ("Q: [Question]\nA: [Answer]\nQ: ...\nA: ...", [], [parsing.PLACEHOLDER, parsing.PLACEHOLDER]),
    "no markers": ("Video 1 shows a person who whisks eggs. Video 2 shows the same with a fork.", [], [parsing.NO_MARKERS]),
    "numbered without markers": ("1. Which video uses a whisk?\n2. Which video uses a fork?", [], [parsing.NO_MARKERS]),
    "nothing": (" \n ", [], [parsing.EMPTY]),
    "runs on": ("Q: Which video uses a whisk?\nA: " + "Video 1 and then " * 60, [], [parsing.RUNAWAY]),
    "Q: inside a caption": ('Q: Which video has a sign that says "FAQ: eggs"?\nA: Video 1', [QA('Which video has a sign that says "FAQ: eggs"?', "Video 1")], []),
    "vitamin A": ("Q: Which video names vitamin A, B and C?\nA: Video 1", [QA("Which video names vitamin A, B and C?", "Video 1")], []),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_read_pairs(name: str) -> None:
    written, pairs, reasons = WRITTEN[name]
    reading = read_pairs(written)
    assert reading.pairs == pairs
    assert [dropped.reason for dropped in reading.dropped] == reasons


YES_NO = {
    "YES": "YES",
    "NO": "NO",
    "yes": "YES",
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
    "YES/NO": parsing.NOT_YES_NO,
    "Nothing is similar.": parsing.NOT_YES_NO,
    "The two videos both show cooking.": parsing.NOT_YES_NO,
    "I cannot answer that.": parsing.REFUSAL,
    "As an AI, I do not have access to videos.": parsing.REFUSAL,
    "": parsing.EMPTY,
}


@pytest.mark.parametrize("written", YES_NO)
def test_read_yes_no(written: str) -> None:
    found = read_yes_no(written)
    assert (found if isinstance(found, str) else found.reason) == YES_NO[written]


PIECES = st.sampled_from(
    ["Q:", "A:", "**Q:**", "1.", "Q2.", "Answer:", "\n", "\n\n", " ", "?", "Video 1", "Which video", "[", "]", "<|im_end|>"]
    + ["I hope this helps", "I'm sorry", "- ", "YES", "NO", "…", "\u2028", "\0", "“", "<s>", "**", "Question 1"]
)
ANY = st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=40).map("".join))


@given(ANY)
def test_any_text_is_read_without_an_error_and_nothing_of_it_is_lost_unsaid(text: str) -> None:
    reading = read_pairs(text)
    assert isinstance(reading, Reading)
    assert reading.pairs or reading.dropped
    found = read_yes_no(text)
    assert found in ("YES", "NO") or (isinstance(found, parsing.Dropped) and found.reason)


@given(ANY)
def test_a_question_or_answer_is_one_line_without_markers_marks_of_style_or_control_tokens(text: str) -> None:
    for pair in read_pairs(text).pairs:
        for part in pair:
            assert part == part.strip() and len(part.splitlines()) == 1
            assert "**" not in part and "<|im_end|>" not in part and not re.match(r"(?:Q|A|Question|Answer):", part)


WORDS = st.lists(st.sampled_from("the person whisks eggs in a glass bowl Video 1 2 slowly, gently oil it's".split()), min_size=1)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_what_is_written_back_as_q_and_a_lines_reads_the_same(words: list[tuple[list[str], list[str]]]) -> None:
    pairs = [QA(" ".join(question[:20]) + "?", " ".join(answer[:20]) + ".") for question, answer in words]
    reading = read_pairs("\n".join(f"Q: {pair.question}\nA: {pair.answer}" for pair in pairs))
    assert reading == Reading(pairs, [])
