"""Trainings, evaluations and heads.embed on workers of Ray: the same results, also after a worker
is killed."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from heads import embed, evaluate, train
from heads.methods.controls import Chance
from heads.training.log import read_metrics
from heads.training.recipe import read_recipe
from heads.workers.fit import refuse_relative_paths
from heads.workers.launch import ATTEMPTS, LEFT_LOCK, PATIENCE, TrainingOutcome
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.locks import locked
from stepdiff_core.workers.cluster import connected
from store import Store
from tests.refusals import refuses

from ..featurize.test_featurize_cluster import Head, head
from .conftest import Capture, evaluation, recipe
from .runs import RUNS, assert_same_weights, command, in_processes, near

__all__ = ["head"]  # a fixture
ROOT = Path(__file__).parents[2]


def started(path: str, *more: str) -> subprocess.Popen[str]:
    """Start heads.train with two workers on a local Ray, each with one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    asked = [sys.executable, "-m", "heads.train", "--config", path, "--workers", "2", *more]
    return subprocess.Popen(
        asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


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


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_that_is_killed_is_restarted_and_the_run_ends_with_the_same_weights(
    world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    schedule = {
        "schedule": {
            "steps": 30,
            "accumulate": 2,
            "warmup": 2,
            "validate_every": 15,
            "save_every": 1,
        }
    }
    run, path = tmp_path / "run", str(recipe(world, tiny_lm, tmp_path / "run", **schedule))
    assert in_processes(
        command, 2, tmp_path / "logs", path, None, ("--out", str(tmp_path / "whole"))
    ) == [0, 0]
    driver = started(path)
    until = time.monotonic() + 600
    while (
        not (run / "checkpoint-000002").exists()
        and time.monotonic() < until
        and driver.poll() is None
    ):
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


@pytest.mark.full
@pytest.mark.slow
def test_more_workers_than_the_cluster_will_ever_have_are_refused_in_one_line(
    world: Path, tiny_lm: str, tmp_path: Path, capfd: Capture
) -> None:
    schedule = {"steps": 2, "accumulate": 6400}
    path = str(recipe(world, tiny_lm, tmp_path / "run", schedule=schedule))
    assert train.main(["--config", path, "--workers", "6400"]) == 2
    error = capfd.readouterr().err.splitlines()
    assert len(error) == 1 and "6400 workers need 6400 CPUs and this machine has" in error[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_second_driver_on_one_run_folder_is_refused_in_one_line(
    world: Path, tiny_lm: str, tmp_path: Path, capfd: Capture
) -> None:
    path, run = str(recipe(world, tiny_lm, tmp_path / "run", **RUNS)), tmp_path / "run"
    run.mkdir()
    with locked(run / "driver.json", wait=False):
        assert train.main(["--config", path, "--workers", "2"]) == 2
    error = capfd.readouterr().err.splitlines()
    assert (
        len(error) == 1 and f"{run} is being written by process {os.getpid()} on host" in error[0]
    )
    assert [file.name for file in run.iterdir()] == ["driver.json"]


def test_workers_that_die_at_the_same_step_again_and_again_end_the_run() -> None:
    outcome = TrainingOutcome("halve batch")
    assert outcome.begin(0) == (None, PATIENCE)
    lost = (None, LEFT_LOCK)  # the lock of a worker that was lost
    assert [outcome.begin(3), outcome.begin(0)] == [lost] * 2
    assert [outcome.begin(3) for _ in range(ATTEMPTS - 1)] == [lost] * (ATTEMPTS - 1)
    outcome.die("ValueError: no such row")
    error = outcome.begin(3)[0]
    assert error == (
        f"the workers died {ATTEMPTS} times after step 3: if memory is short, halve batch; else "
        "see the logs of Ray's nodes, the last one with ValueError: no such row"
    )
    assert outcome.begin(9)[0] == outcome.failed() == outcome.look()[2] == error, (
        "later starts end at once"
    )


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_is_submitted_as_a_job_to_a_head_node(
    head: Head, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    working = tmp_path / "working"  # the files of a checkout, without its environment
    for name in ("stepdiff_core", "store", "retrieval", "heads"):
        shutil.copytree(ROOT / name, working / name, ignore=shutil.ignore_patterns("__pycache__"))
    path = str(recipe(world, tiny_lm, tmp_path / "run", **RUNS))
    job = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", head.dashboard]
    job += [
        "--working-dir",
        ".",
        "--",
        sys.executable,
        "-m",
        "heads.train",
        "--config",
        path,
        "--workers",
        "2",
    ]
    done = subprocess.run(
        job, env=head.environment, cwd=working, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run: step 6/6" in done.stdout and "best checkpoint: step" in done.stdout
    assert train.main(["--config", path, "--out", str(tmp_path / "alone")]) == 0
    near(tmp_path / "run", tmp_path / "alone")
    one = [sys.executable, "-m", "heads.train", "--config", path, "--out", str(tmp_path / "one")]
    done = subprocess.run(
        [*one, "--address", head.address],
        env=head.environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0 and "one: step 6/6" in done.stderr, done.stdout + done.stderr
    near(tmp_path / "one", tmp_path / "alone")


def test_inside_a_ray_job_a_relative_path_is_refused(
    world: Path, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/llama").mkdir(parents=True)
    given = ["--config", str(recipe(world, tiny_lm, tmp_path / "run", **RUNS)), "--workers", "2"]
    for more in (
        ["--out", "run"],
        ["--video-lm.pairqa", "pairqa.jsonl"],
        ["--store", "features"],
        ["--video-lm.language-model", "./models/llama"],
    ):
        refuses(train.main, [*given, *more], capsys, f"{more[1]!r} is relative: inside a Ray job")
    options = read_recipe(tmp_path / "run.yaml")
    refuse_relative_paths(dataclasses.replace(options, store="s3://bucket/features"))


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """A local Ray that every evaluation of this file joins."""
    with connected("local", "heads"):
        yield


class Once:
    """Random scores as a user's own method; the first worker that has a batch is killed, once."""

    def __init__(self, store: Store, view: str | None, device: str) -> None:
        print("a notice of the method", file=sys.stderr)
        self.method, self.marker = Chance(0), Path(str(store.path)).parent / "died"

    def rank(self, rows: list) -> list[list[float]]:
        with suppress(FileExistsError), self.marker.open("x"):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.method.rank(rows)

    def score_options(self, rows: list) -> list[list[float]]:
        raise MemoryError("too large")


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "method", "more"),
    [
        ("diffmcq", "video-lm", ["--rows-at-once", "3"]),
        ("diffcap", "video-lm", ["--ask-similar", "--no-difference", "RANK"]),
        ("diffrank", "video-lm", ["--control", "shuffled"]),
        ("diffmcq", "rarest", []),
    ],
)
def test_the_predictions_are_the_same_to_the_byte_whatever_the_number_of_workers(
    ray: None, trained: Path, world: Path, tmp_path: Path, task: str, method: str, more: list[str]
) -> None:
    more = [str(world / "diffrank_test.jsonl") if value == "RANK" else value for value in more]
    head = ["--head", str(trained)] if method == "video-lm" else []
    given = evaluation(
        world, task, method, tmp_path / "one.jsonl", "--rows-at-once", "1", *head, *more
    )
    assert evaluate.main(given) == 0
    assert evaluate.main([*given, "--out", str(tmp_path / "two.jsonl"), "--workers", "2"]) == 0
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    one, two = (
        yaml.safe_load((tmp_path / f"{name}.scores.json").read_text()) for name in ("one", "two")
    )
    for record in (one, two):
        record["options"].pop("out")
    assert one == two and not list(tmp_path.glob("*.partial*"))


@pytest.mark.full
@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_what_workers_print_or_refuse_reaches_the_user(
    ray: None, world: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "features").symlink_to(world / "features")
    for name in ("diffrank_test.jsonl", "diffmcq_test.jsonl"):
        (tmp_path / name).symlink_to(world / name)

    def run(task: str, method: str, *more: str) -> int:
        out = tmp_path / f"{method[-4:]}.jsonl"
        return evaluate.main(evaluation(tmp_path, task, method, out, "--rows-at-once", "1", *more))

    assert run("diffrank", "random") == run("diffrank", f"{__name__}:Once", "--workers", "2") == 0
    errors = capsys.readouterr().err
    assert (
        (tmp_path / "died").exists()
        and "a worker died at shard" in errors
        and "a notice of the method" in errors
    )
    assert (tmp_path / "ndom.jsonl").read_bytes() == (tmp_path / "Once.jsonl").read_bytes()
    assert run("diffmcq", f"{__name__}:Once", "--workers", "2") == 2
    assert (
        "MemoryError: too large: try a smaller --rows-at-once"
        in capsys.readouterr().err.splitlines()[-1]
    )
    assert (
        run(
            "diffcap",
            "vlemb",
            "--view",
            "visual",
            "--test-set",
            str(world / "diffcap_test.jsonl"),
            "--workers",
            "2",
        )
        == 2
    )
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        "error: --method vlemb does not answer diffcap: its class has no function caption"
    ]


@pytest.mark.full
@pytest.mark.slow
def test_the_embeddings_are_the_same_files_whatever_the_number_of_workers(
    ray: None, aligned: Path, world: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        shutil.copytree(world / "features", tmp_path / name)
    # other files of tests write to this store too
    given = ["--head", str(aligned), "--view", "on_workers"]
    assert embed.main([*given, "--store", str(tmp_path / "one")]) == 0
    assert embed.main([*given, "--store", str(tmp_path / "two"), "--workers", "2"]) == 0
    files = {
        path.relative_to(tmp_path / "one")
        for path in (tmp_path / "one").rglob("*")
        if "on_workers" in str(path)
    }
    assert files
    for file in files:
        if file.suffix == ".lock":  # names a process
            continue
        one, two = tmp_path / "one" / file, tmp_path / "two" / file
        assert one.is_dir() or one.read_bytes() == two.read_bytes(), file
    one, two = (Store.open(tmp_path / name).view("texts", "on_workers") for name in ("one", "two"))
    np.testing.assert_array_equal(*(view.read("embedding", np.arange(24)) for view in (one, two)))
    assert (
        embed.run(embed.EmbedOptions(str(aligned), str(tmp_path / "two"), "on_workers", workers=2))[
            "clips"
        ]
        == 0
    )
    with pytest.raises(StepDiffError, match="--workers 0 is too small"):
        embed.run(embed.EmbedOptions(str(aligned), str(tmp_path / "two"), "on_workers", workers=0))
