"""A task, its database and its limits, opened once for a server; and who sends a request: the token
in a cookie.

Guarantees
- the cookie is HttpOnly and SameSite=Strict, and Secure if the public URL is https
- too many requests of a person, or guesses of an address, are 429, and others are not concerned
"""

import json
import math
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import Response
from sqlalchemy import Connection, delete, insert, select

from stepdiff.annotate.forms.form import AnnotationTask, read_task
from stepdiff.app.annotating import accounts
from stepdiff.app.annotating.accounts import Person, Role
from stepdiff.app.annotating.database import Database, default_url
from stepdiff.app.annotating.events import events, pair_key, pairs, record
from stepdiff.app.annotating.work import Assigner
from stepdiff.app.pages import kept
from stepdiff.app.site import RefusedError, Site

PERSON_RATE, PERSON_BURST = 40.0, 120.0
"""requests of a person in a second, and at once"""
ADDRESS_RATE, ADDRESS_BURST = 5.0, 60.0
"""requests of an address that are not of a person who signed in"""
_KEYS = 10_000


class Limit:
    """How many requests each of many keys may send: a bucket that is filled at a constant rate.

    The keys are bounded, however many addresses send requests: the one that was used longest ago
    goes first.
    """

    def __init__(self, rate: float, burst: float) -> None:
        """Pass `rate` requests a second on average, and `burst` at once."""
        self._rate, self._burst = rate, burst
        self._lock = Lock()
        # key -> requests left, and when
        self._tokens: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> int:
        """Take one request; return 0, or after how many seconds there is one again."""
        now = time.monotonic()
        with self._lock:
            tokens, at = self._tokens.pop(key, (self._burst, now))
            tokens = min(self._burst, tokens + (now - at) * self._rate)
            passed = tokens >= 1
            self._tokens[key] = (tokens - 1 if passed else tokens, now)
            while len(self._tokens) > _KEYS:
                self._tokens.popitem(last=False)
        return 0 if passed else math.ceil((1 - tokens) / self._rate)


@dataclass(frozen=True)
class Annotating:
    """The task, its database and its limits. Make it with `open`."""

    task: AnnotationTask
    database: Database
    assigner: Assigner
    new_admin: str | None  # token of the admin link, where this start made it
    clock: Callable[[], float] = time.time
    persons: Limit = field(default_factory=lambda: Limit(PERSON_RATE, PERSON_BURST))
    addresses: Limit = field(default_factory=lambda: Limit(ADDRESS_RATE, ADDRESS_BURST))
    warming: Lock = field(default_factory=Lock)  # held while the clips of the next pair are cut

    @classmethod
    def open(
        cls, path: Path, url: str | None = None, clock: Callable[[], float] = time.time
    ) -> "Annotating":
        """Open a task, a YAML file, and its database, by default an SQLite file next to the
        task."""
        task = read_task(path)
        database = Database.open(url or default_url(path))
        with database.write() as connection:
            seed = _seed(connection, clock())
            _add_pairs(connection, task, clock())
            token = None
            if accounts.named(connection, accounts.ADMIN) is None:
                _, token = accounts.add(connection, accounts.ADMIN, clock(), role="admin")
        return cls(task, database, Assigner(task, seed), token, clock)

    @classmethod
    def of_site(cls, site: Site) -> "Annotating":
        """Open the task of a site, and print the admin link of a new database."""
        assert site.annotate is not None
        annotating = cls.open(site.annotate, site.options.database)
        if annotating.new_admin is not None:
            address = link(annotating.new_admin, site.public_url or "")
            print(f"admin link, shown once: {address}", file=sys.stderr, flush=True)
        return annotating


def _seed(connection: Connection, now: float) -> str:
    """Return the seed of the database, a new one if it is new."""
    created = connection.execute(select(events.c.data).where(events.c.kind == "created")).scalar()
    if created is None:
        return str(record(connection, "created", now, seed=secrets.token_hex(16)).data["seed"])
    return str(json.loads(created)["seed"])


def _add_pairs(connection: Connection, task: AnnotationTask, now: float) -> None:
    """Write the pairs of the task, which may have changed since the last start, to the table of
    pairs."""
    listed = sha256("\n".join(pair.id for pair in task.pairs).encode()).hexdigest()
    state = {"digest": listed, "pairs": len(task.pairs), "people": task.people}
    latest = (
        select(events.c.data).where(events.c.kind == "task").order_by(events.c.seq.desc()).limit(1)
    )
    before = connection.execute(latest).scalar()
    if before is None or json.loads(before) != state:
        record(connection, "task", now, None, None, **state)
        list_pairs(connection, task)


def list_pairs(connection: Connection, task: AnnotationTask) -> None:
    """Give the pairs of the task their places; others lose theirs, and keep their count of used
    slots."""
    listed = connection.execute(select(pairs.c.pair, pairs.c.taken))
    rows = {key: {"pair": key, "place": None, "taken": taken} for key, taken in listed}
    for place, pair in enumerate(task.pairs):
        key = pair_key(pair.id)
        rows[key] = {"taken": 0} | rows.get(key, {}) | {"pair": key, "place": place}
    connection.execute(delete(pairs))
    connection.execute(insert(pairs), list(rows.values()))


PATH = "/annotate"
_SECONDS = 180 * 24 * 3600
_LONGEST = 100  # characters of a token


def link(token: str, site: str = "") -> str:
    """Return the address that signs in by a token, on the server at the address `site`."""
    return f"{site.rstrip('/')}{PATH}/as/{token}"


def sign_in(response: Response, request: Request, token: str, role: str) -> None:
    """Set the cookie of a token. Each role has its own: one browser may have both."""
    secure = (request.app.state.kept[Site].public_url or "").startswith("https:")
    rules: dict[str, Any] = {"path": PATH, "secure": secure, "httponly": True, "samesite": "strict"}
    response.set_cookie(f"stepdiff-{role}", token, max_age=_SECONDS, **rules)


def person_of(annotating: Annotating, token: str, request: Request) -> Person | None:
    """Return whose token it is. RefusedError: too many requests of this person, or of this address
    without one."""
    person = None
    if 0 < len(token) < _LONGEST and token.isascii():
        with annotating.database.read() as connection:
            person = accounts.signed_in(connection, token)
    if person is None:
        count_address(annotating, request)
    else:
        _pass(annotating.persons.take(str(person.id)))
    return person


def current(annotating: Annotating, request: Request, role: Role = "annotator") -> Person | None:
    """Return who sends a request, None for nobody. RefusedError as `person_of`."""
    person = person_of(annotating, request.cookies.get(f"stepdiff-{role}", ""), request)
    return person if person is not None and person.role == role else None


def required(annotating: Annotating, request: Request, role: Role = "annotator") -> Person:
    """Return who sends a request. RefusedError: nobody who may, or too many requests."""
    person = current(annotating, request, role)
    if person is None:
        whose = "personal link" if role == "annotator" else "admin link"
        raise RefusedError(f"open your {whose} again, or ask for a new one", 401)
    return person


OfAnnotating = Annotated[Annotating, kept(Annotating)]


def signed_in(request: Request, annotating: OfAnnotating) -> Person:
    return required(annotating, request)


def signed_in_admin(request: Request, annotating: OfAnnotating) -> Person:
    return required(annotating, request, "admin")


Annotator = Annotated[Person, Depends(signed_in)]
Admin = Annotated[Person, Depends(signed_in_admin)]


def _pass(seconds: int) -> None:
    if seconds:
        raise RefusedError(f"too many requests: wait {seconds} s", 429, seconds)


def count_address(annotating: Annotating, request: Request) -> None:
    """Count a request of somebody who is not signed in. RefusedError: too many of this address."""
    address = request.client.host if request.client else ""
    if request.app.state.kept[Site].trusts(address):  # each proxy appends the address that it sees
        address = (
            ",".join(request.headers.getlist("x-forwarded-for")).rpartition(",")[2].strip()
            or address
        )
    _pass(annotating.addresses.take(address))
