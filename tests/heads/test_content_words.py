"""Guarantees of heads.training.warm_start, and of the weights of answers in a batch."""

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import pearsonr

from heads.data.packing import NO_TARGET, Chat, Turn
from heads.data.paired_qa import PairQuestions, balanced
from heads.models.language_model import LanguageModel
from heads.training.recipe import Schedule, Validation, VideoLMRecipe
from heads.training.sources import PairedSource
from heads.training.warm_start import (
    agreement,
    content_words,
    first_token,
    likeness,
    surroundings,
    word_loss,
    word_places,
    word_targets,
)

TOOLS, SHADES = ("whisk", "spoon", "fork"), ("light", "dark")


def planted() -> tuple[pl.DataFrame, list[PairQuestions]]:
    """Return 60 clips with a tool and a shade; every other narration has filler words."""
    rng = np.random.default_rng(3)
    tools, shades = rng.choice(TOOLS, 60), rng.choice(SHADES, 60)
    filler = rng.choice(["okay so", "right then"], 60)
    texts = [f"{f} grab the {t}, it's a {s} one" for f, t, s in zip(filler, tools, shades, strict=True)]
    pairs = []
    for a, b in rng.integers(0, 60, (200, 2)):
        questions = [(f"Which video has the {tools[a]}?", "Video 1")] if tools[a] != tools[b] else []
        if shades[a] != shades[b]:
            questions.append((f"Which video shows the {shades[b]} one?", "Video 2"))
            questions.append(("What differs?", f"The shade is {shades[b]} instead of {shades[a]}, okay."))
        pairs.append(PairQuestions(f"clip{a}", f"clip{b}", tuple(questions)))
    return pl.DataFrame({"key": [f"clip{i}" for i in range(60)], "text": texts}), pairs


def test_facts_are_content_words_and_filler_is_not() -> None:
    found = set(content_words(*planted()))
    assert found >= {*TOOLS, *SHADES}
    assert not found & {"okay", "so", "right", "then", "grab", "the", "it's", "video"}


def test_agreement_is_the_correlation_in_standard_errors() -> None:
    rng = np.random.default_rng(0)
    sides = rng.random((2, 50, 4)) < 0.4
    sides[1, :, 0] |= sides[0, :, 0]
    words = np.array(list("abcd"))
    found = agreement([(words[a], words[b]) for a, b in zip(*sides, strict=True)])
    for place, word in enumerate(words):
        expected = pearsonr(sides[0, :, place], sides[1, :, place]).statistic * 50**0.5
        assert found[str(word)] == pytest.approx(expected, abs=1e-9)


def test_only_the_given_texts_and_questions_decide() -> None:
    texts, pairs = planted()
    assert content_words(texts, pairs) == content_words(texts.reverse(), pairs)
    assert content_words(texts.with_columns(key=pl.lit("another clip")), pairs) == []


@pytest.mark.parametrize(("yes", "no"), [(3, 1), (2, 2), (0, 4)])
def test_yes_and_no_have_the_same_total_weight_in_every_pair_that_has_both(yes: int, no: int) -> None:
    asked = [Turn("?", "YES")] * yes + [Turn("?", "NO")] * no + [Turn("?", "a fork", weight=5.0)]
    turns = balanced(asked, 3.0)
    sums = {a: sum(t.weight for t in turns if t.answer == a) for a in ("YES", "NO", "a fork")}
    assert sums["a fork"] == 1.0 and [turn.answer for turn in turns] == [turn.answer for turn in asked]
    if yes:
        assert sums["YES"] == pytest.approx(3.0 * (yes + no) / 2)
    assert sums["NO"] == pytest.approx(3.0 * (yes + no) / 2)


def test_without_weights_yes_and_no_count_like_other_answers(tiny_lm: str) -> None:
    chat = LanguageModel.load(tiny_lm).chat
    both = PairQuestions("a", "b", (("alike?", "YES"), ("what?", "a fork")))
    pairs = [both, PairQuestions("a", "c", (("alike?", "NO"),))]

    def weights(yes_no_weight: float | None) -> set[float]:
        recipe = VideoLMRecipe(Schedule(1), Validation("", ""), pairqa="", batch=2, yes_no_weight=yes_no_weight)
        rows = PairedSource(recipe, pairs, chat, packs=True, seed=0, negatives=None).batch(0).rows
        return set(rows.weights[rows.targets != NO_TARGET].tolist())

    assert weights(None) == {1.0} and weights(3.0) == {1.0, 1.5}


def attribute_texts(attributes: int, values: int) -> tuple[list[list[str]], dict[str, int]]:
    """Return 200 texts that mention nine of ten attributes in random order, each in its own phrase; columns by word."""
    rng = np.random.default_rng(2)
    texts = []
    for chosen in rng.integers(0, values, (200, attributes)):
        mentioned = [a for a in rng.permutation(attributes).tolist() if rng.random() < 0.9]
        texts.append([word for a in mentioned for word in ("with", f"a{a}", f"word{a}{chosen[a]}", f"b{a}", "and")])
    return texts, {f"word{a}{v}": a * values + v for a in range(attributes) for v in range(values)}


def test_words_in_similar_contexts_that_are_rarely_said_together_share_a_place() -> None:
    texts, column = attribute_texts(4, 3)
    mentioned = np.array([[word in text for word in column] for text in texts])
    place = word_places(texts, column, mentioned, 4)
    assert all(len(set(place[3 * a : 3 * a + 3])) == 1 for a in range(4)), "values of one attribute share a place"
    assert len(set(place)) == 4
    targets = word_targets(texts, column, 4)
    for text, row in enumerate(mentioned):
        assert sorted(targets[text][targets[text] < 12]) == np.flatnonzero(row).tolist()


def test_words_of_one_phrase_do_not_share_a_place() -> None:
    texts = [["add", a, "then", "add", b] for a, b in (("nuts", "herbs"), ("herbs", "nuts"))] * 9
    texts += [["so", "a", value, "one"] for value in ("red", "blue", "green")] * 3
    column = {word: i for i, word in enumerate(("nuts", "herbs", "red", "blue", "green"))}
    mentioned = np.array([[word in text for word in column] for text in texts])
    nuts, herbs, *colours = word_places(texts, column, mentioned, 3)
    assert nuts != herbs and len(set(colours)) == 1


def test_with_enough_places_each_word_has_its_own() -> None:
    texts, column = attribute_texts(2, 3)
    mentioned = np.array([[word in text for word in column] for text in texts])
    assert sorted(word_places(texts, column, mentioned, 6)) == [0, 1, 2, 3, 4, 5]


def test_similarity_is_the_cosine_of_positive_pointwise_mutual_information() -> None:
    texts, column = attribute_texts(2, 2)
    counts: dict[tuple[str, tuple[str, ...]], int] = {}
    for text in texts:
        for word, around in surroundings(text):
            if word in column:
                counts[word, around] = counts.get((word, around), 0) + 1
    total = sum(counts.values())
    arounds = sorted({around for _, around in counts})
    vectors = np.zeros((len(column), len(arounds)))
    for word, place in column.items():
        own = sum(count for (other, _), count in counts.items() if other == word)
        for i, around in enumerate(arounds):
            of_context = sum(count for (_, other), count in counts.items() if other == around)
            if (word, around) in counts:
                vectors[place, i] = max(np.log(counts[word, around] / total / (own / total * of_context / total)), 0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(likeness(texts, column), vectors @ vectors.T, rtol=0, atol=1e-12)


def test_the_loss_is_lowest_if_outputs_equal_their_words() -> None:
    table = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, 2, 3], [1, 3, 3]])
    exact = word_loss(table[targets], table, targets)
    assert exact < 0.1
    assert word_loss(table[targets.flip(0)], table, targets) > exact + 0.5


class Tokenizer:
    """A tokenizer of letters; `space` says whether a space is a separate token or part of the next letter."""

    chat_template = "there is one"
    all_special_ids: list[int] = []
    unk_token_id = None

    def __init__(self, space: bool) -> None:
        self.space = space

    def __call__(self, text: str, **options: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in (text if self.space else text.strip())]}

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


@pytest.mark.parametrize("space", [False, True])
def test_a_word_is_represented_by_its_first_token_that_is_not_a_space(space: bool) -> None:
    assert first_token(Chat(Tokenizer(space)), "whisk") == ord("w")
