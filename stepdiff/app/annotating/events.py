"""Collected annotations: each change is a row of `events`; the other tables are the state that
`apply` makes of them.

Changes have the order of events: a clock may move back. Times are for people, and for the limit of
a pair. Unique constraints keep the rules of assignment whatever the program does: one assignment a
person and pair, and one assignment a pair and slot, and a pair has as many slots as people annotate
it. The assignments of an excluded person have no slots; if that person counts again, a pair may use
more slots.

Guarantees
- the events change empty tables into the state, and a change and its event are there both or
  neither
- an event is never changed, but that consecutive saves of the same fields by one person are one
  event: the last of them
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, func, insert, select, update

METADATA = sa.MetaData()
_Key = sa.BigInteger().with_variant(sa.Integer, "sqlite")

events = sa.Table(
    "events",
    METADATA,
    sa.Column("seq", _Key, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float(53), nullable=False),  # seconds since 1970
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("person", _Key),
    sa.Column("assignment", _Key),
    sa.Column("data", sa.Text, nullable=False),  # a JSON object
    sqlite_autoincrement=True,
)
sa.Index("events_of_person", events.c.person, events.c.seq)

people = sa.Table(
    "people",
    METADATA,
    sa.Column("id", _Key, primary_key=True, autoincrement=False),  # the event that added the person
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("role", sa.String(16), nullable=False),  # annotator, admin
    sa.Column("origin", sa.String(16), nullable=False),  # link, name, import
    sa.Column("token", sa.String(64), unique=True),  # its SHA-256; null: no link opens the pages
    sa.Column("revoked", sa.Float(53)),
    sa.Column("excluded", sa.Float(53)),  # null: the person's answers count
    sa.Column("written", sa.BigInteger, nullable=False),  # bytes of the person's events
)

assignments = sa.Table(
    "assignments",
    METADATA,
    sa.Column("id", _Key, primary_key=True, autoincrement=False),  # the event that opened it
    sa.Column("person", _Key, nullable=False),
    sa.Column("pair", sa.String(64), nullable=False),  # pair_key of the id
    sa.Column("kind", sa.String(16), nullable=False),  # work, gold, training
    # the clip that is shown on the left: reference, candidate
    sa.Column("left", sa.String(16), nullable=False),
    sa.Column("slot", sa.Integer),  # from 1; null: takes no place
    sa.Column("state", sa.String(16), nullable=False),  # open, submitted, expired
    sa.Column("opened", sa.Float(53), nullable=False),
    sa.Column("touched", sa.Float(53), nullable=False),
    sa.Column("last", _Key, nullable=False),  # the last event that changed or showed it
    sa.Column("done", _Key),  # the event of the last submission
    sa.Column("number", sa.Integer, nullable=False),  # of the last save
    sa.Column("form", sa.Text, nullable=False),  # JSON: what was typed
    sa.Column("answer", sa.Text),  # JSON: the last submitted answer
    sa.UniqueConstraint("person", "pair"),
    sa.UniqueConstraint("pair", "slot"),
)
sa.Index(
    "assignments_of_person_by_event", assignments.c.person, assignments.c.state, assignments.c.last
)
sa.Index("assignments_by_age", assignments.c.state, assignments.c.touched)

pairs = sa.Table(
    "pairs",
    METADATA,
    sa.Column("pair", sa.String(64), primary_key=True),
    sa.Column("place", sa.Integer),  # in the task; null: no longer part of it
    sa.Column("taken", sa.Integer, nullable=False),  # slots in use
)
sa.Index("pairs_by_need", pairs.c.taken.desc(), pairs.c.place)

adjudications = sa.Table(
    "adjudications",
    METADATA,
    sa.Column("pair", sa.String(64), primary_key=True),
    sa.Column("event", _Key, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
)

SAVED_AGAIN = (
    "OLD.kind = 'saved' AND NEW.kind = 'saved' AND NEW.seq = OLD.seq AND NEW.person = OLD.person "
    "AND NEW.assignment = OLD.assignment "
    "AND NOT EXISTS (SELECT 1 FROM events WHERE person = OLD.person AND seq > OLD.seq)"
)
"""the only change of an event: a later save of the same fields replaces the last event of a
person"""
NO_FORM: dict[str, Any] = {"keystep": "", "texts": {}, "scores": {}}


@dataclass(frozen=True)
class Event:
    seq: int
    at: float  # seconds since 1970
    kind: str
    person: int | None  # who changed something
    assignment: int | None
    data: dict[str, Any]
    size: int  # bytes of `data` in the database


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


def _saved_before(
    connection: Connection, person: int | None, assignment: int | None, data: dict[str, Any]
) -> Any:
    """Return the last event of a person if it saved the same fields of the same assignment, else
    None."""
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
    """Change the state by an event, and count its bytes."""
    data, run = event.data, connection.execute
    of_person, it = assignments.c.person == data.get("id"), assignments.c.id == event.assignment
    person, assignment = (
        update(people).where(people.c.id == data.get("id")),
        update(assignments).where(it),
    )
    # where an assignment's own person does something
    touched = {"touched": event.at, "last": event.seq}
    match event.kind:
        # a new database, with its seed; other pairs of the task than before
        case "created" | "task":
            pass
        case "added":  # a person
            values = {name: data[name] for name in ("name", "role", "origin", "token")}
            run(insert(people).values(id=event.seq, written=0, **values))
        case "linked":  # a person has a new link
            run(person.values(token=data["token"], origin=data["origin"], revoked=None))
        case "revoked":  # a person
            run(person.values(token=None, revoked=event.at))
        case "excluded":  # a person, whose answers do not count
            _take(connection, of_person, -1)
            run(update(assignments).where(of_person).values(slot=None))
            run(person.values(excluded=event.at))
        # an excluded person, whose pairs of work get the slots after the last ones in use
        case "included":
            mine = of_person & (assignments.c.kind == "work") & (assignments.c.state == "submitted")
            other = assignments.alias()
            last = select(func.coalesce(func.max(other.c.slot), 0)).where(
                other.c.pair == assignments.c.pair
            )
            run(update(assignments).where(mine).values(slot=last.scalar_subquery() + 1))
            _take(connection, mine, 1)
            run(person.values(excluded=None))
        case "opened":  # an assignment
            values = {
                "person": event.person,
                "kind": data["kind"],
                "left": data["left"],
                "state": "open",
            }
            _assign(connection, event, data["pair"], **values)
        case "imported":  # an answer of another tool
            answer = data["answer"]
            values = {
                "person": data["id"],
                "kind": answer["kind"],
                "left": answer["left"] or "reference",
            }
            values |= {"state": "submitted", "done": event.seq, "answer": json.dumps(answer)}
            _assign(connection, event, answer["pair"], **values)
        case "saved" | "submitted":  # a submission brings the last changes
            form = json.loads(run(select(assignments.c.form).where(it)).scalar_one())
            run(
                assignment.values(
                    form=json.dumps(merged(form, data["changes"])), number=data["number"], **touched
                )
            )
            if event.kind == "submitted":
                run(
                    assignment.values(
                        state="submitted", done=event.seq, answer=json.dumps(data["answer"])
                    )
                )
        case "undone":  # a submission
            run(assignment.values(state="open", **touched))
        case "restored":  # a submission that was undone and not made again
            run(assignment.values(state="submitted"))
        case "seen":  # an assignment that was opened long ago is shown again
            run(assignment.values(**touched))
        case "expired":  # an assignment
            _take(connection, it, -1)
            run(assignment.values(state="expired", slot=None))
        case "resumed":  # an expired assignment
            run(assignment.values(state="open", slot=data["slot"], **touched))
            _take(connection, it, 1)
        case "adjudicated":  # an answer that decides
            values = {"event": event.seq, "answer": json.dumps(data["answer"])}
            key = pair_key(data["answer"]["pair"])
            if not run(
                update(adjudications).where(adjudications.c.pair == key).values(**values)
            ).rowcount:
                run(insert(adjudications).values(pair=key, **values))
        case kind:
            raise KeyError(kind)
    _count(connection, event.person, event.size)


def _count(connection: Connection, person: int | None, size: int) -> None:
    connection.execute(
        update(people).where(people.c.id == person).values(written=people.c.written + size)
    )


def merged(form: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a form after changes: `keystep`, and by category `texts` and `scores` (null: none)."""
    scores = {
        name: score
        for name, score in (form["scores"] | changes.get("scores", {})).items()
        if score is not None
    }
    return {
        "keystep": changes.get("keystep", form["keystep"]),
        "texts": form["texts"] | changes.get("texts", {}),
        "scores": scores,
    }


def _take(connection: Connection, which: ColumnElement[bool], slots: int) -> None:
    """Change the number of used slots of the pairs of some assignments, if these have a slot."""
    keys = select(assignments.c.pair).where(which, assignments.c.slot.is_not(None))
    connection.execute(
        update(pairs).where(pairs.c.pair.in_(keys)).values(taken=pairs.c.taken + slots)
    )


def _assign(connection: Connection, event: Event, pair: str, **values: Any) -> None:
    values |= {"id": event.seq, "pair": pair_key(pair), "slot": event.data["slot"], "number": 0}
    values |= {
        "opened": event.at,
        "touched": event.at,
        "last": event.seq,
        "form": json.dumps(NO_FORM),
    }
    connection.execute(insert(assignments).values(**values))
    _take(connection, assignments.c.id == event.seq, 1)
