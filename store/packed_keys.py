"""Keys, one after another in one buffer, and their 64-bit hashes.

Guarantees
- a key has the same hash on every machine and in every version: a file of hashes names HASH
- keys are equal where their bytes are, whatever their hashes say
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64, UInt8, UInt64

HASH = "splitmix64 of length, then of state xor each little-endian word"
"""the hash function, as files name it"""
SPARE = 8
"""bytes after the last key, so that every key may be read by words"""
_WORD = 8  # bytes
_RUN = 2**20  # keys hashed at a time


@dataclass(frozen=True)
class PackedKeys:
    """K keys in UTF-8."""

    data: UInt8[np.ndarray, " bytes"]
    """the keys, one after another, and SPARE bytes"""
    offsets: Int64[np.ndarray, " ends"]
    """where in `data` each key begins, and where the last ends: K + 1 places"""

    def __len__(self) -> int:
        """K."""
        return len(self.offsets) - 1

    def take(self, places: Int64[np.ndarray, " P"]) -> list[str]:
        """The keys at `places`."""
        data = self.data.data
        spans = zip(self.offsets[places].tolist(), self.offsets[places + 1].tolist(), strict=True)
        return [str(data[start:end], "utf-8") for start, end in spans]

    def hashes(self) -> UInt64[np.ndarray, " K"]:
        """The hash of every key."""
        runs = [self._hashes(np.arange(at, min(at + _RUN, len(self)))) for at in range(0, len(self), _RUN)]
        return np.concatenate([np.empty(0, np.uint64), *runs])

    def equal(
        self, places: Int64[np.ndarray, " P"], others: "PackedKeys", theirs: Int64[np.ndarray, " P"]
    ) -> Bool[np.ndarray, " P"]:
        """Whether the key at each of `places` is the one of `others` at `theirs`."""
        starts, other_starts = self.offsets[places], others.offsets[theirs]
        lengths = self.offsets[places + 1] - starts
        same = lengths == others.offsets[theirs + 1] - other_starts
        left, step = np.flatnonzero(same & (lengths > 0)), 0
        while len(left):
            rest = lengths[left] - step
            differ = _ended(self._words(starts[left] + step) ^ others._words(other_starts[left] + step), rest) != 0
            same[left[differ]] = False
            left = left[~differ & (rest > _WORD)]
            step += _WORD
        return same

    def _hashes(self, places: Int64[np.ndarray, " P"]) -> UInt64[np.ndarray, " P"]:
        starts = self.offsets[places]
        lengths = self.offsets[places + 1] - starts
        state = _mixed(lengths.astype(np.uint64))
        left, step = np.flatnonzero(lengths), 0
        while len(left):
            rest = lengths[left] - step
            state[left] = _mixed(state[left] ^ _ended(self._words(starts[left] + step), rest))
            left = left[rest > _WORD]
            step += _WORD
        return state

    def _words(self, at: Int64[np.ndarray, " P"]) -> UInt64[np.ndarray, " P"]:
        """The eight bytes from each of `at` on."""
        windows = np.ndarray(len(self.data) - _WORD + 1, "<u8", self.data, strides=(1,))
        return windows[at].astype(np.uint64, copy=False)


def pack(keys: Sequence[str] | pl.Series) -> PackedKeys:
    """`keys`, packed. A lone surrogate, which no key in a catalog has, equals nothing there."""
    if isinstance(keys, pl.Series):
        runs = (keys.slice(at, _RUN).str.join("").item() for at in range(0, len(keys), _RUN))
        pieces = [run.encode() for run in runs]
        lengths = keys.str.len_bytes().to_numpy().astype(np.int64)
    elif (text := "".join(keys)).isascii():  # most are, and that is twice as fast
        pieces = [text.encode()]
        lengths = np.fromiter(map(len, keys), np.int64, len(keys))
    else:
        pieces = [key.encode(errors="surrogatepass") for key in keys]
        lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    data = np.frombuffer(b"".join([*pieces, bytes(SPARE)]), np.uint8)
    return PackedKeys(data, np.concatenate([[0], np.cumsum(lengths)]))


def _mixed(state: UInt64[np.ndarray, " K"]) -> UInt64[np.ndarray, " K"]:
    """splitmix64: its constant step, then its finaliser."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _ended(words: UInt64[np.ndarray, " P"], rest: Int64[np.ndarray, " P"]) -> UInt64[np.ndarray, " P"]:
    """`words`, zeros past the `rest` bytes that belong to the key; in place."""
    if (rest < _WORD).any():
        bits = 8 * np.minimum(rest, _WORD - 1).astype(np.uint64)
        ends = (np.uint64(1) << bits) - np.uint64(1)
        words &= np.where(rest < _WORD, ends, ~np.uint64(0))
    return words
