"""The planner's lock, between real processes."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from store import Store, StoreError

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
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
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
        with pytest.raises(StoreError) as refusal, store.lock():
            pass
        message = str(refusal.value)
        assert f"process {holder.pid} on host {socket.gethostname()}" in message
        assert str(store.path) in message and "\n" not in message


def test_a_lock_dies_with_its_process(store: Store) -> None:
    with process(store) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with store.lock():
            assert f'"pid": {os.getpid()}' in (store.path / "lock.json").read_text()


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
        with pytest.raises(StoreError, match=f"process {os.getpid()} "), Store.open(store.path).lock():
            pass
    with store.lock():
        pass
