"""What a stage asks of whoever does its work, and what it is told.

The clips of a store that a stage speaks of.

Guarantees
- what is kept is text that any file can hold
- a clip is one that shows a step, where the catalog knows steps: stills of captioned images are none
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import polars as pl

from common.errors import StepDiffError
from store import Store


@dataclass(frozen=True)
class Failure:
    """Why nothing is said of an item: one line."""

    reason: str
    passing: bool = False
    """whether the next run tries again by itself: the fault is not the item's, as where a server is down"""


Item = Mapping[str, Any]
"""`key`, and the fields that the work reads"""
Answer = Mapping[str, str] | Failure
"""kind -> text, or why there is none"""


@runtime_checkable
class Annotator(Protocol):
    """Does the work of a stage; loaded once a worker."""

    @property
    def busy(self) -> float:
        """Seconds that its model has worked so far."""

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        """Key and answer of every item, as they come. StepDiffError: none of those left can be answered."""


@runtime_checkable
class Job(Protocol):
    """What a worker is sent: all that it takes to load an Annotator, in a few bytes."""

    def provenance(self) -> dict[str, Any]:
        """What makes its answers: model, sha256 of its weights, prompt's sha256, sampling, what it reads."""

    def load(self, device: str, threads: int) -> Annotator:
        """device: cpu or cuda; threads: processors that it may use."""


def plain(text: str) -> str:
    """The text without what UTF-8 or a reader of files refuses: halves of surrogate pairs, NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "").strip()


def clip_items(store: Store, split: str | None, columns: Sequence[str] = ()) -> pl.DataFrame:
    """`key`, `row` and `columns` of a split's clips, in the store's order. StepDiffError: none, or no such column."""
    rows = store.catalog("clips").frame()
    wanted = [*columns, *(["split"] if split is not None else [])]
    if missing := [name for name in wanted if name not in rows.columns]:
        raise StepDiffError(
            f"{store.path}: its catalog has no column {missing[0]!r}; featurize with a manifest that has it"
        )
    if "step" in rows.columns:
        rows = rows.filter(pl.col("step").is_not_null())
    if split is not None:
        rows = rows.filter(pl.col("split") == split)
    if rows.is_empty():
        raise StepDiffError(f"{store.path}: no clips{f' of split {split!r}' if split else ''}; featurize some")
    return rows.select("key", "row", *columns)
