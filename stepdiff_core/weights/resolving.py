"""The name of a model -> the folder or file that holds it, and its fingerprint.

A name is, in this order: a name registered here; a path that exists; a model of the Hugging Face
hub (`org/name` or `org/name@revision`).

The fingerprint is the sha256 of the output of `sha256sum` for the files, sorted by their relative
names: `<sha256>  <name>` and a line feed for each. Hidden files and folders do not count.

Guarantees
- a registered name never starts a download; a model in the hub's own cache needs no network
- only safetensors, configuration and tokenizer files are downloaded: no pickle, no code
- a name that data hold downloads nothing, and leads to no folder that this user has not used: see
  `resolve_of_data`
- a fingerprint depends on names and bytes only; digests of files whose size and times of change (in
  nanoseconds) are the same are remembered in the cache folder
"""

import hashlib
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import stepdiff_core
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import place, write_text
from stepdiff_core.weights import registry
from stepdiff_core.weights.registry import cache_folder

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


def resolve(name: str) -> Path:
    """Return the local folder (or file) of a model, given by a registered name, a path, or a hub
    id."""
    if name in registry.NAMES:
        source = registry.source(name)
        if not source.is_complete():
            raise StepDiffError(f"{name} is not fetched yet: run stepdiff weights fetch {name}")
        return source.folder
    path = Path(os.path.expanduser(name))
    if path.exists():
        return path.absolute()
    match = _HUB_ID.fullmatch(name)
    if match is None:
        raise StepDiffError(
            f"no weights at {name!r}: give a folder, a hub id (org/name), or one of "
            f"{', '.join(registry.NAMES)}"
        )
    return _from_hub(match["repo"], match["revision"])


def resolve_of_data(name: str) -> Path:
    """Return the folder of a model that data name: a store, a head or a run, which may be a
    stranger's.

    Raises:
        StepDiffError: It is no registered name, no model in the hub's cache, and no path that was
            used here before.
    """
    if name in registry.NAMES:
        return resolve(name)
    path, match = Path(os.path.expanduser(name)).absolute(), _HUB_ID.fullmatch(name)
    if _memory(path).is_file():  # looked up by the name: an unknown path is not touched
        return path
    cached = (
        None if match is None or os.path.exists(path) else _cached(match["repo"], match["revision"])
    )
    if cached is None:
        raise StepDiffError(
            f"no weights {name!r:.200} are in use here, and data cannot name others: if you trust "
            "them, run stepdiff weights fetch with this name, on a cluster on every node"
        )
    return cached


def uncapped(processor: Any) -> Any:
    """Return this processor of transformers, without a cap on the pixels of a frame unless its
    files set one.

    Without a choice transformers warns that a later version sets the cap by itself, which would
    change features.
    """
    videos: Any = getattr(processor, "video_processor", None)
    if getattr(videos, "cap_pixels_per_frame", False) is None:
        videos.cap_pixels_per_frame = False
    return processor


def _is_whole(snapshot: Path) -> bool:
    """Return whether weights exist, and all files that an index of them names: a download may have
    been cut off."""
    try:
        named = {
            file
            for index in snapshot.glob("*.safetensors.index.json")
            for file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        }
        return any(snapshot.glob("*.safetensors")) and all(
            (snapshot / file).exists() for file in named
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # a damaged index
        return False


def _cached(repo: str, revision: str | None) -> Path | None:
    """Return the folder of a model in the hub's cache, None if it is not there, or not whole."""
    stepdiff_core.require("a hub id", "featurize", ("huggingface_hub",))
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except HFValidationError as problem:
        raise StepDiffError(f"{repo!r} is no hub id and no path ({problem})") from None
    except LocalEntryNotFoundError:
        return None
    return cached if _is_whole(cached) else None


def _from_hub(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if (cached := _cached(repo, revision)) is not None:
        return cached
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(_HUB_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as problem:
        reason = str(problem).strip().splitlines()[0].rstrip(".") if str(problem) else "no answer"
        raise StepDiffError(
            f"{repo} is neither a path nor in the hub's cache, and the hub did not give it "
            f"({reason}): check the name and the connection, or give a local folder"
        ) from None
    # where the hub is out of reach, this is the cached copy, whole or not
    if any(folder.glob("*.safetensors.index.json")) and not _is_whole(folder):
        raise StepDiffError(
            f"{repo}: its download broke off ({folder}): run again where the hub is in reach"
        )
    return folder


# numbered by what an entry holds: other versions of this file share the cache
_MEMORY = ".digests.2"


def _memory(path: Path) -> Path:
    """Return the file with the digests of the file or folder at an absolute path; it exists if
    `fingerprint` has read it."""
    return cache_folder() / _MEMORY / f"{hashlib.sha256(bytes(path)).hexdigest()}.json"


def fingerprint(path: Path | str) -> str:
    """Return the sha256, in hex, of the names and bytes of a folder's files, or of one file."""
    path = Path(path).absolute()
    files = _files(path)
    memory = _memory(path)
    cached: dict[str, list[int | str]] = {}
    with suppress(OSError, ValueError):  # another user's, or damaged: computed again
        cached = json.loads(memory.read_text())
    digests: dict[str, list[int | str]] = {}
    for name, file in files:
        state = file.stat()
        entry = cached.get(name)
        # the last is changed by whatever sets the other
        seen = [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
        if entry is None or entry[:3] != seen:
            entry = [*seen, place(file).sha256()]
        digests[name] = entry
    if digests != cached:
        # a cache that cannot be written costs time at the next call
        with suppress(StepDiffError, OSError):
            write_text(memory, json.dumps(digests))
    listing = "".join(f"{entry[3]}  {name}\n" for name, entry in sorted(digests.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def _files(path: Path) -> list[tuple[str, Path]]:
    if path.is_file():
        return [(path.name, path)]
    files = []
    for parent, folders, names in os.walk(path):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    if not files:
        raise StepDiffError(
            f"no weights at {path}: there is no such file, or no file in the folder"
        )
    return [(file.relative_to(path).as_posix(), file) for file in files]
