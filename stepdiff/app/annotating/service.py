"""A task, its database and its limits, opened once for a server."""

import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from sqlalchemy import Connection, delete, insert, select, update

from stepdiff.annotate.people.task import Task, read_task
from stepdiff.app.annotating.collection import people
from stepdiff.app.annotating.collection.assigning import Assigner
from stepdiff.app.annotating.collection.database import Database, default_url
from stepdiff.app.annotating.collection.events import history, pair_key, record
from stepdiff.app.annotating.collection.tables import events, pairs

PERSON_RATE, PERSON_BURST = 40.0, 120.0
"""requests of a person in a second, and at once"""
ADDRESS_RATE, ADDRESS_BURST = 5.0, 60.0
"""requests of an address that are not of a person who signed in"""
_BATCH = 1000
_KEYS = 10_000


class Limit:
    """How many requests each of many keys may send: a bucket that is filled at a constant rate.

    The keys are bounded, however many addresses send requests: the one that was used longest ago goes first.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Pass `rate` requests a second on average, and `burst` at once."""
        self._rate, self._burst, self._clock = rate, burst, clock
        self._lock = threading.Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> requests left, and when

    def take(self, key: str) -> int:
        """Take one request; return 0, or after how many seconds there is one again."""
        now = self._clock()
        with self._lock:
            left, at = self._left.pop(key, (self._burst, now))
            left = min(self._burst, left + (now - at) * self._rate)
            passed = left >= 1
            self._left[key] = (left - 1 if passed else left, now)
            while len(self._left) > _KEYS:
                self._left.popitem(last=False)
        return 0 if passed else math.ceil((1 - left) / self._rate)


@dataclass(frozen=True)
class Annotating:
    """What the annotation pages use. Make it with `open`."""

    task: Task
    database: Database
    assigner: Assigner
    new_admin: str | None
    """token of the admin link, where this start made it"""
    clock: Callable[[], float] = time.time
    persons: Limit = field(default_factory=lambda: Limit(PERSON_RATE, PERSON_BURST))
    addresses: Limit = field(default_factory=lambda: Limit(ADDRESS_RATE, ADDRESS_BURST))

    @classmethod
    def open(cls, path: Path, url: str | None = None, clock: Callable[[], float] = time.time) -> "Annotating":
        """Open a task and its database.

        Args:
            path: YAML file of the task.
            url: Of the database; None: an SQLite file next to the task.
            clock: Seconds since 1970.

        Raises:
            StepDiffError: The task cannot be read, or the database cannot be opened.
        """
        task = read_task(path)
        database = Database.open(url or default_url(path))
        with database.write() as connection:
            seed = _seed(connection, clock())
            _add_pairs(connection, task, clock())
            token = None
            if people.named(connection, people.ADMIN) is None:
                _, token = people.add(connection, people.ADMIN, clock(), role="admin")
        return cls(task, database, Assigner(task, seed), token, clock)


def _seed(connection: Connection, now: float) -> str:
    """Return the seed of the database; a new one for a new database."""
    seq = connection.execute(select(events.c.seq).where(events.c.kind == "created")).scalar()
    if seq is None:
        return str(record(connection, "created", now, seed=secrets.token_hex(16)).data["seed"])
    return str(next(history(connection, seq - 1)).data["seed"])


def _add_pairs(connection: Connection, task: Task, now: float) -> None:
    """Make the table of pairs that of the task, which may have changed since the last start."""
    listed = sha256("\n".join(pair.id for pair in task.pairs).encode()).hexdigest()
    state = {"digest": listed, "pairs": len(task.pairs), "people": task.people}
    latest = select(events.c.seq).where(events.c.kind == "task").order_by(events.c.seq.desc()).limit(1)
    seq = connection.execute(latest).scalar()
    if seq is not None and next(history(connection, seq - 1)).data == state:
        return
    record(connection, "task", now, None, None, **state)
    list_pairs(connection, task)


def list_pairs(connection: Connection, task: Task) -> None:
    """Give the pairs of the task their places; others lose theirs, and keep their count of used slots."""
    connection.execute(update(pairs).values(place=None))
    places = [(pair_key(pair.id), place) for place, pair in enumerate(task.pairs)]
    for at in range(0, len(places), _BATCH):
        batch = dict(places[at : at + _BATCH])
        known = connection.execute(select(pairs).where(pairs.c.pair.in_(batch))).all()
        taken = {row.pair: row.taken for row in known}
        connection.execute(delete(pairs).where(pairs.c.pair.in_(batch)))
        rows = [{"pair": key, "place": place, "taken": taken.get(key, 0)} for key, place in batch.items()]
        connection.execute(insert(pairs), rows)
