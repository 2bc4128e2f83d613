"""The planner's lock, held by real processes."""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import StepDiffError
from store import Store

ROOT = Path(__file__).parents[2]
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
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=ROOT, **pipes) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def test_a_second_writer_is_refused_with_host_and_pid(store: Store) -> None:
    with process(store) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(StepDiffError) as refusal, store.lock():
            pass
        message = str(refusal.value)
        assert f"process {holder.pid} on host {socket.gethostname()}" in message
        assert str(store.path) in message and "\n" not in message


def test_a_dead_process_loses_its_lock(store: Store) -> None:
    with process(store) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with store.lock():
            assert f'"pid": {os.getpid()}' in (store.path / "lock.json").read_text()


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


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_dead_process_loses_its_lock_although_a_child_lives(store: Store) -> None:
    command = [sys.executable, "-c", FORKED, str(store.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        with pytest.raises(StepDiffError, match=f"process {holder.pid} "), store.lock():
            pass
        holder.kill()
        holder.wait()
        with store.lock():
            os.kill(child, signal.SIGKILL)


def test_a_lock_needs_no_disk_space(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with store.lock():
        with pytest.raises(StepDiffError, match="is being written by"), Store.open(store.path).lock():
            pass


def test_a_waiting_writer_names_the_holder_and_continues_after_it(store: Store) -> None:
    with process(store) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with process(store, "wait") as second:
            assert second.stderr is not None
            expected = f"{store.path} is being written by process {first.pid} on host {socket.gethostname()}: waiting"
            assert second.stderr.readline().startswith(expected)
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
