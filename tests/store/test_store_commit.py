"""Files are written completely or not at all when a disk is full."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import StepDiffError
from common.io.local import LocalPath, temporary
from store import Store

Make = Callable[..., Any]
ROOT = Path(__file__).parents[2]

# A limit on the size of a file acts like a full disk without root rights: EFBIG instead of ENOSPC.
LIMITED = """
import resource, signal, sys
import numpy as np
from store import Store, StepDiffError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
view = Store.open(sys.argv[1]).view("clips", "net")
rows = np.array([5, 6])
try:
    view.write_shard(1, rows, {n: np.ones((2, *f.shape), np.float32) for n, f in view.features.items()}, {})
except StepDiffError as error:
    print(error)
    sys.exit(7)
"""


def files(store: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in store.rglob("*") if p.is_file() and p.suffix != ".lock"}


def unwritable(found: str, path: Path) -> None:
    assert found.startswith(f"no space to write {path}") and found.count("\n") <= 1
    assert "MiB" in found and "nothing committed is lost" in found


def test_a_full_disk_loses_no_committed_data(make_view: Make, fill: Make) -> None:
    view = make_view()
    fill(view, np.array([0, 1, 4, 7]))
    before = files(view.paths.store)
    command = [sys.executable, "-c", LIMITED, str(view.paths.store)]
    run = subprocess.run([*command, "150"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 7, run.stderr
    unwritable(run.stdout, view.paths.shard("tokens", 1, 3))  # the largest array is written first
    assert files(view.paths.store) == before, "no file changed, no temporary file is left"
    run = subprocess.run([*command, str(2**20)], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert view.status()[4:8].tolist() == [1, 1, 1, 1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A mounted file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_file_system_leaves_no_temporary_file(small_disk: Path) -> None:
    target = LocalPath(small_disk / "file")
    target.put([b"committed"], 9)
    piece = np.zeros(2**18, np.uint8)
    with pytest.raises(StepDiffError) as refusal:
        target.put([piece] * 8, 2**21)
    unwritable(str(refusal.value), target)
    assert "it needs 2.0 MiB" in str(refusal.value)
    assert target.read_bytes() == b"committed" and os.listdir(small_disk) == ["file"]
    target.put([piece], 2**18)
    assert target.stat().st_size == 2**18


def test_the_message_of_a_failed_write_gives_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StepDiffError, match="cannot write .*file: File exists"):
        LocalPath(tmp_path / "file" / "below").put([b"x"], 1)


def test_temporary_files_of_dead_writers_are_removed(make_view: Make, fill: Make) -> None:
    view = make_view()
    fill(view)
    folder = view.paths.shard("tokens", 0, 3).parent
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = temporary(folder)
    left = mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{dead.pid}."))
    other_host = mine.with_name(mine.name.replace(socket.gethostname(), "another-host"))
    old = other_host.with_name(other_host.name[:-12] + "0" * 12)
    odd = folder / ".tmp.odd"
    for path in (mine, left, other_host, old, odd):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    view_left = view.paths.store / left.name
    view_left.mkdir()
    with Store.open(view.paths.store).lock():
        assert not left.exists() and not old.exists() and not view_left.exists()
        assert mine.exists() and other_host.exists() and odd.exists(), "those of live writers are kept"
