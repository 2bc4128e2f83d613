"""Guarantees of annotate/qa/composing.py, with given vectors and, if it is fetched, with the real MPNet."""

from collections.abc import Sequence

import numpy as np
import pytest

from annotate.qa.composing import first_of_alike
from common.errors import StepDiffError
from heads.methods.similarity import MODEL, Sentences
from weights import resolve


def angles(texts: Sequence[str]) -> np.ndarray:
    """Embed a text as an angle in degrees, so that nearby numbers are similar."""
    turns = np.radians([float(text.partition("#")[0]) for text in texts])
    return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


def test_of_similar_questions_the_first_is_kept() -> None:
    asked = [["0", "5", "20", "0"], [], ["7"]]
    assert first_of_alike(asked, angles, np.cos(np.radians(10))) == [[True, False, True, False], [], [True]]
    # 9 is similar to 0, which is kept; 18 is similar to 9, which is dropped
    assert first_of_alike([["0", "9", "18"]], angles, np.cos(np.radians(10))) == [[True, False, True]]


def test_only_questions_of_one_pair_are_compared() -> None:
    assert first_of_alike([["0"], ["0"], ["1"]], angles, 0.5) == [[True]] * 3
    assert first_of_alike([[], []], angles, 0.5) == [[], []]


def test_the_real_mpnet_distinguishes_a_paraphrase_from_another_question() -> None:
    try:
        resolve(MODEL)
    except StepDiffError as error:
        pytest.skip(str(error))
    asked = [
        "What is the main difference between the two videos?",
        "What's the main difference between these two videos?",
        "Which video uses a whisk?",
        "Which video uses a fork?",
        "Which of the videos uses a whisk?",
    ]
    assert first_of_alike([asked], Sentences(), 0.9) == [[True, False, True, True, False]]
