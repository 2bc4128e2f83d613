"""A view's clips as the Parquet file that Embedding Atlas opens (github.com/apple/embedding-atlas, 0.26).

Columns: `clip` (the id), those of the catalog, `x`, `y`, and `neighbors`, a struct of `ids` (places in this file, from
zero, best first, never the row's own) and `distances` (1 - cosine). It is written piece by piece.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float32

from retrieval.exact import Found, without_itself
from retrieval.index.factory import FLAT_BELOW
from retrieval.index.index import check_feature, exact_index, open_index
from retrieval.mining.neighbours import nearest
from retrieval.projection import pooled_blocks, pooled_feature, project
from retrieval.vectors import Rows, Vectors, command, compact, filled_rows
from retrieval.verbs.files import Atlas
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import whole
from stepdiff.common.progress import progress
from store import Store, View

PIECE = 65_536  # clips that are written at a time
GROUP = 16_384  # clips of a row group
_OWN = ("x", "y", "neighbors", "clip")  # columns that a catalog's column of that name would hide


def write_atlas(options: Atlas) -> dict[str, Any]:
    """Write the file; return the numbers of clips and of neighbours, and the command that opens it.

    Raises StepDiffError: an invalid condition, no clips, or a missing or stale index.
    """
    store, out, where, feature = Store.open(options.store), options.out, options.where, options.feature
    view = store.view("clips", options.view)
    rows = filled_rows(view)
    if where is not None:
        from retrieval.queries.condition import rows_where  # loads sqlglot: 0.3 s

        rows = np.intersect1d(rows, rows_where(store, "clips", where))
        if not len(rows):
            raise StepDiffError(f"no clip with features in view {view.name} has {where}: widen --where")
    k = min(options.neighbours, len(rows) - 1)
    search = _Neighbours(store, view, rows, k, feature) if k > 0 else None
    schema = {name: dtype for name, dtype in view.catalog.schema().items() if name not in ("key", "row", *_OWN)}
    like = pl.DataFrame(schema={"key": pl.String, **schema})
    # opened before the projection, which takes long: a missing folder is refused first
    with whole(out) as temporary, TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        with progress("projected clips", len(rows)) as advance:
            xy, _ = project(view, rows, options.projection, search.feature if search else feature, advance)
        files = []
        with progress("written clips", len(rows)) as advance:
            for start in range(0, len(rows), PIECE):
                piece = slice(start, start + PIECE)
                frame = _frame(store.catalog("clips").select(rows[piece], like), xy[piece], search, piece)
                files.append(Path(folder) / f"{start:012d}.parquet")
                frame.write_parquet(files[-1])
                advance(frame.height)
        pl.scan_parquet(files, glob=False).sink_parquet(temporary, row_group_size=GROUP)
    words = ["embedding-atlas", out, "--x", "x", "--y", "y", *(["--neighbors", "neighbors"] if search else [])]
    text = next((name for name in ("caption", "narration", "step") if name in schema), None)
    words += [*(["--text", text] if text else []), "--disable-projection"]
    count = search.k if search else 0
    return {"out": str(out), "clips": len(rows), "neighbours": count, "command": command(*words).strip("`")}


class _Neighbours:
    """Finds the nearest of the written clips, piece by piece."""

    def __init__(self, store: Store, view: View, rows: Rows, k: int, feature: str | None) -> None:
        self.rows, self.k, self.feature = rows, k, pooled_feature(view, feature)
        self._pooled: Vectors | None = None
        small = len(rows) <= FLAT_BELOW  # compared exactly, whether the view has an index or not
        if len(view.features[self.feature].shape) == 1:
            self._index = exact_index(view, self.feature) if small else open_index(store, view)
            check_feature(self._index, feature)
            self.feature = self._index.card["feature"]
        elif small:
            self._pooled = np.concatenate(list(pooled_blocks(view, self.feature, rows)))
        else:
            raise StepDiffError(
                f"view {view.name} has only tokens, and neighbours by their mean are found for up to "
                f"{FLAT_BELOW:,} clips: give --neighbours 0, or fewer clips with --where"
            )

    def of(self, piece: slice) -> Found:
        """Return places and cosines of the neighbours of a piece; -1 and -inf where there are fewer."""
        if self._pooled is not None:
            return nearest(self._pooled, np.arange(len(self.rows))[piece], self.k)
        queries = compact(self._index.view, self.feature, self.rows[piece])
        among = None if len(self.rows) == len(self._index) else self.rows
        rows, cosines = without_itself(self._index.search(queries, self.k + 1, among), self.rows[piece], self.k)
        return np.where(rows < 0, -1, np.searchsorted(self.rows, rows)), cosines


def _frame(
    clips: pl.DataFrame, xy: Float32[np.ndarray, "piece 2"], search: _Neighbours | None, piece: slice
) -> pl.DataFrame:
    frame = clips.rename({"key": "clip"}).drop("row").with_columns(x=pl.Series(xy[:, 0]), y=pl.Series(xy[:, 1]))
    if search is None:
        return frame
    places, cosines = search.of(piece)
    ids = pl.Series("ids", places).cast(pl.List(pl.Int64))
    distances = pl.Series("distances", 1 - cosines).cast(pl.List(pl.Float32))
    ids = ids.list.eval(pl.element().filter(pl.element() >= 0))
    distances = distances.list.eval(pl.element().filter(pl.element().is_finite()))
    return frame.with_columns(pl.struct(ids, distances).alias("neighbors"))
