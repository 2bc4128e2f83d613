"""Texts of many clips, and runs of consecutive clips of one video, in a temporary database instead of memory.

The clips of a large data set have tens of gigabytes of narration, of which a batch reads some lines. SQLite writes them
once, when a training begins, to a file in TMPDIR that has no name and is gone when the process ends.

Guarantees
- texts keep the order in which they were added; no memory is held per text
- the clips of a video are in the order of their end times, and of their ids where these are equal
- runs are numbered by the end of the first clip of their video, then by its id
"""

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import index
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import UInt32

from stepdiff.common.errors import StepDiffError

_IN_ORDER = """
CREATE TABLE ordered AS SELECT clip, total - number AS following FROM (
    SELECT rowid AS clip, count(*) OVER (PARTITION BY video) AS total, row_number() OVER by_end AS number,
        first_value(ends) OVER by_end AS first_end, first_value(key) OVER by_end AS first_key
    FROM clips WINDOW by_end AS (PARTITION BY video ORDER BY ends, key)
) WHERE total >= {length} ORDER BY first_end, first_key, number
"""
"""the clips of each video with enough of them, and how many of the video follow each"""


class Texts(Sequence[tuple[str, str]]):
    """Pairs (key, text) by place."""

    def __init__(self, blocks: Iterable[pl.DataFrame] = (), words: int | None = None) -> None:
        """blocks: clips (key, text, row, video, end in seconds); words: texts are cut to so many. StepDiffError: the
        disk is full."""
        self.words = words
        self._database = sqlite3.connect("", check_same_thread=False)  # a batch is read in another thread
        with _room():
            self._database.execute("PRAGMA cache_size = -65536")  # KiB, in which clips are sorted
            self._database.execute("CREATE TABLE clips (key TEXT, text TEXT, row INTEGER, video TEXT, ends REAL)")
            for block in blocks:
                clips = block.select("key", "text", "row", "video", "end").iter_rows()
                self._database.executemany("INSERT INTO clips VALUES (?, ?, ?, ?, ?)", clips)
        self._length = _count(self._database, "clips")

    @property
    def rows(self) -> UInt32[np.ndarray, " T"]:
        """Rows of the clips in the catalog."""
        return np.fromiter((row for (row,) in self._database.execute("SELECT row FROM clips")), np.uint32)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: Any) -> Any:
        """Return key and text at a place."""
        found = self._database.execute("SELECT key, text FROM clips WHERE rowid = ?", (index(place) + 1,)).fetchone()
        if found is None:
            raise IndexError(place)
        return found[0], _cut(found[1], self.words)


class Runs(Sequence[list[tuple[str, str]]]):
    """Runs of `length` consecutive (key, text) of one video."""

    def __init__(self, blocks: Iterable[pl.DataFrame], length: int, words: int | None = None) -> None:
        """blocks, words: as of Texts, whose errors it raises."""
        self.length, self.words = length, words
        self._database = Texts(blocks)._database
        with _room():
            self._database.execute(_IN_ORDER.format(length=length))
            starts = f"SELECT rowid AS first FROM ordered WHERE following >= {length - 1} ORDER BY rowid"
            self._database.execute(f"CREATE TABLE starts AS {starts}")
        self._length = _count(self._database, "starts")

    @property
    def rows(self) -> UInt32[np.ndarray, " R"]:
        """Rows of the catalog of the clips in any run."""
        in_runs = "SELECT row FROM ordered JOIN clips ON clips.rowid = clip"
        return np.fromiter((row for (row,) in self._database.execute(in_runs)), np.uint32)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: Any) -> Any:
        """Return the run of that number."""
        run = (
            "SELECT key, text FROM starts JOIN ordered ON ordered.rowid BETWEEN first AND first + ? "
            "JOIN clips ON clips.rowid = clip WHERE starts.rowid = ? ORDER BY ordered.rowid"
        )
        place = range(len(self))[index(number)] + 1
        return [(key, _cut(text, self.words)) for key, text in self._database.execute(run, (self.length - 1, place))]


@contextmanager
def _room() -> Iterator[None]:
    """Turn the error of a full disk into one line."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StepDiffError(
            f"{tempfile.gettempdir()}: texts of clips cannot be written ({error}); set TMPDIR to a folder with more "
            "room"
        ) from error


def _count(database: sqlite3.Connection, table: str) -> int:
    return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _cut(text: str, words: int | None) -> str:
    return text if words is None else " ".join(text.split()[:words])
