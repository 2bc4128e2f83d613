"""A transformers causal language model: frozen, with LoRA, or trained in full; the device and
precision of a head; and how models of transformers are loaded from a folder or the hub.

Guarantees
- weights are safetensors and whole, and no code of a checkpoint runs
- logits computed from the hidden states equal the model's own (checked when a model is loaded)
- dropout is never active, and without LoRA or full training no parameter trains
- weights that train are float32, whatever the others are: small steps vanish in bfloat16
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from heads.data.packing import Chat
from heads.models.packed_attention import NAME, PackedLayout, may_see, register
from heads.training.recipe import Lora, VideoLMRecipe
from stepdiff_core.errors import StepDiffError, first_line
from stepdiff_core.streams import torch_seed
from stepdiff_core.weights import resolve
from stepdiff_core.weights.resolving import uncapped


def load_processor(name: str, kind: str = "AutoProcessor") -> Any:
    """Load an object of a class of transformers from the folder of a model: its processor, or its
    tokenizer."""
    import transformers

    with _one_line(f"{name}: no processor that {kind} can load"):
        return uncapped(
            getattr(transformers, kind).from_pretrained(resolve(name), trust_remote_code=False)
        )


def load_model(
    kind: str | type,
    name: str,
    device: str,
    precision: str | None = None,
    attention: str | None = None,
) -> Any:
    """Load a model for inference by a class of transformers, or one of that name (`kind`).

    precision: float32, bfloat16, or None for bfloat16 on a GPU and float32 elsewhere; attention:
    None for the model's own choice.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    precision = precision or ("bfloat16" if device.startswith("cuda") else "float32")
    loader: Any = getattr(transformers, kind) if isinstance(kind, str) else kind
    with _one_line(f"{name}: no model that {loader.__name__} can load"):
        model, report = loader.from_pretrained(
            resolve(name),
            dtype=getattr(torch, precision),
            **({} if attention is None else {"attn_implementation": attention}),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if report["missing_keys"]:  # transformers would fill them with random numbers
        missing = sorted(report["missing_keys"])
        raise StepDiffError(
            f"{name}: lacks {len(missing)} tensors, first {missing[0]}; give a whole checkpoint"
        )
    return model.eval().requires_grad_(False).to(torch.device(device))


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turn the errors of transformers about a folder into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except torch.OutOfMemoryError:  # the model is no worse for it
        raise
    except (
        OSError,
        ValueError,
        ImportError,
        KeyError,
        TypeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        why = first_line(error)
        raise StepDiffError(f"{what} ({why}); give another") from error


class LanguageModel(nn.Module):
    """The model's body and its output layer, called separately so that logits are computed only at
    answers."""

    def __init__(self, model: Any, chat: Chat) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.chat = chat
        self.recomputed: list[nn.Module] = []

    def train(self, mode: bool = True) -> "LanguageModel":
        """Keep evaluation mode, so that dropout is off; only recomputed layers get `mode`."""
        super().train(False)
        for layer in self.recomputed:
            # the layer's own flag, which its attention and feed-forward block do not read
            layer.training = mode
        return self

    @classmethod
    def load(cls, name: str, device: str = "cpu", exact: bool = False) -> "LanguageModel":
        """Load a model. name: of `stepdiff weights list`, a folder or a hub id; exact: float32 on a
        GPU too."""
        tokenizer = load_processor(name, "AutoTokenizer")
        model = load_model(
            "AutoModelForCausalLM", name, device, "float32" if exact else None, "sdpa"
        )
        loaded = cls(model, Chat(tokenizer))
        loaded.prepare(name)
        return loaded

    def prepare(self, name: str) -> None:
        """Check that heads can use the model, and choose its attention. StepDiffError: they
        cannot."""
        self.check_logits(name)
        self.attend_apart()

    def check_logits(self, name: str) -> None:
        """Raise StepDiffError if the logits are not a linear map of the last hidden state."""
        ids = torch.tensor([self.chat.text_ids("one two three")], device=self.device)
        with torch.inference_mode():
            whole = self.model(input_ids=ids).logits
            separate = self.logits(self.model.base_model(input_ids=ids).last_hidden_state)
        if not torch.allclose(whole, separate, atol=1e-4 * float(whole.abs().max())):
            raise StepDiffError(
                f"{name}: its logits are not a linear map of its last hidden state, as heads "
                "require; use another language model"
            )

    def attend_apart(self) -> None:
        """Use packed attention (heads.models.packed_attention) if the outputs are the same as with
        a mask."""
        if not (self.packs and self.model._supports_attention_backend):
            return
        segment = torch.tensor(
            [[0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 0, 1, 1, 1, 1, -1]], device=self.device
        )
        positions = torch.tensor(
            [[0, 1, 2, 3, 4, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6, 0]], device=self.device
        )
        ids = torch.arange(16, device=self.device).view(2, 8)
        register()
        with torch.inference_mode():
            masked = self.hidden(self.embed(ids), segment, positions)
            self.model.set_attn_implementation(NAME)
            packed = self.hidden(self.embed(ids), segment, positions)
        used = segment >= 0
        exact = packed.dtype == torch.float32 and not torch.is_autocast_enabled(self.device.type)
        near = (1e-4 if exact else 3e-2) * float(masked[used].abs().max())
        if not torch.allclose(packed[used], masked[used], rtol=0, atol=near):
            self.model.set_attn_implementation("sdpa")

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def width(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def embedding_std(self) -> float:
        return float(self.model.get_input_embeddings().weight.detach().std())

    @property
    def packs(self) -> bool:
        """Whether a 4-D mask reaches every layer: sliding-window and linear attention use their
        own."""
        config = self.model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        return kinds == {"full_attention"}

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def hidden(
        self,
        embeddings: Float[Tensor, "B L E"],
        segment: Int[Tensor, "B L"],
        positions: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B L E"]:
        """Return the last hidden states of packed rows (heads.data.packing); states of padding are
        meaningless."""
        if self.model.config._attn_implementation != NAME:
            return self._body(embeddings, positions, attention_mask=may_see(segment)[:, None])
        return self.hidden_of(embeddings, positions, PackedLayout.of(segment))

    def hidden_of(
        self,
        embeddings: Float[Tensor, "B L E"],
        positions: Int[Tensor, "B L"],
        layout: PackedLayout,
    ) -> Float[Tensor, "B L E"]:
        """Return the hidden states, as `hidden` does, of rows of that layout, by packed
        attention."""
        used, places = (
            x.flatten(0, 1).index_select(0, layout.tokens)[None] for x in (embeddings, positions)
        )
        # transformers passes a mask of four axes on as it is; without one it would make its own.
        mask = positions.new_ones(1, 1, 1, 1, dtype=torch.bool)
        seen = self._body(used, places, attention_mask=mask, layout=layout)[0]
        return (
            seen.new_zeros(positions.numel(), seen.shape[1])
            .index_copy(0, layout.tokens, seen)
            .view_as(embeddings)
        )

    def _body(self, embeddings: Tensor, positions: Tensor, **seen: Any) -> Tensor:
        return self.model.base_model(
            inputs_embeds=embeddings, position_ids=positions, use_cache=False, **seen
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.get_output_embeddings()(hidden)

    def exact_logits(self, hidden: Float[Tensor, "K E"]) -> Float[Tensor, "K V"]:
        """Return logits in float32, under autocast too."""
        output = self.model.get_output_embeddings()
        weights = {name: weight.float() for name, weight in output.named_parameters()}
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.func.functional_call(output, weights, hidden.float())

    @property
    def precision(self) -> str:
        """Precision of the weights: float32, bfloat16."""
        return str(self.model.dtype).removeprefix("torch.")

    def add_lora(self, lora: Lora, seed: int) -> None:
        """Add LoRA to the target layers and train only it. StepDiffError: the model has no layer of
        such a name."""
        from peft import LoraConfig, inject_adapter_in_model
        from transformers.pytorch_utils import Conv1D

        torch.manual_seed(torch_seed(seed, "LoRA weights"))
        config = LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets), lora_dropout=0.0
        )
        linear = [
            name
            for name, layer in self.model.named_modules()
            if isinstance(layer, (nn.Linear, Conv1D))
        ]
        for target in lora.targets:
            if not any(f".{name}".endswith(f".{target}") for name in linear):
                named = ", ".join(sorted({name.split(".")[-1] for name in linear}))
                raise StepDiffError(
                    f"{type(self.model).__name__} has no linear layer {target} for LoRA; set "
                    f"video_lm.lora.targets to some of {named}"
                )
        inject_adapter_in_model(config, self.model)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("lora_" in name)
            if "lora_" in name:
                parameter.data = parameter.data.float()

    def train_as(self, recipe: VideoLMRecipe, seed: int) -> None:
        """Train the weights that a recipe names: nothing, LoRA or every weight, with or without
        gradient checkpointing."""
        if recipe.lora is not None:
            self.add_lora(recipe.lora, seed)
        if recipe.full:
            self.model.requires_grad_(True)
        if not recipe.gradient_checkpointing:
            return
        self.recomputed = decoder_layers(self.model)
        if not self.recomputed:
            raise StepDiffError(
                f"{type(self.model).__name__} does not support gradient checkpointing; set "
                "video_lm.gradient_checkpointing to false"
            )
        self.model.activation_checkpointing_enable({"use_reentrant": False})

    def trained(self) -> list[nn.Parameter]:
        """Return the weights that train: none, LoRA's or all."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def hold_frozen(self, dtype: torch.dtype) -> None:
        """Convert the frozen linear layers to `dtype`, so that autocast need not cast them at each
        use.

        The output layer is left, because it often is the table of input embeddings too.
        """
        output = self.model.get_output_embeddings()
        for layer in self.model.modules():
            if (
                isinstance(layer, nn.Linear)
                and layer.weight is not output.weight
                and not layer.weight.requires_grad
            ):
                layer.to(dtype)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a model of transformers, none if it does not mark them."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]


def pick_device(device: str) -> str:
    """Return the device; `auto` is CUDA if available. StepDiffError: no such device."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise StepDiffError(f"--device {device}: no such device; give auto, cpu or cuda") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise StepDiffError(
            f"--device {device}: PyTorch finds no CUDA device here; give auto or cpu"
        )
    return device


def pick_precision(device: str, precision: str) -> str:
    """Return the precision of matrix products; `auto` is bfloat16 if the device computes it fast,
    else float32.

    Without instructions for bfloat16 (AVX512-BF16, AMX) a CPU emulates its products, several times
    slower than float32.
    """
    if precision != "auto":
        return precision
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if device.startswith("cuda") or fast else "float32"


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Return the autocast of a recipe's precision."""
    enabled = pick_precision(device, precision) == "bfloat16"
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled)
