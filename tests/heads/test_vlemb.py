"""Guarantees of heads.methods.vlemb about the embedding of a pair (supplement, Table S2)."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from heads import evaluate
from heads.methods.vlemb import PairEmbedding, VLEmb
from store import Feature, Provenance, Store, text_key
from tasks.benchmarks.rows import Choice
from tasks.testsets import DiffMCQ, write_test_set

CLIPS = [f"video_{i}_0.0_1.0" for i in range(8)]
TEXT = "with a whisk"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Eight clips and one text in a space of six dimensions; no embedding has length 1."""
    made = Store.open(tmp_path / "features", create=True)
    rng = np.random.default_rng(0)
    rows = {"clips": pl.DataFrame({"key": CLIPS}), "texts": pl.DataFrame({"key": [text_key(TEXT)], "text": [TEXT]})}
    with made.lock():
        for entity, frame in rows.items():
            made.catalog(entity).append(frame)
            provenance = Provenance("both", "0" * 64, "last", "8 linspace", "none", {"embedding": "float32"})
            view = made.create_view(entity, "both", provenance, {"embedding": Feature((6,), "float32")})
            view.resize()
            vectors = rng.standard_normal((len(frame), 6)).astype(np.float32) * 3
            view.write_shard(0, np.arange(len(frame)), {"embedding": vectors}, {})
    return made


QUESTION = DiffMCQ(TEXT, "Tools/Equipment", tuple(zip(CLIPS[::2], CLIPS[1::2], strict=True)), (CLIPS[0], CLIPS[1]))


@pytest.mark.parametrize("pair", ["average", "reference", "candidate"])
def test_the_embedding_of_a_pair_is_the_average_or_that_of_one_clip(store: Store, pair: PairEmbedding) -> None:
    def unit(entity: str, key: str) -> np.ndarray:
        vector = store.view(entity, "both").read("embedding", store.catalog(entity).rows([key]), dtype="float32")[0]
        return vector / np.linalg.norm(vector)

    text = unit("texts", text_key(TEXT))
    expected = []
    for reference, candidate in QUESTION.options:
        ends = unit("clips", reference), unit("clips", candidate)
        stands = {"average": (ends[0] + ends[1]) / 2, "reference": ends[0], "candidate": ends[1]}[pair]
        expected.append(float(stands @ text / np.linalg.norm(stands)))
    np.testing.assert_allclose(VLEmb.of_view(store, "both", pair).score_options([QUESTION])[0], expected, rtol=1e-5)


def test_a_text_that_the_view_lacks_is_reported_or_counted_before_anything_is_predicted(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test_set, out = tmp_path / "mcq.jsonl", tmp_path / "out.jsonl"
    rows = [QUESTION, replace(QUESTION, difference="with a fork")]
    write_test_set("diffmcq", test_set, rows)
    command = ["--task", "diffmcq", "--method", "vlemb", "--view", "both", "--store", str(store.path), "--json"]
    command += ["--test-set", str(test_set), "--out", str(out), "--bootstrap", "5"]
    assert evaluate.main(command) == 2
    assert "error: 'with a fork': no embedding of this text in view both" in capsys.readouterr().err
    assert not out.exists()
    assert evaluate.main([*command, "--skip-missing"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["skipped"] == {"clips": 0, "rows": 1} and record["scores"]["rows"] == 1
    write_test_set("diffmcq", test_set, rows[1:])
    assert evaluate.main([*command, "--skip-missing"]) == 2
    assert "has no embedding of any row's text" in capsys.readouterr().err


def test_a_variant_refuses_to_rank(store: Store) -> None:
    with pytest.raises(StepDiffError, match="--pair-embedding reference is a variant of DiffMCQ"):
        VLEmb.of_view(store, "both", "reference").rank([])


def test_evaluate_discloses_the_variant(store: Store, tmp_path: Path) -> None:
    test_set, out = tmp_path / "mcq.jsonl", tmp_path / "out.jsonl"
    question = {"difference": TEXT, "category": "Visuals", "options": QUESTION.options, "answer": QUESTION.answer}
    test_set.write_text(json.dumps(question) + "\n")
    command = ["--task", "diffmcq", "--method", "vlemb", "--view", "both", "--store", str(store.path)]
    command += ["--test-set", str(test_set), "--out", str(out), "--pair-embedding", "candidate"]
    assert evaluate.main(command) == 0
    expected = VLEmb.of_view(store, "both", "candidate").score_options([QUESTION])[0]
    assert json.loads(out.read_text())["scores"] == pytest.approx(expected)
    disclosed = json.loads(out.with_suffix(".scores.json").read_text())["disclosed"]
    assert disclosed == {"view": "both", "encoder": "both", "pair_embedding": "candidate"}


def test_a_text_is_compared_with_each_clip_where_the_options_are_clips(store: Store) -> None:
    row = Choice("0", (CLIPS[0], CLIPS[3], CLIPS[5]), "Of which is it truer?", ("1", "2", "3"), TEXT)
    method = VLEmb.of_view(store, "both")
    text = method.score_options(
        [replace(QUESTION, options=tuple((clip, clip) for clip in row.clips), answer=(CLIPS[0], CLIPS[0]))]
    )
    assert method.choose([row])[0] == pytest.approx(text[0], abs=1e-6)
    with pytest.raises(StepDiffError, match="the options of this task are not clips"):
        method.choose([replace(row, about=None)])
    assert method.missing_texts([row, replace(row, about="of another tool"), replace(row, about=None)]) == [
        "of another tool"
    ]
