"""The log, the curve and the trackers of a training, and the files of its checkpoints."""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from heads import tracking, train
from heads.training.log import TrainingLog, read_metrics
from heads.training.recipe import Schedule
from stepdiff.common.errors import StepDiffError

from .conftest import Capture, recipe
from .runs import SmallTask, assert_same_weights, train_small


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


@pytest.mark.full
def test_a_full_file_system_during_the_log_ends_in_one_line_and_the_run_resumes_exactly(
    small_disk: Path, tmp_path: Path
) -> None:
    run, schedule, filler = small_disk / "run", Schedule(100, warmup=2, validate_every=100), small_disk / "filler"

    class Filling(SmallTask):
        def loss(self, batch: int, following: int | None = None) -> torch.Tensor:
            if batch == 12:
                with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                    while True:
                        file.write(b"x" * 4096)
            return super().loss(batch)

    task = Filling()
    with pytest.raises(StepDiffError, match=f"^no space to write {run}") as refusal:
        train_small(run, schedule=schedule, task=task)
    assert "nothing committed is lost" in str(refusal.value) and "\n" not in str(refusal.value)
    assert 12 < len(task.masks) < 100, "the log filled the last page, long before the next checkpoint"
    filler.unlink()
    train_small(run, schedule=schedule)
    train_small(tmp_path / "whole", schedule=schedule)
    assert_same_weights(run, tmp_path / "whole", 100)
    assert read_metrics(run / "metrics.jsonl") == read_metrics(tmp_path / "whole" / "metrics.jsonl")


def test_a_last_line_that_a_kill_cut_is_dropped_and_a_damaged_line_elsewhere_is_refused_by_number(
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
    wrong = ((2, '{"step": 1, "lo'), (1, "\x00" * 20), (3, '{"stap": 2}'), (2, ""), (3, '{"step": "2"}'))
    for number, damaged in wrong:
        path.write_text("".join(f"{damaged if place == number else line}\n" for place, line in enumerate(lines, 1)))
        with pytest.raises(StepDiffError, match=rf"metrics\.jsonl:{number}: damaged"):
            read_metrics(path)


def test_what_was_logged_after_the_checkpoint_that_a_run_resumes_from_is_logged_once(tmp_path: Path) -> None:
    """In the file of metrics and in the events that TensorBoard reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TrainingLog(tmp_path, -1)
    for step in (1, 2, 3):
        log.add(step, loss=1.0 / step, val_ktau=None, val_score=0.5)
    log = TrainingLog(tmp_path, 1)
    log.add(2, loss=0.25)
    first = {"step": 1, "loss": 1.0, "val_ktau": None, "val_score": 0.5}
    assert read_metrics(log.path) == [first, {"step": 2, "loss": 0.25}]
    with open(log.events.path, "ab") as file:
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
    assert all(record["seconds_waited"] == 0 and record["peak_memory_gb"] > 0.01 for record in records)


def test_a_tracker_whose_library_is_missing_is_refused_before_anything_trains(
    world: Path, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    path = recipe(world, tiny_lm, tmp_path / "run")
    assert train.main(["--config", str(path), "--log-to", "wandb", "mlflow"]) == 2
    message = "error: --log-to wandb mlflow: the library is not installed; run pip install 'stepdiff[trackers]'"
    assert capsys.readouterr().err.startswith(message) and not (tmp_path / "run").exists()


class Broken:
    """A tracker that fails in its second step and when it is closed."""

    errors: tuple[type[Exception], ...] = (ConnectionError,)

    def __init__(self, run: str, title: str, recipe: dict, ids: dict[str, str]) -> None:
        self.steps: list[int] = []

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.steps.append(step)
        if step == 2:
            raise ConnectionError("no answer\nfrom the server")

    def close(self) -> None:
        raise ConnectionError("no answer\nat the end")


def test_a_tracker_that_fails_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(tracking.KINDS, "wandb", Broken)
    monkeypatch.setattr(tracking, "find_spec", lambda name: True)
    log = TrainingLog(tmp_path, -1, ["wandb"])
    (broken,) = log.trackers._open.values()
    for step in (1, 2, 3):
        log.step(step, {"loss": 1.0}, {"seconds": 2.0})
    log.close()
    assert isinstance(broken, Broken) and broken.steps == [1, 2]
    assert [record["step"] for record in read_metrics(log.path)] == [1, 2, 3]
    shown = capsys.readouterr().err
    assert shown.count("wandb: no answer from the server; it gets no more figures") == 1
    assert "at the end" not in shown, "it failed before"
    log = TrainingLog(tmp_path, 3, ["wandb"])
    log.close()
    assert "wandb: no answer at the end; its run is not marked as finished" in capsys.readouterr().err


def write_resumed(folder: Path, name: str) -> dict[str, str]:
    """Log three steps, resume after the second, and log the third and a fourth; return the ids of trackers.json."""
    (folder / "recipe.yaml").write_text("seed: 3\n")
    for first, last in ((1, 3), (3, 4)):
        log = TrainingLog(folder, first - 1, [name])
        for step in range(first, last + 1):
            log.step(step, {"loss": 1 / step, "learning_rate/0": 0.1}, {"samples_per_second": 2.0 * step})
        log.add(last, val_score=0.5, val_ktau=None)
        log.close()
    return dict(json.loads((folder / "trackers.json").read_text()))


@pytest.mark.full
def test_mlflow_has_every_step_of_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    ids = write_resumed(tmp_path, "mlflow")
    client = mlflow.MlflowClient()
    run = client.get_run(ids["mlflow"])
    assert run.info.status == "FINISHED" and run.info.run_name == tmp_path.name
    losses = {metric.step: metric.value for metric in client.get_metric_history(ids["mlflow"], "loss")}
    assert losses == pytest.approx({step: 1 / step for step in (1, 2, 3, 4)})
    assert run.data.metrics["samples_per_second"] == 8 and run.data.metrics["val_score"] == 0.5
    assert len(client.search_runs([run.info.experiment_id])) == 1


@pytest.mark.full
def test_wandb_writes_offline_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    ids = write_resumed(tmp_path, "wandb")
    files, end = [], time.monotonic() + 60  # a process of wandb's own writes them
    while len(files) < 2 and time.monotonic() < end:
        written = tmp_path.glob(f"wandb/offline-run-*/run-{ids['run']}.wandb")
        files = [file for file in written if b"val_score" in file.read_bytes()]
        time.sleep(0.1)
    assert len(files) == 2


@pytest.mark.full
def test_trackio_has_every_step_of_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage as storage

    ids = write_resumed(tmp_path, "trackio")
    (run,) = trackio.Api().runs("stepdiff")
    assert run.name == f"{tmp_path.name}-{ids['run']}"
    logged = {entry["step"]: entry["loss"] for entry in storage.get_logs("stepdiff", run.name) if "loss" in entry}
    assert logged == pytest.approx({step: 1 / step for step in (1, 2, 3, 4)})
