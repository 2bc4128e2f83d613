"""Answers of other tools, and adjudications.

Guarantees
- imported answers keep the rules of the form, and those of assignment: one of a person and pair, no more of a pair than
  the task has people
- importing a file twice changes nothing
- an answer about a pair that is not part of the task is left out
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict

from sqlalchemy import Connection, select

from stepdiff.annotate.people.form import Answer, answer_of
from stepdiff.annotate.people.label_studio import CORRECT, SKIPPED
from stepdiff.annotate.people.task import Task
from stepdiff.app.annotating.collection import people
from stepdiff.app.annotating.collection.assigning import free_slot
from stepdiff.app.annotating.collection.events import pair_key, record, utc
from stepdiff.app.annotating.collection.people import Person
from stepdiff.app.annotating.collection.tables import adjudications, assignments
from stepdiff.app.annotating.messages import Adjudication
from stepdiff.app.site import UnknownError
from stepdiff.common.errors import StepDiffError


class FaultsError(StepDiffError):
    """An answer that breaks rules of the form."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        """Give the fields and the sentences about them."""
        super().__init__(" ".join(sentence for _, sentence in faults))
        self.fields = dict(faults)


def take(
    connection: Connection,
    task: Task,
    answers: Iterable[tuple[str, Answer]],
    by: Person,
    now: float,
    refused: Callable[[str], None],
) -> Counter[str]:
    """Add answers; return how many were taken, and how many were left out for each reason.

    Args:
        connection: One that writes.
        task: Has the rules of the form.
        answers: Each with its place in the file.
        by: Who imports them.
        now: Seconds since 1970.
        refused: Receives one line for each answer that breaks a rule of the form.
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


def _take(connection: Connection, task: Task, answer: Answer, by: Person, now: float) -> str:
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
    kind = "gold" if answer.pair in task.gold.by_id else "training" if answer.pair in task.training.by_id else "work"
    slot = free_slot(connection, key, task.people) if kind == "work" else None
    if slot is None and kind == "work":
        return "answered by enough people already"
    record(connection, "imported", now, by.id, id=person.id, slot=slot, answer={**found, "kind": kind})
    return "taken"


def adjudicate(connection: Connection, task: Task, by: Person, decision: Adjudication, now: float) -> Answer:
    """Record the answer that decides about a pair; its texts say how the other clip differs from the `left` one.

    Raises:
        UnknownError: The task has no such pair.
        FaultsError: The answer breaks rules of the task.
    """
    pair = task.by_id.get(decision.pair)
    if pair is None:
        raise UnknownError(f"the task has no pair {decision.pair!r:.200}")
    about = {
        "pair": pair.id,
        "reference": pair.reference,
        "candidate": pair.candidate,
        "annotator": by.name,
        "left": decision.left,
        "submitted": utc(now),
        "kind": "adjudication",
    }
    texts = {name: decision.texts.get(name, "") for name in decision.scores}
    answer = answer_of(about | task.filled(decision.keystep, texts, decision.scores, decision.rejected))
    if faults := list(task.faults(answer)):
        raise FaultsError(faults)
    record(connection, "adjudicated", now, by.id, answer=asdict(answer))
    return answer
