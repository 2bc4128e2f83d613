"""Files on disk or in an object store, which appear whole or not at all with the guarantees of
`stepdiff_core.io.local`.

A place is a local or a remote path with the same operations; `place` is the one function that tells
them apart.
"""

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.local import Buffer, LocalPath
from stepdiff_core.io.remote import RemotePath

Place = LocalPath | RemotePath
_SCHEMES = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "memory")
_URL = re.compile(r"([a-z][a-z0-9]+):/+(.*)", re.DOTALL)  # one slash is what pathlib leaves of two


def place(path: str | os.PathLike[str] | RemotePath) -> Place:
    """Return the place at a path (also as file://) or at the URL of an object store.

    Raises StepDiffError on a URL that no object store here has.
    """
    if isinstance(path, LocalPath | RemotePath):
        return path
    text = os.fspath(path)
    url = _URL.fullmatch(text)
    if url is None:
        return LocalPath(text)
    scheme, rest = url.groups()
    if scheme == "file":
        return LocalPath(f"/{rest}")
    if scheme not in _SCHEMES:
        raise StepDiffError(
            f"{text} is not a place for a store: give a folder, or a URL of {', '.join(_SCHEMES)}"
        )
    return RemotePath(f"{scheme}://{rest.rstrip('/')}")


def refuse_url(name: str, path: str) -> None:
    """Raise StepDiffError for a URL as the option `name`, whose files are locked and appended to,
    which only a file system can do."""
    if _URL.fullmatch(path.lower()):
        raise StepDiffError(f"{name} {path} is a URL: give a path of a file system")


def open_regular(path: str | os.PathLike[str], kind: str = "a file") -> IO[bytes]:
    """Open a local file that a user names.

    Raises:
        StepDiffError: It cannot be opened, or is a folder, a FIFO or a device; the line ends with
            `give {kind}`.
    """
    try:
        # without O_NONBLOCK a FIFO would wait for a writer
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except OSError as error:
        raise StepDiffError(
            f"{shown(path)}: cannot be read ({error.strerror}); give {kind}"
        ) from None
    except ValueError as error:  # a NUL in the name
        raise StepDiffError(f"{shown(path)}: cannot be read ({error}); give {kind}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise StepDiffError(f"{shown(path)}: is not a regular file; give {kind}")
    return file


def refuse_links_out(folder: Path) -> None:
    """Raise StepDiffError if a symbolic link below a folder of strangers leads out of it."""
    for path in folder.rglob("*"):  # which enters no links
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise StepDiffError(
                f"{shown(path)} is a link to {shown(path.resolve())}, which is not in "
                f"{shown(folder)}: only files in the folder are read; copy it there (cp -rL copies "
                "what links lead to)"
            )


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path for one line of a message: quoted if it is empty or has unprintable
    characters."""
    name = os.fspath(path)
    return str(Path(name)) if name.isprintable() and name else repr(name)


def listed(folder: Path | Place, pattern: str) -> list[Place]:
    """Return the matches of `folder.glob`, by name."""
    return sorted(place(folder).glob(pattern), key=str)


def write_text(path: Path | Place, text: str) -> None:
    """Write `text` as UTF-8, durably, replacing any old file. StepDiffError if the disk is full
    or refuses."""
    write_bytes(path, text.encode())


def write_bytes(path: Path | Place, data: bytes) -> None:
    """Write `data` as `write_text` does."""
    place(path).put([data], len(data))


def write_pieces(path: Path | Place, pieces: Iterable[Buffer]) -> None:
    """Write `pieces`, one after another, as `write_text` does."""
    place(path).put(pieces)


def write_changed(path: Path | Place, pieces: Sequence[bytes | memoryview]) -> str:
    """Write `pieces` as `write_pieces` does, unless the file has these bytes already; return their
    sha256."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    written = place(path)
    if not written.exists() or written.sha256() != digest.hexdigest():
        written.put(pieces)
    return digest.hexdigest()


def whole(path: Path | Place) -> AbstractContextManager[Path]:
    """Yield a temporary local path; its content replaces the file at the end, durably.

    If the block raises, the file is unchanged. StepDiffError if the disk refuses.
    """
    return place(path).whole()


@contextmanager
def local(path: Path | Place) -> Iterator[Path]:
    """Yield a local file with the content of `path`: itself, or a copy for as long as the block
    lasts."""
    where = place(path)
    with local_files(where.parent, [where.name]) as folder:
        yield folder / where.name


@contextmanager
def local_files(folder: Place, names: Iterable[str]) -> Iterator[Path]:
    """Yield a local folder with those files of `folder` that exist: itself, or copies while the
    block lasts."""
    if isinstance(folder, LocalPath):
        yield folder
        return
    with tempfile.TemporaryDirectory() as copies:
        for name in names:
            if (folder / name).exists():
                Path(copies, name).write_bytes((folder / name).read_bytes())
        yield Path(copies)


def make_folder(folder: Path | Place) -> None:
    """Create `folder` and its missing parents, durably."""
    place(folder).make_folder()
