"""Guarantees of heads.training.contrastive_task."""

import json
from pathlib import Path

import polars as pl
import pytest

from common.errors import StepDiffError
from heads.data.clips import Features
from heads.data.paired_qa import read_paired_qa
from heads.training.contrastive_task import PairContrast, contrast_pairs
from heads.training.recipe import PairsContrast
from store import Store

A, B, C = (f"video-_{i}_0.0_{i + 1}.5" for i in range(3))  # of the train split
HELD_OUT = "video-_20_0.0_21.5"
SAID = "now the whisk goes around, number 0"  # has features


def write(path: Path, *said: tuple[str, str, str]) -> str:
    rows = [{"reference": a, "candidate": b, "question": "What?", "answer": answer} for a, b, answer in said]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def catalog(world: Path) -> pl.DataFrame:
    return Store.open(world / "features").catalog("clips").frame()


def test_an_answer_that_nothing_differs_is_not_matched_to_a_pair(catalog: pl.DataFrame, tmp_path: Path) -> None:
    path = write(
        tmp_path / "qa.jsonl",
        *((A, B, said) for said in ("In Video 2, a fork.", "There is no difference.", "YES", "NO", "NO", "Video 1")),
        (A, C, "There is no difference in the tools."),
        (B, C, "YES"),
    )
    differing, judged = contrast_pairs(read_paired_qa(path, catalog), path)
    assert differing == [((A, B), ("In Video 2, a fork.",))]
    assert judged == [((A, B), 1 / 3), ((B, C), 1.0)]
    with pytest.raises(StepDiffError, match="drop contrastive.pairs"):
        contrast_pairs(read_paired_qa(write(tmp_path / "qa.jsonl", (A, B, "YES")), catalog), "qa.jsonl")


def test_no_clip_of_the_val_or_test_split_trains(catalog: pl.DataFrame, tmp_path: Path) -> None:
    refused = f"1 clips are not of split train and would train, e.g. {HELD_OUT}"
    with pytest.raises(StepDiffError, match=refused):
        read_paired_qa(write(tmp_path / "qa.jsonl", (A, B, "YES"), (A, HELD_OUT, "a fork")), catalog)


def test_a_batch_depends_only_on_seed_and_number(world: Path, catalog: pl.DataFrame, tmp_path: Path) -> None:
    store = Store.open(world / "features")
    said = [(a, b, answer) for a, b in ((A, B), (B, C), (C, A)) for answer in (SAID, "YES", "NO")]
    path = write(tmp_path / "qa.jsonl", *said, (A, C, "YES"))
    options, pairs = PairsContrast(path, pairs=3), read_paired_qa(path, catalog)
    clips, texts = Features(store, "visual", "tokens"), Features(store, "words", "embedding", "texts")
    made = [PairContrast(options, pairs, clips, texts, seed) for seed in (0, 0, 1)]
    first, second = (made[0].batch(number, "cpu") for number in (0, 1))
    again = [made[1].batch(number, "cpu") for number in (1, 0)][::-1]
    for batch, repeated in zip((first, second), again, strict=True):
        assert all(a.equal(b) for a, b in zip(vars(batch).values(), vars(repeated).values(), strict=True))
    assert not first.judged.equal(second.judged)
    assert first.differing.shape == (3, 2, 16, 24) and first.alike.shape == (3,)
    others = [made[2].batch(number, "cpu").judged for number in range(4)]
    assert not all(other.equal(first.judged) for other in others)
