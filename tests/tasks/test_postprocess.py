"""Guarantees of tasks/postprocess.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.postprocess import parse

REWRITTEN = {
    # the reference first
    "In Video 1, the person is using a metal frying basket and a stove, while in Video 2, the "
    "person is using a large, round metal pot and a spatula.": "the person is using a large, round "
    "metal pot and a spatula instead of a metal frying basket and a stove.",
    "In Video 1, the person is whisking the dry ingredients together, while in Video 2, the person "
    "is pouring the cornmeal mixture into the bowl and stirring it with a spoon.": "the person is "
    "pouring the cornmeal mixture into the bowl and stirring it with a spoon instead of whisking "
    "the dry ingredients together.",
    "In Video 1, the mixture is dry and thick, while in Video 2, it is a liquid batter with a thick "
    "consistency.": "the mixture is a liquid batter with a thick consistency instead of dry and thick.",
    "In Video 1, the person is using a wooden spoon, while in Video 2, they are using a plastic "
    "measuring cup.": "the person is using a plastic measuring cup instead of a wooden spoon.",
    "In Video 1, the pan is black, while in Video 2, the pan is silver": ("the pan is silver instead of black"),
    "The first video shows a person sautéing ingredients in a pan, while the second video shows a "
    "person using a slow cooker.": "a person using a slow cooker instead of sautéing ingredients in a pan.",
    "In Video 1, the person adds 0.5 cup of milk. In Video 2, the person adds oil.": (
        "the person adds oil instead of 0.5 cup of milk."
    ),
    "Video 1 shows a less messy technique, as the person is carefully pouring the egg into the pan "
    "... while in Video 2, the person is cracking the egg directly into the pan ...": "the person "
    "is cracking the egg directly into the pan instead of a less messy technique, as the person is "
    "carefully pouring the egg into the pan...",
    # the candidate first, as the seed makes it
    'The main difference in "Tools/Equipment" is that in Video 2, the person uses a fork, while in '
    "Video 1, the person uses a whisk.": "the person uses a fork instead of a whisk.",
    "The main difference in Technique is that in Video 2, the person is stirring slowly whereas in "
    "Video 1, the person is beating the eggs": ("the person is stirring slowly instead of beating the eggs"),
    "The main difference in Visuals is that in Video 2, the pan is black, while in Video 1, the "
    "pan is silver.": "the pan is black instead of silver.",
    "In Video 2, the person is using a red bell pepper, but in the first video they are using a "
    "chili pepper.": "the person is using a red bell pepper instead of a chili pepper.",
    "In video 2, I mistakenly sprinkled the cheese over the toppings after they were already on "
    "the pizza, whereas in video 1, it was sprinkled before adding the toppings": "I mistakenly "
    "sprinkled the cheese over the toppings after they were already on the pizza instead of "
    "sprinkled before adding the toppings",
    "In Video 2, the person stirs quickly, whereas in Video 1, the oven does the work": (
        "the person stirs quickly compared to the oven does the work"
    ),
    # one side alone, or nothing
    "The main difference in Serving / Presentation is that in Video 2, the cake is cut.": ("the cake is cut."),
    "In Video 2, In Video 2, the person is peeling.": "the person is peeling.",
    "The main difference in Visuals is that in Video 2, the person is stirring, whereas in Video "
    "1, the person": "the person is stirring.",
    "The main difference in Ingredients is that in Video 2,": "",
}

UNTOUCHED = [
    "",
    "Video 1",
    "The rib eye was seasoned all the way around instead of just the top part of it.",
    "The person chopped small red chili as opposed to long red chili",
    "the person is chopping a red onion, instead of a green onion.",
    "Both videos feature diced onions and bell peppers.",
    "The second video shows a less sanitary technique because the person is handling raw chicken.",
    "Video 1 is healthier in terms of the amount of oil used, as it uses a minimal amount of oil, "
    "while Video 2 uses a generous amount of oil to sauté the onions.",
    "The main difference is the type of dish being cooked. Video 1 shows a person cooking a sweet "
    "dish, while Video 2 shows a person cooking a savory dish.",
    "  two  spaces and a line\nend stay ",
]

PIECES = [
    "In Video 1,",
    "in Video 2,",
    "the first video shows",
    "Video 2 has",
    "while",
    "whereas",
    ".",
    ",",
    "the person is",
    "they are",
    "the pan is",
    "using",
    "instead of",
    "The main difference in Tools is that",
    "a whisk",
]


@pytest.mark.parametrize("caption", REWRITTEN)
def test_two_videos_become_one_action_instead_of_the_other(caption: str) -> None:
    assert parse(caption) == REWRITTEN[caption]


@pytest.mark.parametrize("caption", UNTOUCHED)
def test_a_caption_in_that_form_already_is_unchanged(caption: str) -> None:
    assert parse(caption) == caption


@given(st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join))
def test_parsing_twice_equals_parsing_once(caption: str) -> None:
    once = parse(caption)
    assert parse(once) == once


def test_a_long_caption_is_fast() -> None:
    assert len(parse("In Video 1, " + " " * 10_000 + "x, while in Video 2, y")) > 10_000
