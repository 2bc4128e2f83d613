"""The compiled loops of `store.catalog.keys`: keys are read by words of eight bytes at any offset."""

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from common.compiled import compiled

_WORD = 8  # bytes
_REFINED = 2  # times that a guess is refined
_NEAR = 2  # places of the first step
_TOGETHER = 1024  # keys compared step by step together: what is noted of them stays in the nearest cache


@compiled
def _mixed(state: np.uint64) -> np.uint64:
    """Return the next splitmix64 state: its constant step, then its finaliser."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@compiled
def _ended(word: np.uint64, rest: int) -> np.uint64:
    """Return `word`, zeros past the `rest` bytes that belong to the key."""
    if rest <= 0:
        return np.uint64(0)
    return word & (~np.uint64(0) >> np.uint64(8 * max(_WORD - rest, 0)))


@compiled
def hash_keys(
    words: UInt64[np.ndarray, " bytes"], offsets: Int64[np.ndarray, " ends"], gap: int, hashes: UInt64[np.ndarray, " K"]
) -> None:
    """Fill `hashes` with those of the keys that begin at `offsets` and end `gap` bytes before the next.

    `words` are the eight bytes from each byte on.
    """
    for key in range(len(hashes)):
        at, end = offsets[key], offsets[key + 1] - gap
        state = _mixed(np.uint64(end - at))
        while at < end:
            state = _mixed(state ^ _ended(words[at], end - at))
            at += _WORD
        hashes[key] = state


@compiled
def lower_bounds(
    hashes: UInt64[np.ndarray, " N"],
    sought: UInt64[np.ndarray, " P"],
    places: Int64[np.ndarray, " P"],
    hits: Bool[np.ndarray, " P"],
) -> bool:
    """Fill `places` with the first place in `hashes` not below each of `sought`, `hits` with whether that is it.

    Hashes are uniform, so a hash predicts its place; a search from there doubles its step, then halves it. Returns
    False where `hashes` do not ascend around a place.
    """
    count, density, ascending = len(hashes), len(hashes) / 2.0**64, True
    for key in range(len(sought)):  # a loop without a branch waits for many places of memory at once
        wanted = sought[key]
        guess = int(wanted * density)
        for _ in range(_REFINED):
            guess = min(max(guess, 0), count - 1)
            guess += int((np.float64(wanted) - np.float64(hashes[guess])) * density)
        places[key] = min(max(guess, 0), count - 1)
    for key in range(len(sought)):
        wanted, low, high, step = sought[key], places[key], places[key], _NEAR
        while low > 0 and hashes[low - 1] >= wanted:  # what is before `low` is below `wanted`
            high, low, step = low, max(low - step, 0), 2 * step
        while high < count and hashes[high] < wanted:  # what is from `high` on is not
            low, high, step = high + 1, min(high + step, count), 2 * step
        while low < high:
            middle = (low + high) // 2
            if hashes[middle] < wanted:
                low = middle + 1
            else:
                high = middle
        places[key] = low
        hits[key] = low < count and hashes[low] == wanted
        ascending &= (low == 0 or hashes[low - 1] < wanted) and (low == count or hashes[low] >= wanted)
    return ascending


@compiled
def compare(
    words: UInt64[np.ndarray, " bytes"],
    offsets: Int64[np.ndarray, " ends"],
    gap: int,
    places: Int64[np.ndarray, " P"],
    other_words: UInt64[np.ndarray, " other_bytes"],
    other_offsets: Int64[np.ndarray, " other_ends"],
    other_gap: int,
    other_places: Int64[np.ndarray, " P"],
    same: Bool[np.ndarray, " P"],
) -> None:
    """Fill `same` with whether the key at each of `places` is the other one; keys lie as in `hash_keys`."""
    # Loops without a branch, each of which reads from one place, wait for many places of memory at once.
    count = min(len(same), _TOGETHER)
    at, end, other = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    differ = np.empty(count, np.uint64)
    for start in range(0, len(same), _TOGETHER):
        count = min(len(same) - start, _TOGETHER)
        for n in range(count):
            at[n] = offsets[places[start + n]]
        for n in range(count):
            end[n] = offsets[places[start + n] + 1] - gap
        for n in range(count):
            other[n] = other_offsets[other_places[start + n]]
            length = other_offsets[other_places[start + n] + 1] - other_gap - other[n]
            same[start + n] = length == end[n] - at[n]
            # A key of another length is compared only where it begins, which both have.
            end[n] = end[n] if same[start + n] else at[n]
        for n in range(count):
            differ[n] = words[at[n]] ^ other_words[other[n]]
        for n in range(count):  # both ends, so that the words between are near the core when they are looked at
            last = max(end[n] - at[n] - _WORD, 0)
            differ[n] |= words[at[n] + last] ^ other_words[other[n] + last]
        for n in range(count):
            same[start + n] &= _ended(differ[n], end[n] - at[n]) == 0
        for n in range(count):
            mine, theirs = at[n] + _WORD, other[n] + _WORD
            while same[start + n] and mine < end[n] - _WORD:
                same[start + n] = words[mine] == other_words[theirs]
                mine, theirs = mine + _WORD, theirs + _WORD
