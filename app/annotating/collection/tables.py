"""Tables of collected annotations. `events` is the truth; the others are its current state (`app.annotating.events`).

Unique constraints keep the rules of assignment whatever the program does: one assignment a person and pair, and one
assignment a pair and slot, where a pair has as many slots as people annotate it.
"""

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
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

people = Table(
    "people",
    METADATA,
    Column("id", _Key, primary_key=True, autoincrement=False),  # the event that added the person
    Column("name", Text, nullable=False, unique=True),
    Column("role", String(16), nullable=False),  # annotator, admin
    Column("origin", String(16), nullable=False),  # link, name, import
    Column("token", String(64), unique=True),  # its SHA-256; null: no link opens the pages
    Column("revoked", Float(53)),
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
    Column("submitted", Float(53)),
    Column("number", Integer, nullable=False),  # of the last save
    Column("form", Text, nullable=False),  # JSON: what was typed
    Column("answer", Text),  # JSON: the last submitted answer
    UniqueConstraint("person", "pair"),
    UniqueConstraint("pair", "slot"),
)
Index("assignments_of_person", assignments.c.person, assignments.c.state, assignments.c.touched)
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
    Column("at", Float(53), nullable=False),
    Column("answer", Text, nullable=False),
)

for _change in ("UPDATE", "DELETE"):
    event.listen(
        events,
        "after_create",
        DDL(
            f"CREATE TRIGGER no_{_change.lower()}_of_events BEFORE {_change} ON events "
            "BEGIN SELECT RAISE(ABORT, 'events are never changed'); END"
        ).execute_if(dialect="sqlite"),
    )
event.listen(
    events,
    "after_create",
    DDL(
        "CREATE FUNCTION refuse_change_of_events() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'events are never changed'; END $$"
    ).execute_if(dialect="postgresql"),
)
event.listen(
    events,
    "after_create",
    DDL(
        "CREATE TRIGGER no_change_of_events BEFORE UPDATE OR DELETE OR TRUNCATE ON events "
        "EXECUTE FUNCTION refuse_change_of_events()"
    ).execute_if(dialect="postgresql"),
)
