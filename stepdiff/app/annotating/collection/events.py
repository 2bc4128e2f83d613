"""Events: every change is a row, and `apply` makes the current state of it.

Guarantees
- the state is what the events make of empty tables
- a change and its event are there both or neither
- an event is never changed, but that consecutive saves of the same fields by one person are one event: the last of them
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, insert, select, update

from stepdiff.app.annotating.collection.tables import METADATA, adjudications, assignments, events, pairs, people

NO_FORM: dict[str, Any] = {"keystep": "", "texts": {}, "scores": {}}


@dataclass(frozen=True)
class Event:
    """One change."""

    seq: int
    at: float
    """seconds since 1970"""
    kind: str
    person: int | None
    """who changed something"""
    assignment: int | None
    data: dict[str, Any]
    size: int
    """bytes of `data` in the database"""


def utc(now: float) -> str:
    """Return seconds since 1970 as the time of an answer."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")


def pair_key(pair: str) -> str:
    """Return the key of a pair's id in the tables: ids may be longer than an index allows."""
    return blake2b(pair.encode(), digest_size=16).hexdigest()


def record(
    connection: Connection,
    kind: str,
    at: float,
    person: int | None = None,
    assignment: int | None = None,
    /,
    **data: Any,
) -> Event:
    """Add an event and change the state by it. The connection is one that writes."""
    values = {"at": at, "kind": kind, "person": person, "assignment": assignment}
    text = json.dumps(data, allow_nan=False)
    again = _saved_before(connection, person, assignment, data) if kind == "saved" else None
    if again is not None:
        connection.execute(update(events).where(events.c.seq == again.seq).values(at=at, data=text))
        _count(connection, person, -len(again.data))
        seq = again.seq
    else:
        row = connection.execute(insert(events).values(**values, data=text))
        assert row.inserted_primary_key is not None
        seq = row.inserted_primary_key[0]
    event = Event(seq, at, kind, person, assignment, data, len(text))
    apply(connection, event)
    return event


def _saved_before(connection: Connection, person: int | None, assignment: int | None, data: dict[str, Any]) -> Any:
    """Return the last event of a person where it saved the same fields of the same assignment, else None."""
    last = select(events).where(events.c.person == person).order_by(events.c.seq.desc()).limit(1)
    row = connection.execute(last).one_or_none()
    if row is None or (row.kind, row.assignment) != ("saved", assignment):
        return None
    return row if fields(json.loads(row.data)["changes"]) == fields(data["changes"]) else None


def fields(changes: dict[str, Any]) -> set[str]:
    """Return the names of the fields of the form that changed."""
    named = {f"{part} {name}" for part in ("texts", "scores") for name in changes.get(part, {})}
    return named | {"keystep"} & changes.keys()


def _count(connection: Connection, person: int | None, size: int) -> None:
    """Add to the bytes that a person has written."""
    connection.execute(update(people).where(people.c.id == person).values(written=people.c.written + size))


def rebuild(connection: Connection) -> int:
    """Make the tables of an earlier version again from the events; return their number."""
    connection.execute(update(pairs).values(taken=0))
    for table in (people, assignments, adjudications):
        table.drop(connection)
    METADATA.create_all(connection)
    for index in events.indexes:
        index.create(connection, checkfirst=True)
    count = 0
    while rows := list(history(connection, count, 1000)):
        for event in rows:
            apply(connection, event)
        count = rows[-1].seq
    return count


def history(connection: Connection, after: int = 0, most: int | None = None) -> Iterator[Event]:
    """Yield the events after a number, in order, at most `most`."""
    for row in connection.execute(select(events).where(events.c.seq > after).order_by(events.c.seq).limit(most)):
        yield Event(row.seq, row.at, row.kind, row.person, row.assignment, json.loads(row.data), len(row.data))


def merged(form: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a form after changes: `keystep`, and by category `texts` and `scores` (null: none)."""
    scores = {name: score for name, score in (form["scores"] | changes.get("scores", {})).items() if score is not None}
    return {
        "keystep": changes.get("keystep", form["keystep"]),
        "texts": form["texts"] | changes.get("texts", {}),
        "scores": scores,
    }


def apply(connection: Connection, event: Event) -> None:
    """Change the state by an event."""
    _KINDS[event.kind](connection, event)
    _count(connection, event.person, event.size)


def _added(connection: Connection, event: Event) -> None:
    values = _of(event.data, "name", "role", "origin", "token")
    connection.execute(insert(people).values(id=event.seq, written=0, **values))


def _linked(connection: Connection, event: Event) -> None:
    values = _of(event.data, "token", "origin")
    connection.execute(update(people).where(people.c.id == event.data["id"]).values(**values, revoked=None))


def _revoked(connection: Connection, event: Event) -> None:
    connection.execute(update(people).where(people.c.id == event.data["id"]).values(token=None, revoked=event.at))


def _opened(connection: Connection, event: Event) -> None:
    _assign(connection, event, event.data["pair"], person=event.person, state="open", **_of(event.data, "kind", "left"))


def _imported(connection: Connection, event: Event) -> None:
    answer = event.data["answer"]
    values = {"kind": answer["kind"], "left": answer["left"] or "reference", "answer": json.dumps(answer)}
    _assign(connection, event, answer["pair"], person=event.data["id"], state="submitted", done=event.seq, **values)


def _of(data: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: data[name] for name in names}


def _assign(connection: Connection, event: Event, pair: str, **values: Any) -> None:
    """Add an assignment."""
    key, slot, form = pair_key(pair), event.data["slot"], json.dumps(NO_FORM)
    times = {"opened": event.at, "touched": event.at, "last": event.seq}
    connection.execute(
        insert(assignments).values(id=event.seq, pair=key, slot=slot, number=0, form=form, **times, **values)
    )
    _take(connection, key, int(slot is not None))


def _take(connection: Connection, key: str, slots: int) -> None:
    if slots:
        connection.execute(update(pairs).where(pairs.c.pair == key).values(taken=pairs.c.taken + slots))


def _touch(connection: Connection, event: Event, **values: Any) -> None:
    """Change an assignment by something that its person does."""
    _change(connection, event, touched=event.at, last=event.seq, **values)


def _change(connection: Connection, event: Event, **values: Any) -> None:
    connection.execute(update(assignments).where(assignments.c.id == event.assignment).values(**values))


def _saved(connection: Connection, event: Event) -> None:
    """Also the changes that a submission brings."""
    row = connection.execute(select(assignments.c.form).where(assignments.c.id == event.assignment)).one()
    form = merged(json.loads(row.form), event.data["changes"])
    _touch(connection, event, form=json.dumps(form), number=event.data["number"])


def _submitted(connection: Connection, event: Event) -> None:
    _saved(connection, event)
    _change(connection, event, state="submitted", done=event.seq, answer=json.dumps(event.data["answer"]))


def _expired(connection: Connection, event: Event) -> None:
    row = connection.execute(select(assignments).where(assignments.c.id == event.assignment)).one()
    _change(connection, event, state="expired", slot=None)
    _take(connection, row.pair, -int(row.slot is not None))


def _resumed(connection: Connection, event: Event) -> None:
    row = connection.execute(select(assignments).where(assignments.c.id == event.assignment)).one()
    _touch(connection, event, state="open", slot=event.data["slot"])
    _take(connection, row.pair, int(event.data["slot"] is not None))


def _adjudicated(connection: Connection, event: Event) -> None:
    values = {"event": event.seq, "answer": json.dumps(event.data["answer"])}
    key = pair_key(event.data["answer"]["pair"])
    if not connection.execute(update(adjudications).where(adjudications.c.pair == key).values(**values)).rowcount:
        connection.execute(insert(adjudications).values(pair=key, **values))


_KINDS: dict[str, Callable[[Connection, Event], None]] = {
    "created": lambda *_: None,  # a new database, with its seed
    "task": lambda *_: None,  # the task's pairs were read for the first time, or were others before
    "added": _added,  # a person
    "linked": _linked,  # a person has a new link
    "revoked": _revoked,  # a person
    "opened": _opened,  # an assignment
    "saved": _saved,
    "submitted": _submitted,
    "undone": lambda connection, event: _touch(connection, event, state="open"),  # a submission
    "restored": lambda connection, event: _change(
        connection, event, state="submitted"
    ),  # a submission that was undone and not made again
    "seen": lambda connection, event: _touch(
        connection, event
    ),  # an assignment that was opened long ago is shown again
    "expired": _expired,  # an assignment
    "resumed": _resumed,  # an expired assignment
    "imported": _imported,  # an answer of another tool
    "adjudicated": _adjudicated,  # an answer that decides
}
