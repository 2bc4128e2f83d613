"""Hashes of the clips that trained a head, in the folder of its run: enough to find a clip among
them.

    RUN/trained_on.safetensors    clips, videos, names: uint64, sorted, each value once
                                  (heads.data.training_clips)
    RUN/lineage.json              its sha256 and counts, under `trained_on`

A hash is the first 8 bytes, little-endian, of the blake2b of a UTF-8 text.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt64

from stepdiff_core.errors import StepDiffError

FILE = "trained_on.safetensors"
KINDS = ("clips", "videos", "names")
BLOCK = 2**20
"""hashes read at a time"""
Hashes = UInt64[np.ndarray, " H"]


def hashes(texts: Iterable[str]) -> Hashes:
    """Return the hash of each text, in order."""
    data = b"".join(hashlib.blake2b(text.encode()).digest()[:8] for text in texts)
    return np.frombuffer(data, "<u8").astype(np.uint64, copy=False)


def blocks(folder: Path, kind: str) -> Iterator[Hashes]:
    """Yield the hashes of one kind that a run recorded, in sorted blocks.

    Raises:
        StepDiffError: the file is missing or damaged.
    """
    # of the extra train, as what writes the file
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    try:
        with safe_open(path, "np") as file:
            values = file.get_slice(kind)
            (count,) = values.get_shape()
            for start in range(0, count, BLOCK):
                yield values[start : min(start + BLOCK, count)]
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def check(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise StepDiffError if the run's file differs from its lineage's record."""
    path = folder / FILE
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _damaged(path, error.strerror or "unreadable") from error
    if sha256 != record["sha256"]:
        raise _damaged(
            path, f"sha256 {sha256[:12]}, lineage.json names {str(record['sha256'])[:12]}"
        )


def contained(texts: Hashes, drawn: Iterable[np.ndarray]) -> Bool[np.ndarray, " H"]:
    """Return whether each of some hashes is in one of the blocks, which are sorted."""
    order, present = np.argsort(texts), np.zeros(len(texts), bool)
    rising = texts[order]
    for block in filter(len, drawn):
        some = slice(
            np.searchsorted(rising, block[0]), np.searchsorted(rising, block[-1], side="right")
        )
        present[order[some]] |= block[np.searchsorted(block, rising[some])] == rising[some]
    return present


def _damaged(path: Path, why: str) -> StepDiffError:
    return StepDiffError(
        f"{path}: missing or damaged ({why}), so it is unknown which clips trained the head; "
        "restore it, or train into a new folder"
    )
