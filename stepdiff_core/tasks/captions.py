"""Caption metrics: BLEU-1, CIDEr-D and ROUGE-L as pycocoevalcap computes them, and similarity of
sentence embeddings.

`count_corpus` counts the n-grams of all captions and references once, as sorted sparse tables; BLEU
and CIDEr read those. Their words are the output of `str.split()`, without lower-casing or removing
punctuation. ROUGE-L splits at single spaces as pycocoevalcap does: two spaces in a row enclose an
empty word, and an empty text is one empty word.

Guarantees
- all three equal pycocoevalcap: CIDEr-D with document frequencies of all references given; ROUGE-L
  with best precision and best recall over the references
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Float32, Float64, Int64, Shaped

Embed = Callable[[Sequence[str]], Float32[np.ndarray, "T E"]]
"""texts -> L2-normalised sentence embeddings"""
LONGEST = 4
"""words of the longest n-gram"""
SMALL, TINY = 1e-9, 1e-15
"""pycocoevalcap's constants against division by zero"""
SIGMA = 6.0
"""of CIDEr-D's length penalty; pycocoevalcap compares numbers of bigrams, not of words"""
BETA = 1.2
"""weight of recall in ROUGE-L"""


@dataclass(frozen=True)
class Counts:
    """Occurrences of the n-grams of one length in each text: E entries, sorted by text, then by
    n-gram."""

    text: Int64[np.ndarray, " E"]
    ngram: Int64[np.ndarray, " E"]
    """ids 0 .. distinct - 1; equal ids mean equal words in all texts"""
    count: Int64[np.ndarray, " E"]
    distinct: int


@dataclass(frozen=True)
class Corpus:
    """N-gram counts of R rows, each with a caption and at least one reference."""

    rows: int
    owner: Int64[np.ndarray, " references"]
    """the row of each reference"""
    tables: list[Counts]
    """of 1- to 4-grams: texts 0 .. rows - 1 are the captions, the references follow in the order of
    the rows"""


def count_corpus(references: Sequence[Sequence[str]], captions: Sequence[str]) -> Corpus:
    """Count the n-grams of references [R][at least 1] and captions [R]."""
    rows = len(captions)
    owner = np.repeat(np.arange(rows), [len(texts) for texts in references])
    return Corpus(rows, owner, ngram_counts([*captions, *chain.from_iterable(references)], LONGEST))


def ngram_counts(texts: Sequence[str], longest: int) -> list[Counts]:
    """Return the counts of 1-grams, 2-grams, ... up to `longest` words."""
    split = [text.split() for text in texts]
    all_words = list(chain.from_iterable(split))
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(all_words))}
    words = np.fromiter(map(vocabulary.__getitem__, all_words), np.int64, len(all_words))
    text = np.repeat(np.arange(len(split)), np.fromiter(map(len, split), np.int64, len(split)))
    tables, gram, distinct = [], words, len(vocabulary)
    starts = np.arange(len(words))  # of each n-gram
    for length in range(1, longest + 1):
        if length > 1:
            # an n-gram is the (n-1)-gram at the same start and the next word, if that belongs to
            # the same text
            ends = starts + length - 1
            whole = ends < len(words)
            whole[whole] = text[ends[whole]] == text[starts[whole]]
            starts, gram, ends = starts[whole], gram[whole], ends[whole]
            grams, gram = np.unique(
                gram * max(len(vocabulary), 1) + words[ends], return_inverse=True
            )
            distinct = len(grams)
        tables.append(Counts(*_count_pairs(text[starts], gram, distinct), distinct))
    return tables


def _count_pairs(
    major: Int64[np.ndarray, " P"], minor: Int64[np.ndarray, " P"], minors: int
) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
    """Distinct (major, minor) pairs in sorted order, and the number of each; minor < minors."""
    pairs, counts = np.unique(major * max(minors, 1) + minor, return_counts=True)
    first, second = np.divmod(pairs, max(minors, 1))
    return first, second, counts.astype(np.int64)


def _look_up(
    keys: Int64[np.ndarray, " E"], values: Shaped[np.ndarray, " E"], sought: Int64[np.ndarray, " W"]
) -> Shaped[np.ndarray, " W"]:
    """The value of each wanted key, 0 if it is not among the sorted keys."""
    if len(keys) == 0:
        return np.zeros(len(sought), values.dtype)
    place = np.searchsorted(keys, sought).clip(max=len(keys) - 1)
    return np.where(keys[place] == sought, values[place], 0)


def bleu_parts(corpus: Corpus) -> Float64[np.ndarray, "rows 3"]:
    """Return for each row: words also in a reference (clipped counts), words, length of the nearest
    reference."""
    rows, owner, words = corpus.rows, corpus.owner, corpus.tables[0]
    row = np.concatenate([np.arange(rows), owner])[words.text]
    key = row * words.distinct + words.ngram
    is_caption = words.text < rows
    order = np.lexsort((words.count[~is_caption], key[~is_caption]))
    keys, most = key[~is_caption][order], words.count[~is_caption][order]
    last = np.append(keys[1:] != keys[:-1], True)[: len(keys)]  # each key's highest count
    shared = np.minimum(words.count[is_caption], _look_up(keys[last], most[last], key[is_caption]))
    correct = np.bincount(row[is_caption], shared, minlength=rows)
    lengths = np.bincount(words.text, words.count, minlength=rows + len(owner))
    apart = np.abs(lengths[rows:] - lengths[owner])
    # of two references equally near, the shorter one
    order = np.lexsort((lengths[rows:], apart, owner))
    nearest = lengths[rows:][order][np.searchsorted(owner, np.arange(rows))]
    return np.stack([correct, lengths[:rows], nearest], axis=1).astype(float)


def bleu(sums: Float64[np.ndarray, "*batch 3"]) -> Float64[np.ndarray, "*batch"]:
    """Return BLEU-1 of a corpus from the sums of `bleu_parts` over its rows, with one brevity
    penalty."""
    correct, words, reference = np.moveaxis(sums, -1, 0)
    ratio = (words + TINY) / (reference + SMALL)
    penalty = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return np.asarray((correct + TINY) / (words + SMALL) * penalty)


def cider_rows(corpus: Corpus) -> Float64[np.ndarray, " rows"]:
    """Return CIDEr-D of each row, 0 to 10: clipped cosine of tf-idf vectors of 1- to 4-grams with a
    length penalty.

    The score of a corpus is the mean.
    """
    rows, owner, tables = corpus.rows, corpus.owner, corpus.tables
    lengths = np.bincount(tables[1].text, tables[1].count, minlength=rows + len(owner))
    penalty = np.exp(-((lengths[owner] - lengths[rows:]) ** 2) / (2 * SIGMA**2))
    likeness = np.mean([_cosine(table, rows, owner) for table in tables], axis=0) * penalty
    return 10 * np.bincount(owner, likeness, minlength=rows) / np.bincount(owner, minlength=rows)


def _cosine(
    table: Counts, rows: int, owner: Int64[np.ndarray, " references"]
) -> Float64[np.ndarray, " references"]:
    """Clipped cosine of each reference to its row's caption, over n-grams of one length."""
    split = int(np.searchsorted(table.text, rows))  # captions precede references
    row, ngram = owner[table.text[split:] - rows], table.ngram[split:]
    _, ngrams, _ = _count_pairs(row, ngram, table.distinct)
    documents = np.bincount(ngrams, minlength=table.distinct)
    rarity = np.log(max(rows, 1)) - np.log(np.maximum(documents, 1))
    weight = table.count * rarity[table.ngram]
    norm = np.sqrt(np.bincount(table.text, weight**2, minlength=rows + len(owner)))
    key = table.text[:split] * table.distinct + table.ngram[:split]
    caption_weight = _look_up(key, weight[:split], row * table.distinct + ngram)
    product = np.minimum(caption_weight, weight[split:]) * weight[split:]
    dot = np.bincount(table.text[split:] - rows, product, minlength=len(owner))
    norms = norm[owner] * norm[rows:]
    return np.divide(dot, norms, out=np.zeros(len(owner)), where=norms != 0)


def rouge_rows(
    references: Sequence[Sequence[str]], captions: Sequence[str]
) -> Float64[np.ndarray, " rows"]:
    """Return ROUGE-L of each row, 0 to 1; every row has a reference. The score of a corpus is the
    mean."""
    scores = np.zeros(len(captions))
    for number, (caption, texts) in enumerate(zip(captions, references, strict=True)):
        words = caption.split(" ")
        places: dict[str, int] = {}
        for place, word in enumerate(words):
            places[word] = places.get(word, 0) | 1 << place
        precision = recall = 0.0
        for text in texts:
            other = text.split(" ")
            common = _common_subsequence(places, len(words), other)
            precision = max(precision, common / len(words))
            recall = max(recall, common / len(other))
        if precision and recall:
            scores[number] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return scores


def _common_subsequence(places: dict[str, int], length: int, other: Sequence[str]) -> int:
    """Length of the longest common subsequence of `other` and a text of `length` words.

    `places` maps each word of the text to a bit mask of its positions. One integer holds a row of
    the dynamic programming table; its zero bits are the steps up (Hyyro 2004).
    """
    full = (1 << length) - 1
    row = full
    for word in other:
        hit = row & places.get(word, 0)
        row = ((row + hit) | (row - hit)) & full
    return length - row.bit_count()


def similarity_rows(
    references: Sequence[Sequence[str]], captions: Sequence[str], embed: Embed
) -> Float64[np.ndarray, " rows"]:
    """Return for each row the highest cosine of the caption to a reference; a text without a word
    scores 0.

    `embed` receives the distinct texts that have a word, at least one.
    """
    places: dict[str, int] = {}
    for text in (*captions, *(text for row in references for text in row)):
        if text.split():
            places.setdefault(text, len(places))
    if not places:
        return np.zeros(len(captions))
    vectors = embed(list(places)).astype(float)
    # the last one: of a text without a word
    vectors = np.concatenate([vectors, np.zeros((1, vectors.shape[1]))])
    scores = np.zeros(len(captions))
    for number, (caption, texts) in enumerate(zip(captions, references, strict=True)):
        of_references = vectors[[places.get(text, -1) for text in texts]]
        scores[number] = (of_references @ vectors[places.get(caption, -1)]).max()
    return scores
