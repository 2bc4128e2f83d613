"""Embeddings of a view: read, checked and normalised; commands that add missing ones.

A row that holds NaN, infinity or only zeros has no direction, and is refused by its key.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import Place
from store import View
from store.batches import Batch, Batches
from store.format.quantise import dequantise
from store.view import OK

BLOCK = 4096  # rows read at a time: 42 MB of float64 at 1,280 channels
BLOCK_BYTES = 32 * 2**20  # of float32, prefetched while the previous block is used
BLOCK_ROWS = 2**15  # of a block, at most: scores of 1,024 queries take 128 MiB
Rows = Int64[np.ndarray, " rows"]
"""numbers of rows of a view"""
Vectors = Float32[np.ndarray, "rows dim"]
Queries = Float32[np.ndarray, "queries dim"]
Block = tuple[Rows, Vectors]
"""rows and their embeddings"""
# names that featurize accepts; the encoder of a head's view is not
_ENCODER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def embeddings(view: View) -> list[str]:
    """Return the features that are one vector per row. The layout of a video language model's
    tokens is none."""
    return sorted(
        name for name, form in view.features.items() if len(form.shape) == 1 and name != "layout"
    )


def width(view: View, feature: str) -> int:
    """Return the number of channels D. Raises StepDiffError unless `feature` is one of the
    `embeddings`."""
    names = embeddings(view)
    if feature in names:
        return view.features[feature].shape[0]
    remedy = f"it has {', '.join(names)} (name one with --feature)"
    if not names:
        fill = fill_command(
            view.paths.store, "NAME", view.provenance.encoder, f"{view.entity.upper()}.csv"
        )
        remedy = f"it has none; make a view that has one with {fill}"
    raise StepDiffError(
        f"view {view.entity}/{view.name} has no embedding called {feature}: {remedy}"
    )


def filled_rows(view: View) -> Rows:
    """Return the rows with features (status 1), rising."""
    return np.flatnonzero(view.status() == OK).astype(np.int64)


def normalised(view: View, feature: str, rows: Rows) -> Float64[np.ndarray, "rows dim"]:
    """Return the embeddings of `rows`, each divided by its L2 norm. Raises StepDiffError as
    `checked_norms`."""
    vectors = np.empty((len(rows), width(view, feature)), np.float64)
    for start in range(0, len(rows), BLOCK):
        vectors[start : start + BLOCK] = view.read(
            feature, rows[start : start + BLOCK], dtype="float32"
        )
    vectors /= checked_norms(view, feature, rows, vectors)[:, None]
    return vectors


def checked_norms(
    view: View, feature: str, rows: Rows, vectors: Float[np.ndarray, "rows dim"]
) -> Float64[np.ndarray, " rows"]:
    """Return the L2 norms of embeddings. Raises StepDiffError that names a row without a
    direction."""
    norms = np.sqrt(np.sum(np.square(vectors, dtype=np.float64), axis=-1))
    for bad in np.flatnonzero(~np.isfinite(norms) | (norms == 0)):
        key = view.catalog.keys(rows[bad : bad + 1])[0]
        what = "is all zeros" if norms[bad] == 0 else "holds NaN or infinity"
        raise StepDiffError(
            f"the {feature} of {key} in {view.entity}/{view.name} {what}: "
            f"run {command('python', '-m', 'store', 'verify', view.paths.store)}"
        )
    return norms


def unit(vectors: Float[np.ndarray, "rows dim"]) -> Float64[np.ndarray, "rows dim"]:
    """Return vectors divided by their length; one that is zero or holds NaN or infinity becomes
    zero."""
    lengths = np.sqrt(np.einsum("bd,bd->b", vectors, vectors, dtype=np.float64))[:, None]
    good = np.isfinite(lengths) & (lengths > 0)
    return np.where(good, vectors, 0) / np.where(good, lengths, 1)


def block_rows(view: View, feature: str) -> int:
    """Return the rows of a block: a power of two, as the rows of a shard, so few blocks cross a
    shard."""
    most = min(max(BLOCK_BYTES // (4 * math.prod(view.features[feature].shape)), 1), BLOCK_ROWS)
    return 1 << (most.bit_length() - 1)


def stored_blocks(view: View, feature: str, rows: Rows) -> Iterator[Batch]:
    """Yield features of `rows` as stored, block by block; the next block is prefetched. Mapped rows
    are not copied."""
    size = block_rows(view, feature)
    yield from Batches(
        view, feature, rows, batch_size=size, shuffle=False, ahead=1, keep=None, in_place=True
    )


def floats(
    batch: Batch, feature: str, some: slice = slice(None)
) -> Float32[np.ndarray, "rows ..."]:
    """Return `some` rows of a batch in float32."""
    values = batch.arrays[feature][some]
    if values.dtype == np.int8:
        return dequantise(values, batch.arrays["scale"][some])
    return values.astype(np.float32, copy=False)


def raw_blocks(
    view: View, feature: str, rows: Rows
) -> Iterator[tuple[Rows, Float32[np.ndarray, "rows ..."]]]:
    """Yield `stored_blocks` in float32."""
    for batch in stored_blocks(view, feature, rows):
        yield batch.rows, floats(batch, feature)


def blocks(view: View, feature: str, rows: Rows) -> Iterator[Block]:
    """Yield rows and `normalised` embeddings in float32 block by block: memory does not grow with
    the view."""
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        yield part, normalised(view, feature, part).astype(np.float32)


def compact(view: View, feature: str, rows: Rows) -> Vectors:
    """Return `normalised` embeddings rounded to float32, without holding all of them in float64."""
    vectors = np.empty((len(rows), width(view, feature)), np.float32)
    for start, (_, block) in zip(
        range(0, len(rows), BLOCK), blocks(view, feature, rows), strict=True
    ):
        vectors[start : start + BLOCK] = block
    return vectors


def command(*words: object) -> str:
    """Return a command in backquotes for an error message, its words quoted for the shell."""
    return f"`{shlex.join(str(word) for word in words)}`"


def fill_command(store: Place, view: str, encoder: str, manifest: object) -> str:
    """Return the commands that add a manifest's clips or texts to `view` of a store, which
    `encoder` made."""
    featurize = ["python", "-m", "featurize", "--manifest", manifest, "--store", store]
    if _ENCODER.fullmatch(encoder):
        named = [] if encoder == view else ["--view", view]
        return command(
            *featurize,
            "--encoder",
            f"{encoder}:MODEL" if encoder in ("hf", "vlm") else encoder,
            *named,
        )
    embed = command(
        "python", "-m", "heads.embed", "--head", "RUN", "--store", store, "--view", view
    )
    return f"{command(*featurize, '--encoder', 'ENCODER')}, then {embed} (the view is a {encoder})"
