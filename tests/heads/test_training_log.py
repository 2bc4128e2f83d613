"""Guarantees of heads/training/log.py."""

import json
import resource
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageColor

from common.errors import StepDiffError
from heads.tracking.curve import COLOURS, RAW, draw_curve, running_mean
from heads.training import loop as training
from heads.training.checkpoint import Run
from heads.training.log import Events, TrainingLog, read_metrics
from heads.training.loop import rate_factor
from heads.training.recipe import Schedule

from .ends import assert_same_weights
from .small_task import SCHEDULE, SmallTask, trained

FULL = "nothing committed is lost: make room and run the command again"


@pytest.fixture
def limited() -> Iterator[None]:
    """Restore the limit on file sizes that a test sets, which acts like a full disk without root rights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def same_end(run: Path, whole: Path) -> None:
    assert_same_weights(run, whole)
    assert read_metrics(run / "metrics.jsonl") == read_metrics(whole / "metrics.jsonl")
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard", "new tensorboard", "loss.png"])
def test_a_disk_that_fills_up_during_the_log_ends_in_one_line_and_the_run_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limited: None, name: str
) -> None:
    run, task = tmp_path / "run", SmallTask()
    loss, draw, add = task.loss, training.draw_curve, Events.add
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[0]

    def fills_up(batch: int) -> torch.Tensor:
        if batch == 6:  # at step 4, whose record is written before its checkpoint
            limit((run / "metrics.jsonl").stat().st_size + 10)
        return loss(batch)

    def adds(log: Events, step: int, values: dict[str, float]) -> None:
        if step == 4:
            limit(log.path.stat().st_size + 10)
        add(log, step, values)

    def draws(*given: object) -> None:
        limit(1000)
        draw(*given)  # type: ignore[arg-type]

    def made(folder: Path) -> None:
        folder.mkdir()
        limit(10)  # metrics.jsonl, which is still empty, fits

    with monkeypatch.context() as patched:
        if name == "metrics.jsonl":
            patched.setattr(task, "loss", fills_up)
        elif name == "tensorboard":
            patched.setattr(Events, "add", adds)
        elif name == "new tensorboard":
            patched.setattr(training, "make_folder", made)
        else:
            patched.setattr(training, "draw_curve", draws)
        with pytest.raises(StepDiffError) as refusal:
            trained(run, task=task)
    limit(unlimited)
    message = str(refusal.value)
    assert "\n" not in message and FULL in message
    assert f"no space to write {run / name.removeprefix('new ')}" in message
    files = {"lock.json", "best.json", "metrics.jsonl", "speed.jsonl", "tensorboard", "loss.png"}
    assert {path.name for path in run.iterdir()} <= files | {path.name for path in Run(run).checkpoints()}
    trained(run)
    trained(tmp_path / "whole")
    same_end(run, tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_file_system_during_the_log_ends_in_one_line_and_the_run_resumes_exactly(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, task, schedule = small_disk / "run", SmallTask(), Schedule(100, warmup=2, validate_every=100)
    loss, filler = task.loss, small_disk / "filler"

    def fills_up(batch: int) -> torch.Tensor:
        if batch == 12:
            with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(b"x" * 4096)
        return loss(batch)

    with monkeypatch.context() as patched:
        patched.setattr(task, "loss", fills_up)
        with pytest.raises(StepDiffError) as refusal:
            trained(run, schedule=schedule, task=task)
    assert str(refusal.value).startswith(f"no space to write {run}") and FULL in str(refusal.value)
    assert 12 < len(task.masks) < 100, "the log filled the last page, long before the next checkpoint"
    filler.unlink()
    trained(run, schedule=schedule)
    trained(tmp_path / "whole", schedule=schedule)
    assert_same_weights(run, tmp_path / "whole", 100)
    assert read_metrics(run / "metrics.jsonl") == read_metrics(tmp_path / "whole" / "metrics.jsonl")


def test_a_last_line_that_a_kill_cut_is_dropped_and_a_damaged_line_elsewhere_is_refused_by_number(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = [{"step": 0, "val_score": 0.5}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]
    lines = [json.dumps(record) for record in whole]
    for cut in range(1, len(lines[2])):
        path.write_text("\n".join([*lines[:2], lines[2][:cut]]))
        assert read_metrics(path) == whole[:2]
        assert capsys.readouterr().err == f"{path}: the last line was cut short by a kill; it is dropped\n"
    path.write_text("\n".join(lines))
    assert read_metrics(path) == whole and capsys.readouterr().err == ""
    wrong = ((2, '{"step": 1, "lo'), (1, "\x00" * 20), (3, '{"stap": 2}'), (2, ""), (3, '{"step": "2"}'))
    for number, damaged in wrong:
        path.write_text("".join(f"{damaged if place == number else line}\n" for place, line in enumerate(lines, 1)))
        with pytest.raises(StepDiffError) as refusal:
            read_metrics(path)
        message = str(refusal.value)
        assert message.startswith(f"{path}:{number}: damaged (") and "\n" not in message
        assert "remove that line and run the same command again" in message


def test_a_run_with_a_damaged_line_is_not_resumed_until_the_line_is_removed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(run, schedule=Schedule(4, validate_every=2))
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1][:9] + b"\xff" + lines[1][10:], *lines[2:]]))
    before = path.read_bytes()
    with pytest.raises(StepDiffError, match=r"metrics\.jsonl:2: damaged"):
        trained(run, schedule=Schedule(6, validate_every=2))
    assert path.read_bytes() == before, "no record is lost"
    path.write_bytes(b"".join([lines[0], *lines[2:]]))
    trained(run, schedule=Schedule(6, validate_every=2))
    assert [record["step"] for record in read_metrics(path) if "loss" in record] == [2, 3, 4, 5, 6]


def test_what_was_logged_after_the_checkpoint_that_a_run_resumes_from_is_logged_once(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, -1)
    for step in (1, 2, 3):
        log.add(step, loss=1.0 / step)
    log = TrainingLog(tmp_path, 1)
    log.add(2, loss=0.25, val_ktau=None)
    assert read_metrics(log.path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.25, "val_ktau": None}]


def test_tensorboard_reads_the_events(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TrainingLog(tmp_path, -1)
    for step in (1, 2, 3):
        log.add(step, loss=1.0 / step, val_ktau=None, val_score=0.5)
    log = TrainingLog(tmp_path, 1)  # a resumed run hides steps 2 and 3
    log.add(2, loss=0.25)
    with open(log.events.path, "ab") as file:
        file.write(b"half a record")  # as after a kill
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert set(board.Tags()["scalars"]) == {"loss", "val_score"}
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(1, 1.0), (2, 0.25)]


def test_the_counts_of_a_step_are_those_of_its_batches(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    records = read_metrics(tmp_path / "speed.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    # A step has two batches of three clips, of ten tokens each.
    for name, each in (("steps", 1), ("samples", 6), ("clips", 6), ("tokens", 60)):
        shown = [event.value for event in board.Scalars(f"{name}_per_second")]
        assert shown == pytest.approx([record[f"{name}_per_second"] for record in records])
        assert shown == pytest.approx([each / record["seconds"] for record in records])
    assert all(record["seconds_waited"] == 0 and record["peak_memory_gb"] > 0.01 for record in records)


def test_the_learning_rate_of_each_step_is_logged(tmp_path: Path) -> None:
    trained(tmp_path)
    rates = [record["learning_rate/0"] for record in read_metrics(tmp_path / "metrics.jsonl") if "loss" in record]
    assert rates == [SCHEDULE.learning_rate * rate_factor(SCHEDULE, step) for step in range(6)]


def test_a_step_that_a_run_repeats_is_in_both_files_once(tmp_path: Path) -> None:
    trained(tmp_path, schedule=replace(SCHEDULE, steps=4, validate_every=2))
    for path in Run(tmp_path).checkpoints():
        if path.name == "checkpoint-000004":
            shutil.rmtree(path)
    trained(tmp_path)
    for name in ("metrics.jsonl", "speed.jsonl"):
        steps = [record["step"] for record in read_metrics(tmp_path / name) if "val_score" not in record]
        assert steps == [1, 2, 3, 4, 5, 6]


def pixels(path: Path, colour: str) -> int:
    """Return how many pixels of a picture have a colour."""
    from PIL import Image

    return int((np.asarray(Image.open(path).convert("RGB")) == ImageColor.getrgb(colour)).all(axis=2).sum())


@pytest.mark.parametrize("steps", [6, 30, 2000])
def test_the_loss_of_each_step_is_visible_in_the_curve(tmp_path: Path, steps: int) -> None:
    noise = np.random.default_rng(0).standard_normal(steps).tolist()
    records = [{"step": step, "loss": 2 + noise[step - 1]} for step in range(1, steps + 1)]
    draw_curve(records, tmp_path / "loss.png", "run")
    raw, mean = (pixels(tmp_path / "loss.png", colour) for colour in (RAW, COLOURS[0]))
    assert raw > 200 and (mean > 0) == (steps > 40)  # the mean of one step would cover it
    assert pixels(tmp_path / "loss.png", "#ffffff") > 100_000


def test_the_running_mean_does_not_lag() -> None:
    steps = np.arange(1, 11)
    middles, means = running_mean(steps, 3.0 * steps, 4)
    assert np.allclose(means, 3 * middles) and middles[0] == 2.5


def test_the_loss_curve_is_drawn_at_every_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(training, "draw_curve", lambda records, *given: drawn.append(records[-1]["step"]))
    trained(tmp_path)
    assert drawn == [2, 4, 6]
