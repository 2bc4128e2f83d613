"""`python -m store tag`, `log` and `convert-snapshots`."""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from stepdiff.common.cli.options import parse
from stepdiff.common.io.local import TEMPORARY
from store.verbs.options import InStore, Waiting

_SECONDS = len("2026-11-29T12:00:00")


@dataclass(frozen=True)
class TagOptions(InStore):
    """Name what a store holds now, so that it can be read as it is now at any later time.

    A snapshot gives the store's files second names (hard links): it takes no space until the store replaces them. In an
    object store it is a copy. A run may be writing meanwhile. Read it with Store.open(PATH, at="NAME"), or give
    PATH@NAME to any command that reads a store."""

    name: str
    """name of the snapshot: letters, digits, '-' and '_'"""
    note: str = ""
    """text that `store log` shows"""
    delete: bool = False
    """delete the snapshot instead, and what it alone keeps"""


@dataclass(frozen=True)
class LogOptions(InStore):
    """List the snapshots of a store, the newest first, and what changed from each to the next."""


@dataclass(frozen=True)
class ConvertOptions(Waiting, InStore):
    """Convert the snapshots that earlier versions of this program made, so that they are read and kept as new ones.

    Until then nothing is written into the store. A conversion that was killed is completed by the same command."""


def tag(argv: list[str]) -> int:
    """Make a snapshot, or delete one."""

    def run(given: TagOptions) -> dict[str, Any]:
        from store.feature_store import Store
        from store.snapshots import snapshot

        store = Store.open(given.path)
        store.refuse_snapshot()
        if given.delete:
            snapshot.delete_snapshot(store.path, given.name)
            return {"path": str(store.path), "name": given.name, "deleted": True}
        return {"path": str(store.path), **asdict(snapshot.tag(store.path, given.name, given.note)), "deleted": False}

    def show(made: dict[str, Any]) -> None:
        if made["deleted"]:
            print(f"snapshot {made['name']} of {made['path']} deleted")
            return
        rows = ", ".join(f"{count:,} {entity}" for entity, count in made["rows"].items()) or "nothing"
        print(f"snapshot {made['name']} of {made['path']}: {rows}")
        for entity, views in made["views"].items():
            for view, about in views.items():
                print(f"  {entity}/{view}: {about['ok']:,} ok, {about['failed']:,} failed, commit {about['commit']}")
        print(f"read it with Store.open({made['path']!r}, at={made['name']!r}), or as {made['path']}@{made['name']}")

    return parse(TagOptions, argv, "store tag", None, run, show, ("path", "name"))


def log(argv: list[str]) -> int:
    """List snapshots, the newest first, with an entry for each view of each."""

    def run(given: LogOptions) -> dict[str, Any]:
        from store.feature_store import Store
        from store.snapshots.snapshot import names

        store = Store.open(given.path)
        store.refuse_snapshot()
        begun = names(store.path)[1]  # temporary names, but in object stores their own
        entries = list(_entries(store))[::-1]
        return {"path": str(store.path), "entries": entries, "unfinished": bool(begun), "begun": begun}

    def show(record: dict[str, Any]) -> None:
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
        for (name, created, note), entries in groupby(record["entries"], itemgetter("name", "created", "note")):
            first = (name, created[:_SECONDS].replace("T", " "))
            for one in entries:
                if one["changed"]:
                    counts = (f"{one['ok']:,}", f"{one['new']:+,}", f"{one['failed']:,}")
                    table.add_row(*first, f"{one['entity']}/{one['view']}", *counts, one["commit"], note)
                    first, note = ("", ""), ""
            if first[0]:
                table.add_row(*first, "no change", "", "", "", "", note)
        Console(width=None if sys.stdout.isatty() else 160).print(table)
        for name in record["begun"]:
            if name.startswith(TEMPORARY):
                remedy = f"python -m store compact {record['path']} removes it once its process has ended"
            else:
                remedy = f"python -m store tag {record['path']} {name} --delete removes it"
            print(f"a snapshot is being made, or a killed process left it: {remedy}")

    return parse(LogOptions, argv, "store log", None, run, show, ("path",))


def _entries(store: Any) -> Iterator[dict[str, Any]]:
    """Yield the entries of a log, the oldest first: a view's figures, its `new` finished rows, whether it `changed`."""
    from store.snapshots.snapshot import NOW, Figures, Snapshot, figures_of, snapshots

    now = {
        entity: {view: figures_of(store.view(entity, view)) for view in store.views(entity)}
        for entity in store.entities()
    }
    empty = Figures(0, 0, 0, "")
    before: dict[tuple[str, str], Figures] = {}
    for one in (*snapshots(store.path), Snapshot(NOW, "", "", {}, now)):
        figures = [((entity, view), about) for entity, views in one.views.items() for view, about in views.items()]
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


def convert(argv: list[str]) -> int:
    """Convert the snapshots of earlier versions."""

    def run(given: ConvertOptions) -> dict[str, Any]:
        from store.feature_store import Store
        from store.snapshots.convert import convert

        store = Store.open(given.path)
        store.refuse_snapshot()
        return {"path": str(store.path), "converted": convert(store.path, given.wait)}

    def show(done: dict[str, Any]) -> None:
        print(f"{done['path']}: {', '.join(done['converted']) or 'no snapshot'} converted")

    return parse(ConvertOptions, argv, "store convert-snapshots", None, run, show, ("path",))
