"""Which pair a person gets.

Training pairs come first, then work; gold pairs are mixed into work. A pair of work has as many slots as people
annotate it. An assignment takes one from the time it is opened until it expires: nothing was changed in it for the
task's time limit, and somebody asks for a pair. Its person may resume it while a slot is free.

Guarantees
- nobody has two assignments of a pair, and a pair has at most as many open or submitted ones as the task has people
- a pair that nobody changed for the time limit returns to the pool; a submission that was undone and left alone is
  restored
- training comes first, gold is mixed in, left and right are drawn, all by the seed
"""

import json
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, and_, exists, func, or_, select

from stepdiff.annotate.people.task import Pair, Task
from stepdiff.app.annotating.collection.events import pair_key, record
from stepdiff.app.annotating.collection.people import Person
from stepdiff.app.annotating.collection.tables import assignments, pairs
from stepdiff.app.site import UnknownError

_EXPIRED_AT_ONCE = 1000


@dataclass(frozen=True)
class Assignment:
    """A pair that a person has."""

    id: int
    pair: Pair
    kind: str
    """work, gold or training"""
    left: str
    """reference or candidate"""
    state: str
    """open, submitted or expired"""
    opened: float
    touched: float
    number: int
    """of the last save"""
    form: dict[str, Any]
    answer: dict[str, Any] | None
    """the last submitted answer"""

    @property
    def shown(self) -> tuple[str, str]:
        """The left and the right clip."""
        both = (self.pair.reference, self.pair.candidate)
        return both if self.left == "reference" else both[::-1]


class Assigner:
    """Assigns the pairs of one task. Its methods take a connection that writes, and the time."""

    def __init__(self, task: Task, seed: str) -> None:
        """Use the seed of the database."""
        self.task, self._seed = task, seed
        self._pairs = {pair_key(pair): found for pair, found in task.by_id.items()}
        self._training = [pair_key(row.id) for row in task.training.rows]
        self._gold = [pair_key(row.id) for row in task.gold.rows]
        self._limit = task.timeout_minutes * 60

    def next(self, connection: Connection, person: Person, now: float) -> Assignment | None:
        """Return the pair that a person works on: the last one, or a new one; None: nothing is left."""
        self._expire(connection, person, now)
        mine = assignments.c.person == person.id
        latest = assignments.c.last.desc()
        for row in connection.execute(select(assignments).where(mine, assignments.c.state == "open").order_by(latest)):
            if row.pair in self._pairs:
                if now - row.touched > self._limit / 2:
                    record(connection, "seen", now, person.id, row.id)
                return self.get(connection, person, row.id)
        expired = select(assignments).where(mine, assignments.c.state == "expired").order_by(latest)
        for row in connection.execute(expired).all():
            if row.pair in self._pairs and self.resume(connection, person, row, now):
                return self.get(connection, person, row.id)
        return self._new(connection, person, now)

    def get(self, connection: Connection, person: Person, identity: int) -> Assignment:
        """Return an assignment of a person. UnknownError: it does not exist, is another person's, or left the task."""
        return self.assignment(self.row(connection, person, identity))

    def assignment(self, row: Any) -> Assignment:
        """Return the assignment in a row of the table."""
        return Assignment(
            id=row.id,
            pair=self._pairs[row.pair],
            kind=row.kind,
            left=row.left,
            state=row.state,
            opened=row.opened,
            touched=row.touched,
            number=row.number,
            form=json.loads(row.form),
            answer=None if row.answer is None else json.loads(row.answer),
        )

    def row(self, connection: Connection, person: Person, identity: int) -> Any:
        """Return the row of an assignment of a person. Raises as `get`."""
        own = (assignments.c.id == identity) & (assignments.c.person == person.id)
        row = connection.execute(select(assignments).where(own)).one_or_none() if identity < 2**63 else None
        if row is None or row.pair not in self._pairs:
            raise UnknownError(f"you have no assignment {identity}")
        return row

    def resume(self, connection: Connection, person: Person, row: Any, now: float) -> bool:
        """Open an expired assignment again where its pair has a free slot; return whether that was possible."""
        slot = free_slot(connection, row.pair, self.task.people) if row.kind == "work" else None
        possible = slot is not None or row.kind != "work"
        if possible:
            record(connection, "resumed", now, person.id, row.id, slot=slot)
        return possible

    def _expire(self, connection: Connection, person: Person, now: float) -> None:
        """Return what others left alone; a person's own open work is theirs until somebody else asks."""
        old = [assignments.c.state == "open", assignments.c.touched < now - self._limit]
        old.append(assignments.c.person != person.id)
        old.append(or_(assignments.c.slot.is_not(None), assignments.c.answer.is_not(None)))
        rows = select(assignments).where(*old).order_by(assignments.c.last).limit(_EXPIRED_AT_ONCE)
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
        event = record(connection, "opened", now, person.id, None, pair=pair.id, kind=kind, left=left, slot=slot)
        return self.get(connection, person, event.seq)

    def _choice(self, connection: Connection, person: Person) -> tuple[str, str] | None:
        """Return key and kind of the next new pair of a person."""
        seen, done = self._seen(connection, person)
        for key in self._training:
            if key not in seen:
                return key, "training"
        work = self._work(connection, person)
        gold = [key for key in self._gold if key not in seen]
        if work is not None and gold and self._drawn("gold", person.name, str(done)) < self.task.gold_rate:
            return gold[int(self._drawn("which gold", person.name, str(done)) * len(gold))], "gold"
        return None if work is None else (work, "work")

    def _seen(self, connection: Connection, person: Person) -> tuple[set[str], int]:
        """Return the training and gold pairs of a person, and the number of assignments that were not training."""
        checks = assignments.c.kind != "work"
        rows = connection.execute(select(assignments.c.pair).where(assignments.c.person == person.id, checks))
        others = select(func.count()).where(assignments.c.person == person.id, assignments.c.kind != "training")
        return {row.pair for row in rows}, connection.execute(others).scalar_one()

    def _work(self, connection: Connection, person: Person) -> str | None:
        """Return the pair that is nearest to complete, and first in the task, of those that the person has not seen."""
        seen = exists().where(and_(assignments.c.person == person.id, assignments.c.pair == pairs.c.pair))
        open_pairs = select(pairs.c.pair).where(pairs.c.place.is_not(None), pairs.c.taken < self.task.people, ~seen)
        return connection.execute(open_pairs.order_by(pairs.c.taken.desc(), pairs.c.place).limit(1)).scalar()

    def _drawn(self, *what: str) -> float:
        """Return a number from 0 to 1 that the seed and the words decide."""
        digest = blake2b("\n".join((self._seed, *what)).encode(), digest_size=7).digest()
        return int.from_bytes(digest) / 2**56


def free_slot(connection: Connection, key: str, people: int) -> int | None:
    """Return the first slot of a pair that is not in use, None where all are."""
    used = {row.slot for row in connection.execute(select(assignments.c.slot).where(assignments.c.pair == key))}
    return next((slot for slot in range(1, people + 1) if slot not in used), None)
