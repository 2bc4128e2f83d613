"""Scores of the three tasks against the published evaluation, and the command heads.score."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from scipy.stats import kendalltau

from heads import evaluate, report, table
from heads.score import main
from stepdiff.kitchen.files.testsets import diffcap
from stepdiff.kitchen.world import make_world
from stepdiff_core.tasks.captions import cider_rows, count_corpus
from stepdiff_core.tasks.scoring import score
from stepdiff_core.tasks.testsets import (
    DiffCap,
    DiffMCQ,
    DiffRank,
    Row,
    Task,
    write_predictions,
    write_test_set,
)
from tests.refusals import refuses

CATEGORIES = ("Actions", "Visuals", "[/odd]")


def clip(random: np.random.Generator) -> str:
    return f"video_{random.integers(12)}_{random.integers(50)}.5_{random.integers(50, 99)}"


def words(random: np.random.Generator, least: int = 1) -> str:
    return " ".join(random.choice(list("abcdefgh"), random.integers(least, 10)))


def world(task: Task, rows: int = 60, seed: int = 0) -> tuple[list[Row], list[Any]]:
    """Return random rows and predictions; no row of diffrank is constant on either side."""
    random = np.random.default_rng(seed)
    results: list[tuple[Row, Any]] = []
    while len(results) < rows:
        category = CATEGORIES[len(results) % 3]
        if task == "diffcap":
            texts = tuple(words(random) for _ in range(random.integers(1, 5)))
            results.append((DiffCap(clip(random), clip(random), category, texts), words(random, 0)))
        elif task == "diffmcq":
            options = tuple((clip(random), clip(random)) for _ in range(4))
            answer = options[random.integers(4)]
            scores = random.integers(0, 6, 4).astype(float).tolist()
            results.append((DiffMCQ(words(random), category, options, answer), scores))
        else:
            targets = int(random.integers(2, 6))
            truth = tuple(int(s) for s in random.integers(0, 6, targets))
            scores = random.integers(0, 4, targets).astype(float).tolist()
            if len(set(truth)) > 1 and len(set(scores)) > 1:
                clips = tuple(clip(random) for _ in range(targets))
                results.append((DiffRank(clip(random), clips, category, truth), scores))
    return [row for row, _ in results], [prediction for _, prediction in results]


def published(task: Task, rows: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Return the scores of the published evaluation code."""
    if task == "diffcap":
        references = {str(i): list(row.text) for i, row in enumerate(rows)}
        captions = {str(i): [caption] for i, caption in enumerate(predictions)}
        return {
            "BLEU": Bleu().compute_score(references, captions, verbose=0)[0][0],
            "CIDEr": Cider().compute_score(references, captions)[0],
            "ROUGE-L": Rouge().compute_score(references, captions)[0],
        }
    if task == "diffmcq":
        answers = np.array([row.options.index(row.answer) for row in rows])
        return {"accuracy": (np.array(predictions).argmax(1) == answers).mean()}
    taus = [kendalltau(p, row.scores).statistic for row, p in zip(rows, predictions, strict=True)]
    return {"ktau": float(np.mean(taus))}


TASKS: list[Task] = ["diffcap", "diffmcq", "diffrank"]


@pytest.mark.parametrize("task", TASKS)
def test_equal_to_the_published_evaluation(task: Task) -> None:
    rows, predictions = world(task)
    scores = score(task, rows, predictions, bootstrap=50)
    expected = published(task, rows, predictions)
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, rel=1e-12)
        low, high = scores["intervals"][name]
        assert low < value < high
    assert scores["rows"] == 60 and scores["videos"] == 12
    for number, category in enumerate(CATEGORIES):
        own = scores["per_category"][category]
        assert own["rows"] == 20
        alone = published(task, rows[number::3], predictions[number::3])
        for name in expected.keys() - {"CIDEr"}:
            assert own[name] == pytest.approx(alone[name], rel=1e-12)


def test_cider_of_a_category_keeps_all_document_frequencies() -> None:
    rows, predictions = world("diffcap")
    references = [row.text for row in rows]
    scores = score("diffcap", rows, predictions, bootstrap=0)["per_category"]["Actions"]["CIDEr"]
    assert scores == pytest.approx(
        cider_rows(count_corpus(references, predictions))[::3].mean(), rel=1e-12
    )
    assert scores != pytest.approx(
        cider_rows(count_corpus(references[::3], predictions[::3])).mean(), rel=1e-3
    )


def test_the_result_contains_null_instead_of_nan() -> None:
    rows, predictions = world("diffrank")
    whole = score("diffrank", rows, predictions, bootstrap=50)
    predictions[0] = [1.0] * len(predictions[0])
    scores = score("diffrank", rows, predictions, bootstrap=50)
    assert scores["ktau"] is None and scores["intervals"]["ktau"] is None
    assert scores["nan_rows"] == 1
    assert scores["per_category"]["Actions"]["ktau"] is None
    assert scores["per_category"]["Visuals"] == whole["per_category"]["Visuals"]
    rest = published("diffrank", rows[1:], predictions[1:])["ktau"]
    assert scores["ktau_defined"] == pytest.approx(rest, rel=1e-12)
    json.dumps(scores, allow_nan=False)
    only = score("diffrank", rows[:1], predictions[:1])
    assert only["ktau_defined"] is only["ktau_all_rows"] is only["ktau_within_step"] is None
    json.dumps(only, allow_nan=False)


def test_within_the_step_only_targets_above_zero_count() -> None:
    row = DiffRank("a_0_1", ("b_0_1", "c_0_1", "d_0_1", "e_0_1"), "Visuals", (0, 0, 3, 5))
    swapped = [0.0, 0.0, 5.0, 3.0]
    constant = DiffRank("a_0_1", ("b_0_1", "c_0_1", "d_0_1", "e_0_1"), "Visuals", (0, 0, 3, 3))
    scores = score("diffrank", [row, constant], [swapped, [0.0, 1.0, 2.0, 3.0]])
    assert scores["ktau_within_step"] == -1 and scores["within_step_rows"] == 1
    assert scores["ktau_defined"] > 0


def test_ties_gain_a_method_nothing() -> None:
    rows = [
        DiffRank("a_0_1", ("b_0_1", "c_0_1", "d_0_1"), name, (0, 3, 5))
        for name in ("Visuals", "Actions")
    ]
    scores = score("diffrank", rows, [[1.0, 2.0, 3.0], [1.0, 2.0, 2.0]])
    assert (scores["ktau_within_step"], scores["ktau_within_step_all_rows"]) == (1, 0.5)
    scores = score("diffrank", rows, [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]])
    assert (scores["ktau_defined"], scores["ktau_all_rows"]) == (
        pytest.approx(1),
        pytest.approx(0.5),
    )
    assert scores["per_category"]["Actions"]["ktau_all_rows"] == 0
    scores = score("diffrank", rows, [[2.0, 2.0, 2.0]] * 2)
    assert scores["ktau_all_rows"] is scores["ktau_within_step_all_rows"] is None


def test_ties_go_to_the_first_and_are_counted() -> None:
    options = (("a_0_1", "b_0_1"), ("c_0_1", "d_0_1"), ("e_0_1", "f_0_1"), ("g_0_1", "h_0_1"))
    rows = [DiffMCQ("x", "Visuals", options, options[i]) for i in (0, 1, 2)]
    scores = score("diffmcq", rows, [[1.0, 1.0, 0.0, 0.0]] * 2 + [[0.0, 0.0, 1.0, 0.5]])
    assert scores["ties"] == 2
    assert scores["accuracy"] == pytest.approx(2 / 3)


def files(task: Task, folder: Path) -> list[str]:
    rows, predictions = world(task)
    write_test_set(task, folder / "set.jsonl", rows)
    write_predictions(task, folder / "predictions.jsonl", predictions)
    arguments = ["--task", task, "--test-set", str(folder / "set.jsonl"), "--bootstrap", "50"]
    return [*arguments, "--predictions", str(folder / "predictions.jsonl")]


@pytest.mark.parametrize("task", TASKS)
def test_the_command_prints_the_result_of_score(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = files(task, tmp_path)
    assert main([*arguments, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == score(task, *world(task), bootstrap=50)
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert all(category in table for category in CATEGORIES)
    for name, (low, high) in record["intervals"].items():
        line = next(line for line in table.splitlines() if f" {name} " in line)
        assert all(f"{value:.4f}" in line for value in (record[name], low, high))


ROWS = [
    {"reference": "a_0_1", "targets": ["b_0_1", "c_0_1"], "category": category, "scores": [5, 0]}
    for category in ("Visuals", "Serving / Presentation", "Never seen before")
]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    arguments = [
        "--task",
        "diffrank",
        "--test-set",
        str(tmp_path / "set.jsonl"),
        "--bootstrap",
        "0",
    ]
    return [*arguments, "--predictions", str(tmp_path / "said.jsonl"), "--json"]


@pytest.mark.parametrize(
    ("predictions", "more", "message"),
    [
        (['{"scores": [1, 0]}'] * 2, [], "said.jsonl:3: "),
        (['{"scores": [1, 0]}'] * 4, [], "said.jsonl:4: "),
        (['{"scores": [1, 0]}', '{"score": [1, 0]}'], [], "said.jsonl:2: the row has no 'scores'"),
        (
            ['{"scores": [1, 0]}', '{"scores": [1]}'],
            [],
            "said.jsonl:2: 1 scores for a row that needs 2",
        ),
        (['{"scores": [1, 0]}'] * 3, ["--parse", "true"], "--parse is for diffcap"),
        (
            ['{"scores": [1, 0]}'] * 3,
            ["--similarity", "true"],
            "--similarity is for diffcap, viddiff-open",
        ),
        (['{"scores": [1, 0]}'] * 3, ["--truth", "attributes.jsonl"], "--truth is for diffcap"),
        (
            ['{"scores": [1, 0]}'] * 3,
            ["--store", "features"],
            "--store is read only with --similarity",
        ),
    ],
)
def test_unfit_predictions_and_unread_options_are_refused(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    predictions: list[str],
    more: list[str],
    message: str,
) -> None:
    (tmp_path / "said.jsonl").write_text("".join(line + "\n" for line in predictions))
    refuses(main, [*command, *more], capsys, message)


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    """The test set and attributes of a world; predictions that are true, or of the other video in
    every second row."""
    clips = [clip for video in make_world(60, 5) for clip in video.clips]
    rows = diffcap([clip for clip in clips if clip.split == "test"], 8, 0, "test")
    texts = [
        ("In Video 1, " if at % 2 else "In Video 2, ") + row.text[0] for at, row in enumerate(rows)
    ]
    for name, lines in (
        ("attributes", [{"clip": clip.id, **asdict(clip.truth)} for clip in clips]),
        ("set", [asdict(row) for row in rows]),
        ("said", [{"generated_text": text} for text in texts]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.mark.full
def test_the_truth_score_is_the_same_everywhere(
    rendered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, arguments = (
        str(rendered / "attributes.jsonl"),
        (str(rendered / "set.jsonl"), str(rendered / "said.jsonl")),
    )
    command = [
        "--task",
        "diffcap",
        "--test-set",
        arguments[0],
        "--predictions",
        arguments[1],
        "--truth",
        truth,
    ]
    assert main([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert 0.2 < record["truth_precision"] < 0.8
    assert (
        record["truth_swapped"] == pytest.approx(1 - record["truth_precision"])
        and record["truth_invented"] == 0
    )
    assert main(command) == 0
    assert "truth_precision" in (printed := capsys.readouterr().out) and "truth swapped" in printed

    scores = {
        "options": {"task": "diffcap", "method": "medoid", "texts": "q"},
        "disclosed": {},
        "scores": record,
    }
    (rendered / "said.scores.json").write_text(json.dumps(scores))
    assert (
        table.main([str(rendered / "said.scores.json"), "--out", str(rendered / "table.json")]) == 0
    )
    assert "details that captions name" in (printed := capsys.readouterr().out)
    low, high = record["intervals"]["truth_recall"]
    # the interval may be in the line below its value
    assert f"{record['truth_recall']:.3f}" in printed and f"[{low:.2f}, {high:.2f}]" in printed
    assert json.loads((rendered / "table.json").read_text())["systems"][
        "control: one caption a category (q)"
    ]["truth_precision"] == {
        "value": record["truth_precision"],
        "interval": record["intervals"]["truth_precision"],
    }

    (rendered / "said.scores.json").unlink()
    entry = {
        "method": "ours",
        "task": "diffcap",
        "test_set": arguments[0],
        "predictions": arguments[1],
    }
    config = rendered / "report.yaml"
    config.write_text(json.dumps({"predictions": [entry], "truth": truth}))
    assert report.main(["--config", str(config), "--json", "--bootstrap", "1000"]) == 0
    reported = {score["metric"]: score for score in json.loads(capsys.readouterr().out)["scores"]}
    for name in ("precision", "recall", "swapped", "shared", "invented"):
        assert reported[f"truth_{name}"]["value"] == record[f"truth_{name}"]
        assert reported[f"truth_{name}"]["interval"] == record["intervals"][f"truth_{name}"]


def test_rows_of_another_world_are_refused_at_once(
    rendered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (rendered / "attributes.jsonl").read_text().splitlines(keepends=True)
    (rendered / "attributes.jsonl").write_text("".join(lines[:9]))
    command = [
        "--task",
        "diffcap",
        "--test-set",
        str(rendered / "set.jsonl"),
        "--truth",
        str(rendered / "attributes.jsonl"),
    ]
    more = [
        "--method",
        "medoid",
        "--texts",
        "none.jsonl",
        "--store",
        str(rendered),
        "--out",
        str(rendered / "p.jsonl"),
    ]
    refuses(
        evaluate.main,
        [*command, *more],
        capsys,
        "; name the attributes.jsonl of the test set's world",
    )
    assert not list(rendered.glob("p.*"))
