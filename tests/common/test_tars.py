"""Guarantees of common/io/tars.py, with tar files of Python, of GNU tar's formats, and hostile ones."""

import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from common.errors import StepDiffError
from common.io.tars import BLOCK, MOST_NAME, DamagedTar, Member, members, open_member, split_member


def write(path: Path, *files: tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def listed(path: Path) -> list[Member]:
    with path.open("rb") as file:
        return list(members(file, path))


def content(path: Path) -> bytes:
    part = open_member(path)
    assert part is not None
    with part:
        return part.read()


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """Return a header with a right checksum, whatever its fields say."""
    block = bytearray(name.ljust(100, b"\0") + b"0000644\0" * 3 + size.ljust(12, b"\0") + b"0" * 12 + b" " * 8 + kind)
    block += bytes(BLOCK - len(block))
    block[257:263] = b"ustar\0"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile(tmp_path: Path, form: int) -> None:
    long = "/".join(["folder" * 5] * 4) + "/long.txt"  # more than the 100 bytes of a name
    files = [("a.jpg", b"\1" * 700), ("./b/c.txt", b""), ("é%[x].json", b"{}"), (long, os.urandom(BLOCK))]
    path = write(tmp_path / "a.tar", *files, form=form)
    with tarfile.open(path) as tar:
        expected = [(info.name.removeprefix("./"), info.offset_data, info.size) for info in tar]
    assert [tuple(member) for member in listed(path)] == expected
    for name, data in files:
        assert content(path / name) == data
    assert split_member(path / "b/c.txt") == (path, "b/c.txt")


def test_a_part_reads_seeks_and_ends_as_a_file_does(tmp_path: Path) -> None:
    data = os.urandom(3000)
    tar = write(tmp_path / "a.tar", ("x", b"before"), ("y", data), ("z", b"after" * 300))
    part, alone = open_member(tar / "y"), io.BytesIO(data)
    assert part is not None
    with part:
        for offset, whence, count in ((0, 0, 10), (5, 1, 7), (-20, 2, 50), (4000, 0, 5), (2990, 0, 100), (0, 0, -1)):
            assert part.seek(offset, whence) == alone.seek(offset, whence)
            assert part.read(count) == alone.read(count) and part.tell() == alone.tell()


def test_nothing_is_unpacked_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo(f"of kind {kind.decode()}")
            info.type, info.linkname = kind, str(tmp_path / "secret.txt")
            tar.addfile(info)
        for name in ("/absolute.txt", "../up.txt", "a/../../up.txt", "back\\slash.txt", "new\nline.txt", "good.txt"):
            tar.addfile(tarfile.TarInfo(name))
    before = sorted(os.listdir(tmp_path))
    found = listed(path)
    assert [member.name for member in found] == [""] * 9 + ["good.txt"]  # folders are no entries
    assert content(path / "good.txt") == b"" and sorted(os.listdir(tmp_path)) == before
    for name in ("of kind 2", "../secret.txt", "absolute.txt", "up.txt", "missing.txt"):
        with pytest.raises(StepDiffError, match="a.tar has no member"):
            open_member(path / name)


def test_a_header_costs_at_most_most_name_bytes_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for kind in (b"L", b"x", b"g", b"K"):
        for size in (b"%011o" % (2**30), b"\x80" + (2**62).to_bytes(11), b"-1", b"9", b"\xff" * 12):
            path.write_bytes(header(b"name", size, kind))
            with path.open("r+b") as file:
                file.truncate(2**31)  # a sparse file, so that the claimed bytes exist
            tracemalloc.start()
            with pytest.raises(DamagedTar, match="damaged name"):
                listed(path)
            assert tracemalloc.get_traced_memory()[1] < 2 * MOST_NAME
            tracemalloc.stop()


@pytest.mark.parametrize(
    "records", [b"path=x", b"99 path=x\n", b"0 path=x\n", b"-5 path=x\n", b"9 path=\xff\n", b" " * 40]
)
def test_damaged_pax_records_neither_loop_nor_name_a_member_outside(tmp_path: Path, records: bytes) -> None:
    path = tmp_path / "a.tar"
    size = b"%011o" % len(records)
    path.write_bytes(header(b"pax", size, b"x") + records.ljust(BLOCK, b"\0") + header(b"own.txt", b"0") + bytes(1024))
    assert [member.name for member in listed(path)] in (["own.txt"], [""])


def test_a_tar_that_is_cut_short_gives_the_members_before_the_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", ("a.txt", b"a" * 600), ("b.txt", b"b" * 600))
    whole = path.read_bytes()
    second = listed(path)[1]
    for damaged in (
        whole[: second.offset + 100],
        whole[: second.offset - 100],
        whole[: second.offset - BLOCK] + b"x" * BLOCK,
    ):
        path.write_bytes(damaged)
        found = []
        with path.open("rb") as file, pytest.raises(DamagedTar, match="after 1 members|damaged"):
            found += [next(reading := members(file, path))]
            list(reading)
        assert [member.name for member in found] == ["a.txt"]
        assert content(path / "a.txt") == b"a" * 600
        with pytest.raises(StepDiffError, match=r"has no member b\.txt"):
            open_member(path / "b.txt")


def test_a_name_that_occurs_twice_is_its_first_member(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", ("a.txt", b"first"), ("./a.txt", b"second"))
    assert content(path / "a.txt") == b"first"


def test_a_changed_tar_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", ("a.txt", b"old"))
    assert content(path / "a.txt") == b"old"
    write(tmp_path / "new", ("b.txt", b"new"), ("a.txt", b"newer")).replace(path)
    assert content(path / "a.txt") == b"newer"


def test_what_is_no_tar_file_has_no_members(tmp_path: Path) -> None:
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "folder.tar/x.jpg").write_bytes(b"x")
    (tmp_path / "file.mp4").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.tar")
    for name in ("folder.tar/x.jpg", "file.mp4/x.jpg", "pipe.tar/x.jpg", "gone.tar/x.jpg", "x"):
        assert open_member(tmp_path / name) is None
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("x"))
    os.rename(tmp_path / "a.tar.gz", tmp_path / "a.tar")
    with pytest.raises(StepDiffError, match="is compressed; decompress it"):
        listed(tmp_path / "a.tar")
