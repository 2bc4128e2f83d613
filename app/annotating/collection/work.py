"""What a person does with an assignment: save changes, submit, reject, undo.

Guarantees
- a save or submission that is sent again changes nothing
- a text that was left empty means score 5, and a lower score needs a text; a category that nobody touched has no score:
  each rule that an answer breaks is a sentence
- nobody changes another person's assignment
- gold with a text gives feedback and is final
- a person writes at most the task's person_mib into the database
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from annotate.people.answers import FORM_TEXT, Answer, answer_of, fits, problems
from annotate.people.task import HIGHEST, Check, Known, Task
from app.annotating.collection.assigning import Assigner, Assignment
from app.annotating.collection.events import merged, record
from app.annotating.collection.people import Person
from app.annotating.collection.tables import assignments, people
from app.site import RefusedError
from common.errors import StepDiffError


@dataclass(frozen=True)
class Judged:
    """A score of a pair with known scores."""

    category: str
    title: str
    yours: int | None
    """null: the pair was rejected"""
    known: int
    agrees: bool
    """within the task's tolerance"""


@dataclass(frozen=True)
class Feedback:
    """What a person learns after a pair with known scores."""

    scores: list[Judged]
    text: str


@dataclass(frozen=True)
class Submitted:
    """The result of a submission: problems, or what to show before the next pair."""

    problems: list[str]
    feedback: Feedback | None = None


class StaleError(RefusedError):
    """A save with a number that is not new."""

    def __init__(self, number: int) -> None:
        """Give the number of the last save."""
        super().__init__(f"save {number} is there already: send a higher number", 409)
        self.number = number


def save(
    connection: Connection,
    assigner: Assigner,
    person: Person,
    identity: int,
    number: int,
    changes: dict[str, Any],
    now: float,
) -> int:
    """Save changes of a form and return the number of the save.

    Args:
        connection: One that writes.
        assigner: Of the task.
        person: Who sends them.
        identity: Of the assignment.
        number: Higher than that of every earlier save of the assignment.
        changes: `keystep`, and by category `texts` and `scores`.
        now: Seconds since 1970.

    Raises:
        StaleError: The number is not higher.
        RefusedError: The assignment is submitted, others have finished its pair, or the person has written too much.
        UnknownError: The person has no such assignment.
    """
    own = _open(connection, assigner, person, identity, now)
    if number <= own.number:
        raise StaleError(own.number)
    _refuse_over_quota(connection, assigner.task, person)
    record(connection, "saved", now, person.id, identity, number=number, changes=_checked(changes, assigner.task))
    return number


def submit(
    connection: Connection,
    assigner: Assigner,
    person: Person,
    identity: int,
    number: int,
    changes: dict[str, Any],
    rejected: str | None,
    seconds: float,
    now: float,
) -> Submitted:
    """Submit an assignment with its last changes, or reject its pair with a reason; arguments and errors as `save`."""
    before = assigner.get(connection, person, identity)
    if before.state == "submitted":
        if number == before.number:  # the response to it was lost
            return Submitted([], feedback(assigner.task, before, _answer(before)))
        raise RefusedError("this pair is submitted already: undo that first", 409)
    own = _open(connection, assigner, person, identity, now)
    if number <= own.number:
        raise StaleError(own.number)
    changes = _checked(changes, assigner.task)
    answer = _made(assigner.task, own, person, merged(own.form, changes), rejected, seconds, now)
    found = problems(answer, assigner.task)
    if found:
        return Submitted(found)
    _refuse_over_quota(connection, assigner.task, person)
    record(connection, "submitted", now, person.id, identity, number=number, changes=changes, answer=asdict(answer))
    return Submitted([], feedback(assigner.task, own, answer))


def undo(connection: Connection, assigner: Assigner, person: Person, now: float) -> int:
    """Open the last submitted assignment of a person again and return its id.

    Raises:
        RefusedError: There is none, its feedback was shown, or the person has written too much.
    """
    mine = (assignments.c.person == person.id) & (assignments.c.state == "submitted")
    latest = select(assignments.c.id).where(mine).order_by(assignments.c.done.desc())
    identity = connection.execute(latest.limit(1)).scalar()
    if identity is None:
        raise RefusedError("there is no submission to undo", 409)
    own = assigner.get(connection, person, identity)
    if feedback(assigner.task, own, _answer(own)) is not None:
        raise RefusedError("the last pair had feedback: its answer is final", 409)
    _refuse_over_quota(connection, assigner.task, person)
    record(connection, "undone", now, person.id, identity)
    return identity


def feedback(task: Task, own: Assignment, answer: Answer) -> Feedback | None:
    """Return what a person learns after a pair: always of training, and of gold where the task has a text for it."""
    known = task.training_by_id.get(own.pair.id)
    gold = task.gold_by_id.get(own.pair.id)
    if known is not None:
        return _feedback(task, known, answer, task.training)
    return None if gold is None or not gold.feedback else _feedback(task, gold, answer, task.gold)


def _feedback(task: Task, known: Known, answer: Answer, check: Check) -> Feedback:
    judged = []
    for category in task.categories:
        if category.name in known.scores:
            right, own = known.scores[category.name], answer.differences.get(category.name)
            yours = None if own is None else own.score
            agrees = yours is not None and check.agrees(right, yours)
            judged.append(Judged(category.name, category.title, yours, right, agrees))
    return Feedback(judged, known.feedback)


def _open(connection: Connection, assigner: Assigner, person: Person, identity: int, now: float) -> Assignment:
    """Return an assignment that may be changed."""
    row = assigner.row(connection, person, identity)
    if row.state == "submitted":
        raise RefusedError("this pair is submitted already: undo that first", 409)
    if row.state == "open":
        return assigner.assignment(row)
    if not assigner.resume(connection, person, row, now):
        minutes = assigner.task.timeout_minutes
        raise RefusedError(f"nothing changed here for {minutes:g} minutes, and others have finished this pair", 410)
    return assigner.get(connection, person, identity)


def _refuse_over_quota(connection: Connection, task: Task, person: Person) -> None:
    """Raise RefusedError where the events of a person have as many bytes as the task allows."""
    written = connection.execute(select(people.c.written).where(people.c.id == person.id)).scalar_one()
    if written >= task.person_mib * 2**20:
        raise RefusedError(
            f"your changes have {task.person_mib:g} MiB, the most of a person in this task: "
            "ask the person who collects to raise person_mib",
            413,
        )


def _checked(changes: dict[str, Any], task: Task) -> dict[str, Any]:
    """Return changes that name categories of the task only and have texts that every database takes."""
    for part in ("texts", "scores"):
        if unknown := [name for name in changes.get(part, {}) if name not in task.names]:
            raise StepDiffError(f"{unknown[0]!r:.80} is not a category of the task: reload the page")
    for text in (changes.get("keystep", ""), *changes.get("texts", {}).values()):
        if not fits(text):
            raise StepDiffError(f"a text has at most {FORM_TEXT:,} characters, and no NUL")
    return changes


def _made(
    task: Task, own: Assignment, person: Person, form: dict[str, Any], rejected: str | None, seconds: float, now: float
) -> Answer:
    """Return the answer of a form.

    A text that was left empty means score 5. A category with neither text nor score, or with words and no score, has no
    score that somebody chose: it is left out.
    """
    differences = {}
    for name in task.names:
        text, score = form["texts"].get(name), form["scores"].get(name)
        if score is None and text is not None and not text.strip():
            score = HIGHEST
        if score is not None:
            differences[name] = {"text": (text or "").strip(), "score": score}
    submitted = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
    found = {
        "pair": own.pair.id,
        "reference": own.pair.reference,
        "candidate": own.pair.candidate,
        "annotator": person.name,
        "keystep": " ".join(form["keystep"].split()),
        "differences": differences if rejected is None else {},
        "rejected": rejected,
        "left": own.left,
        "seconds": round(min(seconds, now - own.opened) if now > own.opened else seconds, 1),  # the clock may move back
        "submitted": submitted,
        "kind": own.kind,
    }
    return answer_of(found)


def _answer(own: Assignment) -> Answer:
    return answer_of(own.answer)
