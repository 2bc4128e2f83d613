"""A place in an object store, used as a `pathlib.Path` is: s3://, gs://, az:// and memory:// (this process alone).

Credentials and endpoints come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
AWS_ENDPOINT_URL...) whenever a process first needs them; a place is its URL and nothing more.

Guarantees
- an object is there whole, or as it was
- an object is created, or exchanged for a known one, by one writer alone
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    GenericError,
    NotSupportedError,
    PreconditionError,
)

from common.errors import StepDiffError
from common.io.object_stores import check_threads, objects, told

if TYPE_CHECKING:
    from obstore.store import ObjectStore

Buffer = bytes | memoryview | np.ndarray

_PART_BYTES = 16 * 2**20  # larger objects go in parts of this size; S3 takes up to 10,000
_SCHEMES = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "memory")
_URL = re.compile(r"([a-z][a-z0-9]+):/+(.*)", re.DOTALL)  # one slash is what pathlib leaves of two
_NO_RANGE = re.compile("InvalidRange|non-partial response")


class ReplacedError(StepDiffError):
    """An object that was replaced since its index was read."""


@dataclass(frozen=True, order=True)
class RemotePath:
    """The object or prefix at a URL, which has no slash at its end. Picklable; `place` makes it."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, below: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{below}")

    @property
    def name(self) -> str:
        """What stands behind the last slash."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> "RemotePath":
        """What stands before the last slash."""
        return RemotePath(self.url.rpartition("/")[0])

    def with_suffix(self, suffix: str) -> "RemotePath":
        """The same with another suffix."""
        return self.parent / f"{self.stem}{suffix}"

    def relative_to(self, above: "RemotePath") -> PurePosixPath:
        """What stands behind `above`."""
        return PurePosixPath(self.url).relative_to(PurePosixPath(above.url))

    @property
    def _key(self) -> str:
        return _split(self.url)[1]

    @property
    def _objects(self) -> "ObjectStore":
        return objects(_split(self.url)[0])

    def exists(self) -> bool:
        """Whether there is an object of that name."""
        return self.identity() is not None

    is_file = exists

    def is_dir(self) -> bool:
        """Whether there are objects below."""
        with told("list", self.url):
            return any(obstore.list(self._objects, self._key, chunk_size=1))

    def iterdir(self) -> Iterator["RemotePath"]:
        """Objects and prefixes one level below, by name."""
        with told("list", self.url):
            found = obstore.list_with_delimiter(self._objects, self._key or None)
        keys = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        return iter([self / key.rpartition("/")[2] for key in sorted(keys)])

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Objects and prefixes below that match: `*.parquet`, `*/zarr.json`."""
        part, _, rest = pattern.partition("/")
        if part == "*" or any(sign in part for sign in "*?["):
            for found in self.iterdir():
                if fnmatchcase(found.name, part):
                    yield from found.glob(rest) if rest else (found,)
        elif rest:
            yield from (self / part).glob(rest)
        elif (self / part).exists():
            yield self / part

    def sizes(self) -> dict[str, int]:
        """Bytes of every object below, or of the one at this very URL, by its key."""
        with told("list", self.url):
            found = [entry for entries in obstore.list(self._objects, self._key) for entry in entries]
        try:
            with told("read", self.url):
                found = found or [obstore.head(self._objects, self._key)]
        except FileNotFoundError:
            return {}
        return {entry["path"]: entry["size"] for entry in found}

    def identities(self) -> dict[str, str]:
        """What `identity` says of the objects one level below, by name."""
        with told("list", self.url):
            found = obstore.list_with_delimiter(self._objects, self._key)
        return {entry["path"].rpartition("/")[2]: _quoted(str(entry["e_tag"])) for entry in found["objects"]}

    def identity(self) -> str | None:
        """The ETag, which tells one version from the next; None where there is no object."""
        try:
            with told("read", self.url):
                return str(obstore.head(self._objects, self._key)["e_tag"])
        except FileNotFoundError:
            return None

    def read_bytes(self) -> bytes:
        """The whole object; FileNotFoundError where there is none."""
        return bytes(self.read_versioned()[0])

    def read_up_to(self, most: int) -> tuple[bytes, int]:
        """The whole object and its size in bytes; no bytes where it has more than `most`."""
        with told("read", self.url):
            found = obstore.get(self._objects, self._key)
            size = found.meta["size"]
            return (bytes(found.bytes()) if size <= most else b""), size

    def read_versioned(self) -> tuple[memoryview, str]:
        """The whole object and its ETag; FileNotFoundError where there is none."""
        with told("read", self.url):
            found = obstore.get(self._objects, self._key)
            return memoryview(found.bytes()), str(found.meta["e_tag"])

    def read_tail(self, nbytes: int) -> tuple[memoryview, str, int]:
        """The last bytes (fewer where there are no more), the ETag and the size of the object."""
        with told("read", self.url):
            try:
                found = obstore.get(self._objects, self._key, options={"range": {"suffix": nbytes}})
            except (NotSupportedError, GenericError) as error:
                if isinstance(error, GenericError) and not _NO_RANGE.search(str(error)):
                    raise
                meta = obstore.head(self._objects, self._key)
                if not meta["size"]:  # there is no range of nothing
                    return memoryview(b""), str(meta["e_tag"]), 0
                asked = (max(meta["size"] - nbytes, 0), meta["size"])  # Azure counts from the front alone
                found = obstore.get(self._objects, self._key, options={"range": asked, "if_match": meta["e_tag"]})
            return memoryview(found.bytes()), str(found.meta["e_tag"]), found.meta["size"]

    def read_range(self, start: int, end: int, etag: str) -> memoryview:
        """Bytes `start` to `end` (exclusive) of the object of that ETag.

        Raises ReplacedError where another stands there now, or none.
        """
        with told("read", self.url):
            try:
                found = obstore.get(self._objects, self._key, options={"range": (start, end), "if_match": etag})
                return memoryview(found.bytes())
            except (PreconditionError, FileNotFoundError):
                raise ReplacedError(f"{self} was replaced again and again while it was read: read it again") from None

    def put(self, pieces: Iterable[Buffer], check: Callable[[], None] = lambda: None) -> None:
        """Put `pieces` as the object, in place of any old one.

        `check` is called before any part is sent, by a thread that cannot use an object store; what it raises ends it.
        """
        parts: Any = _flat(pieces)  # all there before obstore begins: a piece may need obstore too
        with told("write", self.url):
            if sum(map(len, parts)) <= _PART_BYTES:
                check()
                obstore.put(self._objects, self._key, b"".join(parts), use_multipart=False)
            else:
                obstore.put(self._objects, self._key, _checked(parts, check), chunk_size=_PART_BYTES)

    def create(self, pieces: Iterable[Buffer]) -> str | None:
        """Put `pieces` as the object if there is none; its ETag, None where another was first."""
        return self._put_if("create", b"".join(_flat(pieces)))

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object. FileNotFoundError where there is none, and the object store says so."""
        with told("delete", self.url):
            try:
                obstore.delete(self._objects, self._key)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def remove(self) -> bool:
        """Delete all objects that `sizes` knows, those first that make a view of the rest; whether there were any."""
        left = list(self.sizes())
        found = bool(left)
        with told("delete", self.url):
            for first in (f"{self._key}/zarr.json", f"{self._key}/status/", ""):
                now = [key for key in left if key.startswith(first)]
                if now:
                    obstore.delete(self._objects, now)
                left = [key for key in left if not key.startswith(first)]
        return found

    def exchange(self, data: bytes, etag: str) -> str | None:
        """Put `data` in place of the object of that ETag; the new one, None where that is no longer there."""
        return self._put_if({"e_tag": etag}, data)

    def _put_if(self, mode: Any, data: bytes) -> str | None:
        with told("write", self.url):
            try:
                return str(obstore.put(self._objects, self._key, data, mode=mode)["e_tag"])
            except (AlreadyExistsError, PreconditionError):
                return None


Place = Path | RemotePath


def place(path: str | os.PathLike[str] | RemotePath) -> Place:
    """Where a store lies: a folder (also as file://), or a place in an object store.

    Raises StepDiffError on a URL that no object store here has.
    """
    if isinstance(path, RemotePath):
        return path
    text = os.fspath(path)
    url = _URL.fullmatch(text)
    if url is None:
        return Path(text)
    scheme, rest = url.groups()
    if scheme == "file":
        return Path(f"/{rest}")
    if scheme not in _SCHEMES:
        raise StepDiffError(f"{text} is no place for a store: give a folder, or a URL of {', '.join(_SCHEMES)}")
    return RemotePath(f"{scheme}://{rest.rstrip('/')}")


def listed(folder: Place, pattern: str) -> list[Place]:
    """What `folder.glob` finds, by name."""
    found: Iterator[Place] = folder.glob(pattern)
    return sorted(found, key=str)


def file_sizes(path: Place) -> list[int]:
    """Bytes of each file at or below `path`."""
    if isinstance(path, RemotePath):
        return list(path.sizes().values())
    sizes = []
    for file in path.rglob("*") if path.is_dir() else (path,):
        with suppress(FileNotFoundError):  # renamed since it was listed
            if file.is_file():
                sizes.append(file.stat().st_size)
    return sizes


def _split(url: str) -> tuple[str, str]:
    """The object store of a URL, and the key in it."""
    scheme, _, rest = url.partition("://")
    if scheme == "memory":
        return "memory:///", rest
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


def _quoted(etag: str) -> str:
    """An ETag as all requests tell it: Azure's listing leaves out the quotes that its other answers have."""
    return etag if etag.endswith('"') else f'"{etag}"'


def _flat(pieces: Iterable[Buffer]) -> list[memoryview]:
    return [np.frombuffer(piece, np.uint8).data for piece in pieces]


def _checked(parts: list[memoryview], check: Callable[[], None]) -> Iterator[memoryview]:
    for part in parts:
        check()
        yield part


def objects_below(path: RemotePath) -> "ObjectStore":
    """An object store of the objects below `path` alone, for other libraries."""
    check_threads()
    return objects(path.url)
