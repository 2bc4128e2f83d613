"""Training on Ray Train: workers are started on a cluster or on this machine, and restarted where one dies.

Each start resumes from the run's folder, which every node must see; Ray keeps no checkpoint of its own.

Guarantees
- a worker that is killed is restarted, and the run ends with the same weights; ATTEMPTS deaths at one step end the run
- an error of a worker is the error of the command, and its lines are those of the command, each once
- a second driver on one run folder is refused
"""

import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import TextIOBase
from pathlib import Path
from typing import Any

from heads.training.recipe import TrainOptions
from heads.workers.group import BACKEND, joined
from heads.workers.room import LOOK, PATIENCE, Lack, cpus_of_each
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import make_folder
from stepdiff.common.io.locks import locked
from stepdiff.common.progress import say
from stepdiff.common.workers.cluster import connected
from stepdiff.common.workers.pool import has_gpu

ATTEMPTS = 3
"""starts from one step after which the run ends"""
MARK = "driver"
"""file in the folder of Ray's own files, by which workers recognise the driver's `out`"""
OWN = ".ray-"
"""prefix of the folder of Ray's own files"""
LEFT_LOCK = 150.0
"""seconds in which the lock of a lost worker may end: an NFS server keeps that of a lost node for 90 by default"""


class Outcome:
    """What the workers tell the driver: lines, an error, or the record of the finished run. A Ray actor."""

    def __init__(self, lighter: str) -> None:
        """lighter: what to do where the workers have too little memory."""
        self.lighter = lighter
        self.lines: list[str] = []
        self.error: str | None = None
        self.record: dict[str, Any] | None = None
        self.begun: list[int] = []
        self.died = ""

    def begin(self, step: int) -> str | None:
        """Receive the step that a start resumes from; return why it must not, if so."""
        self.begun.append(step)
        if self.error is None and self.begun.count(step) > ATTEMPTS:
            self.error = (
                f"the workers died {ATTEMPTS} times after step {step}: if memory is short, {self.lighter}; else see "
                f"the logs of Ray's nodes{self.died and ', '}{self.died}"
            )
        return self.error

    def patience(self) -> float:
        """Return the seconds that this start waits for a process that still writes the folder."""
        return PATIENCE if len(self.begun) < 2 else LEFT_LOCK

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
        """Return the lines since the last look, the record, the error, and whether the workers have begun."""
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
    """Train a recipe with `options.scaling.workers` workers; return the record of best.json.

    Args:
        options: A recipe that was checked.
        address: Of the cluster; None: RAY_ADDRESS, else Ray is started here.

    Raises:
        StepDiffError: No such cluster, too few CPUs or GPUs, another driver trains there, or the error of a worker.
    """
    from heads.workers.fit import fitting, lighter

    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"  # else lines appear twice
    with connected(address, "heads") as cluster:
        gpu = has_gpu(None if options.device == "auto" else options.device, cluster)
        cpus = cpus_of_each(options.scaling.workers, gpu, cluster, fitting(options))
        out = Path(options.out)
        make_folder(out)
        # The first worker locks the folder too, but workers of a second driver may wait for free CPUs until then.
        with locked(out / "driver.json", wait=False), scratch(out, cluster) as own:
            return _fit(options, _outcome(lighter(options)), gpu, cpus, own, cluster)


def _outcome(lighter: str) -> Any:
    """Start the Outcome on the driver's node: it is lost with the driver only."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Outcome).options(num_cpus=0, scheduling_strategy=here).remote(lighter)  # type: ignore[attr-defined]


@contextmanager
def scratch(out: Path, cluster: bool) -> Iterator[Path]:
    """Yield a folder for Ray's own files, with MARK in it, which is removed; on a cluster it is in `out`.

    The caller holds the lock of `out`'s drivers, so such folders of earlier drivers are of no use, and are removed.
    """
    for left in out.glob(f"{OWN}*"):
        shutil.rmtree(left, ignore_errors=True)  # a worker that has outlived its driver may still write
    with tempfile.TemporaryDirectory(prefix=OWN, dir=out if cluster else None, ignore_cleanup_errors=True) as made:
        (Path(made) / MARK).touch()
        yield Path(made).absolute()


def _fit(options: TrainOptions, outcome: Any, gpu: bool, cpus: int, own: Path, cluster: bool) -> dict[str, Any]:
    """Run Ray's trainer and print what the workers say."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    workers, mark = options.scaling.workers, f"{own.name}/{MARK}" if cluster else None
    each = {"CPU": float(cpus)} | ({"GPU": 1.0} if gpu else {})
    trainer = TorchTrainer(
        _work,
        train_loop_config={"options": options, "outcome": outcome, "folder": os.getcwd(), "mark": mark},
        torch_config=TorchConfig(BACKEND["cuda" if gpu else "cpu"], timeout_s=options.scaling.timeout),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=each),
        run_config=RunConfig(storage_path=str(own), failure_config=FailureConfig(max_failures=-1)),
    )
    failed: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # of the thread; raised again below
            failed.append(error)

    thread = threading.Thread(target=fit, name="trainer", daemon=True)  # in the main thread it would take Ctrl-C
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
    raise StepDiffError(f"Ray Train ended: {why}; run the same command again, it resumes from the last checkpoint")


def cause(error: BaseException) -> str:
    """Return why Ray Train failed, in one line."""
    from ray.train import TrainingFailedError

    found = getattr(error, "controller_failure", error)
    found = getattr(found, "cause", None) or found  # an error of a Ray task has a traceback of several lines
    lines = [line.strip() for line in str(found).splitlines() if line.strip()] or [type(found).__name__]
    # The first line of Ray Train's own errors says only that the training failed.
    return lines[-1] if isinstance(found, TrainingFailedError) else lines[0]


def _work(config: dict[str, Any]) -> None:
    """Train as one worker of the group that Ray started."""
    import ray
    import ray.train

    from heads.models.language_model import pick_device
    from heads.training.checkpoint import Run
    from heads.workers.fit import fit
    from heads.workers.group import own_device

    options, outcome = config["options"], config["outcome"]
    if ray.get(outcome.failed.remote()) is not None:
        return
    if Path(config["folder"]).is_dir():
        os.chdir(config["folder"])
    first = ray.train.get_context().get_world_rank() == 0
    try:
        check_folder(options.out, config["mark"])
        ended = ray.get(outcome.begin.remote(Run(Path(options.out)).reached())) if first else None
        patience = ray.get(outcome.patience.remote())
        device = own_device(pick_device(options.device))
        with joined(options.scaling, device) as group:
            if group.from_first(lambda: ended) is not None:
                return
            with redirect_stderr(Lines(outcome) if first else sys.stderr):
                record = fit(options, device, group, patience)
            if first:
                ray.get(outcome.end.remote(record, None))
    except StepDiffError as error:
        if not _ended_elsewhere(error):
            ray.get(outcome.end.remote(None, str(error)))
        raise
    except Exception as error:
        ray.get(outcome.die.remote(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"))
        raise


def check_folder(out: str, mark: str | None) -> None:
    """Raise StepDiffError if `out` is another folder on this node than on the driver's.

    mark: path, in the driver's `out`, of a file that was written for this start; None: the node is the driver's.
    """
    if mark is not None and not (Path(out) / mark).exists():
        raise StepDiffError(
            f"{out} is not the driver's folder on host {socket.gethostname()}: use a file system that all nodes mount"
        )


def _ended_elsewhere(error: StepDiffError) -> bool:
    """Whether this worker only noticed that another one had ended, which Ray restarts."""
    from heads.workers.group import GONE

    return str(error).startswith(GONE)
