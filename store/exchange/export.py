"""Export of the finished rows of a view to Parquet, Lance, Hugging Face datasets or WebDataset.

The rows of whole shards of the view are one part, which is written whole to `.unfinished/`. When all parts exist, that
folder becomes `data/` (Lance: one commit), and the card for readers is written. A run that finds the card of an equal
export in the folder, with the same options and the same rows, skips the parts that exist.

Guarantees
- a killed export continues, and ends with the same content; until then no reader finds rows
- an export with other options, or of a store that changed, is refused, and so is a second run at the same time
- memory holds a batch, and two bytes a row of the view; a damaged row is never exported
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from stepdiff.common.errors import StepDiffError, some
from stepdiff.common.io.files import place, write_text
from stepdiff.common.io.local import LocalPath
from stepdiff.common.io.locks import locked
from stepdiff.common.progress import progress
from store.exchange import card as cards
from store.exchange import writers
from store.exchange.arrow import feature_fields, readable, record_batches, schema
from store.exchange.card import Card
from store.exchange.commands import SUFFIXES, ExportOptions, Format
from store.feature_store import Store
from store.view import OK, View

PART_BYTES = 256 * 2**20
"""bytes of features in a part, at most about, where a shard has fewer"""
_LOCK = "_export.lock"
_MOST_CARD = 64 * 2**20


@dataclass(frozen=True)
class Exported:
    """The content of an export; rows that failed, are absent or were forgotten are left out."""

    path: str
    format: str
    store: str
    entity: str
    view: str
    rows: int
    failed: int
    absent: int
    forgotten: int
    parts: int
    already: int
    """parts that an earlier run wrote"""
    bytes: int
    """of all files"""
    seconds: float
    how_to_open: str


def export(options: ExportOptions) -> Exported:
    """Export what is missing. StepDiffError where the view lacks a feature, or the files cannot be written."""
    begin = time.monotonic()
    format = chosen_format(options)
    if place(options.path).remote:
        raise StepDiffError(f"{options.path} is not a local path: export to a folder, then copy it")
    path, store = LocalPath(options.path), Store.open(options.store)
    view = store.view(options.entity, options.view, check="always")
    fields = schema(view, options.features or None, options.columns or None, options.dtype)
    writers.check_schema(format, fields)
    shard_bytes = view.rows_per_shard * sum(feature.row_bytes for feature in feature_fields(fields).values())
    shards = max(PART_BYTES // shard_bytes, 1)
    ok = view.status() == OK
    with _only_run(path):
        card = _begin(path, cards.make_card(store, view, ok, shards, format, fields, options.license))
        fields = fields.with_metadata({"stepdiff": replace(card, parts=[], store="").as_json()})
        already = len(card.parts)
        if not writers.is_whole(path, format):
            already = _write_parts(path, card, view, ok, shards * view.rows_per_shard, fields, options)
            now = cards.make_card(store, view, ok, shards, format, fields, options.license)
            if differs := card.difference(now):
                raise StepDiffError(f"the store changed while {path} was written ({differs}): remove it, export again")
        with readable(path):
            writers.finish(path, format, fields, card.rows)
            gone = [str(file) for file in writers.data_files(path, format, len(card.parts)) if not file.exists()]
        if gone:
            raise StepDiffError(
                f"{some(gone, 1)} of a complete export is missing: restore it, or remove {path} and repeat"
            )
        header = writers.dataset_info(fields) if format == "huggingface" else {}
        write_text(path / ("_README.md" if format == "parquet" else "README.md"), card.readme(path.name, header))
    same = ("format", "entity", "view", "rows", "failed", "absent", "forgotten")
    return Exported(
        path=options.path,
        store=store.location,
        **{name: getattr(card, name) for name in same},
        parts=len(card.parts),
        already=already,
        bytes=sum(path.files().values()),
        seconds=round(time.monotonic() - begin, 3),
        how_to_open=card.how_to_open(options.path),
    )


def chosen_format(options: ExportOptions) -> Format:
    """Return the format of an export; StepDiffError where neither option nor suffix says it."""
    format = options.format or SUFFIXES.get(Path(options.path).suffix.lower())
    if format is None:
        raise StepDiffError(f"the name {options.path} has no known suffix: give --format {'|'.join(get_args(Format))}")
    return format


@contextmanager
def _only_run(path: LocalPath) -> Iterator[None]:
    """Make the folder, and hold its lock: another run would remove what this one writes. HeldError names it."""
    if path.is_file():
        raise StepDiffError(f"{path} is a file: give the name of a new folder")
    path.make_folder()
    with locked(path / _LOCK, wait=False):
        path.remove_dead(deep=False)
        try:
            yield
        finally:
            (path / _LOCK).remove()
            with suppress(OSError):  # it is empty if nothing could be exported
                path.rmdir()


def _begin(path: LocalPath, card: Card) -> Card:
    """Return the card of the export in `path`, which begins with `card` or continues.

    Raises StepDiffError where `path` holds an export of another content, or no export.
    """
    try:
        recorded = cards.read_card((path / cards.NAME).read_whole(_MOST_CARD))
    except FileNotFoundError:
        if any(file.name != _LOCK for file in path.iterdir()):
            raise StepDiffError(f"{path} holds other files: give the name of a new folder") from None
        if not card.rows:
            raise StepDiffError(
                f"view {card.view} of {card.entity} has no finished rows: run featurize first"
            ) from None
        write_text(path / cards.NAME, card.as_json())
        return card
    except StepDiffError as error:
        raise StepDiffError(f"{path} holds a damaged export ({error}): remove it and export again") from None
    if differs := recorded.difference(card):
        raise StepDiffError(f"{path} holds an export that differs: {differs}; give another name, or remove it")
    return recorded


def _write_parts(
    path: LocalPath,
    card: Card,
    view: View,
    ok: Bool[np.ndarray, " rows"],
    size: int,
    fields: pa.Schema,
    options: ExportOptions,
) -> int:
    """Write the parts that do not exist, each of the rows in `size` slots of the view; return how many existed."""
    name, write = writers.WRITERS[card.format]
    writers.prepare(path, card.format)
    already = 0
    with progress(f"export of {view.name}", card.rows) as advance:
        for number, (shard, count) in enumerate(card.parts):
            target = path / writers.UNFINISHED / name.format(number)
            if target.exists():
                already += 1
                advance(count)
                continue
            start = shard * view.rows_per_shard
            rows = start + np.flatnonzero(ok[start : start + size])
            batches = record_batches(view, options.features or None, rows, None, list(card.columns), options.dtype)
            errors: list[StepDiffError] = []
            stream = pa.RecordBatchReader.from_batches(fields, _all_of(batches, count, path, errors, advance))
            try:
                with target.whole() as temp:
                    write(temp, stream)
            except Exception:
                if errors:  # which a library has wrapped
                    raise errors[0] from None
                raise
    return already


def _all_of(
    batches: Iterator[pa.RecordBatch],
    count: int,
    path: LocalPath,
    errors: list[StepDiffError],
    advance: Callable[[int], None],
) -> Iterator[pa.RecordBatch]:
    """Yield the batches; StepDiffError, also put into `errors`, where a row is damaged or they have not `count`."""
    try:
        for batch in batches:
            yield batch
            count -= batch.num_rows
            advance(batch.num_rows)
        if count:
            raise StepDiffError(f"{count} rows were withdrawn since the export began: remove {path} and export again")
    except StepDiffError as error:
        errors.append(error)
        raise
