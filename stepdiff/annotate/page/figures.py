"""Figures of a PairQA file, and its clips that should not train.

Guarantees
- every question and every pair is counted, each unordered pair once
- lengths and words are those of types 1 and 2; type 3 always has the same question
- a clip that should not train is reported: by split, by id and by overlap in time
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from heads.data.catalog_rows import knows_splits
from heads.data.hold_out import REASONS, HoldOut
from stepdiff.annotate.qa.job import Question
from stepdiff.annotate.qa.mentions import names_one
from stepdiff.common.io.jsonl import read_objects
from stepdiff.tasks.prompts import NO, VIDEOS, YES

N_GRAMS = (2, 3, 4)
OVERLAPPING = (1, 2, 3, 4)
MOST = 12  # n-grams that are shown for each length
_QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}


def figures(rows: Sequence[Question]) -> dict[str, Any]:
    """Return counts, balance of answers, lengths in words, and the most frequent n-grams."""
    pairs = Counter((row.reference, row.candidate) for row in rows)
    return {
        "questions": len(rows),
        "pairs": len({frozenset(pair) for pair in pairs}),
        "in_both_orders": sum(one != two and (two, one) in pairs for one, two in pairs) // 2,
        "clips": len({clip for pair in pairs for clip in pair}),
        "types": dict(sorted(Counter(str(row.type) for row in rows).items())),
        "answers": _answers(rows),
        "words": {name: _lengths([len(text.split()) for text in texts]) for name, texts in _texts(rows)},
        "different": {name: len(set(texts)) for name, texts in _texts(rows)},
        "n_grams": {name: {str(n): _n_grams(texts, n) for n in N_GRAMS} for name, texts in _texts(rows)},
    }


def _texts(rows: Sequence[Question]) -> Iterable[tuple[str, list[str]]]:
    """Return the language model's own questions and answers: those of type 3 are fixed."""
    worded = [row for row in rows if row.type != 3]
    return ("questions", [row.question for row in worded]), ("answers", [row.answer for row in worded])


def _answers(rows: Sequence[Question]) -> dict[str, int]:
    """Count the answers that name one video, are YES or NO, or neither, as those of type 1."""
    counts = Counter(dict.fromkeys((*VIDEOS, YES, NO, "other"), 0))
    for row in rows:
        one = None if row.type == 1 else names_one(row.answer)
        counts[row.answer if row.answer in (YES, NO) else VIDEOS[one - 1] if one else "other"] += 1
    return dict(counts)


def _lengths(words: Sequence[int]) -> dict[str, Any]:
    """Return quantiles, and the number of texts of each length; all are 0 without texts."""
    words = words or [0]
    quantiles: dict[str, Any] = {name: int(np.quantile(words, q)) for name, q in _QUANTILES.items()}
    return quantiles | {
        "mean": round(float(np.mean(words)), 2),
        "counts": {str(n): c for n, c in sorted(Counter(words).items())},
    }


def _n_grams(texts: Sequence[str], n: int) -> list[tuple[str, int]]:
    """Return the most frequent runs of n words, each counted once a text."""
    counts = Counter[str]()
    for text, times in Counter(texts).items():
        for gram in set(_runs(text, n)):
            counts[gram] += times
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST]


def _runs(text: str, n: int) -> list[str]:
    """Return all runs of n words of a text, in order."""
    words = re.findall(r"[\w/'-]+", text.lower())
    return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]


def overlap(rows: Sequence[Question], files: Sequence[str]) -> dict[str, float]:
    """Return, for n from 1 to 4, which share of the n-grams of test texts the open answers have too.

    files: test sets; those of DiffCap and DiffMCQ have texts. Empty if none has.
    """
    texts: list[str] = []
    for _, row in (found for file in files for found in read_objects(file)):
        texts += row.get("text", []) + ([row["difference"]] if "difference" in row else [])
    answers = [row.answer for row in rows if row.type == 1]
    shares = {}
    for n in OVERLAPPING:
        learned = {gram for answer in answers for gram in _runs(answer, n)}
        asked = [gram in learned for text in texts for gram in _runs(text, n)]
        if asked:
            shares[str(n)] = round(sum(asked) / len(asked), 3)
    return shares


def leaks(rows: Sequence[Question], catalog: pl.DataFrame, hold_out: HoldOut) -> dict[str, list[str]]:
    """Return the clips that should not train, by reason.

    catalog: key, and where known video, start, end and split.
    """
    clips = pl.DataFrame({"key": sorted({clip for row in rows for clip in (row.reference, row.candidate)})})
    unknown = clips.join(catalog, on="key", how="anti", maintain_order="left")
    found = {"not in the store": unknown["key"].to_list()}
    if knows_splits(catalog):
        stored = clips.join(catalog, on="key", how="inner", maintain_order="left")
        found["of another split than train"] = stored.filter(pl.col("split").ne_missing("train"))["key"].to_list()
    if hold_out.files:
        hold_out.look_up(pl.concat([catalog, unknown], how="diagonal"))
        held_out = clips.join(hold_out.clips, on="key", maintain_order="left")
        found |= {reason: held_out.filter(reason=reason)["key"].to_list() for reason in REASONS}
    return found
