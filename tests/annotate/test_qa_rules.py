"""Guarantees of annotate/qa/composing.py."""

import pytest

from annotate.qa import composing as qa_rules
from annotate.qa.composing import checked, turned_pair
from annotate.qa.parsing import QA, Dropped

WHICH = "Which video uses a whisk?"
KEPT = {
    (2, WHICH, "Video 1"): "Video 1",
    (2, WHICH, "video 2."): "Video 2",
    (2, WHICH, "The second video."): "Video 2",
    (2, WHICH, "In the first video"): "Video 1",
    (2, WHICH, "Answer: Video 1."): "Video 1",
    (2, WHICH, "Video 1, because its bowl is foamy."): "Video 1, because its bowl is foamy.",
    (2, "In which of the two videos is the pan hot?", "Video 2"): "Video 2",
    (2, "Which video, Video 1 or Video 2, is brighter?", "Video 2"): "Video 2",
    (1, "How do they differ?", "In Video 1 it is red, while in Video 2 it is blue."): None,
    (1, "What do both share?", "Both videos show onions."): None,
}
DROPPED = {
    (2, WHICH, "Both videos"): qa_rules.NOT_ONE,
    (2, WHICH, "Neither."): qa_rules.NOT_ONE,
    (2, WHICH, "Video 1 and Video 2"): qa_rules.NOT_ONE,
    (2, WHICH, "The person does."): qa_rules.NOT_ONE,
    (2, "Does Video 1 use a whisk?", "Video 1"): qa_rules.NOT_WHICH,
    (2, "Which video, like Video 1, uses a whisk?", "Video 1"): qa_rules.GIVEN_AWAY,
    (1, "What do the descriptions say?", "Video 1 is red."): qa_rules.DESCRIPTIONS,
    (1, "How do they differ?", "According to the narrator, Video 1 is red."): qa_rules.DESCRIPTIONS,
    (2, WHICH, "Video 3"): qa_rules.THIRD,
    (1, "How do they differ?", "Video 1 is red, the third video is not."): qa_rules.THIRD,
    (1, "How do they differ?", "How do they differ"): qa_rules.REPEATS,
    (1, "How do they differ?", "The first person uses a pan, the second person a pot."): qa_rules.UNSURE,
}


@pytest.mark.parametrize("case", KEPT)
def test_usable_pairs_are_kept_and_a_bare_video_name_is_normalised(case: tuple[int, str, str]) -> None:
    kind, question, answer = case
    assert checked(kind, QA(question, answer)) == QA(question, KEPT[case] or answer)


@pytest.mark.parametrize("case", DROPPED)
def test_a_pair_that_breaks_a_rule_is_dropped_with_its_reason(case: tuple[int, str, str]) -> None:
    kind, question, answer = case
    found = checked(kind, QA(question, answer))
    assert isinstance(found, Dropped) and found.reason == DROPPED[case]


def test_the_same_questions_of_the_turned_pair_have_the_opposite_answers() -> None:
    pair = checked(2, QA(WHICH, "the first video"))
    assert isinstance(pair, QA) and turned_pair(pair) == QA(WHICH, "Video 2")
    assert turned_pair(QA("What does Video 2 do?", "It whisks, unlike the former.")) == QA(
        "What does Video 1 do?", "It whisks, unlike the latter."
    )
