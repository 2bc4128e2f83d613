"""Runs of consecutive clips of one video, by number, in arrays.

Guarantees
- the clips of a video are in the order of their end times, and of their ids where these are equal
- runs are numbered by the end of the first clip of their video, then by its id
- memory: four bytes per clip and twelve per video, and a few more for the clips that are sorted at a time
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import index
from typing import SupportsIndex, overload

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64, UInt32, UInt64

from heads.data.texts import Column, Texts

SORTED = 2**22  # clips that are sorted at a time


class Runs(Sequence[list[tuple[str, str]]]):
    """Runs of `length` consecutive (key, text) of one video."""

    def __init__(self, blocks: Iterable[pl.DataFrame], length: int, words: int | None = None) -> None:
        """blocks: clips (key, text, row, video, end in seconds); words: texts are cut to so many."""
        self.length, self._texts = length, Texts(words=words)
        ends, videos = Column("<f8"), Column("<u8")
        for block in blocks:
            self._texts.add(block)
            ends.add(block["end"].fill_null(float("-inf")).to_numpy())
            videos.add(block["video"].hash().to_numpy())
        self._places, self._first, self._before = self._numbered(ends.array(), videos.array())

    def __len__(self) -> int:
        return int(self._before[-1])

    @overload
    def __getitem__(self, number: SupportsIndex) -> list[tuple[str, str]]: ...

    @overload
    def __getitem__(self, number: slice) -> list[list[tuple[str, str]]]: ...

    def __getitem__(self, number: SupportsIndex | slice) -> list[tuple[str, str]] | list[list[tuple[str, str]]]:
        """Return the run of that number."""
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
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
        """Return the places of clips in runs, video by video; then, for each video in the order of its runs, its first
        clip among them, and the number of runs before it, with the number of all runs at the end."""
        places, firsts, counts, begun = [np.empty(0, np.uint32)], [], [], 0
        for own in self._sorted(ends, videos):
            changes = np.flatnonzero(np.diff(videos[own]))
            begin, end = np.append(0, changes + 1), np.append(changes + 1, len(own))
            count = end - begin
            long = count >= self.length
            kept = own[np.repeat(long, count)]
            firsts.append(begun + np.append(0, np.cumsum(count[long]))[:-1])
            counts.append(count[long])
            places.append(kept.astype(np.uint32))
            begun += len(kept)
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
            own = np.concatenate(
                [at + np.flatnonzero(videos[at : at + SORTED] % parts == part) for at in range(0, len(ends), SORTED)]
            )
            own = own[np.lexsort((ends[own], videos[own]))]
            same = _repeats(ends[own]) & _repeats(videos[own])
            for start, end in _stretches(same):
                own[start:end] = sorted(own[start:end].tolist(), key=self._texts.key)
            if len(own):
                yield own

    def _ordered(self, places: np.ndarray, ends: Float64[np.ndarray, " T"]) -> Int64[np.ndarray, " V"]:
        """Return the order of clips, one of each video, by end and key."""
        end = ends[places]
        order = np.argsort(end, kind="stable")
        for start, stop in _stretches(_repeats(end[order])):
            order[start:stop] = sorted(
                order[start:stop].tolist(), key=lambda video: self._texts.key(int(places[video]))
            )
        return order


def _repeats(values: np.ndarray) -> Bool[np.ndarray, " _"]:
    """Return whether each of N values equals the next one."""
    return values[1:] == values[:-1]


def _stretches(same: Bool[np.ndarray, " _"]) -> Iterator[tuple[int, int]]:
    """Yield start and end of stretches of equal elements; same [N - 1]: whether an element equals the next one."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield start, end + 1
