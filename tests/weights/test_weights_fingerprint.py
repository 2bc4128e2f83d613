"""Fingerprints of folders and files."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from common.errors import StepDiffError
from weights import fingerprint


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEPDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "1_Pooling").mkdir(parents=True)
    (made / "model.safetensors").write_bytes(bytes(range(256)))
    (made / "config.json").write_text("{}")
    (made / "1_Pooling" / "config.json").write_text("{}")
    return made


def test_a_fingerprint_equals_the_output_of_sha256sum(folder: Path) -> None:
    names = ["1_Pooling/config.json", "config.json", "model.safetensors"]
    listing = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True)
    whole = subprocess.run(["sha256sum"], input=listing.stdout, capture_output=True, check=True)
    assert fingerprint(folder) == whole.stdout.decode().split()[0]


def test_a_fingerprint_depends_on_names_and_bytes_only(folder: Path, tmp_path: Path) -> None:
    first = fingerprint(folder)
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    os.utime(copy / "config.json", (0, 0))
    assert fingerprint(copy) == fingerprint(str(copy)) == first
    (copy / "config.json").rename(copy / "other.json")
    assert fingerprint(copy) != first


def test_hidden_files_do_not_count(folder: Path) -> None:
    first = fingerprint(folder)
    (folder / ".lock").write_text("x")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "note").write_text("x")
    assert fingerprint(folder) == first
    (folder / "note").write_text("x")
    assert fingerprint(folder) != first


def test_a_changed_file_is_noticed(folder: Path) -> None:
    first = fingerprint(folder)
    assert fingerprint(folder) == first
    file = folder / "config.json"
    state = file.stat()
    file.write_text("[]")  # the same size
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert fingerprint(folder) != first
    file.write_text("{}")
    assert fingerprint(folder) == first


def test_unchanged_files_are_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fingerprint(folder)
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("read again"))
    assert fingerprint(folder) == first


def test_a_change_that_keeps_size_and_time_is_noticed(folder: Path) -> None:
    first = fingerprint(folder)
    file = folder / "config.json"
    state = file.stat()
    file.write_text("[]")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert fingerprint(folder) != first


def test_other_users_of_the_cache_can_read_stored_fingerprints(folder: Path, cache: Path) -> None:
    first = fingerprint(folder)
    (memory,) = (cache / ".digests.2").iterdir()
    assert memory.stat().st_mode & 0o777 == 0o644
    memory.unlink()
    memory.mkdir()  # neither readable nor replaceable
    assert fingerprint(folder) == first


def test_damaged_stored_fingerprints_are_ignored(folder: Path, cache: Path) -> None:
    first = fingerprint(folder)
    for memory in (cache / ".digests.2").iterdir():
        memory.write_text("{")
    assert fingerprint(folder) == first


def test_a_single_file_has_a_fingerprint(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(folder / "config.json", alone)
    assert fingerprint(folder / "config.json") == fingerprint(alone)


def test_a_missing_path_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(StepDiffError, match=f"no weights at {path}"):
            fingerprint(path)
