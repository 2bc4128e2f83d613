"""Collected answers: progress, disagreements and their decisions, and answers of other tools.

Guarantees
- an answer appears once, as it was submitted last; answers of excluded people do not appear and are
  counted
- imported answers keep the rules of the form and of assignment; importing a file twice changes
  nothing
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from statistics import median, median_high
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import ColumnElement, Connection, case, func, select

from stepdiff.annotate.forms.form import (
    CATEGORIES,
    HIGHEST,
    ID,
    AnnotationTask,
    Answer,
    Form,
    Side,
    answer_of,
)
from stepdiff.annotate.forms.label_studio import CORRECT, SKIPPED
from stepdiff.app.annotating.accounts import MOST_NAME, Person, checked_name, named
from stepdiff.app.annotating.accounts import add as add_person
from stepdiff.app.annotating.events import (
    adjudications,
    assignments,
    pair_key,
    pairs,
    people,
    record,
)
from stepdiff.app.annotating.work import Category, Number, Reason, Score, Text, free_slot, head_of
from stepdiff.app.site import NO_NUL, RefusedError, Sent, UnknownError
from stepdiff_core.errors import StepDiffError

OTHER_WAY = "(Video 1 compared with Video 2) "
"""begins a text of a decision that says how the reference differs from the candidate"""


class Adjudication(Sent):
    """The answer that decides about a pair."""

    pair: Annotated[str, Field(max_length=ID, pattern=NO_NUL)]
    keystep: Text
    texts: dict[Category, Text] = Field(max_length=CATEGORIES)
    scores: dict[Category, Score] = Field(max_length=CATEGORIES)
    rejected: Reason | None = None
    left: Side = "reference"  # the clip that the texts compare the other one with


class Import(Sent):
    """Tasks of a Label Studio export."""

    tasks: Annotated[list[object], Field(max_length=10_000)]
    first: Number = 1  # place of the first of these tasks in the file, from 1


def collected(connection: Connection) -> Iterator[Answer]:
    """Yield the submitted answers that count in the order of submission, and then the
    adjudications."""
    yield from _submitted(connection, people.c.excluded.is_(None))
    final = select(adjudications.c.answer).order_by(adjudications.c.event)
    for text in connection.execute(final).scalars():
        yield answer_of(json.loads(text))


def excluded(connection: Connection) -> list[Answer]:
    """Return the submitted answers of excluded people."""
    return list(_submitted(connection, people.c.excluded.is_not(None)))


def _submitted(connection: Connection, whose: ColumnElement[bool]) -> Iterator[Answer]:
    """Yield the submitted answers of some people, in the order of submission."""
    rows = select(assignments.c.answer).join(people, people.c.id == assignments.c.person)
    rows = rows.where(whose, assignments.c.state == "submitted").order_by(assignments.c.done)
    for text in connection.execute(rows).scalars():
        yield answer_of(json.loads(text))


def totals(connection: Connection, per_pair: int) -> dict[str, int]:
    """Return the progress of all work by the names of the admin page. per_pair: people who annotate
    each pair."""
    listed = pairs.c.place.is_not(None)
    complete = func.count(case((pairs.c.taken >= per_pair, 1)))
    row = connection.execute(
        select(func.count().label("all"), complete.label("complete")).where(listed)
    ).one()
    work = (assignments.c.kind == "work") & people.c.excluded.is_(None)
    counts = select(assignments.c.state, func.count().label("number")).group_by(assignments.c.state)
    counts = counts.join(people, people.c.id == assignments.c.person).where(work)
    states = {row.state: row.number for row in connection.execute(counts)}
    return {
        "pairs": row.all,
        "complete": row.complete,  # as many people as asked submitted or work on them
        "wanted": row.all * per_pair,  # answers
        "submitted": states.get("submitted", 0),
        "open": states.get("open", 0),
        "adjudicated": connection.execute(
            select(func.count()).select_from(adjudications)
        ).scalar_one(),
    }


def progress(connection: Connection) -> dict[int, dict[str, int]]:
    """Return by person how many assignments are submitted, training or open."""
    submitted, training = assignments.c.state == "submitted", assignments.c.kind == "training"
    columns = {
        "submitted": func.count(case((submitted & ~training, 1))),
        "training": func.count(case((submitted & training, 1))),
        "open": func.count(case((assignments.c.state == "open", 1))),
    }
    rows = connection.execute(
        select(assignments.c.person, *columns.values()).group_by(assignments.c.person)
    )
    return {person: dict(zip(columns, counts, strict=True)) for person, *counts in rows}


def own_progress(
    connection: Connection, person: int, per_pair: int
) -> tuple[int, int, float | None]:
    """Return how many pairs of work and gold a person submitted, the person's share, and median
    seconds of the last 50.

    The share is what the person submitted, and an equal part of the work that is left among all who
    may annotate: at least the open pairs, and at most all pairs that the person may still get.
    """
    mine = (assignments.c.person == person) & (assignments.c.kind != "training")
    submitted = mine & (assignments.c.state == "submitted")
    count = connection.execute(select(func.count()).where(submitted)).scalar_one()
    begun = connection.execute(
        select(func.count()).where(mine, assignments.c.state == "open")
    ).scalar_one()
    free = pairs.c.place.is_not(None) & (pairs.c.taken < per_pair)
    slots = connection.execute(
        select(func.coalesce(func.sum(per_pair - pairs.c.taken), 0)).where(free)
    ).scalar_one()
    may_annotate = (
        (people.c.role == "annotator") & people.c.token.is_not(None) & people.c.excluded.is_(None)
    )
    active = connection.execute(select(func.count()).where(may_annotate)).scalar_one()
    had = (
        select(func.count())
        .select_from(assignments)
        .join(pairs, pairs.c.pair == assignments.c.pair)
    )
    had = had.where(mine, free, assignments.c.state != "expired")
    unseen = (
        connection.execute(select(func.count()).where(free)).scalar_one()
        - connection.execute(had).scalar_one()
    )
    last = (
        select(assignments.c.answer).where(submitted).order_by(assignments.c.done.desc()).limit(50)
    )
    times = [json.loads(answer)["seconds"] for answer in connection.execute(last).scalars()]
    seconds = [time for time in times if time is not None]
    share = min(begun + unseen, max(begun, -(-(begun + int(slots)) // max(active, 1))))
    return count, count + share, median_high(seconds) if seconds else None


def disagreements(collected: list[Answer]) -> list[dict[str, Any]]:
    """Return the pairs of work with different scores or both rejections and scores, the widest
    first.

    spread: the largest distance of two scores in a category; widest: the category that has it.
    """
    by_pair: dict[str, list[Answer]] = defaultdict(list)
    adjudicated = {answer.pair for answer in collected if answer.kind == "adjudication"}
    for answer in collected:
        if answer.kind == "work":
            by_pair[answer.pair].append(answer)
    rows = []
    for pair, of_pair in by_pair.items():
        scores: dict[str, list[int]] = defaultdict(list)
        for answer in of_pair:
            for name, difference in answer.differences.items():
                scores[name].append(difference.score)
        spreads = {name: max(each) - min(each) for name, each in scores.items()}
        widest = max(spreads, key=lambda name: spreads[name], default=None)
        spread = 0 if widest is None else spreads[widest]
        rejections = sum(answer.rejected is not None for answer in of_pair)
        if spread or 0 < rejections < len(of_pair):
            row: dict[str, Any] = {
                "pair": pair,
                "reference": of_pair[0].reference,
                "candidate": of_pair[0].candidate,
            }
            row |= {
                "people": len(of_pair),
                "spread": spread,
                "widest": widest,
                "rejections": rejections,
            }
            rows.append(row | {"adjudicated": pair in adjudicated})
    return sorted(
        rows, key=lambda row: (row["adjudicated"], -row["spread"], -row["rejections"], row["pair"])
    )


def people_of(
    connection: Connection, shown: Sequence[str]
) -> dict[str, tuple[list[str], list[str]]]:
    """Return for pairs the names of the people who submitted them and count, and of those who work
    on them."""
    keys = {pair_key(pair): pair for pair in shown}
    query = select(assignments.c.pair, assignments.c.state, people.c.name)
    query = query.join(people, people.c.id == assignments.c.person).where(
        assignments.c.pair.in_(keys)
    )
    query = query.where(people.c.excluded.is_(None))
    names: dict[str, tuple[list[str], list[str]]] = {pair: ([], []) for pair in shown}
    for row in connection.execute(query.order_by(assignments.c.id)):
        if row.state in ("submitted", "open"):
            names[keys[row.pair]][row.state == "open"].append(row.name)
    return names


def suggestion(collected: Sequence[Answer], task: Form) -> dict[str, Any]:
    """Return the form to begin a decision with, which can be confirmed as it is: the last decision,
    or a summary.

    The summary is a rejection if at least half of the people reject. Else it has the median score
    of each category with the text of the nearest score, if the median is below 5. Texts say how the
    candidate differs from the reference, unless all of them were written the other way; one of
    several that was begins with OTHER_WAY.
    """
    decided = [answer for answer in collected if answer.kind == "adjudication"]
    answers = decided[-1:] or list(collected)
    accepting = [answer for answer in answers if answer.rejected is None]
    rejected = None
    if 2 * len(accepting) <= len(answers) and answers:
        reasons = Counter(
            answer.rejected for answer in answers if answer.rejected in task.reject_reasons
        )
        rejected = max(reasons, key=lambda reason: reasons[reason], default=task.reject_reasons[-1])
    chosen, scores = {}, {}
    for name in task.names:
        judging = [answer for answer in accepting if name in answer.differences]
        if judging:
            score = scores[name] = int(median(answer.differences[name].score for answer in judging))
            described = [answer for answer in judging if answer.differences[name].text.strip()]
            if described and (decided or score < HIGHEST):
                chosen[name] = min(
                    described, key=lambda answer: abs(answer.differences[name].score - score)
                )
    turned = bool(chosen) and all(answer.left == "candidate" for answer in chosen.values())
    texts = {name: answer.differences[name].text for name, answer in chosen.items()}
    if not turned:
        texts |= {
            name: OTHER_WAY + texts[name]
            for name, answer in chosen.items()
            if answer.left == "candidate"
        }
    return {
        "keystep": next(
            (answer.keystep for answer in [*accepting, *answers] if answer.keystep), ""
        ),
        "texts": texts,
        "scores": scores,
        "rejected": rejected,
        "left": "candidate" if turned else "reference",
    }


def take(
    connection: Connection,
    task: AnnotationTask,
    answers: Iterable[tuple[str, Answer]],
    by: Person,
    now: float,
    refused: Callable[[str], None],
) -> Counter[str]:
    """Add answers, each with its place in the file; return how many were taken, and left out for
    each reason.

    refused: receives one line for each answer that breaks a rule of the form.
    """
    counts: Counter[str] = Counter()
    for place, answer in answers:
        if not task.knows(answer):
            counts["not a pair of the task"] += 1
        elif answer.rejected != SKIPPED and (broken := task.problems(answer)):
            refused(f"{place}: {' '.join(broken)} {CORRECT}")
        else:
            counts[_take(connection, task, answer, by, now)] += 1
    return counts


def _take(
    connection: Connection, task: AnnotationTask, answer: Answer, by: Person, now: float
) -> str:
    key, values = pair_key(answer.pair), asdict(answer)
    if answer.kind == "adjudication":
        decided = connection.execute(
            select(adjudications.c.answer).where(adjudications.c.pair == key)
        ).scalar()
        if decided is not None:
            return "adjudicated already"
        record(connection, "adjudicated", now, by.id, answer=values)
        return "taken"
    try:
        name = checked_name(answer.annotator)
    except StepDiffError:
        return f"the annotator's name does not have 1 to {MOST_NAME} printable characters"
    person = named(connection, name)
    if person is None:
        person, _ = add_person(connection, answer.annotator, now, origin="import", by=by.id)
    mine = (assignments.c.person == person.id) & (assignments.c.pair == key)
    if connection.execute(select(assignments.c.id).where(mine)).first() is not None:
        return "answered by the same person already"
    kind = (
        "gold"
        if answer.pair in task.gold.by_id
        else "training"
        if answer.pair in task.training.by_id
        else "work"
    )
    takes_slot = kind == "work" and person.excluded is None
    slot = free_slot(connection, key, task.people) if takes_slot else None
    if slot is None and takes_slot:
        return "answered by enough people already"
    record(
        connection, "imported", now, by.id, id=person.id, slot=slot, answer={**values, "kind": kind}
    )
    return "taken"


def adjudicate(
    connection: Connection, task: AnnotationTask, by: Person, decision: Adjudication, now: float
) -> Answer:
    """Record the answer that decides about a pair; its texts say how the other clip differs from
    the `left` one.

    UnknownError: the task has no such pair; RefusedError: the answer breaks rules of the task.
    """
    pair = task.by_id.get(decision.pair)
    if pair is None:
        raise UnknownError(f"the task has no pair {decision.pair!r:.200}")
    about = head_of(pair, by.name, decision.left, "adjudication", now)
    texts = {name: decision.texts.get(name, "") for name in decision.scores}
    answer = answer_of(
        about | task.filled(decision.keystep, texts, decision.scores, decision.rejected)
    )
    if faults := list(task.faults(answer)):
        raise RefusedError(" ".join(sentence for _, sentence in faults), 400, fields=dict(faults))
    record(connection, "adjudicated", now, by.id, answer=asdict(answer))
    return answer
