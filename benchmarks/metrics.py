"""Scoring a whole test set, next to the published stack: pycocoevalcap for captions, scipy for tau, row by row.

python -m benchmarks.metrics                                  # the published sizes, about a minute
python -m benchmarks.metrics --rows 500 --rankings 300        # a first look

Captions and references are random sentences whose words are as unequally common as those of people are. Both sides get
the same texts as they come from a file, so splitting them into words counts. Values are compared before times.
"""

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness.report import Row, benchmark, line, measured
from stepdiff.common.cli import command

LINE = 0.5  # seconds for all figures, of the published sizes
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
    """measurements of ours, whose median counts, after one to warm up; the published stack is measured once"""
    seed: int = 0
    """seed of the texts and rankings"""


def sentences(count: int, random: np.random.Generator) -> list[str]:
    """Return sentences of 6 to 20 words."""
    odds = 1 / np.arange(1, VOCABULARY + 1)
    lengths = random.integers(6, 21, count)
    words = np.char.add("w", random.choice(VOCABULARY, lengths.sum(), p=odds / odds.sum()).astype(str))
    return [" ".join(part) for part in np.split(words, np.cumsum(lengths)[:-1])]


def ours(references: list[list[str]], captions: list[str], said: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the four figures of stepdiff.tasks.scoring."""
    from stepdiff.tasks.captions import bleu, bleu_parts, cider_rows, count_corpus, rouge_rows
    from stepdiff.tasks.scoring import kendall_tau

    corpus = count_corpus(references, captions)
    return {
        "BLEU": float(bleu(bleu_parts(corpus).sum(axis=0))),
        "CIDEr": float(cider_rows(corpus).mean()),
        "ROUGE-L": float(rouge_rows(references, captions).mean()),
        "tau": float(np.nanmean(kendall_tau(said, truth))),
    }


def published(
    references: list[list[str]], captions: list[str], said: np.ndarray, truth: np.ndarray
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the figures of the published evaluation, and the seconds that each took."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from scipy.stats import kendalltau

    given = dict(enumerate(references)), {number: [caption] for number, caption in enumerate(captions)}
    ways: dict[str, Callable[[], float]] = {
        "BLEU": lambda: Bleu().compute_score(*given, verbose=0)[0][0],
        "CIDEr": lambda: Cider().compute_score(*given)[0],
        "ROUGE-L": lambda: Rouge().compute_score(*given)[0],
        "tau": lambda: np.nanmean([kendalltau(a, b).statistic for a, b in zip(said, truth, strict=True)]),
    }
    values, seconds = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's, of rows whose values all tie
        for name, way in ways.items():
            start = time.perf_counter()
            values[name] = float(way())
            seconds[name] = time.perf_counter() - start
            print(f"published {name}: {seconds[name]:.2f} s", file=sys.stderr)
    return values, seconds


def run(options: Options) -> dict[str, Any]:
    """Return rows, lines, and how far our values are from the published ones."""
    random = np.random.default_rng(options.seed)
    captions, pool = sentences(options.rows, random), sentences(options.rows * options.references, random)
    references = [pool[start : start + options.references] for start in range(0, len(pool), options.references)]
    truth = random.integers(0, 6, (options.rankings, 4)).astype(float)
    said = random.normal(size=truth.shape).round(1)  # some of them tie
    given = references, captions, said, truth

    own = measured({"ours": lambda: ours(*given)}, options.rounds, warm_up=True)["ours"]
    values, (expected, seconds) = ours(*given), published(*given)
    apart = {name: abs(values[name] - value) / max(abs(value), CLOSE) for name, value in expected.items()}
    assert all(value <= CLOSE for value in apart.values()), f"our figures are not the published ones: {apart}"
    theirs = sum(seconds.values())
    rows: list[Row] = [
        {"figures": "all four, ours", "seconds": round(own.clock, 3), "CPU seconds": round(own.cpu, 3)},
        {"figures": "all four, published stack", "seconds": round(theirs, 3), "CPU seconds": ""},
        *({"figures": f"{name}, published", "seconds": round(s, 3), "CPU seconds": ""} for name, s in seconds.items()),
    ]
    lines = [
        line("scoring", 1 / own.clock, 1 / LINE, 1.0, f"{LINE} s for the published sizes"),
        line("the same by CPU time", 1 / own.cpu, 1 / LINE, 1.0, f"{LINE} s"),
        line("scoring", theirs, own.clock, 10.0, "the published stack"),
    ]
    sizes = {"captions": options.rows, "references": options.references, "rankings": options.rankings}
    return {"rows": rows, "lines": lines, **sizes, "relative_difference": apart}


main = benchmark("metrics", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
