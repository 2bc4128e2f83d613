"""Guarantees of store.io.commit_group."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.errors import StepDiffError
from common.io.direct_io import LEAST, aligned_empty
from store.io import commit_group as together
from store.io.commit_group import Together


def test_no_file_is_renamed_before_all_are_complete_and_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(fd: int) -> None:
        fsync(fd)
        events.append("fsync")

    def watched_replace(source: Path, target: Path) -> None:
        events.append(f"name {target.name} {source.stat().st_size}")
        replace(source, target)

    monkeypatch.setattr(together.os, "fsync", watched_fsync)
    monkeypatch.setattr(together.os, "replace", watched_replace)
    with Together() as files:
        files.replace(tmp_path / "deep" / "er" / "one", [b"1" * 10, b"2" * 5], 15)
        files.replace(tmp_path / "two", [b"3"], 1)
    named = [place for place, event in enumerate(events) if event.startswith("name")]
    assert [events[place] for place in named] == ["name one 15", "name two 1"]
    assert events[: named[0]] == ["fsync", "fsync"], "both files are durable before the first is renamed"
    assert len(events) - named[-1] - 1 == 3, "then the folders: the root, deep and er"
    assert (tmp_path / "deep" / "er" / "one").read_bytes() == b"1" * 10 + b"2" * 5


def test_if_one_file_cannot_be_written_none_is_replaced_and_none_is_left(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"old")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StepDiffError, match="cannot write"), Together() as files:
        files.replace(tmp_path / "one", [b"new"], 3)
        files.replace(tmp_path / "file" / "below", [b"new"], 3)
    assert (tmp_path / "one").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "one"]


def test_a_late_disk_error_replaces_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(together.os, "fsync", full)
    with pytest.raises(StepDiffError, match="no space to write .*one.*nothing committed is lost"), Together() as files:
        files.replace(tmp_path / "one", [b"new"], 3)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_during_a_large_write_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = [aligned_empty((LEAST,), np.uint8) for _ in range(4)]
    for piece in pieces:
        piece[:] = 1

    def filling(fd: int, data: memoryview, offset: int, call: Callable[..., int] = os.pwrite) -> int:
        if offset >= 2 * LEAST:
            raise OSError(28, "No space left on device")
        return call(fd, data[: LEAST // 2], offset)  # a system may write less than requested

    monkeypatch.setattr(os, "pwrite", filling)
    (tmp_path / "one").write_bytes(b"old")
    with pytest.raises(StepDiffError, match="no space to write .*one.* 4.0 MiB"), Together() as files:
        files.replace(tmp_path / "one", pieces, 4 * LEAST)
    assert [path.name for path in tmp_path.iterdir()] == ["one"] and (tmp_path / "one").read_bytes() == b"old"
    with Together() as files:
        files.replace(tmp_path / "two", pieces[:2], 2 * LEAST)
    assert (tmp_path / "two").read_bytes() == b"\1" * 2 * LEAST
