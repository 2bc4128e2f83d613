"""The training clips of a head, as hashes of its clips and videos, and which clips of a test set
are among them.

    RUN/trained_on.safetensors    clips, videos, names: uint64, sorted, each value once
    RUN/lineage.json              its sha256 and counts, under `trained_on`

`clips` has the ids of all clips that the sources of a training may draw; `videos` the files of
their videos or, for a clip without a file, its names; `names` the uids and stems of clips with a
file. All of them include what the run at `init` was trained on. `store.lineage.trained_on` reads
the file.

The store has a copy for each head that wrote a view, because the run may be elsewhere:

    STORE/annotations/trained_on/<first digits of the sha256 of the head's weights>/
        provenance.json           the run, its weights, and the number of hashes of each kind
        <kind>-<part>.parquet     hash

Guarantees
- a run that starts from another includes its clips and videos
- heads.data.hold_out and `seen` decide by one rule whether two clips are of one video
- a head without a record, or whose record is damaged, is reported where its clips matter
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import UInt64

from heads.data.catalog_rows import blocks as blocks_of
from heads.data.catalog_rows import of_rows, united
from heads.data.hold_out import COLUMNS, clip_times, identified, locate
from heads.methods.registry import ENCODER
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import sealed as table
from stepdiff_core.io.files import Place, make_folder, write_bytes, write_changed
from stepdiff_core.io.sealed import BLANK
from stepdiff_core.tasks.testsets import clips_of
from store import Catalog, Store
from store.format.layout import read_json, write_json
from store.lineage.trained_on import FILE, KINDS, Hashes, blocks, check, contained, hashes

_DIGITS = 16
_LOOKED_UP = (
    ("clips", "key"),
    ("videos", "file"),
    ("videos", "uid"),
    ("videos", "stem"),
    ("names", "uid"),
    ("names", "stem"),
)
"""kind of hash, and the column to look up among them"""


@dataclass(frozen=True)
class SeenClips:
    """The clips of a test set that trained a head, or whose videos did."""

    source: str
    """the head's run, or the view that it wrote"""
    clips: frozenset[str] = frozenset()
    of_videos: Mapping[str, str] = field(default_factory=dict)
    """clip -> its video, for clips of videos that trained it"""
    namesakes: int = 0
    """number of clips of another file with the name of a video that trained it"""
    unrecorded: tuple[str, ...] = ()

    def counts(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Return how many clips, videos and rows of these rows the head has seen, for the score
        record."""
        clips = {clip for row in rows for clip in clips_of(row)}
        seen = self.clips | self.of_videos.keys()
        return {
            "source": self.source,
            "clips": len(clips & self.clips),
            "clips_of_videos": len(clips & seen),
            "of_clips": len(clips),
            "videos": len({self.of_videos[clip] for clip in clips & self.of_videos.keys()}),
            "rows": sum(not seen.isdisjoint(clips_of(row)) for row in rows),
            "of_rows": len(rows),
            "namesakes": self.namesakes,
            "unrecorded": list(self.unrecorded),
        }

    def notices(self, test_set: str) -> list[str]:
        """Return the uncertainties, one line each."""
        lines = [
            f"{run}: its training clips are not recorded, so it is unknown whether it has seen "
            f"clips of {test_set}"
            for run in self.unrecorded
        ]
        if self.namesakes:
            lines.append(
                f"{self.source}: {self.namesakes} clips of {test_set} have the name of a video "
                "that trained it, but another file; they count as unseen"
            )
        return lines

    def refuse(self, rows: Sequence[Any], test_set: str, task: str) -> None:
        """Raise StepDiffError if the head has seen any clip or video of the rows of a test set, or
        a task's folder."""
        counts = self.counts(rows)
        if counts["clips_of_videos"]:
            source = f"{task}={test_set}" if Path(test_set).is_dir() else test_set
            raise StepDiffError(
                f"{test_set}: {self.source} was trained on {counts['clips']} of its "
                f"{counts['of_clips']} clips, and {counts['clips_of_videos']} of them are from "
                f"{counts['videos']} videos that trained it ({counts['rows']} of "
                f"{counts['of_rows']} rows); train with --hold-out {source}, or pass --allow-seen, "
                "which marks the scores"
            )


@dataclass(frozen=True)
class TrainedOn:
    """The clips and videos that trained a head."""

    arrays: Mapping[str, Hashes]
    """kind (KINDS) -> hashes, sorted, each once; empty: nothing is recorded"""
    unrecorded: tuple[str, ...] = ()
    """runs among those that trained it whose clips are not recorded"""
    source: str = ""
    """its run, or the view that it wrote"""

    @classmethod
    def of(cls, clips: Iterable[pl.DataFrame]) -> "TrainedOn":
        """Return the hashes of clips (key and, if known, video), given in blocks."""
        # which moves its pages where np.concatenate copies gigabytes
        growing = {kind: bytearray() for kind in KINDS}
        for block in clips:
            names = identified(next(blocks_of(block, COLUMNS)))
            filed, unfiled = (
                names.filter(pl.col("file").is_not_null()),
                names.filter(pl.col("file").is_null()),
            )
            texts = {
                "clips": names["key"],
                "videos": pl.concat([filed["file"], unfiled["uid"], unfiled["stem"]]),
                "names": pl.concat([filed["uid"], filed["stem"]]),
            }
            for kind, values in texts.items():
                growing[kind] += hashes(values.drop_nulls().unique()).data
        return cls({kind: _sorted(np.frombuffer(growing.pop(kind), np.uint64)) for kind in KINDS})

    @classmethod
    def of_catalog(cls, catalog: Catalog, parts: Iterable[np.ndarray]) -> "TrainedOn":
        """Return the hashes of the clips whose rows of the catalog are in any of the parts; -1 is
        left out."""
        dtypes = {"key": pl.String, "video": pl.String}
        return cls.of(block for rows in united(parts) for block in of_rows(catalog, rows, dtypes))

    @classmethod
    def of_run(cls, folder: Path, lineage: Mapping[str, Any]) -> "TrainedOn":
        """Return the training clips of a run's head, from its lineage. StepDiffError: its record is
        missing or damaged."""
        record = lineage.get("trained_on")
        if record is None:
            return cls({}, (str(folder),), str(folder))
        check(folder, record)
        arrays = {kind: _joined(blocks(folder, kind)) for kind in KINDS}
        return cls(arrays, tuple(record["unrecorded"]), str(folder))

    @classmethod
    def of_view(cls, store: Store, view: str) -> "TrainedOn | None":
        """Return the training clips of the head that wrote a view; None for a view of a frozen
        encoder. StepDiffError: the record is damaged."""
        provenance = store.view("clips", view).provenance
        if not provenance.encoder.startswith(ENCODER):
            return None
        name, folder = f"view {view}", _record_folder(store, provenance.weights)
        try:
            record = read_json(folder / "provenance.json")["provenance"]
        except (FileNotFoundError, NotADirectoryError):
            return cls({}, (f"{name} of {store.path}",), name)
        if record["weights"] != provenance.weights:
            raise StepDiffError(
                f"{folder}: the record is of another head than view {view}; run python -m "
                "heads.embed again"
            )
        arrays = {}
        for kind in KINDS:
            files: list[Place] = sorted(folder.glob(f"{kind}-*.parquet"))
            arrays[kind] = _joined(table.read(file)["hash"].to_numpy() for file in files)
            if len(arrays[kind]) != record[kind]:
                raise StepDiffError(
                    f"{folder}: holds {len(arrays[kind])} hashes of {kind} where {record[kind]} "
                    "were written; embed the view again"
                )
        return cls(arrays, tuple(record["unrecorded"]), f"{name} (head {record['head']})")

    def including(self, folder: Path, lineage: Mapping[str, Any]) -> "TrainedOn":
        """Return also what the run in `folder` was trained on; without a record, it is listed as
        unrecorded. StepDiffError: its record is missing or damaged."""
        start = TrainedOn.of_run(folder, lineage)
        arrays = {
            kind: _sorted(_joined([values, start.arrays.get(kind, values[:0])]))
            for kind, values in self.arrays.items()
        }
        return TrainedOn(arrays, tuple(dict.fromkeys([*self.unrecorded, *start.unrecorded])))

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the file of the run in `folder`; return its record in lineage.json."""
        pieces: list[bytes | memoryview] = [_header(self.arrays)]
        pieces += [np.ascontiguousarray(self.arrays[kind]).data for kind in sorted(KINDS)]
        sha256 = write_changed(folder / FILE, pieces)
        counts = {kind: len(array) for kind, array in self.arrays.items()}
        return {"sha256": sha256, **counts, "unrecorded": list(self.unrecorded)}

    def seen(self, rows: Sequence[Any], store: Store) -> SeenClips:
        """Return the clips of the rows that trained the head; the store's catalog knows their
        videos."""
        if not self.arrays:
            return SeenClips(self.source, unrecorded=self.unrecorded)
        tests = locate(
            store.catalog("clips"), clip_times(clip for row in rows for clip in clips_of(row))
        )
        for kind, column in _LOOKED_UP:
            there = np.zeros(tests.height, bool)
            has_value = tests[column].is_not_null().to_numpy()
            there[has_value] = contained(hashes(tests[column].drop_nulls()), [self.arrays[kind]])
            tests = tests.with_columns(pl.Series(f"{column} in {kind}", there))
        named = pl.any_horizontal("uid in names", "stem in names")
        # the training clip had only a name
        nameless = pl.any_horizontal("uid in videos", "stem in videos")
        of_video = pl.col("file in videos") | nameless | (pl.col("file").is_null() & named)
        trained = tests.filter(of_video).select("key", pl.coalesce("file", "stem", "uid"))
        return SeenClips(
            self.source,
            frozenset(tests.filter("key in clips")["key"]),
            dict(trained.iter_rows()),
            tests.filter(named & ~of_video & ~pl.col("key in clips")).height,
            self.unrecorded,
        )


def copy_to_store(store: Store, weights: str, run: Path, lineage: Mapping[str, Any]) -> None:
    """Copy the record of a run into the store, if it has one, for the views that its head writes.

    weights: sha256 of the head's. The caller holds the store's lock.
    """
    record, folder = lineage.get("trained_on"), _record_folder(store, weights)
    if record is None or (folder / "provenance.json").exists():
        return
    check(run, record)
    make_folder(folder)
    for kind in KINDS:
        for number, block in enumerate(blocks(run, kind)):
            write_bytes(
                folder / f"{kind}-{number:06d}.parquet", table.encode(pl.DataFrame({"hash": block}))
            )
    provenance = {"head": str(run), "weights": weights, **record}
    # last: the hashes are complete
    write_json(folder / "provenance.json", {"provenance": provenance, "seal": BLANK})


def _record_folder(store: Store, weights: str) -> Place:
    return store.path / "annotations" / "trained_on" / weights[:_DIGITS]


def _joined(parts: Iterable[np.ndarray]) -> Hashes:
    return np.concatenate([np.empty(0, np.uint64), *parts])


def _sorted(every: Hashes) -> UInt64[np.ndarray, " K"]:
    """Return the hashes, sorted in place, each once."""
    every.sort()
    first = np.ones(len(every), bool)
    np.not_equal(every[1:], every[:-1], out=first[1:])
    return every if first.all() else every[first]


def _header(arrays: Mapping[str, Hashes]) -> bytes:
    """Return the beginning of the file, as safetensors writes it; its own writer copies all arrays
    twice."""
    described, start = {}, 0
    for kind in sorted(KINDS):
        end = start + arrays[kind].nbytes
        described[kind] = {
            "dtype": "U64",
            "shape": [len(arrays[kind])],
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
