"""Loading and use of a trained head: heads.training.lineage, heads.evaluate, heads.ask."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from heads import ask, evaluate, train
from heads.methods.stepdiff import StepDiff
from heads.models.language_model import autocast
from heads.training.checkpoint import Run
from heads.training.lineage import load_video_lm
from store import Store
from tasks.testsets import read_test_set

from .conftest import recipe
from .small_task import unsealed


def test_an_unfinished_training_prints_a_notice_and_starts_no_other(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    half = tmp_path / "half"
    shutil.copytree(trained, half, ignore=shutil.ignore_patterns("checkpoint-*"))
    shutil.copytree(trained / "checkpoint-000006", half / "checkpoint-000002")
    state = half / "checkpoint-000002/state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"step": 2, "best_step": 2, "best_score": 0.5}))
    unsealed(half)
    Run(half).name_best(half / "checkpoint-000002", 2, 0.5)
    out = tmp_path / "p.jsonl"
    command = ["--task", "diffrank", "--method", "video-lm", "--head", str(half), "--store", str(world / "features")]
    command += ["--test-set", str(world / "diffrank_test.jsonl"), "--out", str(out), "--json"]
    capsys.readouterr()
    assert evaluate.main(command) == 0
    printed = capsys.readouterr()
    assert f"{half}: trained 2 of 6 steps so far; checkpoint-000002 is the best of them" in printed.err
    disclosed = json.loads(printed.out)["disclosed"]["recipe"]
    assert (disclosed["steps"], disclosed["trained"], disclosed["checkpoint"]) == (6, 2, "checkpoint-000002")
    assert train.main(["--config", str(recipe(world, tiny_lm, tmp_path / "next", init=str(half)))]) == 2
    assert f"{half}: trained only 2 of its 6 steps; finish it first" in capsys.readouterr().err
    assert not (tmp_path / "next").exists()


def test_evaluate_writes_predictions_that_score_again(
    trained: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from heads import score

    capsys.readouterr()
    for task in ("diffmcq", "diffrank", "diffcap"):
        out = tmp_path / f"{task}.jsonl"
        test_set = str(world / f"{task}_test.jsonl")
        command = ["--task", task, "--method", "stepdiff", "--head", str(trained), "--store", str(world / "features")]
        command += ["--test_set", test_set, "--out", str(out), "--json"]
        assert evaluate.main(command) == 0
        record = json.loads(capsys.readouterr().out)
        assert score.main(["--task", task, "--test_set", test_set, "--predictions", str(out), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["rows"] == record["scores"]["rows"]
        assert record["disclosed"]["recipe"]["lora"]


def test_a_clip_that_the_store_lacks_is_named_or_counted(
    trained: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [json.loads(line) for line in (world / "diffmcq_test.jsonl").read_text().splitlines()]
    lacking = rows[0] | {"options": [["no_0_1", "no_2_3"], *rows[0]["options"][1:]], "answer": ["no_0_1", "no_2_3"]}
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (lacking, *rows)))
    command = ["--task", "diffmcq", "--method", "video-lm", "--head", str(trained), "--store", str(world / "features")]
    command += ["--test-set", str(tmp_path / "set.jsonl"), "--out", str(tmp_path / "p.jsonl"), "--json"]
    capsys.readouterr()
    assert evaluate.main(command) == 2
    assert capsys.readouterr().err.startswith("error: no_0_1: no visual features in ")
    assert not (tmp_path / "p.jsonl").exists()
    assert evaluate.main([*command, "--skip-missing"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["skipped"] == {"clips": 2, "rows": 1} and record["scores"]["rows"] == 2
    assert record["options"]["method"] == "video-lm" and record["disclosed"]["recipe"]["system"] == "StepDiff"


def test_controls_change_what_is_seen(trained: Path, world: Path, tmp_path: Path) -> None:
    written = {}
    for control in ("none", "blind", "shuffled"):
        out = tmp_path / f"{control}.jsonl"
        command = ["--task", "diffrank", "--method", "stepdiff", "--head", str(trained), "--control", control]
        command += ["--store", str(world / "features"), "--test_set", str(world / "diffrank_test.jsonl")]
        assert evaluate.main([*command, "--out", str(out), "--rows", "1"]) == 0
        written[control] = json.loads(out.read_text())["scores"]
        assert len(out.with_suffix(".rows.jsonl").read_text().splitlines()) == 1
    assert len(set(written["blind"])) == 1, "without video every target is the same"
    assert written["none"] != written["shuffled"] and len(set(written["none"])) > 1


def test_decline_at_answers_no_difference_for_similar_pairs_and_changes_no_other_caption(
    trained: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, store = tmp_path / "p.jsonl", str(world / "features")
    command = ["--task", "diffcap", "--method", "video-lm", "--head", str(trained), "--store", store, "--no-parse"]
    command += ["--test-set", str(world / "diffcap_test.jsonl"), "--out", str(out), "--json"]
    command += ["--no-difference", str(world / "diffrank_test.jsonl")]

    def captions_with(*more: str) -> list[str]:
        assert evaluate.main([*command, *more]) == 0
        return [json.loads(line)["generated_text"] for line in out.read_text().splitlines()]

    captions, rows = captions_with(), read_test_set("diffcap", out.with_suffix(".rows.jsonl"))
    model, features, _ = load_video_lm(trained, Store.open(store), "cpu")
    with autocast("cpu", "bfloat16"):
        alike = StepDiff(model, features).alike([((row.reference, row.candidate), row.category) for row in rows])
    between = sorted(alike)[len(rows) // 2 - 1]
    declined = [score > between for score in alike]
    assert 0 < sum(declined) < len(rows) == 3
    capsys.readouterr()
    expected = [
        f"There is no difference in {row.category}." if declines else caption
        for row, declines, caption in zip(rows, declined, captions, strict=True)
    ]
    assert captions_with("--decline-at", str(between)) == expected
    record = json.loads(capsys.readouterr().out)
    agree = [not row.text for row in rows]
    assert record["scores"]["invented"] == np.mean([not d for d, a in zip(declined, agree, strict=True) if a])
    assert f"> {between:g}: Do the two videos share" in record["disclosed"]["protocol"]["declines"]
    assert captions_with("--decline-at", "1000") == captions
    ranked = ["--task", "diffrank", *command[2:8], "--test-set", str(world / "diffrank_test.jsonl"), "--out", str(out)]
    assert evaluate.main([*ranked, "--decline-at", "0"]) == 2
    assert "--decline-at is for diffcap, and diffrank does not read it" in capsys.readouterr().err
    assert evaluate.main([*command, "--decline-at", ".inf"]) == 2
    assert "--decline-at inf is not finite" in capsys.readouterr().err


def test_with_ask_similar_the_captions_are_those_without_it_to_the_byte(
    trained: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from heads import score

    store = str(world / "features")
    command = ["--task", "diffcap", "--method", "video-lm", "--head", str(trained), "--store", store, "--json"]
    command += ["--test-set", str(world / "diffcap_test.jsonl"), "--bootstrap", "20"]
    command += ["--no-difference", str(world / "diffrank_test.jsonl"), "--rows-at-once", "2"]
    plain, asked = tmp_path / "plain.jsonl", tmp_path / "asked.jsonl"
    assert evaluate.main([*command, "--out", str(plain)]) == 0
    capsys.readouterr()
    assert evaluate.main([*command, "--out", str(asked), "--ask-similar"]) == 0
    record = json.loads(capsys.readouterr().out)
    lines = [json.loads(line) for line in asked.read_text().splitlines()]
    assert [{"generated_text": line["generated_text"]} for line in lines] == [
        json.loads(line) for line in plain.read_text().splitlines()
    ]
    rows = read_test_set("diffcap", asked.with_suffix(".rows.jsonl"))
    model, features, _ = load_video_lm(trained, Store.open(store), "cpu")
    with autocast("cpu", "bfloat16"):
        alike = StepDiff(model, features).alike([((row.reference, row.candidate), row.category) for row in rows])
    similar = [line["similar"] for line in lines]
    np.testing.assert_allclose(similar, alike, atol=0.05)
    declined = [line["similar"] > 0 or "no difference" in line["generated_text"] for line in lines]
    agree = [not row.text for row in rows]
    expected = np.mean([not d for d, a in zip(declined, agree, strict=True) if a])
    assert record["scores"]["asked_first"]["invented"] == expected
    assert "Do the two videos share" in record["disclosed"]["protocol"]["similar"]["question"]
    given = ["--task", "diffcap", "--test-set", str(asked.with_suffix(".rows.jsonl")), "--bootstrap", "20"]
    given += ["--predictions", str(asked)]
    assert score.main([*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["asked_first"] == record["scores"]["asked_first"]
    assert score.main(given) == 0
    assert "invented, asked first" in capsys.readouterr().out
    for more, message in (
        (["--decline-at", "0"], "--ask-similar keeps captions as written, and --decline-at replaces some"),
        (["--task", "diffrank"], "--ask-similar is for diffcap, and diffrank does not read it"),
        (["--method", "medoid"], "--ask-similar is for video-lm"),
    ):
        ranked = [given for given in command if given not in ("--no-difference", str(world / "diffrank_test.jsonl"))]
        base = ranked if "--decline-at" in more else [one for one in ranked if one not in ("--head", str(trained))]
        assert evaluate.main([*base, "--out", str(tmp_path / "x.jsonl"), "--ask-similar", *more]) == 2
        assert message in capsys.readouterr().err


def test_ask_answers_and_refuses_in_one_line(trained: Path, world: Path, capsys: pytest.CaptureFixture) -> None:
    both = ["--reference", "video-_0_0.0_1.5", "--candidate", "video-_1_0.0_2.5"]
    where = ["--head", str(trained), "--store", str(world / "features"), "--max_tokens", "4"]
    assert ask.main([*both, *where, "What differs?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["question"] == "What differs?"
    assert ask.main([*both, *where, "--preset", "mistake", "--json"]) == 0
    assert "what mistake did I make" in json.loads(capsys.readouterr().out)["question"]
    assert ask.main([*both, *where, "--preset", "nothing"]) == 2
    assert "no preset 'nothing'; there are tools" in capsys.readouterr().err
    assert ask.main(["--reference", "no_0_1", *both[2:], *where, "Why?"]) == 2
    assert "no_0_1: no visual features in the store (unknown)" in capsys.readouterr().err
