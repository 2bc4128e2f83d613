"""BLEU-1 of a corpus as pycocoevalcap computes it: the nearest reference length, one brevity penalty for all.

Guarantees
- equal to pycocoevalcap's Bleu()[0]
- a corpus score is a function of sums over rows, so it can be resampled
"""

import numpy as np
from jaxtyping import Float64

from heads.metrics.corpus import Corpus
from heads.metrics.ngrams import look_up

# Their two constants: against division by zero, and to let nothing over nothing be nothing.
SMALL, TINY = 1e-9, 1e-15


def bleu_parts(corpus: Corpus) -> Float64[np.ndarray, "rows 3"]:
    """For each row: words that a reference holds too (clipped), words, length of the nearest reference."""
    rows, owner, words = corpus.rows, corpus.owner, corpus.tables[0]
    row = np.concatenate([np.arange(rows), owner])[words.text]
    key = row * words.distinct + words.ngram
    said = words.text < rows
    order = np.lexsort((words.count[~said], key[~said]))
    known, most = key[~said][order], words.count[~said][order]
    last = np.append(known[1:] != known[:-1], True)[: len(known)]  # each key's highest count
    shared = np.minimum(words.count[said], look_up(known[last], most[last], key[said]))
    correct = np.bincount(row[said], shared, minlength=rows)
    lengths = np.bincount(words.text, words.count, minlength=rows + len(owner))
    apart = np.abs(lengths[rows:] - lengths[owner])
    order = np.lexsort((lengths[rows:], apart, owner))  # of two as near, the shorter one
    nearest = lengths[rows:][order][np.searchsorted(owner, np.arange(rows))]
    return np.stack([correct, lengths[:rows], nearest], axis=1).astype(float)


def bleu(sums: Float64[np.ndarray, "*batch 3"]) -> Float64[np.ndarray, "*batch"]:
    """The score of a corpus from the sums of its rows' parts."""
    correct, words, reference = np.moveaxis(sums, -1, 0)
    ratio = (words + TINY) / (reference + SMALL)
    penalty = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return np.asarray((correct + TINY) / (words + SMALL) * penalty)
