"""What makes two copies of a model's files the same weights.

The fingerprint is the sha256 of what `sha256sum` prints for the files, sorted by their relative
names: `<sha256>  <name>` and a line feed for each. Hidden files and folders do not count.

Guarantees
----------
- It depends on names and bytes only, not on where the folder lies or when it was written
  (`test_a_fingerprint_depends_on_names_and_bytes_only`).
- A changed file is noticed by its size or one of its times of change in nanoseconds; digests of unchanged
  files are remembered in the cache folder (`test_a_changed_file_is_noticed`).
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path

from common.errors import StepDiffError
from weights.cache import cache_folder

_MEMORY = ".digests.2"  # numbered by what an entry holds: other versions of this file share the cache


def fingerprint(path: Path | str) -> str:
    """Sha256 hex over the sorted (relative name, sha256) of a folder's files, or of one file.

    Raises:
        StepDiffError: nothing is there, or the folder holds no file.
    """
    path = Path(path).absolute()
    files = _files(path)
    memory = cache_folder() / _MEMORY / f"{hashlib.sha256(bytes(path)).hexdigest()}.json"
    known = _recall(memory)
    digests: dict[str, list[int | str]] = {}
    for name, file in files:
        state = file.stat()
        entry = known.get(name)
        seen = [state.st_size, state.st_mtime_ns, state.st_ctime_ns]  # the last is changed by whatever sets the other
        if entry is None or entry[:3] != seen:
            with file.open("rb") as content:
                sha256 = hashlib.file_digest(content, "sha256").hexdigest()
            entry = [*seen, sha256]
        digests[name] = entry
    if digests != known:
        _remember(memory, digests)
    listing = "".join(f"{entry[3]}  {name}\n" for name, entry in sorted(digests.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def _files(path: Path) -> list[tuple[str, Path]]:
    if path.is_file():
        return [(path.name, path)]
    found = []
    for parent, folders, names in os.walk(path):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        for name in names:
            if not name.startswith("."):
                file = Path(parent, name)
                found.append((file.relative_to(path).as_posix(), file))
    if not found:
        raise StepDiffError(f"no weights at {path}: there is no such file, or no file in the folder")
    return found


def _recall(memory: Path) -> dict[str, list[int | str]]:
    try:
        return json.loads(memory.read_text())
    except (OSError, ValueError):  # another user's, or damaged: computed again
        return {}


def _remember(memory: Path, digests: dict[str, list[int | str]]) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memory.parent, delete=False) as file:
            json.dump(digests, file)
        os.chmod(file.name, 0o644)  # other users share the cache
        os.replace(file.name, memory)
    except OSError:
        # A cache folder that cannot be written costs time at the next call, and nothing else.
        return
