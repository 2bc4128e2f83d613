"""The clips of a store that a stage speaks of.

Guarantees
- a clip is one that shows a step, where the catalog knows steps: stills of captioned images are none
"""

from collections.abc import Sequence

import polars as pl

from common.errors import StepDiffError
from store import Store


def clip_items(store: Store, split: str | None, columns: Sequence[str] = ()) -> pl.DataFrame:
    """`key`, `row` and `columns` of a split's clips, in the store's order. StepDiffError: none, or no such column."""
    rows = store.catalog("clips").frame()
    wanted = [*columns, *(["split"] if split is not None else [])]
    if missing := [name for name in wanted if name not in rows.columns]:
        raise StepDiffError(
            f"{store.path}: its catalog has no column {missing[0]!r}; featurize with a manifest that has it"
        )
    if "step" in rows.columns:
        rows = rows.filter(pl.col("step").is_not_null())
    if split is not None:
        rows = rows.filter(pl.col("split") == split)
    if rows.is_empty():
        raise StepDiffError(f"{store.path}: no clips{f' of split {split!r}' if split else ''}; featurize some")
    return rows.select("key", "row", *columns)
