"""The rows of a recipe's batches, counted in tokens without a tokenizer: prompts, clips, questions and answers.

A text of n words has TOKENS_PER_WORD n tokens, and a chat template adds TEMPLATE tokens to a prompt. On simple English
SmolLM2 has up to a quarter fewer.

Guarantee
- counted_rows_are_close_to_those_of_a_tokenizer
"""

import math
from dataclasses import dataclass

from heads.methods.word_evidence import NAMED
from heads.training.recipe import VideoLMRecipe
from heads.training.sources import SEQUENCE
from stepdiff.tasks.prompts import (
    CAPTION_QUESTION,
    DIFFERENCE_QUESTION,
    NARRATION_QUESTION,
    NEXT_VIDEO,
    PAIR_SYSTEM,
    SYSTEM,
)

TOKENS_PER_WORD = 1.25
TEMPLATE = 16
"""tokens of a chat template around the system prompt and the first question"""


EVIDENCE = 2 * (TEMPLATE // 4 + math.ceil(2 * NAMED * TOKENS_PER_WORD))
"""most tokens of the words of evidence before a question, for terms of two words"""


@dataclass(frozen=True)
class Rows:
    """A batch of equal rows: a prefix, then questions with their answers that each see the prefix and themselves."""

    rows: int
    clips: int
    """of all rows"""
    prefix: int
    """tokens of a row's prefix"""
    questions: int
    """per row"""
    question: int
    """tokens of a question and its answer"""
    answer: int
    """tokens of a question that are learned"""
    samples: int
    """clips, sequences, images or pairs"""

    @property
    def tokens(self) -> int:
        """Tokens of the batch, without padding."""
        return self.rows * (self.prefix + self.questions * self.question)

    @property
    def targets(self) -> int:
        """Tokens of the batch that are learned."""
        return self.rows * self.questions * self.answer

    @property
    def keys(self) -> int:
        """Keys that the questions of the batch read: each its prefix and itself."""
        return self.rows * self.questions * (self.prefix + self.question)

    @property
    def scores(self) -> int:
        """Attention scores of a head in a layer."""
        return self.rows * self.prefix**2 + self.questions * self.rows * self.question * (self.prefix + self.question)


def batches(recipe: VideoLMRecipe, words: int | float) -> list[Rows]:
    """Return a batch of each of the recipe's sources. words: of each narration, caption and answer."""
    return [batch(recipe, name, words) for name in recipe.sources]


def batch(recipe: VideoLMRecipe, source: str, words: int | float) -> Rows:
    """Return a batch of one source."""
    size, outputs, text = recipe.batch, recipe.projector.outputs, math.ceil(words * TOKENS_PER_WORD) + 1
    if source == "sequences":
        prefix = count(PAIR_SYSTEM.partition("{video}")[0]) + outputs
        rest = (SEQUENCE - 1) * (count(NEXT_VIDEO) + outputs) + SEQUENCE * text
        return Rows(size, SEQUENCE * size, prefix, 1, rest, SEQUENCE * text, size)
    if source == "pairs":
        prefix, rows = count(PAIR_SYSTEM) + TEMPLATE // 2 + 2 * outputs, size
        question = count(DIFFERENCE_QUESTION) + TEMPLATE // 2 + text
        if recipe.evidence is not None and recipe.evidence.asked:
            question += EVIDENCE
        questions = recipe.questions
        if not recipe.packed:
            rows, questions = size * questions, 1
        return Rows(rows, 2 * size, prefix, questions, question, text, size)
    asked = CAPTION_QUESTION if source == "images" else NARRATION_QUESTION
    prefix = count(SYSTEM) + TEMPLATE // 2 + outputs
    return Rows(size, size, prefix, 1, count(asked) + TEMPLATE // 2 + text, text, size)


def count(text: str) -> int:
    """Return about how many tokens a prompt has, without its clips."""
    return math.ceil(len(text.replace("{video}", "").split()) * TOKENS_PER_WORD)
