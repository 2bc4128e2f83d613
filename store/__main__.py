"""Look at a feature store, move features in and out, and keep it in order.

    python -m store info data/features                 what it contains
    python -m store verify data/features               read every byte; exit status 1 on damage
    python -m store plan --clips 1e6 --encoder efficientnet-lite0 --measured-in data/features
    python -m store export clips.lance --store data/features --view efficientnet-lite0
    python -m store import clips.lance --store data/other --view net
    python -m store import theirs.parquet --store data/other --view net --encoder net --weights-sha256 0123... \\
        --layer last --frames "8 evenly" --crop "centre 224"
    python -m store requantise data/features --view efficientnet-lite0 --to small --dtype int8
    python -m store pool data/features --view efficientnet-lite0 --to pooled --pool 7
    python -m store failures data/features             clips that failed, with reasons
    python -m store rows data/features --status absent
    python -m store forget data/features CLIP CLIP --reason "asked to be removed"
    python -m store drop data/features --view small --yes
    python -m store compact data/features
    python -m store tag data/features paper-v1         read it later as data/features@paper-v1
    python -m store log data/features
    python -m store convert-snapshots data/features    once, if an earlier version made snapshots
    python -m store lineage data/features CLIP runs/stepdiff
"""

import sys
from collections.abc import Iterator
from typing import Any

from stepdiff.common.cli import command
from stepdiff.common.cli.command import choose
from stepdiff.common.cli.options import parse
from stepdiff.common.errors import some
from store.verbs import options  # each command imports what it runs only then, so that --help is fast

VERBS = {
    "info": ("store.__main__:info", "list views, features, finished and failed rows, bytes"),
    "verify": ("store.__main__:verify", "compare every file with its checksum and name the damaged clips"),
    "plan": ("store.__main__:plan", "estimate the bytes, shards, files and hours of a job"),
    "export": ("store.exchange.commands:export", "copy a view to Parquet, Lance, Hugging Face or WebDataset"),
    "import": ("store.exchange.commands:import_", "copy features from Parquet or Lance into a view"),
    "requantise": ("store.__main__:requantise", "make a new view with the largest feature in another dtype"),
    "pool": ("store.__main__:pool", "make a new view with the tokens of neighbouring patches averaged"),
    "failures": ("store.__main__:failures", "list the rows that failed, with reasons"),
    "rows": ("store.__main__:rows", "list rows with their status in each view"),
    "forget": ("store.__main__:forget", "retire rows: no reader returns them, no run computes them again"),
    "drop": ("store.__main__:drop", "remove a view"),
    "compact": ("store.__main__:compact", "merge small files and delete unused ones"),
    "tag": ("store.snapshots.commands:tag", "name what the store holds now: a snapshot, without a copy"),
    "log": ("store.snapshots.commands:log", "list the snapshots, and what changed from each to the next"),
    "convert-snapshots": ("store.snapshots.commands:convert", "convert the snapshots of earlier versions"),
    "lineage": ("store.lineage.commands:lineage", "say where a clip's rows come from, and what was trained on them"),
}
_DERIVED = (
    "{done:,} {entity} of view {made_from} made into view {view}, {feature} in {dtype}, in {seconds:.1f} s; "
    "{already:,} were there already, {failed:,} failed"
)
_SHOWN = 10
_FILES_SHOWN = 3


def info(argv: list[str]) -> int:
    """Print what the store contains."""

    def show(found: Any) -> None:
        from store.verbs.info import info_table

        gone = {entity: f" ({count:,} forgotten)" for entity, count in found.forgotten.items()}
        rows = ", ".join(f"{count:,} {entity}{gone.get(entity, '')}" for entity, count in found.rows.items())
        print(f"{found.path}: {rows or 'empty'}")
        if found.views:
            _print_table(info_table(found.views))

    return parse(options.InfoOptions, argv, "store info", None, "store.verbs.info:store_info", show, ("path",))


def verify(argv: list[str]) -> int:
    """Print the damage; the exit status is 1 if there is any."""

    def run(given: options.VerifyOptions) -> dict[str, Any]:
        from dataclasses import asdict

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
        damage, left = record["damage"], record["not_covered"]["files"]
        for found in damage:
            clips = some(found["clips"], _SHOWN) if found["clips"] else "no clips"
            print(f"{found['path']} {found['what']}: {clips}")
        damaged = f"damaged files: {len(damage)}, clips: {len(record['clips'])}"
        print(damaged if damage else f"{record['path']} is whole")
        for remedy in dict.fromkeys(found["remedy"] for found in damage):
            print(f"what to do: {remedy}")
        files = f"{len(left):,} files without a checksum ({some(left, _FILES_SHOWN)}); " if left else ""
        print(f"not covered: {files}{'; '.join(record['not_covered']['never'])}")

    return parse(
        options.VerifyOptions, argv, "store verify", None, run, show, ("path",), lambda record: int(not record["ok"])
    )


def requantise(argv: list[str]) -> int:
    """Make the new view, and print what it contains."""
    run = "store.verbs.derive:requantise"
    return parse(options.RequantiseOptions, argv, "store requantise", None, run, _DERIVED, ("path",))


def pool(argv: list[str]) -> int:
    """Make the new view, and print what it contains."""
    return parse(options.PoolOptions, argv, "store pool", None, "store.verbs.derive:pool", _DERIVED, ("path",))


def failures(argv: list[str]) -> int:
    """List the rows that failed: view, key and reason, view by view, in the order of the catalog."""
    run = "store.verbs.info:list_failures"
    return parse(options.FailuresOptions, argv, "store failures", None, run, None, ("path",))


def rows(argv: list[str]) -> int:
    """List rows with their status in each view."""
    return parse(options.RowsOptions, argv, "store rows", None, "store.verbs.info:list_rows", None, ("path",))


def forget(argv: list[str]) -> int:
    """Forget rows, or recall them."""

    def show(done: Any) -> None:
        did, was = ("recalled", "not forgotten") if done.recalled else ("forgotten", "forgotten before")
        already = f", {done.already:,} {was}" if done.already else ""
        print(f"{done.rows:,} {done.entity} of {done.store} {did}{already}")
        for view, count in done.withdrawn.items():
            print(f"  view {view}: {count:,} finished rows are absent now")
        for card in done.stale:
            print(f"  {card} is stale: run python -m retrieval build")

    return parse(
        options.ForgetOptions, argv, "store forget", None, "store.verbs.removal:forget", show, ("path", "keys")
    )


def drop(argv: list[str]) -> int:
    """Drop a view; the exit status is 1 without `--yes`."""

    def show(found: Any) -> None:
        from store.verbs.info import readable_bytes

        size = f"{readable_bytes(found.bytes)}, {found.files:,} files"
        what = f"view {found.view} of {found.entity} in {found.store}: {size}"
        print(f"dropped {what}" if found.dropped else f"would drop {what}; give --yes to do it")
        for path in found.stale:
            print(f"  {path} was built from it: remove it too" if found.dropped else f"  {path} was built from it")

    run = "store.verbs.removal:drop"
    return parse(options.DropOptions, argv, "store drop", None, run, show, ("path",), lambda it: int(not it.dropped))


def compact(argv: list[str]) -> int:
    """Compact the store, and print what was done."""

    def show(done: Any) -> None:
        from store.verbs.info import readable_bytes

        print(
            f"{done.store}: {done.catalog_parts:,} catalog parts and {done.failure_files:,} files of failures and "
            f"{done.records:,} records of writers merged, {done.locks:,} unused locks deleted, "
            f"{done.orphans:,} orphan files deleted ({readable_bytes(done.orphan_bytes)})"
        )

    return parse(options.CompactOptions, argv, "store compact", None, "store.verbs.compact:compact", show, ("path",))


def plan(argv: list[str]) -> int:
    """Print the plan of a job."""

    def show(planned: Any) -> None:
        shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in planned.features.items())
        print(f"{planned.rows:,} {planned.entity} of {planned.encoder}: {shapes}")
        _print_table(_sizes_table(planned))
        for hours in planned.hours:
            print(_hours_line(hours, planned))
        if not planned.hours:
            unit = planned.entity
            print(
                f"hours: unknown, since no rate was measured. Run python -m featurize over some hundred {unit} into a "
                f"store S, then plan with --measured-in S; or give --clips-per-second, the {unit} a second of one "
                "worker"
            )

        for line in _advice(planned):
            print(line)

    return parse(options.PlanOptions, argv, "store plan", None, "store.verbs.plan:plan", show)


def _sizes_table(planned: Any) -> Any:
    from rich import box
    from rich.table import Table

    from store.verbs.info import readable_bytes

    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("dtype")
    for head in ("bytes a row", "bytes", "size", "rows a shard", "shards", "files", "compacted"):
        table.add_column(head, justify="right", no_wrap=True)
    for size in planned.sizes:
        chosen = size.dtype == planned.dtype and len(planned.sizes) > 1
        table.add_row(
            f"{size.dtype} (chosen)" if chosen else size.dtype,
            f"{size.bytes_per_row:,.0f}",
            f"{size.bytes:,}",
            readable_bytes(size.bytes),
            *(f"{count:,}" for count in (size.rows_per_shard, size.shards, size.files, size.compacted)),
            style="bold" if chosen else None,
        )
    return table


def _hours_line(hours: Any, planned: Any) -> str:
    kind = {"cpu": "CPU-worker-hours", "cuda": "GPU-hours"}.get(hours.device, "worker-hours")
    line = f"{hours.worker_hours:,.1f} {kind} at {hours.clips_per_second:,.2f} {planned.entity}/s ({hours.measured})"
    days = f"{hours.hours:,.1f} hours ({hours.hours / 24:,.1f} days)"
    return f"{line}: {days} with {planned.workers:,} worker{'s' if planned.workers > 1 else ''}"


def _advice(planned: Any) -> Iterator[str]:
    """Yield the recommended setting, and in numbers whether to keep features or to encode again."""
    from store.verbs.info import readable_bytes

    if (advised := planned.setting) is not None:
        flags = f"--pool {advised.pool} " * (advised.pool > 1) + f"--dtype {advised.dtype}"
        yield f"recommended: {flags}, {readable_bytes(round(advised.bytes_per_row))} a clip; {advised.cost}"
    (stored,) = (size.bytes_per_row for size in planned.sizes if size.dtype == planned.dtype)
    if planned.video_bytes is not None or planned.caching:
        yield f"cache or encode again? A row of this plan: {readable_bytes(round(stored))}"
    if (video := planned.video_bytes) is not None:
        times = f"features: {stored / video:.1f} times as much"
        yield f"  its share of the video files: {readable_bytes(round(video))} ({times})"
    for it in planned.caching:
        worker = "one worker" if it.device == "worker" else f"one {it.device} worker"
        read = f"reading it {it.read_seconds:.2g} s ({planned.read_mb_per_second:,.0f} MB/s)"
        wins = f"features that are read {it.reads} times or more save time" if it.reads else "encode again"
        yield f"  encoding it takes {it.encode_seconds:.2g} s of {worker}, {read}: {wins}"


def _print_table(table: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main(argv: list[str] | None = None) -> int:
    return choose("store", __doc__ or "", VERBS, argv, aliases={"requantize": "requantise"})


if __name__ == "__main__":
    command.run(main, "finished work is kept; run the same command for the rest")
