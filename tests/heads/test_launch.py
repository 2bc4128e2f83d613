"""Guarantees of heads.workers.launch."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from common.io.locks import locked
from heads import train
from heads.training.log import read_metrics
from heads.workers.launch import ATTEMPTS, Outcome

from .conftest import recipe
from .processes import in_processes
from .test_parallel import RUNS, command, last


def started(path: str, *more: str) -> subprocess.Popen[str]:
    """Start heads.train with two workers on a local Ray, each with one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    asked = [sys.executable, "-m", "heads.train", "--config", path, "--workers", "2", *more]
    return subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def workers_of(driver: int) -> list[psutil.Process]:
    """Return the processes that train."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:  # it has ended meanwhile
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_that_is_killed_is_restarted_and_the_run_ends_with_the_same_weights(
    world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    schedule = {"schedule": {"steps": 30, "accumulate": 2, "warmup": 2, "validate_every": 15, "save_every": 1}}
    run, path = tmp_path / "run", str(recipe(world, tiny_lm, tmp_path / "run", **schedule))
    assert in_processes(command, 2, tmp_path / "logs", path, None, ("--out", str(tmp_path / "whole"))) == [0, 0]
    driver = started(path)
    until = time.monotonic() + 600
    while not (run / "checkpoint-000002").exists() and time.monotonic() < until and driver.poll() is None:
        time.sleep(0.05)
    killed = workers_of(driver.pid)
    assert killed
    killed[-1].kill()
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 0, err
    assert "best checkpoint: step" in out and "run: resumes from checkpoint-0000" in err and "step 30/30" in err
    ours, theirs = last(run, 30), last(tmp_path / "whole", 30)
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    steps = [record["step"] for record in read_metrics(run / "metrics.jsonl") if "loss" in record]
    assert steps == list(range(1, 31))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_error_of_a_worker_is_the_error_of_the_command(world: Path, tiny_lm: str, tmp_path: Path) -> None:
    path = str(recipe(world, tiny_lm, tmp_path / "run", **RUNS))
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run" / "lock.json", wait=False):
        driver = started(path)
        _, err = driver.communicate(timeout=500)
    assert driver.returncode == 2
    assert f"is being written by process {os.getpid()} on host" in err.splitlines()[-1]


@pytest.mark.slow
def test_more_workers_than_the_cluster_will_ever_have_are_refused_in_one_line(
    world: Path, tiny_lm: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    schedule = {"steps": 2, "accumulate": 6400}
    path = str(recipe(world, tiny_lm, tmp_path / "run", schedule=schedule))
    assert train.main(["--config", path, "--workers", "6400"]) == 2
    error = capfd.readouterr().err.splitlines()
    assert len(error) == 1 and "6400 workers need 6400 CPUs and this machine has" in error[0]
    assert not (tmp_path / "run").exists()


def test_workers_that_die_at_the_same_step_again_and_again_end_the_run() -> None:
    outcome = Outcome()
    assert [outcome.begin(0), outcome.begin(3), outcome.begin(0)] == [None] * 3
    assert [outcome.begin(3) for _ in range(ATTEMPTS - 1)] == [None] * (ATTEMPTS - 1)
    outcome.die("ValueError: no such row")
    error = outcome.begin(3)
    assert error is not None and error.startswith(f"the workers died {ATTEMPTS} times after step 3: if memory is short")
    assert error.endswith("the last one with ValueError: no such row")
    assert outcome.begin(9) == outcome.failed() == outcome.look()[2] == error, "later starts end at once"
