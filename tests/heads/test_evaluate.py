"""heads.evaluate and heads.ask: predictions, refusals, continuing after a kill, rows that are
selected or skipped."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heads import ask, evaluate, evaluations, report, score, train
from heads.data.packing import Turn
from heads.evaluation import loading
from heads.evaluation.evaluation import Partial, identity
from heads.evaluation.options import EvaluateOptions
from heads.evaluation.rows import named, select
from heads.methods.stepdiff import StepDiff
from heads.methods.vlemb import VLEmb
from heads.models.language_model import autocast
from heads.reporting.entries import PredictionEntry
from heads.training.checkpoint import Run
from heads.training.run_record import load_video_lm
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import place
from stepdiff_core.tasks.declining import declines
from stepdiff_core.tasks.postprocess import parse
from stepdiff_core.tasks.prompts import DIFFERENCE_QUESTION, DIFFMCQ_SEED
from stepdiff_core.tasks.testsets import (
    DiffCap,
    DiffMCQ,
    DiffRank,
    Row,
    read_predictions,
    read_test_set,
    write_predictions,
    write_test_set,
)
from store import Feature, Store
from store.verbs.options import DropOptions
from store.verbs.removal import drop
from tests.refusals import refuses

from .conftest import CLIPS, Capture, config, evaluation, provenance, recipe
from .runs import change_state

RAW = (
    "The main difference in Visuals is that in Video 2, the person uses a fork, while in Video 1, "
    "they use a whisk."
)


def ranking(path: Path, extra: list[DiffRank] | None = None) -> Path:
    rows: list[Row] = [
        DiffRank(
            CLIPS[i],
            tuple(CLIPS[i + 1 : i + 5]),
            ("Visuals", "Serving / Presentation")[i % 2],
            (5, 4, 5, 0),
        )
        for i in range(12)
    ]
    write_test_set("diffrank", path, [*rows, *(extra or [])])
    return path


def command(world: Path, test_set: Path, out: Path, *more: str) -> list[str]:
    arguments = [
        "--task",
        "diffrank",
        "--method",
        "vlemb",
        "--view",
        "visual",
        "--store",
        str(world / "features"),
    ]
    return [*arguments, "--test-set", str(test_set), "--out", str(out), "--bootstrap", "20", *more]


class Dying:
    """VLEmb as a user's own method, whose process is killed at its third batch, once."""

    def __init__(self, store: Store, view: str, device: str) -> None:
        self.method, self.log = VLEmb.of_view(store, view), Path(str(store.path)).parent / "asked"

    def rank(self, rows: list[DiffRank]) -> list[list[float]]:
        with self.log.open("a") as log:
            log.write(f"{len(rows)} ")
        if len(self.log.read_text().split()) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.method.rank(rows)


def test_a_killed_evaluation_ends_with_the_same_predictions(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "features", tmp_path / "features")
    test_set = ranking(tmp_path / "set.jsonl")
    arguments = command(tmp_path, test_set, tmp_path / "killed.jsonl", "--rows-at-once", "3")
    arguments = [
        sys.executable,
        "-m",
        "heads.evaluate",
        *arguments,
        "--method",
        f"{__name__}:Dying",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert (
        subprocess.run(arguments, stderr=subprocess.DEVNULL, env=environment).returncode
        == -signal.SIGKILL
    )
    assert len((tmp_path / "killed.partial.jsonl").read_bytes().splitlines()) == 1 + 6
    assert subprocess.run(arguments, env=environment).returncode == 0
    assert (tmp_path / "asked").read_text().split() == ["3"] * 5, (
        "after the kill only the rows that were missing"
    )
    assert (
        evaluate.main(command(world, test_set, tmp_path / "whole.jsonl", "--rows-at-once", "3"))
        == 0
    )
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.partial*"))


def test_answers_depend_only_on_the_rows_of_the_batch(world: Path, frozen: Path) -> None:
    model, features, _ = load_video_lm(frozen, Store.open(world / "features"))
    rows = [
        DiffRank(CLIPS[i], tuple(CLIPS[i + 1 : i + 6]), "Visuals", (1, 2, 3, 4, 5))
        for i in range(8)
    ]
    with torch.inference_mode():
        method = StepDiff(model, features)
        # some of its clips are those of the first
        after = [method.rank(rows[:5]), method.rank(rows[5:])]
        assert after[1] == StepDiff(model, features).rank(rows[5:])


def choices(world: Path, head: Path, path: Path) -> list[str]:
    """Return the command for a DiffMCQ set with 23 texts per pair in distant rows, and eight
    pairs."""
    pairs = [(CLIPS[i], CLIPS[i + 1]) for i in range(8)]
    rows = [
        DiffMCQ(f"a {word}", ("Visuals", "Serving / Presentation")[i % 2], options, options[i % 4])
        for word in ["whisk", "fork", "spoon", "bowl", *(f"bowl of {n} eggs" for n in range(19))]
        for i in range(6)
        for options in [tuple(pairs[(i + 2 * place) % 8] for place in range(4))]
    ]
    write_test_set("diffmcq", path, rows)
    arguments = [
        "--task",
        "diffmcq",
        "--method",
        "video-lm",
        "--head",
        str(head),
        "--store",
        str(world / "features"),
    ]
    return [
        *arguments,
        "--test-set",
        str(path),
        "--rows-at-once",
        "3",
        "--bootstrap",
        "0",
        "--allow-seen",
    ]


def test_a_text_is_scored_by_its_pair_and_ties_without_video(
    world: Path, frozen: Path, tmp_path: Path
) -> None:
    arguments = [
        *choices(world, frozen, tmp_path / "mcq.jsonl"),
        "--out",
        str(tmp_path / "p.jsonl"),
    ]
    assert evaluate.main(arguments) == 0
    rows = read_test_set("diffmcq", tmp_path / "mcq.jsonl")
    predictions = read_predictions("diffmcq", tmp_path / "p.jsonl", rows)
    model, features, _ = load_video_lm(frozen, Store.open(world / "features"))
    for row, scores in list(zip(rows, predictions, strict=True))[::7]:
        turn = Turn(
            DIFFERENCE_QUESTION.format(category=row.category),
            row.difference,
            DIFFMCQ_SEED,
            ends=False,
        )
        for pair, value in zip(row.options, scores, strict=True):
            with torch.inference_mode():
                clips = model.project(features.read(list(pair)))
                assert value == pytest.approx(
                    model.log_likelihoods([[turn]], clips, mean=True)[0][0], abs=1e-4
                )
    assert len({value for scores in predictions for value in scores}) == 8 * 23, (
        "eight pairs, 23 texts each"
    )
    assert evaluate.main([*arguments, "--control", "blind"]) == 0
    assert all(
        len(set(scores)) == 1 for scores in read_predictions("diffmcq", tmp_path / "p.jsonl", rows)
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "video-lm"], "--view is for vlemb, llava, .*, and video-lm does not"),
        (
            ["--pair-embedding", "candidate"],
            "--pair-embedding is for diffmcq, and diffrank does not",
        ),
        (["--head", "runs/x"], "--head is for video-lm, .*, and vlemb does not"),
        (["--control", "blind"], "--control is for video-lm, .* and vlemb does not"),
        (["--similarity"], "--similarity is for diffcap"),
        (["--decline-at", "0"], "--decline-at is for diffcap, and diffrank does not"),
        (["--no-seeded"], "--seeded is for diffcap, and diffrank does not"),
        (["--ask-similar"], "--ask-similar is for "),
        (["--no-difference", "x.jsonl"], "--no-difference is for diffcap, and diffrank does not"),
        (["--rows-at-once", "0"], "--rows-at-once 0 is too small: give 1 or more"),
        (["--seed", "-1"], "--seed -1 is too small: give 0 or more"),
        (["--workers", "0"], "--workers 0 is too small"),
        (
            ["--out", "s3://bucket/p.jsonl"],
            "--out s3://bucket/p.jsonl is a URL: give a path of a file system",
        ),
    ],
)
def test_an_option_that_is_not_read_is_refused(
    world: Path, tmp_path: Path, capsys: Capture, more: list[str], message: str
) -> None:
    assert (
        evaluate.main(
            [*command(world, ranking(tmp_path / "set.jsonl"), tmp_path / "p.jsonl"), *more]
        )
        == 2
    )
    error = capsys.readouterr().err.strip()
    assert re.search(message, error) and "\n" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["set.jsonl"]


def test_answers_of_other_features_or_models_are_not_used(
    world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    features = str(shutil.copytree(world / "features", tmp_path / "features"))
    shutil.copytree(tiny_lm, tmp_path / "lm")
    (tmp_path / "texts.parquet").write_bytes(b"texts")
    paths = {"texts": str(tmp_path / "texts.parquet"), "language_model": str(tmp_path / "lm")}
    seeing = EvaluateOptions("diffrank", "vlemb", "p.jsonl", "set", store=features, view="visual")
    reading = EvaluateOptions("diffrank", "socratic", "p.jsonl", "set", store=features, **paths)
    before = [identity(options, [], Store.open(features)) for options in (seeing, reading)]
    assert before == [identity(options, [], Store.open(features)) for options in (seeing, reading)]
    (tmp_path / "lm/config.json").write_text((tmp_path / "lm/config.json").read_text() + " ")
    assert drop(DropOptions(features, "visual", yes=True))["dropped"]
    store = Store.open(features)
    with store.lock():
        store.create_view(
            "clips", "visual", provenance("another"), {"embedding": Feature((24,), "float32")}
        )
    after = [identity(options, [], Store.open(features)) for options in (seeing, reading)]
    assert after[0] != before[0] and after[1] != before[1]


@pytest.mark.parametrize("name", ["p.jsonl", "p.rows.jsonl", "p.scores.json", "p.partial.jsonl"])
def test_no_file_that_is_read_is_written(
    world: Path, tmp_path: Path, capsys: Capture, name: str
) -> None:
    test_set = ranking(tmp_path / name)
    before = test_set.read_bytes()
    refuses(
        evaluate.main,
        command(world, test_set, tmp_path / "p.jsonl"),
        capsys,
        "would overwrite it; name another",
    )
    assert [path.name for path in tmp_path.iterdir()] == [name] and test_set.read_bytes() == before


def test_an_absent_clip_is_reported_at_once(world: Path, tmp_path: Path, capsys: Capture) -> None:
    lacking = DiffRank(
        CLIPS[0], (CLIPS[1], "no_0_1", "never_0_1", CLIPS[2]), "Visuals", (1, 2, 3, 4)
    )
    test_set = ranking(tmp_path / "set.jsonl", [lacking, lacking])
    arguments = command(world, test_set, tmp_path / "p.jsonl")
    refuses(
        evaluate.main,
        arguments,
        capsys,
        "error: no_0_1: no visual features in ",
        "(absent: 2 clips",
    )
    assert not (tmp_path / "p.jsonl").exists() and not list(tmp_path.glob("*.partial*"))
    assert evaluate.main([*arguments, "--skip-missing", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["skipped"] == {"clips": 2, "rows": 2} and record["scores"]["rows"] == 12
    rows = read_test_set("diffrank", tmp_path / "p.rows.jsonl")
    assert len(rows) == len(read_predictions("diffrank", tmp_path / "p.jsonl", rows)) == 12
    write_test_set("diffrank", test_set, [lacking])
    refuses(evaluate.main, [*arguments, "--skip-missing"], capsys, "every row has a clip that")


def test_only_a_named_subset_is_answered(world: Path, tmp_path: Path, capsys: Capture) -> None:
    test_set, out = ranking(tmp_path / "set.jsonl"), tmp_path / "p.jsonl"
    (tmp_path / "names.txt").write_text("Serving / Presentation\nvideo-_2\n")
    assert (
        evaluate.main(
            command(world, test_set, out, "--subset", str(tmp_path / "names.txt"), "--json")
        )
        == 0
    )
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert {name: part["rows"] for name, part in scores["per_category"].items()} == {
        "Serving / Presentation": 6,
        "Visuals": 1,
    }
    rows = read_test_set("diffrank", out.with_suffix(".rows.jsonl"))
    assert [row.reference for row in rows] == [CLIPS[i] for i in (1, 2, 3, 5, 7, 9, 11)]
    assert evaluate.main(command(world, test_set, out)) == 0
    assert not out.with_suffix(".rows.jsonl").exists(), "all rows of the test set again"


class Writer:
    """A method that writes one caption for every pair."""

    def __init__(self, store: Store, view: str | None, device: str) -> None:
        pass

    def caption(self, rows: list) -> list[str]:
        return [RAW] * len(rows)


@pytest.fixture
def captions(world: Path, tmp_path: Path) -> list[str]:
    """The command that evaluates a method whose captions are all RAW."""
    arguments = [
        "--task",
        "diffcap",
        "--method",
        f"{__name__}:Writer",
        "--store",
        str(world / "features"),
    ]
    arguments += ["--bootstrap", "20", "--test-set", str(world / "diffcap_test.jsonl")]
    return [*arguments, "--out", str(tmp_path / "p.jsonl")]


def test_captions_are_post_processed_by_evaluate_or_by_score(
    captions: list[str], world: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert evaluate.main([*captions, "--json"]) == 0
    parsed = json.loads(capsys.readouterr().out)["scores"]
    assert json.loads((tmp_path / "p.jsonl").read_text())["generated_text"] == parse(RAW) != RAW
    assert evaluate.main([*captions, "--no-parse", "--json"]) == 0
    raw = json.loads(capsys.readouterr().out)["scores"]
    assert json.loads((tmp_path / "p.jsonl").read_text())["generated_text"] == RAW
    assert raw["BLEU"] != parsed["BLEU"]
    arguments = [
        "--task",
        "diffcap",
        "--test-set",
        str(world / "diffcap_test.jsonl"),
        "--bootstrap",
        "20",
        "--json",
    ]
    arguments += ["--predictions", str(tmp_path / "p.jsonl")]
    method = {"method": {"regime": None, "control": False}}
    assert score.main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == raw | method
    assert score.main([*arguments, "--parse"]) == 0
    assert json.loads(capsys.readouterr().out) == parsed | method


def test_pairs_that_agree_are_evaluated_with_no_difference(
    captions: list[str], world: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert not declines(RAW)
    more = ["--no-difference", str(ranking(tmp_path / "rank.jsonl"))]
    assert evaluate.main([*captions, *more, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["scores"]
    assert (
        record["rows"],
        record["no_difference_rows"],
        record["invented"],
        record["declined"],
    ) == (25, 24, 1, 0)
    assert evaluate.main([*captions, *more, "--rows", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["no_difference_rows"] == 5
    rows = read_test_set("diffcap", tmp_path / "p.rows.jsonl")
    assert [bool(row.text) for row in rows] == [True] + [False] * 5


RANKED = [DiffRank("a_0_1", ("b_0_1", "c_0_1"), "Visuals", (5, number % 5)) for number in range(10)]
SCORED = [[number / 7, -number / 3] for number in range(10)]
STARTS = [0, 4, 8]
WHO: dict = {"options": {"method": "vlemb"}, "head": None}
BATCHES = [SCORED[:4], SCORED[4:8], SCORED[8:]]


def predict(out: Path, batches: int = 3, identity: dict = WHO) -> int:
    """Predict at most n batches as heads.evaluate does; return the number of rows that existed
    before."""
    with Partial(out, identity) as partial:
        stood = len(partial.resume(RANKED, STARTS))
        for start, batch in list(zip(STARTS, BATCHES, strict=True))[:batches]:
            if start >= stood:
                partial.add(batch)
        if batches == 3:
            write_predictions("diffrank", out, SCORED)
            partial.keep([])
    return stood


def whole_file(tmp_path: Path) -> bytes:
    write_predictions("diffrank", tmp_path / "whole.jsonl", SCORED)
    return (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.full
@given(
    st.integers(0, 10_000), st.sampled_from([b"", b"\0\0\0", b"{", b'{"scores": [1]}\n', b"\xff\n"])
)
def test_any_end_of_the_partial_file_gives_the_same_result(
    tmp_path_factory: pytest.TempPathFactory, cut: int, rubbish: bytes
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    out = folder / "p.jsonl"
    predict(out, 2)
    partial = folder / "p.partial.jsonl"
    data = partial.read_bytes()
    partial.write_bytes(data[: cut % (len(data) + 1)] + rubbish)
    assert predict(out) in (0, 4, 8)
    assert out.read_bytes() == whole_file(folder)


def test_answers_that_depend_on_anything_else_are_never_used(
    tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "p.jsonl"
    predict(out, 2)
    assert not capsys.readouterr().err
    assert predict(out, 1, WHO | {"head": "another"}) == 0
    assert "p.partial.jsonl: 8 answers of a killed run are removed" in capsys.readouterr().err
    assert predict(out) == 0, "those of the first are removed"
    predict(out, 2)
    assert predict(out) == 8
    predict(out, 1)
    partial = tmp_path / "p.partial.jsonl"
    partial.write_text(partial.read_text().replace("vlemb", "vlem"))
    assert predict(out) == 0


def test_two_evaluations_cannot_write_one_file_at_the_same_time(tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    with Partial(out, WHO) as partial:
        partial.resume(RANKED, STARTS)
        with (
            pytest.raises(StepDiffError, match="p.partial.jsonl: another run is writing it"),
            Partial(out, WHO),
        ):
            pass
        partial.add(SCORED[:4])
    assert predict(out) == 4


OPTIONS = (("a_0_1", "b_0_1"), ("v-_x_0_1", "d_0_1"), ("e_0_1", "f_0_1"), ("g_0_1", "h_0_1"))
ROWS = [
    DiffCap("a_0_1", "b_0_1", "Visuals", ("x",)),
    DiffMCQ("x", "Serving / Presentation", OPTIONS, OPTIONS[1]),
    DiffRank("a_2_3", ("b_0_1",), "Actions", (5,)),
    DiffRank("b_0_1", ("a_0_1",), "Actions", (5,)),
]


def test_every_name_selects_a_row_or_is_refused() -> None:
    with pytest.raises(
        StepDiffError, match="subset: 'h_0_1' is not a category, reference video or .* test set$"
    ):
        named(ROWS, "a,h_0_1")
    with pytest.raises(StepDiffError, match=r"subset: 'actions' is not a .* \(2 such names\)"):
        named(ROWS, "actions,b_0_9")
    assert named(ROWS, "Actions, v-_x,b_0_1,") == ["Actions", "v-_x", "b_0_1"]
    for names, places in (
        (["Actions"], [2, 3]),
        (["a"], [0, 2]),
        (["a_2_3"], [2]),
        (["b", "Visuals"], [0, 3]),
    ):
        assert select(ROWS, names) == [ROWS[place] for place in places], (
            "in the order of the test set"
        )


@pytest.mark.full
def test_an_unfinished_training_is_named_and_starts_no_other(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    half = tmp_path / "half"
    shutil.copytree(trained, half, ignore=shutil.ignore_patterns("checkpoint-*"))
    shutil.copytree(trained / "checkpoint-000006", half / "checkpoint-000002")
    change_state(half / "checkpoint-000002", step=2, best_step=2, best_score=0.5)
    Run(half).name_best(half / "checkpoint-000002", 2, 0.5)
    out = tmp_path / "p.jsonl"
    command = [
        "--task",
        "diffrank",
        "--method",
        "video-lm",
        "--head",
        str(half),
        "--store",
        str(world / "features"),
    ]
    command += ["--test-set", str(world / "diffrank_test.jsonl"), "--out", str(out), "--json"]
    capsys.readouterr()
    assert evaluate.main(command) == 0
    printed = capsys.readouterr()
    assert (
        f"{half}: trained 2 of 6 steps so far; checkpoint-000002 is the best of them" in printed.err
    )
    disclosed = json.loads(printed.out)["disclosed"]["recipe"]
    assert (disclosed["steps"], disclosed["trained"], disclosed["checkpoint"]) == (
        6,
        2,
        "checkpoint-000002",
    )
    start = ["--config", str(recipe(world, tiny_lm, tmp_path / "next", init=str(half)))]
    refuses(train.main, start, capsys, f"{half}: trained only 2 of its 6 steps; finish it first")
    assert not (tmp_path / "next").exists()


def test_evaluate_writes_predictions_that_score_again(
    trained: Path, world: Path, tmp_path: Path, capsys: Capture
) -> None:
    capsys.readouterr()
    for task in ("diffmcq", "diffrank", "diffcap"):
        out = tmp_path / f"{task}.jsonl"
        test_set = str(world / f"{task}_test.jsonl")
        assert (
            evaluate.main(
                evaluation(world, task, "stepdiff", out, "--head", str(trained), "--json")
            )
            == 0
        )
        record = json.loads(capsys.readouterr().out)
        assert (
            score.main(
                ["--task", task, "--test_set", test_set, "--predictions", str(out), "--json"]
            )
            == 0
        )
        assert json.loads(capsys.readouterr().out)["rows"] == record["scores"]["rows"]
        assert record["disclosed"]["recipe"]["lora"]


def test_controls_change_what_is_seen(trained: Path, world: Path, tmp_path: Path) -> None:
    written = {}
    for control in ("none", "blind", "shuffled"):
        out = tmp_path / f"{control}.jsonl"
        more = ["--head", str(trained), "--control", control, "--rows", "1"]
        assert evaluate.main(evaluation(world, "diffrank", "stepdiff", out, *more)) == 0
        written[control] = json.loads(out.read_text())["scores"]
        assert len(out.with_suffix(".rows.jsonl").read_text().splitlines()) == 1
    assert len(set(written["blind"])) == 1, "without video every target is the same"
    assert written["none"] != written["shuffled"] and len(set(written["none"])) > 1


def test_a_file_of_evaluations_gives_the_same_bytes_and_loads_a_head_once(
    trained: Path,
    world: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads = []
    monkeypatch.setattr(
        Run, "load", lambda *all, load=Run.load, **by: loads.append(load(*all, **by))
    )
    monkeypatch.setattr(loading, "_kept", {})
    head, lines = ["--head", str(trained)], []
    for folder in ("alone", "together"):
        (tmp_path / folder).mkdir()
        runs = [
            evaluation(world, "diffmcq", "video-lm", tmp_path / folder / "a.jsonl", *head),
            evaluation(world, "diffrank", "random", tmp_path / folder / "b.jsonl"),
            evaluation(
                world,
                "diffrank",
                "video-lm",
                tmp_path / folder / "c.jsonl",
                *head,
                "--control=blind",
            ),
        ]
        if folder == "alone":
            for run in runs:
                monkeypatch.setattr(loading, "_kept", {})
                assert evaluate.main(run) == 0
        else:
            lines = [shlex.join(run) for run in runs]
    assert len(loads) == 2
    loads.clear()
    monkeypatch.setattr(loading, "_kept", {})
    refused = shlex.join(evaluation(world, "diffmcq", "none", tmp_path / "d.jsonl"))
    (tmp_path / "all.txt").write_text("\n".join(["# mine", lines[0], refused, "--no", *lines[1:]]))
    capsys.readouterr()
    assert evaluations.main([str(tmp_path / "all.txt")]) == 1
    errors = capsys.readouterr().err
    for number in (3, 4):
        assert f"{tmp_path}/all.txt:{number}: not evaluated, for the reason above" in errors
    assert "--method none: no such method" in errors and len(loads) == 1
    for path in sorted((tmp_path / "alone").iterdir()):
        together = (tmp_path / "together" / path.name).read_bytes()
        assert together.replace(b"/together/", b"/alone/") == path.read_bytes(), path.name
    (tmp_path / "all.txt").write_text("--task 'diffmcq")
    assert evaluations.main([str(tmp_path / "all.txt")]) == 2
    assert "all.txt:1: No closing quotation; correct the line" in capsys.readouterr().err


@pytest.mark.full
def test_decline_at_changes_the_captions_of_similar_pairs_only(
    trained: Path, world: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "p.jsonl"
    more = [
        "--head",
        str(trained),
        "--no-parse",
        "--json",
        "--no-difference",
        str(world / "diffrank_test.jsonl"),
    ]
    command = evaluation(world, "diffcap", "video-lm", out, *more)

    def captions_with(*more: str) -> list[str]:
        assert evaluate.main([*command, *more]) == 0
        return [json.loads(line)["generated_text"] for line in out.read_text().splitlines()]

    captions, rows = captions_with(), read_test_set("diffcap", out.with_suffix(".rows.jsonl"))
    model, features, _ = load_video_lm(trained, Store.open(world / "features"), "cpu")
    with autocast("cpu", "bfloat16"):
        alike = StepDiff(model, features).alike(
            [((row.reference, row.candidate), row.category) for row in rows]
        )
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
    assert record["scores"]["invented"] == np.mean(
        [not d for d, a in zip(declined, agree, strict=True) if a]
    )
    assert f"> {between:g}: Do the two videos share" in record["disclosed"]["protocol"]["declines"]
    assert captions_with("--decline-at", "1000") == captions
    capsys.readouterr()
    assert captions_with("--no-seeded") != captions, (
        "the model is not made to begin with a difference"
    )
    assert json.loads(capsys.readouterr().out)["disclosed"]["protocol"]["seed"] is None
    refuses(
        evaluate.main, [*command, "--decline-at", ".inf"], capsys, "--decline-at inf is not finite"
    )


@pytest.mark.full
def test_ask_similar_changes_no_caption(
    frozen: Path, world: Path, tmp_path: Path, capsys: Capture
) -> None:
    plain, asked = tmp_path / "plain.jsonl", tmp_path / "asked.jsonl"
    more = ["--head", str(frozen), "--json", "--rows-at-once", "2"]
    more += ["--no-difference", str(world / "diffrank_test.jsonl"), "--bootstrap", "20"]
    assert evaluate.main(evaluation(world, "diffcap", "video-lm", plain, *more)) == 0
    capsys.readouterr()
    assert (
        evaluate.main(evaluation(world, "diffcap", "video-lm", asked, *more, "--ask-similar")) == 0
    )
    record = json.loads(capsys.readouterr().out)
    lines = [json.loads(line) for line in asked.read_text().splitlines()]
    assert [{"generated_text": line["generated_text"]} for line in lines] == [
        json.loads(line) for line in plain.read_text().splitlines()
    ]
    rows = read_test_set("diffcap", asked.with_suffix(".rows.jsonl"))
    model, features, _ = load_video_lm(frozen, Store.open(world / "features"), "cpu")
    with autocast("cpu", "float32"):
        alike = StepDiff(model, features).alike(
            [((row.reference, row.candidate), row.category) for row in rows]
        )
    similar = [line["similar"] for line in lines]
    np.testing.assert_allclose(similar, alike, atol=1e-4)
    declined = [line["similar"] > 0 or "no difference" in line["generated_text"] for line in lines]
    agree = [not row.text for row in rows]
    expected = np.mean([not d for d, a in zip(declined, agree, strict=True) if a])
    assert record["scores"]["asked_first"]["invented"] == expected
    assert "Do the two videos share" in record["disclosed"]["protocol"]["similar"]["question"]
    arguments = [
        "--task",
        "diffcap",
        "--test-set",
        str(asked.with_suffix(".rows.jsonl")),
        "--bootstrap",
        "20",
    ]
    arguments += ["--predictions", str(asked)]
    assert score.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["asked_first"] == record["scores"]["asked_first"]
    assert score.main(arguments) == 0
    assert "invented, asked first" in capsys.readouterr().out
    both = [*more, "--ask-similar", "--decline-at", "0"]
    arguments = evaluation(world, "diffcap", "video-lm", tmp_path / "x.jsonl", *both)
    refuses(evaluate.main, arguments, capsys, "--ask-similar keeps captions as written")


def test_ask_answers_and_refuses_in_one_line(
    trained: Path, world: Path, tmp_path: Path, capsys: Capture
) -> None:
    both = ["--reference", CLIPS[0], "--candidate", CLIPS[1]]
    where = ["--head", str(trained), "--store", str(world / "features"), "--max_tokens", "4"]
    assert ask.main([*both, *where, "What differs?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["question"] == "What differs?"
    assert ask.main([*both, *where, "--preset", "mistake", "--json"]) == 0
    assert "what mistake did I make" in json.loads(capsys.readouterr().out)["question"]
    refuses(
        ask.main,
        [*both, *where, "--preset", "nothing"],
        capsys,
        "no preset 'nothing'; there are tools",
    )
    refuses(
        ask.main,
        [*both, *where, "Why?", "--max-tokens", "0"],
        capsys,
        "--max-tokens 0 is too small: give 1",
    )
    unknown = ["--reference", "no_0_1", *both[2:], *where, "Why?"]
    refuses(ask.main, unknown, capsys, "no_0_1: no visual features in the store (unknown)")
    (tmp_path / "a.mp4").write_bytes(b"")
    file = ["--reference", str(tmp_path / "a.mp4"), *both[2:], *where, "Why?"]
    refuses(ask.main, file, capsys, "for files run stepdiff compare")


def test_a_report_in_an_object_store_leaves_no_local_folder(
    entries: list[PredictionEntry], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config(entries, tmp_path / "report.yaml")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert report.main(["--config", path, "--bootstrap", "0", "--out", f"{bucket}/report"]) == 0
    assert {"report.json", "report.md", "report.tex"} <= {
        file.name for file in place(f"{bucket}/report").files()
    }
    assert not list((tmp_path / "here").iterdir())
