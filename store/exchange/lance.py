"""Lance datasets: the parts of an export as fragments, and imports.

The data files of a part are written first, then a record of them; one commit at the end makes all parts version 1 of
the dataset. Until then the folder is no Lance dataset.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import _stepdiff

_stepdiff.require("the format lance", "export", ("pyarrow", "lance"))

import lance
import numpy as np
import pyarrow as pa
from jaxtyping import Int
from lance.fragment import write_fragments

from common.errors import StepDiffError
from common.io.local import LocalPath, sync_folder
from common.io.parquet_sizes import FREE_ROWS, ROWS_PER_BYTE
from store.exchange.columns import (
    KEY_ROWS,
    ColumnRows,
    Read,
    fill,
    is_damage,
    layout,
    one_line,
    ragged_columns,
    readable,
    texts_of,
)

RECORDS = "_fragments"
_SAMPLE = 64  # rows that say the length of lists


class Fragments:
    """The parts of a Lance dataset that is not committed yet."""

    def __init__(self, path: LocalPath, schema: pa.Schema, rows: int) -> None:
        """Open the folder of a dataset of `rows` rows; what a killed export left without a record is removed."""
        self._path = path
        self._schema = schema
        self._rows = rows
        self._records = path / RECORDS
        # Lance writes NAME.manifest#1 and links it to NAME.manifest: only with the link there is a version.
        self._whole = any((path / "_versions").glob("*.manifest"))
        if self._whole:
            self._check()
            return
        for folder in ("_versions", "_transactions"):  # of a commit that was killed
            for file in (path / folder).glob("*"):
                file.remove()
        self._records.make_folder()
        self._records.remove_dead(deep=False)
        known = {file["path"] for record in self._records.glob("*.json") for file in self._files(record)}
        for file in (path / "data").glob("*"):
            if file.name not in known:
                file.remove()

    def _files(self, record: LocalPath) -> list[dict]:
        return [file for fragment in json.loads(record.read_bytes()) for file in fragment["files"]]

    def is_whole(self) -> bool:
        """Return whether the parts are committed."""
        return self._whole

    def has(self, number: int) -> bool:
        """Return whether a part is written."""
        return (self._records / f"{number:06d}.json").exists()

    def write(self, number: int, batches: Iterator[pa.RecordBatch]) -> None:
        """Write a part, and its record."""
        reader = pa.RecordBatchReader.from_batches(self._schema, batches)
        try:
            fragments = write_fragments(reader, str(self._path), schema=self._schema, mode="create")
        except (OSError, ValueError) as error:
            raise StepDiffError(f"cannot write {self._path}: {' '.join(str(error).split())[:200]}") from error
        record = [fragment.to_json() for fragment in fragments]
        for file in (file for fragment in record for file in fragment["files"]):
            _sync(self._path / "data" / file["path"])
        sync_folder(self._path / "data")
        data = json.dumps(record).encode()
        (self._records / f"{number:06d}.json").put([data], len(data))

    def finish(self) -> None:
        """Make the parts a dataset, in their order; the records are removed when it opens."""
        if not self._whole:
            found = [json.loads(record.read_bytes()) for record in sorted(self._records.glob("*.json"))]
            fragments = [lance.FragmentMetadata.from_json(json.dumps(one)) for record in found for one in record]
            lance.LanceDataset.commit(str(self._path), lance.LanceOperation.Overwrite(self._schema, fragments))
            for file in (self._path / "_versions").iterdir():
                _sync(file)
            sync_folder(self._path / "_versions")
            self._check()
            self._whole = True
        with suppress(FileNotFoundError):
            self._records.remove()

    def _check(self) -> None:
        """Raise StepDiffError where the dataset does not open, or has other rows."""
        with readable(self._path):
            count = lance.dataset(str(self._path)).count_rows()
        if count != self._rows:
            raise StepDiffError(f"{self._path} has {count:,} of {self._rows:,} rows: remove it and export again")


def files_of(path: LocalPath) -> list[LocalPath]:
    """Return the data files of a dataset, which may be missing. StepDiffError where it does not open."""
    with readable(path):
        fragments = [fragment.metadata for fragment in lance.dataset(str(path)).get_fragments()]
    return [path / "data" / file.path for fragment in fragments for file in fragment.files]


def _has_base(metadata: object) -> bool:
    """Return whether data, deletions or anything else of a fragment is at a base path instead of in the folder."""
    if isinstance(metadata, list):
        return any(map(_has_base, metadata))
    if not isinstance(metadata, dict):
        return False
    return metadata.get("base_id") is not None or any(map(_has_base, metadata.values()))


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@dataclass
class LanceRows(ColumnRows):
    """Rows of a Lance dataset."""

    dataset: lance.LanceDataset

    def _about(self) -> Iterator[pa.RecordBatch]:
        return self.dataset.to_batches(columns=self.layout.about, batch_size=KEY_ROWS)

    def read(self, places: Int[np.ndarray, " P"]) -> Read:
        """Return the features of the rows at `places`."""
        features = self._empty(len(places))
        reasons: dict[int, str] = {}
        columns = self._columns()
        size = self._at_once()
        for start in range(0, len(places), size):
            here = np.arange(start, min(start + size, len(places)))
            try:
                table = self.dataset.take(places[here].tolist(), columns=columns).combine_chunks()
                (batch,) = table.to_batches()
                fill(features, reasons, self.layout, batch, here)
            except BaseException as error:
                if not is_damage(error):
                    raise
                reasons.update((int(at), f"cannot be read ({one_line(error)})") for at in here)
        return features, reasons


@contextmanager
def lance_rows(path: Path, keys: str | None, features: Sequence[str], columns: Sequence[str]) -> Iterator[LanceRows]:
    """Yield the rows of a Lance dataset, of its newest version. As `parquet_rows`."""
    with readable(path):
        dataset = lance.dataset(str(path.absolute()))  # which reads the manifest only
        for fragment in dataset.get_fragments():
            if _has_base(fragment.metadata.to_json()):
                raise StepDiffError(
                    f"{path} has base paths, which lead to files elsewhere: copy all into one folder first "
                    "(lance.write_dataset(lance.dataset(PATH), NEW))"
                )
        count = dataset.count_rows()
    nbytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if count > max(FREE_ROWS, ROWS_PER_BYTE * nbytes):
        raise StepDiffError(f"{path} declares {count:,} rows in {nbytes:,} bytes: damaged?")
    if not count:
        raise StepDiffError(f"{path} has no rows")
    with readable(path):
        ragged = ragged_columns(dataset.schema)
        some = dataset.head(min(_SAMPLE, count), columns=ragged).combine_chunks().to_batches() if ragged else [None]
    taken = layout(str(path), dataset.schema, some[0], keys, features, columns)
    with readable(path):
        blocks = (b.column(0) for b in dataset.to_batches(columns=[taken.keys], batch_size=KEY_ROWS))
        texts_found = texts_of(str(path), blocks, nbytes)
    yield LanceRows(str(path), taken, nbytes, texts_found, {"pylance": lance.__version__}, dataset)
