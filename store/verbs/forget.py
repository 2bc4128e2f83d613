"""Rows are forgotten, or recalled.

Order of a commit: the rows become absent in every view, then the list names them, then they are made absent once more,
because a worker of a dead run may have finished one of them in between. From then on writers refuse them.

Guarantees
- a forgotten row is absent in every view
- a kill at any step leaves other rows as they are, and the same command completes the rest
- an unknown key is refused before anything changes
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import Place, listed
from store.catalog.forgotten import are_forgotten, forgotten_path, read_forgotten, write_forgotten
from store.feature_store import Store
from store.provenance import check_entity
from store.verbs.options import ForgetOptions
from store.view import ABSENT


@dataclass(frozen=True)
class Forgotten:
    """The rows that were forgotten or recalled."""

    store: str
    entity: str
    recalled: bool
    """whether they were recalled"""
    rows: int
    """forgotten or recalled by this run"""
    already: int
    """that were so before"""
    withdrawn: dict[str, int]
    """view -> finished rows that became absent"""
    stale: list[str]
    """cards of indexes of those views, which are refused from now on"""


def forget(options: ForgetOptions) -> Forgotten:
    """Forget rows, or recall them. StepDiffError: a key is unknown, or another run is writing."""
    store, entity = Store.open(options.path), check_entity(options.entity)
    keys = list(dict.fromkeys(options.keys))
    with store.lock(options.wait):
        rows = store.catalog(entity).rows(keys)
        if (rows < 0).any():
            unknown = keys[int(np.argmax(rows < 0))]
            raise StepDiffError(f"no key {unknown!r} among the {entity} of {store.path}: nothing was changed")
        known = read_forgotten(store.path, entity)
        before = np.isin(rows, known["row"].to_numpy())
        withdrawn: dict[str, int] = {}
        if options.undo:
            gone = pl.col("row").is_in(rows.tolist())
            if before.any():
                write_forgotten(store.path, entity, known.filter(~gone))
        else:
            withdrawn = _withdraw(store, entity, rows)
            new = pl.DataFrame({"row": rows, "key": keys}).filter(pl.Series(~before))
            if len(new):
                new = new.with_columns(reason=pl.lit(options.reason, pl.String))
                write_forgotten(store.path, entity, pl.concat([known, new]))
            for view, count in _withdraw(store, entity, rows).items():
                withdrawn[view] = withdrawn.get(view, 0) + count
    changed = int((before if options.undo else ~before).sum())
    cards = (listed(store.path / "indexes" / entity, f"{view}.json") for view in withdrawn)
    stale = [str(path) for card in cards for path in card]
    return Forgotten(str(store.path), entity, options.undo, changed, len(rows) - changed, withdrawn, stale)


def _withdraw(store: Store, entity: str, rows: np.ndarray) -> dict[str, int]:
    """Make rows absent in every view; return view -> how many of them were finished, where any were."""
    counts = {name: store.view(entity, name).withdraw(rows) for name in store.views(entity)}
    return {name: count for name, count in counts.items() if count}


def wrongly_forgotten(store: Store, entity: str) -> Iterator[tuple[Place, str, list[str]]]:
    """Yield, for verify, a damaged list, and the keys of forgotten rows of which a view has features."""
    path = forgotten_path(store.folder, entity)
    if not path.exists():
        return
    try:
        rows = read_forgotten(store.folder, entity)["row"].to_numpy()
        for name in store.views(entity):
            finished = rows[store.view(entity, name).status(rows) != ABSENT]
            finished = finished[are_forgotten(store.folder, entity, finished)]  # others were recalled in the meantime
            if len(finished):
                what = f"names rows of which view {name} has features: run python -m store forget for them again"
                yield path, what, store.catalog(entity).keys(finished)
    except StepDiffError as error:
        yield path, f"is refused ({error})", []
