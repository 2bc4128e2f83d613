"""What each verb of `python -m store` does and prints. Each returns the exit status."""

import dataclasses
import json
import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from store.feature_store import Store
from store.verbs.compact import compact
from store.verbs.drop import drop
from store.verbs.hdf5_export import export_hdf5
from store.verbs.hdf5_import import import_hdf5
from store.verbs.info import heading, info_table, readable_bytes, store_info
from store.verbs.options import (
    CompactOptions,
    DropOptions,
    ExportOptions,
    ImportOptions,
    InfoOptions,
    PlanOptions,
    RequantiseOptions,
    VerifyOptions,
)
from store.verbs.plan import Hours, Plan, plan
from store.verbs.requantise import requantise
from store.verbs.verify import NOT_COVERED, names, uncovered, verify

_SHOWN = 10
_LEFT_SHOWN = 3


def info(options: InfoOptions, as_json: bool) -> int:
    """Print what the store holds."""
    store = Store.open(options.path)
    views = store_info(store)
    if as_json:
        catalogs = {entity: len(store.catalog(entity)) for entity in store.entities()}
        _print_json({"path": str(store.path), "rows": catalogs, "views": [dataclasses.asdict(v) for v in views]})
    else:
        print(heading(store))
        if views:
            _print_table(info_table(views))
    return 0


def check(options: VerifyOptions, as_json: bool) -> int:
    """Print the damage there is; 1 where there is any."""
    store = Store.open(options.path)
    damage = verify(store)
    left = uncovered(store)
    clips = sorted({clip for found in damage for clip in found.clips})
    if as_json:
        found = [dataclasses.asdict(d) for d in damage]
        _print_json(
            {
                "path": str(store.path),
                "ok": not damage,
                "damage": found,
                "clips": clips,
                "not_covered": {"files": left, "never": NOT_COVERED},
            }
        )
    else:
        for d in damage:
            print(f"{d.path} {d.what}: {names(d.clips, _SHOWN) or 'no clips'}")
        print(f"damaged files: {len(damage)}, clips: {len(clips)}" if damage else f"{store.path} is whole")
        files = f"{len(left):,} files without a checksum ({names(tuple(left), _LEFT_SHOWN)}); " if left else ""
        print(f"not covered: {files}{'; '.join(NOT_COVERED)}")
    return 1 if damage else 0


def run_import(options: ImportOptions, as_json: bool) -> int:
    """Import, and print what became of the clips; 1 where any failed."""
    done = import_hdf5(options)
    if as_json:
        _print_json(done.as_dict())
    else:
        print(
            f"{done.done:,} of {done.asked:,} {done.entity} of {done.path} imported into view {done.view} of "
            f"{done.store} in {done.seconds:.1f} s, {done.already:,} were there already, {done.failed:,} failed"
        )
        for failure in done.failures[:_SHOWN]:
            print(f"  {failure['key']}: {failure['reason']}")
        if done.failed > _SHOWN:
            print(f"  ... and {done.failed - _SHOWN:,} more")
    return int(done.failed > 0)


def run_export(options: ExportOptions, as_json: bool) -> int:
    """Export, and print what is in the file."""
    done = export_hdf5(options)
    if as_json:
        _print_json(done.as_dict())
    else:
        left = f" (left out: {done.failed:,} failed, {done.absent:,} absent)" if done.failed + done.absent else ""
        print(f"{done.rows:,} {done.entity} of view {done.view} in {done.path}, {readable_bytes(done.bytes)}{left}")
    return 0


def run_plan(options: PlanOptions, as_json: bool) -> int:
    """Print the plan."""
    planned = plan(options)
    if as_json:
        _print_json(planned.as_dict())
        return 0
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in planned.features.items())
    print(f"{planned.rows:,} {planned.entity} of {planned.encoder}: {shapes}")
    _print_table(_sizes_table(planned))
    for hours in planned.hours:
        print(_hours_line(hours, planned))
    if not planned.hours:
        unit = planned.entity
        print(
            f"hours: unknown, since no rate was measured. Run python -m featurize over some hundred {unit} into a "
            f"store S, then plan with --measured-in S; or give --clips-per-second, the {unit} a second of one worker"
        )
    return 0


def run_requantise(options: RequantiseOptions, as_json: bool) -> int:
    """Make the new view, and print what is in it."""
    done = requantise(options)
    if as_json:
        _print_json(done.as_dict())
    else:
        print(
            f"{done.done:,} {done.entity} of view {done.made_from} made into view {done.view}, {done.feature} in "
            f"{done.dtype}, in {done.seconds:.1f} s; {done.already:,} were there already, {done.failed:,} failed"
        )
    return 0


def run_drop(options: DropOptions, as_json: bool) -> int:
    """Drop a view; 1 where `yes` was not said."""
    found = drop(options)
    if as_json:
        _print_json(found.as_dict())
    else:
        size = f"{readable_bytes(found.bytes)}, {found.files:,} files"
        what = f"view {found.view} of {found.entity} in {found.store}: {size}"
        print(f"dropped {what}" if found.dropped else f"would drop {what}; give --yes to do it")
        for path in found.stale:
            print(f"  {path} was built from it: remove it too" if found.dropped else f"  {path} was built from it")
    return 0 if found.dropped else 1


def run_compact(options: CompactOptions, as_json: bool) -> int:
    """Compact the store, and print what was done."""
    done = compact(options)
    if as_json:
        _print_json(done.as_dict())
    else:
        print(
            f"{done.store}: {done.catalog_parts:,} catalog parts and {done.failure_files:,} files of failures merged, "
            f"{done.orphans:,} orphan files deleted ({readable_bytes(done.orphan_bytes)})"
        )
    return 0


def _sizes_table(planned: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("dtype")
    for head in ("bytes a row", "bytes", "size", "rows a shard", "shards", "files"):
        table.add_column(head, justify="right", no_wrap=True)
    for size in planned.sizes:
        asked = size.dtype == planned.dtype and len(planned.sizes) > 1
        counts = (size.rows_per_shard, size.shards, size.files)
        table.add_row(
            f"{size.dtype} (asked for)" if asked else size.dtype,
            f"{size.bytes_per_row:,.0f}",
            f"{size.bytes:,}",
            readable_bytes(size.bytes),
            *(f"{count:,}" for count in counts),
            style="bold" if asked else None,
        )
    return table


def _hours_line(hours: Hours, planned: Plan) -> str:
    kind = {"cpu": "CPU-worker-hours", "cuda": "GPU-hours"}.get(hours.device, "worker-hours")
    line = f"{hours.worker_hours:,.1f} {kind} at {hours.clips_per_second:,.2f} {planned.entity}/s ({hours.measured})"
    days = f"{hours.hours:,.1f} hours ({hours.hours / 24:,.1f} days)"
    return f"{line}: {days} with {planned.workers:,} worker{'s' if planned.workers > 1 else ''}"


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value))


def _print_table(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else 120).print(table)
