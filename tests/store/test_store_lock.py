"""Locks of a store in a folder and in an object store, held by real processes."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import locks
from stepdiff_core.io.files import place
from stepdiff_core.io.locks import Lease, check_held, holds, locked
from stepdiff_core.io.remote import RemotePath
from store import Store
from tests.store.conftest import ROOT

HOLD = """
import sys
from store import Store
with Store.open(sys.argv[1]).lock(wait="wait" in sys.argv):
    print("held", flush=True)
    sys.stdin.readline()
"""
FORKED = """
import os, signal, sys, time
from store import Store
with Store.open(sys.argv[1]).lock():
    child = os.fork()
    if child == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


@pytest.fixture(params=["folder", pytest.param("object store", marks=pytest.mark.full)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    root = tmp_path if request.param == "folder" else request.getfixturevalue("bucket")
    return Store.open(f"{root}/features", create=True)


@contextmanager
def process(store: Store, *arguments: str, program: str = HOLD) -> Iterator[subprocess.Popen[str]]:
    command, pipe = [sys.executable, "-c", program, str(store.path), *arguments], subprocess.PIPE
    with subprocess.Popen(
        command, text=True, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def line(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline()


def test_a_second_writer_is_refused_until_the_first_dies(store: Store) -> None:
    with process(store) as holder:
        assert line(holder) == "held\n"
        with pytest.raises(StepDiffError) as refusal, store.lock():
            pass
        message = str(refusal.value)
        assert f"process {holder.pid} on host {socket.gethostname()}" in message
        assert str(store.path) in message and "\n" not in message
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with store.lock():
            assert json.loads((store.path / "lock.json").read_bytes())["pid"] == os.getpid()
            with (
                pytest.raises(StepDiffError, match=f"process {os.getpid()} "),
                Store.open(store.path).lock(),
            ):
                pass
    with store.lock():
        pass


def test_a_waiting_writer_names_the_holder_and_follows_it(store: Store) -> None:
    with process(store) as first:
        assert line(first) == "held\n"
        with process(store, "wait") as second:
            assert second.stderr is not None
            if not store.path.remote:
                assert (
                    f"process {first.pid} on host {socket.gethostname()}: waiting"
                    in second.stderr.readline()
                )
            first.communicate("done\n")
            assert line(second) == "held\n"
            second.communicate("done\n")
            assert second.returncode == 0


@pytest.mark.full
def test_only_one_of_many_processes_takes_a_free_lock(store: Store) -> None:
    with process(store) as one, process(store) as two, process(store) as three:
        assert sorted(line(running) for running in (one, two, three)) == ["", "", "held\n"]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_dead_process_loses_its_lock_although_a_child_lives(store: Store) -> None:
    with process(store, program=FORKED) as holder:
        child = int(line(holder))
        with pytest.raises(StepDiffError, match=f"process {holder.pid} "), store.lock():
            pass
        holder.kill()
        holder.wait()
        with store.lock():
            os.kill(child, signal.SIGKILL)


def test_a_lock_needs_no_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(tmp_path / "store", create=True)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with store.lock():
        with (
            pytest.raises(StepDiffError, match="is being written by"),
            Store.open(store.path).lock(),
        ):
            pass


@pytest.mark.full
def test_who_waits_for_a_deleted_lock_takes_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    taken: list[str] = []

    def take(name: str, release: threading.Event) -> None:
        with locked(path, wait=True):
            taken.append(name)
            release.wait(60)

    events = [threading.Event(), threading.Event()]
    threads = [
        threading.Thread(target=take, args=(name, event))
        for name, event in zip("ab", events, strict=True)
    ]
    with locked(path, wait=False):
        threads[0].start()
        time.sleep(0.5)  # it waits for the old file
        path.unlink()
    threads[1].start()
    while not taken:
        time.sleep(0.01)
    time.sleep(0.5)
    assert len(taken) == 1, "two hold the lock"
    for event, thread in zip(events, threads, strict=True):
        event.set()
        thread.join()
    assert sorted(taken) == ["a", "b"]


SHORT = 6.0  # a holder relies on it for one second: a busy machine may renew late


@pytest.fixture
def path(bucket: str, monkeypatch: pytest.MonkeyPatch) -> RemotePath:
    """A lock with short leases."""
    monkeypatch.setattr(locks, "LEASE", SHORT)
    lock = place(f"{bucket}/features/lock.json")
    assert isinstance(lock, RemotePath)
    return lock


def of_another_host(path: RemotePath, puts: int = 1) -> None:
    holder = {"host": "elsewhere", "pid": 7, "pids": "", "token": "t", "puts": puts, "free": False}
    path.put([json.dumps(holder).encode()])


@pytest.mark.full
def test_a_lease_of_a_dead_process_on_another_host_expires(
    path: RemotePath, capsys: pytest.CaptureFixture[str]
) -> None:
    of_another_host(path)
    begin = time.monotonic()
    with locked(path, wait=False):
        assert time.monotonic() - begin > SHORT  # not before it has expired
        assert holds(path)
    message = capsys.readouterr().err
    assert (
        message.count("\n") == 1
        and f"{path.parent} is held by process 7 on host elsewhere: waiting up to 6" in message
    )


@pytest.mark.full
def test_a_reused_process_id_is_not_the_holder(path: RemotePath) -> None:
    me = Lease(path)._me
    path.put([json.dumps({**me, "began": 1, "token": "t", "puts": 1, "free": False}).encode()])
    began = time.monotonic()
    with locked(path, wait=False):
        assert time.monotonic() - began < SHORT


@pytest.mark.full
def test_a_live_holder_elsewhere_is_recognised_by_its_renewals(path: RemotePath) -> None:
    of_another_host(path)
    others = Lease(path)
    others._me["host"] = "elsewhere"
    others.take(wait=False)
    with (
        pytest.raises(StepDiffError, match=f"process {os.getpid()} on host elsewhere"),
        locked(path, wait=False),
    ):
        pass
    others.release()
    with locked(path, wait=False):
        pass


@pytest.mark.full
def test_a_held_lease_is_renewed(path: RemotePath) -> None:
    with locked(path, wait=False):
        time.sleep(SHORT / 2)  # three times as long as a lease without renewal
        assert holds(path)
        check_held(path)
    assert not holds(path)


@pytest.mark.full
def test_a_holder_whose_lease_expired_stops_writing(path: RemotePath) -> None:
    with locked(path, wait=False):
        # it saw the lease expire, for example while this machine was suspended
        of_another_host(path)
        time.sleep(SHORT / 2)
        assert not holds(path)
        with pytest.raises(StepDiffError, match="ran out before it could be renewed"):
            check_held(path)
    assert json.loads(path.read_bytes())["host"] == "elsewhere", (
        "a lock of another holder is not released"
    )


@pytest.mark.full
def test_a_writer_that_loses_its_lease_changes_no_object(path: RemotePath) -> None:
    big = path.parent / "big"
    big.put([b"old"])
    held_at: list[bool] = []

    def check() -> None:
        held_at.append(holds(path))
        if len(held_at) == 2:
            another = threading.Thread(target=of_another_host, args=[path])
            another.start()
            another.join()
            time.sleep(SHORT / 2)
        check_held(path)

    with (
        locked(path, wait=False),
        pytest.raises(StepDiffError, match="ran out before it could be renewed"),
    ):
        big.put([bytes(16 * 2**20)] * 3, check=check)
    assert held_at == [True, True]
    assert big.read_bytes() == b"old"


@pytest.mark.full
def test_a_damaged_lock_is_refused_in_one_line(path: RemotePath) -> None:
    path.put([b"{"])
    with pytest.raises(StepDiffError, match="lock.json is damaged"), locked(path, wait=False):
        pass
