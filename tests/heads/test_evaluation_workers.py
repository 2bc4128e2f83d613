"""Evaluations (heads.evaluation.answerers) and heads.embed on workers."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from threadpoolctl import threadpool_limits

from common.errors import StepDiffError
from common.workers.cluster import connected
from heads import embed, evaluate, train
from heads.evaluation import answerers
from heads.evaluation.answerers import Answered, Batch, LocalAnswerer, in_order
from heads.evaluation.workers import Driver
from store import Store

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """A local Ray that every command of this file joins."""
    with connected("local", "heads"):
        yield


def command(world: Path, task: str, method: str, *more: str) -> list[str]:
    given = ["--task", task, "--method", method, "--store", str(world / "features"), "--bootstrap", "0"]
    return [*given, "--test-set", str(world / f"{task}_test.jsonl"), "--rows-at-once", "1", "--allow-seen", *more]


def worker_that(before: Callable[[], None], notices: tuple[str, ...] = ()) -> type:
    """Return a worker class that calls a function before each batch. Ray can pickle it: it has no checked types."""

    class Made:
        def __init__(self, given: Any) -> None:
            from heads.evaluation.answerers import Worker

            self._own = Worker(given)

        def describe(self) -> Any:
            from dataclasses import replace

            found = self._own.describe()
            return replace(found, notices=notices) if notices else found

        def run(self, batch: Any) -> Any:
            before()
            return self._own.run(batch)

        def finished(self) -> int:
            return self._own.finished()

    return Made


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
    ray: None,
    trained: Path,
    world: Path,
    tmp_path: Path,
    task: str,
    method: str,
    more: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One worker is killed in each evaluation."""
    more = [str(world / "diffrank_test.jsonl") if value == "RANK" else value for value in more]
    head = ["--head", str(trained)] if method == "video-lm" else []
    given = [value for value in command(world, task, method, *head, *more) if head or value != "--allow-seen"]
    assert evaluate.main([*given, "--out", str(tmp_path / "one.jsonl")]) == 0
    marker = tmp_path / "died"

    def die_once() -> None:
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(answerers, "Worker", worker_that(die_once))
    assert evaluate.main([*given, "--out", str(tmp_path / "two.jsonl"), "--workers", "2"]) == 0
    assert marker.exists() and "a worker died at shard" in capsys.readouterr().err
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    one, two = (yaml.safe_load((tmp_path / f"{name}.scores.json").read_text()) for name in ("one", "two"))
    for record in (one, two):
        record["options"].pop("out")
    assert one == two
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.slow
def test_an_evaluation_on_workers_that_is_killed_is_continued_by_one_process(
    trained: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = command(world, "diffmcq", "video-lm", "--head", str(trained))
    program = f"""
import os, signal, sys
from heads import evaluate
from heads.evaluation.partial import Partial

add, count = Partial.add, [0]

def killed(self, predictions):
    count[0] += 1
    if count[0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, predictions)

if __name__ == "__main__":
    Partial.add = killed
    sys.exit(evaluate.main({[*given, "--out", str(tmp_path / "killed.jsonl"), "--workers", "2"]!r}))
"""
    (tmp_path / "killed.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, tmp_path / "killed.py"], env=environment, capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert len((tmp_path / "killed.partial.jsonl").read_bytes().splitlines()) == 2
    answered: list[int] = []
    answers = LocalAnswerer.answers
    monkeypatch.setattr(LocalAnswerer, "answers", lambda self, batch: answered.append(1) or answers(self, batch))
    assert evaluate.main([*given, "--out", str(tmp_path / "killed.jsonl")]) == 0
    of_the_rest = len(answered)
    assert evaluate.main([*given, "--out", str(tmp_path / "whole.jsonl")]) == 0
    assert len(answered) - of_the_rest == of_the_rest + 2, "the two batches that exist are not answered again"
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_answers_return_in_the_order_of_their_batches() -> None:
    batches = [Batch(number, "task", ()) for number in range(3, 7)]
    found = in_order(iter([Answered(number, [number]) for number in (5, 3, 6, 4)]), batches)
    assert next(found) == [3]
    assert list(found) == [[4], [5], [6]]


def test_a_worker_has_the_threads_and_the_folder_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(3)
    driver = Driver.here()
    assert driver == Driver(3, str(tmp_path))
    monkeypatch.chdir("/")
    torch.set_num_threads(1)
    found: list[int] = []
    with threadpool_limits(1, user_api="blas"):
        driver.imitate()
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))  # Ray calls from several
        thread.start()
        thread.join()
    assert found == [3] and Path.cwd() == tmp_path
    Driver(1, str(tmp_path / "on another node")).imitate()
    assert torch.get_num_threads() == 1 and Path.cwd() == tmp_path


@pytest.mark.slow
def test_what_a_worker_refuses_or_prints_reaches_the_user(
    ray: None,
    trained: Path,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = ["--out", str(tmp_path / "p.jsonl"), "--workers"]
    given = ["--task", "diffcap", "--method", "vlemb", "--view", "visual", "--store", str(world / "features")]
    given += ["--test-set", str(world / "diffcap_test.jsonl"), *out]
    assert evaluate.main([*given, "2"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors == ["error: --method vlemb does not answer diffcap: its class has no function caption"]
    assert evaluate.main([*given, "0"]) == 2
    assert "--workers 0 is too few: give 1 or more" in capsys.readouterr().err

    def fail() -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(answerers, "Worker", worker_that(fail, ("a notice of the method",)))
    assert evaluate.main([*command(world, "diffmcq", "video-lm", "--head", str(trained)), *out, "2"]) == 2
    errors = capsys.readouterr().err
    assert "a notice of the method" in errors
    assert "shard 0: MemoryError: too large: try a smaller --rows-at-once" in errors.splitlines()[-1]


@pytest.fixture(scope="module")
def aligned(world: Path) -> Path:
    """A contrastive head of a few steps."""
    contrastive = {
        "view": "visual",
        "text_view": "words",
        "width": 8,
        "clips": 6,
        "projector": {"width": 16, "heads": 2, "outputs": 1},
        "schedule": {"steps": 4, "validate_every": 2},
    }
    path = world / "on_workers.yaml"
    recipe = {"store": str(world / "features"), "out": str(world / "on_workers"), "contrastive": contrastive}
    path.write_text(yaml.safe_dump(recipe))
    assert train.main(["--config", str(path)]) == 0
    return world / "on_workers"


@pytest.mark.slow
def test_the_embeddings_are_the_same_files_whatever_the_number_of_workers(
    ray: None, aligned: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        shutil.copytree(world / "features", tmp_path / name)
    monkeypatch.setattr(embed, "BLOCK", 10)
    monkeypatch.setattr(embed, "PART", 10)  # the blocks of a worker are its parts
    given = ["--head", str(aligned), "--view", "on_workers"]  # other files of tests write to this store too
    assert embed.main([*given, "--store", str(tmp_path / "one")]) == 0
    assert embed.main([*given, "--store", str(tmp_path / "two"), "--workers", "2"]) == 0
    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if "on_workers" in str(path)}
    assert len(files) > 10
    for file in files:
        if file.suffix == ".lock":  # names a process
            continue
        one, two = tmp_path / "one" / file, tmp_path / "two" / file
        assert one.is_dir() or one.read_bytes() == two.read_bytes(), file
    one, two = (Store.open(tmp_path / name).view("texts", "on_workers") for name in ("one", "two"))
    np.testing.assert_array_equal(*(view.read("embedding", np.arange(24)) for view in (one, two)))
    assert embed.run(embed.EmbedOptions(str(aligned), str(tmp_path / "two"), "on_workers", workers=2))["clips"] == 0
    with pytest.raises(StepDiffError, match="--workers 0 is too few"):
        embed.run(embed.EmbedOptions(str(aligned), str(tmp_path / "two"), "on_workers", workers=0))


def test_a_part_of_a_shard_has_the_blocks_of_the_shard() -> None:
    assert embed.PART % embed.BLOCK == 0
