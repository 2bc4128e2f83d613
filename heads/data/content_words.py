"""Content words of narrations, the words that say what a clip shows, found without a list of words.

A word counts if two styles agree on it clip by clip: it is narrated over the clips about which the paired QA says it,
and less over others. "Whisk" is such a word; a narrator's "okay so" is not, nor is a word that fills every question.

`word_places` assigns each content word to one output of a projector; words that exclude each other share one. "Whisk"
and "fork" are rarely said of the same clip, and are said in the same contexts ("a ... in use"), so one output can say
which of them it is; "bowl" is said with both and has another place. With fixed places, a model can compare two clips
place by place.

Guarantees
- only the given texts and questions decide
- words in similar contexts that are rarely said together share a place before others do
- with enough places, each word has its own
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_array
from scipy.spatial.distance import squareform

from heads.data.paired_qa import PairQuestions
from tasks.prompts import VIDEOS

AGREED = 1.8  # least agreement of a content word, in standard errors of chance


def words(text: str) -> list[str]:
    """Return the lower-case words of a text, in order, without punctuation."""
    return "".join(c if c.isalnum() or c == "'" else " " for c in text.lower()).split()


def content_words(texts: pl.DataFrame, pairs: Sequence[PairQuestions]) -> list[str]:
    """Return the words, sorted, on which the texts (key, text) and the paired QA about the same clips agree."""
    said = [(key, frozenset(words(text))) for key, text in texts.select("key", "text").iter_rows()]
    best: dict[str, float] = {}
    for others in _words_about_clips(pairs):
        found = agreement([(own, others[key]) for key, own in said if key in others])
        best |= {word: max(value, best.get(word, value)) for word, value in found.items()}
    return sorted(word for word, value in best.items() if value >= AGREED)


def _words_about_clips(pairs: Iterable[PairQuestions]) -> tuple[Mapping[str, set[str]], Mapping[str, set[str]]]:
    """Return the words about each clip, by questions "Which video ...?" that it answers, and by all of its pairs.

    Only the first says which of two clips is meant; the second covers far more words.
    """
    of_one: dict[str, set[str]] = {}
    of_either: dict[str, set[str]] = {}
    for pair in pairs:
        clips = (pair.reference, pair.candidate)
        for question, answer in pair.questions:
            own, answered = words(question), words(answer)
            if answer in VIDEOS:
                of_one.setdefault(clips[VIDEOS.index(answer)], set()).update(own)
            for clip in clips:
                of_either.setdefault(clip, set()).update(own, answered)
    return of_one, of_either


def agreement(rows: Sequence[tuple[Iterable[str], Iterable[str]]]) -> dict[str, float]:
    """Return, for words on both sides, the phi coefficient of occurring on one and on the other, in standard errors of
    independent sides (sqrt(n) phi)."""
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


EDGE = ""  # before and after a text


def word_places(
    texts: Sequence[Sequence[str]], column: Mapping[str, int], said: Bool[np.ndarray, "T V"], places: int
) -> Int[np.ndarray, " V"]:
    """Return the place of each of V words.

    texts: their words in order; column: word -> its number below V; said: whether each text says each word.
    """
    number = said.shape[1]
    if number <= places:
        return np.arange(number)
    distance = 1 - likeness(texts, column) + together(said)
    np.fill_diagonal(distance, 0)
    return fcluster(linkage(squareform(distance, checks=False), "complete"), places, "maxclust") - 1


def together(said: Bool[np.ndarray, "T V"]) -> Float[np.ndarray, "V V"]:
    """Return the share of the rarer word's texts that say both words."""
    count = said.sum(axis=0)
    return (said.T.astype(float) @ said) / np.maximum(np.minimum.outer(count, count), 1)


def likeness(texts: Sequence[Sequence[str]], column: Mapping[str, int]) -> Float[np.ndarray, "V V"]:
    """Return the cosine of two words' contexts, weighted by positive pointwise mutual information."""
    counts = Counter((column[word], around) for text in texts for word, around in surroundings(text) if word in column)
    contexts = {around: i for i, around in enumerate(dict.fromkeys(around for _, around in counts))}
    rows = np.array([word for word, _ in counts])
    columns = np.array([contexts[around] for _, around in counts])
    met = np.fromiter(counts.values(), float)
    shape = (max(column.values()) + 1, len(contexts))
    of_word, of_context = np.bincount(rows, met, shape[0]), np.bincount(columns, met)
    lift = np.log(met * met.sum() / (of_word[rows] * of_context[columns]))
    weights = coo_array((np.maximum(lift, 0), (rows, columns)), shape).tocsr()
    norms = np.maximum(np.sqrt(weights.multiply(weights).sum(axis=1)), 1e-9)
    return (weights @ weights.T).toarray() / np.outer(norms, norms)


def surroundings(text: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each word of a text with its contexts: one and two words on each side, and one on both sides."""
    padded = [EDGE, EDGE, *text, EDGE, EDGE]
    for i in range(2, len(padded) - 2):
        before, after = padded[i - 2 : i], padded[i + 1 : i + 3]
        left, right = before[1], after[0]
        for around in (("<", left), (">", right), ("<", *before), (">", *after), ("<>", left, right)):
            yield padded[i], around
