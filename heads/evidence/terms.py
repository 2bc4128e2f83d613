"""Terms, which are phrases of one to four words, and the video of a pair that each of them is about.

Text is split at punctuation, and a term does not cross it. "Video 1" and "first video", "Video 2" and "second video"
are mentions, not words. The rest of a text's grammar is learned: `Sides` predicts from the last mention and the words
around a term which of the two videos the term is about. It is a ridge regression over counts, trained on answers about
pairs whose narrations differ in the term, so it knows "instead of" and "skips" as far as the answers have them.

Guarantees
- a text is read from left to right, and each word is part of at most one occurrence, the longest known term
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import numpy as np
import scipy.sparse as sparse

from stepdiff.tasks.clauses import AUXILIARIES, DETERMINERS, OBJECTS, PREPOSITIONS

LONGEST = 4
"""words of a term"""
NEAR = 4
"""words before a term, and words after it, that tell its side"""
_FUNCTION = {*AUXILIARIES, *DETERMINERS, *OBJECTS, *PREPOSITIONS} | set(
    "and or but nor not than while whereas also too so then there here he she they we you i me us who which what be "
    "been being someone somebody person people".split()
)
"""words that name nothing: no term begins or ends with one"""
_TOKEN = re.compile(
    r"(?P<one>\b(?:video (?:1|one)|first video)\b)|(?P<two>\b(?:video (?:2|two)|second video)\b)"
    r"|(?P<word>[^\W_][\w'-]*)|[^\w\s]"
)
_GAP = "_"  # takes the place of a term among the words before another
_LEAST = 5  # occurrences of a feature of a side
_PENALTY = 3.0
_SLOPE = 2.5  # the regression shrinks towards 0


def segments(text: str) -> Iterator[list[str]]:
    """Yield the words of each part of a text between punctuation and mentions, in lower case."""
    words: list[str] = []
    for token in _TOKEN.finditer(text.lower()):
        if token["word"]:
            words.append(token[0])
        elif words:
            yield words
            words = []
    if words:
        yield words


def terms_of(text: str) -> set[str]:
    """Return all phrases of one to LONGEST words that neither begin nor end with a function word."""
    return {
        " ".join(words[start:end])
        for words in segments(text)
        for start in range(len(words))
        for end in range(start + 1, min(start + LONGEST, len(words)) + 1)
        if not _FUNCTION.intersection((words[start], words[end - 1]))
    }


@dataclass(frozen=True)
class Occurrence:
    """One term in a text about a pair."""

    term: str
    video: int
    """the last one mentioned before it, 1 or 2; 0: none"""
    before: tuple[str, ...]
    """words and marks since that mention, at most NEAR, with "_" for terms"""
    after: tuple[str, ...] = ()
    """words and marks up to the next term or mention, at most NEAR"""
    follows: str = "end"
    """kind of what comes next: other, term, mention or end"""
    clause: frozenset[str] = frozenset()
    """words since the last mark or mention"""

    def features(self) -> set[str]:
        """Return what its side is predicted from: its context, and the same context with the video."""
        context = {f"{place} {word}" for place, word in enumerate(reversed(self.before))}
        context |= {f"any {word}" for word in self.before} | {f"clause {word}" for word in self.clause}
        context |= {f"+{place} {word}" for place, word in enumerate(self.after)}
        context |= {f"+any {word}" for word in self.after}
        if len(self.before) > 1:
            context.add(" ".join(("pair", *self.before[-2:])))
        if not self.after:
            context.add(f"then {self.follows}")
        return {f"video {self.video}"} | context | {f"video {self.video} {name}" for name in context}


_Item = tuple[Literal["mention", "term", "other"], str, int, int]
"""kind, words, and where they begin and end in the text"""


def _items(text: str, terms: Collection[str]) -> list[_Item]:
    """Return the mentions, the longest known terms, and the other words and marks of a text, in order."""
    items: list[_Item] = []
    tokens = list(_TOKEN.finditer(text.lower()))
    words = [token["word"] for token in tokens]
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if token["one"] or token["two"]:
            items.append(("mention", "1" if token["one"] else "2", *token.span()))
            place += 1
            continue
        for length in range(LONGEST, 0, -1):
            phrase = words[place : place + length]
            if len(phrase) == length and None not in phrase and (term := " ".join(phrase)) in terms:
                place += length
                items.append(("term", term, token.start(), tokens[place - 1].end()))
                break
        else:
            items.append(("other", token[0], *token.span()))
            place += 1
    return items


def _read(items: Sequence[_Item], video: int) -> Iterator[Occurrence]:
    """Yield the terms of a text with their contexts."""
    before: list[str] = []
    clause: list[str] = []
    for place, (kind, value, *_) in enumerate(items):
        if kind == "mention":
            video, before, clause = int(value), [], []
        elif kind == "other":
            before.append(value)
            clause = [*clause, value] if value[0].isalnum() else []
        else:
            after = [name for _, name, *_ in takewhile(lambda item: item[0] == "other", items[place + 1 :])][:NEAR]
            follows = items[place + 1][0] if place + 1 < len(items) else "end"
            yield Occurrence(value, video, tuple(before[-NEAR:]), tuple(after), follows, frozenset(clause))
            before.append(_GAP)


def occurrences(text: str, terms: Collection[str], video: int = 0) -> list[Occurrence]:
    """Return the known terms of a text in order. video: the one that the text is about before its first mention."""
    return list(_read(_items(text, terms), video))


def pieces(text: str, terms: Collection[str]) -> list[tuple[str, str]]:
    """Split a text into its known terms and what is between them: parts with their term, "" where it has none."""
    if len(text.lower()) != len(text):  # "İ": the places of terms are those of another text
        return [(text, "")]
    parts, end = [], 0
    for kind, term, start, stop in _items(text, terms):
        if kind == "term":
            parts += [(text[end:start], ""), (text[start:stop], term)]
            end = stop
    return [(part, term) for part, term in [*parts, (text[end:], "")] if part]


def next_in(text: str, terms: Collection[str], video: int = 0) -> Occurrence:
    """Return the context of whatever term may follow a text."""
    *_, last = _read([*_items(text, terms), ("term", "", 0, 0)], video)
    return last


@dataclass(frozen=True)
class Sides:
    """A linear model of the video that an occurrence is about."""

    weights: Mapping[str, float]
    """feature of an occurrence -> its weight; "" is the constant"""

    @classmethod
    def learn(cls, examples: Sequence[Occurrence], labels: Sequence[float]) -> "Sides":
        """Fit a ridge regression. labels: 1 for Video 2, -1 for Video 1."""
        rows = [one.features() for one in examples]
        counts = Counter(feature for row in rows for feature in row)
        columns = {feature: place for place, (feature, count) in enumerate(counts.items()) if count >= _LEAST}
        columns = {feature: place for place, feature in enumerate(["", *columns])}
        cells = [
            (row, columns[name]) for row, names in enumerate(rows) for name in ("", *sorted(names)) if name in columns
        ]
        at = tuple(np.array(cells, int).reshape(-1, 2).T)
        table = sparse.csr_matrix((np.ones(len(cells)), at), (len(rows), len(columns)))
        gram = (table.T @ table).toarray() + _PENALTY * np.eye(len(columns))
        return cls(dict(zip(columns, np.linalg.solve(gram, table.T @ np.asarray(labels, float)).tolist(), strict=True)))

    def of(self, occurrence: Occurrence) -> float:
        """Return the side of an occurrence, from -1 (surely Video 1) to 1 (surely Video 2)."""
        side = self.weights.get("", 0.0) + sum(self.weights.get(name, 0.0) for name in sorted(occurrence.features()))
        return float(np.clip(_SLOPE * side, -1, 1))
