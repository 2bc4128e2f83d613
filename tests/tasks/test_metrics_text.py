"""BLEU, CIDEr and ROUGE-L compared with pycocoevalcap, which the published evaluation calls."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from tasks.captions import bleu, bleu_parts, cider_rows, count_corpus, ngram_counts, rouge_rows

# Few words, so that n-grams recur; spaces that split() and split(" ") treat differently.
WORDS = ["the", "The", "pan", "pan,", "ein", "Öl", "油", "🍳", "e\u0301", "\ud800", "a"]
SPACES = [" ", "  ", "\t", "\n", "\u00a0", "\u3000", "\u200b", "\x1f", ""]
texts = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join),
    st.lists(st.tuples(st.sampled_from(SPACES), st.sampled_from(WORDS)), max_size=9).map(
        lambda parts: "".join(space + word for space, word in parts)
    ),
    st.text(max_size=8),
)
references_of_a_row = st.lists(texts, min_size=1, max_size=4).flatmap(
    lambda row: st.sampled_from([row, [*row, row[0]]])
)
corpora = st.lists(st.tuples(texts, references_of_a_row), min_size=1, max_size=7)
Corpus = list[tuple[str, list[str]]]


def as_coco(corpus: Corpus) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    return dict(enumerate(row for _, row in corpus)), {i: [c] for i, (c, _) in enumerate(corpus)}


def split(corpus: Corpus) -> tuple[list[list[str]], list[str]]:
    return [row for _, row in corpus], [caption for caption, _ in corpus]


def sentences(rows: int, references: int, seed: int) -> Corpus:
    """Return random sentences of 4 to 20 words from a vocabulary of 300, with common words more often."""
    random = np.random.default_rng(seed)
    odds = 1 / np.arange(1, 301)

    def sentence() -> str:
        drawn = random.choice(300, random.integers(4, 21), p=odds / odds.sum())
        return " ".join(f"w{word}" for word in drawn)

    return [(sentence(), [sentence() for _ in range(references)]) for _ in range(rows)]


@given(corpora)
def test_bleu_equals_pycocoevalcap(corpus: Corpus) -> None:
    expected = Bleu().compute_score(*as_coco(corpus), verbose=0)[0][0]
    found = bleu(bleu_parts(count_corpus(*split(corpus))).sum(axis=0))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0)


@given(corpora)
def test_cider_equals_pycocoevalcap_row_by_row(corpus: Corpus) -> None:
    found = cider_rows(count_corpus(*split(corpus)))
    if not any(text.split() for _, row in corpus for text in row):
        assert not found.any()  # pycocoevalcap raises if no reference has a word
        return
    _, expected = Cider().compute_score(*as_coco(corpus))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@given(corpora)
def test_rouge_equals_pycocoevalcap_row_by_row(corpus: Corpus) -> None:
    _, expected = Rouge().compute_score(*as_coco(corpus))
    np.testing.assert_array_equal(rouge_rows(*split(corpus)), expected)


def test_all_three_equal_pycocoevalcap_on_a_larger_set() -> None:
    corpus = sentences(300, 5, seed=0)
    gts, res = as_coco(corpus)
    found = [
        float(bleu(bleu_parts(count_corpus(*split(corpus))).sum(axis=0))),
        cider_rows(count_corpus(*split(corpus))).mean(),
        rouge_rows(*split(corpus)).mean(),
    ]
    expected = [
        Bleu().compute_score(gts, res, verbose=0)[0][0],
        Cider().compute_score(gts, res)[0],
        Rouge().compute_score(gts, res)[0],
    ]
    assert min(found) > 0.01
    assert found == pytest.approx(expected, rel=1e-12)


def test_equal_ids_mean_equal_ngrams_in_all_texts() -> None:
    one, two, three = ngram_counts(["a b a b", "", "b a b", "c"], 3)
    assert one.text.tolist() == [0, 0, 2, 2, 3] and one.count.tolist() == [2, 2, 1, 2, 1]
    # "a b" twice and "b a" once in the first text, once each in the third, and none across texts
    assert two.distinct == 2
    assert two.text.tolist() == [0, 0, 2, 2]
    assert two.ngram.tolist() == [0, 1, 0, 1] and two.count.tolist() == [2, 1, 1, 1]
    assert three.text.tolist() == [0, 0, 2] and three.distinct == 2


def test_the_nearest_reference_length_counts_and_of_two_equally_near_the_shorter() -> None:
    parts = bleu_parts(count_corpus([["a b c d", "a b"], ["a", "a b c d e f"]], ["a b c", "a b c d e"]))
    np.testing.assert_array_equal(parts, [[3, 3, 2], [5, 5, 6]])


def test_document_frequencies_are_those_of_the_references_given() -> None:
    references, captions = [["a b x"], ["a c y"], ["d e z"]], ["a b q", "a c q", "d e q"]
    whole = cider_rows(count_corpus(references, captions))
    part = cider_rows(count_corpus(references[:2], captions[:2]))
    assert part[0] != pytest.approx(whole[0])


def test_captions_precede_references_in_every_table() -> None:
    corpus = count_corpus([["a a", "b"], ["a b"]], ["b", "a"])
    assert corpus.rows == 2 and corpus.owner.tolist() == [0, 0, 1]
    assert corpus.tables[0].text.tolist() == [0, 1, 2, 3, 4, 4]
    assert corpus.tables[0].count.tolist() == [1, 1, 2, 1, 1, 1]
    assert [table.text.tolist() for table in corpus.tables[1:]] == [[2, 4], [], []]
