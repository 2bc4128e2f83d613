"""Locks of a store in an object store, held by real processes."""

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
from datetime import timedelta
from pathlib import Path

import pytest

from common.errors import StepDiffError
from common.io import locks, object_stores
from common.io.locks import LEASE, Lease, check_held, holds, locked
from common.io.remote import RemotePath
from store import Store

ROOT = Path(__file__).parents[2]
SHORT = 6.0  # a holder relies on it for one second: a busy machine may renew late
HOLD = """
import sys
from store import Store
with Store.open(sys.argv[1]).lock(wait="wait" in sys.argv):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def process(store: Store, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(store.path), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.fixture
def store(bucket: str) -> Store:
    return Store.open(f"{bucket}/features", create=True)


@pytest.fixture
def path(store: Store, monkeypatch: pytest.MonkeyPatch) -> RemotePath:
    """A lock with short leases."""
    monkeypatch.setattr(locks, "LEASE", SHORT)
    assert isinstance(store.path, RemotePath)
    return store.path / "lock.json"


def of_another_host(path: RemotePath, puts: int = 1) -> None:
    holder = {"host": "elsewhere", "pid": 7, "pids": "", "token": "t", "puts": puts, "free": False}
    path.put([json.dumps(holder).encode()])


def test_a_second_writer_is_refused_with_host_and_pid(store: Store) -> None:
    with process(store) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(StepDiffError) as refusal, store.lock():
            pass
        message = str(refusal.value)
        assert f"process {holder.pid} on host {socket.gethostname()}" in message
        assert str(store.path) in message and "\n" not in message


def test_a_dead_process_loses_its_lock_at_once_on_its_own_host(store: Store) -> None:
    with process(store) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with store.lock():
            assert json.loads((store.path / "lock.json").read_bytes())["pid"] == os.getpid()


def test_a_waiting_writer_continues_after_the_holder(store: Store) -> None:
    with process(store) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with process(store, "wait") as second:
            first.communicate("done\n")
            assert second.stdout is not None and second.stdout.readline() == "held\n"
            second.communicate("done\n")
            assert second.returncode == 0


def test_a_second_lock_in_the_same_process_is_refused(store: Store) -> None:
    with store.lock():
        with pytest.raises(StepDiffError, match=f"process {os.getpid()} "), Store.open(store.path).lock():
            pass
    with store.lock():
        pass


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
        message.count("\n") == 1 and f"{path.parent} is held by process 7 on host elsewhere: waiting up to 6" in message
    )


def test_a_process_that_reuses_the_process_id_of_a_dead_holder_is_not_the_holder(path: RemotePath) -> None:
    me = Lease(path)._me
    path.put([json.dumps({**me, "began": 1, "token": "t", "puts": 1, "free": False}).encode()])
    began = time.monotonic()
    with locked(path, wait=False):
        assert time.monotonic() - began < SHORT


def test_a_live_holder_on_another_host_is_recognised_by_its_renewals(path: RemotePath) -> None:
    of_another_host(path)
    others = Lease(path)
    others._me["host"] = "elsewhere"
    others.take(wait=False)
    with pytest.raises(StepDiffError, match=f"process {os.getpid()} on host elsewhere"), locked(path, wait=False):
        pass
    others.release()
    with locked(path, wait=False):
        pass


def test_a_held_lease_is_renewed(path: RemotePath) -> None:
    with locked(path, wait=False):
        time.sleep(SHORT / 2)  # three times as long as a lease without renewal
        assert holds(path)
        check_held(path)
    assert not holds(path)


def test_a_holder_whose_lease_expired_stops_writing(path: RemotePath) -> None:
    with locked(path, wait=False):
        of_another_host(path)  # it saw the lease expire, for example while this machine was suspended
        time.sleep(SHORT / 2)
        assert not holds(path)
        with pytest.raises(StepDiffError, match="ran out before it could be renewed"):
            check_held(path)
    assert json.loads(path.read_bytes())["host"] == "elsewhere", "a lock of another holder is not released"


def test_no_request_of_a_holder_can_arrive_after_the_lease_expires() -> None:
    backoff = timedelta(seconds=15)
    longest = object_stores.REQUEST + object_stores.RETRY["retry_timeout"] + backoff
    # The last part of an upload waits for an earlier part, is sent itself, and then all parts are joined.
    assert 3 * longest.total_seconds() <= LEASE * (1 - locks._SAFE)


def test_an_object_is_unchanged_if_its_writer_loses_the_lease_between_two_parts(path: RemotePath) -> None:
    big = path.parent / "big"
    big.put([b"old"])
    asked: list[bool] = []

    def check() -> None:
        asked.append(holds(path))
        if len(asked) == 2:
            another = threading.Thread(target=of_another_host, args=[path])
            another.start()
            another.join()
            time.sleep(SHORT / 2)
        check_held(path)

    with locked(path, wait=False), pytest.raises(StepDiffError, match="ran out before it could be renewed"):
        big.put([bytes(16 * 2**20)] * 3, check=check)
    assert asked == [True, True]
    assert big.read_bytes() == b"old"


def test_a_holder_that_was_replaced_stops_writing_at_once(path: RemotePath) -> None:
    mine = Lease(path)
    mine.take(wait=False)
    of_another_host(path)
    assert mine.held(), "it does not know yet"
    assert not mine._put(mine._etag) and not mine.held()
    mine.release()
    assert json.loads(path.read_bytes())["host"] == "elsewhere"


def test_a_renewal_whose_response_was_lost_keeps_the_lease(path: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange, lost = RemotePath.exchange, []

    def answer_lost(place: RemotePath, data: bytes, etag: str | None) -> str | None:
        answer = exchange(place, data, etag)
        if place == path and not lost:
            lost.append(answer)
            raise StepDiffError("timed out")
        return answer

    mine = Lease(path)
    mine.take(wait=False)
    mine._end.set()  # renewed by hand
    mine._thread.join()
    monkeypatch.setattr(RemotePath, "exchange", answer_lost)
    with pytest.raises(StepDiffError, match="timed out"):
        mine._put(mine._etag)
    mine._until = 0.0
    assert mine._put(mine._etag) and mine.held() and len(lost) == 1
    mine.release()


def test_only_one_of_many_processes_takes_a_free_lock(store: Store) -> None:
    names = ("first", "second", "third")
    holders = []
    with process(store) as one, process(store) as two, process(store) as three:
        for name, running in zip(names, (one, two, three), strict=True):
            assert running.stdout is not None
            if running.stdout.readline() == "held\n":
                holders.append(name)
    assert len(holders) == 1


def test_a_damaged_lock_is_refused_in_one_line(path: RemotePath) -> None:
    path.put([b"{"])
    with pytest.raises(StepDiffError, match="lock.json is damaged"), locked(path, wait=False):
        pass
