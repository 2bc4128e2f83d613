"""`python -m store tag` and `log`."""

import sys
from dataclasses import asdict
from itertools import groupby
from typing import Any

from stepdiff.common.cli.options import parse
from stepdiff.common.io.local import TEMPORARY
from store.snapshots import options

_SECONDS = len("2026-11-29T12:00:00")


def tag(argv: list[str]) -> int:
    """Make a snapshot, or delete one."""

    def run(given: options.TagOptions) -> dict[str, Any]:
        from store.feature_store import Store
        from store.snapshots.manifest import delete_snapshot
        from store.snapshots.tag import refuse_snapshot, tag

        store = Store.open(given.path)
        refuse_snapshot(store)
        if given.delete:
            delete_snapshot(store.path, given.name)
            return {"path": str(store.path), "name": given.name, "deleted": True}
        made = asdict(tag(store, given.name, given.note))
        for catalog in made["catalogs"].values():
            catalog["parts"] = len(catalog["parts"])
        return {"path": str(store.path), **made, "deleted": False}

    def show(made: dict[str, Any]) -> None:
        if made["deleted"]:
            print(
                f"snapshot {made['name']} of {made['path']} deleted; store compact deletes what was kept for it alone"
            )
            return
        rows = ", ".join(f"{about['rows']:,} {entity}" for entity, about in made["catalogs"].items()) or "nothing"
        views = [(f"{entity}/{view}", about) for entity, own in made["views"].items() for view, about in own.items()]
        print(f"snapshot {made['name']} of {made['path']}: {rows}")
        for name, about in views:
            print(f"  {name}: {about['ok']:,} ok, {about['failed']:,} failed, commit {about['commit']}")
        print(f"read it with Store.open({made['path']!r}, at={made['name']!r}), or as {made['path']}@{made['name']}")

    return parse(options.TagOptions, argv, "store tag", None, run, show, ("path", "name"))


def log(argv: list[str]) -> int:
    """List snapshots."""

    def run(given: options.LogOptions) -> Any:
        from store.feature_store import Store
        from store.snapshots.log import log
        from store.snapshots.tag import refuse_snapshot

        store = Store.open(given.path)
        refuse_snapshot(store)
        return log(store)

    def show(found: Any) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, padding=0)
        for head in ("snapshot", "made (UTC)", "view"):
            table.add_column(head, overflow="fold")
        for head in ("ok", "change", "failed"):
            table.add_column(head, justify="right", no_wrap=True)
        for head in ("commit", "note"):
            table.add_column(head, overflow="fold")
        for (name, created), entries in groupby(found.entries, lambda one: (one.name, one.created)):
            of_one = list(entries)
            first, note = (name, created[:_SECONDS].replace("T", " ")), of_one[0].note
            for one in of_one:
                if one.changed:
                    counts = (f"{one.ok:,}", f"{one.new:+,}", f"{one.failed:,}")
                    table.add_row(*first, f"{one.entity}/{one.view}", *counts, one.commit, note)
                    first, note = ("", ""), ""
            if first[0]:
                table.add_row(*first, "no change", "", "", "", "", note)
        Console(width=None if sys.stdout.isatty() else 160).print(table)
        for name in found.begun:
            if name.startswith(TEMPORARY):
                remedy = f"python -m store compact {found.path} removes it once its process has ended"
            else:
                remedy = f"python -m store tag {found.path} {name} --delete removes it"
            print(f"a snapshot is being made, or a killed process left it: {remedy}")

    return parse(options.LogOptions, argv, "store log", None, run, show, ("path",))
