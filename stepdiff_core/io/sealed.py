"""Files that contain their own checksum, and sealed Parquet files: the format of the catalog and of
failures.

JSON and Parquet files carry a text field `stepdiff-crc32c-XXXXXXXX`: the crc32c of the file's own
bytes with those eight digits read as zeros. Other readers see one more field. `crc32c` uses
hardware instructions if the processor has them, and releases the GIL for 32 KiB or more.

Guarantees
- any flipped byte of a sealed file is found: a damaged file is refused, not read
- a Parquet file decodes in proportion to its size
- use in a forked process is refused: polars would wait for threads that the child does not have
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import crc32c as _library
import polars as pl

from stepdiff_core.errors import StepDiffError, first_line
from stepdiff_core.io.files import Place, place
from stepdiff_core.threads import NotForked

_MARK = b"stepdiff-crc32c-"
_DIGITS = 8
BLANK = (_MARK + b"0" * _DIGITS).decode()
"""value of the field before the file is sealed"""
crc32c: Callable[..., int] = _library.crc32c
"""crc32c of a contiguous buffer; a second argument is the crc32c of the bytes before it"""


def seal(data: bytes) -> bytes:
    """Return `data`, which contains BLANK, with the digits of its checksum filled in."""
    return b"".join(sealed_pieces(data))


def sealed_pieces(data: bytes) -> list[bytes | memoryview]:
    """Return the result of `seal` in pieces, without a copy of `data`."""
    at, view = data.rfind(_MARK) + len(_MARK), memoryview(data)
    return [view[:at], f"{crc32c(data):08x}".encode(), view[at + _DIGITS :]]


def is_sealed(data: bytes) -> bool:
    """Return whether `data` equals, to the byte, the result of `seal`."""
    at = data.rfind(_MARK) + len(_MARK)
    if at < len(_MARK):
        return False
    view = memoryview(data)
    total = crc32c(view[at + _DIGITS :], crc32c(b"0" * _DIGITS, crc32c(view[:at])))
    return data[at : at + _DIGITS] == f"{total:08x}".encode()


_END = 8  # bytes at the end of a Parquet file: the length of its footer, and a mark
_TAIL = 2**16  # bytes in which most footers are
_MOST_BYTES = 2**40  # of a file: what is no regular file is refused
_FREE_ROWS, _FREE_TEXT = 2**20, 2**30  # rows and bytes of text that a file of any size may hold
_ROWS_PER_BYTE, _TEXT_PER_BYTE = 8, 1000  # of larger files
_polars = NotForked()


def check_threads(what: str) -> None:
    """Raise StepDiffError in a process that was forked from one that uses polars."""
    _polars.use(
        f"cannot {what} in a forked process: do it before the fork, or start workers with spawn"
    )


def encode(frame: pl.DataFrame) -> bytes:
    """Return `frame` as the bytes of a sealed Parquet file."""
    check_threads("write a table")
    file = io.BytesIO()
    frame.write_parquet(file, metadata={"seal": BLANK})
    return seal(file.getvalue())


def read(
    path: Path | Place,
    columns: Sequence[str] | None = None,
    strict: bool = True,
    where: pl.Expr | None = None,
) -> pl.DataFrame:
    """Return the frame in `path`, or some columns of it (without `strict` those that exist).

    where: condition that rows must fulfil; only row groups that may have such rows are decoded.
    Raises StepDiffError if the file is damaged.
    """
    check_threads(f"read {path}")
    path = place(path)
    data = io.BytesIO(_checked(path))
    nbytes = data.getbuffer().nbytes
    most = max(_FREE_ROWS, _ROWS_PER_BYTE * nbytes)
    with _own_errors(path):
        if columns is not None and not strict:
            columns = [name for name in pl.read_parquet_schema(data) if name in columns]
        if where is None:
            frame = pl.read_parquet(
                data, columns=None if columns is None else list(columns), n_rows=most + 1
            )
        else:
            rows = pl.scan_parquet(data, n_rows=most + 1).filter(where)
            frame = (rows if columns is None else rows.select(columns)).collect()
        if frame.height > most:
            raise StepDiffError(
                f"{path} has more than {most:,} rows in {nbytes:,} bytes: restore the file"
            )
        _check_text(path, frame, nbytes)
        return frame


def schema(path: Path | Place) -> dict[str, Any]:
    """Return name and dtype of each column, not checked against the file's seal. StepDiffError: it
    cannot be read."""
    check_threads(f"read {path}")
    path = place(path)
    with _own_errors(path):
        return dict(pl.read_parquet_schema(io.BytesIO(_footer(path))))


def copied(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with its texts copied: selected rows would keep the texts of all rows in
    memory."""
    return frame.with_columns(pl.col(pl.String) + "")


def _check_text(path: Place, frame: pl.DataFrame, nbytes: int) -> None:
    """Raise StepDiffError if dictionary-encoded text is out of proportion to a file of `nbytes`
    bytes."""
    most = max(_FREE_TEXT, _TEXT_PER_BYTE * nbytes)
    texts = [series for series in frame if series.dtype == pl.String]
    if sum(series.str.len_bytes().cast(pl.UInt64).sum() for series in texts) > most:
        raise StepDiffError(f"{path} repeats text beyond {most:,} bytes: restore the file")


def written_seal(path: Place) -> str:
    """Return the seal in the file, not checked against its bytes; empty if it has none."""
    data = _footer(path)
    at = data.rfind(_MARK) + len(_MARK)
    return "" if at < len(_MARK) else data[at : at + _DIGITS].decode("latin-1")


def _footer(path: Place) -> bytes:
    """Return the footer at the end of a Parquet file."""
    try:
        tail = path.tail(_TAIL)
        size = int.from_bytes(tail[-_END:][:4], "little") + _END
        return (tail if size <= len(tail) else path.tail(size))[-size:]
    except OSError as error:
        raise StepDiffError(f"cannot read {path}: {error.strerror}") from error


def _checked(path: Place) -> bytes:
    """Return the bytes of an undamaged file: polars panics on some damage."""
    try:
        data = path.read_whole(_MOST_BYTES)
    except OSError as error:
        raise StepDiffError(f"cannot read {path}: {error.strerror}") from error
    if not is_sealed(data):
        raise StepDiffError(f"{path} is not as it was written: run python -m store verify")
    return data


@contextmanager
def _own_errors(path: Place) -> Iterator[None]:
    """Turn polars errors about an undamaged file into one line of StepDiffError."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise StepDiffError(
            f"{path} is not a table of a store ({first_line(error)}): restore the file"
        ) from None
