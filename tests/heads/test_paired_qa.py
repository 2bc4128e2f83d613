"""Guarantees of heads.data.paired_qa about rows, their order, and the choice of questions."""

import json
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from common.errors import StepDiffError
from heads.data.paired_qa import Order, PairQuestions, answered_by, kind, read_paired_qa, turns
from store import Store


def test_a_row_of_paired_qa_without_words_is_named(world: Path, tmp_path: Path) -> None:
    catalog = Store.open(world / "features").catalog("clips").frame()
    row = json.loads((world / "pairqa.jsonl").read_text().splitlines()[0])
    for name, value in (("answer", ""), ("question", None), ("reference", ["a"])):
        (tmp_path / "qa.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {name: value}) + "\n")
        with pytest.raises(StepDiffError, match=r"qa\.jsonl:2: not a PairQA row"):
            read_paired_qa(str(tmp_path / "qa.jsonl"), catalog)


def test_an_epoch_draws_every_pair_once_from_any_step() -> None:
    order = Order(10, 3, "order of pairs")
    both = [i for step in range(10) for i in order.draw(2, step)]
    assert sorted(both[:10]) == sorted(both[10:]) == list(range(10))
    assert order.draw(4, 2) == Order(10, 3, "order of pairs").draw(4, 2) == both[8:12]


def test_an_order_of_items_takes_four_bytes_per_item_in_every_epoch() -> None:
    items = 100_000
    order = Order(items, 0, "contrastive order")
    tracemalloc.start()
    try:
        for epoch in range(4):
            order.draw(10, (epoch + 1) * items // 10 - 1)
        order.draw(20_000, 22)  # of two epochs
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 4 * items <= held < 4 * items + 50_000 and peak < 2 * 4 * items + 1_000_000


def test_only_questions_with_answers_of_the_given_kinds_train() -> None:
    questions = (("What?", "a fork"), ("Which?", "Video 2"), ("Similar?", "NO"))
    pairs = [PairQuestions("a", "b", questions, ("Tools", "", "main action")), PairQuestions("a", "c", questions[1:2])]
    assert answered_by(pairs, ("text", "video", "decision"), "file") == pairs
    assert answered_by(pairs, ("text",), "file") == [PairQuestions("a", "b", questions[:1], ("Tools",))]
    assert [len(own.questions) for own in answered_by(pairs, ("video", "decision"), "file")] == [2, 1]
    with pytest.raises(StepDiffError, match="file: no question has an answer of video_lm.answers, text"):
        answered_by(pairs[1:], ("text",), "file")


def test_every_kind_of_answer_is_drawn() -> None:
    asked = pair("a", *["YES"] * 4, *["NO"] * 3, "Video 1", *[f"In Video 2, {word}." for word in ("a", "b", "c")])
    for seed in range(20):
        drawn = turns(asked, 6, np.random.default_rng(seed))
        assert len(set(drawn)) == 6
        assert Counter(kind(turn.answer) for turn in drawn) in (
            Counter(decision=3, video=1, text=2),
            Counter(decision=2, video=1, text=3),
        )
    assert len(turns(asked, 20, np.random.default_rng(0))) == 11
    firsts = {turns(asked, 6, np.random.default_rng(seed))[0] for seed in range(20)}
    assert len(firsts) > 5, "questions are drawn at random"


def pair(reference: str, *answers: str) -> PairQuestions:
    return PairQuestions(reference, "z", tuple((f"Question {i}?", answer) for i, answer in enumerate(answers)))
