"""People who annotate, and their personal links.

Guarantees
- the database has no token: of its 128 random bits, the SHA-256 is stored
- a revoked or replaced token opens nothing
- an excluded person has no open work, and their answers do not take the place of other answers
"""

import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import Field
from sqlalchemy import Connection, func, select

from stepdiff.app.annotating.events import assignments, people, record
from stepdiff.app.site import NO_NUL, Sent
from stepdiff_core.errors import StepDiffError

Role = Literal["annotator", "admin"]
Origin = Literal["link", "name", "import"]
MOST_NAME = 100  # characters of a name
ADMIN = "admin"  # name of the person of the admin link


class Name(Sent):
    """Who annotates."""

    name: Annotated[str, Field(max_length=10 * MOST_NAME, pattern=NO_NUL)]


class Someone(Sent):
    """A person, by id."""

    person: Annotated[int, Field(ge=1, le=2**62)]


@dataclass(frozen=True)
class Person:
    """Someone who signed in, or may."""

    id: int
    name: str
    role: str
    origin: str  # link, name (entered on this machine) or import
    active: bool
    revoked: bool
    # since when the person's answers do not count, in seconds since 1970
    excluded: float | None = None


def checked_name(name: str) -> str:
    """Return a name without outer spaces. StepDiffError: empty, too long, or with characters that
    are not printed."""
    name = " ".join(name.split())
    if not name or len(name) > MOST_NAME or not name.isprintable():
        raise StepDiffError(f"a name has 1 to {MOST_NAME} printable characters, not {name!r:.80}")
    return name


def add(
    connection: Connection,
    name: str,
    now: float,
    role: Role = "annotator",
    origin: Origin = "link",
    by: int | None = None,
) -> tuple[Person, str]:
    """Add a person and return the token of the link. StepDiffError: there is one of this name."""
    name = checked_name(name)
    if named(connection, name) is not None:
        raise StepDiffError(
            f"{name!r} is there already: make a new link for them, or take another name"
        )
    token = secrets.token_urlsafe(16)
    has_link = origin != "import"
    stored = _hash(token) if has_link else None
    event = record(connection, "added", now, by, name=name, role=role, origin=origin, token=stored)
    return Person(event.seq, name, role, origin, has_link, False), token


def link(
    connection: Connection,
    person: Person,
    now: float,
    origin: Origin = "link",
    by: int | None = None,
) -> str:
    """Return the token of a new link of a person, also of a revoked one; the old link ends."""
    token = secrets.token_urlsafe(16)
    record(connection, "linked", now, by, id=person.id, token=_hash(token), origin=origin)
    return token


def revoke(connection: Connection, person: Person, now: float, by: int | None = None) -> None:
    """End a person's link and return their open work to the pool; submitted answers stay."""
    record(connection, "revoked", now, by, id=person.id)
    _return_open(connection, person, now, by)


def exclude(connection: Connection, person: Person, now: float, by: int) -> None:
    """Let the answers of an annotator not count, and return all their pairs to the pool.
    StepDiffError: an admin."""
    if person.role == "admin":
        raise StepDiffError(f"{person.name!r} does not annotate: only annotators are excluded")
    if person.excluded is None:
        _return_open(connection, person, now, by)
        record(connection, "excluded", now, by, id=person.id)


def include(connection: Connection, person: Person, now: float, by: int) -> None:
    """Let the answers of an excluded person count again; pairs that others answered since have more
    answers."""
    if person.excluded is not None:
        record(connection, "included", now, by, id=person.id)


def _return_open(connection: Connection, person: Person, now: float, by: int | None) -> None:
    mine = (assignments.c.person == person.id) & (assignments.c.state == "open")
    for row in connection.execute(select(assignments).where(mine).order_by(assignments.c.id)).all():
        record(connection, "expired" if row.answer is None else "restored", now, by, row.id)


def signed_in(connection: Connection, token: str) -> Person | None:
    return _person(connection, people.c.token == _hash(token))


def named(connection: Connection, name: str) -> Person | None:
    return _person(connection, people.c.name == name)


def by_id(connection: Connection, identity: int) -> Person:
    """Return a person. StepDiffError: there is none."""
    person = _person(connection, people.c.id == identity)
    if person is None:
        raise StepDiffError(f"there is no person {identity}")
    return person


def everyone(connection: Connection) -> list[Person]:
    return [_of(row) for row in connection.execute(select(people).order_by(people.c.id))]


def names_are_open(connection: Connection) -> bool:
    """Return whether people may enter a name: nobody has a personal link."""
    invited = (people.c.role == "annotator") & (people.c.origin == "link")
    return not connection.execute(
        select(func.count()).select_from(people).where(invited)
    ).scalar_one()


def _hash(token: str) -> str:
    return sha256(token.encode()).hexdigest()


def _person(connection: Connection, which: Any) -> Person | None:
    row = connection.execute(select(people).where(which)).one_or_none()
    return None if row is None else _of(row)


def _of(row: Any) -> Person:
    return Person(
        row.id,
        row.name,
        row.role,
        row.origin,
        row.token is not None,
        row.revoked is not None,
        row.excluded,
    )
