"""The lock of a store in an object store, between real processes."""

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
from common.io import lease, object_stores
from common.io.lease import LEASE, Lease
from common.io.locks import check_held, holds, locked
from common.io.remote import RemotePath
from store import Store

ROOT = Path(__file__).parents[2]
SHORT = 6.0  # of which a holder is safe for one second: a busy machine may be late with a renewal
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
    """A lock whose leases are short."""
    monkeypatch.setattr(lease, "LEASE", SHORT)
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


def test_a_lock_dies_with_its_process_at_once_for_others_on_its_host(store: Store) -> None:
    with process(store) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with store.lock():
            assert json.loads((store.path / "lock.json").read_bytes())["pid"] == os.getpid()


def test_a_waiting_writer_takes_its_turn(store: Store) -> None:
    with process(store) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with process(store, "wait") as second:
            first.communicate("done\n")
            assert second.stdout is not None and second.stdout.readline() == "held\n"
            second.communicate("done\n")
            assert second.returncode == 0


def test_the_lock_is_refused_to_its_own_process_too(store: Store) -> None:
    with store.lock():
        with pytest.raises(StepDiffError, match=f"process {os.getpid()} "), Store.open(store.path).lock():
            pass
    with store.lock():
        pass


def test_a_lease_of_a_dead_process_elsewhere_runs_out(path: RemotePath, capsys: pytest.CaptureFixture[str]) -> None:
    of_another_host(path)
    begin = time.monotonic()
    with locked(path, wait=False):
        assert time.monotonic() - begin > SHORT  # not before it has run out
        assert holds(path)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"{path.parent} is held by process 7 on host elsewhere: waiting up to 6" in told


def test_a_process_that_has_the_dead_holders_id_now_is_not_the_holder(path: RemotePath) -> None:
    me = lease.Lease(path)._me
    path.put([json.dumps({**me, "began": 1, "token": "t", "puts": 1, "free": False}).encode()])
    began = time.monotonic()
    with locked(path, wait=False):
        assert time.monotonic() - began < SHORT


def test_a_live_holder_elsewhere_is_seen_by_its_renewal(path: RemotePath) -> None:
    of_another_host(path)
    others = Lease(path)
    others._me["host"] = "elsewhere"
    others.take(wait=False)
    with pytest.raises(StepDiffError, match=f"process {os.getpid()} on host elsewhere"), locked(path, wait=False):
        pass
    others.release()
    with locked(path, wait=False):
        pass


def test_a_lease_is_renewed_as_long_as_it_is_held(path: RemotePath) -> None:
    with locked(path, wait=False):
        time.sleep(SHORT / 2)  # three times as long as without
        assert holds(path)
        check_held(path)
    assert not holds(path)


def test_a_holder_that_could_not_renew_its_lease_writes_no_more(path: RemotePath) -> None:
    with locked(path, wait=False):
        of_another_host(path)  # who saw it run out, say while this machine slept
        time.sleep(SHORT / 2)
        assert not holds(path)
        with pytest.raises(StepDiffError, match="ran out before it could be renewed"):
            check_held(path)
    assert json.loads(path.read_bytes())["host"] == "elsewhere", "what others hold is not released"


def test_nothing_a_holder_sent_arrives_behind_anothers_writes() -> None:
    backoff = timedelta(seconds=15)
    longest = object_stores.REQUEST + object_stores.RETRY["retry_timeout"] + backoff
    # The last part waits until one before it is there, is sent itself, and then all are put together.
    assert 3 * longest.total_seconds() <= LEASE * (1 - lease._SAFE)


def test_an_object_whose_writer_loses_its_lease_between_two_parts_stays_as_it_was(path: RemotePath) -> None:
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


def test_a_holder_that_sees_another_in_its_place_writes_no_more_at_once(path: RemotePath) -> None:
    mine = Lease(path)
    mine.take(wait=False)
    of_another_host(path)
    assert mine.held(), "nothing tells it yet"
    assert not mine._put(mine._etag) and not mine.held()
    mine.release()
    assert json.loads(path.read_bytes())["host"] == "elsewhere"


def test_a_renewal_that_arrived_and_whose_answer_was_lost_is_no_end(
    path: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_only_one_of_many_takes_a_lock_that_is_free(store: Store) -> None:
    names = ("first", "second", "third")
    holders = []
    with process(store) as one, process(store) as two, process(store) as three:
        for name, running in zip(names, (one, two, three), strict=True):
            assert running.stdout is not None
            if running.stdout.readline() == "held\n":
                holders.append(name)
    assert len(holders) == 1


def test_a_damaged_lock_is_one_line(path: RemotePath) -> None:
    path.put([b"{"])
    with pytest.raises(StepDiffError, match="lock.json is damaged"), locked(path, wait=False):
        pass
