"""JSON-lines files: one object per line. ARCHIVE.tar.xz/NAME is read as the file NAME of the
archive."""

import fcntl
import json
import lzma
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import make_folder, write_text
from stepdiff_core.io.local import named_errors

Kind = TypeVar("Kind", bound="LineFile")


def read_objects(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`path:line`, object) for each line. Lines end at \\n alone: a text may hold any other
    separator.

    StepDiffError: no such file, or a line that is empty, not UTF-8, not JSON or not an object.
    """
    try:
        lines = _content(Path(path)).split(b"\n")
    except FileNotFoundError as error:
        raise StepDiffError(f"{path}: no such file") from error
    except OSError as error:
        raise StepDiffError(f"{path}: cannot be read ({error.strerror})") from error
    if not lines[-1]:  # after the last line's end
        lines.pop()
    yield from objects_of(lines, path)


def objects_of(lines: Iterable[bytes], path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`path:line`, object) for each line of a file. StepDiffError as `parse_object`, with
    the place."""
    for number, line in enumerate(lines, 1):
        place = f"{path}:{number}"
        try:
            item = parse_object(line)
        except StepDiffError as error:
            raise StepDiffError(f"{place}: {error}") from error
        yield place, item


def _content(path: Path) -> bytes:
    archive = next(
        (parent for parent in path.parents if parent.suffixes[-2:] == [".tar", ".xz"]), None
    )
    if archive is None:
        return path.read_bytes()
    try:
        return _members(archive)[path.relative_to(archive).as_posix()]
    except KeyError:
        raise StepDiffError(f"{path}: no such file in the archive") from None
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise StepDiffError(f"{archive}: not a whole .tar.xz archive ({error})") from error


@lru_cache(maxsize=1)  # a report reads a hundred small files of one archive
def _members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive, "r:xz") as files:
        members = [member for member in files if member.isfile()]
        return {member.name: files.extractfile(member).read() for member in members}  # type: ignore[union-attr]


def parse_object(line: bytes) -> dict[str, Any]:
    """Return the object of one line. StepDiffError: empty, not UTF-8, not JSON or not an object."""
    if not line.strip():
        raise StepDiffError("an empty line; remove it")
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise StepDiffError(f"not a JSON object ({error})") from error
    if not isinstance(item, dict):
        raise StepDiffError(f"not a JSON object but {type(item).__name__}")
    return item


def write_objects(path: str | Path, objects: Iterable[dict[str, Any]]) -> None:
    """Write one line per object. StepDiffError if the file cannot be written."""
    write_text(Path(path), "".join(map(object_line, objects)))


def object_line(item: dict[str, Any]) -> str:
    """Return one line with its end, in ASCII; ValueError on NaN."""
    return json.dumps(item, allow_nan=False) + "\n"


class LineFile:
    """A file of lines that one process at a time appends to, in a `with` block; without lines it is
    removed at its end.

    A line is on disk when `append` returns. A killed process leaves whole lines, and part of one,
    which `lines` drops.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self: Kind) -> Kind:
        """Lock the file. StepDiffError: another process has it."""
        make_folder(self.path.parent)
        with named_errors(self.path, 0):
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        with suppress(BlockingIOError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.path.exists() and os.path.samestat(os.fstat(self._file), self.path.stat()):
                return self
        os.close(self._file)
        raise StepDiffError(
            f"{self.path}: another run is writing it; wait for it, or name another file"
        )

    def __exit__(self, *_: object) -> None:
        if self.path.exists() and os.fstat(self._file).st_size == 0:
            self.path.unlink()
        os.close(self._file)

    def lines(self) -> list[bytes]:
        """Return the whole lines, without their ends."""
        lines = self.path.read_bytes().split(b"\n")[:-1]
        self.keep(lines)
        return lines

    def keep(self, lines: Sequence[bytes]) -> None:
        """Remove the lines after the first lines."""
        os.ftruncate(self._file, sum(len(line) + 1 for line in lines))
        os.fsync(self._file)

    def append(self, text: str) -> None:
        """Append whole lines."""
        data = text.encode()
        with named_errors(self.path, len(data)):
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
