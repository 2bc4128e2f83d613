"""Guarantees of tasks/postprocess.py and tasks/contrast.py, on phrasings of real models.

`phrasings.jsonl` has captions and acceptable results ("wanted", best first; null: the caption stays as it is), written
without sight of the rules: 174 before the rules, 100 and then 80 after them, for which the rules were then extended. Of
the last 80, as first parsed, 63 read well, 8 stayed as they were and 9 did not read well.
"""

import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.clauses import finite, gerund
from tasks.postprocess import names_video, parse

PHRASINGS = [json.loads(line) for line in (Path(__file__).parent / "phrasings.jsonl").read_text().splitlines()]

# Plain results that are in no list and read well enough.
OTHERS = {
    'the person uses the "claw grip" to slice instead of a knife freehand',
    "the cookies are noticeably larger and have cracked edges instead of small with smooth edges",
    "is filmed with the pasta boiling over high heat, with big bubbles visible instead of having the pasta simmering "
    "gently",
    "the biggest change in visuals is the color of the frosting, which is pastel pink instead of plain white",
    "seems to have been recorded from above, so the hands of the cook are visible instead of seeming to have been "
    "recorded from the side",
}

UNCHANGED = [
    "",
    "Video 1",
    "The rib eye was seasoned all the way around instead of just the top part of it.",
    "The person chopped small red chili as opposed to long red chili",
    "the person is chopping a red onion, instead of a green onion.",
    "Both videos feature diced onions and bell peppers.",
    "  two  spaces and a line\nend stay ",
    "The main difference in Ingredients is that in Video 2,",
]

# How captions refer to the reference's side of a difference: each is left out, or becomes "instead of".
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
        "In Video 2, the person uses a whisk instead of a fork, as shown in Video 1",
        "In Video 2, the person uses a whisk instead of a fork, as was the case in Video 1",
        "In Video 2, the person uses a whisk instead of a fork, as they did in Video 1",
        "In Video 2, the person uses a whisk instead of a fork as the person does in Video 1",
        "In Video 2, the person uses a whisk instead of a fork the way it is done in Video 1",
        "In Video 2, the person uses a whisk instead of a fork like that in Video 1",
        "In Video 2, the person uses a whisk instead of a fork like the one in Video 1",
        "In Video 2, the person uses a whisk instead of a fork, like the person in Video 1",
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
        "In Video 2, the person uses a whisk rather than the fork in Video 1",
    ],
    "the person uses a whisk and not a fork": ["In Video 2, the person uses a whisk and not a fork like in Video 1"],
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
UNRELATED = [  # nothing says what Video 2 shows, what is the same is no difference, or it is not clear which of both
    "In Video 2, the person does not use a fork like in Video 1",
    "In Video 1, the person uses a smaller bowl than in Video 2",
    "In Video 1, the person uses a fork, unlike in Video 2",
    "In Video 2, the person uses a whisk like in Video 1, but a larger bowl",
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
def test_a_caption_becomes_an_accepted_text_or_stays_as_it_was(phrasing: dict[str, list[str]]) -> None:
    caption, result = phrasing["caption"], parse(phrasing["caption"])
    accepted = {plain(text) for text in phrasing["wanted"] or []}
    assert result == caption or plain(result) in accepted or plain(result) in OTHERS


@pytest.mark.parametrize("end", ["", "."])
@pytest.mark.parametrize(
    ("caption", "wanted"), [(caption, wanted) for wanted, captions in REFERRING.items() for caption in captions]
)
def test_what_refers_to_the_other_video_leaves_no_word_behind(caption: str, wanted: str, end: str) -> None:
    assert parse(caption + end) == wanted + end


@pytest.mark.parametrize("caption", UNRELATED)
def test_a_reference_to_the_other_video_without_a_difference_stays(caption: str) -> None:
    assert parse(caption) == caption


def test_few_captions_fit_no_pattern() -> None:
    missed = Counter(
        phrasing["group"] for phrasing in PHRASINGS if phrasing["wanted"] and names_video(parse(phrasing["caption"]))
    )
    assert len(PHRASINGS) == 354 and missed.total() <= 27, missed


@pytest.mark.parametrize("caption", [phrasing["caption"] for phrasing in PHRASINGS])
def test_a_parsed_caption_names_no_video_and_is_not_longer_than_the_caption(caption: str) -> None:
    result = parse(caption)
    assert result == caption or (not names_video(result) and len(result.split()) <= len(caption.split()))


@pytest.mark.parametrize("caption", UNCHANGED)
def test_a_caption_in_that_form_already_is_unchanged(caption: str) -> None:
    assert parse(caption) == caption


@settings(deadline=None)  # the first verb loads the dictionary
@given(st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join))
@example("in Video 2, The main difference in Tools is that the person is")
def test_parsing_twice_equals_parsing_once(caption: str) -> None:
    once = parse(caption)
    assert parse(once) == once
    assert once == caption or not names_video(once)


@settings(deadline=None)  # the first verb loads the dictionary
@given(st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join))
def test_what_follows_instead_of_is_never_a_finite_verb(caption: str) -> None:
    result = parse(caption)
    if result != caption and "instead of" not in caption:
        for after in re.findall(r"instead of (\w+)", result):
            assert not finite(after) or gerund(after) == after


@pytest.mark.parametrize(
    ("verb", "form"),
    [
        ("ties", "tying"),
        ("dipped", "dipping"),
        ("took", "taking"),
        ("seasons", "seasoning"),
        ("spiralizes", "spiralizing"),
    ],
)
def test_verbs_of_the_kitchen_have_their_gerund(verb: str, form: str) -> None:
    assert gerund(verb) == form


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
