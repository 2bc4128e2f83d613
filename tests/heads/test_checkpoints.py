"""A run's damaged files are not read."""

import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heads import ask, evaluate, train
from heads.training.checkpoint import Run, write_sums
from stepdiff_core.errors import StepDiffError

from .conftest import Capture, recipe
from .runs import SmallTask, assert_same_weights, train_small

INSTEAD = "no other checkpoint is used instead"
FILES = ("head.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a small task; its best checkpoint is the latest."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train_small(run, task=SmallTask(scores=[0.1, 0.2, 0.3, 0.4]))
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def latest(run: Path) -> Path:
    found = Run(run).latest()
    assert found is not None
    return found


def load(run: Path) -> dict[str, Any]:
    task = SmallTask()
    return Run(run).load(latest(run), task.module, torch.optim.AdamW(task.groups()))


def flip(path: Path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def refused(act: Callable[[], Any], path: Path, *words: str) -> None:
    """Check that a call raises a one-line error that names the file."""
    with pytest.raises(StepDiffError) as refusal:
        act()
    message = str(refusal.value)
    assert (
        str(path) in message and "\n" not in message and all(word in message for word in words)
    ), message


def check(folder: Path) -> int:
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    return subprocess.run(command, cwd=folder, capture_output=True).returncode


def test_sha256sum_accepts_what_is_written(run: Path) -> None:
    assert check(latest(run)) == 0
    listed = (latest(run) / "SHA256SUMS").read_text().split()[1::2]
    assert (
        sorted([*listed, "SHA256SUMS"])
        == sorted(FILES)
        == sorted(path.name for path in latest(run).iterdir())
    )
    flip(latest(run) / "state.json", 12)
    assert check(latest(run)) == 1


@pytest.mark.full
def test_damaged_missing_and_unlisted_files_are_refused_by_name(run: Path, whole: Path) -> None:
    rng = np.random.default_rng(0)
    for name in FILES:
        path = latest(run) / name
        whole_bytes = path.read_bytes()
        for place in rng.integers(len(whole_bytes), size=40).tolist():
            flip(path, place, int(rng.integers(8)))
            refused(lambda: load(run), latest(run))
            path.write_bytes(whole_bytes)
        for length in (0, 1, len(whole_bytes) // 2, len(whole_bytes) - 1):
            path.write_bytes(whole_bytes[:length])
            refused(lambda: load(run), latest(run))
        path.write_bytes(whole_bytes)
        if name != "SHA256SUMS":
            path.unlink()
            refused(lambda: load(run), path, "listed in SHA256SUMS, but cannot be read", INSTEAD)
        path.write_bytes(whole_bytes)
    (latest(run) / "extra.safetensors").write_bytes(b"")
    refused(
        lambda: load(run), latest(run) / "extra.safetensors", "not listed in SHA256SUMS", INSTEAD
    )
    (latest(run) / "extra.safetensors").unlink()
    assert load(run) == load(whole)


def test_no_earlier_checkpoint_replaces_a_damaged_one(tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    train_small(run, task=SmallTask(scores=[0.1, 0.4, 0.3, 0.2]))
    assert [path.name for path in Run(run).checkpoints()] == [
        "checkpoint-000002",
        "checkpoint-000006",
    ]
    flip(latest(run) / "head.safetensors", -1)
    before = {
        path: path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name != "lock.json"
    }
    refused(lambda: train_small(run), latest(run) / "head.safetensors", INSTEAD)
    assert {path: path.read_bytes() for path in before} == before
    shutil.rmtree(latest(run))
    train_small(run, task=SmallTask(scores=[0.3, 0.2]))
    assert_same_weights(run, whole)


def test_a_checkpoint_without_sha256sums_is_refused(run: Path) -> None:
    (latest(run) / "SHA256SUMS").unlink()
    refused(lambda: load(run), latest(run) / "SHA256SUMS", "missing or damaged", INSTEAD)


def test_best_json_that_contradicts_its_checkpoint_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_small(run, task=SmallTask(scores=[0.1, 0.4, 0.3, 0.2]))
    best, right = run / "best.json", (run / "best.json").read_text()
    assert Run(run).best().name == "checkpoint-000002"
    for one, other in (
        ("-000002", "-000006"),
        ('"step": 2', '"step": 3'),
        ("0.4", "0.5"),
        ('"score"', '"scora"'),
    ):
        best.write_text(right.replace(one, other))
        refused(Run(run).best, best)
    best.write_text(right.replace("-000002", "-000006"))
    with pytest.raises(StepDiffError):
        Run(run).prune()
    assert (run / "checkpoint-000002").is_dir(), (
        "a wrong name does not cause the best checkpoint to be deleted"
    )


@pytest.mark.full
def test_every_reader_of_a_trained_head_refuses_a_changed_byte(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    """Ask, evaluate, start from and resume the run; each gives one line."""
    store = ["--store", str(world / "features")]
    both = ["--reference", "video-_0_0.0_1.5", "--candidate", "video-_1_0.0_2.5"]

    def readers(run: Path) -> list[tuple[Callable[[list[str]], int], list[str]]]:
        head = ["--head", str(run), *store]
        task = [
            "--task",
            "diffrank",
            "--method",
            "video-lm",
            "--test-set",
            str(world / "diffrank_test.jsonl"),
        ]
        started = recipe(world, tiny_lm, tmp_path / "started", init=str(run))
        return [
            (ask.main, [*both, *head, "--max-tokens", "2", "What differs?"]),
            (evaluate.main, [*task, *head, "--out", str(tmp_path / "p.jsonl")]),
            (train.main, ["--config", str(started)]),
            (train.main, ["--config", str(recipe(world, tiny_lm, run))]),
        ]

    assert check(trained) == 0
    best = Run(trained).best().name
    for name in (f"{best}/head.safetensors", f"{best}/state.json", "recipe.yaml", "lineage.json"):
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(trained, run)
        made = (run / "recipe.yaml").read_text().replace(f"out: {trained}", f"out: {run}")
        Run(run).write_made_by(made)
        flip(run / name, len((run / name).read_bytes()) // 2)
        for place, (main, arguments) in enumerate(readers(run)):
            if place == 3 and name.startswith(best) and latest(run).name != best:
                continue  # a resumed run reads its latest checkpoint
            capsys.readouterr()
            assert main(arguments) == 2, (name, place)
            message = capsys.readouterr().err.strip().splitlines()[-1]
            assert message.startswith("error: ") and f"{run / name}" in message, message
    assert not (tmp_path / "started").exists() and not (tmp_path / "p.jsonl").exists()


def forged(
    header: bytes | dict[str, Any], data: bytes = b"\0" * 64, length: int | None = None
) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.full
@pytest.mark.parametrize("name", ["head.safetensors", "optimizer.safetensors"])
def test_a_forged_header_is_refused_before_anything_is_allocated(run: Path, name: str) -> None:
    import resource

    path = latest(run) / name
    shapes = [
        ([2**50], [0, 64]),
        ([2**40, 2**40], [0, 64]),
        ([2**58], [0, 2**60]),
        ([-16], [0, 64]),
    ]
    shapes += [([16], [64, 0]), ([8], [0, 32])]
    contents = [forged(b"{}", length=length) for length in (2**40, 2**64 - 1, 90_000_000)]
    contents += [
        forged({"a": {"dtype": "F32", "shape": shape, "data_offsets": at}}) for shape, at in shapes
    ]
    for content in (*contents, forged(b"[" * 100_000), b""):
        path.write_bytes(content)
        write_sums(latest(run), FILES[:3])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused(lambda: load(run), path, "missing or damaged", INSTEAD)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 * 2**10  # KiB
