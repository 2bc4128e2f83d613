"""What the catalog knows of clips or texts, by the names of its columns."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Int64

from common.errors import StepDiffError
from store import Store


def known(store: Store, entity: str, columns: Sequence[str]) -> pl.DataFrame:
    """Columns of the catalog, a row each in the order of the rows. StepDiffError lists those there are."""
    frame = store.catalog(entity).frame(columns)
    for column in columns:
        if column not in frame.columns:
            there = ", ".join(store.catalog(entity).frame().columns)
            raise StepDiffError(f"{entity} have no column {column!r}: the catalog has {there}")
    return frame


def video_numbers(videos: pl.Series) -> Int64[np.ndarray, " clips"]:
    """A number for the video of each clip; where nobody knows it, it is no other's."""
    itself = -1 - pl.int_range(len(videos), eager=True)
    return videos.rank("dense").cast(pl.Int64).fill_null(itself).to_numpy()
