"""What a person does with an assignment: save changes, submit, reject, undo.

Guarantees
- a save or submission that is sent again changes nothing, and nobody changes another person's assignment
- gold with a text gives feedback and is final
- a person writes at most the task's person_mib into the database
"""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, select

from stepdiff.annotate.people.form import Answer, answer_of
from stepdiff.annotate.people.task import Task
from stepdiff.app.annotating.collection.assigning import Assigner, Assignment
from stepdiff.app.annotating.collection.events import merged, record, utc
from stepdiff.app.annotating.collection.people import Person
from stepdiff.app.annotating.collection.tables import assignments, people
from stepdiff.app.annotating.messages import Feedback, Judged, Save, Submission, SubmissionResult
from stepdiff.app.site import RefusedError
from stepdiff.common.errors import StepDiffError


class StaleError(RefusedError):
    """A save with a number that is not new."""

    def __init__(self, number: int) -> None:
        """Give the number of the last save."""
        super().__init__(f"save {number} is there already: send a higher number", 409)
        self.number = number


def save(connection: Connection, assigner: Assigner, person: Person, identity: int, sent: Save, now: float) -> None:
    """Save changes of a form.

    Args:
        connection: One that writes.
        assigner: Of the task.
        person: Who sends them.
        identity: Of the assignment.
        sent: With a number that is higher than that of every earlier save of the assignment.
        now: Seconds since 1970.

    Raises:
        StaleError: The number is not higher.
        RefusedError: The assignment is submitted, others have finished its pair, or the person has written too much.
        UnknownError: The person has no such assignment.
    """
    _open(connection, assigner, person, identity, sent.number, now)
    _refuse_over_quota(connection, assigner.task, person)
    changes = _checked(sent.changes.fields(), assigner.task)
    record(connection, "saved", now, person.id, identity, number=sent.number, changes=changes)


def submit(
    connection: Connection, assigner: Assigner, person: Person, identity: int, sent: Submission, now: float
) -> SubmissionResult:
    """Submit an assignment with its last changes, or reject its pair with a reason; arguments and errors as `save`."""
    task, number = assigner.task, sent.number
    before = assigner.get(connection, person, identity)
    if before.state == "submitted" and number == before.number:  # the response to it was lost
        return SubmissionResult(done=True, number=number, feedback=feedback(task, before, answer_of(before.answer)))
    own = _open(connection, assigner, person, identity, number, now)
    changes = _checked(sent.changes.fields(), task)
    answer = _made(task, own, person, merged(own.form, changes), sent.rejected, sent.seconds, now)
    if problems := task.problems(answer):
        return SubmissionResult(done=False, number=number, problems=problems)
    _refuse_over_quota(connection, task, person)
    record(connection, "submitted", now, person.id, identity, number=number, changes=changes, answer=asdict(answer))
    return SubmissionResult(done=True, number=number, feedback=feedback(task, own, answer))


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
    if feedback(assigner.task, own, answer_of(own.answer)) is not None:
        raise RefusedError("the last pair had feedback: its answer is final", 409)
    _refuse_over_quota(connection, assigner.task, person)
    record(connection, "undone", now, person.id, identity)
    return identity


def feedback(task: Task, own: Assignment, answer: Answer) -> Feedback | None:
    """Return what a person learns after a pair: always of training, and of gold where the task has a text for it."""
    check = task.training if own.pair.id in task.training.by_id else task.gold
    known = check.by_id.get(own.pair.id)
    if known is None or (check is task.gold and not known.feedback):
        return None
    judged = []
    for category in task.categories:
        if category.name in known.scores:
            right, difference = known.scores[category.name], answer.differences.get(category.name)
            yours = None if difference is None else difference.score
            agrees = yours is not None and check.agrees(right, yours)
            judged.append(Judged(category.name, category.title, yours, right, agrees))
    return Feedback(judged, known.feedback)


def _open(
    connection: Connection, assigner: Assigner, person: Person, identity: int, number: int, now: float
) -> Assignment:
    """Return an assignment that may be changed by a save of a number."""
    row = assigner.row(connection, person, identity)
    if row.state == "submitted":
        raise RefusedError("this pair is submitted already: undo that first", 409)
    if row.state != "open" and not assigner.resume(connection, person, row, now):
        minutes = assigner.task.timeout_minutes
        raise RefusedError(f"nothing changed here for {minutes:g} minutes, and others have finished this pair", 410)
    if number <= row.number:
        raise StaleError(row.number)
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
    """Return changes that name categories of the task only."""
    for part in ("texts", "scores"):
        if unknown := [name for name in changes.get(part, {}) if name not in task.names]:
            raise StepDiffError(f"{unknown[0]!r:.80} is not a category of the task: reload the page")
    return changes


def _made(
    task: Task, own: Assignment, person: Person, form: dict[str, Any], rejected: str | None, seconds: float, now: float
) -> Answer:
    """Return the answer of a form."""
    about = {
        "pair": own.pair.id,
        "reference": own.pair.reference,
        "candidate": own.pair.candidate,
        "annotator": person.name,
        "left": own.left,
        "seconds": round(min(seconds, now - own.opened) if now > own.opened else seconds, 1),  # the clock may move back
        "submitted": utc(now),
        "kind": own.kind,
    }
    here = {part: {name: form[part][name] for name in task.names if name in form[part]} for part in ("texts", "scores")}
    return answer_of(about | task.filled(form["keystep"], here["texts"], here["scores"], rejected))
