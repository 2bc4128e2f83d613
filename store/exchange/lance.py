"""Parts of an export as fragments of a Lance dataset.

The data files of a part are written first, then a record of them; one commit at the end makes all parts version 1 of
the dataset. Until then the folder is no Lance dataset.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import _stepdiff

_stepdiff.require("store export --format lance", "export", ("pyarrow", "lance"))

import lance
import pyarrow as pa
from lance.fragment import write_fragments

from common.errors import StepDiffError
from common.io.local import LocalPath, sync_folder

RECORDS = "_fragments"


class Fragments:
    """The parts of a Lance dataset that is not committed yet."""

    def __init__(self, path: LocalPath, schema: pa.Schema) -> None:
        """Open the folder of the dataset; data files without a record, of a killed export, are removed."""
        self._path = path
        self._schema = schema
        self._records = path / RECORDS
        if self.is_whole():
            return
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
        return (self._path / "_versions").is_dir() and any((self._path / "_versions").iterdir())

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
        for fragment in fragments:
            for file in fragment.data_files():
                _sync(self._path / "data" / file.path)
        sync_folder(self._path / "data")
        data = json.dumps([fragment.to_json() for fragment in fragments]).encode()
        (self._records / f"{number:06d}.json").put([data], len(data))

    def finish(self) -> None:
        """Make the parts a dataset, in their order."""
        if not self.is_whole():
            found = [json.loads(record.read_bytes()) for record in sorted(self._records.glob("*.json"))]
            fragments = [lance.FragmentMetadata.from_json(json.dumps(one)) for record in found for one in record]
            lance.LanceDataset.commit(str(self._path), lance.LanceOperation.Overwrite(self._schema, fragments))
            for file in (self._path / "_versions").iterdir():
                _sync(file)
            sync_folder(self._path / "_versions")
        with suppress(FileNotFoundError):
            self._records.remove()


def _sync(path: Path) -> None:
    import os

    with path.open("rb") as file:
        os.fsync(file.fileno())
