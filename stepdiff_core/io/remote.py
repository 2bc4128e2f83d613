"""A place in an object store, used like a `pathlib.Path`: s3://, gs://, az:// and memory:// (in
this process only).

Credentials and endpoints come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION, AWS_ENDPOINT_URL...) when a process first needs them; a place is its URL and nothing
more.

Use in a forked process is refused: obstore would wait for threads that the child does not have.

Guarantees
- an object is complete, or unchanged
- an object is created, or exchanged for a known one, by one writer alone
"""

import errno
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import from_url

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.local import Buffer, Given, Identity, Made, check_size
from stepdiff_core.threads import NotForked

if TYPE_CHECKING:
    from obstore.store import ObjectStore

REQUEST = timedelta(seconds=30)
"""time after which an unanswered request has failed"""
RETRY: Any = {"max_retries": 1000, "retry_timeout": timedelta(seconds=45)}
"""obstore's `retry_config`: failed requests are repeated at most 15 seconds later, until 45 seconds
after the first"""
_REQUESTS = 32  # at once: a connection to S3 carries some 90 MB/s, a process wants more

_PART_BYTES = 16 * 2**20  # larger objects go in parts of this size; S3 takes up to 10,000
_END_BYTES = 2**20  # of a paged file, requested at first: all of a small file
_REQUEST_BYTES = 8 * 2**20  # longer spans take several requests
_NO_RANGE = re.compile("InvalidRange|non-partial response")
_obstore = NotForked()


class ReplacedError(StepDiffError):
    """An object that was replaced since its index was read."""


@dataclass(frozen=True, order=True)
class RemotePath:
    """The object or prefix at a URL, which has no slash at its end. Picklable; `place` makes it."""

    url: str
    remote: ClassVar[bool] = True

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, below: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{below}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(self.url.rpartition("/")[0])

    def relative_to(self, above: "RemotePath") -> PurePosixPath:
        """Return the part after `above`."""
        return PurePosixPath(self.url).relative_to(PurePosixPath(above.url))

    @property
    def _key(self) -> str:
        return split_url(self.url)[1]

    @property
    def _objects(self) -> "ObjectStore":
        return objects(split_url(self.url)[0])

    def exists(self) -> bool:
        """Return whether there is an object of that name."""
        return self.identity() is not None

    is_file = exists

    def expanduser(self) -> "RemotePath":
        """Return the same: a URL is absolute."""
        return self

    absolute = resolve = expanduser

    def is_dir(self) -> bool:
        """Return whether there are objects below."""
        with clear_errors("list", self.url):
            return any(obstore.list(self._objects, self._key, chunk_size=1))

    def iterdir(self) -> Iterator["RemotePath"]:
        """Yield objects and prefixes one level below, by name."""
        with clear_errors("list", self.url):
            listing = obstore.list_with_delimiter(self._objects, self._key or None)
        keys = [*listing["common_prefixes"], *(entry["path"] for entry in listing["objects"])]
        return iter([self / key.rpartition("/")[2] for key in sorted(keys)])

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Yield objects and prefixes below that match: `*.parquet`, `*/zarr.json`."""
        part, _, rest = pattern.partition("/")
        if part == "*" or any(sign in part for sign in "*?["):
            for below in self.iterdir():
                if fnmatchcase(below.name, part):
                    yield from below.glob(rest) if rest else (below,)
        elif rest:
            yield from (self / part).glob(rest)
        elif (self / part).exists():
            yield self / part

    def files(self) -> dict["RemotePath", int]:
        """Return every object at or below this URL and its size in bytes, by name."""
        with clear_errors("list", self.url):
            objects = [
                entry for entries in obstore.list(self._objects, self._key) for entry in entries
            ]
        try:
            with clear_errors("read", self.url):
                objects = objects or [obstore.head(self._objects, self._key)]
        except FileNotFoundError:
            return {}
        base = self.url.removesuffix(self._key) if self._key else f"{self.url}/"
        return {
            RemotePath(base + entry["path"]): entry["size"]
            for entry in sorted(objects, key=lambda e: e["path"])
        }

    def identities(self) -> dict[str, Identity]:
        """Return the `identity` of the objects one level below, by name, with one request."""
        with clear_errors("list", self.url):
            listing = obstore.list_with_delimiter(self._objects, self._key)
        return {
            entry["path"].rpartition("/")[2]: _quoted(str(entry["e_tag"]))
            for entry in listing["objects"]
        }

    def identity(self) -> str | None:
        """Return the ETag, which distinguishes versions; None if the object does not exist."""
        try:
            with clear_errors("read", self.url):
                return str(obstore.head(self._objects, self._key)["e_tag"])
        except FileNotFoundError:
            return None

    def read_bytes(self) -> bytes:
        """Return the whole object; FileNotFoundError if it does not exist."""
        return bytes(self.read_versioned()[0])

    def read_whole(self, most: int) -> bytes:
        """Return all bytes; DamageError if they are more than `most`."""
        with clear_errors("read", self.url):
            answer = obstore.get(self._objects, self._key)
            check_size(self, answer.meta["size"], most)
            return bytes(answer.bytes())

    def tail(self, nbytes: int) -> bytes:
        """Return the last bytes, fewer if the object is shorter."""
        return bytes(self.read_tail(nbytes)[0])

    def sha256(self) -> str:
        """Return the sha256 of the object, in hex."""
        return hashlib.sha256(self.read_versioned()[0]).hexdigest()

    def pages(
        self, end_bytes: Callable[[bytes, int], int]
    ) -> tuple[memoryview, Callable[[Sequence[tuple[int, int]]], None]]:
        """Return memory for the object with only its end filled, and a function that fetches spans
        of bytes into it.

        `end_bytes` returns how many bytes to read at the end, given the last ones and the size.
        Fetching raises ReplacedError if the object was replaced.
        """
        end, etag, size = self.read_tail(_END_BYTES)
        if end_bytes(bytes(end), size) > len(end):
            end, etag, size = self.read_tail(end_bytes(bytes(end), size))
        data = np.zeros(size, np.uint8)  # no memory until it is touched
        end_start = size - len(end)
        data[end_start:] = end

        def read(span: tuple[int, int]) -> None:
            data[slice(*span)] = np.frombuffer(self.read_range(*span, etag), np.uint8)

        def fetch(spans: Sequence[tuple[int, int]]) -> None:
            parts = [
                (at, min(at + _REQUEST_BYTES, last, end_start))
                for first, last in spans
                for at in range(first, min(last, end_start), _REQUEST_BYTES)
            ]
            for _ in pool().map(read, parts):
                pass

        return data.data, fetch

    def read_versioned(self) -> tuple[memoryview, str]:
        """Return the whole object and its ETag; FileNotFoundError if it does not exist."""
        with clear_errors("read", self.url):
            answer = obstore.get(self._objects, self._key)
            return memoryview(answer.bytes()), str(answer.meta["e_tag"])

    def read_tail(self, nbytes: int) -> tuple[memoryview, str, int]:
        """Return the last bytes (fewer if it is shorter), the ETag and the size of the
        object."""
        with clear_errors("read", self.url):
            try:
                answer = obstore.get(
                    self._objects, self._key, options={"range": {"suffix": nbytes}}
                )
            except (NotSupportedError, GenericError) as error:
                if isinstance(error, GenericError) and not _NO_RANGE.search(str(error)):
                    raise
                meta = obstore.head(self._objects, self._key)
                if not meta["size"]:  # there is no range of nothing
                    return memoryview(b""), str(meta["e_tag"]), 0
                span = (max(meta["size"] - nbytes, 0), meta["size"])  # Azure takes no suffix
                answer = obstore.get(
                    self._objects, self._key, options={"range": span, "if_match": meta["e_tag"]}
                )
            return memoryview(answer.bytes()), str(answer.meta["e_tag"]), answer.meta["size"]

    def read_range(self, start: int, end: int, etag: str) -> memoryview:
        """Return bytes `start` to `end` (exclusive) of the object of that ETag.

        Raises ReplacedError if it was replaced or deleted.
        """
        with clear_errors("read", self.url):
            try:
                answer = obstore.get(
                    self._objects, self._key, options={"range": (start, end), "if_match": etag}
                )
                return memoryview(answer.bytes())
            except (PreconditionError, FileNotFoundError):
                raise ReplacedError(
                    f"{self} was replaced again and again while it was read: read it again"
                ) from None

    def put(
        self, pieces: Iterable[Buffer], nbytes: int = 0, check: Callable[[], None] = lambda: None
    ) -> None:
        """Put `pieces` as the object, replacing any old one.

        `check` is called before any part is sent, by a thread that cannot use an object store; its
        exception ends it.
        """
        parts: Any = _flat(pieces)  # all there before obstore begins: a piece may need obstore too
        with clear_errors("write", self.url):
            if sum(map(len, parts)) <= _PART_BYTES:
                check()
                obstore.put(self._objects, self._key, b"".join(parts), use_multipart=False)
            else:
                obstore.put(
                    self._objects, self._key, _checked(parts, check), chunk_size=_PART_BYTES
                )

    def create(self, pieces: Iterable[Buffer], nbytes: int = 0) -> bool:
        """Put `pieces` as the object if it does not exist; False if another process was
        first."""
        return self.exchange(b"".join(_flat(pieces)), None) is not None

    def exchange(self, data: bytes, etag: str | None) -> str | None:
        """Put `data` in place of the object of that ETag, or of none.

        Returns the new ETag; None if another object is there.
        """
        mode: Any = "create" if etag is None else {"e_tag": etag}
        with clear_errors("write", self.url):
            try:
                return str(obstore.put(self._objects, self._key, data, mode=mode)["e_tag"])
            except (AlreadyExistsError, PreconditionError):
                return None

    def link_as(self, target: Any) -> None:
        """Copy the object inside the object store. FileNotFoundError if it does not exist."""
        with clear_errors("copy", self.url):
            obstore.copy(self._objects, self._key, target._key)

    @contextmanager
    def whole(self) -> Iterator[Path]:
        """Yield a local temporary path; its content is uploaded as the object at the end."""
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, self.name)
            self.put([Path(folder, self.name).read_bytes()])

    def make_folder(self) -> None:
        """Do nothing: an object store has no folders."""

    @contextmanager
    def whole_folder(self, root: Any) -> Iterator["RemotePath"]:
        """Yield this place: objects cannot be renamed together."""
        yield self

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object. FileNotFoundError if it does not exist, and the object store says
        so."""
        with clear_errors("delete", self.url):
            try:
                obstore.delete(self._objects, self._key)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def remove(self) -> bool:
        """Delete all objects at or below, first those that make a view of the rest; return whether
        there were any."""
        keys = [path._key for path in self.files()]
        existed = bool(keys)
        with clear_errors("delete", self.url):
            for first in (f"{self._key}/zarr.json", f"{self._key}/status/", ""):
                now = [key for key in keys if key.startswith(first)]
                if now:
                    obstore.delete(self._objects, now)
                keys = [key for key in keys if not key.startswith(first)]
        return existed

    def remove_folder(self, root: Any) -> bool:
        """Delete all objects below; False if there are none. Only the zarr.json is gone at
        once."""
        return self.remove()

    def temporaries(self) -> Iterator["RemotePath"]:
        """Yield nothing: a put leaves no temporary objects."""
        return iter(())

    def remove_dead(self, deep: bool = True, but: Any = None) -> None:
        """Do nothing: a put leaves no temporary objects."""

    def map(self, do: Callable[[Given], Made], items: Sequence[Given]) -> Iterator[Made]:
        """Yield `do` of each in order; many requests run at the same time."""
        return pool().map(do, items) if len(items) > 1 else map(do, items)


def split_url(url: str) -> tuple[str, str]:
    """Return the object store of a URL, and the key in it."""
    scheme, _, rest = url.partition("://")
    if scheme == "memory":
        return "memory:///", rest
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


def _quoted(etag: str) -> str:
    """Return an ETag with quotes: Azure's listing leaves them out, its other answers have them."""
    return etag if etag.endswith('"') else f'"{etag}"'


def _flat(pieces: Iterable[Buffer]) -> list[memoryview]:
    return [np.frombuffer(piece, np.uint8).data for piece in pieces]


def _checked(parts: list[memoryview], check: Callable[[], None]) -> Iterator[memoryview]:
    for part in parts:
        check()
        yield part


def pool() -> ThreadPoolExecutor:
    """Return threads for many requests at once."""
    check_threads()
    return _threads()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_REQUESTS, thread_name_prefix="store-remote")


@cache
def objects(base: str) -> "ObjectStore":
    """Return the object store at `base`."""
    if base.startswith("memory:"):
        return from_url(base)
    # AWS_ENDPOINT_URL may be http://; without it https:// is used
    return from_url(
        base, client_options={"allow_http": True, "timeout": REQUEST}, retry_config=RETRY
    )


def check_threads() -> None:
    """Raise StepDiffError in a process that was forked from one that uses obstore."""
    _obstore.use(
        "cannot use an object store in a forked process: use it after the fork alone, or start "
        "workers with spawn"
    )


@contextmanager
def clear_errors(verb: str, url: str) -> Iterator[None]:
    """Turn errors of obstore into one line of StepDiffError; FileNotFoundError if the object
    does not exist."""
    check_threads()
    try:
        yield
    except FileNotFoundError as error:
        if verb == "write" or "NoSuchBucket" in str(error):
            raise _failed(verb, url, error) from error
        raise FileNotFoundError(errno.ENOENT, "no such object", url) from error
    except BaseError as error:
        raise _failed(verb, url, error) from error


def _failed(verb: str, url: str, error: Exception) -> StepDiffError:
    text = str(error)
    if "169.254.169.254" in text:  # obstore tried the metadata service of the machine
        why, what = "no credentials", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    elif "NoSuchBucket" in text or isinstance(error, FileNotFoundError):
        why, what = "no such bucket", "create it, or correct the URL"
    elif isinstance(error, PermissionDeniedError | UnauthenticatedError):
        why, what = _reason(text), "check the credentials in the environment and what they may do"
    else:
        why, what = (
            _reason(text),
            "what is committed is safe; check network and endpoint and run the command again",
        )
    return StepDiffError(f"cannot {verb} {url} ({why}): {what}")


def _reason(text: str) -> str:
    """Return the reason in an error of obstore, on one line."""
    code = re.search(r"<Code>(.*?)</Code>", text)
    message = re.search(r"<Message>(.*?)</Message>", text, re.DOTALL)
    if code and message:
        return f"{code[1]}: {' '.join(message[1].split())}".rstrip(". ")
    first = text.partition("\n")[0]
    return first.rpartition(" - ")[2].strip() or type(text).__name__
