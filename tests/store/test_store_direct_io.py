"""Direct I/O gives the same bytes as buffered I/O, whether the system supports it or not."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from common.errors import StepDiffError
from common.io import direct_io
from common.io.direct_io import LEAST, PAGE, aligned_empty
from store import Feature
from store.batches import Batches
from store.io.commit_group import Together

Make = Callable[..., Any]
SHAPES = {"whole pages": (2, LEAST), "between pages": (3, 433_000), "small": (3, 50)}  # float16: 4, 2.5 MiB, 300 bytes


def drop(folder: Path) -> None:
    """Drop all files below `folder` from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def refused(fd: int, flags: int) -> None:
    """Raise EINVAL, as file systems without direct I/O do."""
    if flags & direct_io._FLAG:
        raise OSError(errno.EINVAL, "Invalid argument")


@pytest.fixture(params=["can", "has no flag", "refuses the flag", "refuses the read or write"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems with direct I/O, and systems that refuse it at different calls."""

    def open_refused(path: str, flags: int, *mode: int, call: Callable[..., int] = os.open) -> int:
        refused(-1, flags)
        return call(path, flags, *mode)

    def preadv_refused(fd: int, *rest: Any, call: Callable[..., int] = os.preadv) -> int:
        refused(fd, fcntl.fcntl(fd, fcntl.F_GETFL))
        return call(fd, *rest)

    def pwrite_refused(fd: int, *rest: Any, call: Callable[..., int] = os.pwrite) -> int:
        refused(fd, fcntl.fcntl(fd, fcntl.F_GETFL))
        return call(fd, *rest)

    if request.param == "has no flag":
        monkeypatch.setattr(direct_io, "_FLAG", 0)
    elif request.param == "refuses the flag":
        monkeypatch.setattr(os, "open", open_refused)
    elif request.param == "refuses the read or write":
        monkeypatch.setattr(os, "preadv", preadv_refused)
        monkeypatch.setattr(os, "pwrite", pwrite_refused)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_read_gives_the_same_bytes(make_view: Make, fill: Make, system: None, shape: str) -> None:
    view = make_view({"tokens": Feature(SHAPES[shape], "float16"), "embedding": Feature((7,), "float32")}, rows=7)
    fill(view)
    whole = zarr.open_array(view.paths.group / "tokens", mode="r")[:]
    rows = np.array([6, 2, 3, 0, 3, 5])  # the last row is followed only by the index; two rows are adjacent
    for out in (None, np.empty((6, *SHAPES[shape]), np.float16), unaligned((6, *SHAPES[shape]))):
        drop(view.paths.group)
        got = view.read("tokens", rows, out, direct=True)
        assert (got == whole[rows]).all() and (out is None or got is out)


def test_a_row_is_read_in_one_call_without_a_copy_if_possible(
    make_view: Make, fill: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = make_view({"tokens": Feature(SHAPES["whole pages"], "float16"), "embedding": Feature((7,), "float32")})
    fill(view)
    if view._readers["tokens"].shard(0).direct_fd is None:
        pytest.skip("this file system reads through the page cache alone")
    monkeypatch.setattr("store.io.reader._NOWAIT", 0)  # as if nothing were in memory
    taken = []

    def watched(fd: int, target: np.ndarray, offset: int) -> int:
        count = direct_io.read_direct(fd, target, offset)
        taken.append((target.ctypes.data % PAGE, count))
        return count

    monkeypatch.setattr("store.io.reader.read_direct", watched)
    view.read("tokens", np.array([3, 1, 8]), direct=True)
    assert taken == [(0, 4 * LEAST)] * 3
    view.read("tokens", np.array([3, 1, 8]))
    assert len(taken) == 3, "direct I/O is used only on request"


@pytest.mark.parametrize("left", [0, 1, PAGE + 5])
def test_a_truncated_file_is_named(make_view: Make, fill: Make, left: int) -> None:
    view = make_view({"tokens": Feature((2, LEAST), "float16"), "embedding": Feature((7,), "float32")})
    fill(view)
    drop(view.paths.group)
    view.read("tokens", np.array([0]), direct=True)  # the file is open and its index is read
    path = view.paths.shard("tokens", 0, 3)
    found = path.stat()
    os.truncate(path, 4 * LEAST + left)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(StepDiffError, match="it ends too early|index of .* run python -m store verify"):
        view.read("tokens", np.array([0, 1]), direct=True)


def test_batches_use_direct_io_if_the_array_exceeds_memory(
    make_view: Make, fill: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = make_view()
    fill(view)
    for much, direct in ((False, False), (True, True)):
        monkeypatch.setattr("store.view.fill_memory", lambda nbytes, much=much: nbytes == 11 * 30 and much)
        assert Batches(view, "tokens", batch_size=4).direct is direct
    assert not Batches(view, "tokens", batch_size=4, direct=False).direct


def test_memory_is_that_of_the_machine_or_the_limit_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(direct_io, "_LIMITS", (tmp_path / "none", limit))
    for text, memory in (("max\n", total), (f"{total + 4096}\n", total), ("8000000\n", 8_000_000)):
        limit.write_text(text)
        assert not direct_io.fill_memory(memory // 2) and direct_io.fill_memory(memory // 2 + 1)


@pytest.mark.parametrize("first", [0, 5, PAGE])
@pytest.mark.parametrize("size", [2 * LEAST, 2 * LEAST + 7, 100])
def test_a_write_gives_the_same_bytes(tmp_path: Path, system: None, first: int, size: int) -> None:
    rng = np.random.default_rng(0)
    pieces = [rng.integers(0, 256, n, np.uint8) for n in (first, 0, 0, 9)]
    for place in (1, 2):
        pieces[place] = aligned_empty((size,), np.uint8)
        pieces[place][:] = rng.integers(0, 256, size, np.uint8)
    with Together() as files:
        files.replace(tmp_path / "file", pieces, sum(map(len, pieces)))
    assert (tmp_path / "file").read_bytes() == b"".join(piece.tobytes() for piece in pieces)


def test_whole_pages_are_written_if_the_system_supports_it(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file:
        piece = aligned_empty((LEAST,), np.uint8)
        piece[:] = 7
        direct = direct_io.reopened(file.fileno(), os.O_WRONLY)
        if direct is None or direct_io.write_direct(direct, piece, 0) != LEAST:
            pytest.skip("this file system writes through the page cache alone")
        os.close(direct)
    assert (tmp_path / "file").read_bytes() == piece.tobytes()


def unaligned(shape: tuple[int, ...]) -> np.ndarray:
    """Return a float16 array that begins two bytes after the start of a page."""
    size = int(np.prod(shape))
    return aligned_empty((size + 1,), np.float16)[1:].reshape(shape)


def test_scales_count_towards_memory(make_view: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    view = make_view({"tokens": Feature((3, 70), "int8"), "embedding": Feature((7,), "float32")})
    assert {name: array.row_bytes for name, array in view.arrays_of(["tokens"]).items()} == {"tokens": 210, "scale": 12}
    assert list(view.arrays_of(["embedding"])) == ["embedding"]
    monkeypatch.setattr(direct_io, "_memory", lambda: 2 * 10 * 222)
    assert view.fill_memory(["tokens"], 11) and not view.fill_memory(["tokens"], 10)
