"""What was collected: answers, progress, disagreements.

Guarantees
- an answer appears once, as it was submitted last
- a disagreement is decided and the decision wins in the files: it is an answer of its own; the widest spread is first
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import Connection, case, func, select

from stepdiff.annotate.people.form import HIGHEST, Answer, Form, answer_of
from stepdiff.app.annotating.collection.events import pair_key
from stepdiff.app.annotating.collection.tables import adjudications, assignments, pairs, people

OTHER_WAY = "(Video 1 compared with Video 2) "
"""begins a text of a decision that says how the reference differs from the candidate"""


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
    """time of the last change, in seconds since 1970"""


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
    final = select(adjudications.c.answer).order_by(adjudications.c.event)
    rows = select(assignments.c.answer).where(submitted).order_by(assignments.c.done)
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
    own = assignments.alias()
    latest = select(own.c.touched).where(own.c.person == assignments.c.person).order_by(own.c.last.desc())
    submitted, training = assignments.c.state == "submitted", assignments.c.kind == "training"
    columns = (
        func.count(case((submitted & ~training, 1))).label("submitted"),
        func.count(case((submitted & training, 1))).label("training"),
        func.count(case((assignments.c.state == "open", 1))).label("open"),
        latest.limit(1).label("last"),
    )
    rows = connection.execute(select(assignments.c.person, *columns).group_by(assignments.c.person))
    return {row.person: OwnProgress(row.submitted, row.training, row.open, row.last) for row in rows}


def own_progress(connection: Connection, person: int, per_pair: int) -> tuple[int, int, float | None]:
    """Return how many pairs of work and gold a person submitted, how many are left, and median seconds of the last 50.

    Left are the open ones, and those of the work that the person has not had and that are not complete.
    """
    own = (assignments.c.person == person) & (assignments.c.kind != "training")
    mine = own & (assignments.c.state == "submitted")
    count = connection.execute(select(func.count()).where(mine)).scalar_one()
    begun = connection.execute(select(func.count()).where(own, assignments.c.state == "open")).scalar_one()
    free = pairs.c.place.is_not(None) & (pairs.c.taken < per_pair)
    had = select(func.count()).select_from(assignments).join(pairs, pairs.c.pair == assignments.c.pair)
    had = had.where(own, free, assignments.c.state != "expired")
    left = connection.execute(select(func.count()).where(free)).scalar_one() - connection.execute(had).scalar_one()
    last = select(assignments.c.answer).where(mine).order_by(assignments.c.done.desc()).limit(50)
    seconds = sorted(own for row in connection.execute(last) if (own := json.loads(row.answer)["seconds"]) is not None)
    return count, begun + left, seconds[len(seconds) // 2] if seconds else None


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


def suggestion(found: Sequence[Answer], task: Form) -> dict[str, Any]:
    """Return the form to begin a decision with, which can be confirmed as it is: the last decision, or what people say.

    That is a rejection where at least half of them reject. Else it has the median score of each category with the text
    of the nearest score, where the median is below 5. Texts say how the candidate differs from the reference, unless
    all of them were written the other way; one of several that was begins with OTHER_WAY.
    """
    decided = [answer for answer in found if answer.kind == "adjudication"]
    answers = decided[-1:] or list(found)
    accepting = [answer for answer in answers if answer.rejected is None]
    rejected = None
    if 2 * len(accepting) <= len(answers) and answers:
        known = Counter(answer.rejected for answer in answers if answer.rejected in task.reject_reasons)
        rejected = max(known, key=lambda reason: known[reason], default=task.reject_reasons[-1])
    chosen, scores = {}, {}
    for name in task.names:
        given = [answer for answer in accepting if name in answer.differences]
        if given:
            score = scores[name] = int(median(answer.differences[name].score for answer in given))
            described = [answer for answer in given if answer.differences[name].text.strip()]
            if described and (decided or score < HIGHEST):
                chosen[name] = min(described, key=lambda answer: abs(answer.differences[name].score - score))
    turned = bool(chosen) and all(answer.left == "candidate" for answer in chosen.values())
    texts = {name: answer.differences[name].text for name, answer in chosen.items()}
    if not turned:
        texts |= {name: OTHER_WAY + texts[name] for name, answer in chosen.items() if answer.left == "candidate"}
    return {
        "keystep": next((answer.keystep for answer in [*accepting, *answers] if answer.keystep), ""),
        "texts": texts,
        "scores": scores,
        "rejected": rejected,
        "left": "candidate" if turned else "reference",
    }
