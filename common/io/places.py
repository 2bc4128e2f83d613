"""Places: local and remote paths with the same operations. `place` is the one function that tells them apart."""

import os
import re
from pathlib import Path

from common.errors import StepDiffError
from common.io.local import Identity, LocalPath
from common.io.remote import RemotePath

Place = LocalPath | RemotePath
__all__ = ["Identity", "LocalPath", "Place", "RemotePath", "listed", "place"]
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
        raise StepDiffError(f"{text} is not a place for a store: give a folder, or a URL of {', '.join(_SCHEMES)}")
    return RemotePath(f"{scheme}://{rest.rstrip('/')}")


def listed(folder: Path | Place, pattern: str) -> list[Place]:
    """Return what `folder.glob` finds, by name."""
    return sorted(place(folder).glob(pattern), key=str)
