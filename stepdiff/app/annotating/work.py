"""The assignment of pairs to people, and its changes: save, submit, reject, undo.

Training pairs come first, then work; gold pairs are mixed into work. A pair of work has as many
slots as people annotate it. An assignment takes one from the time it is opened until it expires:
nothing was changed in it for the task's time limit, and somebody asks for a pair. Its person may
resume it while a slot is free.

Guarantees
- nobody has two assignments of a pair, and nobody gets a pair that has as many open or submitted
  ones as the task has people
- an excluded person gets and changes nothing, and their assignments do not count
- a pair that nobody changed for the time limit returns to the pool; a submission that was undone
  and left alone is restored
- a save or submission that is sent again changes nothing
"""

import json
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Connection, exists, func, select

from stepdiff.annotate.forms.form import (
    CATEGORIES,
    FORM_TEXT,
    HIGHEST,
    ID,
    LOWEST,
    AnnotationTask,
    Answer,
    Pair,
    answer_of,
)
from stepdiff.app.annotating.accounts import Person
from stepdiff.app.annotating.events import assignments, merged, pair_key, pairs, people, record, utc
from stepdiff.app.pages import markdown
from stepdiff.app.site import NO_NUL, RefusedError, Sent, UnknownError
from stepdiff_core.errors import StepDiffError

_EXPIRED_AT_ONCE = 1000
Text = Annotated[str, Field(max_length=FORM_TEXT, pattern=NO_NUL)]
Category = Annotated[str, Field(max_length=ID, pattern=NO_NUL)]
Reason = Annotated[str, Field(max_length=200, pattern=NO_NUL)]
Score = Annotated[int, Field(ge=LOWEST, le=HIGHEST)]
Number = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Changes(Sent):
    """Fields of the form that changed. A score of null: none is chosen."""

    keystep: Text | None = None
    texts: dict[Category, Text] = Field(default={}, max_length=CATEGORIES)
    scores: dict[Category, Score | None] = Field(default={}, max_length=CATEGORIES)

    def fields(self) -> dict[str, Any]:
        return self.model_dump(
            exclude_unset=True, exclude={"keystep"} if self.keystep is None else None
        )


class Save(Sent):
    """Changes of an assignment."""

    number: Number  # higher than that of the last save
    changes: Changes


class Submission(Save):
    """The last changes, and the end of an assignment."""

    rejected: Reason | None = None  # reason; null: the pair is accepted
    seconds: Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]


@dataclass(frozen=True)
class Assignment:
    """A pair that a person has."""

    id: int
    pair: Pair
    kind: str  # work, gold or training
    left: str  # reference or candidate
    state: str  # open, submitted or expired
    opened: float
    number: int
    form: dict[str, Any]
    answer: dict[str, Any] | None

    @property
    def shown(self) -> tuple[str, str]:
        """The left and the right clip."""
        both = (self.pair.reference, self.pair.candidate)
        return both if self.left == "reference" else both[::-1]


class Assigner:
    """Assigns the pairs of one task. Its methods take a connection that writes, and the time."""

    def __init__(self, task: AnnotationTask, seed: str) -> None:
        """Use the seed of the database."""
        self.task, self._seed = task, seed
        self._pairs = {pair_key(identity): pair for identity, pair in task.by_id.items()}
        self._training = [pair_key(row.id) for row in task.training.rows]
        self._gold = [pair_key(row.id) for row in task.gold.rows]
        self._limit = task.timeout_minutes * 60

    def next(self, connection: Connection, person: Person, now: float) -> Assignment | None:
        """Return the pair of a person: the last one, or a new one; None: nothing is left.
        RefusedError: is excluded."""
        _refuse_excluded(connection, person)
        self._expire(connection, person, now)
        mine = assignments.c.person == person.id
        latest = assignments.c.last.desc()
        for row in connection.execute(
            select(assignments).where(mine, assignments.c.state == "open").order_by(latest)
        ):
            if row.pair in self._pairs:
                if now - row.touched > self._limit / 2:
                    record(connection, "seen", now, person.id, row.id)
                return self._assignment(row)
        expired = select(assignments).where(mine, assignments.c.state == "expired").order_by(latest)
        for row in connection.execute(expired).all():
            if row.pair in self._pairs:
                assignment = self._assignment(row)
                if self.resume(connection, person, assignment, now):
                    return replace(assignment, state="open")
        return self._new(connection, person, now)

    def get(self, connection: Connection, person: Person, identity: int) -> Assignment:
        """Return an assignment of a person. UnknownError: it does not exist, is another person's,
        or left the task."""
        mine = (assignments.c.id == identity) & (assignments.c.person == person.id)
        row = connection.execute(select(assignments).where(mine)).one_or_none()
        if row is None or row.pair not in self._pairs:
            raise UnknownError(f"you have no assignment {identity}")
        return self._assignment(row)

    def _assignment(self, row: Any) -> Assignment:
        values = {
            name: getattr(row, name) for name in ("id", "kind", "left", "state", "opened", "number")
        }
        answer = None if row.answer is None else json.loads(row.answer)
        return Assignment(
            pair=self._pairs[row.pair], form=json.loads(row.form), answer=answer, **values
        )

    def resume(
        self, connection: Connection, person: Person, assignment: Assignment, now: float
    ) -> bool:
        """Open an expired assignment again if its pair has a free slot; return whether it has."""
        slot = None
        if assignment.kind == "work":
            slot = free_slot(connection, pair_key(assignment.pair.id), self.task.people)
            if slot is None:
                return False
        record(connection, "resumed", now, person.id, assignment.id, slot=slot)
        return True

    def _expire(self, connection: Connection, person: Person, now: float) -> None:
        """Expire open work of others that is too old; a person keeps open work until somebody else
        asks."""
        old = (assignments.c.state == "open") & (assignments.c.touched < now - self._limit)
        counts = assignments.c.slot.is_not(None) | assignments.c.answer.is_not(None)
        rows = select(assignments).where(old, counts, assignments.c.person != person.id)
        rows = rows.order_by(assignments.c.last).limit(_EXPIRED_AT_ONCE)
        for row in connection.execute(rows).all():
            record(connection, "expired" if row.answer is None else "restored", now, None, row.id)

    def ahead(self, connection: Connection, person: Person) -> Pair | None:
        """Return the pair that a person would get next, if nothing else happens."""
        choice = self._choice(connection, person)
        return None if choice is None else self._pairs[choice[0]]

    def _new(self, connection: Connection, person: Person, now: float) -> Assignment | None:
        choice = self._choice(connection, person)
        if choice is None:
            return None
        key, kind = choice
        pair = self._pairs[key]
        slot = free_slot(connection, key, self.task.people) if kind == "work" else None
        left = "reference" if self._drawn("left", person.name, pair.id) < 0.5 else "candidate"
        event = record(
            connection,
            "opened",
            now,
            person.id,
            None,
            pair=pair.id,
            kind=kind,
            left=left,
            slot=slot,
        )
        return self.get(connection, person, event.seq)

    def _choice(self, connection: Connection, person: Person) -> tuple[str, str] | None:
        """Return key and kind of the next new pair of a person."""
        checks = select(assignments.c.pair).where(
            assignments.c.person == person.id, assignments.c.kind != "work"
        )
        seen = set(connection.execute(checks).scalars())
        for key in self._training:
            if key not in seen:
                return key, "training"
        work = self._work(connection, person)
        gold = [key for key in self._gold if key not in seen]
        others = select(func.count()).where(
            assignments.c.person == person.id, assignments.c.kind != "training"
        )
        done = connection.execute(others).scalar_one()
        if (
            work is not None
            and gold
            and self._drawn("gold", person.name, str(done)) < self.task.gold_rate
        ):
            return gold[int(self._drawn("which gold", person.name, str(done)) * len(gold))], "gold"
        return None if work is None else (work, "work")

    def _work(self, connection: Connection, person: Person) -> str | None:
        """Return the pair that is nearest to complete, and first in the task, and that the person
        has not seen."""
        seen = exists().where(assignments.c.person == person.id, assignments.c.pair == pairs.c.pair)
        open_pairs = select(pairs.c.pair).where(
            pairs.c.place.is_not(None), pairs.c.taken < self.task.people, ~seen
        )
        return connection.execute(
            open_pairs.order_by(pairs.c.taken.desc(), pairs.c.place).limit(1)
        ).scalar()

    def _drawn(self, *what: str) -> float:
        """Return a number from 0 to 1 that the seed and the words decide."""
        digest = blake2b("\n".join((self._seed, *what)).encode(), digest_size=7).digest()
        return int.from_bytes(digest) / 2**56


def free_slot(connection: Connection, key: str, people: int) -> int | None:
    """Return the first slot of a pair that is not in use, None if all are."""
    slots = select(assignments.c.slot).where(
        assignments.c.pair == key, assignments.c.slot.is_not(None)
    )
    used = set(connection.execute(slots).scalars())
    return None if len(used) >= people else min(set(range(1, people + 1)) - used)


def save(
    connection: Connection,
    assigner: Assigner,
    person: Person,
    identity: int,
    sent: Save,
    now: float,
) -> None:
    """Save changes of the form of an assignment.

    Raises:
        RefusedError: The number is not higher, the assignment is submitted, others have finished
            its pair, or the person is excluded or has written too much.
        UnknownError: The person has no such assignment.
    """
    _open(connection, assigner, person, identity, sent.number, now)
    _refuse_over_quota(connection, assigner.task, person)
    changes = _checked(sent.changes.fields(), assigner.task)
    record(connection, "saved", now, person.id, identity, number=sent.number, changes=changes)


def submit(
    connection: Connection,
    assigner: Assigner,
    person: Person,
    identity: int,
    sent: Submission,
    now: float,
) -> dict[str, Any]:
    """Submit an assignment with its last changes, or reject its pair with a reason. Raises as
    `save`.

    Returns:
        done, number, problems: sentences about faults, without which it is done, and feedback.
    """
    task, number = assigner.task, sent.number
    result: dict[str, Any] = {"done": True, "number": number, "problems": [], "feedback": None}
    before = assigner.get(connection, person, identity)
    if before.state == "submitted" and number == before.number:  # the response to it was lost
        return result | {"feedback": feedback(task, before, answer_of(before.answer))}
    assignment = _open(connection, assigner, person, identity, number, now)
    changes = _checked(sent.changes.fields(), task)
    answer = _answer(task, assignment, person, merged(assignment.form, changes), sent, now)
    if problems := task.problems(answer):
        return result | {"done": False, "problems": problems}
    _refuse_over_quota(connection, task, person)
    record(
        connection,
        "submitted",
        now,
        person.id,
        identity,
        number=number,
        changes=changes,
        answer=asdict(answer),
    )
    return result | {"feedback": feedback(task, assignment, answer)}


def undo(connection: Connection, assigner: Assigner, person: Person, now: float) -> int:
    """Open the last submitted assignment of a person again and return its id.

    RefusedError: there is none, its feedback was shown, or the person is excluded or has written
    too much.
    """
    _refuse_excluded(connection, person)
    mine = (assignments.c.person == person.id) & (assignments.c.state == "submitted")
    latest = select(assignments.c.id).where(mine).order_by(assignments.c.done.desc())
    identity = connection.execute(latest.limit(1)).scalar()
    if identity is None:
        raise RefusedError("there is no submission to undo", 409)
    assignment = assigner.get(connection, person, identity)
    if feedback(assigner.task, assignment, answer_of(assignment.answer)) is not None:
        raise RefusedError("the last pair had feedback: its answer is final", 409)
    _refuse_over_quota(connection, assigner.task, person)
    record(connection, "undone", now, person.id, identity)
    return identity


def feedback(task: AnnotationTask, assignment: Assignment, answer: Answer) -> dict[str, Any] | None:
    """Return the feedback after a pair, whose answer is then final: text, and scores next to the
    known ones.

    Training always has feedback, and gold if the task has a text for it. A rejected pair has no
    score: null.
    """
    check = task.training if assignment.pair.id in task.training.by_id else task.gold
    check_pair = check.by_id.get(assignment.pair.id)
    if check_pair is None or (check is task.gold and not check_pair.feedback):
        return None
    judged = []
    for category in task.categories:
        if category.name in check_pair.scores:
            right, difference = (
                check_pair.scores[category.name],
                answer.differences.get(category.name),
            )
            yours = None if difference is None else difference.score
            agrees = yours is not None and check.agrees(right, yours)
            judged.append(
                {"category": category.name, "title": category.title, "yours": yours, "known": right}
            )
            judged[-1]["agrees"] = agrees
    return {"scores": judged, "html": markdown(check_pair.feedback)}


def _open(
    connection: Connection,
    assigner: Assigner,
    person: Person,
    identity: int,
    number: int,
    now: float,
) -> Assignment:
    """Return an assignment that may be changed by a save of a number."""
    _refuse_excluded(connection, person)
    assignment = assigner.get(connection, person, identity)
    if assignment.state == "submitted":
        raise RefusedError("this pair is submitted already: undo that first", 409)
    if assignment.state != "open" and not assigner.resume(connection, person, assignment, now):
        minutes = assigner.task.timeout_minutes
        raise RefusedError(
            f"nothing changed here for {minutes:g} minutes, and others have finished this pair", 410
        )
    if number <= assignment.number:
        last = assignment.number
        raise RefusedError(
            f"save {last} is there already: send a higher number", 409, saved=False, number=last
        )
    return assignment


def _refuse_excluded(connection: Connection, person: Person) -> None:
    excluded = select(people.c.excluded).where(people.c.id == person.id)
    if connection.execute(excluded).scalar_one() is not None:
        raise RefusedError(
            "your answers do not count at present: ask the person who collects them", 403
        )


def _refuse_over_quota(connection: Connection, task: AnnotationTask, person: Person) -> None:
    """Raise RefusedError if the events of a person have the most bytes that the task allows."""
    written = connection.execute(
        select(people.c.written).where(people.c.id == person.id)
    ).scalar_one()
    if written >= task.person_mib * 2**20:
        raise RefusedError(
            f"your changes have {task.person_mib:g} MiB, the most of a person in this task: "
            "ask the person who collects to raise person_mib",
            413,
        )


def _checked(changes: dict[str, Any], task: AnnotationTask) -> dict[str, Any]:
    """Return changes that name categories of the task only."""
    for part in ("texts", "scores"):
        if unknown := [name for name in changes.get(part, {}) if name not in task.names]:
            raise StepDiffError(
                f"{unknown[0]!r:.80} is not a category of the task: reload the page"
            )
    return changes


def head_of(pair: Pair, annotator: str, left: str, kind: str, now: float) -> dict[str, Any]:
    """Return the keys of an answer besides the form and its seconds."""
    about = {
        "pair": pair.id,
        "reference": pair.reference,
        "candidate": pair.candidate,
        "annotator": annotator,
    }
    return about | {"left": left, "kind": kind, "submitted": utc(now)}


def _answer(
    task: AnnotationTask,
    assignment: Assignment,
    person: Person,
    form: dict[str, Any],
    sent: Submission,
    now: float,
) -> Answer:
    since = now - assignment.opened
    about = head_of(assignment.pair, person.name, assignment.left, assignment.kind, now)
    # the clock may move back
    about["seconds"] = round(min(sent.seconds, since) if since > 0 else sent.seconds, 1)
    # the task may have lost categories
    texts, scores = (
        {name: form[part][name] for name in task.names if name in form[part]}
        for part in ("texts", "scores")
    )
    return answer_of(about | task.filled(form["keystep"], texts, scores, sent.rejected))
