"""The commands of `python -m store`. Each imports what it runs only then, so that `--help` is fast."""

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from common.cli.options import parse
from store.verbs import options

if TYPE_CHECKING:
    from rich.table import Table

    from store.feature_store import Store
    from store.verbs.info import ViewInfo
    from store.verbs.plan import Hours, Plan

_SHOWN = 10
_FILES_SHOWN = 3


@dataclass(frozen=True)
class _Info:
    store: "Store"
    views: "list[ViewInfo]"

    def as_dict(self) -> dict[str, Any]:
        rows = {entity: len(self.store.catalog(entity)) for entity in self.store.entities()}
        return {"path": str(self.store.path), "rows": rows, "views": [asdict(view) for view in self.views]}


def info(argv: list[str]) -> int:
    """Print what the store contains."""

    def run(given: options.InfoOptions) -> _Info:
        from store.feature_store import Store
        from store.verbs.info import store_info

        store = Store.open(given.path)
        return _Info(store, store_info(store))

    def show(found: _Info) -> None:
        from store.verbs.info import heading, info_table

        print(heading(found.store))
        if found.views:
            _print_table(info_table(found.views))

    return parse(options.InfoOptions, argv, "store info", None, run, show, ("path",))


def verify(argv: list[str]) -> int:
    """Print the damage; the exit status is 1 if there is any."""

    def run(given: options.VerifyOptions) -> dict[str, Any]:
        from store.feature_store import Store
        from store.verbs.verify import NOT_COVERED, uncovered, verify

        store = Store.open(given.path)
        damage = verify(store)
        return {
            "path": str(store.path),
            "ok": not damage,
            "damage": [asdict(found) for found in damage],
            "clips": sorted({clip for found in damage for clip in found.clips}),
            "not_covered": {"files": uncovered(store), "never": NOT_COVERED},
        }

    def show(record: dict[str, Any]) -> None:
        from store.verbs.verify import names

        damage, left = record["damage"], record["not_covered"]["files"]
        for found in damage:
            print(f"{found['path']} {found['what']}: {names(found['clips'], _SHOWN) or 'no clips'}")
        damaged = f"damaged files: {len(damage)}, clips: {len(record['clips'])}"
        print(damaged if damage else f"{record['path']} is whole")
        files = f"{len(left):,} files without a checksum ({names(tuple(left), _FILES_SHOWN)}); " if left else ""
        print(f"not covered: {files}{'; '.join(record['not_covered']['never'])}")

    return parse(
        options.VerifyOptions, argv, "store verify", None, run, show, ("path",), lambda record: int(not record["ok"])
    )


def import_hdf5(argv: list[str]) -> int:
    """Import; the exit status is 1 if any clip failed."""

    def run(given: options.ImportOptions) -> Any:
        from store.verbs.hdf5_import import import_hdf5

        return import_hdf5(given)

    def show(done: Any) -> None:
        print(
            f"{done.done:,} of {done.asked:,} {done.entity} of {done.path} imported into view {done.view} of "
            f"{done.store} in {done.seconds:.1f} s, {done.already:,} were there already, {done.failed:,} failed"
        )
        for failure in done.failures[:_SHOWN]:
            print(f"  {failure['key']}: {failure['reason']}")
        if done.failed > _SHOWN:
            print(f"  ... and {done.failed - _SHOWN:,} more")

    return parse(
        options.ImportOptions, argv, "store import-hdf5", None, run, show, ("path",), lambda done: int(done.failed > 0)
    )


def export_hdf5(argv: list[str]) -> int:
    """Export, and print what the file contains."""

    def run(given: options.ExportOptions) -> Any:
        from store.verbs.hdf5_export import export_hdf5

        return export_hdf5(given)

    def show(done: Any) -> None:
        from store.verbs.info import readable_bytes

        left = f" (left out: {done.failed:,} failed, {done.absent:,} absent)" if done.failed + done.absent else ""
        print(f"{done.rows:,} {done.entity} of view {done.view} in {done.path}, {readable_bytes(done.bytes)}{left}")

    return parse(options.ExportOptions, argv, "store export-hdf5", None, run, show, ("path",))


def plan(argv: list[str]) -> int:
    """Print the plan of a job."""

    def run(given: options.PlanOptions) -> "Plan":
        from store.verbs.plan import plan

        return plan(given)

    return parse(options.PlanOptions, argv, "store plan", None, run, _show_plan)


def requantise(argv: list[str]) -> int:
    """Make the new view, and print what it contains."""

    def run(given: options.RequantiseOptions) -> Any:
        from store.verbs.requantise import requantise

        return requantise(given)

    def show(done: Any) -> None:
        print(
            f"{done.done:,} {done.entity} of view {done.made_from} made into view {done.view}, {done.feature} in "
            f"{done.dtype}, in {done.seconds:.1f} s; {done.already:,} were there already, {done.failed:,} failed"
        )

    return parse(options.RequantiseOptions, argv, "store requantise", None, run, show, ("path",))


def drop(argv: list[str]) -> int:
    """Drop a view; the exit status is 1 without `--yes`."""

    def run(given: options.DropOptions) -> Any:
        from store.verbs.drop import drop

        return drop(given)

    def show(found: Any) -> None:
        from store.verbs.info import readable_bytes

        size = f"{readable_bytes(found.bytes)}, {found.files:,} files"
        what = f"view {found.view} of {found.entity} in {found.store}: {size}"
        print(f"dropped {what}" if found.dropped else f"would drop {what}; give --yes to do it")
        for path in found.stale:
            print(f"  {path} was built from it: remove it too" if found.dropped else f"  {path} was built from it")

    return parse(
        options.DropOptions, argv, "store drop", None, run, show, ("path",), lambda found: int(not found.dropped)
    )


def compact(argv: list[str]) -> int:
    """Compact the store, and print what was done."""

    def run(given: options.CompactOptions) -> Any:
        from store.verbs.compact import compact

        return compact(given)

    def show(done: Any) -> None:
        from store.verbs.info import readable_bytes

        print(
            f"{done.store}: {done.catalog_parts:,} catalog parts and {done.failure_files:,} files of failures merged, "
            f"{done.orphans:,} orphan files deleted ({readable_bytes(done.orphan_bytes)})"
        )

    return parse(options.CompactOptions, argv, "store compact", None, run, show, ("path",))


def _show_plan(planned: "Plan") -> None:
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


def _sizes_table(planned: "Plan") -> "Table":
    from rich import box
    from rich.table import Table

    from store.verbs.info import readable_bytes

    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("dtype")
    for head in ("bytes a row", "bytes", "size", "rows a shard", "shards", "files"):
        table.add_column(head, justify="right", no_wrap=True)
    for size in planned.sizes:
        chosen = size.dtype == planned.dtype and len(planned.sizes) > 1
        counts = (size.rows_per_shard, size.shards, size.files)
        table.add_row(
            f"{size.dtype} (chosen)" if chosen else size.dtype,
            f"{size.bytes_per_row:,.0f}",
            f"{size.bytes:,}",
            readable_bytes(size.bytes),
            *(f"{count:,}" for count in counts),
            style="bold" if chosen else None,
        )
    return table


def _hours_line(hours: "Hours", planned: "Plan") -> str:
    kind = {"cpu": "CPU-worker-hours", "cuda": "GPU-hours"}.get(hours.device, "worker-hours")
    line = f"{hours.worker_hours:,.1f} {kind} at {hours.clips_per_second:,.2f} {planned.entity}/s ({hours.measured})"
    days = f"{hours.hours:,.1f} hours ({hours.hours / 24:,.1f} days)"
    return f"{line}: {days} with {planned.workers:,} worker{'s' if planned.workers > 1 else ''}"


def _print_table(table: "Table") -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 120).print(table)
