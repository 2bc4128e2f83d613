"""The memory of one process of a training, in bytes: weights, gradients, optimiser state and activations.

Activations are what autograd keeps of one batch, by these formulas for layers as in Llama, Qwen and SmolLM2. Notation:
T tokens, E width, F width of a feed-forward block, H query heads and K key heads of D channels, c bytes of a product's
precision. A frozen linear layer keeps nothing.

    a layer         4 E T twice (inputs of the norms, in float32)
                    + c H D T twice (queries, outputs of attention) + c 2 H D T' + c 2 K D T" (keys and values;
                      T' tokens of prefixes, T" keys that the questions read)
                    + 3 c F T (gate, its activation, the product's other factor)
    LoRA            + c times the inputs of its layers + c rank T of each
    full            + 8 E T (norms) + c (2 E + H D + F) T; in bfloat16 c 3 E T more, and a copy of the layer's weights
    checkpointing   E T in the residual's precision for each layer + one layer whole, instead of all layers
    ends            (4 + 2 of the residual's precision) E T: embeddings and the last norm
    logits          (4 + 4 + 4 + c) V of each target: log-probabilities, logits in both precisions, a gradient;
                    of a contrastive head 16 bytes for each clip with each text of the batch
    projector       of each clip of N tokens of C channels at width W: (4 + c) N C + (4 + 3 c layers) N W, and
                    its latents

Guarantees
- planned_weights_gradients_and_optimiser_state_are_those_of_the_real_ones
- planned_activations_are_close_to_what_autograd_keeps
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from heads.models.language_model import LanguageModel
from heads.models.parallelize import divided_matrices, tensor_plan
from heads.planning.architecture import Sizes
from heads.planning.rows import Rows
from heads.training.recipe import Lora, ProjectorOptions, Scaling, VideoLMRecipe

RESERVE = 0.08
"""share of a card for the CUDA context, communication buffers and fragmentation"""
FLOAT = 4
"""bytes of a float32"""
GATHERED = 2
"""divided layers that are whole at a time: the one that computes, and the next one"""


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


def weights(lm: LanguageModel | None, head: nn.Module, scaling: Scaling) -> Weights:
    """Return the weights of a model. lm: None for a contrastive head."""
    together, layers = scaling.tensor_parallel, decoder_layers(lm)
    workers = scaling.workers // together
    inside = divided_matrices(lm.model) if lm is not None and scaling.fsdp else set[int]()
    plan = tensor_plan(lm.model, lm.model.config.model_type, together) if lm is not None and together > 1 else {}
    frozen = trained = copies = 0
    held = offloaded = own = 0.0
    parts = [*head.named_parameters(), *(() if lm is None else lm.model.named_parameters())]
    for name, weight in parts:
        count, item = weight.numel(), weight.element_size()
        divided = id(weight) in inside and "lora_" not in name  # LoRA is added to divided layers, whole
        part = count
        if divided:
            part = share(weight, 0, workers)
        elif (style := plan.get(name.rpartition(".")[0])) and (style == "colwise" or weight.ndim > 1):
            part = share(weight, 0 if style == "colwise" else 1, together)
        trains, away = weight.requires_grad, scaling.cpu_offload and divided
        trained, frozen = trained + trains * count, frozen + (not trains) * count
        copies += trains * (not divided) * count
        if away:
            offloaded += part * item * (4 if trains else 1)  # weight, gradient and the optimiser's two averages
        elif trains:
            own += part * item
        else:
            held += part * item
    each = [sum(p.numel() * p.element_size() for p in layer.parameters()) for layer in layers]
    buffer = FLOAT * copies if workers > 1 else 0
    memory = Memory(
        frozen=held,
        trained=own,
        gradients=own + buffer,
        optimizer=2 * own,
        gathered=float(GATHERED * max(each)) if scaling.fsdp else 0.0,
        host=offloaded,
    )
    return Weights(frozen, trained, float(sum(each)), copies, memory)


def decoder_layers(lm: LanguageModel | None) -> list[nn.Module]:
    """Return the decoder layers of a language model."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [] if lm is None else [m for m in lm.model.modules() if isinstance(m, GradientCheckpointingLayer)]


def share(weight: nn.Parameter, axis: int, processes: int) -> int:
    """Return the elements of the largest share of a weight that processes divide along an axis."""
    length = weight.shape[axis]
    return math.ceil(length / processes) * (weight.numel() // length)


def largest(
    recipe: VideoLMRecipe, sizes: Sizes, batches: list[Rows], clip: tuple[int, int], item: int, together: int
) -> Memory:
    """Return activations and logits of the batch that needs most.

    Args:
        recipe: What trains.
        sizes: Of the language model.
        batches: To choose from.
        clip: Shape [N, D] of a clip's tokens.
        item: The bytes c.
        together: Processes that divide the heads and feed-forward blocks of each layer (tensor parallelism).
    """

    def of(rows: Rows) -> Memory:
        kept = language(recipe, sizes, rows, item, together) + rows.clips * projected(
            recipe.projector, clip, sizes.width, item
        )
        return Memory(activations=kept, logits=logits(sizes, rows.targets, item))

    return max((of(rows) for rows in batches), key=lambda memory: memory.card)


def language(recipe: VideoLMRecipe, sizes: Sizes, rows: Rows, item: int, together: int = 1) -> float:
    """Return what autograd keeps of a batch in the language model, without the logits."""
    each, residual = layer(recipe, sizes, rows, item, together), FLOAT if recipe.full else item
    ends = (FLOAT + 2 * residual + FLOAT * recipe.full) * sizes.width * rows.tokens  # embeddings, and the last norm
    if recipe.gradient_checkpointing:
        return float(sizes.layers * residual * sizes.width * rows.tokens + each + ends)
    return float(sizes.layers * each + ends)


def layer(recipe: VideoLMRecipe, sizes: Sizes, rows: Rows, item: int, together: int = 1) -> float:
    """Return what autograd keeps of a batch in one decoder layer."""
    tokens, queries = rows.tokens, sizes.heads * sizes.head
    prefixes = rows.rows * rows.prefix
    norms = 2 * FLOAT * sizes.width * tokens
    attention = item * (2 * queries * tokens + 2 * queries * prefixes + 2 * sizes.key_heads * sizes.head * rows.keys)
    kept = norms + (attention + 3 * item * sizes.hidden * tokens) / together
    if recipe.lora is not None:
        kept += item * tokens * sum(lora_inputs(recipe.lora, sizes, item))
    if recipe.full:
        kept += 2 * FLOAT * sizes.width * tokens + item * tokens * (2 * sizes.width + queries + sizes.hidden)
        if item != FLOAT:
            kept += item * (3 * sizes.width * tokens + linear_weights(sizes))
    return float(kept)


def lora_inputs(lora: Lora, sizes: Sizes, item: int) -> Iterator[int]:
    """Yield the channels that LoRA keeps of a token: its layers' inputs, and its own.

    In float32 layers with the same input keep it once; otherwise each keeps its own cast.
    """
    groups = {"o_proj": sizes.heads * sizes.head, "down_proj": sizes.hidden}
    seen: set[str] = set()
    for name in lora.targets:
        same = "qkv" if name in ("q_proj", "k_proj", "v_proj") else "gate" if name in ("gate_proj", "up_proj") else name
        if item != FLOAT or same not in seen:
            yield groups.get(name, sizes.width)
        seen.add(same)
        yield lora.rank


def linear_weights(sizes: Sizes) -> int:
    """Return the number of weights in the linear layers of a decoder layer."""
    attention = sizes.width * sizes.head * (2 * sizes.heads + 2 * sizes.key_heads)
    return attention + 3 * sizes.width * sizes.hidden


def logits(sizes: Sizes, targets: int, item: int) -> float:
    """Return the bytes of the logits of a batch and what the loss makes of them."""
    return float(targets * sizes.vocabulary * (3 * FLOAT + (item if item != FLOAT else 0)))


def matched(clips: int, pairs: int) -> float:
    """Return the bytes of a contrastive loss of clips with their texts and of pairs with theirs, on every process.

    Both directions keep their log-probabilities, and each has a gradient.
    """
    return float(4 * FLOAT * (clips**2 + pairs**2))


def projected(options: ProjectorOptions, clip: tuple[int, int], out: int, item: int) -> float:
    """Return what autograd keeps of a clip in the projector. clip: [N, D]; out: width of its output."""
    (count, channels), width = clip, options.width
    tokens = (FLOAT + item) * count * channels + (FLOAT + 3 * item * options.layers) * count * width
    latents = options.layers * (3 * FLOAT + 3 * item + 13 * item) * width + 2 * FLOAT * width
    return float(tokens + options.outputs * (latents + FLOAT * out))
