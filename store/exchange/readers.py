"""The rows of Parquet files and Lance datasets, for an import.

A reader opens the file that was given, or files in the folder that was given, and nothing else: a Lance dataset with
base paths, which lead elsewhere, is refused before anything is read through them. Files that declare more than their
size can hold are refused before they are decoded. A row group that cannot be decoded makes its rows fail, and no
others.
"""

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, Int64

import stepdiff
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import open_regular
from stepdiff.common.io.parquet_sizes import FREE_ROWS, ROWS_PER_BYTE, ImplausibleSizes, check_sizes
from store.exchange import card as cards
from store.exchange.arrow import BATCH_BYTES, KEY, is_damage, one_line, readable
from store.exchange.columns import Layout, check_names, check_same, frame_of, layout, ragged_columns, rows_of, texts_of
from store.exchange.writers import UNFINISHED
from store.provenance import Feature

_KEY_ROWS = 2**14  # keys that are decoded at a time
_BLOCK = 2**18  # rows of a block of metadata
_SAMPLE = 64  # rows that say the length of lists


@dataclass(frozen=True)
class FileRows:
    """The rows of a file or folder, with the columns that an import takes."""

    where: str
    layout: Layout
    keys: pl.Series
    source: "_Parquet | _Lance"

    @property
    def kinds(self) -> dict[str, Feature]:
        """Shape and dtype of each array: features, and the scales of an int8 feature."""
        return {name: column.feature for name, column in self.layout.features.items()}

    def metadata(self) -> Iterator[pl.DataFrame]:
        """Yield the metadata of all rows, in order; nothing where the files have none."""
        with readable(self.where):
            for batch in self.source.each(self.layout.metadata, _BLOCK) if self.layout.metadata else ():
                yield frame_of(self.where, batch, self.source.nbytes)

    def read(self, places: Int[np.ndarray, " P"]) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        """Return features [P, ...] of the rows at `places`, and why some of the P could not be read."""
        features = {name: np.zeros((len(places), *kind.shape), kind.dtype) for name, kind in self.kinds.items()}
        reasons: dict[int, str] = {}
        columns = sorted({column.name for column in self.layout.features.values()})
        size = max(BATCH_BYTES // sum(kind.row_bytes for kind in self.kinds.values()), 1)
        order = np.argsort(places, kind="stable")
        wanted, done = places[order], 0
        while done < len(order):
            end = self.source.end(wanted, done, size)
            try:
                for batch in self.source.batches(wanted[done:end], columns, size):
                    batch.validate(full=True)
                    at = order[done : done + batch.num_rows]
                    for name, column in self.layout.features.items():
                        features[name][at], misfits = rows_of(batch.column(column.name), column)
                        for place, reason in misfits.items():
                            reasons.setdefault(int(at[place]), reason)
                    done += batch.num_rows
                if done < end:
                    raise OSError("its rows end too early")
            except BaseException as error:
                if not is_damage(error):
                    raise
                reasons.update((int(at), f"cannot be read ({one_line(error)})") for at in order[done:end])
                done = end
        return features, reasons


def opened(path: Path, format: str, keys: str | None, features: Sequence[str], columns: Sequence[str]) -> FileRows:
    """Return the rows of a Parquet file, of all below a folder, by name, or of the newest version of a Lance dataset.

    Other arguments as of `columns.layout`. Raises StepDiffError where they cannot be used.
    """
    source = _Lance(path) if format == "lance" else _Parquet(path)
    if not source.count:
        raise StepDiffError(f"{path} has no rows")
    check_names(str(path), source.schema)
    with readable(path):
        ragged = ragged_columns(source.schema)
        sample = next(source.each(ragged, _SAMPLE)) if ragged else None
    taken = layout(str(path), source.schema, sample, keys, features, columns)
    if isinstance(source, _Parquet):  # a Lance dataset has one schema
        source.check(taken)
    with readable(path):
        blocks = (batch.column(0) for batch in source.each([taken.keys], _KEY_ROWS))
        texts = texts_of(str(path), blocks, source.nbytes)
    return FileRows(str(path), taken, texts.rename(KEY), source)


class _Parquet:
    """Parquet files as one sequence of row groups; one is open at a time, because folders may have many."""

    versions = {"pyarrow": pa.__version__}

    def __init__(self, path: Path) -> None:
        """Read where the row groups begin; files without rows are left out."""
        self._path = path
        self._paths: list[Path] = []
        self._groups: list[tuple[int, int]] = []  # file and number of each
        sizes: list[int] = []
        for file in _parquet_files(path):
            _check_size(file)
            with _open(file) as opened:
                counts = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
                if not self._paths:
                    self.schema = opened.schema_arrow
            if sum(counts):
                self._groups += [(len(self._paths), group) for group in range(len(counts))]
                sizes += counts
                self._paths.append(file)
        self.nbytes = sum(file.stat().st_size for file in self._paths)
        self._starts: Int64[np.ndarray, " starts"] = np.cumsum([0, *sizes], dtype=np.int64)
        """first row of each row group, and the end of the last"""
        self.count = int(self._starts[-1])
        self._file: tuple[int, pq.ParquetFile] | None = None
        # the group that is being read, its last batch with its first row, and the batches that follow
        self._cursor: tuple[int, int, pa.RecordBatch, Iterator[pa.RecordBatch]] | None = None

    def check(self, taken: Layout) -> None:
        """Raise StepDiffError where a file lacks a column, or the folder a part."""
        used = [taken.keys, *taken.metadata, *(column.name for column in taken.features.values())]
        for number, path in enumerate(self._paths):
            check_same(str(path), self._opened(number).schema_arrow, self.schema, used)
        if taken.card and (self._path / cards.NAME).exists() and taken.card.rows != self.count:
            raise StepDiffError(
                f"{self._path} has {self.count:,} rows and its card says {taken.card.rows:,}: a part is missing"
            )

    def each(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Yield columns of all rows, in order, in batches of at most `rows` rows."""
        for number in range(len(self._paths)):
            yield from self._opened(number).iter_batches(rows, columns=list(columns))

    def end(self, places: Int[np.ndarray, " P"], start: int, size: int) -> int:
        """Return where those of P ascending places end that are read with place number `start`: damage fails all."""
        group = np.searchsorted(self._starts, places[start], "right")
        return int(np.searchsorted(places, self._starts[group]))

    def batches(self, places: Int[np.ndarray, " K"], columns: list[str], size: int) -> Iterator[pa.RecordBatch]:
        """Yield columns of the rows at K ascending places of one row group.

        A later call goes on where an earlier one ended, so that rows in ascending order are decoded once.
        """
        group = int(np.searchsorted(self._starts, places[0], "right")) - 1
        wanted = places - self._starts[group]
        cursor, self._cursor = self._cursor, None  # set again with each batch that can be decoded
        if cursor and cursor[0] == group and cursor[1] <= wanted[0]:
            _, row, batch, rest = cursor
        else:
            file, number = self._groups[group]
            rest = self._opened(file).iter_batches(size, row_groups=[number], columns=columns)
            row, batch = 0, next(rest, None)
        while batch is not None:
            self._cursor = group, row, batch, rest
            here = wanted[wanted < row + batch.num_rows] - row
            wanted = wanted[len(here) :]
            if len(here) and here[-1] - here[0] == len(here) - 1:
                yield batch.slice(int(here[0]), len(here))  # neighbours, without a copy
            elif len(here):
                yield batch.take(pa.array(here))
            if not len(wanted):
                return
            row += batch.num_rows
            self._cursor = None
            batch = next(rest, None)

    def _opened(self, number: int) -> pq.ParquetFile:
        """Return an open file, instead of the one before it."""
        if self._file is None or self._file[0] != number:
            self._file = number, _open(self._paths[number])
        return self._file[1]


def _open(path: Path) -> pq.ParquetFile:
    """Open a file; its texts are read as dictionaries, which take no more memory than in the file."""
    with readable(path):
        schema = pq.read_schema(path)
        texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        return pq.ParquetFile(path, read_dictionary=texts, page_checksum_verification=True)


def _parquet_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if (path / UNFINISHED).exists():
        raise StepDiffError(f"{path} is an export that is not complete: repeat its command first")
    paths = sorted(file for file in path.rglob("*.parquet") if not file.name.startswith((".", "_")))
    if not paths:
        raise StepDiffError(f"{path} has no Parquet files: give a file or a folder with some")
    return paths


def _check_size(path: Path) -> None:
    try:
        with open_regular(path, "a Parquet file") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            check_sizes(data)
    except (OSError, ValueError, IndexError, ImplausibleSizes) as error:
        raise StepDiffError(f"cannot read {path}: {one_line(error)}") from None


class _Lance:
    """A Lance dataset, read with the methods of `_Parquet`."""

    def __init__(self, path: Path) -> None:
        stepdiff.require("the format lance", "export", ("lance",))
        import lance

        self.versions = {"pylance": lance.__version__}
        with readable(path):
            self._dataset = lance.dataset(str(path.absolute()))  # which reads the manifest only
            for fragment in self._dataset.get_fragments():
                if _has_base(fragment.metadata.to_json()):
                    raise StepDiffError(
                        f"{path} has base paths, which lead to files elsewhere: copy all into one folder first "
                        "(lance.write_dataset(lance.dataset(PATH), NEW))"
                    )
            self.count = self._dataset.count_rows()
            self.schema = self._dataset.schema
        self.nbytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if self.count > max(FREE_ROWS, ROWS_PER_BYTE * self.nbytes):
            raise StepDiffError(f"{path} declares {self.count:,} rows in {self.nbytes:,} bytes: damaged?")

    def each(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        yield from self._dataset.to_batches(columns=list(columns), batch_size=min(rows, _KEY_ROWS))

    def end(self, places: Int[np.ndarray, " P"], start: int, size: int) -> int:
        return min(start + size, len(places))

    def batches(self, places: Int[np.ndarray, " K"], columns: list[str], size: int) -> Iterator[pa.RecordBatch]:
        yield from self._dataset.take(places.tolist(), columns=columns).combine_chunks().to_batches()


def _has_base(metadata: object) -> bool:
    """Return whether data, deletions or anything else of a fragment is at a base path instead of in the folder."""
    if isinstance(metadata, list):
        return any(map(_has_base, metadata))
    if not isinstance(metadata, dict):
        return False
    return metadata.get("base_id") is not None or any(map(_has_base, metadata.values()))
