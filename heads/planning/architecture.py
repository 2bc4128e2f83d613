"""The architecture of a language model without its weights: from a local folder, the hub's cache, or published facts.

Nothing here uses the network. The model is built on PyTorch's meta device, where a weight has a shape and no memory.

Guarantee
- the_parameters_of_a_planned_model_are_those_of_the_loaded_one
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from heads.data.packing import Chat
from heads.models.language_model import LanguageModel
from heads.models.projector import Projector
from heads.training.contrastive_task import ContrastiveHead
from heads.training.recipe import ContrastiveRecipe, VideoLMRecipe
from stepdiff.common.errors import StepDiffError
from stepdiff.weights import registry, resolve

_LLAMA_2 = {"model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 4096, "tie_word_embeddings": False}
KNOWN: dict[str, dict[str, Any]] = {  # published figures
    "meta-llama/Llama-2-7b-chat-hf": _LLAMA_2
    | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "meta-llama/Llama-2-13b-chat-hf": _LLAMA_2
    | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
    "meta-llama/Llama-2-70b-chat-hf": _LLAMA_2
    | {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}


class NoChat(Chat):
    """The chat of a model without a tokenizer, which packs nothing."""

    def __init__(self) -> None:
        pass


@dataclass(frozen=True)
class Sizes:
    """Dimensions of a decoder of transformers with gated feed-forward blocks (Llama, Qwen, SmolLM2)."""

    width: int
    hidden: int
    """of a feed-forward block"""
    layers: int
    heads: int
    key_heads: int
    head: int
    """channels of an attention head"""
    vocabulary: int


def configuration(name: str) -> tuple[Any, str]:
    """Return the transformers configuration of a language model and where it comes from.

    Raises:
        StepDiffError: it is nowhere on this machine and no published facts are known.
    """
    from transformers import AutoConfig

    if name in registry.NAMES or Path(name).expanduser().exists():
        folder = resolve(name)
        return AutoConfig.from_pretrained(folder, trust_remote_code=False), f"config.json of {name}"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        cached = None
    if isinstance(cached, str):
        values = json.loads(Path(cached).read_text(encoding="utf-8"))
        return AutoConfig.for_model(**values), f"config.json of {name} in the hub's cache"
    if name in KNOWN:
        return AutoConfig.for_model(**KNOWN[name]), f"published figures of {name}"
    raise StepDiffError(
        f"{name}: neither a folder nor in the hub's cache, and its architecture is not known; give "
        f"--video-lm.language-model a folder with its config.json, or one of {', '.join(KNOWN)}"
    )


def sizes(config: Any) -> Sizes:
    """Return the dimensions of a configuration. StepDiffError: it has none of this kind."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    try:
        return Sizes(
            width=text.hidden_size,
            hidden=text.intermediate_size,
            layers=text.num_hidden_layers,
            heads=heads,
            key_heads=getattr(text, "num_key_value_heads", None) or heads,
            head=getattr(text, "head_dim", None) or text.hidden_size // heads,
            vocabulary=text.vocab_size,
        )
    except AttributeError as error:
        raise StepDiffError(f"a plan of a {config.model_type} model is not known ({error})") from error


def language_model(config: Any, recipe: VideoLMRecipe, dtype: torch.dtype) -> LanguageModel:
    """Return the recipe's language model on the meta device. dtype: of weights that do not train."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        whole = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32 if recipe.full else dtype, trust_remote_code=False
        )
        whole.tie_weights()  # which no_init_weights leaves out
        lm = LanguageModel(whole, NoChat())
        if recipe.lora is not None:
            lm.add_lora(recipe.lora, seed=0)
        if recipe.full:
            lm.train_all()
    if recipe.gradient_checkpointing:
        lm.recompute_layers()
    return lm


def projector(recipe: VideoLMRecipe, tokens: tuple[int, int], width: int) -> nn.Module:
    """Return what trains next to the language model. tokens: shape [N, D] of a clip's tokens."""
    with torch.device("meta"):
        return Projector(recipe.projector, *tokens, width, 1.0)


def contrastive_head(recipe: ContrastiveRecipe, tokens: tuple[int, int], text_width: int) -> ContrastiveHead:
    """Return a contrastive head on the meta device."""
    with torch.device("meta"):
        return ContrastiveHead(recipe, *tokens, text_width)
