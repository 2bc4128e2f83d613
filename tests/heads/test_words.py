"""Guarantees of heads.words: sums, terms, sides, the pass over a store, and the method word-evidence."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sparse
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from common.errors import StepDiffError
from heads import evaluate, words
from heads.evidence.head import WordHead, fold_of
from heads.evidence.options import WordOptions
from heads.evidence.sums import Fit, Sums, calibrate, fit, squared_errors, total
from heads.evidence.terms import Sides, occurrences, segments, terms_of
from store import Store


def command(world: Path, out: Path, *more: str) -> list[str]:
    given = ["--store", str(world / "features"), "--view", "visual", "--pairqa", str(world / "pairqa.jsonl")]
    return [*given, "--out", str(out), "--least", "3", "--folds", "3", "--save-every", "0", *more]


def options(world: Path, out: Path) -> WordOptions:
    return WordOptions(
        str(world / "features"), "visual", str(world / "pairqa.jsonl"), str(out), least=3, folds=3, save_every=0
    )


def of_tools(test_set: Path, copy: Path) -> Path:
    """Copy a test set, with the category that the paired questions have."""
    copy.write_text(test_set.read_text().replace('"Visuals"', '"Tools/Equipment"'))
    return copy


@pytest.fixture(scope="module")
def head(world: Path) -> WordHead:
    out = world / "words"
    validation = of_tools(world / "diffrank_val.jsonl", world / "words_val.jsonl")
    assert words.main(command(world, out, "--validation", str(validation))) == 0
    return WordHead.load(out)


def arrays(seed: int, clips: int) -> tuple[np.ndarray, sparse.csr_matrix]:
    random = np.random.default_rng(seed)
    values = random.standard_normal((clips, 7)) * [1, 2, 3, 4, 5, 6, 0] + 3  # the last channel is constant
    labels = (values[:, :4] + random.standard_normal((clips, 4)) > 3).astype(float)
    labels[::5] /= 2
    return values, sparse.csr_matrix(labels)


def test_sums_give_the_regression_and_calibration_of_a_dense_implementation() -> None:
    parts = [arrays(seed, clips) for seed, clips in enumerate((40, 30, 50))]
    sums = [Sums.of(*part) for part in parts]
    models, predictions = [], []
    for left, (values, _) in enumerate(parts):
        rest = [part for place, part in enumerate(parts) if place != left]
        scaler = StandardScaler().fit(np.concatenate([x for x, _ in rest]))
        standard = scaler.transform(np.concatenate([x for x, _ in rest]))
        labels = sparse.vstack([y for _, y in rest]).toarray()
        dense = Ridge(alpha=0.3 * np.trace(standard.T @ standard) / standard.shape[1]).fit(standard, labels)
        (model,) = fit(total([each for place, each in enumerate(sums) if place != left]), [0.3])
        expected = dense.predict(scaler.transform(values))
        np.testing.assert_allclose(values @ model.weights.T + model.bias, expected, atol=1e-8)
        np.testing.assert_allclose(
            squared_errors(model, sums[left]), ((expected - parts[left][1].toarray()) ** 2).sum(0), atol=1e-8
        )
        models.append(model)
        predictions.append(expected)
    found = calibrate(models, sums)
    p, y = np.concatenate(predictions), sparse.vstack([y for _, y in parts]).toarray()
    one, zero = (y * p).sum(0) / y.sum(0), ((1 - y) * p).sum(0) / (1 - y).sum(0)
    variance = (y * (p - one) ** 2 + (1 - y) * (p - zero) ** 2).mean(0) + 1e-6
    np.testing.assert_allclose(found.with_term, one, atol=1e-8)
    np.testing.assert_allclose(found.without, zero, atol=1e-8)
    np.testing.assert_allclose(found.variance, variance, atol=1e-8)
    odds = found.log_odds(Fit(np.eye(4), np.zeros(4)))
    density = (-((p - one) ** 2) + (p - zero) ** 2) / (2 * variance)
    np.testing.assert_allclose(p @ odds.weights.T + odds.bias, density, atol=1e-8)


def test_terms_do_not_cross_punctuation_and_mentions() -> None:
    assert list(segments("A red pan, then Video 2 stirs: slowly!")) == [
        ["a", "red", "pan"],
        ["then"],
        ["stirs"],
        ["slowly"],
    ]
    assert terms_of("red pan. Spoon") == {"red", "pan", "red pan", "spoon"}
    found = occurrences("In the first video, a red pan; in Video 2 no spoon", {"red", "red pan", "spoon"})
    assert [(one.term, one.video) for one in found] == [("red pan", 1), ("spoon", 2)]
    assert found[0].before == (",", "a") and found[1].before == ("no",)
    assert [one.video for one in occurrences("a spoon", {"spoon"}, 2)] == [2]


def test_sides_are_learned_from_the_words_before_a_term() -> None:
    texts = ["a fork instead of a whisk", "a whisk instead of a fork", "a spoon instead of a whisk"] * 10
    examples = [one for text in texts for one in occurrences(text, {"fork", "whisk", "spoon"}, 2)]
    sides = Sides.learn(examples, [1.0, -1.0] * len(texts))
    new = occurrences("a pot instead of a lid", {"pot", "lid"}, 2)
    assert sides.of(new[0]) > 0.5 and sides.of(new[1]) < -0.5


def test_a_world_with_planted_words_is_solved(head: WordHead) -> None:
    assert {"whisk", "spoon", "fork"} <= set(head.terms)
    evidence = head.evidence(means(head, [f"video-_{i}_0.0_{i + 1}.5" for i in range(12, 24)]))
    for place, tool in enumerate(("whisk", "spoon", "fork")):
        own = evidence[:, head.columns[tool]]
        assert own[place::3].min() > max(np.delete(own, np.arange(place, 12, 3))), tool
    assert head.sides("In Video 1, a whisk, in Video 2, a fork.") == pytest.approx([-1, 1], abs=0.4)


def means(head: WordHead, clips: list[str]) -> np.ndarray:
    store = Store.open(head.folder.parent / "features")
    return store.view("clips", "visual").read("tokens", keys=clips, dtype="float32").mean(axis=1, dtype=np.float64)


def test_moments_average_to_the_evidence(head: WordHead) -> None:
    store = Store.open(head.folder.parent / "features")
    (tokens,) = store.view("clips", "visual").read("tokens", keys=["video-_13_0.0_14.5"], dtype="float32")
    found = head.moments(tokens, 4)
    np.testing.assert_allclose(found.mean(axis=0), head.evidence(tokens.mean(axis=0, dtype=float)[None])[0], atol=1e-9)
    with pytest.raises(StepDiffError, match="16 tokens are not those of 3 frames"):
        head.moments(tokens, 3)


def test_cross_fitted_evidence_comes_from_other_videos(world: Path, head: WordHead, tmp_path: Path) -> None:
    """Weights without a fold are those of a run whose store lacks its clips."""
    clips, videos = [f"video-_{i}_0.0_{i + 1}.5" for i in range(12)], [f"video {i // 4}" for i in range(12)]
    found = head.cross_fitted(means(head, clips), videos)
    assert not np.allclose(found, head.evidence(means(head, clips)))
    for clip, video, row in zip(clips, videos, found, strict=True):
        model = 1 + fold_of(video, head.folds)
        np.testing.assert_array_equal(row, head.weights[model] @ means(head, [clip])[0] + head.bias[model])


def test_answers_to_all_tasks_are_scored_and_seen_clips_refused(
    world: Path, head: WordHead, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--method", "word-evidence", "--head", str(head.folder), "--store", str(world / "features")]
    for task in ("diffmcq", "diffrank", "diffcap"):
        out = tmp_path / f"{task}.jsonl"
        test_set = of_tools(world / f"{task}_test.jsonl", tmp_path / f"{task}_test.jsonl")
        assert evaluate.main([*given, "--task", task, "--test-set", str(test_set), "--out", str(out)]) == 0
        record = json.loads(out.with_suffix(".scores.json").read_text())
        assert record["disclosed"]["recipe"]["system"] == "Word evidence"
    assert record["seen"]["clips"] == 0
    capsys.readouterr()
    seen = tmp_path / "diffrank_test.jsonl"
    seen.write_text(seen.read_text().replace("video-_18_0.0_19.5", "video-_1_0.0_2.5"))
    given += ["--task", "diffrank", "--out", str(tmp_path / "refused.jsonl"), "--test-set"]
    assert evaluate.main([*given, str(seen)]) == 2
    assert "was trained on 1 of its" in capsys.readouterr().err
    assert evaluate.main([*given, str(world / "diffrank_test.jsonl")]) == 2
    assert "no word of category 'Visuals' has evidence; the categories of its paired" in capsys.readouterr().err
