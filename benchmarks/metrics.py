"""Scoring a whole test set, next to the published stack: pycocoevalcap for captions, scipy for tau, row by row.

python -m benchmarks.metrics                                  # the published sizes, two minutes
python -m benchmarks.metrics --rows 40 --rankings 30          # a first look

Captions and references are random sentences whose words are as unequally common as those of people are. Both sides get
the same texts as they come from a file, so splitting them into words counts; the ceiling is that alone. Values are
compared before times.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness import benchmark, measured, race, times
from stepdiff.common.cli import command
from stepdiff.tasks.captions import bleu, bleu_parts, cider_rows, count_corpus, rouge_rows
from stepdiff.tasks.scoring import kendall_tau

SECONDS = 0.5  # for all figures, of the published sizes
VOCABULARY = 4000
CLOSE = 1e-12


@dataclass(frozen=True)
class Options:
    rows: int = 6292
    """captions"""
    references: int = 6
    """references of a caption"""
    rankings: int = 4080
    """rows of four targets whose tau is computed"""
    rounds: int = 5
    """measurements of each, whose median counts, after one to warm up"""


def sentences(count: int, random: np.random.Generator) -> list[str]:
    """Return sentences of 6 to 20 words."""
    odds = 1 / np.arange(1, VOCABULARY + 1)
    lengths = random.integers(6, 21, count)
    words = np.char.add("w", random.choice(VOCABULARY, lengths.sum(), p=odds / odds.sum()).astype(str))
    return [" ".join(part) for part in np.split(words, np.cumsum(lengths)[:-1])]


def ours(
    references: list[list[str]], captions: list[str], predicted: np.ndarray, truth: np.ndarray
) -> dict[str, float]:
    """Return the four figures of stepdiff.tasks.scoring."""
    corpus = count_corpus(references, captions)
    return {
        "BLEU": float(bleu(bleu_parts(corpus).sum(axis=0))),
        "CIDEr": float(cider_rows(corpus).mean()),
        "ROUGE-L": float(rouge_rows(references, captions).mean()),
        "tau": float(np.nanmean(kendall_tau(predicted, truth))),
    }


def published(
    references: list[list[str]], captions: list[str], predicted: np.ndarray, truth: np.ndarray
) -> dict[str, Callable[[], float]]:
    """Return what computes each figure of the published evaluation."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from scipy.stats import kendalltau

    texts = dict(enumerate(references)), {number: [caption] for number, caption in enumerate(captions)}
    return {
        "BLEU": lambda: Bleu().compute_score(*texts, verbose=0)[0][0],
        "CIDEr": lambda: Cider().compute_score(*texts)[0],
        "ROUGE-L": lambda: Rouge().compute_score(*texts)[0],
        "tau": lambda: np.nanmean([kendalltau(a, b).statistic for a, b in zip(predicted, truth, strict=True)]),
    }


def run(options: Options) -> dict[str, Any]:
    """Return the record, with the differences between our values and the published ones."""
    random = np.random.default_rng(0)
    captions, pool = sentences(options.rows, random), sentences(options.rows * options.references, random)
    references = [pool[start : start + options.references] for start in range(0, len(pool), options.references)]
    truth = random.integers(0, 6, (options.rankings, 4)).astype(float)
    predicted = random.normal(size=truth.shape).round(1)  # some of them tie
    given = references, captions, predicted, truth

    warnings.simplefilter("ignore")  # scipy's, of rows whose values all tie
    all_ours, ceiling, theirs = "all four, ours", "splitting into words", published(*given)
    values = {name: (value, theirs[name]()) for name, value in ours(*given).items()}
    apart = {name: float(abs(mine - other) / max(abs(other), CLOSE)) for name, (mine, other) in values.items()}
    assert all(value <= CLOSE for value in apart.values()), f"our figures are not the published ones: {apart}"
    ways: dict[str, Callable[[], object]] = {
        all_ours: lambda: ours(*given),
        ceiling: lambda: [text.split() for text in (*captions, *pool)],
        **theirs,
    }
    seconds = measured(ways, options.rounds)
    own, total = seconds[all_ours], sum(seconds[name].clock for name in theirs)
    races = [
        race("scoring", SECONDS, own.clock, 1.0, f"{SECONDS} s for the published sizes"),
        race("scoring", total, own.clock, 10.0, "the published stack"),
        race("scoring", seconds[ceiling].clock, own.clock, None, ceiling),
    ]
    sizes = {"captions": options.rows, "references": options.references, "rankings": options.rankings}
    return {"rows": times(seconds, 1, "test set"), "races": races, **sizes, "relative_difference": apart}


main = benchmark("metrics", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
