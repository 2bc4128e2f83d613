"""Results that are kept for the next request: in memory, and as files of a folder."""

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from stepdiff_core.errors import StepDiffError

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
_NAME = re.compile(r"[0-9a-f]{40}\.\w+")


class LRUCache(Generic[Key, Value]):
    """At most `most` results in memory; the results that were used longest ago are dropped."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)


class Cache:
    """Files of at most `most` bytes in a folder, which need not exist yet and which other processes
    may use too.

    A file appears whole or not at all, and is made once. The files that were used longest ago are
    deleted; files of others in the folder are neither counted nor deleted.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}

    def get(self, identity: str, suffix: str, make: Callable[[Path], None]) -> Path:
        """Return the file of an identity; `make` writes it to a path if it does not exist yet.

        Raises:
            StepDiffError: The folder cannot be written, or as `make`.
        """
        name = hashlib.sha256(identity.encode()).hexdigest()[:40] + suffix
        path = self._folder / name
        with self._lock:
            making = self._making.setdefault(name, threading.Lock())
        with making:
            part = path.with_name(f".{os.getpid()}-{threading.get_ident()}{suffix}")
            try:
                with suppress(FileNotFoundError):
                    os.utime(path)  # the time of the last use
                    return path
                self._folder.mkdir(parents=True, exist_ok=True)
                make(part)
                part.replace(path)
            except OSError as error:
                raise StepDiffError(
                    f"{self._folder} cannot be written ({error}): give another --cache"
                ) from error
            finally:
                part.unlink(missing_ok=True)
                with self._lock:
                    self._making.pop(name, None)
        self._shrink(path)
        return path

    def _shrink(self, newest: Path) -> None:
        """Delete the files that were used longest ago until the folder is small enough; keep
        `newest`."""
        with self._lock:
            files = []
            for entry in os.scandir(self._folder):
                if _NAME.fullmatch(entry.name) and entry.is_file():
                    with suppress(FileNotFoundError):  # another process has deleted it
                        files.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
            total = sum(size for _, size, _ in files)
            for _, size, file in sorted(files):
                if total <= self._most:
                    return
                if Path(file) != newest:
                    Path(file).unlink(missing_ok=True)
                    total -= size
