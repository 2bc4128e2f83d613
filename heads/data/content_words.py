"""Which words of a narration say what its clip shows, told from manner of speaking without any list of words.

A word counts where two styles agree on it clip by clip: it is narrated over the clips of which the paired QA says it
too, and less over others. "Whisk" is such a word; a narrator's "okay so" is not, nor is what fills every question.

Guarantees
- only the texts and the questions that it is given decide
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl

from heads.data.paired_qa import PairQuestions
from tasks.prompts import VIDEOS

AGREED = 1.8  # standard errors between a word's agreement and that of chance


def words(text: str) -> list[str]:
    """The words of a text, in order, without its case and punctuation."""
    return "".join(c if c.isalnum() or c == "'" else " " for c in text.lower()).split()


def content_words(texts: pl.DataFrame, pairs: Sequence[PairQuestions]) -> list[str]:
    """Words, sorted, on which the texts (key, text) and the paired QA about the same clips agree."""
    said = [(key, frozenset(words(text))) for key, text in texts.select("key", "text").iter_rows()]
    best: dict[str, float] = {}
    for others in _words_about_clips(pairs):
        found = agreement([(own, others[key]) for key, own in said if key in others])
        best |= {word: max(value, best.get(word, value)) for word, value in found.items()}
    return sorted(word for word, value in best.items() if value >= AGREED)


def _words_about_clips(pairs: Iterable[PairQuestions]) -> tuple[Mapping[str, set[str]], Mapping[str, set[str]]]:
    """Words said of each clip in two ways: of the one video that answers "Which video ...?", and of either of a pair.

    The first alone tells which of two clips is the dark one; the second covers far more words.
    """
    of_one: dict[str, set[str]] = {}
    of_either: dict[str, set[str]] = {}
    for pair in pairs:
        clips = (pair.reference, pair.candidate)
        for question, answer in pair.questions:
            asked, answered = words(question), words(answer)
            if answer in VIDEOS:
                of_one.setdefault(clips[VIDEOS.index(answer)], set()).update(asked)
            for clip in clips:
                of_either.setdefault(clip, set()).update(asked, answered)
    return of_one, of_either


def agreement(rows: Sequence[tuple[Iterable[str], Iterable[str]]]) -> dict[str, float]:
    """For words that occur on both sides: the phi coefficient of "is on one side" and "is on the other", in standard
    errors of the chance that the sides have nothing to do with each other (sqrt(n) phi)."""
    both = sorted({w for own, _ in rows for w in own} & {w for _, other in rows for w in other})
    if not both:
        return {}
    places = {word: i for i, word in enumerate(both)}
    sides = np.zeros((2, len(rows), len(both)))
    for number, row in enumerate(rows):
        for side, found in zip(sides, row, strict=True):
            side[number, [places[w] for w in found if w in places]] = 1
    one, other = sides - sides.mean(axis=1, keepdims=True)
    spread = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
    phi = np.divide((one * other).sum(axis=0), spread, out=np.zeros(len(both)), where=spread > 0)
    return dict(zip(both, (phi * len(rows) ** 0.5).tolist(), strict=True))
