"""Answers of other tools, and adjudications.

Guarantees
- imported answers keep the rules of assignment: one of a person and pair, no more of a pair than the task has people
- importing a file twice changes nothing
- an answer about a pair that is not part of the task is left out
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from annotate.people.answers import Answer, answer_of, problems
from annotate.people.task import Task
from app.annotating.collection import people
from app.annotating.collection.assigning import free_slot
from app.annotating.collection.events import pair_key, record
from app.annotating.collection.people import Person
from app.annotating.collection.tables import adjudications, assignments
from app.site import UnknownError
from common.errors import StepDiffError


def take(connection: Connection, task: Task, answers: Iterable[Answer], by: Person, now: float) -> Counter[str]:
    """Add answers; return how many were taken, and how many were left out for each reason."""
    counts: Counter[str] = Counter()
    for answer in answers:
        counts[_take(connection, task, answer, by, now)] += 1
    return counts


def _take(connection: Connection, task: Task, answer: Answer, by: Person, now: float) -> str:
    pair = task.by_id.get(answer.pair)
    if pair is None or (pair.reference, pair.candidate) != (answer.reference, answer.candidate):
        return "not a pair of the task"
    if answer.rejected is None and any(name not in task.names for name in answer.differences):
        return "another category than the task's"
    key, found = pair_key(answer.pair), asdict(answer)
    if answer.kind == "adjudication":
        known = connection.execute(select(adjudications.c.answer).where(adjudications.c.pair == key)).scalar()
        if known is not None:
            return "adjudicated already"
        record(connection, "adjudicated", now, by.id, answer=found)
        return "taken"
    try:
        name = people.checked_name(answer.annotator)
    except StepDiffError:
        return f"the annotator's name does not have 1 to {people.MOST_NAME} printable characters"
    person = people.named(connection, name)
    if person is None:
        person, _ = people.add(connection, answer.annotator, now, origin="import", by=by.id)
    mine = (assignments.c.person == person.id) & (assignments.c.pair == key)
    if connection.execute(select(assignments.c.id).where(mine)).first() is not None:
        return "answered by the same person already"
    known_scores = answer.pair in task.gold_by_id or answer.pair in task.training_by_id
    slot = None if known_scores else free_slot(connection, key, task.people)
    if slot is None and not known_scores:
        return "answered by enough people already"
    kind = "gold" if answer.pair in task.gold_by_id else "training" if known_scores else "work"
    record(connection, "imported", now, by.id, id=person.id, slot=slot, answer={**found, "kind": kind})
    return "taken"


def adjudicate(
    connection: Connection,
    task: Task,
    by: Person,
    pair: str,
    keystep: str,
    texts: dict[str, str],
    scores: dict[str, int],
    rejected: str | None,
    now: float,
) -> Answer:
    """Record the answer that decides about a pair; its texts say how the candidate differs from the reference.

    Raises:
        UnknownError: The task has no such pair.
        StepDiffError: The answer breaks a rule of the task.
    """
    known = task.by_id.get(pair)
    if known is None:
        raise UnknownError(f"the task has no pair {pair!r:.200}")
    if any("\0" in text for text in (keystep, *texts.values())):
        raise StepDiffError("a text has no NUL")
    differences: dict[str, Any] = {
        name: {"text": texts.get(name, "").strip(), "score": score} for name, score in scores.items()
    }
    answer = answer_of(
        {
            "pair": known.id,
            "reference": known.reference,
            "candidate": known.candidate,
            "annotator": by.name,
            "keystep": " ".join(keystep.split()),
            "differences": {} if rejected is not None else differences,
            "rejected": rejected,
            "left": "reference",
            "seconds": None,
            "submitted": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
            "kind": "adjudication",
        }
    )
    if found := problems(answer, task):
        raise StepDiffError(" ".join(found))
    record(connection, "adjudicated", now, by.id, answer=asdict(answer))
    return answer
