"""Tables of collected annotations. `events` is the truth; the others are its current state
(`stepdiff.app.annotating.events`).

The order of changes is that of events: a clock may move back. Times are for people, and for the limit of a pair.

Unique constraints keep the rules of assignment whatever the program does: one assignment a person and pair, and one
assignment a pair and slot, where a pair has as many slots as people annotate it.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
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
    Column("slot", Integer),  # 1 to the number of people of a pair; null: takes no place
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
_TRIGGERS = {
    "sqlite": (
        "DROP TRIGGER IF EXISTS no_update_of_events",
        f"CREATE TRIGGER no_update_of_events BEFORE UPDATE ON events WHEN NOT ({_SAVED_AGAIN}) "
        "BEGIN SELECT RAISE(ABORT, 'events are never changed'); END",
        "DROP TRIGGER IF EXISTS no_delete_of_events",
        "CREATE TRIGGER no_delete_of_events BEFORE DELETE ON events "
        "BEGIN SELECT RAISE(ABORT, 'events are never changed'); END",
    ),
    "postgresql": (
        "CREATE OR REPLACE FUNCTION refuse_change_of_events() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF TG_OP = 'UPDATE' THEN IF {_SAVED_AGAIN} THEN RETURN NEW; END IF; END IF; "
        "RAISE EXCEPTION 'events are never changed'; END $$",
        "DROP TRIGGER IF EXISTS no_change_of_events ON events",
        "CREATE TRIGGER no_change_of_events BEFORE DELETE OR TRUNCATE ON events "
        "EXECUTE FUNCTION refuse_change_of_events()",
        "DROP TRIGGER IF EXISTS no_update_of_events ON events",
        "CREATE TRIGGER no_update_of_events BEFORE UPDATE ON events FOR EACH ROW "
        "EXECUTE FUNCTION refuse_change_of_events()",
    ),
}


def protect_events(connection: Connection) -> None:
    """Make the database refuse changes of events."""
    for statement in _TRIGGERS[connection.dialect.name]:
        connection.exec_driver_sql(statement)
