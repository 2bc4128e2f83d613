"""What a recipe needs: its model without weights, and what its batches cost: activations in bytes, operations, and
bytes that processes exchange.

Nothing here uses the network. The model is built on PyTorch's meta device, where a weight has a shape and no memory.
Tokens are counted without a tokenizer: a text of n words has TOKENS_PER_WORD n tokens, and a chat template adds
TEMPLATE to a prompt. On simple English SmolLM2 has up to a quarter fewer.

Activations are what autograd keeps of one batch, by these formulas for layers as in Llama, Qwen and SmolLM2. Notation:
T tokens, E width, F width of a feed-forward block, Q channels of all query heads, K of all key heads, c bytes of a
product's precision. A frozen linear layer keeps nothing.

    a layer         4 E T twice (inputs of the norms, in float32)
                    + c Q T twice (queries, outputs of attention) + c 2 Q T' + c 2 K T" (keys and values;
                      T' tokens of prefixes, T" keys that the questions read)
                    + 3 c F T (gate, its activation, the product's other factor)
    LoRA            + c times the inputs of its layers + c rank T of each
    full            + 8 E T (norms) + c (2 E + Q + F) T; in bfloat16 c 3 E T more, and a copy of the layer's weights
    checkpointing   E T in the residual's precision for each layer + one layer whole, instead of all layers
    ends            (4 + 2 of the residual's precision) E T: embeddings and the last norm
    logits          (4 + 4 + 4 + c) V of each target: log-probabilities, logits in both precisions, a gradient
    projector       of each clip of N tokens of C channels at width W: (4 + c) N C + (4 + 3 c layers) N W, and
                    its latents

A product of [M, K] and [K, N] is 2 M K N operations. Backward, a frozen layer takes as much as forward (the gradient of
its input), a layer that trains twice as much, and attention twice as much. Gradient checkpointing computes the decoder
layers forward once more, without the last product of a feed-forward block, which the backward pass does not need.
Norms, activations and the optimiser are left out.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from heads.data.packing import Chat
from heads.methods.word_evidence import NAMED
from heads.models.language_model import LanguageModel, decoder_layers
from heads.models.parallelize import divided_matrices, tensor_plan
from heads.training.recipe import Lora, ProjectorOptions, Scaling, VideoLMRecipe
from heads.training.sources import SEQUENCE
from stepdiff.common.errors import StepDiffError, first_line
from stepdiff.tasks.prompts import (
    CAPTION_QUESTION,
    DIFFERENCE_QUESTION,
    NARRATION_QUESTION,
    NEXT_VIDEO,
    PAIR_SYSTEM,
    SYSTEM,
)
from stepdiff.weights import registry, resolve

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
class Sizes:
    """Dimensions of a decoder of transformers with gated feed-forward blocks (Llama, Qwen, SmolLM2)."""

    width: int
    hidden: int
    """of a feed-forward block"""
    layers: int
    queries: int
    """channels of all query heads"""
    keys: int
    """channels of all key heads"""
    vocabulary: int


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
    """kept for the backward pass of the largest batch"""
    logits: float = 0.0
    """of the largest batch"""
    reserve: float = 0.0
    """for CUDA, communication and fragmentation"""
    host: float = 0.0
    """layers in host memory (cpu_offload)"""

    @property
    def card(self) -> float:
        """Bytes on the card."""
        return sum(vars(self).values()) - self.host


@dataclass(frozen=True)
class Weights:
    """Numbers of weights in the whole model, and bytes in one process."""

    frozen: int
    trained: int
    layers: float
    """bytes of all decoder layers, whole"""
    copies: int
    """trained weights of which each process has a whole copy"""
    memory: Memory


def configuration(name: str) -> tuple[Any, str]:
    """Return the transformers configuration of a language model and where it comes from. StepDiffError: it is nowhere
    on this machine and no published figures are known, or transformers does not know the model."""
    from transformers import AutoConfig

    known = name in registry.NAMES or Path(name).expanduser().exists()
    try:
        config = AutoConfig.from_pretrained(
            resolve(name) if known else name, local_files_only=True, trust_remote_code=False
        )
    except OSError as error:
        if name not in KNOWN:
            raise StepDiffError(
                f"{name}: neither a folder nor in the hub's cache, and its architecture is not known; give "
                f"--video-lm.language-model a folder with its config.json, or one of {', '.join(KNOWN)}"
            ) from error
        return AutoConfig.for_model(**KNOWN[name]), f"published figures of {name}"
    except ValueError as error:
        raise StepDiffError(
            f"{name}: no language model of transformers ({first_line(error)}); correct --video-lm.language-model"
        ) from error
    return config, f"config.json of {name}"


def sizes(config: Any) -> Sizes:
    """Return the dimensions of a configuration. StepDiffError: it has none of this kind."""
    text = config.get_text_config()
    try:
        heads = text.num_attention_heads
        head = getattr(text, "head_dim", None) or text.hidden_size // heads
        key_heads = getattr(text, "num_key_value_heads", None) or heads
        return Sizes(
            text.hidden_size,
            text.intermediate_size,
            text.num_hidden_layers,
            heads * head,
            key_heads * head,
            text.vocab_size,
        )
    except AttributeError as error:
        raise StepDiffError(f"a plan of a {config.model_type} model is not known ({error})") from error


def language_model(config: Any, recipe: VideoLMRecipe, dtype: torch.dtype) -> LanguageModel:
    """Return the recipe's language model on the meta device. dtype: of weights that do not train."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32 if recipe.full else dtype, trust_remote_code=False
        )
        model.tie_weights()  # which no_init_weights leaves out
        lm = LanguageModel(model, Chat.__new__(Chat))  # without a tokenizer: nothing is packed
        if recipe.lora is not None:
            lm.add_lora(recipe.lora, seed=0)
        if recipe.full:
            lm.train_all()
    return lm


def weights(lm: LanguageModel | None, head: nn.Module, scaling: Scaling) -> Weights:
    """Return the weights of a model. lm: None for a contrastive head."""
    together, layers = scaling.tensor_parallel, [] if lm is None else decoder_layers(lm.model)
    workers = scaling.workers // together
    inside = divided_matrices(lm.model) if lm is not None and scaling.fsdp else set[int]()
    plan = tensor_plan(lm.model, lm.model.config.model_type, together) if lm is not None and together > 1 else {}
    frozen = trained = copies = 0
    frozen_bytes = trained_bytes = host_bytes = 0.0
    for name, weight in [*head.named_parameters(), *(() if lm is None else lm.model.named_parameters())]:
        count, item, trains = weight.numel(), weight.element_size(), weight.requires_grad
        divided = id(weight) in inside and "lora_" not in name  # LoRA is added to divided layers, whole
        share = count
        if divided:
            share = largest_share(weight, 0, workers)
        elif (style := plan.get(name.rpartition(".")[0])) and (style == "colwise" or weight.ndim > 1):
            share = largest_share(weight, 0 if style == "colwise" else 1, together)
        trained, frozen = trained + trains * count, frozen + (not trains) * count
        copies += trains * (not divided) * count
        if scaling.cpu_offload and divided:
            host_bytes += share * item * (4 if trains else 1)  # weight, gradient and the optimiser's two averages
        elif trains:
            trained_bytes += share * item
        else:
            frozen_bytes += share * item
    each = [sum(p.numel() * p.element_size() for p in layer.parameters()) for layer in layers]
    memory = Memory(
        frozen=frozen_bytes,
        trained=trained_bytes,
        gradients=trained_bytes + (FLOAT * copies if workers > 1 else 0),
        optimizer=2 * trained_bytes,
        gathered=float(GATHERED * max(each)) if scaling.fsdp else 0.0,
        host=host_bytes,
    )
    return Weights(frozen, trained, float(sum(each)), copies, memory)


def largest_share(weight: nn.Parameter, axis: int, processes: int) -> int:
    """Return the elements of the largest share of a weight that processes divide along an axis."""
    length = weight.shape[axis]
    return math.ceil(length / processes) * (weight.numel() // length)


@dataclass(frozen=True)
class Rows:
    """A batch of equal rows: a prefix, then questions with their answers that each see the prefix and themselves."""

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

    @property
    def keys(self) -> int:
        """Keys that the questions of the batch read: each its prefix and itself."""
        return self.rows * self.questions * (self.prefix + self.question)

    @property
    def scores(self) -> int:
        """Attention scores of a head in a layer."""
        return self.rows * self.prefix**2 + self.question * self.keys


def batch(recipe: VideoLMRecipe, source: str, words: int | float) -> Rows:
    """Return a batch of one source. words: of each narration, caption and answer."""
    size, outputs, text = recipe.batch, recipe.projector.outputs, math.ceil(words * TOKENS_PER_WORD) + 1
    if source == "sequences":
        prefix = count(PAIR_SYSTEM.partition("{video}")[0]) + outputs
        rest = (SEQUENCE - 1) * (count(NEXT_VIDEO) + outputs) + SEQUENCE * text
        return Rows(size, SEQUENCE * size, prefix, 1, rest, SEQUENCE * text, size)
    if source == "pairs":
        prefix = count(PAIR_SYSTEM) + TEMPLATE // 2 + 2 * outputs
        question = count(DIFFERENCE_QUESTION) + TEMPLATE // 2 + text
        if recipe.evidence is not None and recipe.evidence.asked:
            question += EVIDENCE
        rows, questions = (size, recipe.questions) if recipe.packed else (size * recipe.questions, 1)
        return Rows(rows, 2 * size, prefix, questions, question, text, size)
    prompt = CAPTION_QUESTION if source == "images" else NARRATION_QUESTION
    prefix = count(SYSTEM) + TEMPLATE // 2 + outputs
    return Rows(size, size, prefix, 1, count(prompt) + TEMPLATE // 2 + text, text, size)


def count(prompt: str) -> int:
    """Return about how many tokens a prompt has, without its clips."""
    return math.ceil(len(prompt.replace("{video}", "").split()) * TOKENS_PER_WORD)


def language(recipe: VideoLMRecipe, sizes: Sizes, rows: Rows, item: int, together: int = 1) -> float:
    """Return what autograd keeps of a batch in the language model, without the logits; arguments as in `layer`."""
    each, residual = layer(recipe, sizes, rows, item, together), FLOAT if recipe.full else item
    ends = (FLOAT + 2 * residual + FLOAT * recipe.full) * sizes.width * rows.tokens  # embeddings, and the last norm
    if recipe.gradient_checkpointing:
        return float(sizes.layers * residual * sizes.width * rows.tokens + each + ends)
    return float(sizes.layers * each + ends)


def layer(recipe: VideoLMRecipe, sizes: Sizes, rows: Rows, item: int, together: int = 1) -> float:
    """Return what autograd keeps of a batch in one decoder layer.

    item: the bytes c; together: processes that divide the heads and the feed-forward block (tensor parallelism).
    """
    tokens, width, queries = rows.tokens, sizes.width, sizes.queries
    attention = 2 * queries * (tokens + rows.rows * rows.prefix) + 2 * sizes.keys * rows.keys
    stored = 2 * FLOAT * width * tokens + item * (attention + 3 * sizes.hidden * tokens) / together
    if recipe.lora is not None:
        stored += item * tokens * lora_channels(recipe.lora, sizes, item)
    if recipe.full:
        stored += 2 * FLOAT * width * tokens + item * tokens * (2 * width + queries + sizes.hidden)
        if item != FLOAT:
            weights = 2 * width * (queries + sizes.keys) + 3 * width * sizes.hidden
            stored += item * (3 * width * tokens + weights)
    return float(stored)


def lora_channels(lora: Lora, sizes: Sizes, item: int) -> int:
    """Return the channels that LoRA keeps of a token: its layers' inputs, and its own.

    In float32 layers with the same input keep it once; otherwise each keeps its own cast.
    """
    same = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"} if item == FLOAT else {}
    channels = {"o_proj": sizes.queries, "down_proj": sizes.hidden}
    inputs = {same.get(name, name): channels.get(name, sizes.width) for name in lora.targets}
    return sum(inputs.values()) + lora.rank * len(lora.targets)


def logits(sizes: Sizes, targets: int, item: int) -> float:
    """Return the bytes of the logits of a batch and what the loss makes of them."""
    return float(targets * sizes.vocabulary * (3 * FLOAT + (item if item != FLOAT else 0)))


def projected(options: ProjectorOptions, clip: tuple[int, int], out: int, item: int) -> float:
    """Return what autograd keeps of a clip in the projector. clip: [N, D]; out: width of its output."""
    (tokens, channels), width = clip, options.width
    inputs = (FLOAT + item) * tokens * channels + (FLOAT + 3 * item * options.layers) * tokens * width
    latents = options.layers * (3 * FLOAT + 16 * item) * width + 2 * FLOAT * width
    return float(inputs + options.outputs * (latents + FLOAT * out))


def operations(
    recipe: VideoLMRecipe, lm: LanguageModel, sizes: Sizes, rows: Rows, clip: tuple[int, int]
) -> tuple[float, float]:
    """Return the operations of a batch, forward and backward, in the decoder layers and elsewhere.

    lm: only its shapes are read; clip: shape [N, D] of a clip's tokens.
    """
    linear = {id(m): m for part in decoder_layers(lm.model) for m in part.modules() if isinstance(m, nn.Linear)}
    weights = [m.weight for m in linear.values()]
    trained = 2.0 * rows.tokens * sum(w.numel() for w in weights if w.requires_grad)
    frozen = 2.0 * rows.tokens * sum(w.numel() for w in weights if not w.requires_grad)
    attention = 4.0 * sizes.queries * rows.scores * sizes.layers
    again = frozen + trained + attention
    if recipe.lora is None or "down_proj" not in recipe.lora.targets:
        again -= 2.0 * rows.tokens * sizes.width * sizes.hidden * sizes.layers
    inside = 2 * frozen + 3 * trained + 3 * attention + again * recipe.gradient_checkpointing
    output = 2.0 * rows.targets * sizes.width * sizes.vocabulary * (3 if recipe.full else 2)
    return inside, output + rows.clips * projector_operations(recipe.projector, clip, sizes.width)


def projector_operations(options: ProjectorOptions, clip: tuple[int, int], out: int) -> float:
    """Return the operations of a clip in the projector, forward and backward. clip: [N, D]; out: width of output."""
    (tokens, channels), width, latents = clip, options.width, options.outputs
    seen = tokens + latents
    each = 2 * seen * 2 * width**2 + 2 * latents * 2 * width**2 + 4 * latents * seen * width + 16 * latents * width**2
    return 3.0 * (2 * tokens * channels * width + options.layers * each + 2 * latents * width * out)


def exchanged(scaling: Scaling, weights: Weights, batches: float, hidden: float) -> tuple[float, float]:
    """Return the bytes that a process receives in a step from other processes, and those from host memory.

    batches: of a step, in one process; hidden: bytes of hidden states that tensor parallelism sums for a batch.
    """
    together = scaling.tensor_parallel
    workers = scaling.workers // together
    others, divided = (workers - 1) / workers, FLOAT * (weights.trained - weights.copies)
    gathers = 2 * batches * weights.layers * others if scaling.fsdp else 0.0  # forward and backward
    # one ring all-reduce of the copies, with tensor parallelism a broadcast of their sums; reduce-scatters of the rest
    gradients = FLOAT * weights.copies * (2 * others + (together > 1)) + divided * batches * others
    from_host = batches * (2 * weights.layers + divided) / workers * scaling.cpu_offload
    return gathers + gradients + 2 * hidden * batches * (together - 1) / together, from_host
