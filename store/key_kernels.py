"""The loops of `store.packed_keys`, compiled: a key is read by words of eight bytes, wherever it begins."""

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from store.compiled import compiled

_WORD = 8  # bytes
_NEAR = 4  # places of the first step


@compiled
def _mixed(state: np.uint64) -> np.uint64:
    """splitmix64: its constant step, then its finaliser."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@compiled
def _ended(word: np.uint64, rest: int) -> np.uint64:
    """`word`, zeros past the `rest` bytes that belong to the key."""
    if rest >= _WORD:
        return word
    return word & ((np.uint64(1) << np.uint64(8 * rest)) - np.uint64(1))


@compiled
def hash_keys(
    words: UInt64[np.ndarray, " bytes"], offsets: Int64[np.ndarray, " ends"], hashes: UInt64[np.ndarray, " K"]
) -> None:
    """Fill `hashes` with those of the keys between `offsets`; `words` are the eight bytes from each byte on."""
    for key in range(len(hashes)):
        at, end = offsets[key], offsets[key + 1]
        state = _mixed(np.uint64(end - at))
        while at < end:
            state = _mixed(state ^ _ended(words[at], end - at))
            at += _WORD
        hashes[key] = state


@compiled
def lower_bounds(
    hashes: UInt64[np.ndarray, " N"], sought: UInt64[np.ndarray, " P"], places: Int64[np.ndarray, " P"]
) -> None:
    """Fill `places` with the first place in `hashes`, ascending, whose hash is not below each of `sought`.

    Hashes are spread evenly, so that a hash tells nearly where it stands, and the one found there tells it to a few
    places: from there the search doubles its step, then halves it.
    """
    count, density = len(hashes), len(hashes) / 2.0**64
    for key in range(len(sought)):
        wanted = sought[key]
        guess = min(int(wanted * density), count - 1)
        if hashes[guess] < wanted:
            guess = min(guess + int((wanted - hashes[guess]) * density), count - 1)
        else:
            guess = max(guess - int((hashes[guess] - wanted) * density), 0)
        low, high, step = guess, guess, _NEAR
        while low > 0 and hashes[low - 1] >= wanted:  # all below `low` are below `wanted`
            high, low, step = low, max(low - step, 0), 2 * step
        while high < count and hashes[high] < wanted:  # none from `high` on is
            low, high, step = high + 1, min(high + step, count), 2 * step
        while low < high:
            middle = (low + high) // 2
            if hashes[middle] < wanted:
                low = middle + 1
            else:
                high = middle
        places[key] = low


@compiled
def compare(
    words: UInt64[np.ndarray, " bytes"],
    starts: Int64[np.ndarray, " P"],
    ends: Int64[np.ndarray, " P"],
    other_words: UInt64[np.ndarray, " other_bytes"],
    other_starts: Int64[np.ndarray, " P"],
    same: Bool[np.ndarray, " P"],
) -> None:
    """Leave true in `same`, true for keys of one length, where those from `starts` and `other_starts` on are equal."""
    for pair in range(len(same)):
        at, end, other = starts[pair], ends[pair], other_starts[pair]
        while same[pair] and at < end:
            same[pair] = _ended(words[at] ^ other_words[other], end - at) == 0
            at, other = at + _WORD, other + _WORD
