"""The needs of a recipe: its model without weights, and one training step of it, in bytes and
operations.

Nothing here uses the network, and no tensor has memory: the model is on PyTorch's meta device, and
a step is computed with fake tensors, which have a shape, a type and a lifetime. It runs as on a
card, forward and backward, while its live bytes and its matrix products are counted. Norms,
activations and the optimiser have no operations here.

Tokens are counted without a tokenizer: a text of n words has TOKENS_PER_WORD n tokens, and a chat
template adds TEMPLATE to a prompt. On simple English SmolLM2 has up to a quarter fewer.
"""

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from heads.data.packing import Chat
from heads.methods.word_evidence import NAMED
from heads.models import packed_attention
from heads.models.language_model import LanguageModel, decoder_layers
from heads.models.packed_attention import PackedLayout
from heads.models.parallelize import divided_matrices
from heads.models.video_lm import Projector
from heads.training.recipe import Scaling, VideoLMRecipe
from heads.training.sources import SEQUENCE
from stepdiff_core.errors import StepDiffError, first_line
from stepdiff_core.tasks.prompts import (
    CAPTION_QUESTION,
    DIFFERENCE_QUESTION,
    NARRATION_QUESTION,
    NEXT_VIDEO,
    PAIR_SYSTEM,
    SYSTEM,
)
from stepdiff_core.weights import registry, resolve

KNOWN: dict[str, dict[str, Any]] = {  # published figures
    f"meta-llama/Llama-2-{name}-chat-hf": {
        "model_type": "llama",
        "vocab_size": 32000,
        "tie_word_embeddings": False,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
    }
    for name, width, hidden, layers, heads, key_heads in (
        ("7b", 4096, 11008, 32, 32, 32),
        ("13b", 5120, 13824, 40, 40, 40),
        ("70b", 8192, 28672, 80, 64, 8),
    )
}
FLOAT = 4
"""bytes of a float32"""
GATHERED = 2
"""divided layers that are whole at a time: the one that computes, and the next one"""
TOKENS_PER_WORD = 1.25
TEMPLATE = 16
"""tokens of a chat template around the system prompt and the first question"""
EVIDENCE = 2 * (TEMPLATE // 4 + math.ceil(2 * NAMED * TOKENS_PER_WORD))
"""most tokens of the words of evidence before a question, for terms of two words"""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process."""

    frozen: float = 0.0
    """weights that do not train"""
    trained: float = 0.0
    """weights that train"""
    gradients: float = 0.0
    """of the weights, and the buffer in which the processes sum them"""
    optimizer: float = 0.0
    """AdamW's two averages"""
    gathered: float = 0.0
    """divided layers while they compute"""
    activations: float = 0.0
    """the most that is live at a time in a step with the largest batch"""
    reserve: float = 0.0
    """for CUDA, communication and fragmentation"""

    @property
    def card(self) -> float:
        """Bytes on the card."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class Weights:
    """Numbers of weights in the whole model, and bytes in one process."""

    frozen: int
    trained: int
    layers: float
    """bytes of all decoder layers, whole"""
    copies: int
    """trained weights that each process has whole"""
    memory: Memory


def configuration(name: str) -> tuple[Any, str]:
    """Return the transformers configuration of a language model and where it comes from.
    StepDiffError: it is nowhere on this machine and no published figures are known, or transformers
    does not know the model."""
    from transformers import AutoConfig

    is_here = name in registry.NAMES or Path(name).expanduser().exists()
    try:
        config = AutoConfig.from_pretrained(
            resolve(name) if is_here else name, local_files_only=True, trust_remote_code=False
        )
    except OSError as error:
        if name not in KNOWN:
            raise StepDiffError(
                f"{name}: neither a folder nor in the hub's cache, and its architecture is not "
                "known; give --video-lm.language-model a folder with its config.json, or one of "
                f"{', '.join(KNOWN)}"
            ) from error
        return AutoConfig.for_model(**KNOWN[name]), f"published figures of {name}"
    except ValueError as error:
        raise StepDiffError(
            f"{name}: no language model of transformers ({first_line(error)}); correct "
            "--video-lm.language-model"
        ) from error
    return config, f"config.json of {name}"


def language_model(config: Any, recipe: VideoLMRecipe, dtype: torch.dtype) -> LanguageModel:
    """Return the recipe's language model on the device of the caller's context. dtype: of weights
    that do not train.

    StepDiffError: its attention does not read packed questions.
    """
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32 if recipe.full else dtype, trust_remote_code=False
        )
        model.tie_weights()  # which no_init_weights leaves out
        lm = LanguageModel(model, Chat.__new__(Chat))  # without a tokenizer: nothing is packed
        if not (lm.packs and model._supports_attention_backend and decoder_layers(model)):
            raise StepDiffError(f"a plan of a {config.model_type} model is not known; train a step")
        lm.train_as(recipe, seed=0)
    packed_attention.register()
    model.set_attn_implementation(packed_attention.NAME)
    return lm


def weights(lm: LanguageModel, head: nn.Module, scaling: Scaling) -> Weights:
    """Return the weights of a model."""
    layers, workers = decoder_layers(lm.model), scaling.workers
    inside = divided_matrices(lm.model) if scaling.fsdp else set[int]()
    copies, numbers, nbytes = 0, [0, 0], [0.0, 0.0]  # of frozen and of trained weights
    for name, weight in [*head.named_parameters(), *lm.model.named_parameters()]:
        count, trains = weight.numel(), weight.requires_grad
        # LoRA is added to divided layers, whole
        divided = id(weight) in inside and "lora_" not in name
        share = (
            math.ceil(weight.shape[0] / workers) * (count // weight.shape[0]) if divided else count
        )
        copies += trains * (not divided) * count
        numbers[trains] += count
        nbytes[trains] += share * weight.element_size()
    frozen, trained = nbytes
    each = [sum(p.numel() * p.element_size() for p in layer.parameters()) for layer in layers]
    memory = Memory(
        frozen=frozen,
        trained=trained,
        gradients=trained + (FLOAT * copies if workers > 1 else 0),
        optimizer=2 * trained,
        gathered=float(GATHERED * max(each)) if scaling.fsdp else 0.0,
    )
    return Weights(numbers[False], numbers[True], float(sum(each)), copies, memory)


@dataclass(frozen=True)
class BatchShape:
    """A batch of equal rows: a prefix, then questions with their answers that each see the prefix
    and themselves."""

    rows: int
    clips: int
    """of all rows"""
    prefix: int
    """tokens of a row's prefix"""
    questions: int
    """per row"""
    question: int
    """tokens of a question and its answer"""
    answer: int
    """tokens of a question that are learned"""
    samples: int
    """clips, sequences, images or pairs"""

    @property
    def tokens(self) -> int:
        """Tokens of the batch, without padding."""
        return self.rows * (self.prefix + self.questions * self.question)

    @property
    def targets(self) -> int:
        """Tokens of the batch that are learned."""
        return self.rows * self.questions * self.answer


def batch(recipe: VideoLMRecipe, source: str, words: int | float) -> BatchShape:
    """Return a batch of one source. words: of each narration, caption and answer."""
    size, outputs, text = (
        recipe.batch,
        recipe.projector.outputs,
        math.ceil(words * TOKENS_PER_WORD) + 1,
    )
    if source == "sequences":
        prefix = count(PAIR_SYSTEM.partition("{video}")[0]) + outputs
        rest = (SEQUENCE - 1) * (count(NEXT_VIDEO) + outputs) + SEQUENCE * text
        return BatchShape(size, SEQUENCE * size, prefix, 1, rest, SEQUENCE * text, size)
    if source == "pairs":
        prefix = count(PAIR_SYSTEM) + TEMPLATE // 2 + 2 * outputs
        question = count(DIFFERENCE_QUESTION) + TEMPLATE // 2 + text
        if recipe.evidence is not None and recipe.evidence.asked:
            question += EVIDENCE
        rows, questions = (
            (size, recipe.questions) if recipe.packed else (size * recipe.questions, 1)
        )
        return BatchShape(rows, 2 * size, prefix, questions, question, text, size)
    prompt = CAPTION_QUESTION if source == "images" else NARRATION_QUESTION
    prefix = count(SYSTEM) + TEMPLATE // 2 + outputs
    return BatchShape(size, size, prefix, 1, count(prompt) + TEMPLATE // 2 + text, text, size)


def count(prompt: str) -> int:
    """Return about how many tokens a prompt has, without its clips."""
    return math.ceil(len(prompt.replace("{video}", "").split()) * TOKENS_PER_WORD)


class StepCost(NamedTuple):
    """A batch forward and backward, in one process."""

    activations: int
    """the most bytes that are live at a time, without weights and their gradients"""
    operations: int
    """of matrix products: one of [M, K] and [K, N] has 2 M K N"""


def steps(
    lm: LanguageModel,
    head: Projector,
    batches: Iterable[BatchShape],
    clip: tuple[int, int],
    products: torch.dtype,
) -> dict[BatchShape, StepCost]:
    """Return the cost of each batch. lm, head: on the meta device; other arguments as in `step`.

    Layers of `lm` are removed: those after the third take as much as the third.
    """
    layers = decoder_layers(lm.model)
    stack = next(
        part for part in lm.model.modules() if isinstance(part, nn.ModuleList) and layers[0] in part
    )
    del stack[3:]
    with FakeTensorMode():
        for module in (lm, head):
            fake_weights(module)
        three = {rows: step(lm, head, rows, clip, products) for rows in dict.fromkeys(batches)}
        if len(layers) <= 3:
            return three
        del stack[2:]
        two = {rows: step(lm, head, rows, clip, products) for rows in three}
    more = len(layers) - 3
    return {
        rows: StepCost(
            *(cost + more * (cost - less) for cost, less in zip(of_three, two[rows], strict=True))
        )
        for rows, of_three in three.items()
    }


def step(
    lm: LanguageModel,
    head: Projector,
    rows: BatchShape,
    clip: tuple[int, int],
    products: torch.dtype,
) -> StepCost:
    """Return the cost of a batch; called within a FakeTensorMode.

    clip: shape [N, D] of a clip's tokens; products: precision of matrix products.
    """
    parts = [0] * rows.prefix + [q + 1 for q in range(rows.questions) for _ in range(rows.question)]
    with unset_fake_temporarily():  # it depends on values
        real = PackedLayout.of(torch.tensor([parts] * rows.rows))
    layout = replace(real.moved(fake), fused=True)
    lm.train()
    weights = [*lm.parameters(), *head.parameters()]
    for weight in weights:
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    held = [*weights, *(weight.grad for weight in weights if weight.grad is not None)]
    with Meter(held) as meter:
        with torch.autocast("cpu", products, enabled=products == torch.bfloat16):
            clips = head(torch.empty(rows.clips, *clip))
            embeddings = lm.embed(torch.zeros(rows.rows, len(parts), dtype=torch.long))
            shown = clips.flatten(0, 1).to(embeddings.dtype)
            places = torch.zeros(len(shown), dtype=torch.long)
            filled = embeddings.flatten(0, 1).index_copy(0, places, shown).view_as(embeddings)
            hidden = lm.hidden_of(
                filled, torch.zeros(rows.rows, len(parts), dtype=torch.long), layout
            )
            answers = hidden.flatten(0, 1).index_select(
                0, torch.zeros(rows.targets, dtype=torch.long)
            )
            logits = lm.logits(answers).float()
            loss = functional.cross_entropy(logits, torch.zeros(rows.targets, dtype=torch.long))
        del clips, embeddings, shown, filled, hidden, answers, logits
        loss.backward()
    return StepCost(meter.most, meter.operations)


def fake(tensor: Tensor) -> Tensor:
    """Return a fake tensor of the same shape and type."""
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def fake_weights(module: nn.Module) -> None:
    """Replace weights and buffers of the meta device by fake ones, which PEFT cannot make."""
    fakes: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            part._parameters[name] = fakes.setdefault(
                id(weight), nn.Parameter(fake(weight), weight.requires_grad)
            )
        part._buffers.update(
            {name: fake(buffer) for name, buffer in part.named_buffers(recurse=False)}
        )


aten = torch.ops.aten
PRODUCTS: dict[Any, Callable[..., int]] = flop_registry | {
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        aten._scaled_dot_product_flash_attention
    ],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        flop_registry[aten._scaled_dot_product_flash_attention_backward]
    ),
}
"""PyTorch's operations with matrix products -> their number of operations"""


class Meter(TorchDispatchMode):
    """Counter of the operations within it, and of the bytes that tensors have at a time, without
    the bytes of `held`.

    FlopCounterMode counts operations by module, and its hooks keep tensors alive.
    """

    def __init__(self, held: Sequence[Tensor]) -> None:
        super().__init__()
        self.operations = self.live = self.most = 0
        self._storages = weakref.WeakSet[Any](tensor.untyped_storage() for tensor in held)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        results = function(*args, **kwargs)
        if count := PRODUCTS.get(function.overloadpacket):
            self.operations += count(*args, **kwargs, out_val=results)
        for tensor in tree_leaves(results):
            if (
                isinstance(tensor, Tensor)
                and (storage := tensor.untyped_storage()) not in self._storages
            ):
                self._storages.add(storage)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.most = max(self.most, self.live)
        return results

    def _free(self, nbytes: int) -> None:
        self.live -= nbytes


def received(scaling: Scaling, weights: Weights, batches: float) -> float:
    """Return the bytes that a process receives in a step. batches: of a step, in one process."""
    others, divided = (
        (scaling.workers - 1) / scaling.workers,
        FLOAT * (weights.trained - weights.copies),
    )
    gathers = 2 * batches * weights.layers * others if scaling.fsdp else 0.0  # forward and backward
    # a ring all-reduce of the copies, reduce-scatters of the rest
    return gathers + FLOAT * weights.copies * 2 * others + divided * batches * others
