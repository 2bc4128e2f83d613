"""What a PairQA file holds, in figures.

Guarantees
- every question and every pair is counted, each unordered pair once
- the answers are counted by the video that they name, and as YES and NO
- lengths and words are those of types 1 and 2: type 3 always asks the same
- a clip that should not train is found: by split, by id and by overlap in time
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from annotate.qa.job import Question
from annotate.qa.mentions import names_one
from heads.data.clips import knows_splits
from heads.data.hold_out import REASONS, HoldOut
from tasks.prompts import NO, VIDEOS, YES

N_GRAMS = (2, 3, 4)
MOST = 12
"""n-grams that are shown of each length"""
_QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}


def figures(rows: Sequence[Question]) -> dict[str, Any]:
    """Counts, balance of answers, lengths in words, and the most frequent n-grams."""
    pairs = Counter((row.reference, row.candidate) for row in rows)
    return {
        "questions": len(rows),
        "pairs": len({frozenset(pair) for pair in pairs}),
        "in_both_orders": sum(one != two and (two, one) in pairs for one, two in pairs) // 2,
        "clips": len({clip for pair in pairs for clip in pair}),
        "types": dict(sorted(Counter(str(row.type) for row in rows).items())),
        "answers": _answers(rows),
        "words": {name: _lengths(_words(texts)) for name, texts in _texts(rows)},
        "different": {name: len(set(texts)) for name, texts in _texts(rows)},
        "n_grams": {name: {str(n): _n_grams(texts, n) for n in N_GRAMS} for name, texts in _texts(rows)},
    }


def _texts(rows: Sequence[Question]) -> Iterable[tuple[str, list[str]]]:
    """What a language model worded: type 3's question and answers are given."""
    worded = [row for row in rows if row.type != 3]
    return ("questions", [row.question for row in worded]), ("answers", [row.answer for row in worded])


def _answers(rows: Sequence[Question]) -> dict[str, int]:
    """How many answers name one video, say YES or NO, or say something else, as those of type 1 are to do."""
    counts = Counter(dict.fromkeys((*VIDEOS, YES, NO, "other"), 0))
    for row in rows:
        one = None if row.type == 1 else names_one(row.answer)
        counts[row.answer if row.answer in (YES, NO) else VIDEOS[one - 1] if one else "other"] += 1
    return dict(counts)


def _words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def _lengths(words: Sequence[int]) -> dict[str, Any]:
    """Quantiles, and how many texts have each number of words; all 0 where there are no texts."""
    words = words or [0]
    told: dict[str, Any] = {name: int(np.quantile(words, q)) for name, q in _QUANTILES.items()}
    return told | {
        "mean": round(float(np.mean(words)), 2),
        "counts": {str(n): c for n, c in sorted(Counter(words).items())},
    }


def _n_grams(texts: Sequence[str], n: int) -> list[tuple[str, int]]:
    """The most frequent runs of n words, each counted once a text."""
    counts = Counter[str]()
    for text, times in Counter(texts).items():
        words = re.findall(r"[\w/'-]+", text.lower())
        for gram in {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}:
            counts[gram] += times
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST]


def leaks(rows: Sequence[Question], catalog: pl.DataFrame, hold_out: HoldOut) -> dict[str, list[str]]:
    """Clips that should not train, by reason.

    catalog: key, video, start, end and split, where it knows them.
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
