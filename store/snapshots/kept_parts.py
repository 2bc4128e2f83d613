"""Parts of a catalog that snapshots name and that an update replaced or `compact` merged into another.

    kept/catalog/ENTITY/<seal>/<part>    the file as it was

Guarantees
- a part that a snapshot names keeps its metadata
"""

from collections.abc import Iterator
from contextlib import contextmanager

from stepdiff.common.io import sealed as table
from stepdiff.common.io.files import Place
from store.snapshots.manifest import names, read_snapshot

KEPT = "kept"
_MOST_BYTES = 2**40


@contextmanager
def keeping(part: Place) -> Iterator[None]:
    """Keep `part`, a file of a catalog, if a snapshot names it: the block replaces or deletes it.

    Snapshots are listed before and after the block, because one may be begun meanwhile.
    """
    seal, data = table.written_seal(part), part.read_whole(_MOST_BYTES)
    kept = kept_part(part, seal)
    for after in (False, True):
        if _is_named(part, seal) and not kept.exists():
            kept.put([data], len(data))
        if not after:
            yield


def kept_part(part: Place, seal: str) -> Place:
    """Return where a part of that seal is kept."""
    return part.parent.parent.parent / KEPT / "catalog" / part.parent.name / seal / part.name


def _is_named(part: Place, seal: str) -> bool:
    """Return whether a snapshot names the part, or may name it because it is being made."""
    store, entity = part.parent.parent.parent, part.parent.name
    made, begun = names(store)
    found = (read_snapshot(store, name).catalogs.get(entity) for name in made)
    return begun or any(one is not None and one.parts.get(part.name) == seal for one in found)
