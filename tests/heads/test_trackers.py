"""Guarantees of heads/tracking/trackers.py, with the real libraries where they are installed, without network."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import StepDiffError
from heads import train
from heads.tracking import trackers
from heads.training.log import TrainingLog, read_metrics
from heads.training.recipe import TrainOptions, differences

from .conftest import recipe


def test_a_tracker_whose_library_is_missing_is_refused_before_anything_trains(
    world: Path, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    path = recipe(world, tiny_lm, tmp_path / "run")
    assert train.main(["--config", str(path), "--log-to", "wandb", "mlflow"]) == 2
    message = "error: --log-to wandb mlflow: the library is not installed; run pip install 'stepdiff[trackers]'"
    assert capsys.readouterr().err.startswith(message) and not (tmp_path / "run").exists()


class Broken:
    """A tracker that fails in its second step."""

    errors: tuple[type[Exception], ...] = (ConnectionError,)

    def __init__(self, run: str, title: str, recipe: dict, ids: dict[str, str]) -> None:
        self.steps: list[int] = []

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.steps.append(step)
        if step == 2:
            raise ConnectionError("no answer\nfrom the server")

    def close(self) -> None:
        raise AssertionError("it failed before")


def test_a_tracker_that_fails_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(trackers.KINDS, "wandb", Broken)
    monkeypatch.setattr(trackers, "find_spec", lambda name: True)
    log = TrainingLog(tmp_path, -1, ["wandb"])
    (broken,) = log.trackers._open.values()
    for step in (1, 2, 3):
        log.step(step, {"loss": 1.0}, {"seconds": 2.0})
    log.close()
    assert isinstance(broken, Broken) and broken.steps == [1, 2]
    assert [record["step"] for record in read_metrics(log.path)] == [1, 2, 3]
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("wandb: no answer from the server; it gets no more figures") == 1


def test_a_tracker_that_cannot_be_opened_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: object) -> Broken:
        raise RuntimeError("not logged in\nrun login")

    monkeypatch.setitem(trackers.KINDS, "wandb", fails)  # type: ignore[arg-type]
    monkeypatch.setattr(trackers, "find_spec", lambda name: True)
    with pytest.raises(StepDiffError, match="--log-to wandb: not logged in run login; set it up, or leave the option"):
        TrainingLog(tmp_path, -1, ["wandb"])


def test_trackers_do_not_make_another_recipe() -> None:
    options = TrainOptions(out="out", store="store")
    assert differences(options, replace(options, log_to=("mlflow",))) == []


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


def test_trackio_has_every_step_of_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage as storage

    ids = write_resumed(tmp_path, "trackio")
    (run,) = trackio.Api().runs("stepdiff")
    assert run.name == f"{tmp_path.name}-{ids['run']}"
    logged = {entry["step"]: entry["loss"] for entry in storage.get_logs("stepdiff", run.name) if "loss" in entry}
    assert logged == pytest.approx({step: 1 / step for step in (1, 2, 3, 4)})
