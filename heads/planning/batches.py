"""The batches of a recipe, and what each costs: activations in bytes, operations, and bytes that processes exchange.

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

from torch import nn

from heads.methods.word_evidence import NAMED
from heads.models.language_model import LanguageModel, decoder_layers
from heads.planning.architecture import FLOAT, Sizes, Weights
from heads.training.recipe import Lora, ProjectorOptions, Scaling, VideoLMRecipe
from heads.training.sources import SEQUENCE
from stepdiff.tasks.prompts import (
    CAPTION_QUESTION,
    DIFFERENCE_QUESTION,
    NARRATION_QUESTION,
    NEXT_VIDEO,
    PAIR_SYSTEM,
    SYSTEM,
)

TOKENS_PER_WORD = 1.25
TEMPLATE = 16
"""tokens of a chat template around the system prompt and the first question"""
EVIDENCE = 2 * (TEMPLATE // 4 + math.ceil(2 * NAMED * TOKENS_PER_WORD))
"""most tokens of the words of evidence before a question, for terms of two words"""


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

    Args:
        recipe: What trains.
        sizes: Of the language model.
        rows: The batch.
        item: The bytes c.
        together: Processes that divide the heads and the feed-forward block (tensor parallelism).
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

    Args:
        scaling: How the model is divided.
        weights: Of a process.
        batches: Of a step, in one process.
        hidden: Bytes of hidden states that tensor parallelism sums for a batch.
    """
    together = scaling.tensor_parallel
    workers = scaling.workers // together
    others, divided = (workers - 1) / workers, FLOAT * (weights.trained - weights.copies)
    gathers = 2 * batches * weights.layers * others if scaling.fsdp else 0.0  # forward and backward
    # one ring all-reduce of the copies, with tensor parallelism a broadcast of their sums; reduce-scatters of the rest
    gradients = FLOAT * weights.copies * (2 * others + (together > 1)) + divided * batches * others
    from_host = batches * (2 * weights.layers + divided) / workers * scaling.cpu_offload
    return gathers + gradients + 2 * hidden * batches * (together - 1) / together, from_host
