"""The content of a store, as figures and as a table."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from store.catalog.forgotten import read_forgotten
from store.feature_store import Store
from store.view import ABSENT, FAILED, OK, View


@dataclass(frozen=True)
class ViewInfo:
    """Figures of one view."""

    entity: str
    view: str
    provenance: dict[str, Any]
    features: dict[str, dict[str, Any]]
    """feature -> shape of a row, dtype"""
    rows_per_shard: int
    rows: int
    """rows of the catalog: ok + failed + absent"""
    ok: int
    failed: int
    absent: int
    shards: int
    """shards committed so far"""
    bytes: int
    """bytes of the view's files"""


def view_info(view: View) -> ViewInfo:
    """Return the figures of `view`; StepDiffError where it is damaged."""
    status = view.status()
    count = np.bincount(status, minlength=3)
    return ViewInfo(
        entity=view.entity,
        view=view.name,
        provenance=view.provenance.as_dict(),
        features={name: {"shape": list(f.shape), "dtype": f.dtype} for name, f in view.features.items()},
        rows_per_shard=view.rows_per_shard,
        rows=len(status),
        ok=int(count[OK]),
        failed=int(count[FAILED]),
        absent=int(count[ABSENT]),
        shards=len(np.unique(np.flatnonzero(status) // view.rows_per_shard)),
        bytes=sum(view.paths.group.files().values()),
    )


@dataclass(frozen=True)
class StoreInfo:
    """Figures of a store."""

    path: str
    rows: dict[str, int]
    """entity -> rows of its catalog"""
    views: list[ViewInfo]
    forgotten: dict[str, int]
    """entity -> rows that were forgotten, where there are any"""


def store_info(store: Store) -> StoreInfo:
    """Return the figures of `store` and of every view."""
    rows = {entity: len(store.catalog(entity)) for entity in store.entities()}
    views = [view_info(store.view(entity, name)) for entity in rows for name in store.views(entity)]
    forgotten = {entity: len(read_forgotten(store.path, entity)) for entity in rows}
    return StoreInfo(str(store.path), rows, views, {entity: count for entity, count in forgotten.items() if count})


def info_table(views: list[ViewInfo]) -> Table:
    """Return the figures as a table, one view a row."""
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("view", overflow="fold", min_width=9)
    table.add_column("encoder", overflow="fold", min_width=7)
    table.add_column("features", no_wrap=True)
    for heading in ("ok", "failed", "absent", "shards", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    for view in views:
        features = "\n".join(
            f"{name} {'x'.join(map(str, f['shape']))} {f['dtype']}" for name, f in view.features.items()
        )
        table.add_row(
            f"{view.entity}/{view.view}",
            view.provenance["encoder"],
            features,
            *(f"{n:,}" for n in (view.ok, view.failed, view.absent, view.shards)),
            readable_bytes(view.bytes),
        )
    return table


def readable_bytes(count: int) -> str:
    """Return `count` bytes with a binary unit."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"
