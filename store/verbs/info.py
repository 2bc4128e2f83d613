"""The content of a store: figures of its views, its rows by status, and why rows failed."""

import json
from typing import Any

import numpy as np
import polars as pl

from stepdiff_core.cli.options import at_least
from stepdiff_core.errors import StepDiffError
from store.feature_store import Store
from store.provenance import check_entity
from store.verbs.options import FailuresOptions, InfoOptions, RowsOptions
from store.view import ABSENT, FAILED, OK, View


def store_info(options: InfoOptions) -> dict[str, Any]:
    """Return the figures of a store: rows and forgotten rows of each entity, and its `views`.

    Of a view: its `rows` in the catalog, which are ok, failed or absent; the `shards` committed so
    far; the `bytes` of its files. StepDiffError if one is damaged.
    """
    store = Store.open(options.path)
    rows = {entity: len(store.catalog(entity)) for entity in store.entities()}
    forgotten = {entity: len(store.forgotten(entity)) for entity in rows}
    return {
        "path": store.location,
        "rows": rows,
        "views": [
            _figures(store.view(entity, name)) for entity in rows for name in store.views(entity)
        ],
        "forgotten": {entity: count for entity, count in forgotten.items() if count},
    }


def _figures(view: View) -> dict[str, Any]:
    status = view.status()
    count = np.bincount(status, minlength=3).tolist()
    return {
        "entity": view.entity,
        "view": view.name,
        "provenance": view.provenance.as_dict(),
        "features": {
            name: {"shape": list(f.shape), "dtype": f.dtype} for name, f in view.features.items()
        },
        "rows_per_shard": view.rows_per_shard,
        "rows": len(status),
        "ok": count[OK],
        "failed": count[FAILED],
        "absent": count[ABSENT],
        "shards": len(np.unique(np.flatnonzero(status) // view.rows_per_shard)),
        "bytes": sum(view.paths.group.files().values()),
    }


WORDS = ("absent", "ok", "failed", "forgotten")
"""of each value of the status; the last is of rows that are absent because they were forgotten"""
_FORGOTTEN = 3


def list_failures(options: FailuresOptions) -> int:
    """Print or write view, key and reason of the rows that failed."""
    store = Store.open(options.path)
    empty = pl.DataFrame(schema={"view": pl.String, "key": pl.String, "reason": pl.String})
    views = _views(store, options.entity, options.view)
    frames = (
        view.failures().select(pl.lit(view.name).alias("view"), "key", "reason") for view in views
    )
    failed = pl.concat([empty, *frames])
    return _write_rows(options, failed, failed.height)


def list_rows(options: RowsOptions) -> int:
    """Print or write row, key and the status in each view of the rows that have the wanted status
    in one of them.

    The reasons of forgotten rows are in the column `reason`, if any are among them.
    """
    store = Store.open(options.path)
    views, catalog = _views(store, options.entity, options.view), store.catalog(options.entity)
    forgotten = store.forgotten(options.entity)
    count = len(catalog)
    gone = np.isin(np.arange(count), forgotten["row"].to_numpy())
    status = {view.name: np.full(count, ABSENT) for view in views}
    for view in views:
        now = view.status()[:count]  # others were appended meanwhile
        status[view.name][: len(now)] = now
        status[view.name][gone] = _FORGOTTEN
    chosen = np.ones(count, bool)
    if options.status is not None:
        value = WORDS.index(options.status)
        chosen = np.any(
            [gone & (value == _FORGOTTEN), *(values == value for values in status.values())], axis=0
        )
    places = np.flatnonzero(chosen)
    total, has_reasons = len(places), gone[places].any()
    if options.out is None and not options.json:
        # before keys are read: a large store has gigabytes of keys
        places = places[: options.limit]
    frame = pl.DataFrame(
        {"row": places, "key": catalog.keys(places)}, schema={"row": pl.Int64, "key": pl.String}
    )
    words = np.array(WORDS, object)
    frame = frame.with_columns(
        pl.Series(name, words[values[places]], pl.String) for name, values in status.items()
    )
    if has_reasons:
        frame = frame.join(
            forgotten.select("row", "reason"), on="row", how="left", maintain_order="left"
        )
    return _write_rows(options, frame, total)


def _write_rows(options: FailuresOptions, frame: pl.DataFrame, total: int) -> int:
    """Print the table, as text or JSON, or write it to a file; return the exit status.

    A frame that is printed as text may have only the first `--limit` of `total` rows.
    """
    from stepdiff_core.io.tables import as_json, print_table, write_table

    at_least(options, limit=1)
    if options.out is not None:
        write_table(options.out, frame)
    if options.json:
        print(json.dumps({"path": options.path, "entity": options.entity, "rows": as_json(frame)}))
    elif options.out is not None:
        print(f"{options.out}: {frame.height:,} rows")
    elif not total:
        print("no such rows")
    else:
        more = total - options.limit
        print_table(
            frame.head(options.limit), frame.columns[:2], f"{total:,} rows of {options.path}"
        )
        if more > 0:
            print(f"... and {more:,} more: give --limit, or --out FILE for all")
    return 0


def _views(store: Store, entity: str, name: str | None) -> list[View]:
    """Return the named view of an entity, or all. StepDiffError if it does not exist."""
    names = store.views(check_entity(entity)) if name is None else [name]
    if not names and not len(store.catalog(entity)):
        raise StepDiffError(f"{store.path} has no {entity}")
    return [store.view(entity, one) for one in names]
