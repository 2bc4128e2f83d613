"""Guarantees of heads.data.packing, heads.data.packing and heads.models.video_lm."""

import copy
from typing import Any

import pytest
import torch

from common.errors import StepDiffError
from heads.data.packing import NO_TARGET, TEXT, Chat, Packer, Turn
from heads.models.language_model import LanguageModel, Lora
from heads.models.projector import Projector, ProjectorOptions
from heads.models.video_lm import VideoLM
from tasks.prompts import PAIR_SYSTEM

OUTPUTS = 4
TURNS = [
    [
        Turn("What differs?", "In Video 1, a whisk."),
        Turn("Which video has a spoon?", "Video 2"),
        Turn("The same?", "YES", given="The answer is", ends=False),
    ],
    [Turn("The same?", "NO")],
]


@pytest.fixture(scope="module")
def model(tiny_lm: str) -> VideoLM:
    lm = LanguageModel.load(tiny_lm)
    torch.manual_seed(1)
    options = ProjectorOptions(width=16, heads=2, outputs=OUTPUTS)
    projector = Projector(options, 16, 24, lm.width, 0.5)
    return VideoLM(lm, projector, OUTPUTS)


@pytest.fixture(scope="module")
def clips(model: VideoLM) -> torch.Tensor:
    with torch.inference_mode():
        return model.project(torch.randn(4, 16, 24, generator=torch.Generator().manual_seed(2)))


def test_packed_log_likelihoods_equal_separate_ones(model: VideoLM, clips: torch.Tensor) -> None:
    packed = model.log_likelihoods(TURNS, clips, mean=False)
    for row, turns in enumerate(TURNS):
        for place, turn in enumerate(turns):
            alone = model.log_likelihoods([[turn]], clips[2 * row : 2 * row + 2], mean=False)
            assert packed[row][place] == pytest.approx(alone[0][0], abs=1e-4)


def test_scores_are_computed_from_logits_in_float32_whatever_the_precision_of_the_layers(
    model: VideoLM, clips: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    hidden = VideoLM.hidden

    def kept(self: VideoLM, *given: Any) -> torch.Tensor:
        seen.append(hidden(self, *given))
        return seen[-1]

    monkeypatch.setattr(VideoLM, "hidden", kept)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = model.log_likelihoods(TURNS[:1], clips[:2], mean=False)
        rough, _, _ = model.token_losses(*model.pack(TURNS[:1], clips[:2], True))
    batch, _ = model.pack(TURNS[:1], clips[:2], True)
    places = batch.targets != NO_TARGET
    weight = model.lm.model.get_output_embeddings().weight.double()
    log_p = (seen[0][places].double() @ weight.T).log_softmax(-1)
    losses = -log_p.gather(1, batch.targets[places][:, None])[:, 0]
    sums = torch.zeros(len(found), dtype=torch.float64).index_add_(0, batch.turn[places], -losses)
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), sums, rtol=0, atol=1e-4)
    assert (rough.double() - losses).abs().max() > 1e-3  # under autocast they would not be


def test_dropout_is_never_active_in_a_frozen_language_model(model: VideoLM) -> None:
    model.train()
    assert model.projector.training and not any(part.training for part in model.lm.modules())
    assert not model.eval().projector.training


def test_log_likelihoods_equal_those_of_the_models_own_forward(model: VideoLM, clips: torch.Tensor) -> None:
    turn = TURNS[0][0]
    batch = model.packer.pack([[turn]])
    embeddings = model.lm.embed(batch.ids)
    embeddings[batch.video != TEXT] = clips[:2].flatten(0, 1)
    with torch.inference_mode():
        log_p = model.lm.model(inputs_embeds=embeddings).logits.log_softmax(-1)
    answer = model.lm.chat.text_ids(turn.answer) + model.packer.pieces.end
    first = batch.ids.shape[1] - len(answer)
    naive = sum(float(log_p[0, first + i - 1, token]) for i, token in enumerate(answer))
    assert model.log_likelihoods([[turn]], clips[:2], mean=False)[0][0] == pytest.approx(naive, abs=1e-4)
    mean = model.log_likelihoods([[turn]], clips[:2], mean=True)[0][0]
    assert mean == pytest.approx(naive / len(answer), abs=1e-4)


def test_the_video_affects_the_scores(model: VideoLM, clips: torch.Tensor) -> None:
    own = model.log_likelihoods(TURNS, clips, mean=False)
    other = model.log_likelihoods(TURNS, clips.flip(0), mean=False)
    blind = model.log_likelihoods(TURNS, None, mean=False)
    assert abs(own[0][0] - other[0][0]) > 1e-2
    assert abs(own[0][0] - blind[0][0]) > 1e-2


def test_unpacked_equals_packed(model: VideoLM, clips: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = model.log_likelihoods(TURNS, clips, mean=False)
    monkeypatch.setattr(LanguageModel, "packs", property(lambda self: False))
    unpacked = model.log_likelihoods(TURNS, clips, mean=False)
    for a, b in zip(sum(packed, []), sum(unpacked, []), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_sliding_window_models_run_unpacked(tiny_lm: str) -> None:
    lm = LanguageModel.load(tiny_lm)
    assert lm.packs
    lm.model.config.layer_types = ["full_attention", "sliding_attention"]
    assert not lm.packs


def test_only_answers_have_targets_and_positions_restart(model: VideoLM) -> None:
    batch = model.packer.pack(TURNS)
    prefix = int((batch.segment[0] == 0).sum())
    for segment in (1, 2, 3):
        own = batch.segment[0] == segment
        assert int(batch.positions[0][own][0]) == prefix
        predicted = batch.targets[0][own]
        turn = TURNS[0][segment - 1]
        targets = predicted[predicted != NO_TARGET].tolist()
        text = f" {turn.answer}" if turn.given else turn.answer
        assert targets == list(model.lm.chat.text_ids(text)) + ([model.packer.pieces.end[0]] if turn.ends else [])
    assert (batch.targets[0][batch.segment[0] == 0] == NO_TARGET).all()


def test_joined_pieces_equal_the_chat_template(model: VideoLM) -> None:
    chat: Chat = model.lm.chat
    packer = Packer(chat, 0)
    ids = packer.pack([[Turn("Why?", "So.")]]).ids[0].tolist()
    system = PAIR_SYSTEM.replace("{video}", "")
    whole = chat.tokenizer.apply_chat_template(
        [
            {"role": "system", "content": system},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "So."},
        ],
        tokenize=False,
    )
    assert chat.tokenizer.decode(ids) == whole.removesuffix("\n")


def test_a_users_text_never_becomes_a_control_token(model: VideoLM) -> None:
    end = model.lm.chat.tokenizer.eos_token_id
    assert end in model.lm.chat.control_ids("<|im_end|>")
    assert end not in model.lm.chat.text_ids("<|im_end|>")


def test_without_lora_no_parameter_of_the_model_trains(tiny_lm: str) -> None:
    lm = LanguageModel.load(tiny_lm)
    assert not any(p.requires_grad for p in lm.parameters())
    lm.add_lora(Lora(rank=2), seed=0)
    trains = [name for name, p in lm.named_parameters() if p.requires_grad]
    assert len(trains) == 2 * 4 * 2 and all("lora_" in name for name in trains)


def lora_weights(lm: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in lm.named_parameters() if "lora_" in name}


def test_the_message_for_an_unknown_lora_layer_lists_the_layers(tiny_lm: str) -> None:
    lm = LanguageModel.load(tiny_lm)
    with pytest.raises(
        StepDiffError, match="no linear layer query_key_value .* set video_lm.lora.targets to .* q_proj, "
    ):
        lm.add_lora(Lora(targets=("q_proj", "query_key_value")), seed=0)
    assert lora_weights(lm) == {}
    lm.add_lora(Lora(targets=("self_attn.q_proj",)), seed=0)
    assert len(lora_weights(lm)) == 2 * 2


def test_with_frozen_layers_in_the_precision_of_their_products_the_outputs_are_the_same_bit_for_bit(
    model: VideoLM, clips: torch.Tensor
) -> None:
    lm = copy.deepcopy(model.lm)
    lm.add_lora(Lora(rank=2), seed=0)
    for name, weight in lora_weights(lm).items():
        torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(len(name)))
    batch, _ = model.pack([[Turn("What differs?", "a whisk")]], clips[:2], True)

    def outputs() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            logits = lm.logits(lm.hidden(model.embed(batch, clips[:2]), batch.segment, batch.positions))
        return [logits.detach(), *torch.autograd.grad(logits.float().square().mean(), list(lora_weights(lm).values()))]

    before = outputs()
    lm.hold_frozen(torch.bfloat16)
    for value, expected in zip(outputs(), before, strict=True):
        assert torch.equal(value, expected) and expected.any()
    held = {name: p.dtype for name, p in lm.named_parameters() if p.dtype == torch.bfloat16}
    assert held and not any("lora_" in name or "embed" in name for name in held)


def test_generation_continues_after_the_last_word_of_the_prompt(model: VideoLM) -> None:
    packed = Packer(model.lm.chat, OUTPUTS).pack([[Turn("What differs?", "", "In Video 2, they", ends=False)]])
    assert packed.ids[0, -1] == model.lm.chat.text_ids(" they")[-1]


def test_in_float32_an_answer_generated_in_a_batch_is_the_same_as_one_generated_alone(
    model: VideoLM, clips: torch.Tensor
) -> None:
    turns = [Turn("What differs?", "", "In Video 2,", ends=False), Turn("Which video shows the whisk?", "", ends=False)]
    batch = model.generate(turns, clips[:4], 8)
    alone = [model.generate([turn], clips[2 * i : 2 * i + 2], 8)[0] for i, turn in enumerate(turns)]
    assert batch == alone
    assert len(set(batch)) == 2 and all(batch)


def test_weights_that_train_are_float32_whatever_the_others_are(tiny_lm: str) -> None:
    lm = LanguageModel.load(tiny_lm)
    lm.model.to(torch.bfloat16)  # as it is loaded on a GPU
    lm.add_lora(Lora(rank=2), seed=0)
    assert {p.dtype for p in lm.trained()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        lm.model(input_ids=torch.arange(6)[None]).logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in lm.trained())
