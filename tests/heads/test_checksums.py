"""Guarantees of heads/training/{checksums,checkpoint}.py: a run's damaged files are not read."""

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
from safetensors.numpy import load_file, save_file

from common.errors import StepDiffError
from heads import ask, embed, evaluate, train
from heads.training import checkpoint
from heads.training.checkpoint import Run, restore_optimizer

from .conftest import recipe
from .ends import assert_same_weights
from .small_task import SmallTask, unsealed
from .small_task import trained as train_small

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
    assert str(path) in message and "\n" not in message and all(word in message for word in words), message


def check(folder: Path) -> int:
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    return subprocess.run(command, cwd=folder, capture_output=True).returncode


def test_sha256sum_accepts_what_is_written(run: Path) -> None:
    assert check(latest(run)) == 0
    listed = (latest(run) / "SHA256SUMS").read_text().split()[1::2]
    assert sorted([*listed, "SHA256SUMS"]) == sorted(FILES) == sorted(path.name for path in latest(run).iterdir())
    flip(latest(run) / "state.json", 12)
    assert check(latest(run)) == 1


def test_a_changed_weight_and_a_changed_step_are_refused(run: Path) -> None:
    """A regression test: head.safetensors with one changed weight and state.json with step 92 used to load."""
    head, state = latest(run) / "head.safetensors", latest(run) / "state.json"
    weights = load_file(head)
    before = head.read_bytes()
    next(iter(weights.values())).flat[0] += 0.5
    save_file(weights, head)
    refused(lambda: load(run), head, "damaged, its sha256 is not the one in SHA256SUMS", INSTEAD)
    refused(lambda: train_small(run), head, "remove the folder checkpoint-000006 to resume from the checkpoint before")
    head.write_bytes(before)
    state.write_text(json.dumps(json.loads(state.read_text()) | {"step": 92}, indent=1))
    refused(lambda: load(run), state, INSTEAD)
    unsealed(run)
    refused(lambda: load(run), state, "it is of step 92", INSTEAD)  # also in the form of older versions


def test_a_changed_byte_a_missing_file_and_an_unlisted_file_are_refused_by_name(run: Path, whole: Path) -> None:
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
    refused(lambda: load(run), latest(run) / "extra.safetensors", "not listed in SHA256SUMS", INSTEAD)
    (latest(run) / "extra.safetensors").unlink()
    assert load(run) == load(whole)


def test_an_earlier_checkpoint_is_used_only_if_the_damaged_one_is_removed(tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    train_small(run, task=SmallTask(scores=[0.1, 0.4, 0.3, 0.2]))
    assert [path.name for path in Run(run).checkpoints()] == ["checkpoint-000002", "checkpoint-000006"]
    flip(latest(run) / "head.safetensors", -1)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock.json"}
    refused(lambda: train_small(run), latest(run) / "head.safetensors", INSTEAD)
    assert {path: path.read_bytes() for path in before} == before
    shutil.rmtree(latest(run))
    train_small(run, task=SmallTask(scores=[0.3, 0.2]))
    assert_same_weights(run, whole)


def test_a_checkpoint_without_sha256sums_loads_with_one_notice(run: Path, capsys: pytest.CaptureFixture) -> None:
    unsealed(run)
    capsys.readouterr()
    assert load(run) == load(run)
    notice = capsys.readouterr().err
    assert notice.count("\n") == 1 and notice.startswith(f"{run}: no SHA256SUMS, as in runs of older versions")
    assert "draws from other random streams than it began with" in notice


def test_sha256sums_is_written_before_the_checkpoint_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(folder: Path, names: list[str]) -> None:
        raise StepDiffError(f"no space to write {folder}")

    monkeypatch.setattr(checkpoint, "write_sums", refuses)
    with pytest.raises(StepDiffError, match="checkpoint-000000: cannot be written"):
        train_small(tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("lock.json", "metrics.jsonl", "speed.jsonl", "tensorboard")
    }


def test_best_json_that_contradicts_its_checkpoint_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_small(run, task=SmallTask(scores=[0.1, 0.4, 0.3, 0.2]))
    best, right = run / "best.json", (run / "best.json").read_text()
    assert Run(run).best().name == "checkpoint-000002"
    for one, other in (("-000002", "-000006"), ('"step": 2', '"step": 3'), ("0.4", "0.5"), ('"score"', '"scora"')):
        assert one in right
        best.write_text(right.replace(one, other))
        refused(Run(run).best, best)
    best.write_text(right.replace("-000002", "-000006"))
    with pytest.raises(StepDiffError):
        Run(run).prune()
    assert (run / "checkpoint-000002").is_dir(), "a wrong name does not cause the best checkpoint to be deleted"
    best.write_text(right.replace("-000002", "-000006").replace('"step": 2', '"step": 6'))
    refused(Run(run).best, best, "checkpoint-000006/state.json has step 2 and score 0.4")


def test_every_reader_of_a_trained_head_refuses_a_changed_byte(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Ask, evaluate, start from and resume the run; each gives one line."""
    store = ["--store", str(world / "features")]
    both = ["--reference", "video-_0_0.0_1.5", "--candidate", "video-_1_0.0_2.5"]

    def readers(run: Path) -> list[tuple[Callable[[list[str]], int], list[str]]]:
        head = ["--head", str(run), *store]
        task = ["--task", "diffrank", "--method", "video-lm", "--test-set", str(world / "diffrank_test.jsonl")]
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


def test_a_damaged_contrastive_head_is_not_used_to_embed(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "align"
    options = {
        "store": str(world / "features"),
        "out": str(run),
        "contrastive": {
            "view": "visual", "text_view": "words", "width": 8, "projector": {"width": 16, "heads": 2, "outputs": 1},
            "schedule": {"steps": 2, "validate_every": 2},
        },
    }  # fmt: skip
    (tmp_path / "align.yaml").write_text(json.dumps(options))
    assert train.main(["--config", str(tmp_path / "align.yaml")]) == 0
    flip(Run(run).best() / "head.safetensors", -2)
    capsys.readouterr()
    assert embed.main(["--head", str(run), "--store", str(world / "features"), "--view", "damaged"]) == 2
    assert f"{Run(run).best() / 'head.safetensors'}: damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["abc.x", "-1.exp_avg", "4.exp_avg", "99999999999999999999.step", "0.momentum", "0", "", ".step", "00.step"]
)
def test_a_forged_name_in_the_optimiser_is_refused_in_one_line(run: Path, name: str) -> None:
    path = latest(unsealed(run)) / "optimizer.safetensors"
    save_file({**load_file(path), name: np.zeros(1, np.float32)}, path)
    refused(lambda: load(run), path, f"AdamW has no {name!r} of its 4 weights", INSTEAD)


def test_a_forged_shape_or_a_missing_part_of_the_optimiser_is_refused_in_one_line(run: Path) -> None:
    path = latest(unsealed(run)) / "optimizer.safetensors"
    right = load_file(path)
    save_file({**right, "2.exp_avg": np.zeros((3, 3), np.float32)}, path)
    refused(lambda: load(run), path, "2.exp_avg is (3, 3) and not (1, 32)")
    save_file({name: value for name, value in right.items() if name != "1.exp_avg_sq"}, path)
    refused(lambda: load(run), path, "no 1.exp_avg_sq")
    save_file(right, path)
    task = SmallTask()
    restore_optimizer(torch.optim.AdamW(task.groups()), checkpoint._read_tensors(path))


def forged(header: bytes | dict[str, Any], data: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.parametrize(
    "content",
    [
        forged(b"{}", length=2**40),
        forged(b"{}", length=2**64 - 1),
        forged(b"{}", length=90_000_000),
        forged({"a": {"dtype": "F32", "shape": [2**50], "data_offsets": [0, 64]}}),
        forged({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 64]}}),
        forged({"a": {"dtype": "F32", "shape": [2**58], "data_offsets": [0, 2**60]}}),
        forged({"a": {"dtype": "F32", "shape": [-16], "data_offsets": [0, 64]}}),
        forged({"a": {"dtype": "F32", "shape": [16], "data_offsets": [64, 0]}}),
        forged({"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}),
        forged(b"[" * 100_000),
        b"",
    ],
    ids=range(11),
)
@pytest.mark.parametrize("name", ["head.safetensors", "optimizer.safetensors"])
def test_a_forged_header_is_refused_before_anything_is_allocated(run: Path, name: str, content: bytes) -> None:
    import resource

    path = latest(unsealed(run)) / name
    path.write_bytes(content)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(lambda: load(run), path, "missing or damaged", INSTEAD)
    refused(lambda: checkpoint._read_shapes(path), path, "missing or damaged")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 * 2**10  # KiB


@pytest.mark.parametrize(
    "state", ["[]", "{}", '{"step": "6"}', '{"step": 6}', '{"step": 6, "best_step": 8, "best_score": 1.0}',
              '{"step": 6, "best_step": 2, "best_score": "much"}', '{"step": 6,'],
)  # fmt: skip
def test_an_impossible_state_is_refused_in_one_line(run: Path, state: str) -> None:
    path = latest(unsealed(run)) / "state.json"
    path.write_text(state)
    refused(lambda: load(run), path, "missing or damaged", INSTEAD)
