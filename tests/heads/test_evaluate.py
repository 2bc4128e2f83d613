"""Guarantees of heads/evaluate.py and heads/evaluation/options.py, and flags, on the small world."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from common.cli.parser import underscored
from heads import evaluate, score
from heads.data.clips import Features
from heads.data.packing import Turn
from heads.evaluation import loading
from heads.evaluation.evaluation import batch_starts, identity
from heads.evaluation.loading import Loaded
from heads.evaluation.options import EvaluateOptions
from heads.methods.stepdiff import PairTexts, StepDiff
from heads.methods.vlemb import VLEmb
from heads.models.language_model import LanguageModel
from heads.models.projector import Projector
from heads.models.video_lm import VideoLM
from heads.training.recipe import ProjectorOptions
from store import Provenance, Store
from tasks.declining import declines
from tasks.postprocess import parse
from tasks.prompts import DIFFERENCE_QUESTION, DIFFMCQ_SEED
from tasks.testsets import DiffMCQ, DiffRank, Row, read_predictions, read_test_set, write_test_set

CLIPS = [f"video-_{i}_0.0_{i + 1}.5" for i in range(24)]
RAW = "The main difference in Visuals is that in Video 2, the person uses a fork, while in Video 1, they use a whisk."


def ranking(world: Path, path: Path, extra: list[DiffRank] | None = None) -> Path:
    rows: list[Row] = [
        DiffRank(CLIPS[i], tuple(CLIPS[i + 1 : i + 5]), ("Visuals", "Serving / Presentation")[i % 2], (5, 4, 5, 0))
        for i in range(12)
    ]
    write_test_set("diffrank", path, [*rows, *(extra or [])])
    return path


def command(world: Path, test_set: Path, out: Path, *more: str) -> list[str]:
    given = ["--task", "diffrank", "--method", "vlemb", "--view", "visual", "--store", str(world / "features")]
    return [*given, "--test-set", str(test_set), "--out", str(out), "--bootstrap", "20", *more]


def test_a_killed_evaluation_ends_with_the_same_predictions(world: Path, tmp_path: Path) -> None:
    given = command(world, ranking(world, tmp_path / "set.jsonl"), tmp_path / "killed.jsonl", "--rows-at-once", "3")
    program = f"""
import os, signal, sys
from heads import evaluate
from heads.evaluation.partial import Partial

add, count = Partial.add, [0]

def killed(self, predictions):
    count[0] += 1
    if count[0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, predictions)

Partial.add = killed
sys.exit(evaluate.main({given!r}))
"""
    assert subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    assert len((tmp_path / "killed.partial.jsonl").read_bytes().splitlines()) == 6
    asked: list[int] = []
    rank = VLEmb.rank

    def counted(self: VLEmb, rows: Sequence[DiffRank]) -> list[list[float]]:
        asked.append(len(rows))
        return rank(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VLEmb, "rank", counted)
        assert evaluate.main(given) == 0
    assert asked == [3, 3], "only the rows that the killed run lacked"
    again = command(world, tmp_path / "set.jsonl", tmp_path / "whole.jsonl", "--rows-at-once", "3")
    assert evaluate.main(again) == 0
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"set.jsonl", *(f"{w}{e}" for w in ("killed", "whole") for e in (".jsonl", ".scores.json"))}


def test_answers_depend_only_on_the_rows_of_the_batch(world: Path, tiny_lm: str) -> None:
    features = Features(Store.open(world / "features"), "visual", "tokens")
    lm = LanguageModel.load(tiny_lm, "cpu")
    projector = Projector(ProjectorOptions(16, 2, outputs=4), *features.shape, lm.width, lm.embedding_std)
    model = VideoLM(lm, projector, 4)
    rows = [DiffRank(CLIPS[i], tuple(CLIPS[i + 1 : i + 6]), "Visuals", (1, 2, 3, 4, 5)) for i in range(8)]
    with torch.inference_mode():
        method = StepDiff(model, features)
        after = [method.rank(rows[:5]), method.rank(rows[5:])]  # some of its clips are those of the first
        assert after[1] == StepDiff(model, features).rank(rows[5:])


@pytest.fixture
def seeing(world: Path, tiny_lm: str, monkeypatch: pytest.MonkeyPatch) -> VideoLM:
    """Replace the method video-lm with an untrained model in float32."""
    features = Features(Store.open(world / "features"), "visual", "tokens")
    lm = LanguageModel.load(tiny_lm, "cpu")
    torch.manual_seed(3)
    projector = Projector(ProjectorOptions(16, 2, outputs=4), *features.shape, lm.width, 1.0)
    model = VideoLM(lm, projector, 4)
    monkeypatch.setattr(
        loading, "_load", lambda options, store, device, group: Loaded(StepDiff(model, features, options.control))
    )
    return model


def choices(world: Path, path: Path) -> list[str]:
    """Return the command for a DiffMCQ set with 23 texts per pair in distant rows, and eight pairs."""
    pairs = [(CLIPS[i], CLIPS[i + 1]) for i in range(8)]
    rows = [
        DiffMCQ(f"a {word}", ("Visuals", "Serving / Presentation")[i % 2], options, options[i % 4])
        for word in ["whisk", "fork", "spoon", "bowl", *(f"bowl of {n} eggs" for n in range(19))]
        for i in range(6)
        for options in [tuple(pairs[(i + 2 * place) % 8] for place in range(4))]
    ]
    write_test_set("diffmcq", path, rows)
    given = ["--task", "diffmcq", "--method", "video-lm", "--store", str(world / "features"), "--bootstrap", "0"]
    return [*given, "--test-set", str(path), "--rows-at-once", "3"]


def test_a_video_language_model_reads_each_pair_once_for_all_questions_about_it(
    seeing: VideoLM, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*choices(world, tmp_path / "mcq.jsonl"), "--out", str(tmp_path / "p.jsonl")]
    read: list[int] = []
    likelihoods = VideoLM.log_likelihoods

    def counted(
        self: VideoLM, pairs: Sequence, clips: torch.Tensor | None, mean: bool, count: int | None
    ) -> list[list[float]]:
        read.append(len(pairs))
        return likelihoods(self, pairs, clips, mean, count)

    with monkeypatch.context() as patch:
        patch.setattr(VideoLM, "log_likelihoods", counted)
        assert evaluate.main(given) == 0
    assert read == [2, 3, 3], "eight pairs, in batches of similar size"
    rows = read_test_set("diffmcq", tmp_path / "mcq.jsonl")
    found = read_predictions("diffmcq", tmp_path / "p.jsonl", rows)
    features = Features(Store.open(world / "features"), "visual", "tokens")
    for row, scores in list(zip(rows, found, strict=True))[::7]:
        turn = Turn(DIFFERENCE_QUESTION.format(category=row.category), row.difference, DIFFMCQ_SEED, ends=False)
        for pair, value in zip(row.options, scores, strict=True):
            with torch.inference_mode():
                clips = seeing.project(features.read(list(pair)))
            assert value == pytest.approx(seeing.log_likelihoods([[turn]], clips, mean=True)[0][0], abs=1e-4)
    assert len({value for scores in found for value in scores}) == 8 * 23, "eight pairs, 23 texts each"


def test_an_evaluation_stopped_between_pairs_ends_with_the_same_predictions(
    seeing: VideoLM, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = choices(world, tmp_path / "mcq.jsonl")
    assert evaluate.main([*given, "--out", str(tmp_path / "whole.jsonl")]) == 0
    score_texts, asked = StepDiff.score_texts, []

    def stops(self: StepDiff, pairs: Sequence[PairTexts]) -> list[list[float]]:
        asked.append(len(pairs))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return score_texts(self, pairs)

    monkeypatch.setattr(StepDiff, "score_texts", stops)
    with pytest.raises(KeyboardInterrupt):
        evaluate.main([*given, "--out", str(tmp_path / "stopped.jsonl")])
    assert len((tmp_path / "stopped.partial.jsonl").read_bytes().splitlines()) == 2
    assert evaluate.main([*given, "--out", str(tmp_path / "stopped.jsonl")]) == 0
    assert asked == [2, 3, 3, 3]
    assert (tmp_path / "stopped.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.partial*"))


def test_without_video_all_options_of_a_question_score_the_same_bits(
    seeing: VideoLM, world: Path, tmp_path: Path
) -> None:
    given = choices(world, tmp_path / "mcq.jsonl")
    assert evaluate.main([*given, "--out", str(tmp_path / "p.jsonl"), "--control", "blind"]) == 0
    rows = read_test_set("diffmcq", tmp_path / "mcq.jsonl")
    assert all(len(set(scores)) == 1 for scores in read_predictions("diffmcq", tmp_path / "p.jsonl", rows))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--method", "video-lm"],
            "--view is for vlemb, llava, idefics, vlm, a plug-in, and video-lm does not read it",
        ),
        (["--pair-embedding", "candidate"], "--pair-embedding is for diffmcq, and diffrank does not read it"),
        (
            ["--task", "diffmcq", "--method", "rarest", "--view", "null", "--pair-embedding", "candidate"],
            "--pair-embedding is for vlemb, and rarest does not read it",
        ),
        (["--head", "runs/x"], "--head is for video-lm, stepdiff, .*, and vlemb does not"),
        (["--control", "blind"], "--control is for video-lm, .* and vlemb does not read it"),
        (["--similarity"], "--similarity is for diffcap"),
        (["--rows-at-once", "0"], "neither may be below 1"),
        (["--seed", "-1"], "neither may be below 0"),
        (["--bootstrap", "-1"], "neither may be below 0"),
    ],
)
def test_an_option_that_is_not_read_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert evaluate.main([*command(world, ranking(world, tmp_path / "set.jsonl"), tmp_path / "p.jsonl"), *more]) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(message, error) and "\n" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["set.jsonl"]


@pytest.mark.parametrize("name", ["p.jsonl", "p.rows.jsonl", "p.scores.json", "p.partial.jsonl"])
def test_no_file_that_is_read_is_written(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    test_set = ranking(world, tmp_path / name)
    before = test_set.read_bytes()
    assert evaluate.main(command(world, test_set, tmp_path / "p.jsonl")) == 2
    assert "would overwrite it; name another --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name] and test_set.read_bytes() == before


def test_answers_from_another_version_of_a_view_are_not_used(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped evaluation continues with its answers if the view has the same provenance."""
    asked = EvaluateOptions("diffrank", "vlemb", "p.jsonl", "set", store=str(world / "features"), view="visual")
    rows = read_test_set("diffrank", ranking(world, tmp_path / "set.jsonl"))
    first = identity(asked, rows, Store.open(asked.store))
    assert first == identity(asked, rows, Store.open(asked.store))
    as_dict = Provenance.as_dict
    monkeypatch.setattr(Provenance, "as_dict", lambda made: as_dict(made) | {"weights": "1" * 64})
    assert identity(asked, rows, Store.open(asked.store)) != first


def test_answers_of_another_language_model_of_the_same_name_are_not_used(
    world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    shutil.copytree(tiny_lm, tmp_path / "lm")
    (tmp_path / "texts.parquet").write_bytes(b"texts")
    paths = {"texts": str(tmp_path / "texts.parquet"), "language_model": str(tmp_path / "lm")}
    asked = EvaluateOptions("diffrank", "socratic", "p.jsonl", "set", store=str(world / "features"), **paths)
    first = identity(asked, [], Store.open(asked.store))
    assert first == identity(asked, [], Store.open(asked.store))
    config = tmp_path / "lm/config.json"
    config.write_text(config.read_text() + " ")
    assert identity(asked, [], Store.open(asked.store)) != first


def test_batches_have_similar_sizes() -> None:
    assert batch_starts(150, 50) == [0, 50, 100]
    assert batch_starts(75, 50) == [0, 37]
    assert batch_starts(1, 50) == [0]
    for rows in range(1, 40):
        for at_once in range(1, 12):
            starts = [*batch_starts(rows, at_once), rows]
            sizes = [end - start for start, end in zip(starts, starts[1:], strict=False)]
            assert sum(sizes) == rows and max(sizes) <= at_once and max(sizes) - min(sizes) <= 1


def test_a_clip_that_the_store_lacks_is_reported_before_anything_is_predicted(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = DiffRank(CLIPS[0], (CLIPS[1], "no_0_1", "never_0_1", CLIPS[2]), "Visuals", (1, 2, 3, 4))
    test_set = ranking(world, tmp_path / "set.jsonl", [lacking, lacking])
    given = command(world, test_set, tmp_path / "p.jsonl")
    assert evaluate.main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no_0_1: no visual features in ") and "(absent: 2 clips" in error
    assert not (tmp_path / "p.jsonl").exists() and not list(tmp_path.glob("*.partial*"))
    assert evaluate.main([*given, "--skip-missing", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["skipped"] == {"clips": 2, "rows": 2} and record["scores"]["rows"] == 12
    rows = read_test_set("diffrank", tmp_path / "p.rows.jsonl")
    assert len(rows) == len(read_predictions("diffrank", tmp_path / "p.jsonl", rows)) == 12
    write_test_set("diffrank", test_set, [lacking])
    assert evaluate.main([*given, "--skip-missing"]) == 2
    assert "every row has a clip that" in capsys.readouterr().err


def test_a_refused_task_leaves_no_file(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = command(world, world / "diffcap_test.jsonl", tmp_path / "p.jsonl")
    assert evaluate.main([*given, "--task", "diffcap"]) == 2
    assert "--method vlemb does not answer diffcap: its class has no function caption" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_only_a_named_subset_is_answered(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test_set, out = ranking(world, tmp_path / "set.jsonl"), tmp_path / "p.jsonl"
    (tmp_path / "names.txt").write_text("Serving / Presentation\nvideo-_2\n")
    assert evaluate.main(command(world, test_set, out, "--subset", str(tmp_path / "names.txt"), "--json")) == 0
    found = json.loads(capsys.readouterr().out)["scores"]
    assert {name: own["rows"] for name, own in found["per_category"].items()} == {
        "Serving / Presentation": 6,
        "Visuals": 1,
    }
    rows = read_test_set("diffrank", out.with_suffix(".rows.jsonl"))
    assert [row.reference for row in rows] == [CLIPS[i] for i in (1, 2, 3, 5, 7, 9, 11)]
    assert evaluate.main(command(world, test_set, out, "--subset", "Visuals", "--rows", "2")) == 0
    assert {row.category for row in read_test_set("diffrank", out.with_suffix(".rows.jsonl"))} == {"Visuals"}
    assert evaluate.main(command(world, test_set, out)) == 0
    assert not out.with_suffix(".rows.jsonl").exists(), "all rows of the test set again"
    capsys.readouterr()
    assert evaluate.main(command(world, test_set, out, "--subset", "Tools")) == 2
    assert "subset: 'Tools' is not a category" in capsys.readouterr().err


class Writer:
    """A method that writes one caption for every pair."""

    def __init__(self, caption: str) -> None:
        self.written = caption

    def caption(self, rows: list) -> list[str]:
        return [self.written] * len(rows)


@pytest.fixture
def captions(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command that evaluates a method whose captions are all RAW."""
    monkeypatch.setattr(loading, "_load", lambda options, store, device, group: Loaded(Writer(RAW)))
    given = ["--task", "diffcap", "--method", "vlemb", "--store", str(world / "features"), "--bootstrap", "20"]
    return [*given, "--test-set", str(world / "diffcap_test.jsonl"), "--out", str(tmp_path / "p.jsonl")]


def test_captions_are_post_processed_by_evaluate_or_by_score(
    captions: list[str], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([*captions, "--json"]) == 0
    parsed = json.loads(capsys.readouterr().out)["scores"]
    assert json.loads((tmp_path / "p.jsonl").read_text())["generated_text"] == parse(RAW) != RAW
    assert evaluate.main([*captions, "--no-parse", "--json"]) == 0
    raw = json.loads(capsys.readouterr().out)["scores"]
    assert json.loads((tmp_path / "p.jsonl").read_text())["generated_text"] == RAW
    assert raw["BLEU"] != parsed["BLEU"]
    given = ["--task", "diffcap", "--test-set", str(world / "diffcap_test.jsonl"), "--bootstrap", "20", "--json"]
    given += ["--predictions", str(tmp_path / "p.jsonl")]
    method = {"method": {"regime": None, "control": False}}
    assert score.main(given) == 0
    assert json.loads(capsys.readouterr().out) == raw | method
    assert score.main([*given, "--parse"]) == 0
    assert json.loads(capsys.readouterr().out) == parsed | method


def test_pairs_that_agree_are_evaluated_with_no_difference(
    captions: list[str], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not declines(RAW)
    more = ["--no-difference", str(ranking(world, tmp_path / "rank.jsonl"))]
    assert evaluate.main([*captions, *more, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["scores"]
    assert (found["rows"], found["no_difference_rows"], found["invented"], found["declined"]) == (25, 24, 1, 0)
    assert evaluate.main([*captions, *more, "--rows", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["no_difference_rows"] == 5
    rows = read_test_set("diffcap", tmp_path / "p.rows.jsonl")
    assert [bool(row.text) for row in rows] == [True] + [False] * 5
    given = command(world, tmp_path / "rank.jsonl", tmp_path / "q.jsonl", *more)
    assert evaluate.main(given) == 2
    assert "--no-difference is for diffcap, and diffrank does not read it" in capsys.readouterr().err


def test_a_boolean_flag_needs_no_value() -> None:
    given = ["--parse", "--no-parse", "--parse", "false", "--skip-missing=true"]
    given += ["--no-difference", "x", "--skip-missing"]
    assert underscored(given, {"parse", "skip_missing"}) == [
        "--parse=true", "--parse=false", "--parse", "false", "--skip_missing=true", "--no_difference", "x",
        "--skip_missing=true",
    ]  # fmt: skip
