"""Guarantees of heads.training.video_task and heads.models.projector about two clips."""

import pytest
import torch

from heads.data.packing import NO_TARGET, TEXT, Chat, Packed, Packer, Turn
from heads.models.language_model import LanguageModel
from heads.models.projector import Comparison
from heads.models.video_lm import VideoLM
from heads.training.sources import SEQUENCE, Sequences
from heads.training.video_task import Comparing, answer_ids, with_comparisons

OUTPUTS = 4
ANSWERS = (7, 9)
WORDS = torch.tensor([[1, 2, 3, 4], [1, 2, 0, 4], [5, 5, 5, 5], [5, 5, 0, 0]])


@pytest.mark.parametrize("full", [False, True])
def test_the_word_of_a_token_is_the_nearest_in_the_vocabulary(tiny_lm: str, full: bool) -> None:
    lm = LanguageModel.load(tiny_lm)
    if full:
        lm.train_all()
    table = lm.model.get_input_embeddings().weight
    comparing = Comparing(lm, 1.0)
    for seed in (1, 2):
        with torch.no_grad():  # rows of different lengths, which change during training
            table *= torch.linspace(0.5, 2, len(table))[:, None] if full or seed == 1 else 1
        draws = torch.Generator().manual_seed(seed)
        tokens = torch.randn(3, OUTPUTS, lm.width, generator=draws).mul(table.std()).requires_grad_()
        found = comparing.nearest_words(tokens)
        assert found.tolist() == torch.cdist(tokens, table.expand(3, -1, -1)).argmin(-1).tolist()
        assert not found.requires_grad


def test_in_bfloat16_a_token_is_nearest_to_its_own_word(tiny_lm: str) -> None:
    lm = LanguageModel.load(tiny_lm)
    table = lm.model.get_input_embeddings().weight.detach()
    ids = torch.arange(3 * OUTPUTS).view(3, OUTPUTS) * 7
    noise = torch.randn(3, OUTPUTS, lm.width, generator=torch.Generator().manual_seed(1))
    near = table[ids] + 0.1 * table.std() * noise
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Comparing(lm, 1.0).nearest_words(near), ids)


def test_only_the_second_clip_of_a_pair_gets_the_question(tiny_lm: str) -> None:
    turns = [Turn("What differs?", "a fork"), Turn("Is it alike?", "YES", weight=3.0)]
    before = Packer(LanguageModel.load(tiny_lm).chat, OUTPUTS).pack([turns, turns[:1]])
    rows = with_comparisons(before, WORDS, ANSWERS, weight=0.5)
    second = (before.video % (2 * OUTPUTS) >= OUTPUTS) & (before.video != TEXT)
    assert rows.targets[second].tolist() == [7, 7, 9, 7, 7, 7, 9, 9]
    assert torch.equal(rows.targets[~second], before.targets[~second])
    assert torch.equal(rows.weights[~second], before.weights[~second])
    assert (before.targets[second] == NO_TARGET).all()


def test_yes_and_no_have_the_same_total_weight_in_every_batch(tiny_lm: str) -> None:
    before = Packer(LanguageModel.load(tiny_lm).chat, OUTPUTS).pack([[Turn("?", "a fork")]] * 2)
    rows = with_comparisons(before, WORDS, ANSWERS, weight=0.5)
    yes, no = (rows.weights[rows.targets == answer].sum() for answer in ANSWERS)
    assert yes == no and torch.isclose(yes + no, torch.tensor(0.5 * 2 * OUTPUTS))
    alike = with_comparisons(before, WORDS[[0, 0, 1, 1]], ANSWERS, weight=0.5)
    assert torch.isfinite(alike.weights).all() and (alike.targets != ANSWERS[1]).all()


def test_every_clip_of_a_sequence_but_the_first_gets_the_question(tiny_lm: str) -> None:
    runs = [[("a", "a whisk goes"), ("b", "then a fork"), ("c", "ends")]]
    before = Sequences(runs, LanguageModel.load(tiny_lm).chat, OUTPUTS, 1, 0).batch(0).rows
    rows = with_comparisons(before, WORDS[:SEQUENCE], ANSWERS, weight=1.0)
    learned = before.targets != NO_TARGET
    assert torch.equal(rows.targets[learned], before.targets[learned])
    asked = rows.targets[~learned & (rows.targets != NO_TARGET)]
    assert asked.tolist() == [7, 7, 9, 7, 9, 9, 9, 9]


def test_a_single_clip_gets_no_question(tiny_lm: str) -> None:
    before = Packer(LanguageModel.load(tiny_lm).chat, OUTPUTS, "Here: {video}.").pack([[Turn("?", "a fork")]] * 2)
    rows = with_comparisons(before, WORDS[:2], ANSWERS, weight=1.0)
    assert torch.equal(rows.targets, before.targets) and torch.equal(rows.weights, before.weights)


def embedded(tiny_lm: str, comparison: Comparison | None, rows: Packed, clips: torch.Tensor) -> torch.Tensor:
    """Return the tokens of the clips as the language model reads them, clip by clip."""
    model = VideoLM(LanguageModel.load(tiny_lm), torch.nn.Identity(), OUTPUTS, comparison)
    return model.embed(rows, clips)[rows.video != TEXT].view(len(clips), OUTPUTS, -1)


def test_every_clip_of_a_row_but_the_first_is_compared_with_the_one_before_it(tiny_lm: str) -> None:
    lm = LanguageModel.load(tiny_lm)
    comparison = Comparison(lm.width, 0.5)
    torch.nn.init.normal_(comparison.network[-1].weight, std=0.1)
    clips = torch.randn(6, OUTPUTS, lm.width, generator=torch.Generator().manual_seed(3))
    runs = [[(name, "a whisk goes") for name in "abc"], [(name, "then a fork") for name in "def"]]
    rows = Sequences(runs, lm.chat, OUTPUTS, 2, 0).batch(0).rows
    with torch.no_grad():
        found = embedded(tiny_lm, comparison, rows, clips)
        for clip in range(6):
            alone = clips[clip] if clip in (0, 3) else comparison(clips[clip - 1 : clip], clips[clip : clip + 1])[0]
            torch.testing.assert_close(found[clip], alone)
            assert clip in (0, 3) or (alone - clips[clip]).abs().max() > 1e-3
        single = Packer(lm.chat, OUTPUTS, "Here: {video}.").pack([[Turn("?", "a fork")]] * 6)
        assert torch.equal(embedded(tiny_lm, comparison, single, clips), clips)


def test_an_untrained_comparison_changes_no_token(tiny_lm: str) -> None:
    lm = LanguageModel.load(tiny_lm)
    clips = torch.randn(2, OUTPUTS, lm.width, generator=torch.Generator().manual_seed(3))
    rows = Packer(lm.chat, OUTPUTS).pack([[Turn("?", "a fork")]])
    assert torch.equal(embedded(tiny_lm, Comparison(lm.width, 0.5), rows, clips), clips)


class Spaced:
    """A tokenizer in which a space is a separate token."""

    chat_template = "there is one"
    all_special_ids: list[int] = []
    unk_token_id = None

    def __call__(self, text: str, **options: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}


def test_yes_and_no_are_distinguished_by_their_first_tokens_that_differ() -> None:
    assert answer_ids(Chat(Spaced())) == (ord("Y"), ord("N"))
