"""Guarantees of tasks/postprocess.py, and the two figures that are computed with it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.declining import agreeing, asked_first, declines
from tasks.postprocess import parse
from tasks.scoring import score
from tasks.testsets import DiffCap, DiffRank

DECLINING = [
    "There is no difference in Technique.",
    "There are no significant differences between the two videos",
    "The main difference in Technique is that in Video 2, there is no clear difference.",
    'The main difference in "Actions" is that in Video 2, there is no difference, while in Video 1, the person',
    "I don't see any difference between them.",
    "The two videos do not differ in Ingredients.",
    "The technique is not different.",
    "Nothing is different.",
    "Nothing differs in Visuals",
    "None, they are alike in ingredients.",
    "None.",
    "Both videos agree in technique.",
    "Both are the same.",
    "the videos look identical.",
    "The main difference in Visuals is that in Video 2, the visuals are the same.",
    "Both videos feature diced onions and bell peppers.",
    "Both videos show the person cooking using a pan and a utensil, such as a spoon or spatula.",
    "In Video 2, the person uses the same whisk as in Video 1.",
    "NO DIFFERENCE",
    "They are the same.",
    "the videos use the same pan",
    "In Video 2, they both use a spoon",
    "there is no discernible difference",
    "There are no substantial or visual differences",
    "There are no differences in Video 2 compared to Video 1.",
    "I cannot see any difference.",
    "There doesn't appear to be a difference.",
    "The same ingredients are used in both videos.",
    "the person is using the same whisk in both videos.",
    "There is no difference. They are the same.",
]

NAMING = [
    "",
    "The main difference in Technique is that in Video 2,",
    "The rib eye was seasoned all the way around instead of just the top part of it.",
    "The person chopped small red chili as opposed to long red chili",
    "there is no difference in the pan, but the spoon is made of wood.",
    "There are no differences except for the colour of the bowl.",
    "Both videos show a pan, while in Video 2 it is black.",
    "In Video 1, the pan is black, while in Video 2, the pan is silver",
    "No salt is added to the eggs.",
    "None of the onions are peeled.",
    "The person is using the same knife more quickly than the first one.",
    "both videos show eggs, however the second are scrambled",
    "the cake is cut.",
    "The main difference in Tools is that in Video 2, they use a metal spoon.",
    "In Video 2, they have bare hands",
    "the videos show the person with a red bowl",
    "The mixture is thicker than in Video 1, otherwise they are the same.",
    "the pieces are equal in size.",
    "both use a whisk, one of metal, the other of wood.",
    "the bowl is the same. The spoon is red.",
    "there is no difference in the bowl. The whisk is red in Video 2 and blue in Video 1.",
    "both hands have gloves on.",
    "no longer different from the first video",
]

PIECES = [
    "In Video 1,", "in Video 2,", "while", "there is no difference", "the person is", "using", "both videos show", ".",
    "the same", "is", "The main difference in Tools is that", "a whisk", "but", "nothing differs",
]  # fmt: skip


@pytest.mark.parametrize("caption", DECLINING)
def test_a_caption_that_states_that_nothing_differs_declines(caption: str) -> None:
    assert declines(caption)


@pytest.mark.parametrize("caption", NAMING)
def test_a_caption_that_names_a_difference_does_not_decline(caption: str) -> None:
    assert not declines(caption)


@settings(deadline=None)  # the first verb loads the dictionary
@given(st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join))
def test_a_caption_that_declines_still_declines_after_post_processing(caption: str) -> None:
    assert declines(caption) == declines(parse(caption))


def test_a_long_caption_is_fast() -> None:
    assert not declines("the same " * 20_000)


def test_pairs_that_agree_are_one_question_per_category_except_in_tools() -> None:
    a, b, c = "a_0_1", "b_0_1", "c_0_1"
    rows = [
        DiffRank(a, (b, c), "Visuals", (5, 4)),
        DiffRank(a, (c, b), "Visuals", (0, 5)),
        DiffRank(a, (b,), "Serving / Presentation", (5,)),
        DiffRank(a, (b,), "Tools/Equipment", (5,)),
        DiffRank(b, (a,), "Visuals", (5,)),
    ]
    assert agreeing(rows) == [
        DiffCap(a, b, "Visuals", ()),
        DiffCap(a, b, "Serving / Presentation", ()),
        DiffCap(b, a, "Visuals", ()),
    ]


NONE, STIRS = "There is no difference in Visuals.", "the person stirs instead of whisking."


def cap(video: str, category: str, *texts: str) -> DiffCap:
    return DiffCap(f"{video}_0_1", "z_0_1", category, texts)


def test_declined_and_invented_are_parts_of_the_rows_with_and_without_a_difference() -> None:
    rows = [cap("a", "Visuals", "x"), cap("b", "Visuals", "x", "y"), cap("c", "Actions", "x"), cap("d", "Actions", "x")]
    rows += [cap("a", "Visuals"), cap("b", "Visuals"), cap("c", "Actions")]
    found = score("diffcap", rows, [NONE, STIRS, STIRS, "", NONE, STIRS, STIRS], bootstrap=50)
    assert found["declined"] == pytest.approx(1 / 4) and found["invented"] == pytest.approx(2 / 3)
    assert found["no_difference_rows"] == 3 and found["rows"] == 7
    visuals, actions = found["per_category"]["Visuals"], found["per_category"]["Actions"]
    assert (visuals["declined"], visuals["invented"], visuals["no_difference_rows"]) == (0.5, 0.5, 2)
    assert (actions["declined"], actions["invented"], actions["no_difference_rows"]) == (0, 1, 1)
    low, high = found["intervals"]["invented"]
    assert 0 <= low < high <= 1


def test_rows_without_a_text_affect_only_invented() -> None:
    random = np.random.default_rng(0)
    rows, captions = [], []
    for number in range(30):
        texts = [" ".join(random.choice(list("abcdef"), 6)) for _ in range(3)]
        rows.append(cap(f"v{number % 7}", ("Visuals", "Actions")[number % 2], *texts[:2]))
        captions.append(texts[2])
    alone = score("diffcap", rows, captions, bootstrap=0)
    mixed = score("diffcap", [cap("x", "Actions"), *rows, cap("y", "Technique")], ["a b", *captions, "c"], bootstrap=0)
    assert min(alone[name] for name in ("BLEU", "CIDEr", "ROUGE-L")) > 0
    actions, technique = (mixed["per_category"][category] for category in ("Actions", "Technique"))
    for name in ("BLEU", "CIDEr", "ROUGE-L", "declined"):
        assert mixed[name] == pytest.approx(alone[name], rel=1e-12)
        assert actions[name] == pytest.approx(alone["per_category"]["Actions"][name], rel=1e-12)
        assert technique[name] is None
    assert "invented" not in alone and mixed["invented"] == 1
    only = score("diffcap", [cap("x", "Actions")], [NONE], bootstrap=50)
    assert only["BLEU"] is only["CIDEr"] is only["ROUGE-L"] is only["declined"] is None and only["invented"] == 0


def test_asked_first_a_caption_is_replaced_exactly_where_yes_is_likelier_than_no() -> None:
    rows = [DiffCap("a_0_1", f"b_0_{n}", "Visuals", ("x",)) for n in range(1, 4)]
    found = asked_first(rows, ["one", "two", "three"], [0.1, 0.0, -0.1])
    assert found == ["There is no difference in Visuals.", "two", "three"]
    assert declines(found[0])
