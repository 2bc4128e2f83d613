"""The rows of a store by status, and why rows failed, as tables.

Guarantees
- a row has one status in each view: ok, failed, absent, or forgotten in all of them
"""

import json

import numpy as np
import polars as pl
from jaxtyping import UInt8

from common.cli.options import parse
from common.errors import StepDiffError
from store.catalog.forgotten import read_forgotten
from store.feature_store import Store
from store.provenance import check_entity
from store.verbs.options import FailuresOptions, RowsOptions
from store.view import ABSENT, View

WORDS = ("absent", "ok", "failed", "forgotten")
"""of each value of the status; the last is of rows that are absent because they were forgotten"""
_FORGOTTEN = 3


def failures(argv: list[str]) -> int:
    """List the rows that failed: view, key and reason, view by view, in the order of the catalog."""
    return parse(
        FailuresOptions,
        argv,
        "store failures",
        None,
        lambda given: _write(given, failed_rows(given)),
        show=None,
        positional=("path",),
    )


def rows(argv: list[str]) -> int:
    """List rows with their status in each view."""
    return parse(
        RowsOptions,
        argv,
        "store rows",
        None,
        lambda given: _write(given, status_of_rows(given)),
        show=None,
        positional=("path",),
    )


def failed_rows(options: FailuresOptions) -> pl.DataFrame:
    """Return view, key and reason of the rows that failed."""
    store = Store.open(options.path)
    frames = [pl.DataFrame(schema={"view": pl.String, "key": pl.String, "reason": pl.String})]
    for view in _views(store, options.entity, options.view):
        frames.append(view.failures().select(pl.lit(view.name).alias("view"), "key", "reason"))
    return pl.concat(frames)


def status_of_rows(options: RowsOptions) -> pl.DataFrame:
    """Return row, key and the status in each view of the rows that have the wanted status in one of them.

    The reasons of forgotten rows are in the column `reason`, if any are among them.
    """
    store = Store.open(options.path)
    views, catalog = _views(store, options.entity, options.view), store.catalog(options.entity)
    forgotten = read_forgotten(store.path, options.entity)
    count = len(catalog)
    gone = np.isin(np.arange(count), forgotten["row"].to_numpy())
    status = {view.name: np.where(gone, _FORGOTTEN, _longer(view.status(), count)) for view in views}
    chosen = np.ones(count, bool)
    if options.status is not None:
        wanted = WORDS.index(options.status)
        chosen = gone & (wanted == _FORGOTTEN)
        for values in status.values():
            chosen |= values == wanted
    places = np.flatnonzero(chosen)
    frame = pl.DataFrame({"row": places, "key": catalog.keys(places)}, schema={"row": pl.Int64, "key": pl.String})
    words = np.array(WORDS, object)
    frame = frame.with_columns(pl.Series(name, words[values[places]], pl.String) for name, values in status.items())
    if not gone[places].any():
        return frame
    return frame.join(forgotten.select("row", "reason"), on="row", how="left", maintain_order="left")


def _longer(status: UInt8[np.ndarray, " rows"], count: int) -> UInt8[np.ndarray, " count"]:
    """Return the status of the first `count` rows: others were appended meanwhile."""
    return np.concatenate([status[:count], np.full(max(count - len(status), 0), ABSENT, np.uint8)])


def _write(options: FailuresOptions | RowsOptions, frame: pl.DataFrame) -> int:
    """Print the table, as text or JSON, or write it to a file."""
    from common.io.tables import as_json, print_table, write_table

    if options.limit < 1:
        raise StepDiffError(f"--limit {options.limit} is too few: give 1 or more")
    if options.out is not None:
        write_table(options.out, frame)
    if options.json:
        print(json.dumps({"path": options.path, "entity": options.entity, "rows": as_json(frame)}))
    elif options.out is not None:
        print(f"{options.out}: {frame.height:,} rows")
    elif not frame.height:
        print("no such rows")
    else:
        left = frame.height - options.limit
        print_table(frame.head(options.limit), frame.columns[:2], f"{frame.height:,} rows of {options.path}")
        if left > 0:
            print(f"... and {left:,} more: give --limit, or --out FILE for all")
    return 0


def _views(store: Store, entity: str, name: str | None) -> list[View]:
    """Return the named view of an entity, or all. StepDiffError where it does not exist."""
    names = store.views(check_entity(entity)) if name is None else [name]
    if not names and not len(store.catalog(entity)):
        raise StepDiffError(f"{store.path} has no {entity}")
    return [store.view(entity, one) for one in names]
