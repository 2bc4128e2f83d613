"""Guarantees of heads.workers.launch, heads.workers.room and, about jobs and stores, heads.workers.fit."""

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from common.errors import StepDiffError
from common.io.locks import locked
from heads import train
from heads.training.log import read_metrics
from heads.training.recipe import Scaling, read_recipe
from heads.training.video_task import VideoTask
from heads.workers import launch, room
from heads.workers.fit import check, fitting, refuse_relative_paths
from heads.workers.launch import ATTEMPTS, LEFT_LOCK, MARK, Outcome, cause, check_folder, scratch
from heads.workers.room import MISSING, PATIENCE, Lack, cpus_of_each
from store import Store
from store.verbs.drop import drop
from store.verbs.options import DropOptions

from ..featurize.test_featurize_cluster import Head, head
from .conftest import provenance, recipe
from .ends import assert_same_weights
from .processes import in_processes
from .test_parallel import RUNS, command, contrastive, near

__all__ = ["head"]  # a fixture
ROOT = Path(__file__).parents[2]


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
    assert "best checkpoint: step" in out and "run: resumes from checkpoint-0000" in err
    assert err.count("run: step 30/30") == 1
    assert_same_weights(run, tmp_path / "whole", 30)
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


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_second_driver_on_one_run_folder_is_refused_in_one_line(
    world: Path, tiny_lm: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    path, run = str(recipe(world, tiny_lm, tmp_path / "run", **RUNS)), tmp_path / "run"
    run.mkdir()
    with locked(run / "driver.json", wait=False):
        assert train.main(["--config", path, "--workers", "2"]) == 2
    error = capfd.readouterr().err.splitlines()
    assert len(error) == 1 and f"{run} is being written by process {os.getpid()} on host" in error[0]
    assert [file.name for file in run.iterdir()] == ["driver.json"]


def nodes(monkeypatch: pytest.MonkeyPatch, *resources: dict[str, float], autoscaled: bool = False) -> None:
    """Let Ray have nodes of these resources."""
    labels = {"ray.io/node-group": "workers"} if autoscaled else {}
    found = [{"Alive": True, "Resources": one, "Labels": labels} for one in resources]
    monkeypatch.setattr("ray.nodes", lambda: found)


def test_a_worker_has_as_many_cpus_as_all_workers_have_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes(monkeypatch, {"CPU": 16.0}, {"CPU": 9.0}, {"memory": 1.0})
    found = [cpus_of_each(workers, False, True, ()) for workers in (1, 3, 4, 5, 25)]
    assert found == [8, 8, 5, 4, 1]
    nodes(monkeypatch, {"CPU": 64.0}, {"CPU": 24.0, "GPU": 4.0}, {"CPU": 192.0, "GPU": 8.0})
    assert cpus_of_each(12, True, True, ()) == 6


@pytest.mark.parametrize(
    ("accumulate", "workers", "together", "cpus", "advised"),
    [(3, 3, 1, 2.0, 1), (12, 12, 1, 11.0, 6), (6, 12, 2, 11.0, 6), (2, 4, 2, 3.0, 2), (2, 4, 4, 3.0, None)],
)
def test_the_number_of_workers_that_is_advised_is_one_that_the_recipe_accepts(
    accumulate: int,
    workers: int,
    together: int,
    cpus: float,
    advised: int | None,
    world: Path,
    tiny_lm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes(monkeypatch, {"CPU": cpus})
    path = recipe(world, tiny_lm, tmp_path / "run", lora=None, schedule={"steps": 2, "accumulate": accumulate})
    options = dataclasses.replace(read_recipe(path), scaling=Scaling(workers=workers, tensor_parallel=together))
    check(options)
    with pytest.raises(StepDiffError) as error:
        cpus_of_each(workers, False, False, fitting(options))
    give = "" if advised is None else f"give --workers {advised}, or "
    assert str(error.value).endswith(f"this machine has {cpus:.0f}: {give}add nodes")
    if advised is not None:
        check(dataclasses.replace(options, scaling=Scaling(workers=advised, tensor_parallel=together)))


def test_the_number_of_workers_that_is_advised_for_a_contrastive_head_is_all_that_have_room(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes(monkeypatch, {"CPU": 3.0})
    options = dataclasses.replace(read_recipe(contrastive(world, tmp_path / "run")), scaling=Scaling(workers=4))
    with pytest.raises(StepDiffError, match="has 3: give --workers 3, or add nodes"):
        cpus_of_each(4, False, False, fitting(options))


def test_a_training_waits_for_an_autoscaler_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    nodes(monkeypatch, {"CPU": 2.0}, autoscaled=True)
    assert cpus_of_each(4, False, True, ()) == 1
    assert "waiting for the autoscaler: 4 workers need 4 CPUs, and 2 are there" in capsys.readouterr().err
    lack = Lack(4, 1, False)
    lack.look(begun=False)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(room, "MISSING", -1.0)
    for _ in range(2):
        lack.look(begun=True)
    said = "waiting for the autoscaler: the cluster has room for 2 of 4 workers of 1 CPU each"
    assert capsys.readouterr().err.splitlines() == [said]


def test_a_run_whose_cluster_has_lost_the_room_for_its_workers_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert PATIENCE < MISSING <= 60
    two = ({"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0})
    nodes(monkeypatch, *two)
    lack = Lack(2, 8, True)
    lack.look(begun=False)
    nodes(monkeypatch, two[0])
    lack.look(begun=True)
    nodes(monkeypatch, *two)  # the node came back
    monkeypatch.setattr(room, "MISSING", -1.0)
    lack.look(begun=True)
    assert capsys.readouterr().err == "", "nothing is lacking"
    lack.look(begun=False)
    said = "no worker has begun yet: the cluster may have no free room for 2 workers of 8 CPUs and a GPU each"
    assert capsys.readouterr().err.splitlines() == [said]
    nodes(monkeypatch, two[0])
    with pytest.raises(StepDiffError) as error:
        lack.look(begun=True)
    assert str(error.value) == (
        "the cluster has room for 1 of 2 workers of 8 CPUs and a GPU each: run the command again with nodes added or "
        "with fewer --workers, it resumes from the last checkpoint"
    )


def test_workers_that_die_at_the_same_step_again_and_again_end_the_run() -> None:
    outcome = Outcome("halve batch")
    assert outcome.patience() == PATIENCE
    assert [outcome.begin(0), outcome.begin(3), outcome.begin(0)] == [None] * 3
    assert [outcome.begin(3) for _ in range(ATTEMPTS - 1)] == [None] * (ATTEMPTS - 1)
    assert outcome.patience() == LEFT_LOCK, "the lock of a worker that was lost"
    outcome.die("ValueError: no such row")
    error = outcome.begin(3)
    assert error == (
        f"the workers died {ATTEMPTS} times after step 3: if memory is short, halve batch; else see the logs of Ray's "
        "nodes, the last one with ValueError: no such row"
    )
    assert outcome.begin(9) == outcome.failed() == outcome.look()[2] == error, "later starts end at once"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_is_submitted_as_a_job_to_a_head_node(head: Head, world: Path, tiny_lm: str, tmp_path: Path) -> None:
    working = tmp_path / "working"  # the files of a checkout, without its environment
    for name in ("_stepdiff", "common", "store", "weights", "tasks", "retrieval", "heads"):
        shutil.copytree(ROOT / name, working / name, ignore=shutil.ignore_patterns("__pycache__"))
    path = str(recipe(world, tiny_lm, tmp_path / "run", **RUNS))
    job = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", head.dashboard]
    job += ["--working-dir", ".", "--", sys.executable, "-m", "heads.train", "--config", path, "--workers", "2"]
    done = subprocess.run(job, env=head.environment, cwd=working, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run: step 6/6" in done.stdout and "best checkpoint: step" in done.stdout
    assert train.main(["--config", path, "--out", str(tmp_path / "alone")]) == 0
    near(tmp_path / "run", tmp_path / "alone")
    one = [sys.executable, "-m", "heads.train", "--config", path, "--out", str(tmp_path / "one")]
    done = subprocess.run(
        [*one, "--address", head.address], env=head.environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0 and "one: step 6/6" in done.stderr, done.stdout + done.stderr
    near(tmp_path / "one", tmp_path / "alone")


def test_one_worker_is_started_on_the_cluster_at_an_address(
    world: Path, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = []

    def instead(options: Any, address: str | None) -> dict[str, Any]:
        launched.append((options.scaling.workers, address))
        return {"step": 6, "score": None}

    monkeypatch.setattr(launch, "launch", instead)
    path = str(recipe(world, tiny_lm, tmp_path / "run", **RUNS))
    assert train.main(["--config", path, "--address", "auto"]) == 0
    assert launched == [(1, "auto")] and not (tmp_path / "run").exists()


def test_a_worker_whose_node_does_not_have_the_drivers_folder_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, out = Outcome("halve batch"), tmp_path / "driver/runs/align"
    named = ("failed", "begin", "patience", "end", "die", "add")
    actor = SimpleNamespace(**{name: SimpleNamespace(remote=getattr(outcome, name)) for name in named})
    monkeypatch.setattr("ray.get", lambda answer: answer)
    monkeypatch.setattr("ray.train.get_context", lambda: SimpleNamespace(get_world_rank=lambda: 0))
    (tmp_path / "node").mkdir()
    monkeypatch.chdir(tmp_path / "node")
    out.mkdir(parents=True)
    with scratch(out, cluster=True) as own:
        check_folder(str(out), f"{own.name}/{MARK}")
        config = {"options": SimpleNamespace(out="runs/align"), "outcome": actor, "folder": "/no/such/folder"}
        with pytest.raises(StepDiffError):
            launch._work(config | {"mark": f"{own.name}/{MARK}"})
    host = socket.gethostname()
    assert outcome.error == (
        f"runs/align is not the driver's folder on host {host}: use a file system that all nodes mount"
    )
    assert not outcome.begun and not list(out.iterdir()) and not list((tmp_path / "node").iterdir())


@pytest.mark.parametrize("cluster", [True, False])
def test_what_ray_wrote_for_a_driver_that_was_killed_is_removed_by_the_next_one(tmp_path: Path, cluster: bool) -> None:
    (tmp_path / ".ray-killed" / "ray_train_run").mkdir(parents=True)
    (tmp_path / ".ray-killed" / MARK).touch()
    (tmp_path / "checkpoint-000003").mkdir()
    with scratch(tmp_path, cluster) as own:
        assert (own / MARK).exists()
        assert set(tmp_path.iterdir()) == {tmp_path / "checkpoint-000003", *([own] if cluster else [])}


def test_a_failure_of_ray_train_is_reported_with_its_cause() -> None:
    from ray.exceptions import RayTaskError
    from ray.train import ControllerError, WorkerGroupError

    inner = ValueError("No module named 'heads'\nsee the log")
    assert cause(ControllerError(inner)) == "No module named 'heads'"
    assert cause(ControllerError(RayTaskError("create", "Traceback\n  ...", inner))) == "No module named 'heads'"
    assert cause(WorkerGroupError("[Rank 0]\nTraceback\nOSError: gone\n", {})) == "OSError: gone"
    assert cause(RuntimeError("\n the actor died \nits id is 3")) == "the actor died"
    assert cause(RuntimeError()) == "RuntimeError"


def test_more_workers_than_a_batch_of_a_contrastive_head_has_rows_are_refused_in_one_line(
    world: Path, tmp_path: Path
) -> None:
    path = str(contrastive(world, tmp_path / "run", clips=1))
    assert in_processes(command, 2, tmp_path / "logs", path) == [2, 2]
    for rank in (0, 1):
        error = (tmp_path / f"logs/rank-{rank}.log").read_text().splitlines()[-1]
        assert error.startswith("error: 2 workers divide the rows of a batch among themselves, and it has 1: give at")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_inside_a_ray_job_a_relative_path_is_refused_with_any_number_of_workers(
    workers: str,
    world: Path,
    tiny_lm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.chdir(tmp_path)
    given = ["--config", str(recipe(world, tiny_lm, tmp_path / "run", **RUNS)), "--workers", workers]
    for more in (["--out", "run"], ["--video-lm.pairqa", "pairqa.jsonl"], ["--store", "features"]):
        assert train.main([*given, *more]) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert f"{more[1]!r} is relative: inside a Ray job" in error
    options = read_recipe(tmp_path / "run.yaml")
    refuse_relative_paths(dataclasses.replace(options, store="s3://bucket/features"))


def test_a_store_whose_features_change_during_a_training_ends_it_in_one_line(
    world: Path, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(world / "features", tmp_path / "features")
    path = str(recipe(world, tiny_lm, tmp_path / "run", **RUNS))
    given = ["--config", path, "--store", str(tmp_path / "features")]
    loss = VideoTask.loss

    def changes(task: VideoTask, batch: int) -> torch.Tensor:
        if batch == 7:  # of the fourth step
            replaced(tmp_path / "features")
        return loss(task, batch)

    monkeypatch.setattr(VideoTask, "loss", changes)
    assert train.main(given) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith(f"view visual of clips in {tmp_path / 'features'} was dropped: open it again")
    monkeypatch.undo()
    assert train.main(given) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "trained on other features of clips than view visual of" in error and "name the store it was" in error


def replaced(folder: Path) -> None:
    """Drop the view `visual` and write one of another encoder with its name."""
    store = Store.open(folder)
    before = store.view("clips", "visual")
    tokens, mean = (before.read(name, np.arange(24)) for name in ("tokens", "embedding"))
    assert drop(DropOptions(str(folder), "visual", yes=True)).dropped
    with store.lock():
        view = store.create_view(
            "clips", "visual", provenance("another"), before.features, rows_per_shard=before.rows_per_shard
        )
        view.resize()
        for shard, rows in enumerate((np.arange(16), np.arange(16, 24))):
            view.write_shard(shard, rows, {"tokens": tokens[rows] + 1, "embedding": mean[rows]}, {})
