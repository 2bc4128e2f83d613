"""Texts of many clips, in temporary files instead of memory.

The clips of a large data set have tens of gigabytes of narration, of which a batch reads some lines. They are written
once, when a training begins, and mapped; the files have no name, so they are gone when the process ends.

Guarantees
- no memory is held per text: files are mapped, and their pages can be dropped at any time
- texts keep the order in which they were added
"""

import tempfile
import weakref
from collections.abc import Iterable, Sequence
from operator import index
from typing import SupportsIndex, overload

import numpy as np
import polars as pl
from jaxtyping import Shaped

from stepdiff.common.errors import StepDiffError

_AT_ONCE = 2**16  # texts that are joined at a time


class Column:
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
                f"{tempfile.gettempdir()}: texts of clips cannot be written ({error.strerror}); set TMPDIR to a folder "
                "with more room"
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
        """blocks: clips, as `add` takes them; words: texts are cut to so many."""
        self.words = words
        self._data, self._ends, self._rows = Column("u1"), Column("<i8"), Column("<u4")
        self._mapped: tuple[np.ndarray, np.ndarray] | None = None
        self._end = 0
        for block in blocks:
            self.add(block)

    def add(self, clips: pl.DataFrame) -> None:
        """Append clips (key, text, row)."""
        for some in clips.iter_slices(_AT_ONCE):
            self._add(some)

    def _add(self, clips: pl.DataFrame) -> None:
        if clips.is_empty():
            return
        both = clips.select(pl.concat_list("key", "text").alias("both"))["both"].explode()
        ends = self._end + both.str.len_bytes().to_numpy().astype(np.int64).cumsum()
        self._data.add(np.frombuffer(both.str.join("").item().encode(), np.uint8))
        self._ends.add(ends)
        self._rows.add(clips["row"].to_numpy())
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

    @overload
    def __getitem__(self, place: SupportsIndex) -> tuple[str, str]: ...

    @overload
    def __getitem__(self, place: slice) -> list[tuple[str, str]]: ...

    def __getitem__(self, place: SupportsIndex | slice) -> tuple[str, str] | list[tuple[str, str]]:
        """Return key and text at a place."""
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        place = index(place)
        if not 0 <= place < len(self):
            raise IndexError(place)
        text = self._read(2 * place + 1)
        return self._read(2 * place), text if self.words is None else " ".join(text.split()[: self.words])

    def _read(self, number: int) -> str:
        """Return a key (even number) or a text (odd)."""
        if self._mapped is None:
            self._mapped = self._data.array(), self._ends.array()
        data, ends = self._mapped
        return data[int(ends[number - 1]) if number else 0 : int(ends[number])].tobytes().decode()
