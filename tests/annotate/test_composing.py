"""Guarantees of annotate/qa/composing.py, with hand-written texts."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotate.qa import composing
from annotate.qa.composing import ALIKE, SIMILAR, UNANSWERED, Ledger, compose
from annotate.qa.job import item_key
from annotate.qa.mentions import names_one
from annotate.qa.parsing import read_pairs


def by_last_letter(texts: Sequence[str]) -> np.ndarray:
    """Treat questions as similar if their last letters before the question mark are equal."""
    return np.eye(128, dtype=np.float32)[[ord(text[-2]) % 128 for text in texts]]


def pair(number: int, same_step: bool = True) -> dict[str, Any]:
    return {"pair": number, "reference": f"a_{number}_1", "candidate": f"b_{number}_1", "same_step": same_step}


def composed(
    pairs: list[dict[str, Any]], texts: dict[tuple[int, int], str], cut: Sequence[tuple[int, int]] = ()
) -> tuple[list[dict[str, Any]], Ledger]:
    """Compose questions from `texts` by pair and type; `cut` are those that the token limit cut."""
    written = {item_key(kind, f"a_{number}_1", f"b_{number}_1"): text for (number, kind), text in texts.items()}
    ledger = Ledger()
    ended = {item_key(kind, f"a_{number}_1", f"b_{number}_1") for number, kind in cut}
    return list(compose(pairs, written, ended, by_last_letter, 0.9, ledger)), ledger


TEXTS = {
    1: "Q: How do the bowls differ?\nA: In Video 1 it is glass, while in Video 2 it is steel.\nQ: Why?",
    2: "Q: Which video uses a whisk?\nA: Video 1\nQ: Which of them has no fork?\nA: Video 2\nQ: Which is it?\nA: Both",
    3: "YES",
}


def test_every_question_is_written_in_both_orders_of_its_pair() -> None:
    rows, ledger = composed([pair(0)], {(0, kind): text for kind, text in TEXTS.items()})
    assert [(r["reference"], r["type"], r["question"], r["answer"]) for r in rows] == [
        ("a_0_1", 1, "How do the bowls differ?", "In Video 1 it is glass, while in Video 2 it is steel."),
        ("a_0_1", 2, "Which video uses a whisk?", "Video 1"),
        ("a_0_1", 3, SIMILAR, "YES"),
        ("b_0_1", 1, "How do the bowls differ?", "In Video 2 it is glass, while in Video 1 it is steel."),
        ("b_0_1", 2, "Which video uses a whisk?", "Video 2"),
        ("b_0_1", 3, SIMILAR, "YES"),
    ]
    assert [row["turned"] for row in rows] == [False] * 3 + [True] * 3 and {row["pair"] for row in rows} == {0}
    assert ledger.rows == len(rows)
    assert ledger.record()["types"] == {
        "1": {"written": 1, "kept": 1, "dropped": {"question without an answer": 1}},
        "2": {"written": 1, "kept": 1, "dropped": {"answer does not name exactly one video": 1, ALIKE: 1}},
        "3": {"written": 1, "kept": 1, "dropped": {}},
    }
    assert ledger.examples[ALIKE] == ["Which of them has no fork?"]


def test_a_pair_of_different_steps_gets_only_type_3_with_answer_no() -> None:
    rows, ledger = composed([pair(4, False)], {(4, kind): text for kind, text in TEXTS.items()})
    assert [(r["reference"], r["candidate"], r["type"], r["question"], r["answer"]) for r in rows] == [
        ("a_4_1", "b_4_1", 3, SIMILAR, "NO"),
        ("b_4_1", "a_4_1", 3, SIMILAR, "NO"),
    ]
    assert ledger.written.total() == 0 and not ledger.dropped


def test_a_missing_text_is_counted() -> None:
    rows, ledger = composed([pair(0)], {(0, 3): "NO"})
    assert [row["answer"] for row in rows] == ["NO", "NO"]
    assert ledger.dropped[1] == ledger.dropped[2] == {UNANSWERED: 1}


LINES = st.sampled_from(
    [
        "Q: Which video is a?",
        "Q: Which video is b?",
        "Q: Is Video 1 c?",
        "A: Video 1",
        "A: the second video",
        "A: both",
        "Sure!",
    ]
    + [
        "A: In Video 1 it is red, in Video 2 blue.",
        "A: I cannot see.",
        "",
        "Q: What do the captions say?",
        "YES",
        "A: No",
    ]
)
WRITTEN = st.lists(LINES, max_size=8).map("\n".join)


@settings(deadline=None)
@given(st.lists(st.tuples(WRITTEN, WRITTEN, WRITTEN), max_size=4), st.integers(1, 3))
def test_every_text_is_kept_or_dropped_with_a_reason_that_is_counted(
    texts: list[tuple[str, str, str]], at_once: int
) -> None:
    message = {(number, kind): text for number, of_pair in enumerate(texts) for kind, text in enumerate(of_pair, 1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composing, "PAIRS_AT_ONCE", at_once)
        rows, ledger = composed([pair(number) for number in range(len(texts))], message)
    for kind in (1, 2):
        pieces = sum(len(found.pairs) + len(found.dropped) for found in (read_pairs(of[kind - 1]) for of in texts))
        assert ledger.kept[kind] + ledger.dropped[kind].total() == pieces
    assert ledger.kept[3] + ledger.dropped[3].total() == len(texts)
    assert len(rows) == ledger.rows == 2 * ledger.kept.total()
    names = Counter(names_one(row["answer"]) for row in rows)
    assert names[1] == names[2]
    assert all(names_one(row["answer"]) for row in rows if row["type"] == 2)
    assert {row["answer"] for row in rows if row["type"] == 3} <= {"YES", "NO"}


def test_an_answer_that_was_cut_by_the_token_limit_is_dropped_and_counted() -> None:
    written = {(0, 1): "Q: What do they use?\nA: In Video 1, the person uses a wooden"}
    (row, *_), _ = composed([pair(0)], written)
    assert row["answer"].endswith("wooden")  # nothing shows that more would follow
    rows, ledger = composed([pair(0)], written, cut=[(0, 1)])
    assert rows == [] and ledger.dropped[1] == Counter({"cut off": 1})
    whole = {(0, 1): "Q: What do they use?\nA: In Video 1, a spoon."}
    assert len(composed([pair(0)], whole, cut=[(0, 1)])[0]) == 2  # the limit came after a complete sentence
