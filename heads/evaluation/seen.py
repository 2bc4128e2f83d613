"""Which clips and videos of a test set trained the head that is evaluated on it.

The head is that of `--head`, or the contrastive head that wrote a view. The rule of heads.data.hold_out decides whether
two clips are of one video. What trained the head of a view is recorded in the store, because the run may be elsewhere:

    STORE/annotations/trained_on/<first digits of the sha256 of the head's weights>/
        provenance.json           the run, its weights, and the number of hashes of each kind
        <kind>-<part>.parquet     hash (heads.data.trained_on)

Guarantees
- a test set that shares a clip or a video with what trained the head is refused, unless that is allowed
- what is allowed is counted in the score record
- a head whose training clips are not recorded is reported, and evaluated
- a view of a frozen encoder has nothing to check
- a view whose head left no record, or whose record is damaged, is reported
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from common.errors import StepDiffError
from common.io import sealed as table
from common.io.files import Place, make_folder, write_bytes
from common.io.sealed import BLANK
from heads.data.hold_out import clip_times, locate
from heads.data.trained_on import Source
from heads.methods.registry import ENCODER
from heads.training import lineage
from store import Store
from store.format.layout import read_json, write_json
from store.lineage import trained_on
from store.lineage.trained_on import KINDS, Hashes, contained, hashes
from tasks.testsets import clips_of

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


def of_run(folder: Path) -> Source:
    """Return what trained the head of a run. StepDiffError: its record is missing or damaged."""
    record = lineage.read(folder).get("trained_on")
    if record is None:
        return Source(str(folder), None, (str(folder),))
    trained_on.check(folder, record)
    return Source(str(folder), lambda kind: trained_on.blocks(folder, kind), tuple(record["unrecorded"]))


def _origin(store: Store, weights: str) -> Place:
    return store.path / "annotations" / "trained_on" / weights[:_DIGITS]


def record_origin(store: Store, weights: str, run: Path) -> None:
    """Record in the store what trained the head of a run, if the run has a record; weights: their sha256.

    The caller holds the store's lock.
    """
    record, folder = lineage.read(run).get("trained_on"), _origin(store, weights)
    if record is None or (folder / "provenance.json").exists():
        return
    trained_on.check(run, record)
    make_folder(folder)
    for kind in KINDS:
        for number, block in enumerate(trained_on.blocks(run, kind)):
            data = table.encode(pl.DataFrame({"hash": block}))
            write_bytes(folder / f"{kind}-{number:06d}.parquet", data)
    made = {"head": str(run), "weights": weights, **record}
    write_json(folder / "provenance.json", {"provenance": made, "seal": BLANK})  # last: the hashes are complete


def of_view(store: Store, view: str) -> Source | None:
    """Return what trained the head that wrote a view; None for a view of a frozen encoder.

    Raises:
        StepDiffError: the record is damaged.
    """
    provenance = store.view("clips", view).provenance
    if not provenance.encoder.startswith(ENCODER):
        return None
    name, folder = f"view {view}", _origin(store, provenance.weights)
    try:
        made = read_json(folder / "provenance.json")["provenance"]
    except (FileNotFoundError, NotADirectoryError):
        return Source(name, None, (f"{name} of {store.path}",))
    if made["weights"] != provenance.weights:
        raise StepDiffError(
            f"{folder}: the record is of another head than view {view}; run python -m heads.embed again"
        )
    name = f"{name} (head {made['head']})"
    return Source(name, lambda kind: _blocks(folder, kind, made[kind]), tuple(made["unrecorded"]))


def _blocks(folder: Place, kind: str, count: int) -> Iterator[Hashes]:
    """Yield the hashes of a kind in blocks. StepDiffError: not `count` of them."""
    found = 0
    files: list[Place] = sorted(folder.glob(f"{kind}-*.parquet"))
    for file in files:
        block = table.read(file)["hash"].to_numpy()
        found += len(block)
        yield block
    if found != count:
        raise StepDiffError(
            f"{folder}: holds {found} hashes of {kind} where {count} were written; embed the view again"
        )


@dataclass(frozen=True)
class Seen:
    """The clips of a test set that trained a head, or whose videos did."""

    source: str
    clips: frozenset[str] = frozenset()
    of_videos: dict[str, str] | None = None
    """clip -> its video, for clips of videos that trained it"""
    namesakes: int = 0
    """number of clips of another file with the name of a video that trained it"""
    unrecorded: tuple[str, ...] = ()

    def counts(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Return how many clips, videos and rows of these rows the head has seen, for the score record."""
        clips = {clip for row in rows for clip in clips_of(row)}
        of_videos = self.of_videos or {}
        seen = self.clips | of_videos.keys()
        return {
            "source": self.source,
            "clips": len(clips & self.clips),
            "clips_of_videos": len(clips & seen),
            "of_clips": len(clips),
            "videos": len({of_videos[clip] for clip in clips & of_videos.keys()}),
            "rows": sum(not seen.isdisjoint(clips_of(row)) for row in rows),
            "of_rows": len(rows),
            "namesakes": self.namesakes,
            "unrecorded": list(self.unrecorded),
        }

    def notices(self, test_set: str) -> list[str]:
        """Return what is uncertain, one line each."""
        found = [
            f"{run}: its training clips are not recorded, so it is unknown whether it has seen clips of {test_set}"
            for run in self.unrecorded
        ]
        if self.namesakes:
            found.append(
                f"{self.source}: {self.namesakes} clips of {test_set} have the name of a video that trained it, but "
                "another file; they count as unseen"
            )
        return found


def find(source: Source, rows: Sequence[Any], store: Store) -> Seen:
    """Find the clips of the rows that trained a head; the store's catalog knows their videos."""
    if source.blocks is None:
        return Seen(source.name, unrecorded=source.unrecorded)
    tests = locate(store.catalog("clips"), clip_times(clip for row in rows for clip in clips_of(row)))
    for kind, column in _LOOKED_UP:
        there = np.zeros(tests.height, bool)
        known = tests[column].is_not_null().to_numpy()
        there[known] = contained(hashes(tests[column].drop_nulls()), source.blocks(kind))
        tests = tests.with_columns(pl.Series(f"{column} in {kind}", there))
    named = pl.any_horizontal("uid in names", "stem in names")
    nameless = pl.any_horizontal("uid in videos", "stem in videos")  # the training clip had only a name
    of_video = pl.col("file in videos") | nameless | (pl.col("file").is_null() & named)
    trained = tests.filter(of_video).select("key", pl.coalesce("file", "stem", "uid"))
    return Seen(
        source.name,
        frozenset(tests.filter("key in clips")["key"]),
        dict(trained.iter_rows()),
        tests.filter(named & ~of_video & ~pl.col("key in clips")).height,
        source.unrecorded,
    )


def refuse(counts: dict[str, Any], test_set: str) -> None:
    """Raise StepDiffError if the head has seen any clip or video of a test set, by its counts."""
    if counts["clips_of_videos"]:
        raise StepDiffError(
            f"{test_set}: {counts['source']} was trained on {counts['clips']} of its {counts['of_clips']} clips, and "
            f"{counts['clips_of_videos']} of them are from {counts['videos']} videos that trained it "
            f"({counts['rows']} of {counts['of_rows']} rows); train with --hold-out {test_set}, or pass --allow-seen, "
            "which marks the scores"
        )
