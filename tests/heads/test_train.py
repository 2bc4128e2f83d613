"""heads.train: what trains, resuming to the bit after a kill, starts from other runs, and
refusals."""

import dataclasses
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
from safetensors.numpy import load_file

from heads import ask, evaluate, train
from heads.data.paired_qa import read_paired_qa
from heads.models.language_model import LanguageModel, Lora
from heads.training.checkpoint import Run
from heads.training.log import read_metrics
from heads.training.loop import rate_factor
from heads.training.recipe import (
    HardNegativeOptions,
    ProjectorOptions,
    Schedule,
    TrainOptions,
    read_recipe,
)
from heads.training.run_record import disclosure, load_video_lm
from heads.training.video_task import VideoTask
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.locks import locked
from store import Feature, Provenance, Store
from store.__main__ import main
from store.snapshots.snapshot import read_snapshot
from tests.refusals import refuses

from .conftest import SYSTEMS, Capture, read_rows, recipe, write_rows
from .runs import (
    SmallTask,
    assert_same_weights,
    change_lineage,
    change_state,
    interrupted_at,
    train_small,
    unsealed,
    weights,
)


def test_the_learning_rate_warms_up_stays_and_decays() -> None:
    schedule = Schedule(100, warmup=10, decay=0.25)
    factors = [rate_factor(schedule, step) for step in range(100)]
    assert factors[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert factors[10:76] == pytest.approx([1.0] * 66)
    assert all(a > b > 0 for a, b in itertools.pairwise(factors[75:]))
    assert rate_factor(schedule, 88) == pytest.approx(0.5, abs=0.04)
    cosine = [0.5 * (1 + math.cos(math.pi * step / 100)) for step in range(100)]
    assert [
        rate_factor(Schedule(100, warmup=0, decay=1.0), step) for step in range(100)
    ] == pytest.approx(cosine)
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


def test_a_clip_without_features_trains_nothing(
    world: Path, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    rows = read_rows(world / "diffrank_val.jsonl")
    rows[1]["targets"][2] = "no_0_1"
    ranks = write_rows(tmp_path / "val.jsonl", rows)
    validation = {"diffmcq": str(world / "diffmcq_val.jsonl"), "diffrank": ranks, "rows": 2}
    command = ["--config", str(recipe(world, tiny_lm, tmp_path / "run", validation=validation))]
    refuses(train.main, command, capsys, "no_0_1: no visual features in the store (unknown)")
    assert not (tmp_path / "run").exists()


def test_clips_without_features_are_left_out_if_told(
    world: Path, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    """Pairs, and rows that validate; without --skip-missing the message has the recorded reason and
    both remedies."""
    shutil.copytree(world, tmp_path / "world")
    made = recipe(tmp_path / "world", tiny_lm, tmp_path / "run")
    store = Store.open(tmp_path / "world" / "features")
    with store.lock():
        store.catalog("clips").append(
            pl.DataFrame({"key": ["broken"], "video": ["broken.mp4"], "split": ["train"]})
        )
        (view := store.view("clips", "visual")).resize()
        nothing = {
            name: np.zeros((0, *feature.shape), np.float32)
            for name, feature in view.features.items()
        }
        view.write_shard(1, np.array([], int), nothing, {24: "no video stream"})
    rows = read_rows(tmp_path / "world/pairqa.jsonl")
    write_rows(tmp_path / "world/pairqa.jsonl", [*rows, rows[0] | {"reference": "broken"}])
    why = (
        "broken: no visual features in the store, python -m featurize recorded: no video stream; "
        "replace the file"
    )
    refuses(
        train.main,
        ["--config", str(made)],
        capsys,
        why,
        "--retry-failed",
        "leave the 1 clips",
        "--skip-missing",
    )
    first = read_rows(tmp_path / "world/diffrank_val.jsonl")[0]
    validating = [first, first | {"targets": ["broken"], "scores": [1]}]
    write_rows(tmp_path / "world/diffrank_val.jsonl", validating)
    assert train.main(["--config", str(made), "--skip-missing"]) == 0
    assert "run: hold-out, pairs: 1 of 133 dropped (1 without features)" in capsys.readouterr().err
    sources = json.loads((tmp_path / "run/lineage.json").read_text())["hold_out"]["sources"]
    assert sources["pairs"]["without features"] == 1


def test_a_finished_run_does_nothing(
    trained: Path, world: Path, tiny_lm: str, capsys: Capture
) -> None:
    before, named = weights(trained, 6), (trained / "best.json").stat().st_mtime_ns
    assert train.main(["--config", str(recipe(world, tiny_lm, trained)), "--json"]) == 0
    assert (trained / "best.json").stat().st_mtime_ns == named, (
        "else make would score the head again"
    )
    record = json.loads(capsys.readouterr().out)
    assert record.keys() == {"step", "score"}
    assert all(np.array_equal(v, before[k]) for k, v in weights(trained, 6).items())


def test_the_best_and_the_last_checkpoint_are_kept_with_the_logs(trained: Path) -> None:
    scores = {
        r["step"]: r["val_score"]
        for r in read_metrics(trained / "metrics.jsonl")
        if "val_score" in r
    }
    assert list(scores) == [0, 2, 4, 6]
    best = json.loads((trained / "best.json").read_text())
    assert best["score"] == max(scores[step] for step in (2, 4, 6)) == scores[best["step"]]
    kept = {path.name for path in Run(trained).checkpoints()}
    assert kept == {f"checkpoint-{best['step']:06d}", "checkpoint-000006"}
    assert (trained / "loss.png").read_bytes().startswith(b"\x89PNG") and list(
        (trained / "tensorboard").iterdir()
    )


def test_two_trainings_cannot_write_one_folder_at_the_same_time(
    trained: Path, world: Path, tiny_lm: str, capsys: Capture
) -> None:
    with locked(trained / "lock.json", wait=False):
        command = ["--config", str(recipe(world, tiny_lm, trained))]
        refuses(train.main, command, capsys, "is being written by process")


def test_another_recipe_in_the_same_folder_is_refused(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    other = recipe(world, tiny_lm, tmp_path / "other", batch=2)
    command = ["--config", str(other), "--out", str(trained)]
    refuses(train.main, command, capsys, "another recipe (video_lm.batch is 3 there and 2 here")


@pytest.mark.full
def test_a_resumed_run_may_save_more_often(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    run, schedule = (
        tmp_path / "run",
        {"steps": 6, "accumulate": 2, "warmup": 2, "validate_every": 2},
    )
    unsealed(shutil.copytree(trained, run))
    made = yaml.safe_load((run / "recipe.yaml").read_text()) | {"out": str(run)}
    del made["video_lm"]["schedule"]["save_every"]
    (run / "recipe.yaml").write_text(yaml.safe_dump(made))
    (run / "checkpoint-000006").rename(run / "checkpoint-000004")
    change_state(run / "checkpoint-000004", step=4, best_step=2)
    again = recipe(world, tiny_lm, run, schedule=schedule | {"save_every": 1})
    assert train.main(["--config", str(again)]) == 0
    assert "run: resumes from checkpoint-000004" in capsys.readouterr().err


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
        assert len(read_paired_qa(str(path), unknown)) == 2, (
            "stepdiff annotate pairs makes pairs of such catalogs too"
        )
    path.write_text(first + "\n{}\n")
    with pytest.raises(StepDiffError, match=":2: not a PairQA row"):
        read_paired_qa(str(path), catalog)


@pytest.mark.full
def test_a_training_at_a_snapshot_has_the_weights_of_then(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    shutil.copytree(world / "features", tmp_path / "features")
    store = Store.open(tmp_path / "features")
    assert main(["tag", str(store.path), "v1"]) == 0
    clips = (
        store.catalog("clips")
        .frame(["key", "split"])
        .filter(pl.col("split") == "train")["key"]
        .to_list()
    )
    # two clips leave the training, one changes its split and all their narrations change
    with store.lock():
        store.view("clips", "visual").withdraw(store.catalog("clips").rows(clips[:2]))
        store.catalog("clips").update(
            pl.DataFrame({"key": clips, "narration": ["other words"] * len(clips)})
        )
    given = ["--config", str(recipe(world, tiny_lm, tmp_path / "run")), "--store", str(store.path)]
    assert train.main([*given, "--at", "v1"]) == 0
    for step in (6, int(Run(trained).best().name.partition("-")[2])):
        assert_same_weights(tmp_path / "run", trained, step)
    record = json.loads((tmp_path / "run" / "lineage.json").read_text())["store"]
    commit = read_snapshot(store.path, "v1").views["clips"]["visual"].commit
    assert (record["path"], record["at"], list(record["commits"].values())) == (
        str(store.path),
        "v1",
        [commit],
    )
    capsys.readouterr()
    assert main(["lineage", str(store.path), str(tmp_path / "run")]) == 0
    assert f"snapshot v1; commit clips/visual {commit}" in capsys.readouterr().out
    refuses(
        train.main, given, capsys, "holds a run of another recipe (at is v1 there and None here)"
    )
    refuses(
        train.main,
        [*given, "--at", "v2", "--out", str(tmp_path / "new")],
        capsys,
        "no snapshot 'v2'",
    )


def test_two_seeds_share_no_dropout_mask(tmp_path: Path) -> None:
    schedule = Schedule(40, accumulate=2, validate_every=40)
    masks = [train_small(tmp_path / f"run{seed}", seed, schedule).masks for seed in (0, 1)]
    assert len(masks[0]) == len(masks[1]) == 80
    assert len({*masks[0].values(), *masks[1].values()}) == 160


class Interrupted(SmallTask):
    """A small task that Ctrl-C ends in its fourth step."""

    def loss(self, batch: int, following: int | None = None) -> torch.Tensor:
        if batch == 7:
            raise KeyboardInterrupt
        return super().loss(batch)


def test_a_resumed_run_draws_the_same_as_an_uninterrupted_one(tmp_path: Path) -> None:
    unbroken, first, again = SmallTask(), Interrupted(), SmallTask()
    train_small(tmp_path / "unbroken", task=unbroken)
    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "killed", task=first)
    torch.rand(17)  # other draws of the process do not matter
    train_small(tmp_path / "killed", task=again)
    assert sorted(again.masks) in (list(range(4, 12)), list(range(8, 12)))
    assert first.masks | again.masks == unbroken.masks
    assert_same_weights(tmp_path / "killed", tmp_path / "unbroken")


def test_a_non_finite_loss_reaches_no_weight(tmp_path: Path) -> None:
    class Wrong(SmallTask):
        def loss(self, batch: int, following: int | None = None) -> torch.Tensor:
            return super().loss(batch) * (math.nan if batch > 7 else 1)

    with pytest.raises(StepDiffError, match="step 5 has loss nan"):
        train_small(tmp_path / "run", task=Wrong())
    assert all(np.isfinite(value).all() for value in weights(tmp_path / "run", 4).values())


def test_the_best_checkpoint_is_the_earliest_of_equals(tmp_path: Path) -> None:
    train_small(tmp_path / "run", task=SmallTask(scores=[0.9, 0.5, 0.7, 0.7]))
    best = {"checkpoint": "checkpoint-000004", "step": 4, "score": 0.7}
    assert json.loads((tmp_path / "run/best.json").read_text()) == best


def options(
    world: Path, tiny_lm: str, out: Path, steps: int = 4, every: int = 2, **more: Any
) -> TrainOptions:
    """Return a recipe of a few steps on the tiny world."""
    schedule = {
        "steps": steps,
        "accumulate": 2,
        "learning_rate": 0.01,
        "warmup": 1,
        "validate_every": every,
    }
    made = read_recipe(
        recipe(world, tiny_lm, out, schedule=schedule, precision="float32", lora=None)
    )
    assert made.video_lm is not None
    return dataclasses.replace(made, video_lm=dataclasses.replace(made.video_lm, **more))


@pytest.fixture(scope="module")
def interleaved(world: Path, tiny_lm: str) -> Path:
    out = world / "interleaved"
    more = {"sources": SYSTEMS["Interleaved"], "lora": Lora(rank=2)}
    train.run(options(world, tiny_lm, out, **more))
    return out


@pytest.mark.full
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_loss_falls_and_only_the_projector_changes(
    system: str, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    made = options(world, tiny_lm, tmp_path / "run", 40, 40, sources=SYSTEMS[system])
    assert made.video_lm is not None and made.video_lm.system == system
    train.run(made)
    losses = [r["loss"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in r]
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.1
    assert all(name.startswith("projector.") for name in weights(tmp_path / "run", 40))


def test_the_source_of_a_batch_depends_only_on_the_batchs_number(
    world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    made = options(world, tiny_lm, tmp_path, sources=SYSTEMS["StepDiff"]).video_lm
    assert made is not None
    store = Store.open(world / "features")
    tasks = [VideoTask(made, store, 0, "cpu") for _ in range(2)]
    shown = [tasks[0].batch(number).clips for number in range(9)]
    assert [len(clips) for clips in shown] == [9, 3, 6] * 3, (
        "three sequences, three images, three pairs"
    )
    assert [tasks[1].batch(number).clips for number in reversed(range(9))] == shown[::-1]
    for number, clips in enumerate(shown):
        assert clips == tasks[0].sources[SYSTEMS["StepDiff"][number % 3]].batch(number // 3).clips
    train_split = set(tasks[0].catalog.frame().filter(split="train")["key"])
    assert {clip for clips in shown for clip in clips} <= train_split


@pytest.mark.full
# of an interrupt before its with block
@pytest.mark.filterwarnings("ignore:Exception ignored in.*ScandirIterator")
def test_a_stopped_run_resumed_ends_with_the_same_weights(
    interleaved: Path, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    more = {
        "sources": SYSTEMS["StepDiff"],
        "init": str(interleaved),
        "lora": Lora(rank=2),
        "hard_negatives": HardNegativeOptions(2, 1),
    }
    train.run(options(world, tiny_lm, tmp_path / "whole", 8, **more))
    stopped = options(world, tiny_lm, tmp_path / "stopped", 8, **more)
    with interrupted_at(tmp_path / "stopped/checkpoint-000004"):
        train.run(stopped)
    train.run(stopped)
    assert_same_weights(tmp_path / "stopped", tmp_path / "whole", 8)


@pytest.mark.full
@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_recomputed_layers_have_the_same_gradients(
    lora: Lora | None, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    gradients = []
    for recompute in (False, True):
        made = options(
            world, tiny_lm, tmp_path, lora=lora, gradient_checkpointing=recompute
        ).video_lm
        assert made is not None
        task = VideoTask(made, Store.open(world / "features"), 0, "cpu")
        task.module.train()
        task.loss(0).backward()
        gradients.append(
            {name: p.grad for name, p in task.module.named_parameters() if p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys() != set()
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())


@pytest.mark.full
def test_a_search_finds_neighbours_of_the_current_projector(
    world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    made = options(
        world, tiny_lm, tmp_path, sources=("pairs",), hard_negatives=HardNegativeOptions(2, 1)
    ).video_lm
    assert made is not None
    task = VideoTask(made, Store.open(world / "features"), 0, "cpu")
    assert task.negatives is not None and (task.negatives.near == -1).all()
    task.loss(0)
    before = task.negatives.near.copy()
    with torch.no_grad():
        for parameter in task.module.projector.parameters():
            parameter.normal_()
    task.loss(1)
    assert (task.negatives.near == before).all(), "within a step nothing is mined"
    task.loss(2)
    assert (task.negatives.near != before).any()
    clips = task.catalog.keys(task.negatives.rows)
    with torch.inference_mode():
        means = task.module.project(task.features.read(clips)).mean(dim=1).numpy()
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    step = dict(task.catalog.frame()["key", "step"].iter_rows())
    own = [i for i, clip in enumerate(clips) if i and step[clip] == step[clips[0]]]
    own.sort(key=lambda i: -float(unit[0] @ unit[i]))
    assert task.negatives.near[0].tolist() == own[:2]


@pytest.mark.full
def test_a_run_starts_from_the_best_checkpoint_of_another(
    interleaved: Path, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    made = options(world, tiny_lm, tmp_path / "run", 0, init=str(interleaved), lora=Lora(rank=2))
    train.run(made)
    start, best = (
        weights(tmp_path / "run", 0),
        load_file(Run(interleaved).best() / "head.safetensors"),
    )
    assert start.keys() == best.keys() and all(
        np.array_equal(start[name], best[name]) for name in best
    )
    assert made.video_lm is not None
    disclosed = disclosure(made.video_lm, tmp_path / "run")
    assert disclosed["system"] == "StepDiff"
    assert disclosed["init"]["system"] == "Interleaved" and disclosed["init"]["init"] is None
    assert disclosed["init"]["checkpoint"] == Run(interleaved).best().name


@pytest.mark.full
def test_a_start_from_a_run_of_other_weights_is_refused(
    interleaved: Path, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    lora, other = Lora(rank=2), ProjectorOptions(width=16, heads=4, outputs=4)
    for more, message in (
        ({}, "weights that this recipe does not train, e.g. lm.model.*lora_A"),
        ({"lora": Lora(rank=4)}, r"is \(2, 32\), the recipe's is \(4, 32\)"),
        ({"lora": Lora(rank=2, alpha=32)}, "alpha 16, the recipe's 32"),
        ({"lora": lora, "projector": other}, "projector.heads 2, the recipe's 4"),
        ({"lora": lora, "init": str(tmp_path / "nowhere")}, "nowhere: no trained head here"),
    ):
        with pytest.raises(StepDiffError, match=message):
            train.run(
                options(world, tiny_lm, tmp_path / "run", **{"init": str(interleaved)} | more)
            )
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"], (
        "a refused run leaves no files"
    )


@pytest.mark.full
def test_another_language_model_is_refused_in_one_line(
    interleaved: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    other = tmp_path / "other_lm"
    shutil.copytree(tiny_lm, other)
    (other / "added.json").write_text("{}")
    with pytest.raises(StepDiffError, match="another language model than .*other_lm now is"):
        train.run(
            options(world, str(other), tmp_path / "run", init=str(interleaved), lora=Lora(rank=2))
        )
    assert not (tmp_path / "run").exists(), "a refused run leaves no files"
    run = tmp_path / "copied"
    shutil.copytree(interleaved, run)
    change_lineage(unsealed(run), lambda record: record["reads"].update(language_model="0" * 64))
    asked = [
        "--store",
        str(world / "features"),
        "--head",
        str(run),
        "--reference",
        "a",
        "--candidate",
        "b",
        "Why?",
    ]
    refuses(ask.main, asked, capsys, "(sha256 000000000000, not")


@pytest.mark.full
def test_another_view_is_refused_in_one_line(
    interleaved: Path, world: Path, tmp_path: Path, capsys: Capture
) -> None:
    store = Store.open(tmp_path / "features", create=True)
    with store.lock():
        store.catalog("clips").append(
            Store.open(world / "features").catalog("clips").frame().drop("row")
        )
        made_by = Provenance(
            "visual", "1" * 64, "last", "8 linspace", "none", {"embedding": "float32"}
        )
        store.create_view(
            "clips", "visual", made_by, {"tokens": Feature((16, 24), "float16")}
        ).resize()
    with pytest.raises(
        StepDiffError, match="other features of clips than .* has .weights '0+' against '1+'"
    ) as error:
        load_video_lm(interleaved, store, "cpu")
    asked = [
        "--task",
        "diffmcq",
        "--method",
        "video-lm",
        "--head",
        str(interleaved),
        "--store",
        str(store.path),
    ]
    asked += ["--test-set", str(world / "diffmcq_test.jsonl"), "--out", str(tmp_path / "p.jsonl")]
    assert evaluate.main(asked) == 2
    assert (
        f"error: {error.value}" == capsys.readouterr().err.strip()
        and not (tmp_path / "p.jsonl").exists()
    )


@pytest.mark.parametrize(
    ("more", "flags", "message"),
    [
        ({"sources": []}, [], "sources is empty"),
        ({"full": True}, [], "choose one"),
        ({"pairqa": None}, [], "needs video_lm.pairqa"),
        (
            {"sources": ["clips"], "hard_negatives": {"neighbours": 2}},
            [],
            "are for the source `pairs`",
        ),
        (
            {"hard_negatives": {"neighbours": 2, "mine_every": 4}},
            [],
            "mine_every 4 does not divide schedule.validate_every 2",
        ),
        (
            {"hard_negatives": {"mine_every": -1}},
            [],
            "video_lm.hard_negatives.mine_every is -1; it must be 0 or more",
        ),
        (
            {"hard_negatives": {"neighbours": 0}},
            [],
            "video_lm.hard_negatives.neighbours is 0; it must be 1 or more",
        ),
        ({"lora": {"rank": 0}}, [], "video_lm.lora.rank is 0; it must be 1 or more"),
        ({"schedule": {"steps": -3}}, [], "video_lm.schedule.steps is -3; it must be 0 or more"),
        ({"schedule": {"steps": 4, "accumulate": 0}}, [], "video_lm.schedule.accumulate is 0"),
        ({"batch": 0}, [], "video_lm.batch is 0"),
        ({"projector": {"width": 16, "heads": 7}}, [], "projector.heads 7 does not divide"),
        ({"validation": {"share": 0.1, "diffmcq": "x.jsonl"}}, [], "has a share and diffmcq"),
        (
            {"validation": {"diffmcq": "x.jsonl"}},
            [],
            "needs a share of the videos to hold out, or both",
        ),
        (
            {"validation": {"share": 1.5}},
            [],
            "validation.share is 1.5; it must be above 0 and below 1",
        ),
        (
            {"validation": {"share": 0.4, "rows": 1000}},
            [],
            "and its rows are 1000; raise the share",
        ),
        ({"evidence": {"head": "no"}}, [], "no: holds no head of words"),
        ({"evidence": {"head": "no", "sentences": -1}}, [], "video_lm.evidence.sentences is -1"),
        (
            {"schedule": {"steps": 2, "accumulate": 6}},
            ["--workers", "4"],
            "among 4 workers; give 1 or 2 or 3",
        ),
        (
            {"precision": "float32"},
            ["--scaling.frozen", "bfloat16"],
            "set video_lm.precision to bfloat16",
        ),
        (
            {},
            ["--out", "s3://bucket/run"],
            "--out s3://bucket/run is a URL: give a path of a file system",
        ),
        ({}, ["--out", "hdfs://host/run", "--dry-run"], "--out hdfs://host/run is a URL"),
    ],
)
def test_a_recipe_that_cannot_train_is_refused_in_one_line(
    world: Path,
    tiny_lm: str,
    tmp_path: Path,
    capsys: Capture,
    more: dict[str, Any],
    flags: list[str],
    message: str,
) -> None:
    path = str(recipe(world, tiny_lm, tmp_path / "run", **more))
    refuses(train.main, ["--config", path, *flags], capsys, message)
    assert not (tmp_path / "run").exists()


@pytest.mark.full
def test_full_fine_tuning_is_loaded_again(world: Path, tiny_lm: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train.run(options(world, tiny_lm, out, 2, sources=("clips",), full=True))
    before = dict(LanguageModel.load(tiny_lm).model.named_parameters())
    after = {
        k.removeprefix("lm.model."): v for k, v in weights(out, 2).items() if k.startswith("lm.")
    }
    assert before.keys() == after.keys()
    assert not any(np.array_equal(after[name], before[name].detach().numpy()) for name in after)
    model, _, _ = load_video_lm(out, Store.open(world / "features"), "cpu")
    best = load_file(Run(out).best() / "head.safetensors")
    assert all(
        np.array_equal(p.detach().numpy(), best[f"lm.model.{k}"])
        for k, p in model.lm.model.named_parameters()
    )
