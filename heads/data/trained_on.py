"""Which clips and videos trained a head, as hashes: enough to find test clips among them.

    RUN/trained_on.safetensors    clips, videos, names: uint64, sorted, each value once
    RUN/lineage.json              its sha256 and counts, under `trained_on`

A hash is the first 8 bytes, little-endian, of the blake2b of a UTF-8 text. `clips` has the ids of all clips that the
sources of a training may draw; `videos` the files of their videos or, for a clip without a file, its names; `names` the
uids and stems of clips with a file. All of them include what the run at `init` was trained on.

Guarantees
- a run that starts from another includes its clips and videos
- a file that differs from the lineage's sha256 is refused
- a file is read in blocks, whatever its size
- a run without the file loads, and is reported where its clips matter
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, UInt64
from safetensors import SafetensorError, safe_open

from common.errors import StepDiffError
from common.io.files import write_pieces
from heads.data.catalog_rows import blocks as blocks_of
from heads.data.hold_out import COLUMNS, identified

FILE = "trained_on.safetensors"
KINDS = ("clips", "videos", "names")
BLOCK = 2**20
"""hashes read at a time"""
Hashes = UInt64[np.ndarray, " H"]


def hashes(texts: Iterable[str]) -> Hashes:
    """Return the hash of each text, in order."""
    data = b"".join(hashlib.blake2b(text.encode()).digest()[:8] for text in texts)
    return np.frombuffer(data, "<u8").astype(np.uint64, copy=False)


@dataclass(frozen=True)
class Source:
    """What trained a head, as far as it is recorded."""

    name: str
    """its run, or the view that it wrote"""
    blocks: Callable[[str], Iterator[Hashes]] | None
    """kind (KINDS) -> its hashes in sorted blocks; None: nothing is recorded"""
    unrecorded: tuple[str, ...]
    """runs among those that trained it whose clips are not recorded"""


@dataclass(frozen=True)
class TrainedOn:
    """The clips and videos of one training."""

    arrays: Mapping[str, Hashes]
    """kind (KINDS) -> hashes, sorted, each once"""
    unrecorded: tuple[str, ...] = ()
    """runs that it started from, directly or not, whose clips are not recorded"""

    @classmethod
    def of(cls, clips: Iterable[pl.DataFrame]) -> "TrainedOn":
        """Return the hashes of clips (key and, if known, video), given in blocks."""
        found: dict[str, list[Hashes]] = {kind: [np.empty(0, np.uint64)] for kind in KINDS}
        for block in clips:
            (known,) = blocks_of(block, COLUMNS)
            known = identified(known)
            filed, unfiled = known.filter(pl.col("file").is_not_null()), known.filter(pl.col("file").is_null())
            texts = {
                "clips": known["key"],
                "videos": pl.concat([filed["file"], unfiled["uid"], unfiled["stem"]]),
                "names": pl.concat([filed["uid"], filed["stem"]]),
            }
            for kind, values in texts.items():
                found[kind].append(np.unique(hashes(values.drop_nulls().unique())))
        return cls({kind: _united(found.pop(kind)) for kind in KINDS})

    def union(self, other: "TrainedOn") -> "TrainedOn":
        """Return the clips and videos of both."""
        arrays = {kind: np.union1d(self.arrays[kind], other.arrays[kind]) for kind in KINDS}
        return TrainedOn(arrays, tuple(dict.fromkeys([*self.unrecorded, *other.unrecorded])))

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the file of the run in `folder`; return its record in lineage.json."""
        pieces: list[bytes | memoryview] = [_header(self.arrays)]
        pieces += [np.ascontiguousarray(self.arrays[kind]).data for kind in sorted(KINDS)]
        write_pieces(folder / FILE, pieces)
        sha256 = hashlib.sha256()
        for piece in pieces:
            sha256.update(piece)
        counts = {kind: len(array) for kind, array in self.arrays.items()}
        return {"sha256": sha256.hexdigest(), **counts, "unrecorded": list(self.unrecorded)}


def _united(parts: list[np.ndarray]) -> Hashes:
    """Return the hashes of all parts, sorted, each once. `parts`, which may take a gigabyte, is emptied."""
    every = np.concatenate(parts)
    parts.clear()
    every.sort()
    first = np.ones(len(every), bool)
    np.not_equal(every[1:], every[:-1], out=first[1:])
    return every if first.all() else every[first]


def _header(arrays: Mapping[str, Hashes]) -> bytes:
    """Return the beginning of the file, as safetensors writes it; its own writer copies all arrays twice."""
    described, start = {}, 0
    for kind in sorted(KINDS):
        end = start + arrays[kind].nbytes
        described[kind] = {"dtype": "U64", "shape": [len(arrays[kind])], "data_offsets": [start, end]}
        start = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def blocks(folder: Path, kind: str) -> Iterator[Hashes]:
    """Yield the hashes of one kind that a run recorded, in sorted blocks.

    Raises:
        StepDiffError: the file is missing or damaged.
    """
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
        raise _damaged(path, f"sha256 {sha256[:12]}, lineage.json names {str(record['sha256'])[:12]}")


def read(folder: Path, lineage: Mapping[str, Any]) -> TrainedOn:
    """Read what a run was trained on; without a record, the run is listed as unrecorded."""
    record = lineage.get("trained_on")
    if record is None:
        return TrainedOn({kind: np.empty(0, np.uint64) for kind in KINDS}, (str(folder),))
    check(folder, record)
    arrays = {kind: np.concatenate([np.empty(0, np.uint64), *blocks(folder, kind)]) for kind in KINDS}
    return TrainedOn(arrays, tuple(record["unrecorded"]))


def contained(wanted: Hashes, found: Iterable[Hashes]) -> Bool[np.ndarray, " H"]:
    """Return whether each wanted hash is in one of the sorted blocks."""
    present = np.zeros(len(wanted), bool)
    for block in found:
        if len(block):
            present |= block[np.searchsorted(block, wanted).clip(max=len(block) - 1)] == wanted
    return present


def _damaged(path: Path, why: str) -> StepDiffError:
    return StepDiffError(
        f"{path}: missing or damaged ({why}), so it is unknown which clips trained the head; restore it, or train into "
        "a new folder"
    )
