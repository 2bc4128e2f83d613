"""A language model without its weights: its dimensions, and the bytes of its weights in each process of a training.

Nothing here uses the network. The model is built on PyTorch's meta device, where a weight has a shape and no memory.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from heads.data.packing import Chat
from heads.models.language_model import LanguageModel, decoder_layers
from heads.models.parallelize import divided_matrices, tensor_plan
from heads.training.recipe import Scaling, VideoLMRecipe
from stepdiff.common.errors import StepDiffError
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
    """Return the transformers configuration of a language model and where it comes from.

    Raises:
        StepDiffError: it is nowhere on this machine and no published facts are known.
    """
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
