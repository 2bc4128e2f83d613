"""Keys, packed into one buffer, and their 64-bit hashes.

Guarantees
- a key has the same hash on every machine and in every version: a file of hashes names HASH
- keys are equal if and only if their bytes are, whatever their hashes are
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64, UInt8, UInt64

HASH = "splitmix64 of length, then of state xor each little-endian word"
"""the hash function, as files name it"""
SPARE = 8
"""zero bytes after the last key, so that every key can be read by words"""
_WORD = 8  # bytes
_RUN = 2**20  # keys joined at a time


@dataclass(frozen=True)
class PackedKeys:
    """K keys in UTF-8."""

    data: UInt8[np.ndarray, " bytes"]
    """the keys, one after another, and SPARE bytes"""
    offsets: Int64[np.ndarray, " ends"]
    """offset in `data` of each key, and of the end: K + 1 values"""
    gap: int = 0
    """bytes between a key's end and the next one's beginning"""

    def __len__(self) -> int:
        """Return K."""
        return len(self.offsets) - 1

    def take(self, places: Int64[np.ndarray, " P"]) -> list[str]:
        """Return the keys at `places`."""
        data = self.data.data
        spans = zip(self.offsets[places].tolist(), (self.offsets[places + 1] - self.gap).tolist(), strict=True)
        return [str(data[start:end], "utf-8") for start, end in spans]

    def hashes(self) -> UInt64[np.ndarray, " K"]:
        """Return the hash of every key."""
        from store.catalog import key_kernels  # imports numba: as slow as all other imports

        hashes = np.empty(len(self), np.uint64)
        key_kernels.hash_keys(self._words, self.offsets, self.gap, hashes)
        return hashes

    def equal(
        self, places: Int64[np.ndarray, " P"], others: "PackedKeys", theirs: Int64[np.ndarray, " P"]
    ) -> Bool[np.ndarray, " P"]:
        """Return whether the key at each of `places` is the one of `others` at `theirs`."""
        from store.catalog import key_kernels

        same = np.empty(len(places), bool)
        mine, other = ((keys._words, keys.offsets, keys.gap) for keys in (self, others))
        key_kernels.compare(*mine, places, *other, theirs, same)
        return same

    @property
    def _words(self) -> UInt64[np.ndarray, " bytes"]:
        """The eight bytes from each byte on."""
        return np.ndarray(len(self.data) - _WORD + 1, "<u8", self.data, strides=(1,))


def pack_to_ask(keys: Sequence[str] | pl.Series) -> PackedKeys:
    """Return `keys`, packed for a look-up, with gaps where that takes half the time of `pack`."""
    if not isinstance(keys, pl.Series) and (text := "\0".join(keys)).isascii():
        data = np.frombuffer((text + "\0" * (1 + SPARE)).encode(), np.uint8)
        ends = np.flatnonzero(data[:-SPARE] == 0)  # of the keys, unless one holds such a byte itself
        if len(ends) == len(keys):
            return PackedKeys(data, np.concatenate([[0], ends + 1]), gap=1)
    return pack(keys)


def pack(keys: Sequence[str] | pl.Series) -> PackedKeys:
    """Return `keys`, packed without gaps. A lone surrogate, which no key of a catalog has, equals none."""
    if isinstance(keys, pl.Series):
        runs = (keys.slice(at, _RUN).str.join("").item() for at in range(0, len(keys), _RUN))
        pieces = [run.encode() for run in runs]
        lengths = keys.str.len_bytes().to_numpy().astype(np.int64)
    else:
        pieces = [key.encode(errors="surrogatepass") for key in keys]
        lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    data = np.frombuffer(b"".join([*pieces, bytes(SPARE)]), np.uint8)
    return PackedKeys(data, np.concatenate([[0], np.cumsum(lengths)]))
