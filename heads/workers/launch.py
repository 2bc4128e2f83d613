"""Training on Ray Train: workers are started on a cluster or on this machine, and restarted if one
dies.

Each start resumes from the run's folder, which every node must see; Ray keeps no checkpoint of its
own.

Guarantees
- a worker that is killed is restarted, and the run ends with the same weights; ATTEMPTS deaths at
  one step end the run
- a second driver on one run folder is refused
- a training waits for an autoscaler; more workers than the nodes will ever have room for end the
  run
"""

import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import TextIOBase
from pathlib import Path
from typing import Any

from heads.training.recipe import TrainOptions
from heads.workers.group import BACKEND, GONE, joined, own_device
from stepdiff_core.errors import StepDiffError, first_line
from stepdiff_core.io.files import make_folder
from stepdiff_core.io.locks import locked
from stepdiff_core.progress import say
from stepdiff_core.workers.cluster import connected
from stepdiff_core.workers.pool import autoscaled, has_gpu, need, nodes, room

ATTEMPTS = 3
"""starts from one step after which the run ends"""
MARK = "driver"
"""file in the folder of Ray's own files, by which workers recognise the driver's `out`"""
OWN = ".ray-"
"""prefix of the folder of Ray's own files"""
LEFT_LOCK = 150.0
"""seconds in which the lock of a lost worker may end: an NFS server keeps a lost node's lock for 90
by default"""
PATIENCE = 20.0
"""seconds in which nodes may join, and in which the processes of an earlier driver may end"""
MISSING = 60.0
"""seconds in which workers may start, and in which lost nodes may come back"""
LOOK = 1.0
"""seconds between two looks at the workers and the nodes"""
MOST_CPUS = 8
"""of a worker"""


class TrainingOutcome:
    """Messages of the workers to the driver: lines, an error, or the record of the finished run. A
    Ray actor."""

    def __init__(self, lighter: str) -> None:
        """lighter: advice for workers with too little memory."""
        self.lighter = lighter
        self.lines: list[str] = []
        self.error: str | None = None
        self.record: dict[str, Any] | None = None
        self.begun: list[int] = []
        self.died = ""

    def begin(self, step: int) -> tuple[str | None, float]:
        """Receive the step that a start resumes from; return why it must not, if so, and the
        seconds that it waits for a process that still writes the folder."""
        self.begun.append(step)
        if self.error is None and self.begun.count(step) > ATTEMPTS:
            self.error = (
                f"the workers died {ATTEMPTS} times after step {step}: if memory is short, "
                f"{self.lighter}; else see the logs of Ray's nodes{self.died and ', '}{self.died}"
            )
        return self.error, PATIENCE if len(self.begun) < 2 else LEFT_LOCK

    def failed(self) -> str | None:
        """Return the error that ended the run, if one did."""
        return self.error

    def die(self, why: str) -> None:
        """Receive why a worker died, unless a signal ended it."""
        self.died = f"the last one with {why}"

    def add(self, line: str) -> None:
        self.lines.append(line)

    def end(self, record: dict[str, Any] | None, error: str | None) -> None:
        self.record, self.error = record, self.error or error

    def look(self) -> tuple[list[str], dict[str, Any] | None, str | None, bool]:
        """Return the lines since the last look, the record, the error, and whether the workers have
        begun."""
        lines, self.lines = self.lines, []
        return lines, self.record, self.error, bool(self.begun)


class Lines(TextIOBase):
    """Standard error of a worker, whose lines also go to the driver."""

    def __init__(self, outcome: Any) -> None:
        self.outcome, self.rest = outcome, ""

    def write(self, text: str) -> int:
        sys.__stderr__.write(text)  # type: ignore[union-attr]
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self.outcome.add.remote(line)
        return len(text)


def launch(options: TrainOptions, address: str | None) -> dict[str, Any]:
    """Train a recipe that was checked with its number of workers; return the record of best.json.

    address: of the cluster; None: RAY_ADDRESS, else Ray is started here. StepDiffError: no such
    cluster, too few CPUs or GPUs, another driver trains there, or the error of a worker.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # else lines appear twice
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"
    with connected(address, "heads") as cluster:
        gpu = has_gpu(None if options.device == "auto" else options.device, cluster)
        cpus = cpus_of_each(options.scaling.workers, gpu, cluster, options.worker_counts)
        out = Path(options.out)
        make_folder(out)
        # The first worker locks the folder too, but workers of a second driver may wait for free
        # CPUs until then.
        with locked(out / "driver.json", wait=False), scratch(out, cluster) as folder:
            # On the driver's node it is lost with the driver only.
            here = NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=False
            )
            actor: Any = ray.remote(TrainingOutcome).options(num_cpus=0, scheduling_strategy=here)  # type: ignore[attr-defined]
            return _fit(options, actor.remote(options.lighter), gpu, cpus, folder, cluster)


def cpus_of_each(workers: int, gpu: bool, cluster: bool, fitting: Sequence[int]) -> int:
    """Return the CPUs of each worker. StepDiffError: the nodes have no room for all, and no
    autoscaler could add some.

    gpu: whether each worker has one; cluster: whether nodes may still join; fitting: numbers of
    workers that the recipe accepts; the error names the largest that has room.
    """
    kind = "GPU" if gpu else "CPU"
    until = time.monotonic() + (PATIENCE if cluster else 0)
    while True:
        resources = nodes()
        there = sum(gpus if gpu else cpus for cpus, gpus in resources)
        if there >= workers:
            break
        if autoscaled():
            say(
                f"waiting for the autoscaler: {workers} workers need {workers} {kind}s, and "
                f"{there} are there"
            )
            return 1
        if time.monotonic() >= until:
            most = max((number for number in fitting if number <= there), default=0)
            raise StepDiffError(
                f"{workers} workers need {workers} {kind}s and "
                f"{'the cluster' if cluster else 'this machine'} has {there}: "
                f"{f'give --workers {most}, or ' if most else ''}add nodes"
            )
        time.sleep(LOOK)
    if gpu:
        return max(1, min([MOST_CPUS, *(cpus // gpus for cpus, gpus in resources if gpus)]))
    return max(
        n
        for n in range(1, MOST_CPUS + 1)
        if n == 1 or sum(cpus // n for cpus, _ in resources) >= workers
    )


class Lack:
    """The resources that a cluster lacks while the driver waits: free room at the start, nodes
    after a loss."""

    def __init__(self, workers: int, cpus: int, gpu: bool) -> None:
        """cpus: of each worker."""
        self.workers, self.cpus, self.gpu = workers, cpus, gpu
        self.since: float | None = None
        """when something lacked for the first time; None: nothing does"""
        self.announced = ""

    def look(self, begun: bool) -> None:
        """Print the resources that have been lacking for MISSING seconds. StepDiffError: nodes, and
        no autoscaler adds some.

        begun: whether the workers of the first start have begun.
        """
        places, each = (
            room(self.cpus, self.gpu),
            f"{self.workers} workers of {need(self.cpus, self.gpu)} each",
        )
        lack = ""
        if places < self.workers:
            lack = f"the cluster has room for {places} of {each}"
        elif not begun:
            lack = f"no worker has begun yet: the cluster may have no free room for {each}"
        self.since = (self.since or time.monotonic()) if lack else None
        if self.since is None or time.monotonic() - self.since <= MISSING:
            return
        if places < self.workers and not autoscaled():
            raise StepDiffError(
                f"{lack}: run the command again with nodes added or with fewer --workers, it "
                "resumes from the last checkpoint"
            )
        if lack != self.announced:
            self.announced = lack
            say(lack if places >= self.workers else f"waiting for the autoscaler: {lack}")


@contextmanager
def scratch(out: Path, cluster: bool) -> Iterator[Path]:
    """Yield a folder for Ray's own files, with MARK in it, which is removed; on a cluster it is in
    `out`.

    The caller holds the lock of `out`'s drivers, so such folders of earlier drivers are of no use,
    and are removed.
    """
    for earlier in out.glob(f"{OWN}*"):
        # a worker that has outlived its driver may still write
        shutil.rmtree(earlier, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=OWN, dir=out if cluster else None, ignore_cleanup_errors=True
    ) as folder:
        (Path(folder) / MARK).touch()
        yield Path(folder).absolute()


def _fit(
    options: TrainOptions, outcome: Any, gpu: bool, cpus: int, folder: Path, cluster: bool
) -> dict[str, Any]:
    """Run Ray's trainer and print the workers' messages."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    workers, mark = options.scaling.workers, f"{folder.name}/{MARK}" if cluster else None
    each = {"CPU": float(cpus)} | ({"GPU": 1.0} if gpu else {})
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "options": options,
            "outcome": outcome,
            "folder": os.getcwd(),
            "mark": mark,
        },
        torch_config=TorchConfig(
            BACKEND["cuda" if gpu else "cpu"], timeout_s=options.scaling.timeout
        ),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=each),
        run_config=RunConfig(
            storage_path=str(folder), failure_config=FailureConfig(max_failures=-1)
        ),
    )
    failed: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # of the thread; raised again below
            failed.append(error)

    # in the main thread it would take Ctrl-C
    thread = threading.Thread(target=fit, name="trainer", daemon=True)
    thread.start()
    lack = Lack(workers, cpus, gpu)
    while True:
        thread.join(LOOK)
        running = thread.is_alive()
        lines, record, error, begun = ray.get(outcome.look.remote())
        for line in lines:
            say(line)
        if not running:
            break
        if cluster:
            lack.look(begun)
    if error is not None:
        raise StepDiffError(error)
    if record is not None:
        return record
    why = cause(failed[0]) if failed else "no worker reported an end"
    raise StepDiffError(
        f"Ray Train ended: {why}; run the same command again, it resumes from the last checkpoint"
    )


def cause(error: BaseException) -> str:
    """Return why Ray Train failed, in one line."""
    from ray.train import TrainingFailedError

    failure = getattr(error, "controller_failure", error)
    # an error of a Ray task has a traceback of several lines
    failure = getattr(failure, "cause", None) or failure
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()] or [
        type(failure).__name__
    ]
    # The first line of Ray Train's own errors says only that the training failed.
    return lines[-1] if isinstance(failure, TrainingFailedError) else lines[0]


def _work(config: dict[str, Any]) -> None:
    """Train as one worker of the group that Ray started."""
    import ray
    import ray.train

    from heads.models.language_model import pick_device
    from heads.training.checkpoint import Run
    from heads.workers.fit import fit

    options, outcome = config["options"], config["outcome"]
    if ray.get(outcome.failed.remote()) is not None:
        return
    if Path(config["folder"]).is_dir():
        os.chdir(config["folder"])
    first = ray.train.get_context().get_world_rank() == 0
    try:
        if config["mark"] is not None and not Path(options.out, config["mark"]).exists():
            raise StepDiffError(
                f"{options.out} is not the driver's folder on host {socket.gethostname()}: use a "
                "file system that all nodes mount"
            )
        begin = outcome.begin.remote(Run(Path(options.out)).reached()) if first else None
        # the first worker locks the folder
        ended, patience = (None, 0.0) if begin is None else ray.get(begin)
        device = own_device(pick_device(options.device))
        with joined(options.scaling, device) as group:
            if group.from_first(lambda: ended) is not None:
                return
            with redirect_stderr(Lines(outcome) if first else sys.stderr):
                record = fit(options, device, group, patience)
            if first:
                ray.get(outcome.end.remote(record, None))
    except StepDiffError as error:
        # else it only noticed that another one had ended, which Ray restarts
        if not str(error).startswith(GONE):
            ray.get(outcome.end.remote(None, str(error)))
        raise
    except Exception as error:
        ray.get(outcome.die.remote(f"{type(error).__name__}: {first_line(error)}"))
        raise
