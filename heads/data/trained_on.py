"""Which clips and videos trained a head, as hashes: enough to find test clips among them.

    RUN/trained_on.safetensors    clips, videos, names: uint64, sorted, each value once
    RUN/lineage.json              its sha256 and counts, under `trained_on`

The hashes are those of `store.lineage.trained_on`, which reads them. `clips` has the ids of all clips that the
sources of a training may draw; `videos` the files of their videos or, for a clip without a file, its names; `names` the
uids and stems of clips with a file. All of them include what the run at `init` was trained on.

Guarantees
- a run that starts from another includes its clips and videos
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

from common.io.files import write_pieces
from heads.data.catalog_rows import blocks as blocks_of
from heads.data.catalog_rows import of_rows, united
from heads.data.hold_out import COLUMNS, identified
from store import Catalog
from store.lineage.trained_on import FILE, KINDS, Hashes, blocks, check, contained, hashes


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
        found = {kind: np.empty(0, np.uint64) for kind in KINDS}
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
                _append(found[kind], hashes(values.drop_nulls().unique()))
        return cls({kind: _sorted(found.pop(kind)) for kind in KINDS})

    @classmethod
    def of_catalog(cls, catalog: Catalog, parts: Iterable[np.ndarray]) -> "TrainedOn":
        """Return the hashes of the clips whose rows of the catalog are in any of the parts; -1 is left out."""
        dtypes = {"key": pl.String, "video": pl.String}
        return cls.of(block for rows in united(parts) for block in of_rows(catalog, rows, dtypes))

    def including(self, folder: Path, lineage: Mapping[str, Any]) -> "TrainedOn":
        """Return also what the run in `folder` was trained on; without a record, it is listed as unrecorded.

        lineage: of that run.

        Raises:
            StepDiffError: its record is missing or damaged.
        """
        record = lineage.get("trained_on")
        if record is None:
            return TrainedOn(self.arrays, (*self.unrecorded, str(folder)))
        check(folder, record)
        arrays = dict(self.arrays)
        for kind, own in self.arrays.items():
            new = [block[~contained(block, [own])] for block in blocks(folder, kind)]
            if any(map(len, new)):
                arrays[kind] = _sorted(np.concatenate([own, *new]))
        return TrainedOn(arrays, tuple(dict.fromkeys([*self.unrecorded, *record["unrecorded"]])))

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


def _append(every: np.ndarray, more: np.ndarray) -> None:
    """Append to an array, in place: where np.concatenate copies a gigabyte, this moves its pages."""
    end = len(every)
    every.resize(end + len(more), refcheck=False)
    every[end:] = more


def _sorted(every: Hashes) -> Hashes:
    """Return the hashes, sorted in place, each once."""
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
