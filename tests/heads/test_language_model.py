"""The video language model: prompts, packed rows, generation, the projector, and weights on
disk."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import scaled_dot_product_attention

from heads import ask
from heads.data.packing import NO_TARGET, TEXT, Chat, Packer, Turn
from heads.llm.model import CutOff
from heads.methods.stepdiff import StepDiff
from heads.models.language_model import LanguageModel, Lora, autocast, load_model, load_processor
from heads.models.packed_attention import PackedLayout, may_see, packed_attention
from heads.models.video_lm import Projector, Tokens, VideoLM
from heads.training.recipe import ProjectorOptions
from heads.training.run_record import load_video_lm
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.prompts import PRESETS
from stepdiff_core.tasks.testsets import DiffCap
from store import Store

from .conftest import Capture

OUTPUTS = 4
TURNS = [
    [
        Turn("What differs?", "In Video 1, a whisk."),
        Turn("Which video has a spoon?", "Video 2"),
        Turn("The same?", "YES", seed="The answer is", ends=False),
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


def test_log_likelihoods_equal_those_of_the_models_own_forward(
    model: VideoLM, clips: torch.Tensor
) -> None:
    turn = TURNS[0][0]
    batch = model.packer.pack([[turn]])
    embeddings = model.lm.embed(batch.ids)
    embeddings[batch.video != TEXT] = clips[:2].flatten(0, 1)
    with torch.inference_mode():
        log_p = model.lm.model(inputs_embeds=embeddings).logits.log_softmax(-1)
    answer = model.lm.chat.text_ids(turn.answer) + model.packer.pieces.end
    first = batch.ids.shape[1] - len(answer)
    naive = sum(float(log_p[0, first + i - 1, token]) for i, token in enumerate(answer))
    assert model.log_likelihoods([[turn]], clips[:2], mean=False)[0][0] == pytest.approx(
        naive, abs=1e-4
    )
    mean = model.log_likelihoods([[turn]], clips[:2], mean=True)[0][0]
    assert mean == pytest.approx(naive / len(answer), abs=1e-4)


def lora_weights(lm: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in lm.named_parameters() if "lora_" in name}


def test_the_message_for_an_unknown_lora_layer_lists_the_layers(tiny_lm: str) -> None:
    lm = LanguageModel.load(tiny_lm)
    with pytest.raises(
        StepDiffError,
        match="no linear layer query_key_value .* set video_lm.lora.targets to .* q_proj, ",
    ):
        lm.add_lora(Lora(targets=("q_proj", "query_key_value")), seed=0)
    assert lora_weights(lm) == {}
    lm.add_lora(Lora(targets=("self_attn.q_proj",)), seed=0)
    assert len(lora_weights(lm)) == 2 * 2


def test_frozen_layers_in_bfloat16_change_no_bit(model: VideoLM, clips: torch.Tensor) -> None:
    lm = copy.deepcopy(model.lm)
    lm.add_lora(Lora(rank=2), seed=0)
    for name, weight in lora_weights(lm).items():
        torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(len(name)))
    batch, _ = model.pack([[Turn("What differs?", "a whisk")]], clips[:2], True)

    def outputs() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            logits = lm.logits(
                lm.hidden(model.embed(batch, clips[:2]), batch.segment, batch.positions)
            )
        return [
            logits.detach(),
            *torch.autograd.grad(logits.float().square().mean(), list(lora_weights(lm).values())),
        ]

    before = outputs()
    lm.hold_frozen(torch.bfloat16)
    for value, expected in zip(outputs(), before, strict=True):
        assert torch.equal(value, expected) and expected.any()
    held = {name: p.dtype for name, p in lm.named_parameters() if p.dtype == torch.bfloat16}
    assert held and not any("lora_" in name or "embed" in name for name in held)


def test_no_batch_changes_an_answer_in_float32(model: VideoLM, clips: torch.Tensor) -> None:
    turns = [
        Turn("What differs?", "", "In Video 2,", ends=False),
        Turn("Which video shows the whisk?", "", ends=False),
    ]
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


LINE = (
    "You are an assistant. Here is Video 1: a. Here is Video 2. Why? INST SYS In Video 2, they use "
    "a fork.\n\n"
)
LLAMA = (
    "{{ bos_token }}[INST] <<SYS>>\n{{ messages[0].content }}\n<</SYS>>\n\n{{ messages[1].content "
    "}} [/INST]{% if messages|length > 2 %} {{ messages[2].content }} {{ eos_token }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}{% if m.role == 'assistant' %} {{ "
    "eos_token }}{% else %}</s>\n{% endif %}{% endfor %}{% if add_generation_prompt "
    "%}<s>assistant\n{% endif %}"
)
MARK = "\t"  # placeholder of a video: a character that no tokenizer here merges with another


def tokenizer(kind: str) -> Any:
    """Return a tokenizer trained on a line: with a space before the first word, before every text,
    or of bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    first = ["<unk>", "<s>", "</s>"]
    alphabet = [chr(code) for code in range(32, 127)] + ["\n", MARK, "▁"]
    settings: dict[str, Any] = {"vocab_size": 260, "special_tokens": first, "show_progress": False}
    made = Tokenizer(models.Unigram() if kind == "unigram" else models.BPE(unk_token="<unk>"))
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    if kind == "bytes":
        made.pre_tokenizer, made.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        settings["vocab_size"] = 350
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    if kind == "unigram":
        trainer: Any = trainers.UnigramTrainer(
            **settings, initial_alphabet=alphabet, unk_token="<unk>"
        )
    else:
        trainer = trainers.BpeTrainer(**settings, initial_alphabet=alphabet)
    made.train_from_iterator([LINE] * 9, trainer)
    if kind == "every text":
        made.pre_tokenizer = None
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = CHATML if kind == "bytes" else LLAMA
    return fast


@pytest.mark.parametrize("kind", ["first word", "every text", "unigram", "bytes"])
@pytest.mark.parametrize("given", ["", "In Video 2,"])
def test_joined_pieces_equal_the_tokens_of_the_chat_template(kind: str, given: str) -> None:
    words = tokenizer(kind)
    system = "You are an assistant. Here is Video 1:{video}. Here is Video 2:{video}."
    packed = Packer(Chat(words), 0, system).pack([[Turn("Why?", "they use a fork.", given)]])
    messages = [
        {"role": "system", "content": system.replace("{video}", MARK)},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": f"{given} they use a fork.".strip()},
    ]
    whole = words.apply_chat_template(messages, tokenize=False).removesuffix(" </s>")
    expected = words(whole, add_special_tokens=False)["input_ids"]
    marked = words(f"x{MARK}", add_special_tokens=False)["input_ids"][-1]
    assert expected.count(marked) == 2
    assert packed.ids[0].tolist() == [token for token in expected if token != marked] + [
        words.eos_token_id
    ]
    target = packed.targets[0][packed.targets[0] != NO_TARGET]
    assert (
        words.decode(target) == "they use a fork.</s>"
        if kind != "bytes"
        else " they use a fork.</s>"
    )


@pytest.mark.parametrize("kind", ["first word", "every text", "unigram", "bytes"])
def test_pieces_decode_to_their_text_wherever_they_are_cut(kind: str) -> None:
    chat = Chat(tokenizer(kind))
    for text in ("fork", " a fork", "\n\nWhy?", "\n", " ", "", "x", "/s> a"):
        pieces = chat.text_ids("In Video 2,") + chat.text_ids(text)
        assert (
            chat.tokenizer.decode(pieces, clean_up_tokenization_spaces=False)
            == f"In Video 2,{text}"
        )


@pytest.mark.parametrize("kind", ["first word", "every text", "bytes"])
def test_a_users_text_never_becomes_a_control_token(kind: str) -> None:
    chat = Chat(tokenizer(kind))
    end = chat.tokenizer.eos_token_id
    assert end in chat.control_ids("a </s>") and end not in chat.text_ids("a </s>")


def test_a_tokenizer_that_always_reads_control_tokens_is_refused() -> None:
    chat = Chat(tokenizer("unigram"))  # the control tokens are pieces of its model
    with pytest.raises(StepDiffError, match="'a </s>': the tokenizer reads a control token in it"):
        chat.text_ids("a </s>")


SEGMENT = torch.tensor(
    [
        [0, 0, 0, 1, 1, 1, 1, 2, 3, 3, 3, 3, 3],
        [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1],
        [0, 0, 0, 1, 1, 2, 2, 3, -1, -1, -1, -1, -1],
    ]
)


@pytest.mark.parametrize("heads", [2, 6])  # as many key heads as query heads, and grouped queries
def test_packed_attention_equals_the_dense_mask_with_gradients(heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    length, keys = SEGMENT.shape[1], 2
    query = torch.randn(3, heads, length, 8, generator=generator, requires_grad=True)
    key, value = (
        torch.randn(3, keys, length, 8, generator=generator, requires_grad=True) for _ in range(2)
    )
    wide_key, wide_value = (x.repeat_interleave(heads // keys, 1) for x in (key, value))
    dense = scaled_dot_product_attention(
        query, wide_key, wide_value, attn_mask=may_see(SEGMENT)[:, None], scale=0.3
    )
    dense = dense.transpose(1, 2)
    kept, layout = SEGMENT >= 0, PackedLayout.of(SEGMENT)
    flat = [x.transpose(0, 1).flatten(1, 2)[None, :, layout.tokens] for x in (query, key, value)]
    apart, _ = packed_attention(torch.nn.Identity(), *flat, None, scaling=0.3, layout=layout)
    torch.testing.assert_close(apart[0], dense[kept])
    weights = torch.randn(dense[kept].shape, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad((apart[0] * weights).sum(), (query, key, value)),
        torch.autograd.grad((dense[kept] * weights).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def projector(tokens: int = 16) -> Projector:
    torch.manual_seed(0)
    return Projector(ProjectorOptions(width=16, heads=2, outputs=5), tokens, 12, 32, 0.13)


def test_outputs_do_not_depend_on_the_number_of_input_tokens() -> None:
    for tokens in (8, 16, 392):
        assert projector(tokens)(torch.randn(3, tokens, 12)).shape == (3, 5, 32)
    with pytest.raises(StepDiffError, match="15 tokens per clip do not divide into 8 frames"):
        projector(15)


def test_clips_of_a_batch_do_not_see_each_other() -> None:
    clips = torch.randn(3, 16, 12)
    alone = torch.cat([projector()(clip[None]) for clip in clips])
    torch.testing.assert_close(projector()(clips), alone, rtol=1e-5, atol=1e-6)


def test_the_output_depends_on_time_and_place_of_a_token() -> None:
    clip = torch.randn(1, 16, 12)
    whole = projector()(clip)
    assert (projector()(clip.unflatten(1, (8, 2)).flip(1).flatten(1, 2)) - whole).abs().max() > 1e-4
    assert (projector()(clip.unflatten(1, (8, 2)).flip(2).flatten(1, 2)) - whole).abs().max() > 1e-4


def test_tokens_that_are_left_out_do_not_change_the_output() -> None:
    projector = Projector(ProjectorOptions(width=16, heads=2, outputs=3), 16, 24, 8, 0.5)
    tokens = torch.randn(2, 16, 24, requires_grad=True)
    torch.manual_seed(5)
    kept = torch.randperm(16)[:4]
    torch.manual_seed(5)
    projector(tokens, leave_out=0.75).square().sum().backward()
    assert tokens.grad is not None
    looked_at = tokens.grad.abs().sum(dim=(0, 2)).nonzero()[:, 0]
    assert looked_at.tolist() == sorted(kept.tolist())
    torch.manual_seed(5)
    once = projector(tokens, leave_out=0.75)
    assert not torch.equal(once, projector(tokens, leave_out=0.75)), (
        "each draw leaves out other tokens"
    )
    assert torch.equal(projector(tokens), projector(tokens, leave_out=0.0))


KIND = "AutoModelForCausalLM"


@pytest.fixture
def folder(tiny_lm: str, tmp_path: Path) -> Path:
    shutil.copytree(tiny_lm, tmp_path / "model")
    return tmp_path / "model"


def test_weights_are_safetensors_and_whole(folder: Path) -> None:
    assert load_model(KIND, str(folder), "cpu").dtype == torch.float32
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if "layers" in name)
    save_file(
        {key: value for key, value in tensors.items() if key != name}, weights, {"format": "pt"}
    )
    with pytest.raises(
        StepDiffError, match=f"lacks 1 tensors, first {name}; give a whole checkpoint"
    ):
        load_model(KIND, str(folder), "cpu")
    weights.unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(StepDiffError, match=f"no model that {KIND} can load"):
        load_model(KIND, str(folder), "cpu")


def test_no_code_of_a_checkpoint_runs(folder: Path, tmp_path: Path) -> None:
    """The checkpoint names classes of its own, in a file that leaves a mark where it is
    imported."""
    mark = tmp_path / "ran"
    code = (
        f"open({str(mark)!r}, 'w').close()\nfrom transformers import *\nclass "
        "Own(PretrainedConfig): pass\n"
    )
    (folder / "own.py").write_text(code)
    own = {"AutoConfig": "own.Own", KIND: "own.Own", "AutoTokenizer": ["own.Own", None]}
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"model_type": "own", "auto_map": own})
        )
    with pytest.raises(StepDiffError, match=f"no model that {KIND} can load") as refused:
        load_model(KIND, str(folder), "cpu")
    assert "\n" not in str(refused.value)
    load_processor(str(folder), "AutoTokenizer")  # its files are data
    assert not mark.exists()


@pytest.fixture(scope="module")
def head(trained: Path, world: Path) -> Iterator[StepDiff]:
    model, features, recipe = load_video_lm(trained, Store.open(world / "features"))
    with autocast("cpu", recipe.precision):
        yield StepDiff(model, features)


PAIR = ("video-_18_0.0_19.5", "video-_19_0.0_20.5")


def test_the_words_passed_on_are_the_answer_to_the_byte(head: StepDiff) -> None:
    for question in PRESETS.values():
        said: list[str] = []
        answer = head.ask(*PAIR, question, 48, said.append)
        assert "".join(said) == answer == head.ask(*PAIR, question, 48)


class Ids(Tokens):
    """Keeps the tokens that are generated."""

    def __init__(self) -> None:
        super().__init__(lambda: None)
        self.ids: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        if value.ndim == 1:
            self.ids += value.tolist()


def test_a_cut_off_answer_is_told_from_a_whole_one(
    tiny_lm: str, model: VideoLM, clips: torch.Tensor
) -> None:
    own = VideoLM(LanguageModel.load(tiny_lm), model.projector, OUTPUTS)

    def answer(most: int) -> tuple[str, list[int]]:
        streamer = Ids()
        return own.generate([Turn("What differs?", "", ends=False)], clips[:2], most, streamer)[
            0
        ], streamer.ids

    cut, ids = answer(6)
    assert isinstance(cut, CutOff) and len(ids) == 6
    own.lm.model.generation_config.eos_token_id = [ids[2]]
    ended, first = answer(6)
    assert not isinstance(ended, CutOff) and first == ids[: len(first)] and first[-1] == ids[2]
    assert answer(len(first)) == (ended, first) and not isinstance(answer(len(first))[0], CutOff), (
        "ended at the limit"
    )


def test_a_file_instead_of_a_clip_names_the_command_for_files(
    tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    assert ask.main(["--reference", str(tmp_path / "a.mp4"), "--candidate", "b", "Why?"]) == 2
    assert "for files run stepdiff compare" in capsys.readouterr().err


@pytest.mark.full
def test_the_answer_of_the_command_is_the_same(
    head: StepDiff, trained: Path, world: Path, capsys: Capture
) -> None:
    where = ["--head", str(trained), "--store", str(world / "features"), "--device", "cpu"]
    capsys.readouterr()
    assert (
        ask.main(["--reference", PAIR[0], "--candidate", PAIR[1], *where, "--preset", "mistake"])
        == 0
    )
    said: list[str] = []
    answer = head.ask(*PAIR, PRESETS["mistake"], 192, said.append)
    end = f"({ask.CUT})\n" if isinstance(answer, CutOff) else ""
    assert capsys.readouterr().out.endswith(f"A: {''.join(said)}\n{end}")


class EnoughError(Exception):
    pass


def stop_at(token: int) -> tuple[list[int], Callable[..., None]]:
    """Return a list that counts tokens, and a function that raises at one of them."""
    seen: list[int] = []

    def say(*_: str) -> None:
        seen.append(len(seen))
        if len(seen) == token:
            raise EnoughError

    return seen, say


def test_what_the_caller_raises_ends_the_generation(head: StepDiff) -> None:
    seen, say = stop_at(3)
    with pytest.raises(EnoughError):
        head.ask(*PAIR, "What differs?", 48, say)
    assert len(seen) == 3
    seen, say = stop_at(2)
    with pytest.raises(EnoughError):
        head.caption([DiffCap(*PAIR, category, ()) for category in ("Visuals", "Actions")], say)
    assert len(seen) == 2


def test_rows_that_are_not_packed_have_the_same_log_likelihoods(
    model: VideoLM, clips: torch.Tensor
) -> None:
    """As in models whose layers see a sliding window."""
    apart = copy.deepcopy(model)
    apart.lm.model.config.layer_types = ["full_attention", "sliding_attention"]
    assert model.lm.packs and not apart.lm.packs
    packed, unpacked = (one.log_likelihoods(TURNS, clips, mean=False) for one in (model, apart))
    assert sum(unpacked, []) == pytest.approx(sum(packed, []), abs=1e-4)
