"""The video that a sentence names, and sentences with exchanged videos."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotate.qa.mentions import named, names_one, turned, unsure

ONE = {
    "Video 1": 1,
    "Video 2.": 2,
    "video one": 1,
    "VIDEO 2": 2,
    "Video #2": 2,
    "Video_1": 1,
    "Clip 2 shows a whisk.": 2,
    "The first video shows a silver mixer.": 1,
    "The second one": 2,
    "In the second clip, the person uses a fork.": 2,
    "the latter": 2,
    "Video 1 features a stand mixer, and Video 1 is brighter.": 1,
    "Video II": 2,
    "Both videos": None,
    "Neither video": None,
    "Video 1 and Video 2": None,
    "Videos 1 and 2": None,
    "Video 1, but also the second one": None,
    "The person uses a whisk.": None,
    "the first step": None,
    "Video 10": None,
    "Video 1 and 2": None,
    "Both of the videos show it, Video 1 longer": None,
    "Neither, though Video 1 comes near": None,
    "Video 1, with both hands": 1,
    "Video 1, two eggs are used.": 1,
    "Video B": 2,
    "V2": 2,
    "Video (1)": 1,
    "The second instructional video": 2,
    "Videos 1, 2": None,
    "In the video one egg is used.": None,
    "In the video I see a pan.": None,
    "The first": None,
}


@pytest.mark.parametrize("text", ONE)
def test_a_sentence_names_one_video_or_none(text: str) -> None:
    assert names_one(text) == ONE[text]


TURNED = {
    "In Video 1 it is glass, while in Video 2 it is steel.": "In Video 2 it is glass, while in Video 1 it is steel.",
    "The first video shows a pan, the second one a pot.": "The second video shows a pan, the first one a pot.",
    "The former is brighter than the latter.": "The latter is brighter than the former.",
    "Videos 1 and 2 show it, video one longer.": "Videos 2 and 1 show it, video two longer.",
    "VIDEO 1, the FIRST VIDEO, Clip #2": "VIDEO 2, the SECOND VIDEO, Clip #1",
    "The first step takes 2 eggs and 1 onion.": "The first step takes 2 eggs and 1 onion.",
    "Both videos use 1 cup.": "Both videos use 1 cup.",
    "The first video uses a pan, while the second uses a pot.": (
        "The second video uses a pan, while the first uses a pot."
    ),
    "The first clip shows a bowl; the second a plate.": "The second clip shows a bowl; the first a plate.",
    "In the first, eggs are whisked; in the second, fried.": "In the second, eggs are whisked; in the first, fried.",
    "The first uses a pan, while the second uses a pot.": "The second uses a pan, while the first uses a pot.",
    "The first instructional video is longer.": "The second instructional video is longer.",
    "Video A is red, Video B is blue.": "Video B is red, Video A is blue.",
    "V1 is red and V2 is blue.": "V2 is red and V1 is blue.",
    "Video (1) is red.": "Video (2) is red.",
    "In Video 1, two eggs are cracked, in Video 2, one is.": "In Video 2, two eggs are cracked, in Video 1, one is.",
    "In Video 1, I see a pan.": "In Video 2, I see a pan.",
    "Video 1, 2 cups": "Video 2, 2 cups",
    "In the first video 2 eggs are used.": "In the second video 2 eggs are used.",
    "In the first video one egg is used.": "In the second video one egg is used.",
    "Each video one egg.": "Each video one egg.",
    "Video 1 uses a pan, the other a pot.": "Video 2 uses a pan, the other a pot.",
    "The first steps are alike in Video 1.": "The first steps are alike in Video 2.",
}


@pytest.mark.parametrize("text", TURNED)
def test_every_way_to_name_a_video_is_turned(text: str) -> None:
    assert turned(text) == TURNED[text]


WORDS = "Video video videos 1 2 one two ii II I A B V1 the first second former latter clip and , . #2 VIDEO 10".split()
WORDS += "eggs 1st uses (1) each instructional in".split()
TEXTS = st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join)


@settings(deadline=None)
@given(TEXTS)
def test_a_sentence_turned_twice_is_the_sentence(text: str) -> None:
    assert turned(turned(text)) == text


@settings(deadline=None)
@given(TEXTS)
def test_a_turned_sentence_names_the_other_videos(text: str) -> None:
    assert named(turned(text)) == {3 - number for number in named(text)}


UNSURE = {
    "The first person uses a whisk, the second person a fork.": True,
    "The first egg is whisked before the second egg.": True,
    "The first person in Video 1 uses a whisk.": False,
    "The first video shows the first step.": False,
    "In the first, eggs are whisked; in the second, fried.": False,
}


@pytest.mark.parametrize("text", UNSURE)
def test_an_ordinal_that_may_mean_a_video_or_something_in_it_is_reported(text: str) -> None:
    assert unsure(text) == UNSURE[text]
