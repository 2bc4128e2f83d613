"""What was collected: answers, progress, disagreements.

Guarantees
- an answer appears once, as it was submitted last
- a disagreement is decided and the decision wins in the files: it is an answer of its own; the widest spread is first
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import Connection, case, func, select

from annotate.people.answers import Answer, answer_of
from app.annotating.collection.events import pair_key
from app.annotating.collection.tables import adjudications, assignments, pairs, people


@dataclass(frozen=True)
class Totals:
    """Progress of all work."""

    pairs: int
    complete: int
    """pairs that as many people as asked submitted or work on"""
    wanted: int
    """answers: pairs times people"""
    submitted: int
    open: int
    """pairs that somebody works on"""
    adjudicated: int


@dataclass(frozen=True)
class OwnProgress:
    """Progress of one person."""

    submitted: int
    """pairs of work and gold"""
    training: int
    open: int
    last: float | None
    """seconds since 1970"""


@dataclass(frozen=True)
class Disagreement:
    """A pair about which people disagree."""

    pair: str
    reference: str
    candidate: str
    people: int
    spread: int
    """largest distance of two scores of a category"""
    widest: str | None
    """the category that has it"""
    rejections: int
    adjudicated: bool


def answers(connection: Connection) -> Iterator[Answer]:
    """Yield the submitted answers in the order of submission, and then the adjudications."""
    submitted = assignments.c.state == "submitted"
    final = select(adjudications.c.answer).order_by(adjudications.c.at, adjudications.c.pair)
    rows = select(assignments.c.answer).where(submitted).order_by(assignments.c.submitted, assignments.c.id)
    for query in (rows, final):
        for row in connection.execute(query):
            yield answer_of(json.loads(row.answer))


def totals(connection: Connection, per_pair: int) -> Totals:
    """Return the progress of all work, where `per_pair` people annotate each pair."""
    listed = pairs.c.place.is_not(None)
    complete = func.count(case((pairs.c.taken >= per_pair, 1)))
    row = connection.execute(select(func.count().label("all"), complete.label("complete")).where(listed)).one()
    work = assignments.c.kind == "work"
    counts = select(assignments.c.state, func.count().label("number")).where(work).group_by(assignments.c.state)
    states = {found.state: found.number for found in connection.execute(counts)}
    decided = connection.execute(select(func.count()).select_from(adjudications)).scalar_one()
    return Totals(row.all, row.complete, row.all * per_pair, states.get("submitted", 0), states.get("open", 0), decided)


def progress(connection: Connection) -> dict[int, OwnProgress]:
    """Return the progress of each person who has assignments."""
    submitted, training = assignments.c.state == "submitted", assignments.c.kind == "training"
    columns = (
        func.count(case((submitted & ~training, 1))).label("submitted"),
        func.count(case((submitted & training, 1))).label("training"),
        func.count(case((assignments.c.state == "open", 1))).label("open"),
        func.max(assignments.c.touched).label("last"),
    )
    rows = connection.execute(select(assignments.c.person, *columns).group_by(assignments.c.person))
    return {row.person: OwnProgress(row.submitted, row.training, row.open, row.last) for row in rows}


def own_progress(connection: Connection, person: int) -> tuple[int, float | None]:
    """Return how many pairs of work and gold a person submitted, and the median seconds of the last 50."""
    mine = (assignments.c.person == person) & (assignments.c.state == "submitted") & (assignments.c.kind != "training")
    count = connection.execute(select(func.count()).where(mine)).scalar_one()
    last = select(assignments.c.answer).where(mine).order_by(assignments.c.submitted.desc()).limit(50)
    seconds = sorted(own for row in connection.execute(last) if (own := json.loads(row.answer)["seconds"]) is not None)
    return count, seconds[len(seconds) // 2] if seconds else None


def disagreements(found: list[Answer]) -> list[Disagreement]:
    """Return the pairs of work with different scores or both rejections and scores, the widest first."""
    by_pair: dict[str, list[Answer]] = defaultdict(list)
    adjudicated = {answer.pair for answer in found if answer.kind == "adjudication"}
    for answer in found:
        if answer.kind == "work":
            by_pair[answer.pair].append(answer)
    made = []
    for pair, given in by_pair.items():
        scores: dict[str, list[int]] = defaultdict(list)
        for answer in given:
            for name, difference in answer.differences.items():
                scores[name].append(difference.score)
        spreads = {name: max(own) - min(own) for name, own in scores.items()}
        widest = max(spreads, key=lambda name: spreads[name], default=None)
        spread = 0 if widest is None else spreads[widest]
        rejections = sum(answer.rejected is not None for answer in given)
        if spread or 0 < rejections < len(given):
            reference, candidate, done = given[0].reference, given[0].candidate, pair in adjudicated
            made.append(Disagreement(pair, reference, candidate, len(given), spread, widest, rejections, done))
    return sorted(made, key=lambda own: (own.adjudicated, -own.spread, -own.rejections, own.pair))


def people_of(connection: Connection, shown: Sequence[str]) -> dict[str, tuple[list[str], list[str]]]:
    """Return for pairs the names of the people who submitted them, and of those who work on them."""
    keys = {pair_key(pair): pair for pair in shown}
    query = select(assignments.c.pair, assignments.c.state, people.c.name).join(
        people, people.c.id == assignments.c.person
    )
    found: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for row in connection.execute(query.where(assignments.c.pair.in_(keys)).order_by(assignments.c.id)):
        if row.state in ("submitted", "open"):
            found[keys[row.pair]][row.state == "open"].append(row.name)
    return found


def suggestion(found: Sequence[Answer], categories: Sequence[str]) -> dict[str, Any]:
    """Return the form to begin a decision with: the last one, or the median score of each category and no text."""
    decided = [answer for answer in found if answer.kind == "adjudication"]
    if decided:
        own = decided[-1]
        texts = {name: own.differences[name].text for name in categories if name in own.differences}
        scores = {name: own.differences[name].score for name in categories if name in own.differences}
        return {"keystep": own.keystep, "texts": texts, "scores": scores, "rejected": own.rejected}
    scores = {}
    for name in categories:
        given = [answer.differences[name].score for answer in found if name in answer.differences]
        if given:
            scores[name] = int(median(given))
    keystep = next((answer.keystep for answer in found if answer.keystep), "")
    return {"keystep": keystep, "texts": {}, "scores": scores, "rejected": None}
