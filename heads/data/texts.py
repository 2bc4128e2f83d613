"""Texts of many clips, and runs of consecutive clips of one video, in temporary files instead of
memory.

The clips of a large data set have tens of gigabytes of narration; a batch reads some lines of it.
It is written once, when a training begins, and mapped; the files have no name, so they are gone
when the process ends.

Guarantees
- texts keep the order in which they were added; no memory is held per text
- the clips of a video are in the order of their end times, and of their ids where these are equal
- runs are numbered by the end of the first clip of their video, then by its id
"""

import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import index
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64, Shaped, UInt32, UInt64

from stepdiff_core.errors import StepDiffError

SORTED = 2**22  # clips that are sorted at a time
_AT_ONCE = 2**16  # texts that are joined at a time


class TextColumn:
    """An array that grows in a temporary file."""

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype)
        self._file = tempfile.TemporaryFile(prefix="stepdiff-")
        weakref.finalize(self, self._file.close)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, values: Shaped[np.ndarray, " V"]) -> None:
        """Append values. StepDiffError: the disk is full."""
        try:
            self._file.write(np.ascontiguousarray(values, self._dtype).data)
            self._file.flush()
        except OSError as error:
            raise StepDiffError(
                f"{tempfile.gettempdir()}: texts of clips cannot be written ({error.strerror}); "
                "set TMPDIR to a folder with more room"
            ) from error
        self._length += len(values)

    def array(self) -> Shaped[np.ndarray, " V"]:
        """Return all values, mapped."""
        if not self._length:
            return np.empty(0, self._dtype)
        return np.memmap(self._file, self._dtype, "r", shape=(self._length,))


class Texts(Sequence[tuple[str, str]]):
    """Pairs (key, text) by place. `rows` are the clips' rows in the catalog."""

    def __init__(self, blocks: Iterable[pl.DataFrame] = (), words: int | None = None) -> None:
        """blocks: clips, as `add` takes them; words: texts are cut to this many."""
        self.words = words
        self._data, self._ends, self._rows = TextColumn("u1"), TextColumn("<i8"), TextColumn("<u4")
        self._mapped: tuple[np.ndarray, np.ndarray] | None = None
        self._end = 0
        for block in blocks:
            self.add(block)

    def add(self, clips: pl.DataFrame) -> None:
        """Append clips (key, text, row)."""
        for part in clips.iter_slices(_AT_ONCE) if len(clips) else ():
            both = part.select(pl.concat_list("key", "text").alias("both"))["both"].explode()
            ends = self._end + both.str.len_bytes().to_numpy().astype(np.int64).cumsum()
            self._data.add(np.frombuffer(both.str.join("").item().encode(), np.uint8))
            self._ends.add(ends)
            self._rows.add(part["row"].to_numpy())
            self._end, self._mapped = int(ends[-1]), None

    @property
    def rows(self) -> Shaped[np.ndarray, " T"]:
        """Rows of the clips in the catalog."""
        return self._rows.array()

    def key(self, place: int) -> str:
        """Return the key of the clip at a place."""
        return self._read(2 * place)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        """Return key and text at a place."""
        place = index(place)
        if not 0 <= place < len(self):
            raise IndexError(place)
        text = self._read(2 * place + 1)
        return self._read(2 * place), text if self.words is None else " ".join(
            text.split()[: self.words]
        )

    def _read(self, number: int) -> str:
        """Return a key (even number) or a text (odd)."""
        if self._mapped is None:
            self._mapped = self._data.array(), self._ends.array()
        data, ends = self._mapped
        return data[int(ends[number - 1]) if number else 0 : int(ends[number])].tobytes().decode()


class TextRuns(Sequence[list[tuple[str, str]]]):
    """Runs of `length` consecutive (key, text) of one video."""

    def __init__(
        self, blocks: Iterable[pl.DataFrame], length: int, words: int | None = None
    ) -> None:
        """blocks: clips (key, text, row, video, end in seconds); words: texts are cut to this
        many."""
        self.length, self._texts = length, Texts(words=words)
        ends, videos = TextColumn("<f8"), TextColumn("<u8")
        for block in blocks:
            self._texts.add(block)
            ends.add(block["end"].fill_null(float("-inf")).to_numpy())
            videos.add(block["video"].hash().to_numpy())
        self._places, self._first, self._before = self._numbered(ends.array(), videos.array())

    def __len__(self) -> int:
        return int(self._before[-1])

    def __getitem__(self, number: Any) -> Any:
        """Return the run of that number."""
        number = range(len(self))[index(number)]
        video = int(np.searchsorted(self._before, number, side="right")) - 1
        start = int(self._first[video]) + number - int(self._before[video])
        return [self._texts[int(place)] for place in self._places[start : start + self.length]]

    @property
    def rows(self) -> UInt32[np.ndarray, " R"]:
        """Rows of the catalog of the clips in any run."""
        return np.asarray(self._texts.rows[self._places])

    def _numbered(
        self, ends: Float64[np.ndarray, " T"], videos: UInt64[np.ndarray, " T"]
    ) -> tuple[UInt32[np.ndarray, " P"], UInt32[np.ndarray, " V"], Int64[np.ndarray, " V+1"]]:
        """Return the places of clips in runs, video by video; then, for each video in the order of
        its runs, its first clip among them, and the number of runs before it, with the number of
        all runs at the end."""
        places, firsts, counts, begun = [np.empty(0, np.uint32)], [], [], 0
        for by_video in self._sorted(ends, videos):
            changes = np.flatnonzero(np.diff(videos[by_video]))
            begin, end = np.append(0, changes + 1), np.append(changes + 1, len(by_video))
            count = end - begin
            long = count >= self.length
            in_long = by_video[np.repeat(long, count)]
            firsts.append(begun + np.append(0, np.cumsum(count[long]))[:-1])
            counts.append(count[long])
            places.append(in_long.astype(np.uint32))
            begun += len(in_long)
        in_runs = np.concatenate(places)
        first = np.concatenate([np.empty(0, np.int64), *firsts])
        number = np.concatenate([np.empty(0, np.int64), *counts]) - self.length + 1
        order = self._ordered(in_runs[first], ends)
        return in_runs, first[order].astype(np.uint32), np.append(0, np.cumsum(number[order]))

    def _sorted(
        self, ends: Float64[np.ndarray, " T"], videos: UInt64[np.ndarray, " T"]
    ) -> Iterator[Int64[np.ndarray, " S"]]:
        """Yield places of clips, by video, end and key; all clips of a video at once."""
        parts = -(-len(ends) // SORTED)
        for part in range(parts):
            part_places = np.concatenate(
                [
                    at + np.flatnonzero(videos[at : at + SORTED] % parts == part)
                    for at in range(0, len(ends), SORTED)
                ]
            )
            part_places = part_places[np.lexsort((ends[part_places], videos[part_places]))]
            same = _repeats(ends[part_places]) & _repeats(videos[part_places])
            _order_equal(part_places, same, self._texts.key)
            if len(part_places):
                yield part_places

    def _ordered(
        self, places: np.ndarray, ends: Float64[np.ndarray, " T"]
    ) -> Int64[np.ndarray, " V"]:
        """Return the order of clips, one of each video, by end and key."""
        end = ends[places]
        order = np.argsort(end, kind="stable")
        _order_equal(order, _repeats(end[order]), lambda video: self._texts.key(int(places[video])))
        return order


def _repeats(values: np.ndarray) -> Bool[np.ndarray, " _"]:
    """Return whether each of N values equals the next one."""
    return values[1:] == values[:-1]


def _order_equal(
    places: np.ndarray, same: Bool[np.ndarray, " _"], key: Callable[[int], str]
) -> None:
    """Sort stretches of N equal elements in place by their keys; same [N - 1]: whether an element
    equals the next."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    for start, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        places[start : last + 1] = sorted(places[start : last + 1].tolist(), key=key)
