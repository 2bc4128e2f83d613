"""Options of `python -m store tag` and `log`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TagOptions:
    """Name what a store holds now, so that it can be read as it is now at any later time.

    A snapshot lists the parts of the catalog, and status and digest of each row: no features are copied, and a run may
    be writing meanwhile. Rows that are computed again or forgotten later are kept for the snapshots that name them.
    Read it with Store.open(PATH, at="NAME"), or give PATH@NAME to any command that reads a store."""

    path: str
    """folder of the store"""
    name: str
    """name of the snapshot: letters, digits, '-' and '_'"""
    note: str = ""
    """text that `store log` shows"""
    delete: bool = False
    """delete the snapshot instead; `store compact` then deletes what was kept for it alone"""


@dataclass(frozen=True)
class LogOptions:
    """List the snapshots of a store, the newest first, and what changed from each to the next."""

    path: str
    """folder of the store"""
