"""Runs a function in several processes of one torch.distributed group, as torchrun does, for tests."""

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch.distributed.fsdp", "transformers", "peft", "heads.workers.fit"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _child(work: tuple[str, str, tuple[Any, ...]], rank: int, count: int, port: int, log: str, end: Connection) -> None:
    module, name, given = work
    with open(log, "w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        if count:
            launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
            os.environ.update({key: str(value) for key, value in launched.items()}, MASTER_ADDR="127.0.0.1")
        import torch

        torch.set_num_threads(1)
        try:
            end.send(getattr(importlib.import_module(module), name)(*given))
        except BaseException:
            traceback.print_exc()
            raise


def in_processes(
    do: Callable[..., Any], count: int, folder: Path, *given: Any, seconds: float = 900, dies: Sequence[int] = ()
) -> list[Any]:
    """Return what `do(*given)` returned in each of `count` processes; 0: in one process without a group.

    Args:
        folder: Of the processes' logs.
        seconds: After which they are killed and the test fails.
        dies: Ranks that may end by a signal; once one has, the others are killed, as torchrun does.
    """
    port, ends, processes = free_port(), [], []
    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(max(count, 1)):
        own, other = SERVER.Pipe(duplex=False)
        log = str(folder / f"rank-{rank}.log")
        process = SERVER.Process(
            target=_child, args=((do.__module__, do.__name__, given), rank, count, port, log, other), daemon=True
        )
        process.start()
        other.close()
        ends.append(own)
        processes.append(process)
    found: list[Any] = [None] * len(processes)
    until = time.monotonic() + seconds
    waiting = set(range(len(processes)))
    dead: set[int] = set()
    while waiting and time.monotonic() < until and not dead:
        for rank in sorted(waiting):
            if ends[rank].poll(0.02):
                try:
                    found[rank] = ends[rank].recv()
                    waiting.discard(rank)
                except EOFError:
                    processes[rank].join()
                    dead.add(rank)
                    break
    for rank, process in enumerate(processes):
        if rank in waiting:
            process.kill()
        process.join()
    if dead and dead <= set(dies) and all(processes[rank].exitcode == -signal.SIGKILL for rank in dead):
        return found
    if waiting:
        logs = "\n".join((folder / f"rank-{rank}.log").read_text()[-6000:] for rank in range(len(found)))
        raise AssertionError(f"ranks {sorted(waiting)} did not end well ({sorted(dead)} ended early)\n{logs}")
    return found
