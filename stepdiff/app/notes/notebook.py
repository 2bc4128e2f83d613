"""Notes about pairs, each at a moment of one video, in a database: SQLite next to the store, or the
one of --database.

Guarantees
- a note, an edit or a deletion is in the database when its call returns, and survives a power
  failure
- the database keeps every text of a note, also of a deleted one: its rows are never changed
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    select,
)

from stepdiff.app.annotating.database import Database
from stepdiff.app.annotating.events import pair_key, utc
from stepdiff.app.site import RefusedError, Site, UnknownError
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.testsets import Pair

Video = Literal[1, 2]
_METADATA = MetaData()
_notes = Table(
    "notes",
    _METADATA,
    Column(
        "seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("note", String(32), nullable=False, index=True),
    Column("pair", String(64), nullable=False, index=True),  # the same for both orders of its clips
    Column("at", Float(53), nullable=False),  # seconds since 1970
    Column("kind", String(16), nullable=False),  # added, edited, deleted
    Column("data", Text, nullable=False),  # JSON: the fields of a note that the row sets
    sqlite_autoincrement=True,
)


@dataclass(frozen=True)
class Note:
    """A note as it is now."""

    id: str
    reference: str  # clip id of Video 1
    candidate: str  # clip id of Video 2
    video: Video  # the one that the note is about
    seconds: float  # in the clip
    author: str
    text: str
    written: str  # UTC
    edited: str = ""  # UTC; empty: never

    @property
    def clip(self) -> str:
        """Id of the clip that the note is about."""
        return self.reference if self.video == 1 else self.candidate

    def seen_from(self, pair: Pair) -> "Note":
        """Return the note with its clips in the order of `pair`."""
        if (self.reference, self.candidate) == pair:
            return self
        return replace(
            self, reference=pair[0], candidate=pair[1], video=1 if self.video == 2 else 2
        )


class Notebook:
    """The notes of a site. The database is opened, and created, with the first note."""

    def __init__(self, site: Site, clock: Callable[[], float] = time.time) -> None:
        self._url, self._store, self._clock = site.options.database, site.store.path, clock
        self._lock = threading.Lock()
        self._database: Database | None = None

    def of_pair(self, pair: Pair) -> list[Note]:
        """Return the notes of a pair, in any order of its clips, by their moments."""
        notes = [note.seen_from(pair) for note in self._read(_notes.c.pair == _key(pair))]
        return sorted(notes, key=lambda note: (note.seconds, note.video))

    def every(self) -> list[Note]:
        """Return all notes, by pair and moment."""
        return sorted(
            self._read(),
            key=lambda note: (note.reference, note.candidate, note.seconds, note.video),
        )

    def add(self, pair: Pair, video: Video, seconds: float, author: str, text: str) -> Note:
        values: dict[str, Any] = {
            "reference": pair[0],
            "candidate": pair[1],
            "video": video,
            "seconds": seconds,
        }
        values |= {"author": author, "text": text}
        note = Note(uuid4().hex, **values, written="")
        with self._opened().write() as connection:
            return replace(note, written=utc(self._record(connection, note, "added", **values)))

    def edit(self, identity: str, author: str, text: str) -> Note:
        """Change the text of a note. UnknownError: no such note; RefusedError: it is another
        author's."""
        with self._opened().write() as connection:
            note = _own(connection, identity, author)
            return replace(
                note, text=text, edited=utc(self._record(connection, note, "edited", text=text))
            )

    def delete(self, identity: str, author: str) -> None:
        """Remove a note from lists and exports; its rows stay. Raises as `edit`."""
        with self._opened().write() as connection:
            self._record(connection, _own(connection, identity, author), "deleted")

    def close(self) -> None:
        if self._database is not None:
            self._database.close()

    def _record(self, connection: Connection, note: Note, kind: str, **data: Any) -> float:
        """Add a row; return its time."""
        now, key = self._clock(), _key((note.reference, note.candidate))
        row = {"note": note.id, "pair": key, "at": now, "kind": kind, "data": json.dumps(data)}
        connection.execute(insert(_notes).values(row))
        return now

    def _read(self, *conditions: Any) -> list[Note]:
        if self._url is None and not (isinstance(self._store, Path) and self._file.exists()):
            return []
        with self._opened().read() as connection:
            return _select(connection, *conditions)

    @property
    def _file(self) -> Path:
        path = self._store
        if not isinstance(path, Path):
            raise StepDiffError(
                f"notes about a store at {path} need a database: start the server with --database "
                "URL"
            )
        return path.absolute().with_name(f"{path.absolute().name}.notes.db")

    def _opened(self) -> Database:
        with self._lock:
            if self._database is None:
                self._database = Database.open(
                    self._url or f"sqlite:///{self._file}", _METADATA, "notes", "FALSE"
                )
            return self._database


def _key(pair: Pair) -> str:
    return pair_key(json.dumps(sorted(pair)))


def _own(connection: Connection, identity: str, author: str) -> Note:
    notes = _select(connection, _notes.c.note == identity)
    if not notes:
        raise UnknownError("this note does not exist, or was deleted: load the page again")
    if notes[0].author != author:
        raise RefusedError(f"this note is by {notes[0].author}: only its author changes it", 403)
    return notes[0]


def _select(connection: Connection, *conditions: Any) -> list[Note]:
    """Return the notes that rows make, without deleted ones."""
    notes: dict[str, Note] = {}
    for row in connection.execute(select(_notes).where(*conditions).order_by(_notes.c.seq)):
        data = json.loads(row.data)
        if row.kind == "added":
            notes[row.note] = Note(row.note, **data, written=utc(row.at))
        elif row.kind == "edited":
            notes[row.note] = replace(notes[row.note], **data, edited=utc(row.at))
        else:
            del notes[row.note]
    return list(notes.values())
