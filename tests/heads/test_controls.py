"""Guarantees of heads.methods.controls, each control against a naive one."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heads import evaluate
from heads.methods.controls import Chance, Rarest, StepOracle, fit, medoid
from store import Store
from tasks.postprocess import parse
from tasks.prompts import SIMILAR_QUESTION
from tasks.testsets import DiffCap, DiffMCQ, DiffRank, clips_of, read_test_set, write_test_set

CLIPS = [f"video-_{i}_0.0_{i + 1}.5" for i in range(24)]


def choices(count: int = 40) -> list[DiffMCQ]:
    random = np.random.default_rng(1)
    rows = []
    for number in range(count):
        options = tuple(tuple(str(clip) for clip in random.choice(CLIPS, 2, replace=False)) for _ in range(4))
        rows.append(DiffMCQ(f"text {number}", "Visuals", options, options[number % 4]))  # type: ignore[arg-type]
    return rows


def ranks(count: int = 40) -> list[DiffRank]:
    random = np.random.default_rng(2)
    found = [[str(clip) for clip in random.choice(CLIPS, 6, replace=False)] for _ in range(count)]
    return [DiffRank(clips[0], tuple(clips[1:]), "Tools/Equipment", (0, 1, 2, 3, 5)) for clips in found]


def all_differ(scores: list[list[float]]) -> bool:
    return all(len(set(row)) == len(row) for row in scores)


def test_ties_are_broken_at_random_by_the_seed_and_the_rows_clips_and_category(world: Path) -> None:
    store = Store.open(world / "features")
    for rows, name in ((choices(), "score_options"), (ranks(), "rank")):
        for kind in (lambda seed: Chance(seed), lambda seed: StepOracle(store, seed)):
            scores = getattr(kind(3), name)(rows)
            assert all_differ(scores), "so every row has an order"
            assert scores == [getattr(kind(3), name)([row])[0] for row in rows], "whatever the batch"
            assert scores != getattr(kind(4), name)(rows)
    scores = Rarest(choices(), 3).score_options(choices())
    assert all_differ(scores) and scores != Rarest(choices(), 4).score_options(choices())
    other = [replace(row, category="Actions") for row in ranks()]
    assert Chance(3).rank(ranks()) != Chance(3).rank(other)


def test_no_control_reads_the_difference_text_of_a_diffmcq_row(world: Path) -> None:
    rows, others = choices(), [replace(row, difference="another text") for row in choices()]
    for method in (Chance(0), Rarest(rows, 0), StepOracle(Store.open(world / "features"), 0)):
        assert method.score_options(rows) == method.score_options(others)


def test_chance_chooses_each_option_equally_often_and_orders_at_random() -> None:
    rows = choices(2000)
    chosen = Counter(int(np.argmax(scores)) for scores in Chance(0).score_options(rows))
    assert all(abs(count / 2000 - 0.25) < 0.04 for count in chosen.values())
    first = np.argmax(Chance(0).rank(ranks(2000)), axis=1)
    assert np.allclose(np.bincount(first) / 2000, 0.2, atol=0.04)


def test_the_step_oracle_knows_only_the_step(world: Path) -> None:
    store = Store.open(world / "features")
    steps = dict(zip(*store.catalog("clips").frame()[["key", "step"]], strict=True))
    oracle = StepOracle(store, 0)
    for row, scores in zip(ranks(), oracle.rank(ranks()), strict=True):
        same = [steps[target] == steps[row.reference] for target in row.targets]
        assert [score >= 1 for score in scores] == same and all(0 <= score < 2 for score in scores)
    for one, scores in zip(choices(), oracle.score_options(choices()), strict=True):
        step = steps[one.answer[0]]
        assert [score >= 1 for score in scores] == [steps[a] == steps[b] == step for a, b in one.options]


def test_for_the_step_oracle_clips_without_a_step_share_no_step(world: Path) -> None:
    oracle = StepOracle(Store.open(world / "features"), 0)
    oracle.steps = {"a_0_1": None, "b_0_1": None, "c_0_1": "whisk", "d_0_1": "whisk"}
    row = DiffRank("a_0_1", ("b_0_1", "c_0_1"), "Visuals", (5, 0))
    other = DiffRank("c_0_1", ("a_0_1", "d_0_1"), "Visuals", (0, 5))
    assert [[score >= 1 for score in scores] for scores in oracle.rank([row, other])] == [[False] * 2, [False, True]]


def command(world: Path, task: str, method: str, out: Path, *more: str) -> list[str]:
    given = ["--task", task, "--method", method, "--store", str(world / "features"), "--bootstrap", "0"]
    return [*given, "--test-set", str(world / f"{task}_test.jsonl"), "--out", str(out), *more]


def answers(path: Path) -> list[Any]:
    return [next(iter(json.loads(line).values())) for line in path.read_text().splitlines()]


def test_rarest_counts_clips_among_the_rows_that_are_evaluated(world: Path, tmp_path: Path) -> None:
    write_test_set("diffmcq", tmp_path / "set.jsonl", choices())
    out = tmp_path / "p.jsonl"
    given = command(world, "diffmcq", "rarest", out, "--test-set", str(tmp_path / "set.jsonl"), "--rows", "25")
    assert evaluate.main(given) == 0
    rows = read_test_set("diffmcq", out.with_suffix(".rows.jsonl"))
    every = [clip for row in rows for option in row.options for clip in option]
    for row, scores in zip(rows, answers(out), strict=True):
        assert [int(np.floor(score)) for score in scores] == [-every.count(a) - every.count(b) for a, b in row.options]


def captions(tmp_path: Path) -> tuple[list[DiffCap], Path]:
    """Return rows of two categories and a file of predictions for them."""
    rows = [
        DiffCap(CLIPS[18 + i % 3], CLIPS[21 + j], ("Visuals", "Actions")[(i + j) % 2], (f"text {i} {j}",))
        for i in range(3)
        for j in range(3)
    ]
    write_test_set("diffcap", tmp_path / "said.rows.jsonl", rows)
    said = [{"generated_text": f"caption {number}"} for number in range(len(rows))]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
    return rows, tmp_path / "said.jsonl"


def test_shuffled_captions_are_of_another_row_of_the_same_category_and_each_is_used_once(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, said = captions(tmp_path)
    test_set = ("--test-set", str(tmp_path / "said.rows.jsonl"), "--texts", str(said))
    given = command(world, "diffcap", "shuffled-captions", tmp_path / "p.jsonl", *test_set)
    found = []
    for seed in ("0", "1"):
        assert evaluate.main([*given, "--seed", seed]) == 0
        found.append([int(text.split()[1]) for text in answers(tmp_path / "p.jsonl")])
        assert sorted(found[-1]) == list(range(len(rows)))
        for own, other in enumerate(found[-1]):
            assert own != other and rows[own].category == rows[other].category
    assert found[0] != found[1]
    write_test_set("diffcap", tmp_path / "set.jsonl", rows[:1])
    capsys.readouterr()
    assert evaluate.main([*given, "--test-set", str(tmp_path / "set.jsonl")]) == 2
    assert "Visuals: only one pair of clips, so no caption of another" in capsys.readouterr().err
    write_test_set("diffcap", tmp_path / "set.jsonl", [*rows, replace(rows[0], candidate=CLIPS[20])])
    assert evaluate.main([*given, "--test-set", str(tmp_path / "set.jsonl")]) == 2
    assert f"no caption for 1 of 10 rows, e.g. {CLIPS[18]} and {CLIPS[20]}" in capsys.readouterr().err


def f1(one: str, other: str) -> float:
    common = sum((Counter(one.split()) & Counter(other.split())).values())
    return 2 * common / (len(one.split()) + len(other.split()))


def test_the_medoid_has_the_highest_mean_f1_of_words() -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(list("abcdefg"), random.integers(2, 9))) for _ in range(60)]
    means = [sum(f1(text, other) for other in texts) for text in texts]
    assert means[texts.index(medoid(texts))] == pytest.approx(max(means), rel=1e-5)


def test_medoid_answers_one_post_processed_open_answer_a_category(world: Path, tmp_path: Path) -> None:
    given = command(world, "diffcap", "medoid", tmp_path / "p.jsonl", "--texts", str(world / "pairqa.jsonl"))
    (row,) = read_test_set("diffcap", world / "diffcap_test.jsonl")
    write_test_set("diffcap", tmp_path / "set.jsonl", [replace(row, category="Tools/Equipment")])
    assert evaluate.main([*given, "--test-set", str(tmp_path / "set.jsonl")]) == 0
    questions = [json.loads(line) for line in (world / "pairqa.jsonl").read_text().splitlines()]
    texts = [parse(q["answer"]) for q in questions if q["answer"] not in ("YES", "NO", "Video 1", "Video 2")]
    means = {text: sum(f1(text, other) for other in texts) for text in texts}
    (said,) = answers(tmp_path / "p.jsonl")
    assert means[said] == pytest.approx(max(means.values()), rel=1e-5)


def test_the_regression_is_the_minimum_of_its_loss() -> None:
    random = np.random.default_rng(0)
    values = random.normal(5, [1, 3, 0.1], (200, 3))
    yes = values[:, 0] + random.normal(0, 1, 200) < 5
    weights, bias = fit(values, yes)
    inputs = torch.tensor((values - values.mean(0)) / values.std(0))
    signs = torch.tensor(np.where(yes, 1.0, -1.0))
    free = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([free], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = torch.nn.functional.softplus(-signs * (inputs @ free[:3] + free[3])).mean()
        found = found + 1e-3 / 2 * (free[:3] ** 2).sum()
        found.backward()
        return found

    optimizer.step(loss)  # type: ignore[arg-type]
    expected = (inputs @ free[:3] + free[3]).detach().numpy()
    np.testing.assert_allclose(values @ weights + bias, expected, rtol=1e-3, atol=1e-3)
    assert ((values @ weights + bias > 0) == yes).mean() > 0.7
    assert np.isfinite(fit(np.ones((4, 3)), np.array([True, False, True, True]))[0]).all(), "a constant distance"


@pytest.fixture
def similar(world: Path, tmp_path: Path) -> Path:
    """Paired QA of training clips with the question of DiffRank in category Visuals."""
    lines = (world / "pairqa.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines if json.loads(line)["type"] == 3]
    for row in rows:
        row["question"] = SIMILAR_QUESTION.format(category="Visuals")
    path = tmp_path / "similar.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_control_that_learns_from_paired_qa_reads_no_clip_of_the_test_set_or_of_its_videos(
    trained: Path, world: Path, tmp_path: Path, similar: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for clip in (CLIPS[18], CLIPS[12]):
        row = json.loads(similar.read_text().splitlines()[0]) | {"candidate": clip}
        row |= {"answer": "a spoon", "category": "Visuals"}
        leaking = tmp_path / "leaking.jsonl"
        leaking.write_text(similar.read_text() + json.dumps(row) + "\n")
        given = command(world, "diffcap", "medoid", tmp_path / "p.jsonl", "--texts", str(leaking))
        assert evaluate.main(given) == 2
        error = capsys.readouterr().err.strip()
        assert re.search(f"1 clips are (of the test set's videos|not of split train).* {clip}", error)
        assert "\n" not in error


def test_paired_qa_without_the_questions_or_answers_that_a_control_learns_from_is_refused_in_one_line(
    trained: Path, world: Path, tmp_path: Path, similar: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions, head = str(world / "pairqa.jsonl"), ["--head", str(trained)]
    cases = [
        (["diffcap", "medoid"], ["--texts", str(similar)], "no open answers about Visuals"),
        (["diffcap", "medoid"], [], "needs --texts, paired QA of training clips"),
        (["diffcap", "shuffled-captions"], [], "needs --texts, the predictions of another method"),
        (["diffrank", "random"], ["--texts", questions], "--texts is for socratic, captions-.* and random does not"),
        (["diffmcq", "rarest"], head, "--head is for video-lm, stepdiff, .*, and rarest does not"),
        (["diffrank", "medoid"], ["--texts", questions], "medoid does not answer diffrank: its class has no"),
    ]
    capsys.readouterr()
    for (task, method), more, message in cases:
        assert evaluate.main(command(world, task, method, tmp_path / "p.jsonl", *more)) == 2
        error = capsys.readouterr().err.strip()
        assert re.search(message, error) and "\n" not in error, error
    assert not (tmp_path / "p.jsonl").exists()


def test_every_clip_of_a_row_decides_its_draws() -> None:
    row = choices()[0]
    other = replace(row, options=(*row.options[:3], (CLIPS[0], CLIPS[1])), answer=row.options[0])
    assert clips_of(row) != clips_of(other)
    assert Chance(0).score_options([row]) != Chance(0).score_options([other])
