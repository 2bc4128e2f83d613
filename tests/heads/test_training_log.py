"""The log, the curve and the trackers of a training, and the files of its checkpoints."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from heads import train
from heads.training.log import TrainingLog, hook, read_metrics
from heads.training.recipe import Schedule
from stepdiff_core.errors import StepDiffError
from tests.refusals import refuses

from .conftest import Capture, recipe
from .runs import SmallTask, assert_same_weights, train_small


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.full
def test_a_run_resumes_exactly_after_a_full_file_system(small_disk: Path, tmp_path: Path) -> None:
    run, schedule, filler = (
        small_disk / "run",
        Schedule(100, warmup=2, validate_every=100),
        small_disk / "filler",
    )

    class Filling(SmallTask):
        def loss(self, batch: int, following: int | None = None) -> torch.Tensor:
            if batch == 12:
                with (
                    open(filler, "wb", buffering=0) as file,
                    pytest.raises(OSError, match="No space left"),
                ):
                    while True:
                        file.write(b"x" * 4096)
            return super().loss(batch)

    task = Filling()
    with pytest.raises(StepDiffError, match=f"^no space to write {run}") as refusal:
        train_small(run, schedule=schedule, task=task)
    assert "nothing committed is lost" in str(refusal.value) and "\n" not in str(refusal.value)
    assert 12 < len(task.masks) < 100, (
        "the log filled the last page, long before the next checkpoint"
    )
    filler.unlink()
    train_small(run, schedule=schedule)
    train_small(tmp_path / "whole", schedule=schedule)
    assert_same_weights(run, tmp_path / "whole", 100)
    assert read_metrics(run / "metrics.jsonl") == read_metrics(tmp_path / "whole" / "metrics.jsonl")


def test_a_cut_last_line_is_dropped_and_a_damaged_one_refused(
    tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = [{"step": 0, "val_score": 0.5}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]
    lines = [json.dumps(record) for record in whole]
    for cut in range(1, len(lines[2])):
        path.write_text("\n".join([*lines[:2], lines[2][:cut]]))
        assert read_metrics(path) == whole[:2]
        assert "the last line was cut short by a kill" in capsys.readouterr().err
    path.write_text("\n".join(lines))
    assert read_metrics(path) == whole and capsys.readouterr().err == ""
    wrong = (
        (2, '{"step": 1, "lo'),
        (1, "\x00" * 20),
        (3, '{"stap": 2}'),
        (2, ""),
        (3, '{"step": "2"}'),
    )
    for number, damaged in wrong:
        path.write_text(
            "".join(
                f"{damaged if place == number else line}\n" for place, line in enumerate(lines, 1)
            )
        )
        with pytest.raises(StepDiffError, match=rf"metrics\.jsonl:{number}: damaged"):
            read_metrics(path)


def test_what_was_logged_after_a_checkpoint_is_logged_once(tmp_path: Path) -> None:
    """In the file of metrics and in the events that TensorBoard reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TrainingLog(tmp_path, -1)
    for step in (1, 2, 3):
        log.add(step, loss=1.0 / step, val_ktau=None, val_score=0.5)
    log = TrainingLog(tmp_path, 1)
    log.add(2, loss=0.25)
    first = {"step": 1, "loss": 1.0, "val_ktau": None, "val_score": 0.5}
    assert read_metrics(log.path) == [first, {"step": 2, "loss": 0.25}]
    with open(log.events_path, "ab") as file:
        file.write(b"half a record")  # as after a kill
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert set(board.Tags()["scalars"]) == {"loss", "val_score"}
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(1, 1.0), (2, 0.25)]


def test_the_counts_of_a_step_are_those_of_its_batches(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_small(tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    records = read_metrics(tmp_path / "speed.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    # A step has two batches of three clips, of ten tokens each.
    for name, each in (("steps", 1), ("samples", 6), ("clips", 6), ("tokens", 60)):
        shown = [event.value for event in board.Scalars(f"{name}_per_second")]
        assert shown == pytest.approx([record[f"{name}_per_second"] for record in records])
        assert shown == pytest.approx([each / record["seconds"] for record in records])
    assert all(
        record["seconds_waited"] == 0 and record["peak_memory_gb"] > 0.01 for record in records
    )


FUNCTION = """
seen = []
def log(folder, step, figures):
    seen.append((folder.name, step, figures))
"""


def test_log_to_calls_a_function_with_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_tracker.py").write_text(FUNCTION)
    monkeypatch.syspath_prepend(tmp_path)
    log = TrainingLog(tmp_path / "run", -1, hook("my_tracker:log"))
    log.step(1, {"loss": 1.0}, {"seconds": 2.0})
    log.add(1, val_score=0.5, val_ktau=None)
    assert sys.modules["my_tracker"].seen == [
        ("run", 1, {"loss": 1.0, "seconds": 2.0}),
        ("run", 1, {"val_score": 0.5}),
    ]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (
            "no_such_module:log",
            "--log-to no_such_module:log cannot be imported here: no module no_such_module",
        ),
        ("json:no_such", "--log-to json:no_such: no such function; give MODULE:FUNCTION"),
    ],
)
def test_a_function_that_does_not_exist_trains_nothing(
    name: str, why: str, world: Path, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    refuses(
        train.main,
        ["--config", str(recipe(world, tiny_lm, tmp_path / "run")), "--log-to", name],
        capsys,
        why,
    )
    assert not (tmp_path / "run").exists()
