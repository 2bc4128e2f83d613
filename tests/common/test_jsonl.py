"""JSON-lines files inside an archive."""

import tarfile
from pathlib import Path

import pytest

from common.errors import StepDiffError
from common.io.jsonl import read_objects


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    member = tmp_path / "a.jsonl"
    member.write_text('{"n": 1}\n{"n": 2}\n')
    with tarfile.open(tmp_path / "all.tar.xz", "w:xz") as files:
        files.add(member, "seed0/a.jsonl")
    return tmp_path / "all.tar.xz"


def test_a_file_is_read_from_an_archive(archive: Path) -> None:
    path = archive / "seed0/a.jsonl"
    assert list(read_objects(path)) == [(f"{path}:1", {"n": 1}), (f"{path}:2", {"n": 2})]


def test_an_error_in_an_archive_is_one_line(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match=r"all\.tar\.xz/seed1/a\.jsonl: no such file in the archive"):
        list(read_objects(archive / "seed1/a.jsonl"))
    for name, content in (("cut", archive.read_bytes()[:100]), ("text", b"plain text")):
        (tmp_path / f"{name}.tar.xz").write_bytes(content)
        with pytest.raises(StepDiffError, match=rf"{name}\.tar\.xz: not a whole \.tar\.xz archive"):
            list(read_objects(tmp_path / f"{name}.tar.xz/a.jsonl"))
    with pytest.raises(StepDiffError, match=r"none\.tar\.xz/a\.jsonl: no such file"):
        list(read_objects(tmp_path / "none.tar.xz/a.jsonl"))
