"""Agreement of people: of all answers, of each category, and of each person with the others.

An item is a pair of clips in a category. Only work counts, without rejected pairs, and of several answers of one person
about a pair only the last one. `annotate.people.ratings.Figures` defines the figures.

Guarantees
- the figures of ConViS-Bench are those of its published answers
- a category that one person left out counts where others have it
- a person is compared with the median of the others, not with the own answers
- agreement on gold pairs is the share of scores within the tolerance of the known ones
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from annotate.people.answers import Answer, latest
from annotate.people.ratings import Figures, Ratings, figures, from_others
from annotate.people.task import DIRECTION, HIGHEST, LOWEST, Task


@dataclass(frozen=True)
class Person:
    """One annotator."""

    annotator: str
    answers: int
    """pairs of work, also rejected ones"""
    rejected: int
    seconds: float | None
    """median for a pair"""
    distance: float | None
    """mean distance of a score from the median of the others' scores"""
    gold_scores: int
    """scores of gold pairs"""
    gold: float | None
    """share of them within the tolerance of the known score"""


@dataclass(frozen=True)
class Agreement:
    """All figures about a collection. Scores: 5 = not different, 1 = very different."""

    pairs: int
    people: int
    answers: int
    """answers of work that count, also rejected pairs"""
    rejected: int
    replaced: int
    """earlier answers of a person about the same pair, which do not count"""
    scores: str
    """direction of the scores"""
    overall: Figures
    """over all pairs in all categories"""
    categories: dict[str, Figures]
    rejections: Figures
    """of accepting or rejecting a pair: an item is a pair"""
    annotators: list[Person]
    """the most active first"""


def agreement(answers: Iterable[Answer], task: Task | None = None) -> Agreement:
    """Return the agreement in a collection; about 0.2 s for 20,000 answers.

    Args:
        answers: Of any kind, in any order.
        task: Has the known scores of gold pairs.
    """
    given = list(answers)
    counted = latest(given)
    work = [answer for answer in counted if answer.kind == "work"]
    people = {name: number for number, name in enumerate(dict.fromkeys(answer.annotator for answer in work))}
    pairs = {name: number for number, name in enumerate(dict.fromkeys(answer.pair for answer in work))}
    categories = list(dict.fromkeys(name for answer in work for name in answer.differences))
    scored = [answer for answer in work if answer.rejected is None]
    rows = [
        (pairs[a.pair] * len(categories) + number, people[a.annotator], a.differences[name].score - LOWEST, number)
        for a in scored
        for number, name in enumerate(categories)
        if name in a.differences
    ]
    item, person, score, category = np.array(rows, np.int64).reshape(-1, 4).T
    ratings = Ratings(item, person, score, HIGHEST - LOWEST + 1)
    both = [(pairs[a.pair], people[a.annotator], int(a.rejected is not None)) for a in work]
    pair, who, rejected = np.array(both, np.int64).reshape(-1, 3).T
    return Agreement(
        pairs=len(pairs),
        people=len(people),
        answers=len(work),
        rejected=len(work) - len(scored),
        replaced=sum(answer.kind == "work" for answer in given) - len(work),
        scores=DIRECTION,
        overall=figures(ratings),
        categories={name: figures(ratings.of(category == number)) for number, name in enumerate(categories)},
        rejections=figures(Ratings(pair, who, rejected, 2)),
        annotators=_people(work, _distances(ratings, list(people)), _gold(counted, task)),
    )


def _distances(ratings: Ratings, people: Sequence[str]) -> dict[str, float]:
    """Return the mean distance of each person from the others' medians, for people who share an item."""
    apart = from_others(ratings)
    known = ~np.isnan(apart)
    sums = np.bincount(ratings.person[known], apart[known], minlength=len(people))
    counts = np.bincount(ratings.person[known], minlength=len(people))
    return {name: float(sums[i] / counts[i]) for i, name in enumerate(people) if counts[i]}


def _gold(answers: Sequence[Answer], task: Task | None) -> dict[str, list[bool]]:
    """Return for each person which scores of gold pairs are close enough."""
    found = defaultdict(list)
    for answer in answers:
        known = task.gold_by_id.get(answer.pair) if task is not None and answer.kind == "gold" else None
        if task is None or known is None:
            continue
        for name, score in known.scores.items():
            if name in answer.differences:
                found[answer.annotator].append(task.gold.agrees(score, answer.differences[name].score))
            elif answer.rejected is not None:
                found[answer.annotator].append(False)
    return found


def _people(work: Sequence[Answer], distances: dict[str, float], gold: dict[str, list[bool]]) -> list[Person]:
    seconds = defaultdict(list)
    for answer in work:
        if answer.seconds is not None:
            seconds[answer.annotator].append(answer.seconds)
    counts = Counter(answer.annotator for answer in work)
    rejected = Counter(answer.annotator for answer in work if answer.rejected is not None)
    people = [
        Person(
            annotator=name,
            answers=counts[name],
            rejected=rejected[name],
            seconds=median(seconds[name]) if name in seconds else None,
            distance=distances.get(name),
            gold_scores=len(gold.get(name, ())),
            gold=fmean(gold[name]) if gold.get(name) else None,
        )
        for name in dict.fromkeys([*counts, *gold])
    ]
    return sorted(people, key=lambda person: (-person.answers, person.annotator))
