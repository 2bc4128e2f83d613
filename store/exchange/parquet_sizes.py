"""The sizes that a stranger's Parquet file declares in its footer and page headers, before any
column is decoded.

A few hundred bytes of Parquet can encode billions of rows or gigabytes of text. The declared sizes
are compared with the size of the file. pyarrow cannot do that: it does not tell the sizes in the
headers of pages, which decide how much a reader allocates, and damaged statistics of a column chunk
end the process.
"""

from collections.abc import Iterator
from mmap import PROT_READ, mmap
from pathlib import Path
from typing import Any

from stepdiff_core.io.files import open_regular

_MAGIC = b"PAR1"
_TAIL = 8  # bytes: the length of the footer, and the magic
FREE_ROWS, FREE_BYTES = 2**20, 64 * 2**20
"""rows and bytes that a file of any size may hold"""
ROWS_PER_BYTE = 8
"""of larger files: keys differ from row to row, and take a bit at least"""
BYTES_PER_BYTE = 1000
_MOST_DEPTH = 16

Struct = dict[int, Any]


class ImplausibleSizes(Exception):
    """Why a file is refused."""


def check_sizes(path: Path) -> None:
    """Raise ImplausibleSizes if a Parquet file declares more than a file of its size can hold."""
    with (
        open_regular(path, "a Parquet file") as file,
        mmap(file.fileno(), 0, prot=PROT_READ) as data,
    ):
        _check_sizes(data)


def _check_sizes(data: mmap) -> None:
    most_rows = max(FREE_ROWS, ROWS_PER_BYTE * len(data))
    most_bytes = max(FREE_BYTES, BYTES_PER_BYTE * len(data))
    end = len(data) - _TAIL
    size = int.from_bytes(data[end : end + 4], "little")
    if end < 4 or data[:4] != _MAGIC or data[-4:] != _MAGIC or size > end - 4:
        raise ImplausibleSizes("it is no Parquet file")
    footer = _ThriftReader(data, end - size, end).struct()
    if not 0 <= _number(footer, 3) <= most_rows:
        raise ImplausibleSizes(f"it declares {_number(footer, 3):,} rows in {len(data):,} bytes")
    groups = _structs(footer, 4)
    if sum(_number(group, 3) for group in groups) != _number(footer, 3):
        raise ImplausibleSizes("its row groups have other rows than the file")
    values: dict[int, int] = {}
    total = 0
    for group in groups:
        for column, chunk in enumerate(_structs(group, 1)):
            for header in _pages(data, chunk.get(3)):
                kinds = [header[kind] for kind in (5, 7, 8) if isinstance(header.get(kind), dict)]
                values[column] = values.get(column, 0) + sum(_number(kind, 1) for kind in kinds)
                total += _number(header, 2)
                # a dictionary's entries count too
                if values[column] > 2 * most_rows or total > most_bytes:
                    raise ImplausibleSizes(
                        f"it declares {total:,} bytes, {values[column]:,} values in a column, in "
                        f"{len(data):,} bytes"
                    )


def _pages(data: mmap, chunk: object) -> Iterator[Struct]:
    """Yield the page headers of a column chunk."""
    if not isinstance(chunk, dict):
        raise ImplausibleSizes("a column has no metadata")
    starts = [_number(chunk, field) for field in (9, 11) if field in chunk]
    start = min((at for at in starts if at > 0), default=0)
    end = start + _number(chunk, 7)
    if not 4 <= start <= end <= len(data) - _TAIL:
        raise ImplausibleSizes("a column is not in the file")
    while start < end:
        reader = _ThriftReader(data, start, end)
        header = reader.struct()
        if min(_number(header, 2), _number(header, 3)) < 0:
            raise ImplausibleSizes("a page has a negative size")
        yield header
        start = reader.at + _number(header, 3)


def _number(struct: Struct, field: int) -> int:
    value = struct.get(field)
    if type(value) is not int:
        raise ImplausibleSizes("a size is missing")
    return value


def _structs(struct: Struct, field: int) -> list[Struct]:
    structs = struct.get(field, [])
    if not isinstance(structs, list) or not all(isinstance(item, dict) for item in structs):
        raise ImplausibleSizes("its footer is damaged")
    return structs


class _ThriftReader:
    """Thrift's compact protocol: a struct as field number -> value, without binary values. Parquet
    uses no maps."""

    def __init__(self, data: mmap, at: int, end: int) -> None:
        self._data, self.at, self._end = data, at, end

    def struct(self, depth: int = 0) -> Struct:
        """Return the struct that begins here."""
        fields: Struct = {}
        field = 0
        while kind := self._byte():
            field = field + (kind >> 4) if kind >> 4 else self._zigzag()
            fields[field] = (
                kind & 15 == 1 if kind & 15 in (1, 2) else self._value(kind & 15, depth + 1)
            )
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _MOST_DEPTH:
            raise ImplausibleSizes("its metadata is nested too deeply")
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind in (7, 8):
            return self._skip(8 if kind == 7 else self._varint())
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            if count > self._end - self.at:
                raise ImplausibleSizes("its metadata is damaged")
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind == 12:
            return self.struct(depth)
        raise ImplausibleSizes("its metadata is damaged")

    def _byte(self) -> int:
        self._skip(1)
        return self._data[self.at - 1]

    def _skip(self, count: int) -> None:
        if not 0 <= count <= self._end - self.at:
            raise ImplausibleSizes("its metadata is damaged")
        self.at += count

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ImplausibleSizes("its metadata is damaged")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
