"""The list of forgotten rows: no view has features of them, and no writer fills them until they are recalled.

On disk: forgotten/ENTITY.parquet, sealed, with the columns row, key and reason; it does not exist if nothing was ever
forgotten. A forgotten row keeps its number and its place in the catalog, because rows never move. Its status is absent
in every view, so whatever reads finished rows leaves it out.
"""

from collections.abc import Callable

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io import sealed as table
from stepdiff.common.io.files import Place

FOLDER = "forgotten"
_COLUMNS = {"row": pl.Int64, "key": pl.String, "reason": pl.String}


def forgotten_path(store: Place, entity: str) -> Place:
    """Return the path of the list of an entity."""
    return store / FOLDER / f"{entity}.parquet"


def read_forgotten(store: Place, entity: str) -> pl.DataFrame:
    """Return row, key and reason of the forgotten rows, by row. StepDiffError where the list is damaged."""
    path = forgotten_path(store, entity)
    if not path.exists():
        return pl.DataFrame(schema=_COLUMNS)
    frame = table.read(path)
    if dict(frame.schema) != _COLUMNS or frame["row"].null_count():
        raise StepDiffError(f"{path} is no list of forgotten rows: restore the file")
    return frame.sort("row")


def write_forgotten(store: Place, entity: str, frame: pl.DataFrame) -> None:
    """Replace the list of an entity. The caller holds the store's lock."""
    path = forgotten_path(store, entity)
    path.parent.make_folder()
    data = table.encode(frame.select(pl.col(name).cast(dtype) for name, dtype in _COLUMNS.items()).sort("row"))
    path.put([data], len(data))


def are_forgotten(store: Place, entity: str, rows: Int[np.ndarray, " K"]) -> Bool[np.ndarray, " K"]:
    """Return which of K rows are forgotten."""
    return np.isin(rows, read_forgotten(store, entity)["row"].to_numpy())


def refuse_forgotten(store: Place, entity: str, rows: Int[np.ndarray, " K"], name: Callable[[int], str]) -> None:
    """Raise StepDiffError that names the first forgotten row, if any of K rows is; `name` returns the key of a row."""
    gone = rows[are_forgotten(store, entity, rows)]
    if len(gone):
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        raise StepDiffError(
            f"{name(int(gone[0]))}{more} of {entity} was forgotten: leave it out, or recall it with python -m store "
            "forget --undo"
        )
