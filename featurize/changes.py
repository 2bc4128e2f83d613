"""Clips of the store whose manifest now names another video file or interval.

Guarantees
- another file under the id of a clip that has features is refused, naming both files, before
  anything is written; the same content at another path is accepted
- a replaced clip (`--replace`) is absent in every view before the catalog names the new file: a
  kill between the two leaves absent rows, never features of another video
- a clip that has features in no view takes the manifest's file and interval; one without a recorded
  size and digest is recorded and not compared
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from featurize.manifest import Manifest, unreadable
from featurize.video.media_file import BYTES, DIGEST, Identity, identities
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import sealed as table
from stepdiff_core.io.files import listed
from stepdiff_core.progress import say
from store import Store
from store.view import OK


def outdated(store: Store, replaced: pl.DataFrame, views: Sequence[str]) -> list[str]:
    """Return a line for each thing that was made from clips that are replaced, and its remedy.

    Args:
        store: whose catalog still names the old files.
        replaced: rows of `Changes.changed`.
        views: the views that had features of them.
    """
    lines = []
    # a key of annotations is a clip's id, or `TYPE ID ID` of a pair
    replaced_keys = (" " + replaced["key"] + " ").implode()
    for stage in listed(store.path / "annotations", "*"):
        for version in listed(stage, "*"):
            keys = (table.read(part, ["key"])["key"] for part in listed(version, "*.parquet"))
            about = [
                part.filter((" " + part + " ").str.contains_any(replaced_keys)) for part in keys
            ]
            if count := pl.concat([pl.Series(dtype=pl.String), *about]).n_unique():
                lines.append(
                    f"out of date: {count} answers about replaced clips in "
                    f"annotations/{stage.name}/{version.name}; delete that folder and run the "
                    "stage again"
                )
    for view in views:
        if (store.path / "indexes" / "clips" / f"{view}.json").exists():
            again = "run python -m retrieval build once its rows are there"
            lines.append(f"out of date: the index of view {view}; {again}")
    columns = ["video", BYTES, DIGEST]
    files = replaced.filter("file").select(pl.col(f"{name}_known").alias(name) for name in columns)
    blocks = store.catalog("clips").blocks(pl.DataFrame(schema={"key": pl.String, **_KNOWN}))
    same = (block.join(files, on=columns, how="semi") for block in blocks)
    if others := sum(block.join(replaced, on="key", how="anti").height for block in same):
        lines.append(
            f"{others} more clips of the replaced files are not in this manifest and keep their "
            "old features"
        )
    return lines


_SAME = 1e-6  # seconds that two equal times may differ by
_KNOWN = {
    "video": pl.String,
    "start": pl.Float64,
    "end": pl.Float64,
    BYTES: pl.Int64,
    DIGEST: pl.String,
}
"""columns of the catalog that are compared"""


@dataclass(frozen=True)
class Changes:
    """A manifest's changes to clips of the catalog. A text is its own key: it cannot change.

    Columns of the frames: key, row, the columns of `_KNOWN` as in the manifest and the files and,
    with the suffix `_known`, as in the catalog, `file` and `interval` (whether they differ), `ok`
    (whether a view has features).
    """

    window: Manifest
    files: Mapping[str, Identity | None]  # of each video, by the name that the manifest gives it
    changed: pl.DataFrame  # clips whose file or interval differs
    unknown: pl.DataFrame  # clips of which the catalog has no identity although their file is there
    # clips with features that keep their path, because no file is at the new one
    kept: pl.DataFrame

    def refuse(self, replace: bool) -> None:
        """Raise StepDiffError if a clip that has features changed, or with `replace`, if it could
        not be computed."""
        for clip in self.changed.filter("ok").iter_rows(named=True):
            if not replace:
                raise StepDiffError(difference(self.window, clip, int(self.changed["ok"].sum())))
            reason = self.window.failures.get(clip["key"]) or unreadable(
                self.window.paths[clip["video"]]
            )
            if reason:
                raise StepDiffError(
                    f"clip {clip['key']!r} cannot be replaced, its features are kept: {reason}"
                )

    def write(self, store: Store) -> None:
        """Make changed clips absent in every view, then update the catalog. The caller has called
        `refuse`."""
        if self.changed.height:
            self._withdraw(store)
        catalog = store.catalog(self.window.entity)
        recorded = pl.concat([self.unknown, self.changed]).unique("key").drop_nulls(BYTES)
        if recorded.height:
            catalog.update(recorded.select("key", BYTES, DIGEST))
        if unchecked := self.unknown["ok"].sum():
            say(
                f"{unchecked} clips had no record of their video file: it is recorded now, and was "
                "not compared"
            )
        rows = self.window.rows
        new = rows.filter(pl.Series(catalog.rows(rows["key"]) < 0, dtype=pl.Boolean))
        if self.kept.height:
            say(
                f"{self.kept.height} clips keep their path in the catalog: the file at their new "
                "path does not exist"
            )
            keeps_path = pl.col("key").is_in(self.kept["key"].implode())
            rows = rows.with_columns(video=pl.when(~keeps_path).then("video"))
        if updated := catalog.update(rows):
            say(
                f"metadata of {updated} {self.window.entity} in the store updated from the manifest"
            )
        catalog.append(_identified(new, self.files) if self.window.entity == "clips" else new)

    def _withdraw(self, store: Store) -> None:
        """Make the rows of changed clips absent in every view, and report everything else that was
        made from the old ones."""
        rows = self.changed["row"].to_numpy()
        withdrawn = {
            name: store.view("clips", name).withdraw(rows) for name in store.views("clips")
        }
        withdrawn = {name: count for name, count in withdrawn.items() if count}
        ok = self.changed.filter("ok")
        if ok.height:
            views = ", ".join(f"{count} of view {name}" for name, count in withdrawn.items())
            say(f"{ok.height} clips are replaced; rows that are absent now: {views}")
            for line in outdated(store, ok, list(withdrawn)):
                say(line)
        if free := self.changed.height - ok.height:
            say(f"{free} clips without features take their new file or interval from the manifest")


def difference(window: Manifest, clip: Mapping[str, Any], count: int) -> str:
    """Return how a clip differs, as one of `count` clips, and the remedy."""
    more = f" (and {count - 1} more clips differ)" if count > 1 else ""
    if not clip["file"]:
        return (
            f"clip {clip['key']!r} is {clip['start_known']:g} to {clip['end_known']:g} s in the "
            f"store and {clip['start']:g} to {clip['end']:g} s now{more}: give the new interval an "
            "id of its own, or replace the old features with --replace"
        )
    return (
        f"clip {clip['key']!r} was made from another file: {clip['video_known']} "
        f"({Identity(clip[f'{BYTES}_known'], clip[f'{DIGEST}_known'])}) in the store, "
        f"{window.paths[clip['video']]} ({Identity(clip[BYTES], clip[DIGEST])}) now{more}: give "
        "the new file an id of its own in the manifest (of video files: with --id-from path), or "
        "replace the old features with --replace"
    )


def compare(store: Store, window: Manifest, quiet: bool = False) -> Changes:
    """Compare the files, whose ends are read, and intervals of a manifest with the catalog. The
    store is locked."""
    files = identities(window.paths, quiet)
    both = differing(store, window, files)
    rows = both["row"].to_numpy()
    ok = np.zeros(len(rows), bool)  # whether a view has features of the clip
    for name in store.views("clips") if len(rows) else ():
        ok |= store.view("clips", name).status(rows) == OK
    both = both.with_columns(ok=pl.Series(ok)).with_columns(
        interval=pl.col("interval") | (pl.col("filled") & ~pl.col("ok"))
    )
    changed, unknown = both.filter(pl.col("file") | pl.col("interval")), both.filter("lacking")
    return Changes(window, files, changed, unknown, both.filter("moved", "ok"))


def differing(store: Store, window: Manifest, files: Mapping[str, Identity | None]) -> pl.DataFrame:
    """Return the clips that differ between catalog and manifest, and whether in `file` or
    `interval`, or by an interval that is `filled`."""
    catalog = store.catalog(window.entity)
    rows = (
        window.rows
        if window.entity == "clips"
        else pl.DataFrame(schema={"key": pl.String, **_KNOWN})
    )
    now = (
        _identified(rows, files).select("key", *_KNOWN).with_columns(row=catalog.rows(rows["key"]))
    )
    recorded_rows = catalog.select(now["row"].to_numpy(), pl.DataFrame(schema=_KNOWN))
    both = now.join(recorded_rows, on="row", suffix="_known", maintain_order="left")
    identified = pl.all_horizontal(
        pl.col(BYTES, DIGEST, f"{BYTES}_known", f"{DIGEST}_known").is_not_null()
    )
    differs = pl.any_horizontal(pl.col(name) != pl.col(f"{name}_known") for name in (BYTES, DIGEST))
    far = [(pl.col(time) - pl.col(f"{time}_known")).abs() > _SAME for time in ("start", "end")]
    filled = [
        pl.col(time).is_not_null() & pl.col(f"{time}_known").is_null() for time in ("start", "end")
    ]
    lacking = pl.col(BYTES).is_not_null() & pl.any_horizontal(
        pl.col(f"{BYTES}_known", f"{DIGEST}_known").is_null()
    )
    moved = pl.col(BYTES).is_null() & (pl.col("video") != pl.col("video_known"))
    return both.with_columns(
        file=identified & differs,
        interval=pl.any_horizontal(far).fill_null(False),
        filled=pl.any_horizontal(filled),
        lacking=lacking,
        moved=moved.fill_null(False),
    ).filter(pl.any_horizontal("file", "interval", "filled", "lacking", "moved"))


def _identified(rows: pl.DataFrame, files: Mapping[str, Identity | None]) -> pl.DataFrame:
    """Return `rows`, which have a column `video`, with the identity of their files; null for a file
    that is missing."""
    schema = {"video": pl.String, BYTES: pl.Int64, DIGEST: pl.String}
    identified = pl.DataFrame(
        [(video, *(file or (None, None))) for video, file in files.items()], schema, orient="row"
    )
    return rows.join(identified, on="video", how="left", maintain_order="left")
