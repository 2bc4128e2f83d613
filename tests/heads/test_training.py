"""Guarantees of heads.training.loop, heads.training.checkpoint, heads.data.paired_qa."""

import itertools
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from safetensors import SafetensorError

from common.errors import StepDiffError
from common.io.locks import locked
from heads import ask, train
from heads.data.paired_qa import read_paired_qa
from heads.methods.stepdiff import StepDiff
from heads.training import checkpoint
from heads.training.checkpoint import Run
from heads.training.log import read_metrics
from heads.training.loop import rate_factor
from heads.training.recipe import Schedule
from heads.training.video_task import VideoTask
from store import Store

from .conftest import recipe
from .ends import assert_same_weights, weights
from .small_task import unsealed


def test_the_learning_rate_warms_up_stays_and_decays() -> None:
    schedule = Schedule(100, warmup=10, decay=0.25)
    factors = [rate_factor(schedule, step) for step in range(100)]
    assert factors[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert factors[10:76] == pytest.approx([1.0] * 66)
    assert all(a > b > 0 for a, b in itertools.pairwise(factors[75:]))
    assert rate_factor(schedule, 88) == pytest.approx(0.5, abs=0.04)
    cosine = [0.5 * (1 + math.cos(math.pi * step / 100)) for step in range(100)]
    assert [rate_factor(Schedule(100, warmup=0, decay=1.0), step) for step in range(100)] == pytest.approx(cosine)
    assert {rate_factor(Schedule(100, warmup=0), step) for step in range(100)} == {1.0}


def test_a_killed_run_resumed_ends_with_the_same_weights(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "heads.train", "--config", str(recipe(world, tiny_lm, out))]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint-000002").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert (out / "checkpoint-000002").exists() and not (out / "checkpoint-000006").exists()
    assert train.main(command[3:]) == 0
    assert_same_weights(out, trained)
    steps = [r["step"] for r in read_metrics(out / "metrics.jsonl") if "loss" in r]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_killed_run_resumes_from_a_checkpoint_that_was_not_validated(
    world: Path, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out, loss = tmp_path / "killed", VideoTask.loss
    schedule = {"steps": 6, "accumulate": 2, "warmup": 2, "validate_every": 6}
    whole = recipe(world, tiny_lm, tmp_path / "whole", schedule=schedule)
    killed = recipe(world, tiny_lm, out, schedule=schedule | {"save_every": 2})

    def dies(task: VideoTask, batch: int) -> torch.Tensor:
        if batch == 10:
            raise KeyboardInterrupt
        return loss(task, batch)

    with monkeypatch.context() as patched:
        patched.setattr(VideoTask, "loss", dies)
        with pytest.raises(KeyboardInterrupt):
            train.main(["--config", str(killed)])
    assert [path.name for path in Run(out).checkpoints()] == ["checkpoint-000000", "checkpoint-000004"]
    capsys.readouterr()
    assert train.main(["--config", str(killed)]) == train.main(["--config", str(whole)]) == 0
    assert "killed: resumes from checkpoint-000004" in capsys.readouterr().err
    assert_same_weights(out, tmp_path / "whole")
    assert [r["step"] for r in read_metrics(out / "metrics.jsonl") if "val_score" in r] == [0, 6]


def test_a_non_finite_loss_ends_the_run_before_it_reaches_any_weight(
    world: Path, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    loss, out = VideoTask.loss, tmp_path / "run"
    monkeypatch.setattr(VideoTask, "loss", lambda task, batch: loss(task, batch) * (math.nan if batch > 7 else 1))
    assert train.main(["--config", str(recipe(world, tiny_lm, out))]) == 2
    assert "step 5 has loss nan" in capsys.readouterr().err.splitlines()[-1]
    assert max(r["step"] for r in read_metrics(out / "metrics.jsonl")) == 4
    assert all(np.isfinite(value).all() for value in weights(out, 4).values())


def test_a_checkpoint_that_cannot_be_written_is_reported_and_leaves_no_file(
    world: Path, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    save, out = checkpoint.save_file, tmp_path / "run"

    def full(tensors: dict, path: Path) -> None:
        if (out / "checkpoint-000002").exists() and path.name == "optimizer.safetensors":
            path.write_bytes(b"half")
            raise SafetensorError("No space left on device (os error 28)")
        save(tensors, path)

    command = ["--config", str(recipe(world, tiny_lm, out))]
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", full)
        assert train.main(command) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "checkpoint-000004: cannot be written (No space left" in message
    assert not list(out.glob(".checkpoint*")) and not (out / "checkpoint-000004").exists()
    assert train.main(command) == 0
    assert "resumes from checkpoint-000002" in capsys.readouterr().err


def test_a_clip_without_features_is_reported_before_anything_trains(
    world: Path, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [json.loads(line) for line in (world / "diffrank_val.jsonl").read_text().splitlines()]
    rows[1]["targets"][2] = "no_0_1"
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    validation = {"diffmcq": str(world / "diffmcq_val.jsonl"), "diffrank": str(tmp_path / "val.jsonl"), "rows": 2}
    assert train.main(["--config", str(recipe(world, tiny_lm, tmp_path / "run", validation=validation))]) == 2
    message = capsys.readouterr().err
    assert "no_0_1: no visual features in the store (unknown)" in message and "warm start" not in message
    assert not (tmp_path / "run").exists()


def test_a_finished_run_does_nothing(trained: Path, world: Path, tiny_lm: str, capsys: pytest.CaptureFixture) -> None:
    before, named = weights(trained, 6), (trained / "best.json").stat().st_mtime_ns
    assert train.main(["--config", str(recipe(world, tiny_lm, trained)), "--json"]) == 0
    assert (trained / "best.json").stat().st_mtime_ns == named, "else make would score the head again"
    record = json.loads(capsys.readouterr().out)
    assert record.keys() == {"step", "score"}
    assert all(np.array_equal(v, before[k]) for k, v in weights(trained, 6).items())


def test_the_best_checkpoint_is_named_the_earliest_of_equals(trained: Path) -> None:
    scores = [(r["val_score"], -r["step"]) for r in read_metrics(trained / "metrics.jsonl") if "val_score" in r]
    assert [step for _, step in scores] == [0, -2, -4, -6]
    scores = scores[1:]
    best = json.loads((trained / "best.json").read_text())
    assert (best["score"], -best["step"]) == max(scores)
    assert Run(trained).best().name == f"checkpoint-{best['step']:06d}"
    kept = {path.name for path in Run(trained).checkpoints()}
    assert kept == {Run(trained).best().name, "checkpoint-000006"}
    assert (trained / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((trained / "tensorboard").iterdir())


def test_only_the_runs_own_checkpoints_are_listed_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for name in ("checkpoint-999900", "checkpoint-1000000", "checkpoint-000100-mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-000200").write_text("no folder")
    run = Run(tmp_path)
    assert [path.name for path in run.checkpoints()] == ["checkpoint-999900", "checkpoint-1000000"]
    run.name_best(tmp_path / "checkpoint-1000000", 1_000_000, 0.5)
    run.prune()
    assert {path.name for path in tmp_path.iterdir()} == {
        "best.json", "checkpoint-1000000", "checkpoint-000100-mine", "checkpoint-000200"
    }  # fmt: skip


def test_two_trainings_cannot_write_one_folder_at_the_same_time(
    trained: Path, world: Path, tiny_lm: str, capsys: pytest.CaptureFixture
) -> None:
    with locked(trained / "lock.json", wait=False):
        assert train.main(["--config", str(recipe(world, tiny_lm, trained))]) == 2
    assert "is being written by process" in capsys.readouterr().err


def test_a_run_whose_paired_qa_has_changed_is_not_resumed(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    lineage = json.loads((run / "lineage.json").read_text())
    (pairqa,) = [file for file in lineage["data"] if "pairqa" in file]
    lineage["data"][pairqa] = "1" * 64
    (unsealed(run) / "lineage.json").write_text(json.dumps(lineage))
    (run / "recipe.yaml").unlink()
    assert train.main(["--config", str(recipe(world, tiny_lm, run))]) == 2
    assert f"its training began with another {pairqa}" in capsys.readouterr().err


def test_the_checkpoint_before_the_first_step_is_named_only_until_a_later_one_is_validated(
    world: Path, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([0.9, 0.5, 0.7, 0.7])
    named = []

    def validate(task: VideoTask) -> dict[str, float | None]:
        named.append(Run(out).best().name if (out / "best.json").exists() else None)
        return {"score": next(figures)}

    monkeypatch.setattr(VideoTask, "validate", validate)
    out = tmp_path / "run"
    assert train.main(["--config", str(recipe(world, tiny_lm, out, lora=None))]) == 0
    assert named == [None, "checkpoint-000000", "checkpoint-000002", "checkpoint-000004"]
    assert json.loads((out / "best.json").read_text()) == {"checkpoint": "checkpoint-000004", "step": 4, "score": 0.7}


@pytest.mark.parametrize("killed_at", [2, 4])
def test_a_best_checkpoint_that_a_killed_run_did_not_name_is_named_by_the_next(
    world: Path, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """Killed between the checkpoint and best.json, in the middle of a run and at its end."""
    scores = {0: 0.1, 2: 0.9 if killed_at == 2 else 0.2, 4: 0.8}
    steps = iter([*range(0, killed_at + 1, 2), *range(killed_at + 2, 5, 2)])
    monkeypatch.setattr(VideoTask, "validate", lambda task: {"score": scores[next(steps)]})
    name_best = Run.name_best

    def dies(run: Run, checkpoint: Path, step: int, score: float) -> None:
        if step == killed_at:
            raise KeyboardInterrupt
        name_best(run, checkpoint, step, score)

    out = tmp_path / "run"
    schedule = {"steps": 4, "validate_every": 2}
    command = ["--config", str(recipe(world, tiny_lm, out, schedule=schedule, lora=None))]
    with monkeypatch.context() as patched:
        patched.setattr(Run, "name_best", dies)
        with pytest.raises(KeyboardInterrupt):
            train.main(command)
    assert train.main(command) == 0
    named = json.loads((out / "best.json").read_text())
    assert (named["step"], named["score"]) == (killed_at, scores[killed_at])
    assert Run(out).best().is_dir()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("best.json", '{"checkpoint": "../elsewhere/checkpoint-000006"}', "names no checkpoint of this folder"),
        ("best.json", '{"checkpoint": ["checkpoint-000006"]}', "names no checkpoint of this folder"),
        ("best.json", '{"checkpoint": ', "best.json: damaged"),
        ("recipe.yaml", "video_lm: {schedule: {steps: many}}", "recipe.yaml: damaged, or of another version"),
        ("recipe.yaml", "video_lm: {projector: {leave_out: 0.5}}", "recipe.yaml: damaged, or of another version"),
        ("best.json", "[]", "names no checkpoint of this folder"),
        ("{best}/head.safetensors", "not tensors", "head.safetensors: missing or damaged"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    trained: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, content: str, message: str
) -> None:
    run = tmp_path / "run"
    unsealed(shutil.copytree(trained, run))
    (run / name.format(best=Run(run).best().name)).write_text(content)
    asked = ["--store", str(world / "features"), "--head", str(run), "--reference", "a", "--candidate", "b", "Why?"]
    assert ask.main(asked) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "no SHA256SUMS" in lines[0] and len(lines) == 2 and message in lines[1] and str(run) in lines[1]


def test_training_changes_only_projector_and_lora(trained: Path) -> None:
    names = weights(trained, 6)
    assert names and all(name.startswith("projector.") or "lora_" in name for name in names)


def test_a_model_that_orders_no_row_has_no_tau_and_no_credit(
    world: Path, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(StepDiff, "rank", lambda self, rows: [[0.0] * len(row.targets) for row in rows])
    out = tmp_path / "constant"
    schedule = {"steps": 1, "validate_every": 1}
    assert train.main(["--config", str(recipe(world, tiny_lm, out, schedule=schedule))]) == 0
    first = next(r for r in read_metrics(out / "metrics.jsonl") if "val_score" in r)
    assert first["val_ktau"] is None and first["val_score"] == first["val_accuracy"] / 2
    assert "ktau -" in capsys.readouterr().err


def test_another_recipe_in_the_same_folder_is_refused(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = recipe(world, tiny_lm, tmp_path / "other", batch=2)
    assert train.main(["--config", str(other), "--out", str(trained)]) == 2
    assert "another recipe (video_lm.batch is 3 there and 2 here" in capsys.readouterr().err


def test_a_run_of_a_version_without_an_option_resumes_and_may_save_more_often(
    trained: Path,
    world: Path,
    tiny_lm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    run, schedule = tmp_path / "run", {"steps": 6, "accumulate": 2, "warmup": 2, "validate_every": 2}
    unsealed(shutil.copytree(trained, run))
    made = yaml.safe_load((run / "recipe.yaml").read_text()) | {"out": str(run)}
    del made["video_lm"]["schedule"]["save_every"]
    (run / "recipe.yaml").write_text(yaml.safe_dump(made))
    (run / "checkpoint-000006").rename(run / "checkpoint-000004")
    state = json.loads((run / "checkpoint-000004/state.json").read_text())
    (run / "checkpoint-000004/state.json").write_text(json.dumps(state | {"step": 4, "best_step": 2}))
    again = recipe(world, tiny_lm, run, schedule=schedule | {"save_every": 1})
    saved, save = [], Run.save

    def counted(own: Run, step: int, *rest: Any) -> Path:
        saved.append(step)
        return save(own, step, *rest)

    monkeypatch.setattr(Run, "save", counted)
    assert train.main(["--config", str(again)]) == 0
    assert "run: resumes from checkpoint-000004" in capsys.readouterr().err and saved == [5, 6]


def test_the_loss_falls_and_options_work(world: Path, tiny_lm: str, tmp_path: Path) -> None:
    out = tmp_path / "long"
    schedule = {"steps": 40, "warmup": 2, "validate_every": 40, "learning_rate": 0.01, "decay": 1.0}
    more = {"schedule": schedule, "packed": False, "precision": "float32", "lora": None}
    assert train.main(["--config", str(recipe(world, tiny_lm, out, **more))]) == 0
    losses = [r["loss"] for r in read_metrics(out / "metrics.jsonl") if "loss" in r]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2
    assert all(name.startswith("projector.") for name in weights(out, 40))


def test_no_clip_of_the_val_or_test_split_trains(world: Path) -> None:
    catalog = Store.open(world / "features").catalog("clips").frame()
    leaked = catalog.filter(pl.col("split") == "test")["key"][0]
    path = world / "leaked.jsonl"
    first = (world / "pairqa.jsonl").read_text().split("\n")[0]
    row = json.loads(first) | {"candidate": leaked}
    path.write_text(first + "\n" + json.dumps(row) + "\n")
    refused = f"1 clips are not of split train and would train, e.g. {leaked}"
    with pytest.raises(StepDiffError, match=refused):
        read_paired_qa(str(path), catalog)
    unsplit = catalog.with_columns(split=pl.when(pl.col("key") != leaked).then("split"))
    with pytest.raises(StepDiffError, match=refused):
        read_paired_qa(str(path), unsplit)
    for unknown in (catalog.drop("split"), catalog.with_columns(split=pl.lit(None, pl.String))):
        assert len(read_paired_qa(str(path), unknown)) == 2, "annotate.pairs makes pairs of such catalogs too"
    path.write_text(first + "\n{}\n")
    with pytest.raises(StepDiffError, match=":2: not a PairQA row"):
        read_paired_qa(str(path), catalog)
