"""Runs of a training for tests: in several processes as torchrun starts them, of a small task,
interrupted."""

import importlib
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.nn import functional

from heads import train as train_command
from heads.training.checkpoint import write_sums
from heads.training.log import ReadCounts
from heads.training.loop import train
from heads.training.recipe import Schedule
from heads.workers.group import ALONE, Group
from store.lineage.answers import read_record, write_record


def weights(run: Path, step: int = 6) -> dict[str, np.ndarray]:
    return load_file(run / f"checkpoint-{step:06d}" / "head.safetensors")


def assert_same_weights(run: Path, other: Path, step: int = 6) -> None:
    """Compare every weight of two runs, bit for bit."""
    ours, theirs = weights(run, step), weights(other, step)
    assert ours.keys() == theirs.keys()
    assert [name for name, value in theirs.items() if ours[name].tobytes() != value.tobytes()] == []


SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["torch.distributed.fsdp", "transformers", "peft", "heads.workers.fit"]
)


def free_port() -> int:
    """Return a free port below those that the system gives to outgoing connections of other
    tests."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", random.SystemRandom().randrange(15000, 32000)))
            return int(probe.getsockname()[1])


def _child(
    work: tuple[str, str, tuple[Any, ...]],
    rank: int,
    count: int,
    port: int,
    log: str,
    end: Connection,
) -> None:
    module, name, given = work
    with open(log, "w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        if count:
            launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
            os.environ.update(
                {key: str(value) for key, value in launched.items()}, MASTER_ADDR="127.0.0.1"
            )
        import torch

        torch.set_num_threads(1)
        try:
            end.send(getattr(importlib.import_module(module), name)(*given))
        except BaseException:
            traceback.print_exc()
            raise


def in_processes(
    do: Callable[..., Any],
    count: int,
    folder: Path,
    *given: Any,
    seconds: float = 900,
    dies: Sequence[int] = (),
) -> list[Any]:
    """Return what `do(*given)` returned in each of `count` processes; 0: in one process without a
    group.

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
            target=_child,
            args=((do.__module__, do.__name__, given), rank, count, port, log, other),
            daemon=True,
        )
        process.start()
        other.close()
        ends.append(own)
        processes.append(process)
    returned: list[Any] = [None] * len(processes)
    until = time.monotonic() + seconds
    waiting = set(range(len(processes)))
    dead: set[int] = set()
    while waiting and time.monotonic() < until and not dead:
        for rank in sorted(waiting):
            if ends[rank].poll(0.02):
                try:
                    returned[rank] = ends[rank].recv()
                    waiting.discard(rank)
                except EOFError:
                    processes[rank].join()
                    dead.add(rank)
                    break
    for rank, process in enumerate(processes):
        if rank in waiting:
            process.kill()
        process.join()
    if (
        dead
        and dead <= set(dies)
        and all(processes[rank].exitcode == -signal.SIGKILL for rank in dead)
    ):
        return returned
    if waiting:
        logs = "\n".join(
            (folder / f"rank-{rank}.log").read_text()[-6000:] for rank in range(len(returned))
        )
        raise AssertionError(
            f"ranks {sorted(waiting)} did not end well ({sorted(dead)} ended early)\n{logs}"
        )
    return returned


SCHEDULE = Schedule(6, accumulate=2, warmup=2, validate_every=2)


class SmallTask:
    """A linear fit to planted points, which records the dropout mask of each batch."""

    divides_rows = False

    def __init__(self, scores: list[float] | None = None, group: Group = ALONE) -> None:
        torch.manual_seed(7)
        self.module = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 1))
        self.points = torch.randn(16, 32)
        self.masks: dict[int, tuple[bool, ...]] = {}
        self.counts, self.group = ReadCounts(), group
        self.scores = None if scores is None else iter(scores)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.module.parameters())}]

    def prepare(self) -> list[str]:
        return ["nothing to prepare"]

    def loss(self, batch: int, following: int | None = None) -> Tensor:
        self.counts += ReadCounts(samples=3, tokens=30, clips=3)
        kept = functional.dropout(torch.ones(32), 0.5)
        self.masks[batch] = tuple((kept > 0).tolist())
        return (
            (self.module(self.points[batch % 16] * kept) - self.points[batch % 16].sum())
            .square()
            .mean()
        )

    def validate(self) -> dict[str, float | None]:
        if self.scores is not None:
            return {"score": next(self.scores)}
        with torch.no_grad():
            error = (self.module(self.points)[:, 0] - self.points.sum(dim=1)).square().mean()
        return {"score": -float(error)}


def train_small(
    folder: Path, seed: int = 0, schedule: Schedule = SCHEDULE, task: SmallTask | None = None
) -> SmallTask:
    """Train a small task in the folder, or resume it."""
    task = SmallTask() if task is None else task
    train(task, schedule, folder, seed)
    return task


def unsealed(run: Path) -> Path:
    """Remove the digests of recipe.yaml and lineage.json, as a kill may leave a run, so that a test
    can change them."""
    (run / "SHA256SUMS").unlink()
    return run


def change_lineage(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the lineage.json of a run, with its checksum; the run has no digests of it (see
    `unsealed`)."""
    record = read_record(run)
    change(record)
    write_record(run, record)


def change_state(checkpoint: Path, **values: Any) -> None:
    """Change values of a checkpoint's state.json, and its SHA256SUMS."""
    path = checkpoint / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    write_sums(
        checkpoint, [file.name for file in checkpoint.iterdir() if file.name != "SHA256SUMS"]
    )


RUNS = {
    "schedule": {"steps": 6, "accumulate": 2, "warmup": 2, "validate_every": 3, "save_every": 1}
}


def command(path: str, dies: tuple[int, int] | None = None, more: Sequence[str] = ()) -> int:
    """Run heads.train; dies: the process of that rank is killed at that batch."""
    from heads.training.video_task import VideoTask

    if dies is not None and int(os.environ.get("RANK", "0")) == dies[0]:
        loss = VideoTask.loss

        def killed(task: VideoTask, batch: int, following: int | None = None) -> Tensor:
            if batch >= dies[1]:
                os.kill(os.getpid(), signal.SIGKILL)
            return loss(task, batch, following)

        VideoTask.loss = killed  # type: ignore[method-assign]
    return train_command.main(["--config", path, *more])


def near(ours: Path, theirs: Path) -> None:
    """Assert that two runs end with the same weights to 1e-4, relative to the largest of each.

    Sums in another order differ in last bits, and AdamW divides a gradient near zero by its own
    size.
    """
    one, two = weights(ours), weights(theirs)
    assert one.keys() == two.keys()
    for name, value in two.items():
        np.testing.assert_allclose(
            one[name], value, rtol=0, atol=1e-4 * np.abs(value).max(), err_msg=name
        )


@contextmanager
def interrupted_at(path: Path) -> Iterator[None]:
    """Interrupt this process as Ctrl-C does once a path exists, and expect that it ends what
    runs."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.0005):
            if path.exists():
                return os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=watch, daemon=True)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    watcher.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
            watcher.join(1)  # it came too late
    finally:
        over.set()
        watcher.join()
        signal.signal(signal.SIGINT, before)
