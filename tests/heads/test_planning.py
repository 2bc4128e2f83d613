"""Guarantees of heads/planning: its figures are those of real models, of torch's counters, and of a tokenizer."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from common.errors import StepDiffError
from heads.data.packing import Chat, Packer, Turn
from heads.models import packed_attention
from heads.models.language_model import LanguageModel
from heads.models.parallelize import divide_layers, plain_weights
from heads.models.projector import Projector
from heads.planning import architecture, memory, rows, work
from heads.planning.rows import Rows
from heads.training.contrastive_task import ContrastiveHead
from heads.training.recipe import (
    ContrastiveRecipe,
    EvidenceOptions,
    Lora,
    ProjectorOptions,
    Scaling,
    Schedule,
    VideoLMRecipe,
)
from heads.training.sources import Sequences
from tasks.prompts import DIFFERENCE_QUESTION, NARRATION_QUESTION, PAIR_SYSTEM, SYSTEM
from weights import registry, resolve

CLIP = (16, 24)
PERCEIVER = ProjectorOptions(width=16, heads=2, outputs=4)
RECIPE = VideoLMRecipe(Schedule(1), projector=PERCEIVER, pairqa="pairs")
MODES: dict[str, dict[str, Any]] = {
    "projector": {},
    "lora": {"lora": Lora(4, targets=("q_proj", "v_proj", "down_proj"))},
    "full": {"full": True},
}
ASKED = Rows(rows=3, clips=6, prefix=40, questions=4, question=24, answer=10, samples=3)


@pytest.fixture(params=["tiny", "smollm2-135m-instruct"])
def language_model(request: pytest.FixtureRequest, tiny_lm: str) -> str:
    name = request.param
    if name != "tiny" and not registry.source(name).is_complete():
        pytest.skip(f"{name} is not fetched; run python -m weights fetch {name}")
    return tiny_lm if name == "tiny" else name


def real(recipe: VideoLMRecipe) -> tuple[LanguageModel, nn.Module]:
    """Return the recipe's language model with its weights, and what trains next to it."""
    lm = LanguageModel.load(recipe.language_model)
    if recipe.lora is not None:
        lm.add_lora(recipe.lora, 0)
    if recipe.full:
        lm.train_all()
    return lm, Projector(recipe.projector, *CLIP, lm.width, 1.0)


def planned(recipe: VideoLMRecipe, scaling: Scaling | None = None) -> memory.Weights:
    config, _ = architecture.configuration(recipe.language_model)
    lm = architecture.language_model(config, recipe, torch.float32)
    return memory.weights(lm, architecture.projector(recipe, CLIP, lm.width), scaling or Scaling())


@pytest.mark.parametrize("mode", MODES)
def test_the_parameters_of_a_planned_model_are_those_of_the_loaded_one(language_model: str, mode: str) -> None:
    recipe = replace(RECIPE, language_model=language_model, **MODES[mode])
    lm, head = real(recipe)
    weights = [*lm.parameters(), *head.parameters()]
    found = planned(recipe)
    assert found.trained == sum(w.numel() for w in weights if w.requires_grad) > 0
    assert found.frozen == sum(w.numel() for w in weights if not w.requires_grad)
    assert found.memory.trained == 4 * found.trained and found.memory.frozen == 4 * found.frozen


@pytest.mark.parametrize("mode", MODES)
def test_planned_weights_gradients_and_optimiser_state_are_those_of_the_real_ones(tiny_lm: str, mode: str) -> None:
    recipe = replace(RECIPE, language_model=tiny_lm, **MODES[mode])
    trained = [w for module in real(recipe) for w in module.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for weight in trained:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    found = planned(recipe).memory
    assert found.gradients == sum(weight.grad.nbytes for weight in trained if weight.grad is not None)
    averages = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    assert found.optimizer == sum(value.nbytes for value in averages)


@pytest.fixture
def fake_group() -> Iterator[None]:
    """A process group of eight, of which this process is one and the others do not exist."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=8, store=FakeStore())
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("mode", MODES)
def test_planned_weights_of_a_process_are_those_that_fsdp_leaves_it(fake_group: None, tiny_lm: str, mode: str) -> None:
    from torch.distributed.tensor import DTensor

    recipe = replace(RECIPE, language_model=tiny_lm, **MODES[mode])
    found = planned(recipe, Scaling(workers=8, fsdp=True))
    config, _ = architecture.configuration(tiny_lm)
    lm = architecture.language_model(config, replace(recipe, lora=None), torch.float32)
    divide_layers(lm.model, torch.distributed.init_device_mesh("cpu", (8,)), offload=False)
    if recipe.lora is not None:
        with plain_weights(lm.model, "cpu"):
            lm.add_lora(recipe.lora, 0)
    head = architecture.projector(recipe, CLIP, lm.width)
    ours = [
        (w.requires_grad, w.to_local() if isinstance(w, DTensor) else w)
        for w in [*lm.model.parameters(), *head.parameters()]
    ]
    assert any(isinstance(w, DTensor) for w in lm.model.parameters())
    assert found.memory.frozen == sum(w.nbytes for trains, w in ours if not trains)
    assert found.memory.trained == sum(w.nbytes for trains, w in ours if trains)


def test_layers_that_tensor_parallelism_cannot_divide_are_refused_by_the_plan(tiny_lm: str) -> None:
    recipe = replace(RECIPE, language_model=tiny_lm)
    with pytest.raises(StepDiffError, match=r"3 processes cannot compute it together \(its key heads cannot be"):
        planned(recipe, Scaling(workers=3, tensor_parallel=3))


def asked(made: Rows, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return embeddings, segments and positions of a batch of packed rows."""
    parts = [0] * made.prefix + [q + 1 for q in range(made.questions) for _ in range(made.question)]
    segment = torch.tensor([parts] * made.rows)
    places = torch.arange(segment.shape[1]).expand_as(segment)
    return torch.randn(*segment.shape, width, requires_grad=True), segment, places


def small_llama(recipe: VideoLMRecipe, dtype: torch.dtype) -> tuple[LanguageModel, architecture.Sizes]:
    """Return a Llama that attends as on a GPU, and its dimensions."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=176, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if recipe.full else dtype)
    packed_attention.register()
    model.set_attn_implementation(packed_attention.NAME)
    lm = LanguageModel(model, architecture.NoChat())
    if recipe.lora is not None:
        lm.add_lora(recipe.lora, 0)
    if recipe.full:
        lm.train_all()
    if recipe.gradient_checkpointing:
        lm.recompute_layers()
    lm.train(True)
    return lm, architecture.sizes(config)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the fused attention, which a CPU replaces by plain products."""

    def attend(query: Tensor, key: Tensor, value: Tensor, may_see: Tensor, scaling: float | None) -> Tensor:
        return scaled_dot_product_attention(query, key, value, attn_mask=may_see, scale=scaling)

    monkeypatch.setattr(packed_attention, "attend", attend)


def kept(compute: Callable[[], object], besides: list[Tensor]) -> int:
    """Return the bytes that autograd keeps of a computation, without some tensors."""
    known = {tensor.untyped_storage().data_ptr() for tensor in besides}
    seen: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        seen.setdefault(tensor.untyped_storage().data_ptr(), tensor)  # held, so that no other gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = compute()
    del result
    return sum(t.untyped_storage().nbytes() for place, t in seen.items() if place not in known)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_planned_activations_are_close_to_what_autograd_keeps(
    as_on_a_gpu: None, mode: str, recompute: bool, dtype: torch.dtype
) -> None:
    recipe = replace(RECIPE, gradient_checkpointing=recompute, **MODES[mode])
    lm, sizes = small_llama(recipe, dtype)
    given, segment, places = asked(ASKED, sizes.width)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        embeddings = given.to(lm.model.dtype)
        measured = kept(lambda: lm.hidden(embeddings, segment, places), list(lm.parameters()))
    estimate = memory.language(recipe, sizes, ASKED, dtype.itemsize)
    if recompute:  # the layer that is computed again exists in the backward pass only
        estimate -= memory.layer(recipe, sizes, ASKED, dtype.itemsize)
    assert estimate == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_planned_activations_of_the_projector_are_close_to_what_autograd_keeps(dtype: torch.dtype) -> None:
    options, clip = ProjectorOptions(width=64, heads=4, outputs=8, layers=3), (256, 96)
    projector, tokens = Projector(options, *clip, 48, 1.0), torch.randn(5, *clip)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        measured = kept(lambda: projector(tokens), list(projector.parameters()))
    assert 5 * memory.projected(options, clip, 48, dtype.itemsize) == pytest.approx(measured, rel=0.15)


def test_planned_memory_of_a_contrastive_loss_is_close_to_what_autograd_keeps() -> None:
    head = ContrastiveHead(ContrastiveRecipe(Schedule(1), width=16, projector=PERCEIVER), *CLIP, 8)
    clips, texts = (torch.randn(500, 16, requires_grad=True) for _ in range(2))
    measured = kept(lambda: head.match(clips, texts), [clips, texts])
    assert memory.matched(500, 0) == memory.matched(0, 500) == pytest.approx(2 * measured, rel=0.05), "and gradients"


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_planned_operations_are_those_that_torch_counts(mode: str, recompute: bool) -> None:
    recipe = replace(RECIPE, gradient_checkpointing=recompute, **MODES[mode])
    lm, sizes = small_llama(recipe, torch.float32)
    projector, tokens = Projector(PERCEIVER, *CLIP, sizes.width, 1.0), torch.randn(ASKED.clips, *CLIP)
    given, segment, places = asked(ASKED, sizes.width)
    targets = torch.arange(ASKED.targets)
    with FlopCounterMode(display=False) as counter:
        clips = projector(tokens)
        shown = torch.cat([clips.flatten(0, 1).view(ASKED.rows, -1, sizes.width), given], dim=1)[:, : given.shape[1]]
        hidden = lm.hidden(shown, segment, places)
        lm.logits(hidden.flatten(0, 1)[targets % segment.numel()]).logsumexp(-1).sum().backward()
    assert sum(work.operations(recipe, lm, sizes, ASKED, CLIP)) == pytest.approx(counter.get_total_flops(), rel=0.02)


def text_of(words: int) -> str:
    """Return an English text of so many words."""
    text = (
        "then we carefully pour about half a cup of warm milk over the flour and whisk it until there are no lumps "
        "left because otherwise the batter will not become smooth and the pancakes stick to the hot pan"
    ).split()
    return " ".join((text * (words // len(text) + 1))[:words])


def test_counted_rows_are_close_to_those_of_a_tokenizer() -> None:
    from transformers import AutoTokenizer

    if not registry.source("smollm2-135m-instruct").is_complete():
        pytest.skip("smollm2-135m-instruct is not fetched")
    chat, words = Chat(AutoTokenizer.from_pretrained(resolve("smollm2-135m-instruct"))), 40
    recipe = replace(RECIPE, batch=2, questions=3)
    narration, pair = Turn(NARRATION_QUESTION, text_of(words)), Turn(DIFFERENCE_QUESTION, text_of(words))
    run = [("a", text_of(words)), ("b", text_of(words)), ("c", text_of(words))]
    packed = {
        "clips": Packer(chat, 4, SYSTEM).pack([[narration]] * 2),
        "pairs": Packer(chat, 4, PAIR_SYSTEM).pack([[pair] * 3] * 2),
        "sequences": Sequences([run, run], chat, 4, 2, 0).of([run, run]).rows,
    }
    for name, batch in packed.items():
        counted = rows.batch(recipe, name, words)
        assert counted.tokens == pytest.approx(int((batch.segment >= 0).sum()), rel=0.2), name
        assert counted.targets == pytest.approx(int((batch.targets >= 0).sum()), rel=0.3), name
        assert counted.rows == len(batch.ids)
    terms = "copper pan, wooden spoon, oil, chopped red onion"
    asked = replace(pair, question=f"Video 1: {terms}. Video 2: {terms}. {DIFFERENCE_QUESTION}")
    evidence = rows.batch(replace(recipe, evidence=EvidenceOptions()), "pairs", words)
    tokens = int((Packer(chat, 4, PAIR_SYSTEM).pack([[asked] * 3] * 2).segment >= 0).sum())
    assert evidence.tokens == pytest.approx(tokens, rel=0.2)
    assert rows.batch(replace(recipe, evidence=EvidenceOptions(asked=False)), "pairs", words).tokens < evidence.tokens


def test_an_unknown_language_model_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match="someone/unknown: neither a folder .* meta-llama/Llama-2-7b-chat-hf"):
        architecture.configuration("someone/unknown")
