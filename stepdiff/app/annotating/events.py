"""Collected annotations: each change is a row of `events`; the other tables are the state that `apply` makes of them.

The order of changes is that of events: a clock may move back. Times are for people, and for the limit of a pair.
Unique constraints keep the rules of assignment whatever the program does: one assignment a person and pair, and one
assignment a pair and slot, where a pair has as many slots as people annotate it. The assignments of an excluded person
have no slots; where that person counts again, a pair may use more of them.

Guarantees
- the state is what the events make of empty tables, and a change and its event are there both or neither
- an event is never changed, but that consecutive saves of the same fields by one person are one event: the last of them
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    insert,
    select,
    update,
)

METADATA = MetaData()
_Key = BigInteger().with_variant(Integer, "sqlite")

events = Table(
    "events",
    METADATA,
    Column("seq", _Key, primary_key=True, autoincrement=True),
    Column("at", Float(53), nullable=False),  # seconds since 1970
    Column("kind", String(16), nullable=False),
    Column("person", _Key),
    Column("assignment", _Key),
    Column("data", Text, nullable=False),  # a JSON object
    sqlite_autoincrement=True,
)
Index("events_of_person", events.c.person, events.c.seq)

people = Table(
    "people",
    METADATA,
    Column("id", _Key, primary_key=True, autoincrement=False),  # the event that added the person
    Column("name", Text, nullable=False, unique=True),
    Column("role", String(16), nullable=False),  # annotator, admin
    Column("origin", String(16), nullable=False),  # link, name, import
    Column("token", String(64), unique=True),  # its SHA-256; null: no link opens the pages
    Column("revoked", Float(53)),
    Column("excluded", Float(53)),  # null: the person's answers count
    Column("written", BigInteger, nullable=False),  # bytes of the person's events
)

assignments = Table(
    "assignments",
    METADATA,
    Column("id", _Key, primary_key=True, autoincrement=False),  # the event that opened it
    Column("person", _Key, nullable=False),
    Column("pair", String(64), nullable=False),  # pair_key of the id
    Column("kind", String(16), nullable=False),  # work, gold, training
    Column("left", String(16), nullable=False),  # the clip that is shown on the left: reference, candidate
    Column("slot", Integer),  # from 1; null: takes no place
    Column("state", String(16), nullable=False),  # open, submitted, expired
    Column("opened", Float(53), nullable=False),
    Column("touched", Float(53), nullable=False),
    Column("last", _Key, nullable=False),  # the last event that changed or showed it
    Column("done", _Key),  # the event of the last submission
    Column("number", Integer, nullable=False),  # of the last save
    Column("form", Text, nullable=False),  # JSON: what was typed
    Column("answer", Text),  # JSON: the last submitted answer
    UniqueConstraint("person", "pair"),
    UniqueConstraint("pair", "slot"),
)
Index("assignments_of_person_by_event", assignments.c.person, assignments.c.state, assignments.c.last)
Index("assignments_by_age", assignments.c.state, assignments.c.touched)

pairs = Table(
    "pairs",
    METADATA,
    Column("pair", String(64), primary_key=True),
    Column("place", Integer),  # in the task; null: no longer part of it
    Column("taken", Integer, nullable=False),  # slots in use
)
Index("pairs_by_need", pairs.c.taken.desc(), pairs.c.place)

adjudications = Table(
    "adjudications",
    METADATA,
    Column("pair", String(64), primary_key=True),
    Column("event", _Key, nullable=False),
    Column("answer", Text, nullable=False),
)

# A later save of the same fields replaces the last event of a person; no other event is ever changed.
_SAVED_AGAIN = (
    "OLD.kind = 'saved' AND NEW.kind = 'saved' AND NEW.seq = OLD.seq AND NEW.person = OLD.person "
    "AND NEW.assignment = OLD.assignment "
    "AND NOT EXISTS (SELECT 1 FROM events WHERE person = OLD.person AND seq > OLD.seq)"
)


def append_only(connection: Connection, table: str, unless: str = "FALSE") -> None:
    """Make the database refuse changes of a table's rows, except for updates that meet the condition `unless`."""
    for statement in _TRIGGERS[connection.dialect.name]:
        connection.exec_driver_sql(statement.format(table=table, unless=unless))


def protect_events(connection: Connection) -> None:
    append_only(connection, "events", _SAVED_AGAIN)


_TRIGGERS = {
    "sqlite": (
        "DROP TRIGGER IF EXISTS no_update_of_{table}",
        "CREATE TRIGGER no_update_of_{table} BEFORE UPDATE ON {table} WHEN NOT ({unless}) "
        "BEGIN SELECT RAISE(ABORT, '{table} are never changed'); END",
        "DROP TRIGGER IF EXISTS no_delete_of_{table}",
        "CREATE TRIGGER no_delete_of_{table} BEFORE DELETE ON {table} "
        "BEGIN SELECT RAISE(ABORT, '{table} are never changed'); END",
    ),
    "postgresql": (
        "CREATE OR REPLACE FUNCTION refuse_change_of_{table}() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF TG_OP = 'UPDATE' THEN IF {unless} THEN RETURN NEW; END IF; END IF; "
        "RAISE EXCEPTION '{table} are never changed'; END $$",
        "DROP TRIGGER IF EXISTS no_change_of_{table} ON {table}",
        "CREATE TRIGGER no_change_of_{table} BEFORE DELETE OR TRUNCATE ON {table} "
        "EXECUTE FUNCTION refuse_change_of_{table}()",
        "DROP TRIGGER IF EXISTS no_update_of_{table} ON {table}",
        "CREATE TRIGGER no_update_of_{table} BEFORE UPDATE ON {table} FOR EACH ROW "
        "EXECUTE FUNCTION refuse_change_of_{table}()",
    ),
}

NO_FORM: dict[str, Any] = {"keystep": "", "texts": {}, "scores": {}}


@dataclass(frozen=True)
class Event:
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
    """Add an event, on a connection that writes, and change the state by it."""
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


def apply(connection: Connection, event: Event) -> None:
    _KINDS[event.kind](connection, event)
    _count(connection, event.person, event.size)


def _count(connection: Connection, person: int | None, size: int) -> None:
    connection.execute(update(people).where(people.c.id == person).values(written=people.c.written + size))


def rebuild(connection: Connection) -> None:
    """Make the tables of an earlier version again from the events."""
    connection.execute(update(pairs).values(taken=0))
    for table in (people, assignments, adjudications):
        table.drop(connection)
    METADATA.create_all(connection)
    for index in events.indexes:
        index.create(connection, checkfirst=True)
    last = 0
    while rows := list(history(connection, last, 1000)):
        for event in rows:
            apply(connection, event)
        last = rows[-1].seq


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


def _added(connection: Connection, event: Event) -> None:
    values = _of(event.data, "name", "role", "origin", "token")
    connection.execute(insert(people).values(id=event.seq, written=0, **values))


def _linked(connection: Connection, event: Event) -> None:
    values = _of(event.data, "token", "origin")
    connection.execute(update(people).where(people.c.id == event.data["id"]).values(**values, revoked=None))


def _revoked(connection: Connection, event: Event) -> None:
    connection.execute(update(people).where(people.c.id == event.data["id"]).values(token=None, revoked=event.at))


def _excluded(connection: Connection, event: Event) -> None:
    mine = (assignments.c.person == event.data["id"]) & assignments.c.slot.is_not(None)
    _take_all(connection, mine, -1)
    connection.execute(update(assignments).where(mine).values(slot=None))
    connection.execute(update(people).where(people.c.id == event.data["id"]).values(excluded=event.at))


def _included(connection: Connection, event: Event) -> None:
    """Give each submitted pair of work of the person the slot after the last one in use."""
    mine = (assignments.c.person == event.data["id"]) & (assignments.c.kind == "work")
    mine &= assignments.c.state == "submitted"
    other = assignments.alias()
    last = select(func.coalesce(func.max(other.c.slot), 0)).where(other.c.pair == assignments.c.pair)
    connection.execute(update(assignments).where(mine).values(slot=last.scalar_subquery() + 1))
    _take_all(connection, mine, 1)
    connection.execute(update(people).where(people.c.id == event.data["id"]).values(excluded=None))


def _take_all(connection: Connection, which: ColumnElement[bool], slots: int) -> None:
    """Change how many slots are in use of the pairs of some assignments."""
    keys = select(assignments.c.pair).where(which)
    connection.execute(update(pairs).where(pairs.c.pair.in_(keys)).values(taken=pairs.c.taken + slots))


def _opened(connection: Connection, event: Event) -> None:
    values = _of(event.data, "kind", "left")
    _assign(connection, event, event.data["pair"], person=event.person, state="open", **values)


def _imported(connection: Connection, event: Event) -> None:
    answer = event.data["answer"]
    values = {"kind": answer["kind"], "left": answer["left"] or "reference", "answer": json.dumps(answer)}
    _assign(connection, event, answer["pair"], person=event.data["id"], state="submitted", done=event.seq, **values)


def _of(data: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: data[name] for name in names}


def _assign(connection: Connection, event: Event, pair: str, **values: Any) -> None:
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
    "excluded": _excluded,  # a person, whose answers do not count
    "included": _included,  # an excluded person, whose answers count again
    "opened": _opened,  # an assignment
    "saved": _saved,
    "submitted": _submitted,
    "undone": partial(_touch, state="open"),  # a submission
    "restored": partial(_change, state="submitted"),  # a submission that was undone and not made again
    "seen": _touch,  # an assignment that was opened long ago is shown again
    "expired": _expired,  # an assignment
    "resumed": _resumed,  # an expired assignment
    "imported": _imported,  # an answer of another tool
    "adjudicated": _adjudicated,  # an answer that decides
}
