"""The catalog of an entity as a snapshot names it.

A key never gets another row, so keys are looked up in the catalog of now; metadata are read from the snapshot's parts,
wherever these are by now.

Guarantees
- metadata are those of the snapshot, whatever was updated, appended or merged since
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import polars as pl
from jaxtyping import Int, Int64

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io import sealed as table
from stepdiff.common.io.files import Place
from stepdiff.common.io.local import Identity
from store.catalog.catalog import BLOCK, Answer, Catalog
from store.catalog.parts import Parts
from store.snapshots.kept_parts import kept_part
from store.snapshots.manifest import CatalogThen


class CatalogOfSnapshot(Catalog):
    """The rows of one entity at the time of a snapshot. It cannot be changed."""

    def __init__(self, folder: Place, then: CatalogThen, snapshot: str) -> None:
        """Open what `then` names of the catalog in `folder`, for the snapshot of that name."""
        super().__init__(folder)
        self.then = then
        self.snapshot = snapshot
        self._now = Catalog(folder)
        self._found: dict[str, tuple[Identity | None, Place]] = {}

    def __reduce__(self) -> tuple[Callable[..., "CatalogOfSnapshot"], tuple[Place, CatalogThen, str]]:
        return CatalogOfSnapshot, (self.folder, self.then, self.snapshot)

    def parts(self) -> Parts:
        """Return the snapshot's parts, where they are now. StepDiffError: one is lost."""
        there = self.folder.identities()
        return tuple(self._part(name, seal, there.get(name)) for name, seal in self.then.parts.items())

    def _part(self, name: str, seal: str, now: Identity | None) -> Place:
        if name not in self._found or self._found[name][0] != now:
            part = self.folder / name
            if now is None or table.written_seal(part) != seal:
                part = kept_part(part, seal)
                if not part.exists():
                    raise StepDiffError(f"{part} of snapshot {self.snapshot} is missing: restore it from a copy")
            self._found[name] = now, part
        return self._found[name][1]

    def __len__(self) -> int:
        return self.then.rows

    def blocks(self, like: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """See `Catalog.blocks`."""
        for number in range(len(self.then.parts)):
            frame = self._settled(partial(self._numbered, number, like))
            yield from frame.iter_slices(BLOCK)

    def _numbered(self, number: int, like: pl.DataFrame, parts: Parts) -> pl.DataFrame:
        return self._block(parts[number], like)

    def rows(self, keys: Sequence[str] | pl.Series) -> Int64[np.ndarray, " K"]:
        """Return the row of each key, -1 where the snapshot has none."""
        rows = self._now.rows(keys)
        return np.where(rows < len(self), rows, -1)

    def keys(self, rows: Int[np.ndarray, " K"]) -> list[str]:
        """Return the key of each row; StepDiffError where the snapshot has no such row."""
        if len(rows) and int(rows.max()) >= len(self):
            raise StepDiffError(f"no row {rows.max()} among the {len(self)} {self.entity} of snapshot {self.snapshot}")
        return self._now.keys(rows)

    def append(self, frame: pl.DataFrame) -> int:
        """Refuse: a snapshot does not change."""
        raise StepDiffError(f"snapshot {self.snapshot} cannot be changed: append to the store without it")

    def update(self, frame: pl.DataFrame) -> int:
        """Refuse: a snapshot does not change."""
        raise StepDiffError(f"snapshot {self.snapshot} cannot be changed: update the store without it")

    def index(self) -> None:
        """Do nothing: keys are found by the indexes of the catalog of now."""

    sweep = index

    def _settled(self, read: Callable[[Parts], Answer]) -> Answer:
        """Return `read(parts)`; repeat it where a part was replaced or moved meanwhile."""
        while True:
            parts = self.parts()
            try:
                found = read(parts)
            except StepDiffError:
                if self.parts() == parts:
                    raise
            else:
                if self.parts() == parts:
                    return found
