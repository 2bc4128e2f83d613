"""What a head has seen: the leverage of clips, the evidence that it lowers, and the statement about
clips unlike it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from heads import ask, evaluate, train, words
from heads.evidence.familiarity import MARGIN, Familiarity, Spread
from heads.evidence.fitting import Pooled, pooled
from heads.evidence.head import POOLING, WordHead, pool
from heads.methods.word_evidence import WordEvidence
from heads.training.run_record import load_stepdiff
from stepdiff_core.errors import StepDiffError
from store import Store

from .conftest import CHANNELS, CLIPS, Capture, recipe

TRAIN, VAL, TEST = CLIPS[:12], CLIPS[12:18], CLIPS[18:]
STATEMENT = (
    "These clips are unlike the 12 clips that this head learned from: what it says about them "
    "means nothing"
)


@pytest.fixture(scope="module")
def head(world: Path) -> WordHead:
    given = [
        "--store",
        str(world / "features"),
        "--view",
        "visual",
        "--pairqa",
        str(world / "pairqa.jsonl"),
    ]
    assert words.main([*given, "--out", str(world / "seen"), "--least", "3", "--folds", "3"]) == 0
    return WordHead.load(world / "seen")


@pytest.fixture
def narrow(head: WordHead, tmp_path: Path) -> WordHead:
    """The head as one that knows no clip at all."""
    about = head.familiarity.about.model_copy(update={"limit": 1e-9})
    copy = shutil.copytree(head.folder, tmp_path / "narrow", ignore=shutil.ignore_patterns("sums*"))
    narrow = replace(head, folder=copy, familiarity=replace(head.familiarity, about=about))
    narrow.save()
    return WordHead.load(narrow.folder)


def test_the_leverage_is_that_of_a_dense_implementation() -> None:
    random = np.random.default_rng(0)
    x, other = (
        random.normal(size=(40, 7)) * [1, 2, 3, 4, 5, 6, 0] + 3,
        random.normal(size=(5, 7)) * 9,
    )
    spread = Spread.of(40.0, x.sum(axis=0), x.T @ x, 0.3)
    z, scale = x[:, :6] - x[:, :6].mean(axis=0), x[:, :6].std(axis=0)
    gram = (z / scale).T @ (z / scale)
    inverse = np.linalg.inv(gram + 0.3 * 240 / 7 * np.eye(6))
    far = (other[:, :6] - x[:, :6].mean(axis=0)) / scale
    np.testing.assert_allclose(
        spread.leverage(other), np.einsum("cd,de,ce->c", far, inverse, far), rtol=1e-5
    )
    assert spread.leverage(other)[2] == spread.leverage(other[2:3])[0], "no batch changes it"


def test_a_head_of_words_knows_its_clips_and_their_steps(world: Path, head: WordHead) -> None:
    assert head.familiarity.knows == "12 clips, 2 steps: step 0, step 1"
    about, guard = (
        head.familiarity.about,
        WordEvidence.of_store(head, Store.open(world / "features")).guard,
    )
    assert about.chosen_on == "6 clips of split val"
    assert about.limit == pytest.approx(MARGIN * np.quantile(guard.leverage(VAL), 0.99), rel=1e-4)
    assert guard.doubt(TEST) == "" and guard.leverage(TRAIN).max() < about.limit


def test_evidence_fades_beyond_the_limit_only(world: Path, head: WordHead) -> None:
    features = pooled(Pooled(Store.open(world / "features"), "visual", POOLING), np.arange(24))
    linear = features @ head.weights[0].T + head.bias[0]
    np.testing.assert_allclose(head.evidence(features), linear, rtol=1e-12)
    for times in (1e2, 1e4):
        far = features * times
        assert np.abs(far @ head.weights[0].T + head.bias[0]).max(axis=1).min() > times / 10
        assert np.abs(head.evidence(far)).max() < 200 / times
    tokens = np.random.default_rng(0).normal(size=(6, CHANNELS)) * 1e6
    mean = head.moments(pool(tokens.reshape(3, 2, CHANNELS))).mean(axis=0)
    np.testing.assert_allclose(mean, head.evidence(pool(tokens)[None])[0], atol=1e-9)


def test_what_is_unlike_all_clips_is_said_first_and_counted(
    world: Path, narrow: WordHead, tmp_path: Path, capsys: Capture
) -> None:
    given = [
        "--reference",
        TEST[0],
        "--candidate",
        TEST[1],
        "--store",
        str(world / "features"),
        "--why",
    ]
    assert ask.main([*given, "--words", str(narrow.folder)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert (
        said[0].startswith(STATEMENT)
        and said[1] == "The head knows 12 clips, 2 steps: step 0, step 1"
    )
    out = tmp_path / "diffrank.jsonl"
    test_set = tmp_path / "test.jsonl"
    test_set.write_text(
        (world / "diffrank_test.jsonl").read_text().replace("Visuals", "Tools/Equipment")
    )
    given = [
        "--method",
        "word-evidence",
        "--head",
        str(narrow.folder),
        "--store",
        str(world / "features"),
    ]
    assert (
        evaluate.main(
            [*given, "--task", "diffrank", "--test-set", str(test_set), "--out", str(out)]
        )
        == 0
    )
    unlike = json.loads(out.with_suffix(".scores.json").read_text())["disclosed"]["unlike"]
    assert (unlike["clips"], unlike["of_clips"]) == (6, 6)
    assert "2 steps: step 0, step 1: 6 of 6 clips here are unlike them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("leverages", "statement"),
    [
        ([0.0, 0.0], ""),
        ([2000.0, 0.0], "Video 1 is unlike"),
        ([2000.0, 0.0, 3000.0], "Video 1 and Video 3 are unlike"),
        ([2000.0, 30.0], "what it says about them means nothing (leverage 2,000 and 30; at most "),
    ],
)
def test_a_statement_names_the_videos(
    head: WordHead, leverages: list[float], statement: str
) -> None:
    doubt = head.familiarity.doubt(leverages)
    assert statement in doubt and bool(statement) == bool(doubt)


@pytest.mark.full
def test_a_head_without_evidence_knows_its_clips_too(
    world: Path, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    out, store = tmp_path / "plain", Store.open(world / "features")
    schedule = {"steps": 1, "accumulate": 1, "warmup": 1, "validate_every": 1}
    path = recipe(world, tiny_lm, out, schedule=schedule, validation=None)
    assert train.main(["--config", str(path)]) == 0
    guard = load_stepdiff(out, store)[0].guard
    assert guard is not None and guard.doubt(TEST) == ""
    assert guard.familiarity.knows == "12 clips, 2 steps: step 0, step 1"
    about = guard.familiarity.about.model_copy(update={"limit": 1e-9})
    replace(guard.familiarity, about=about).save(out)
    capsys.readouterr()
    given = [
        "--reference",
        TEST[0],
        "--candidate",
        TEST[1],
        "--store",
        str(store.path),
        "--head",
        str(out),
    ]
    assert ask.main([*given, "What differs?"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(STATEMENT) and f"A: {ask.NO_ANSWER}" in said
    (out / "familiarity.safetensors").write_bytes(b"0" * 99)
    with pytest.raises(StepDiffError, match=r"familiarity\.safetensors: damaged"):
        Familiarity.load(out)
