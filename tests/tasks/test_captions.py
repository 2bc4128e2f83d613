"""Captions of real models: post-processing, and whether a caption states that nothing differs."""

import json
import math
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stepdiff_core.tasks.clauses import finite, gerund
from stepdiff_core.tasks.declining import UNSURE, agreeing, asked_first, declines, verdict
from stepdiff_core.tasks.postprocess import names_video, parse
from stepdiff_core.tasks.scoring import score
from stepdiff_core.tasks.testsets import DiffCap, DiffRank

PHRASINGS = [
    json.loads(line)
    for line in (Path(__file__).parent / "phrasings.jsonl").read_text().splitlines()
]
# Plain results that are in no list and read well enough.
OTHERS = {
    'the person uses the "claw grip" to slice instead of a knife freehand',
    "the cookies are noticeably larger and have cracked edges instead of small with smooth edges",
    "is filmed with the pasta boiling over high heat, with big bubbles visible instead of having "
    "the pasta simmering gently",
    "the biggest change in visuals is the color of the frosting, which is pastel pink instead of "
    "plain white",
    "seems to have been recorded from above, so the hands of the cook are visible instead of "
    "seeming to have been recorded from the side",
}
# How captions refer to the reference's side of a difference: each is left out, or becomes "instead
# of".
FORK, BOWL = "the person uses a whisk instead of a fork", "the person uses a larger bowl"
REFERRING = {
    "the person uses a whisk rather than a fork": [
        "the person uses a whisk rather than a fork like in Video 1",
        "In Video 2, the person uses a whisk rather than a fork, just like in the first video",
        "In Video 2, the person uses a whisk rather than a fork like Video 1",
    ],
    FORK: [
        "In Video 2, the person uses a whisk instead of a fork as in Video 1",
        "In Video 2, the person uses a whisk instead of a fork, as seen in video 1",
        "In Video 2, the person uses a whisk instead of a fork, as was the case in Video 1",
        "In Video 2, the person uses a whisk instead of a fork, as they did in Video 1",
        "In Video 2, the person uses a whisk instead of a fork the way it is done in Video 1",
        "In Video 2, the person uses a whisk instead of a fork like the one in Video 1",
        "In Video 2, the person uses a whisk instead of a fork similar to the one in Video 1",
        "In Video 2, the person uses a whisk instead of a fork (as in Video 1)",
        "In Video 2, the person uses a whisk instead of a fork from Video 1",
        "In Video 1, the person uses a fork instead of a whisk, as seen in video 2",
        "In Video 1, the person uses a fork rather than a whisk like in Video 2",
    ],
    "the person uses a whisk instead of the fork": [
        "In Video 2, the person uses a whisk instead of the fork that was used in Video 1",
        "In Video 2, the person uses a whisk, unlike the fork in Video 1",
    ],
    "the person uses a whisk rather than the fork": [
        "In Video 2, the person uses a whisk rather than the fork in Video 1"
    ],
    "the person uses a whisk and not a fork": [
        "In Video 2, the person uses a whisk and not a fork like in Video 1"
    ],
    "the person uses a whisk": [
        "In Video 2, the person uses a whisk, unlike in Video 1",
        "In Video 2, the person uses a whisk, unlike the person in Video 1",
        "Unlike in Video 1, the person in Video 2 uses a whisk",
    ],
    BOWL: [
        "In Video 2, the person uses a larger bowl compared to Video 1",
        "In Video 2, the person uses a larger bowl when compared to the one in Video 1",
        "In Video 2, the person uses a larger bowl than in Video 1",
        "In Video 2, the person uses a larger bowl than that in Video 1",
        "In Video 2, the person uses a larger bowl than what was used in Video 1",
        "In Video 2, the person uses a larger bowl than was used in Video 1",
    ],
}
# nothing says what Video 2 shows, what is the same is no difference, or the form is right already
UNCHANGED = [
    "In Video 2, the person does not use a fork like in Video 1",
    "In Video 1, the person uses a smaller bowl than in Video 2",
    "In Video 1, the person uses a fork, unlike in Video 2",
    "In Video 2, the person uses a whisk like in Video 1, but a larger bowl",
    "",
    "The rib eye was seasoned all the way around instead of just the top part of it.",
    "the person is chopping a red onion, instead of a green onion.",
    "Both videos feature diced onions and bell peppers.",
    "  two  spaces and a line\nend stay ",
    "The main difference in Ingredients is that in Video 2,",
]
PIECES = [
    "In Video 1,",
    "in Video 2,",
    "the first video shows",
    "Video 2 has",
    "the person in Video 2",
    "than in Video 1",
    "unlike Video 1",
    "like in Video 1",
    "as they did in Video 1,",
    "rather than the fork in",
    "while",
    "whereas",
    ".",
    ",",
    "the person is",
    "they are",
    "it is",
    "uses",
    "using",
    "instead of",
    "The main difference in Tools is that",
    "a whisk",
]


def plain(text: str) -> str:
    """Return a text without what grammar and metrics do not depend on."""
    text = re.sub(r",(?= (?:instead|rather|as opposed|compared))", "", " ".join(text.split()))
    return text.rstrip(" .").lower()


@pytest.mark.parametrize("phrasing", PHRASINGS, ids=lambda phrasing: phrasing["group"])
def test_a_caption_becomes_an_accepted_text_or_stays_as_it_was(
    phrasing: dict[str, list[str]],
) -> None:
    caption, result = phrasing["caption"], parse(phrasing["caption"])
    accepted = {plain(text) for text in phrasing["wanted"] or []}
    assert result == caption or plain(result) in accepted or plain(result) in OTHERS
    assert result == caption or (
        not names_video(result) and len(result.split()) <= len(caption.split())
    )


@pytest.mark.parametrize("wanted", REFERRING)
def test_what_refers_to_the_other_video_leaves_no_word_behind(wanted: str) -> None:
    for caption in REFERRING[wanted]:
        assert (parse(caption), parse(f"{caption}.")) == (wanted, f"{wanted}.")


@pytest.mark.parametrize("caption", UNCHANGED)
def test_a_caption_that_needs_no_parsing_stays(caption: str) -> None:
    assert parse(caption) == caption


def test_few_captions_fit_no_pattern() -> None:
    missed = Counter(
        phrasing["group"]
        for phrasing in PHRASINGS
        if phrasing["wanted"] and names_video(parse(phrasing["caption"]))
    )
    assert len(PHRASINGS) == 354 and missed.total() <= 27, missed


@given(st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join))
@example("in Video 2, The main difference in Tools is that the person is")
def test_parsing_twice_equals_parsing_once(caption: str) -> None:
    once = parse(caption)
    assert parse(once) == once
    assert once == caption or not names_video(once)


@given(st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join))
def test_what_follows_instead_of_is_never_a_finite_verb(caption: str) -> None:
    result = parse(caption)
    if result != caption and "instead of" not in caption:
        for after in re.findall(r"instead of (\w+)", result):
            assert not finite(after) or gerund(after) == after


@pytest.mark.full
@pytest.mark.parametrize(
    "caption",
    [
        "In Video 1, " + " " * 20_000 + "x, while in Video 2, y",
        "In Video 2, the person " + "adds salt and " * 3000 + "stirs",
        "the main difference " * 3000 + "in video 1",
        "in video 2 " * 3000,
        "while " * 5000 + "in Video 1",
    ],
)
def test_a_long_caption_takes_no_quadratic_time(caption: str) -> None:
    begin = time.process_time()
    parse(caption)
    assert time.process_time() - begin < 20


DECLINING = [
    "There is no difference in Technique.",
    "There are no significant differences between the two videos",
    "The main difference in Technique is that in Video 2, there is no clear difference.",
    'The main difference in "Actions" is that in Video 2, there is no difference, while in Video '
    "1, the person",
    "I don't see any difference between them.",
    "The two videos do not differ in Ingredients.",
    "The technique is not different.",
    "Nothing differs in Visuals",
    "None, they are alike in ingredients.",
    "None.",
    "Both videos agree in technique.",
    "the videos look identical.",
    "The main difference in Visuals is that in Video 2, the visuals are the same.",
    "Both videos feature diced onions and bell peppers.",
    "Both videos show the person cooking using a pan and a utensil, such as a spoon or spatula.",
    "In Video 2, the person uses the same whisk as in Video 1.",
    "NO DIFFERENCE",
    "the videos use the same pan",
    "In Video 2, they both use a spoon",
    "There are no substantial or visual differences",
    "There are no differences in Video 2 compared to Video 1.",
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
PHRASES = [
    "In Video 1,",
    "in Video 2,",
    "while",
    "there is no difference",
    "the person is",
    "using",
    "both videos show",
    ".",
    "the same",
    "is",
    "The main difference in Tools is that",
    "a whisk",
    "but",
    "nothing differs",
]


@pytest.mark.parametrize(("captions", "declining"), [(DECLINING, True), (NAMING, False)])
def test_a_caption_declines_if_it_states_that_nothing_differs(
    captions: list[str], declining: bool
) -> None:
    assert [caption for caption in captions if declines(caption) != declining] == []


@given(st.lists(st.sampled_from(PHRASES), max_size=12).map(" ".join))
def test_post_processing_keeps_a_caption_that_declines(caption: str) -> None:
    assert declines(caption) == declines(parse(caption))


def test_pairs_that_agree_are_a_question_a_category() -> None:
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


def test_log_odds_near_0_have_the_verdict_unsure() -> None:
    below = [math.nextafter(UNSURE, 0), 0.0, -math.nextafter(UNSURE, 0)]
    assert [*map(verdict, [UNSURE, *below, -UNSURE])] == ["alike", *["unsure"] * 3, "different"]


def test_declined_and_invented_are_shares_of_their_rows() -> None:
    rows = [
        cap("a", "Visuals", "x"),
        cap("b", "Visuals", "x", "y"),
        cap("c", "Actions", "x"),
        cap("d", "Actions", "x"),
    ]
    rows += [cap("a", "Visuals"), cap("b", "Visuals"), cap("c", "Actions")]
    scores = score("diffcap", rows, [NONE, STIRS, STIRS, "", NONE, STIRS, STIRS], bootstrap=50)
    assert scores["declined"] == pytest.approx(1 / 4) and scores["invented"] == pytest.approx(2 / 3)
    assert scores["no_difference_rows"] == 3 and scores["rows"] == 7
    visuals, actions = scores["per_category"]["Visuals"], scores["per_category"]["Actions"]
    assert (visuals["declined"], visuals["invented"], visuals["no_difference_rows"]) == (
        0.5,
        0.5,
        2,
    )
    assert (actions["declined"], actions["invented"], actions["no_difference_rows"]) == (0, 1, 1)
    low, high = scores["intervals"]["invented"]
    assert 0 <= low < high <= 1


def test_rows_without_a_text_affect_only_invented() -> None:
    random = np.random.default_rng(0)
    rows, captions = [], []
    for number in range(30):
        texts = [" ".join(random.choice(list("abcdef"), 6)) for _ in range(3)]
        rows.append(cap(f"v{number % 7}", ("Visuals", "Actions")[number % 2], *texts[:2]))
        captions.append(texts[2])
    alone = score("diffcap", rows, captions, bootstrap=0)
    mixed = score(
        "diffcap",
        [cap("x", "Actions"), *rows, cap("y", "Technique")],
        ["a b", *captions, "c"],
        bootstrap=0,
    )
    assert min(alone[name] for name in ("BLEU", "CIDEr", "ROUGE-L")) > 0
    actions, technique = (mixed["per_category"][category] for category in ("Actions", "Technique"))
    for name in ("BLEU", "CIDEr", "ROUGE-L", "declined"):
        assert mixed[name] == pytest.approx(alone[name], rel=1e-12)
        assert actions[name] == pytest.approx(alone["per_category"]["Actions"][name], rel=1e-12)
        assert technique[name] is None
    assert "invented" not in alone and mixed["invented"] == 1
    only = score("diffcap", [cap("x", "Actions")], [NONE], bootstrap=50)
    assert (
        only["BLEU"] is only["CIDEr"] is only["ROUGE-L"] is only["declined"] is None
        and only["invented"] == 0
    )


def test_asked_first_replaces_captions_if_yes_is_likelier() -> None:
    rows = [DiffCap("a_0_1", f"b_0_{n}", "Visuals", ("x",)) for n in range(1, 4)]
    captions = asked_first(rows, ["one", "two", "three"], [0.1, 0.0, -0.1])
    assert captions == ["There is no difference in Visuals.", "two", "three"]
    assert declines(captions[0])
