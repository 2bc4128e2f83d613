"""The work of an optimiser step: floating-point operations, transfers between processes, and reads of the store.

A product of [M, K] and [K, N] is 2 M K N operations. Backward, a frozen layer takes as much as forward (the gradient of
its input), a layer that trains twice as much, and attention twice as much. Gradient checkpointing computes the decoder
layers forward once more, without the last product of a feed-forward block, which the backward pass does not need.
Norms, activations and the optimiser are left out.

Guarantee
- planned_operations_are_those_that_torch_counts
"""

from dataclasses import dataclass

from torch import nn

from heads.models.language_model import LanguageModel
from heads.planning.architecture import Sizes
from heads.planning.memory import FLOAT, Weights, decoder_layers
from heads.planning.rows import Rows
from heads.training.recipe import ProjectorOptions, Scaling, VideoLMRecipe


def linears(modules: list[nn.Module], trained: bool) -> int:
    """Return the number of weights in linear layers that train, or that are frozen."""
    found = {id(m): m for module in modules for m in module.modules() if isinstance(m, nn.Linear)}
    return sum(m.weight.numel() for m in found.values() if m.weight.requires_grad == trained)


def operations(
    recipe: VideoLMRecipe, lm: LanguageModel, sizes: Sizes, rows: Rows, clip: tuple[int, int]
) -> tuple[float, float]:
    """Return the operations of a batch, forward and backward, in the decoder layers and elsewhere.

    Args:
        recipe: What trains.
        lm: The language model; only its shapes are read.
        sizes: Its dimensions.
        rows: The batch.
        clip: Shape [N, D] of a clip's tokens.
    """
    layers = decoder_layers(lm)
    frozen, trained = (2.0 * rows.tokens * linears(layers, trains) for trains in (False, True))
    attention = 4.0 * sizes.heads * sizes.head * rows.scores * sizes.layers
    forward = frozen + trained + attention
    again = forward
    if recipe.lora is None or "down_proj" not in recipe.lora.targets:
        again -= 2.0 * rows.tokens * sizes.width * sizes.hidden * sizes.layers
    inside = forward + frozen + 2 * trained + 2 * attention + again * recipe.gradient_checkpointing
    targets = rows.targets
    output = 2.0 * targets * sizes.width * sizes.vocabulary * (3 if recipe.full else 2)
    return inside, output + rows.clips * projector(recipe.projector, clip, sizes.width)


def projector(options: ProjectorOptions, clip: tuple[int, int], out: int) -> float:
    """Return the operations of a clip in the projector, forward and backward. clip: [N, D]; out: width of output."""
    (count, channels), width, latents = clip, options.width, options.outputs
    seen = count + latents
    layer = 2 * seen * 2 * width**2 + 2 * latents * 2 * width**2 + 4 * latents * seen * width + 16 * latents * width**2
    return 3.0 * (2 * count * channels * width + options.layers * layer + 2 * latents * width * out)


@dataclass(frozen=True)
class Transfers:
    """Bytes that one process receives in an optimiser step."""

    gathers: float
    """divided layers (FSDP), forward and backward of each batch"""
    reduced: float
    """gradients: one ring all-reduce of the copies, with tensor parallelism a broadcast of their sums, and
    reduce-scatters of divided layers that train"""
    tensor: float
    """outputs of the halves of each layer (tensor parallelism)"""
    host: float
    """shares and gradients between host memory and the device (cpu_offload)"""

    @property
    def all(self) -> float:
        """Return what other processes send."""
        return self.gathers + self.reduced + self.tensor


def transfers(
    scaling: Scaling, own: Weights, batches: float, tokens: float, width: int, layers: int, item: int, recompute: bool
) -> Transfers:
    """Return what a process receives in a step.

    Args:
        scaling: How the model is divided.
        own: Its weights.
        batches: Of a step, in one process.
        tokens: Of a batch.
        width: Of the language model.
        layers: Of the language model.
        item: Bytes of an activation.
        recompute: Whether gradient checkpointing computes layers twice.
    """
    together = scaling.tensor_parallel
    workers = scaling.workers // together
    others, rest = (workers - 1) / workers, (together - 1) / together
    gathers = 2 * batches * own.layers * others if scaling.fsdp else 0.0
    divided = FLOAT * (own.trained - own.copies) * batches * others
    reduced = FLOAT * own.copies * (2 * others + (together > 1)) + divided
    # two all-reduces of the hidden states in each layer, forward, backward and where a layer is computed again
    sent = 2 * layers * tokens * width * item * batches
    moved = batches * (2 * own.layers + FLOAT * (own.trained - own.copies)) / workers
    return Transfers(gathers, reduced, sent * (3 if recompute else 2) * 2 * rest, moved * scaling.cpu_offload)
