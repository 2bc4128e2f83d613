"""The contrastive head, and the view that heads.embed writes with it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from heads import embed, evaluate, table, train
from heads.training.log import read_metrics
from store import Store
from store.view import OK
from tests.refusals import refuses

from .conftest import Capture, add_texts, contrastive, evaluation, read_rows
from .runs import change_lineage, unsealed


def test_vlemb_reads_the_view_that_a_contrastive_head_embeds(
    aligned: Path, world: Path, tmp_path: Path
) -> None:
    records = read_metrics(aligned / "metrics.jsonl")
    val = [r["val_loss"] for r in records if "val_loss" in r]
    assert min(val) < val[0] - 0.1
    command = ["--head", str(aligned), "--store", str(world / "features"), "--view", "aligned"]
    assert embed.main(command) == 0
    record = embed.run(embed.EmbedOptions(str(aligned), str(world / "features")))
    unlike = record.pop("unlike")
    assert record == {"view": "aligned", "clips": 0, "texts": 0}
    assert (unlike["clips"], unlike["of_clips"], unlike["learned_from"][:17]) == (
        0,
        24,
        "12 clips, 2 steps",
    )
    store = Store.open(world / "features")
    embeddings = store.view("clips", "aligned").read("embedding", np.arange(24), dtype="float32")
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    scores = []
    for task in ("diffmcq", "diffrank"):
        out = tmp_path / f"{task}.jsonl"
        assert evaluate.main(evaluation(world, task, "vlemb", out, "--view", "aligned")) == 0
        scores.append(str(out.with_suffix(".scores.json")))
    assert table.main([*scores, "--out", str(tmp_path / "table.json")]) == 0
    systems = json.loads((tmp_path / "table.json").read_text())["systems"]
    assert systems["VLEmb (aligned)"].keys() == {
        "accuracy",
        "ktau_all_rows",
        "ktau_within_step_all_rows",
        "rows",
        "regime",
    }


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"clips": 0}, "contrastive.clips is 0; it must be 1 or more"),
        (
            {"schedule": {"steps": 2, "validate_every": 0}},
            "contrastive.schedule.validate_every is 0",
        ),
        ({"projector": {"width": 16, "heads": 3}}, "contrastive.projector.heads 3 does not divide"),
    ],
)
def test_numbers_that_are_too_small_are_refused(
    world: Path, tmp_path: Path, more: dict, message: str, capsys: Capture
) -> None:
    command = ["--config", str(contrastive(str(world / "features"), tmp_path / "run", **more))]
    refuses(train.main, command, capsys, message)
    assert not (tmp_path / "run").exists()


@pytest.mark.full
@pytest.mark.parametrize("entity", ["clips", "texts"])
def test_a_head_for_another_view_is_refused_in_one_line(
    aligned: Path, world: Path, tmp_path: Path, capsys: Capture, entity: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(aligned, run)
    change_lineage(unsealed(run), lambda record: record["reads"][entity].update(weights="1" * 64))
    assert (
        embed.main(["--head", str(run), "--store", str(world / "features"), "--view", "other"]) == 2
    )
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"trained on other features of {entity} than view " in message
    assert "other" not in Store.open(world / "features").views("clips")


@pytest.mark.full
def test_pairs_are_validated_as_vlemb_evaluates_the_view(
    world: Path, tmp_path: Path, capsys: Capture
) -> None:
    features = str(tmp_path / "features")
    shutil.copytree(world / "features", features)
    store = Store.open(features)
    qa = read_rows(world / "pairqa.jsonl")
    answers = list(dict.fromkeys(row["answer"] for row in qa if row["type"] == 1))
    sets = {task: str(world / f"{task}_val.jsonl") for task in ("diffmcq", "diffrank")}
    pairs = {"pairqa": str(world / "pairqa.jsonl"), "pairs": 16, "validation": sets}
    path = contrastive(features, tmp_path / "run", pairs=pairs)
    lacking = f"{len(answers)} of {len(answers)} texts of differences have no words features"
    refuses(train.main, ["--config", str(path)], capsys, lacking)
    assert not (tmp_path / "run").exists()
    tools = np.array([[tool in text for tool in ("whisk", "spoon", "fork")] for text in answers])
    add_texts(store, answers, np.pad(tools, ((0, 0), (0, 5))))
    assert train.main(["--config", str(path)]) == 0
    assert (
        embed.main(["--head", str(tmp_path / "run"), "--store", features, "--view", "paired"]) == 0
    )
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    record = next(r for r in records if "val_accuracy" in r and r["step"] == best["step"] > 0)
    judged = {}
    for task, figure in (("diffmcq", "accuracy"), ("diffrank", "ktau_all_rows")):
        command = [
            "--task",
            task,
            "--method",
            "vlemb",
            "--view",
            "paired",
            "--store",
            features,
            "--json",
        ]
        command += ["--test-set", sets[task], "--out", str(tmp_path / f"{task}.jsonl")]
        capsys.readouterr()
        assert evaluate.main(command) == 0
        printed_record = json.loads(capsys.readouterr().out)
        judged[figure] = printed_record["scores"][figure]
        assert (
            printed_record["disclosed"]["encoder"]
            == "contrastive head trained on pairs over visual"
        )
    assert record["val_accuracy"] == judged["accuracy"]
    assert record["val_ktau"] == pytest.approx(judged["ktau_all_rows"])
    view = store.view("clips", "paired")
    asked = [(row["reference"], row["candidate"], row["answer"]) for row in qa if row["type"] == 3]
    vectors = view.read("embedding", np.arange(24), dtype="float32")
    unit = dict(zip(store.catalog("clips").frame()["key"], vectors, strict=True))
    yes, no = (
        np.mean([unit[a] @ unit[b] for a, b, said in asked if said == answer])
        for answer in ("YES", "NO")
    )
    assert yes > no + 0.5


@pytest.mark.full
def test_heads_read_a_snapshot_and_write_no_view_into_it(
    aligned: Path, world: Path, tmp_path: Path, capsys: Capture
) -> None:
    features = str(tmp_path / "features")
    shutil.copytree(world / "features", features)
    command = ["--head", str(aligned), "--view", "own"]
    assert embed.main([*command, "--store", features]) == 0
    store = Store.open(features)
    store.tag("v1")

    def predicted(path: str, name: str) -> str:
        given = ["--task", "diffmcq", "--method", "vlemb", "--view", "own", "--store", path]
        out = tmp_path / f"{name}.jsonl"
        assert (
            evaluate.main(
                [*given, "--test_set", str(world / "diffmcq_test.jsonl"), "--out", str(out)]
            )
            == 0
        )
        return out.read_text()

    then, view = predicted(features, "then"), store.view("clips", "own")
    rows = np.flatnonzero(view.status() == OK)
    values = view.read("embedding", rows)
    with store.lock():
        view.withdraw(rows)
    with store.writer("clips", "own", view.provenance, view.features) as writer:
        writer.write(store.catalog("clips").keys(rows), {"embedding": np.roll(values, 5, axis=0)})
    assert predicted(f"{features}@v1", "v1") == then != predicted(features, "now")
    fixed = f"snapshot v1 of {features} cannot be changed: give the store without it"
    refuses(embed.main, [*command[:-1], "other", "--store", f"{features}@v1"], capsys, fixed)
    assert "other" not in store.views("clips")
