"""Look at a feature store, move features in and out, and keep it in order.

    python -m store info data/features                 what it contains
    python -m store verify data/features               read every byte; exit status 1 on damage
    python -m store verify data/features --withdraw    make damaged rows absent
    python -m store plan --clips 1e6 --encoder efficientnet-lite0 --measured-in data/features
    python -m store export clips.lance --store data/features --view efficientnet-lite0
    python -m store import clips.lance --store data/other --view net
    python -m store export clips.h5 --store data/features --view efficientnet-lite0
    python -m store import theirs.parquet --store data/other --view net --encoder net \\
        --weights-sha256 0123... --layer last --frames "8 evenly" --crop "centre 224"
    python -m store requantise data/features --view efficientnet-lite0 --to small --dtype int8
    python -m store pool data/features --view efficientnet-lite0 --to pooled --pool 7
    python -m store failures data/features             clips that failed, with reasons
    python -m store rows data/features --status absent
    python -m store forget data/features CLIP CLIP --reason "asked to be removed"
    python -m store drop data/features --view small --yes
    python -m store compact data/features
    python -m store tag data/features paper-v1         read it later as data/features@paper-v1
    python -m store log data/features
    python -m store lineage data/features CLIP runs/stepdiff
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from stepdiff_core.cli import command
from stepdiff_core.cli.command import choose
from stepdiff_core.cli.options import parse
from stepdiff_core.errors import some

# each command imports what it runs only then, so that --help is fast
from store.verbs import options

_TEXT = {"overflow": "fold"}
_SHOWN = 10
_FILES_SHOWN = 3
_DIGITS = 12  # of a sha256 that are shown
_SECONDS = len("2026-11-29T12:00:00")


def _show_info(record: dict[str, Any]) -> None:
    gone = {entity: f" ({count:,} forgotten)" for entity, count in record["forgotten"].items()}
    rows = ", ".join(
        f"{count:,} {entity}{gone.get(entity, '')}" for entity, count in record["rows"].items()
    )
    print(f"{record['path']}: {rows or 'empty'}")
    if not record["views"]:
        return
    texts = {
        "view": _TEXT | {"min_width": 9},
        "encoder": _TEXT | {"min_width": 7},
        "features": {"no_wrap": True},
    }
    table, counted = (
        _table(texts, ("ok", "failed", "absent", "shards", "size")),
        ("ok", "failed", "absent", "shards"),
    )
    for view in record["views"]:
        features = (
            f"{name} {'x'.join(map(str, f['shape']))} {f['dtype']}"
            for name, f in view["features"].items()
        )
        named = (
            f"{view['entity']}/{view['view']}",
            view["provenance"]["encoder"],
            "\n".join(features),
        )
        table.add_row(
            *named, *(f"{view[name]:,}" for name in counted), readable_bytes(view["bytes"])
        )
    _print_table(table)


def readable_bytes(count: int) -> str:
    """Return `count` bytes with a binary unit."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def _verify(chosen: options.VerifyOptions) -> dict[str, Any]:
    from store.feature_store import Store
    from store.verbs.verify import NOT_COVERED, uncovered, verify

    store = Store.open(chosen.path)
    with store.lock(chosen.wait) if chosen.withdraw else nullcontext():
        damage = verify(store, chosen.withdraw)
    return {
        "path": str(store.path),
        "ok": all(one.withdrawn for one in damage),
        "damage": [asdict(one) for one in damage],
        "clips": sorted({clip for one in damage for clip in one.clips}),
        "not_covered": {"files": uncovered(store), "never": NOT_COVERED},
    }


def _show_damage(record: dict[str, Any]) -> None:
    damage, uncovered = record["damage"], record["not_covered"]["files"]
    for one in damage:
        clips = some(one["clips"], _SHOWN) if one["clips"] else "no clips"
        print(f"{one['path']} {one['what']}: {clips}")
    withdrawn = sum(one["withdrawn"] for one in damage)
    damaged = f"damaged files: {len(damage)}, clips: {len(record['clips'])}"
    damaged += f"; withdrawn: {withdrawn} files" if withdrawn else ""
    print(damaged if damage else f"{record['path']} is whole")
    for remedy in dict.fromkeys(one["remedy"] for one in damage):
        print(f"what to do: {remedy}")
    files = (
        f"{len(uncovered):,} files without a checksum ({some(uncovered, _FILES_SHOWN)}); "
        if uncovered
        else ""
    )
    print(f"not covered: {files}{'; '.join(record['not_covered']['never'])}")


def _show_forgotten(done: dict[str, Any]) -> None:
    did, was = (
        ("recalled", "not forgotten") if done["recalled"] else ("forgotten", "forgotten before")
    )
    already = f", {done['already']:,} {was}" if done["already"] else ""
    print(f"{done['rows']:,} {done['entity']} of {done['store']} {did}{already}")
    for view, count in done["withdrawn"].items():
        print(f"  view {view}: {count:,} finished rows are absent now")
    for card in done["stale"]:
        print(f"  {card} is stale: run python -m retrieval build")


def _show_dropped(record: dict[str, Any]) -> None:
    size = f"{readable_bytes(record['bytes'])}, {record['files']:,} files"
    what = f"view {record['view']} of {record['entity']} in {record['store']}: {size}"
    print(f"dropped {what}" if record["dropped"] else f"would drop {what}; give --yes to do it")
    for path in record["stale"]:
        print(f"  {path} was built from it" + (": remove it too" if record["dropped"] else ""))


def _show_compacted(done: dict[str, Any]) -> None:
    text = (
        "{store}: {catalog_parts:,} catalog parts and {failure_files:,} files of failures and "
        "{records:,} records of writers merged, {locks:,} unused locks deleted, {orphans:,} orphan "
        "files deleted"
    )
    print(f"{text.format(**done)} ({readable_bytes(done['orphan_bytes'])})")


def _show_plan(planned: dict[str, Any]) -> None:
    shapes = ", ".join(
        f"{name} {'x'.join(map(str, shape))}" for name, shape in planned["features"].items()
    )
    print(f"{planned['rows']:,} {planned['entity']} of {planned['encoder']}: {shapes}")
    _print_table(_sizes_table(planned))
    for hours in planned["hours"]:
        kind = {"cpu": "CPU-worker-hours", "cuda": "GPU-hours"}.get(hours["device"], "worker-hours")
        rate = f"{hours['clips_per_second']:,.2f} {planned['entity']}/s ({hours['measured']})"
        days = f"{hours['hours']:,.1f} hours ({hours['hours'] / 24:,.1f} days)"
        workers = f"{planned['workers']:,} worker{'s' if planned['workers'] > 1 else ''}"
        print(f"{hours['worker_hours']:,.1f} {kind} at {rate}: {days} with {workers}")
    if not planned["hours"]:
        unit = planned["entity"]
        print(
            "hours: unknown, since no rate was measured. Run python -m featurize over some "
            f"hundred {unit} into a store S, then plan with --measured-in S; or give "
            f"--clips-per-second, the {unit} a second of one worker"
        )
    for line in _advice(planned):
        print(line)


def _sizes_table(planned: dict[str, Any]) -> Any:
    heads = ("bytes a row", "bytes", "size", "rows a shard", "shards", "files", "compacted")
    table = _table({"dtype": {}}, heads)
    for size in planned["sizes"]:
        chosen = size["dtype"] == planned["dtype"] and len(planned["sizes"]) > 1
        table.add_row(
            f"{size['dtype']} (chosen)" if chosen else size["dtype"],
            f"{size['bytes_per_row']:,.0f}",
            f"{size['bytes']:,}",
            readable_bytes(size["bytes"]),
            *(f"{size[name]:,}" for name in ("rows_per_shard", "shards", "files", "compacted")),
            style="bold" if chosen else None,
        )
    return table


def _advice(planned: dict[str, Any]) -> Iterator[str]:
    """Yield the recommended setting, and in numbers whether to keep features or to encode again."""
    if (advised := planned["setting"]) is not None:
        flags = f"--pool {advised['pool']} " * (advised["pool"] > 1) + f"--dtype {advised['dtype']}"
        yield (
            f"recommended: {flags}, {readable_bytes(round(advised['bytes_per_row']))} a clip; "
            f"{advised['cost']}"
        )
    if (total := planned["statistics_bytes"]) is not None:
        alone = (
            f"{readable_bytes(round(total / planned['rows']))} a clip, {readable_bytes(total)} in "
            "total"
        )
        yield (
            f"statistics of early maps alone (featurize --statistics only): {alone}; enough for "
            "heads.words"
        )
    (stored,) = (
        size["bytes_per_row"] for size in planned["sizes"] if size["dtype"] == planned["dtype"]
    )
    if planned["video_bytes"] is not None or planned["caching"]:
        yield f"cache or encode again? A row of this plan: {readable_bytes(round(stored))}"
    if (video := planned["video_bytes"]) is not None:
        times = f"features: {stored / video:.1f} times as much"
        yield f"  its share of the video files: {readable_bytes(round(video))} ({times})"
    for it in planned["caching"]:
        worker = "one worker" if it["device"] == "worker" else f"one {it['device']} worker"
        read = f"reading it {it['read_seconds']:.2g} s ({planned['read_mb_per_second']:,.0f} MB/s)"
        wins = (
            f"features that are read {it['reads']} times or more save time"
            if it["reads"]
            else "encode again"
        )
        yield f"  encoding it takes {it['encode_seconds']:.2g} s of {worker}, {read}: {wins}"


def _show_export(done: dict[str, Any]) -> None:
    omitted = [f"{done[name]:,} {name}" for name in ("failed", "absent", "forgotten") if done[name]]
    out = f" (left out: {', '.join(omitted)})" if omitted else ""
    before = "complete already, " if done["already"] == done["parts"] else ""
    size = readable_bytes(done["bytes"])
    print(
        "{rows:,} {entity} of view {view} in {path}, ".format(**done)
        + f"{before}{done['format']}, {size}{out}"
    )
    print("\n".join(f"  {line}" for line in done["how_to_open"].splitlines()))


def _show_import(done: dict[str, Any]) -> None:
    text = (
        "{done:,} of {asked:,} {entity} of {path} imported into view {view} of {store} in "
        "{seconds:.1f} s, {already:,} were there already, {failed:,} failed"
    )
    forgotten = f", {done['forgotten']:,} were forgotten and left out" if done["forgotten"] else ""
    print(text.format(**done) + forgotten)
    if done["left_out"]:
        print(f"  columns left out: {some(done['left_out'], _SHOWN)}")
    for failure in done["failures"][:_SHOWN]:
        print(f"  {failure['key']}: {failure['reason']}")
    if done["failed"] > _SHOWN:
        print(f"  ... and {done['failed'] - _SHOWN:,} more")


def _live(path: str) -> Any:
    """Return the store in `path`; StepDiffError if it is a snapshot."""
    from store.feature_store import Store

    store = Store.open(path)
    store.refuse_snapshot()
    return store


def _tag(chosen: options.TagOptions) -> dict[str, Any]:
    from store.snapshots import snapshot

    store = _live(chosen.path)
    if chosen.delete:
        snapshot.delete_snapshot(store.path, chosen.name)
        return {"path": str(store.path), "name": chosen.name, "deleted": True}
    return {
        "path": str(store.path),
        **asdict(snapshot.tag(store.path, chosen.name, chosen.note)),
        "deleted": False,
    }


def _show_tag(made: dict[str, Any]) -> None:
    if made["deleted"]:
        print(f"snapshot {made['name']} of {made['path']} deleted")
        return
    rows = ", ".join(f"{count:,} {entity}" for entity, count in made["rows"].items()) or "nothing"
    print(f"snapshot {made['name']} of {made['path']}: {rows}")
    for entity, views in made["views"].items():
        for view, about in views.items():
            print(
                f"  {entity}/{view}: {about['ok']:,} ok, {about['failed']:,} failed, commit "
                f"{about['commit']}"
            )
    print(
        f"read it with Store.open({made['path']!r}, at={made['name']!r}), or as "
        f"{made['path']}@{made['name']}"
    )


def _log(chosen: options.LogOptions) -> dict[str, Any]:
    from store.snapshots.snapshot import names

    store = _live(chosen.path)
    begun = names(store.path)[1]  # temporary names, but in object stores their own
    entries = list(_entries(store))[::-1]
    return {"path": str(store.path), "entries": entries, "unfinished": bool(begun), "begun": begun}


def _entries(store: Any) -> Iterator[dict[str, Any]]:
    """Yield the entries of a log, the oldest first: a view's figures, its `new` finished rows,
    whether it `changed`."""
    from store.snapshots.snapshot import NOW, Figures, Snapshot, figures_of, snapshots

    now = {
        entity: {view: figures_of(store.view(entity, view)) for view in store.views(entity)}
        for entity in store.entities()
    }
    empty = Figures(0, 0, 0, "")
    before: dict[tuple[str, str], Figures] = {}
    for one in (*snapshots(store.path), Snapshot(NOW, "", "", {}, now)):
        figures = [
            ((entity, view), about)
            for entity, views in one.views.items()
            for view, about in views.items()
        ]
        for (entity, view), about in reversed(figures or [(("", ""), empty)]):
            old = before.get((entity, view), empty)
            yield {
                "name": one.name,
                "created": one.created,
                "note": one.note,
                "entity": entity,
                "view": view,
                **asdict(about),
                "new": about.ok - old.ok,
                "changed": about.commit != old.commit,
            }
        before |= dict(figures)


def _show_log(record: dict[str, Any]) -> None:
    from stepdiff_core.io.local import TEMPORARY

    texts, more = (
        dict.fromkeys(heads, _TEXT)
        for heads in (("snapshot", "made (UTC)", "view"), ("commit", "note"))
    )
    table = _table(texts, ("ok", "change", "failed"), more)
    for (name, created, note), entries in groupby(
        record["entries"], itemgetter("name", "created", "note")
    ):
        first = (name, created[:_SECONDS].replace("T", " "))
        for one in entries:
            if one["changed"]:
                counts = (f"{one['ok']:,}", f"{one['new']:+,}", f"{one['failed']:,}")
                table.add_row(
                    *first, f"{one['entity']}/{one['view']}", *counts, one["commit"], note
                )
                first, note = ("", ""), ""
        if first[0]:
            table.add_row(*first, "no change", "", "", "", "", note)
    _print_table(table, 160)
    for name in record["begun"]:
        if name.startswith(TEMPORARY):
            remedy = (
                f"python -m store compact {record['path']} removes it once its process has ended"
            )
        else:
            remedy = f"python -m store tag {record['path']} {name} --delete removes it"
        print(f"a snapshot is being made, or a killed process left it: {remedy}")


def _show_lineage(record: dict[str, Any]) -> None:
    for row in record["rows"]:
        _show_row(row)
    for head in record["heads"]:
        _show_head(head)


def _show_row(row: dict[str, Any]) -> None:
    print(f"{row['key']}: row {row['row']:,} of {row['entity']}")
    if row["forgotten"] is not None:
        print(f"  forgotten: {row['forgotten'] or 'no reason given'}")
    for name, value in row["metadata"].items():
        print(f"  {name}: {value}")
    for view in row["views"]:
        made, written = view["provenance"], view["written"]
        print(
            f"  view {view['view']}: {view['status']}"
            + (f" ({view['reason']})" if "reason" in view else "")
        )
        if view["status"] in ("absent", "forgotten"):
            continue
        print(
            f"    encoder {made['encoder']}, weights {made['weights'][:_DIGITS]}, layer "
            f"{made['layer']}"
        )
        print(f"    frames {made['frames']}; crop {made['crop']}")
        if not written:
            print("    written: not recorded")
        else:
            date, *more = (
                written.pop("date"),
                *(f"{name} {value}" for name, value in written.items()),
            )
            print(f"    written {', '.join([date or 'on an unknown date', *more])}")
    for what, name in (
        ("in snapshots", "snapshots"),
        ("may have trained", "trained"),
        ("not known of", "unknown"),
    ):
        if row[name]:
            print(f"  {what}: {'; '.join(row[name])}")


def _show_head(head: dict[str, Any]) -> None:
    print(f"{head['run']}: a head")
    if (store := head["store"]) is None:
        print("  store: not recorded")
    else:
        at = "no snapshot" if store.get("at") is None else f"snapshot {store['at']}"
        commits = ", ".join(f"{view} {commit}" for view, commit in store.get("commits", {}).items())
        print(f"  store: {store['path']}, {at}; commit {commits}")
    for name, made in head["reads"].items():
        if isinstance(made, dict):
            print(
                f"  {name}: encoder {made['encoder']}, weights {made['weights'][:_DIGITS]}, layer "
                f"{made['layer']}"
            )
        else:
            print(f"  {name.replace('_', ' ')}: {str(made)[:_DIGITS]}")
    clips = "not recorded" if head["clips"] is None else f"{head['clips']:,}"
    print(f"  clips that may have trained it: {clips}")
    for file, digest in head["data"].items():
        print(f"  data: {file} ({digest[:_DIGITS]})")
    if head["starts_from"]:
        print(f"  starts from: {' <- '.join(head['starts_from'])}")


def _table(texts: dict[str, Any], numbers: Iterable[str], more: Mapping[str, Any] = {}) -> Any:
    """Return an empty table of columns of texts, with their options, of numbers, and of more
    texts."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for head, looks in {
        **texts,
        **dict.fromkeys(numbers, {"justify": "right", "no_wrap": True}),
        **more,
    }.items():
        table.add_column(head, **looks)
    return table


def _print_table(table: Any, width: int = 120) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else width).print(table)


class Verb(NamedTuple):
    """A command: arguments of `parse`."""

    options: type
    run: str | Callable[[Any], Any]
    show: str | Callable[[Any], None] | None = None
    positional: tuple[str, ...] = ("path",)
    status: Callable[[Any], int] = lambda record: 0


_DERIVED = (
    "{done:,} {entity} of view {made_from} made into view {view}, {feature} in {dtype}, in "
    "{seconds:.1f} s; {already:,} were there already, {failed:,} failed"
)
VERBS = {
    "info": Verb(options.InfoOptions, "store.verbs.info:store_info", _show_info),
    "verify": Verb(
        options.VerifyOptions, _verify, _show_damage, status=lambda record: int(not record["ok"])
    ),
    "plan": Verb(options.StorePlanOptions, "store.verbs.plan:plan", _show_plan, ()),
    "export": Verb(options.StoreExportOptions, "store.exchange.export:export", _show_export),
    "import": Verb(
        options.ImportOptions,
        "store.exchange.intake:take_in",
        _show_import,
        status=lambda done: int(done["failed"] > 0),
    ),
    "requantise": Verb(options.RequantiseOptions, "store.verbs.derive:requantise", _DERIVED),
    "pool": Verb(options.PoolOptions, "store.verbs.derive:pool", _DERIVED),
    "failures": Verb(options.FailuresOptions, "store.verbs.info:list_failures"),
    "rows": Verb(options.RowsOptions, "store.verbs.info:list_rows"),
    "forget": Verb(
        options.ForgetOptions, "store.verbs.removal:forget", _show_forgotten, ("path", "keys")
    ),
    "drop": Verb(
        options.DropOptions,
        "store.verbs.removal:drop",
        _show_dropped,
        status=lambda record: int(not record["dropped"]),
    ),
    "compact": Verb(options.CompactOptions, "store.verbs.compact:compact", _show_compacted),
    "tag": Verb(options.TagOptions, _tag, _show_tag, ("path", "name")),
    "log": Verb(options.LogOptions, _log, _show_log),
    "lineage": Verb(
        options.LineageOptions, "store.lineage.answers:lineage", _show_lineage, ("path", "names")
    ),
}


def main(argv: list[str] | None = None) -> int:
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    name = {"requantize": "requantise"}.get(name, name)
    if (verb := VERBS.get(name)) is None:
        abouts = {
            name: ("", (verb.options.__doc__ or "").partition(".")[0])
            for name, verb in VERBS.items()
        }
        return choose("store", __doc__ or "", abouts, [name, *rest])
    return parse(
        verb.options, rest, f"store {name}", None, verb.run, verb.show, verb.positional, verb.status
    )


if __name__ == "__main__":
    command.run(main, "finished work is kept; run the same command for the rest")
