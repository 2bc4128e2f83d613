"""Guarantees of tasks/scoring.py, and the command heads.score."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from scipy.stats import kendalltau

from common.errors import StepDiffError
from heads.score import main
from tasks.captions import cider_rows, count_corpus
from tasks.scoring import score
from tasks.testsets import DiffCap, DiffMCQ, DiffRank, Row, Task, read_test_set, write_predictions, write_test_set

REAL = Path(__file__).parents[3] / "shared/data/stepdiff/diffrank_dataset.jsonl"
CATEGORIES = ("Actions", "Visuals", "[/odd]")


def clip(random: np.random.Generator) -> str:
    return f"video_{random.integers(12)}_{random.integers(50)}.5_{random.integers(50, 99)}"


def words(random: np.random.Generator, least: int = 1) -> str:
    return " ".join(random.choice(list("abcdefgh"), random.integers(least, 10)))


def world(task: Task, rows: int = 60, seed: int = 0) -> tuple[list[Row], list[Any]]:
    """Return random rows and predictions; no row of diffrank is constant on either side."""
    random = np.random.default_rng(seed)
    found: list[tuple[Row, Any]] = []
    while len(found) < rows:
        category = CATEGORIES[len(found) % 3]
        if task == "diffcap":
            texts = tuple(words(random) for _ in range(random.integers(1, 5)))
            found.append((DiffCap(clip(random), clip(random), category, texts), words(random, 0)))
        elif task == "diffmcq":
            options = tuple((clip(random), clip(random)) for _ in range(4))
            answer = options[random.integers(4)]
            scores = random.integers(0, 6, 4).astype(float).tolist()
            found.append((DiffMCQ(words(random), category, options, answer), scores))
        else:
            targets = int(random.integers(2, 6))
            truth = tuple(int(s) for s in random.integers(0, 6, targets))
            scores = random.integers(0, 4, targets).astype(float).tolist()
            if len(set(truth)) > 1 and len(set(scores)) > 1:
                clips = tuple(clip(random) for _ in range(targets))
                found.append((DiffRank(clip(random), clips, category, truth), scores))
    return [row for row, _ in found], [prediction for _, prediction in found]


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
    found = score(task, rows, predictions, bootstrap=50)
    expected = published(task, rows, predictions)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12)
        low, high = found["intervals"][name]
        assert low < value < high
    assert found["rows"] == 60 and found["videos"] == 12
    for number, category in enumerate(CATEGORIES):
        own = found["per_category"][category]
        assert own["rows"] == 20
        alone = published(task, rows[number::3], predictions[number::3])
        for name in expected.keys() - {"CIDEr"}:
            assert own[name] == pytest.approx(alone[name], rel=1e-12)


def test_the_order_of_preference_is_that_of_the_scores() -> None:
    rows, _ = world("diffrank")
    assert score("diffrank", rows, [list(row.scores) for row in rows])["ktau"] == 1
    best, _ = world("diffmcq")
    right = [[float(o == row.answer) for o in row.options] for row in best]
    assert score("diffmcq", best, right)["accuracy"] == 1


def test_a_categorys_cider_keeps_the_document_frequencies_of_the_whole_test_set() -> None:
    rows, predictions = world("diffcap")
    references = [row.text for row in rows]
    found = score("diffcap", rows, predictions, bootstrap=0)["per_category"]["Actions"]["CIDEr"]
    assert found == pytest.approx(cider_rows(count_corpus(references, predictions))[::3].mean(), rel=1e-12)
    assert found != pytest.approx(cider_rows(count_corpus(references[::3], predictions[::3])).mean(), rel=1e-3)


def test_the_result_contains_null_instead_of_nan() -> None:
    rows, predictions = world("diffrank")
    whole = score("diffrank", rows, predictions, bootstrap=50)
    predictions[0] = [1.0] * len(predictions[0])
    found = score("diffrank", rows, predictions, bootstrap=50)
    assert found["ktau"] is None and found["intervals"]["ktau"] is None
    assert found["nan_rows"] == 1
    assert found["per_category"]["Actions"]["ktau"] is None
    assert found["per_category"]["Visuals"] == whole["per_category"]["Visuals"]
    rest = published("diffrank", rows[1:], predictions[1:])["ktau"]
    assert found["ktau_defined"] == pytest.approx(rest, rel=1e-12)
    json.dumps(found, allow_nan=False)
    only = score("diffrank", rows[:1], predictions[:1])
    assert only["ktau_defined"] is only["ktau_all_rows"] is only["ktau_within_step"] is None
    json.dumps(only, allow_nan=False)


def test_within_the_step_only_targets_above_zero_count() -> None:
    row = DiffRank("a_0_1", ("b_0_1", "c_0_1", "d_0_1", "e_0_1"), "Visuals", (0, 0, 3, 5))
    swapped = [0.0, 0.0, 5.0, 3.0]
    constant = DiffRank("a_0_1", ("b_0_1", "c_0_1", "d_0_1", "e_0_1"), "Visuals", (0, 0, 3, 3))
    found = score("diffrank", [row, constant], [swapped, [0.0, 1.0, 2.0, 3.0]])
    assert found["ktau_within_step"] == -1 and found["within_step_rows"] == 1
    assert found["ktau_defined"] > 0


def test_ties_gain_a_method_nothing() -> None:
    rows = [DiffRank("a_0_1", ("b_0_1", "c_0_1", "d_0_1"), name, (0, 3, 5)) for name in ("Visuals", "Actions")]
    found = score("diffrank", rows, [[1.0, 2.0, 3.0], [1.0, 2.0, 2.0]])
    assert (found["ktau_within_step"], found["ktau_within_step_all_rows"]) == (1, 0.5)
    found = score("diffrank", rows, [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]])
    assert (found["ktau_defined"], found["ktau_all_rows"]) == (pytest.approx(1), pytest.approx(0.5))
    assert found["per_category"]["Actions"]["ktau_all_rows"] == 0
    found = score("diffrank", rows, [[2.0, 2.0, 2.0]] * 2)
    assert found["ktau_all_rows"] is found["ktau_within_step_all_rows"] is None


def test_ties_go_to_the_first_and_are_counted() -> None:
    options = (("a_0_1", "b_0_1"), ("c_0_1", "d_0_1"), ("e_0_1", "f_0_1"), ("g_0_1", "h_0_1"))
    rows = [DiffMCQ("x", "Visuals", options, options[i]) for i in (0, 1, 2)]
    found = score("diffmcq", rows, [[1.0, 1.0, 0.0, 0.0]] * 2 + [[0.0, 0.0, 1.0, 0.5]])
    assert found["ties"] == 2
    assert found["accuracy"] == pytest.approx(2 / 3)


def test_the_same_seed_gives_the_same_result() -> None:
    rows, predictions = world("diffcap")
    assert score("diffcap", rows, predictions, 50, 1) == score("diffcap", rows, predictions, 50, 1)
    other = score("diffcap", rows, predictions, 50, 2)["intervals"]
    assert other != score("diffcap", rows, predictions, 50, 1)["intervals"]


def test_predictions_that_do_not_fit_are_refused() -> None:
    rows, predictions = world("diffmcq", 3)
    with pytest.raises(StepDiffError, match="prediction 3: 3 scores for a row that needs 4"):
        score("diffmcq", rows, [*predictions[:2], [1.0, 2.0, 3.0]])
    with pytest.raises(StepDiffError, match="2 predictions for 3 rows"):
        score("diffmcq", rows, predictions[:2])
    with pytest.raises(StepDiffError, match="0 predictions for 0 rows"):
        score("diffmcq", [], [])
    with pytest.raises(StepDiffError, match="not every row is one of diffrank"):
        score("diffrank", rows, predictions)
    with pytest.raises(StepDiffError, match="neither may be negative"):
        score("diffmcq", rows, predictions, bootstrap=-1)


@pytest.mark.skipif(not REAL.exists(), reason="the published DiffRank test set is not here")
def test_the_published_test_set_is_scored_in_seconds() -> None:
    rows = read_test_set("diffrank", REAL)
    random = np.random.default_rng(0)
    predictions = [random.normal(size=4).tolist() for _ in rows]
    start = time.perf_counter()
    found = score("diffrank", rows, predictions)
    assert time.perf_counter() - start < 5  # it takes 0.3 s on one free core
    assert abs(found["ktau"]) < 0.05
    assert found["per_category"].keys() == {row.category for row in rows}
    steps = [[float(score > 0) for score in row.scores] for row in rows]
    oracle = score("diffrank", rows, steps, bootstrap=0)
    assert oracle["ktau_within_step"] is oracle["ktau_within_step_all_rows"] is None and oracle["ktau_defined"] > 0.7
    share = 1 - oracle["nan_rows"] / len(rows)
    assert oracle["ktau_all_rows"] == pytest.approx(oracle["ktau_defined"] * share, rel=1e-12) and share < 1


def files(task: Task, folder: Path) -> list[str]:
    rows, predictions = world(task)
    write_test_set(task, folder / "set.jsonl", rows)
    write_predictions(task, folder / "predictions.jsonl", predictions)
    given = ["--task", task, "--test-set", str(folder / "set.jsonl"), "--bootstrap", "50"]
    return [*given, "--predictions", str(folder / "predictions.jsonl")]


@pytest.mark.parametrize("task", TASKS)
def test_the_command_prints_the_result_of_score(task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = files(task, tmp_path)
    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == score(task, *world(task), bootstrap=50)
    assert main(given) == 0
    table = capsys.readouterr().out
    assert all(category in table for category in CATEGORIES)
    for name, (low, high) in found["intervals"].items():
        line = next(line for line in table.splitlines() if f" {name} " in line)
        assert all(f"{value:.4f}" in line for value in (found[name], low, high))


def test_the_command_reports_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = files("diffmcq", tmp_path)
    with open(tmp_path / "predictions.jsonl", "a") as file:
        file.write('{"scores": [0, 0, 0, 0]}\n')
    assert main(given) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and "predictions.jsonl:61:" in printed.err
    assert printed.err.count("\n") == 1
    with pytest.raises(SystemExit) as stopped:
        main(["--task", "diffmouse"])
    assert stopped.value.code == 2
