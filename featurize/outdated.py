"""What else in a store was made from clips that are replaced: annotations, indexes, other clips of their files."""

from collections.abc import Sequence

import polars as pl

from common.io import sealed as table
from common.io.remote import listed
from featurize.video.identity import BYTES, DIGEST
from store import Store


def outdated(store: Store, replaced: pl.DataFrame, views: Sequence[str]) -> list[str]:
    """Return a line for each thing that is out of date now, and what to do about it.

    Args:
        store: the store, whose catalog still names the old files.
        replaced: clips: key, `video_known`, and the size and digest that the catalog has of their old files.
        views: the views that had features of them.
    """
    lines = []
    again = "run python -m retrieval build once its rows are there"
    for stage in listed(store.path / "annotations", "*"):
        for version in listed(stage, "*"):
            parts = [table.read(part, ["key"]) for part in listed(version, "*.parquet")]
            if count := _naming(pl.concat([pl.DataFrame(schema={"key": pl.String}), *parts])["key"], replaced["key"]):
                lines.append(
                    f"out of date: {count} answers about replaced clips in annotations/{stage.name}/{version.name}; "
                    "delete that folder and run the stage again"
                )
    for view in views:
        if (store.path / "indexes" / "clips" / f"{view}.json").exists():
            lines.append(f"out of date: the index of view {view}; {again}")
    if others := _others(store, replaced):
        lines.append(f"{others} more clips of the replaced files are not in this manifest and keep their old features")
    return lines


def _naming(answered: pl.Series, keys: pl.Series) -> int:
    """How many different keys of annotations name one of the clips: a clip's id, or `TYPE ID ID` of a pair."""
    padded = " " + answered.unique() + " "
    return int(padded.str.contains_any((" " + keys + " ").implode()).sum())


def _others(store: Store, replaced: pl.DataFrame) -> int:
    """How many other clips the catalog has of the old files."""
    columns = ["video", BYTES, DIGEST]
    known = store.catalog("clips").frame(["key", *columns])
    files = replaced.filter("file").select(pl.col(f"{name}_known").alias(name) for name in columns)
    if not set(columns) <= set(known.columns):
        return 0
    return known.join(files, on=columns, how="semi").join(replaced, on="key", how="anti").height
