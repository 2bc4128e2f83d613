"""Normalised embeddings, read from the store.

Guarantees:
- every vector has length 1: a row that holds NaN, infinity or only zeros is refused, by its key.
- only_one_definition: the index, the queries and the negatives all normalise here, in float64.

How much memory a command may use, as people write it, how many rows fit it, and memory that is used again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from math import prod

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from common.errors import StepDiffError
from retrieval.queries.advice import command
from store import Store, View
from store.batches import Batches
from store.format.quantise import dequantise
from store.view import OK

BLOCK = 4096  # rows read at a time: 42 MB of float64 at 1,280 channels
MANY = 32  # rows of a block: to read each takes as long as to find out whether the block is in memory
BLOCK_BYTES = 32 * 2**20  # of float32, read ahead while a block like it is used; smaller ones cost more calls
BLOCK_ROWS = 2**15  # at most: 1,024 queries have scores of 128 MiB with them


def width(view: View, feature: str) -> int:
    """Channels D of an embedding; StepDiffError where `feature` is absent or no single vector."""
    flat = sorted(name for name, form in view.features.items() if len(form.shape) == 1)
    if feature not in flat:
        raise StepDiffError(
            f"view {view.entity}/{view.name} has no embedding called {feature}: "
            f"it has {', '.join(flat) or 'none'} (name one with --feature)"
        )
    return view.features[feature].shape[0]


def filled_rows(view: View) -> Int64[np.ndarray, " filled"]:
    """The rows whose features are there (status 1), rising."""
    return np.flatnonzero(view.status() == OK).astype(np.int64)


def normalised(
    store: Store, view: View, feature: str, rows: Int64[np.ndarray, " rows"]
) -> Float64[np.ndarray, "rows dim"]:
    """Embeddings of `rows`, each divided by its L2 norm. StepDiffError names a row that has none."""
    dim = width(view, feature)
    vectors = np.empty((len(rows), dim), np.float64)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        vectors[start : start + BLOCK] = view.read(feature, part, dtype="float32")
    vectors /= checked_norms(store, view, feature, rows, np.sum(vectors * vectors, axis=-1))[:, None]
    return vectors


def checked_norms(
    store: Store,
    view: View,
    feature: str,
    rows: Int64[np.ndarray, " rows"],
    squares: Float64[np.ndarray, " rows"],
) -> Float64[np.ndarray, " rows"]:
    """L2 norms from the sums of squares of embeddings. StepDiffError names a row that has no direction."""
    norms = np.sqrt(squares)
    for bad in np.flatnonzero(~np.isfinite(norms) | (norms == 0)):
        key = store.catalog(view.entity).keys(rows[bad : bad + 1])[0]
        what = "is all zeros" if norms[bad] == 0 else "holds NaN or infinity"
        raise StepDiffError(
            f"the {feature} of {key} in {view.entity}/{view.name} {what}: "
            f"run {command('python', '-m', 'store', 'verify', store.path)}"
        )
    return norms


def raw_blocks(
    view: View, feature: str, rows: Int64[np.ndarray, " rows"]
) -> Iterator[tuple[Int64[np.ndarray, " block"], Float32[np.ndarray, "block dim"]]]:
    """Embeddings of `rows` as they are stored, in float32, the next block read while one is used.

    What is float32 and in memory comes as it lies there. A block's memory is filled again with the one after the next.
    """
    most = min(max(BLOCK_BYTES // (4 * width(view, feature)), 1), BLOCK_ROWS)
    rows_a_block = 1 << (most.bit_length() - 1)  # a power of two, as shards are: few blocks lie in two of these
    for batch in Batches(view, feature, rows, batch_size=rows_a_block, shuffle=False, ahead=1, keep=1, in_place=True):
        vectors = batch.arrays[feature]
        if vectors.dtype == np.int8:
            yield batch.rows, dequantise(vectors, batch.arrays["scale"])
        else:
            yield batch.rows, vectors.astype(np.float32, copy=False)


def chosen(view: View, feature: str, rows: Int64[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows dim"]:
    """Embeddings of `rows`, rising, as they are stored, in float32. Where many of a stretch are wanted that is in
    memory they are copied from where they lie: to read each takes three times as long."""
    vectors = np.empty((len(rows), width(view, feature)), np.float32)
    read = np.ones(len(rows), bool)
    size = min(BLOCK, view.rows_per_shard)  # powers of two: a stretch lies in one shard
    starts = np.flatnonzero(np.diff(rows // size, prepend=-1))
    for start, end in pairwise([*starts.tolist(), len(rows)]):
        lying = _lying(view, feature, int(rows[start]), int(rows[end - 1])) if end - start >= MANY else None
        if lying is not None:
            places = rows[start:end] - rows[start]
            if lying.dtype == vectors.dtype:
                np.take(lying, places, axis=0, out=vectors[start:end], mode="clip")  # straight there: all are inside
            else:
                vectors[start:end] = lying[places]
            read[start:end] = False
    if read.any():
        vectors[read] = view.read(feature, rows[read], dtype="float32")
    return vectors


def _lying(view: View, feature: str, first: int, last: int) -> Float[np.ndarray, "stretch dim"] | None:
    """Rows `first` to `last` of one shard where they lie in memory, if they do and are all there."""
    shard, slot = divmod(first, view.rows_per_shard)
    if view.features[feature].dtype == "int8" or (view.shard_status(shard)[slot : slot + last - first + 1] != OK).any():
        return None
    return view.in_place(feature, np.arange(first, last + 1))


def blocks(
    store: Store, view: View, feature: str, rows: Int64[np.ndarray, " rows"]
) -> Iterator[tuple[Int64[np.ndarray, " block"], Float64[np.ndarray, "block dim"]]]:
    """`normalised`, a block of rows at a time: memory does not grow with the view."""
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        yield part, normalised(store, view, feature, part)


def compact(
    store: Store, view: View, feature: str, rows: Int64[np.ndarray, " rows"]
) -> Float32[np.ndarray, "rows dim"]:
    """`normalised`, then rounded to float32; never all of it in float64."""
    vectors = np.empty((len(rows), width(view, feature)), np.float32)
    at = 0
    for part, block in blocks(store, view, feature, rows):
        vectors[at : at + len(part)] = block
        at += len(part)
    return vectors


FIXED = 300_000_000  # bytes: Python, the libraries and a product of two blocks
ROW = 200  # bytes of what the catalog says of a row: its key, a column or two
FEWEST = 1024  # rows: with fewer at a time the store would be read too often
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def bytes_of(size: str) -> int:
    """The bytes of e.g. `20GB`, `512MiB` or `1e9`. StepDiffError where it is no size."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\d+)?)\s*([KMGT]I?|)B?", size.strip(), re.IGNORECASE)
    if found is None:
        raise StepDiffError(f"{size!r} is no size: write for example 20GB or 512MiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def rows_that_fit(size: str, rows: int, dim: int, more: int = 0) -> int:
    """How many of `rows` vectors of `dim` float32 channels, and `more` bytes each, may be held at once.

    StepDiffError where `size` is too little to work with, and says how much is not.
    """
    fixed = FIXED + rows * ROW + 3 * BLOCK * dim * 8  # a block is read as float64, and copied
    one = dim * 4 + more
    fit = (bytes_of(size) - fixed) // one
    if fit < FEWEST:
        least = -(-(fixed + FEWEST * one) // 10**6)
        raise StepDiffError(
            f"{size} are too little for {rows} rows of {dim} channels: give --max-memory {least}MB or more"
        )
    return fit


def reused(memory: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """`memory` (flat), or new memory of its kind where it is too small, and the first of it in that shape."""
    count = prod(shape)
    memory = memory if len(memory) >= count else np.empty(count, memory.dtype)
    return memory, memory[:count].reshape(shape)
