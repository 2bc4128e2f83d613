"""CIDEr-D as pycocoevalcap computes it: tf-idf vectors of 1- to 4-grams, clipped cosine, length penalty, times 10.

Guarantees
- equal to pycocoevalcap's Cider(), row by row
- document frequencies are those of the references that are given, all of them
"""

import numpy as np
from jaxtyping import Float64, Int64

from heads.metrics.corpus import Corpus
from heads.metrics.ngrams import Counts, count_pairs, look_up

SIGMA = 6.0  # of the length penalty, in bigrams: the length it compares counts those, not words


def cider_rows(corpus: Corpus) -> Float64[np.ndarray, " rows"]:
    """The score of each row, 0 to 10; the corpus score is their mean."""
    rows, owner, tables = corpus.rows, corpus.owner, corpus.tables
    lengths = np.bincount(tables[1].text, tables[1].count, minlength=rows + len(owner))
    penalty = np.exp(-((lengths[owner] - lengths[rows:]) ** 2) / (2 * SIGMA**2))
    likeness = np.mean([_cosine(table, rows, owner) for table in tables], axis=0) * penalty
    return 10 * np.bincount(owner, likeness, minlength=rows) / np.bincount(owner, minlength=rows)


def _cosine(table: Counts, rows: int, owner: Int64[np.ndarray, " references"]) -> Float64[np.ndarray, " references"]:
    """Clipped cosine of each reference to its row's caption, over n-grams of one length."""
    split = int(np.searchsorted(table.text, rows))  # captions stand first, then references
    row, ngram = owner[table.text[split:] - rows], table.ngram[split:]
    _, known, _ = count_pairs(row, ngram, table.distinct)
    documents = np.bincount(known, minlength=table.distinct)
    rarity = np.log(max(rows, 1)) - np.log(np.maximum(documents, 1))
    weight = table.count * rarity[table.ngram]
    norm = np.sqrt(np.bincount(table.text, weight**2, minlength=rows + len(owner)))
    said = look_up(
        table.text[:split] * table.distinct + table.ngram[:split],
        weight[:split],
        row * table.distinct + ngram,
    )
    product = np.minimum(said, weight[split:]) * weight[split:]
    dot = np.bincount(table.text[split:] - rows, product, minlength=len(owner))
    norms = norm[owner] * norm[rows:]
    return np.divide(dot, norms, out=np.zeros(len(owner)), where=norms != 0)
