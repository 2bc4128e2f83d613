"""A frozen or fully trained language model, divided among the processes of a torch DeviceMesh while
it is loaded.

FSDP2 divides the matrices of the decoder layers; before a layer computes, its weights are gathered,
and freed after it. Embeddings, norms, the output layer and what is added later (LoRA) stay whole on
every process, so that they train in float32 as they do in one process. The body of the model is the
root of the division: training and generation both call it, and neither needs a wrapper.

No process holds more than its own share of the layers at any time: the model is built on the meta
device, and each process reads its rows of each matrix from the safetensors files.

Guarantees
- a divided model has the losses and gradients of a whole one
- each process holds its share of the layers only
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from heads.data.packing import Chat
from heads.models.language_model import LanguageModel, decoder_layers
from stepdiff_core.errors import StepDiffError
from stepdiff_core.weights import resolve

WHOLE = "set scaling.fsdp false, or evaluate without torchrun"
"""how a model is not divided"""


def load_divided(
    name: str, mesh: Any, device: str, frozen: torch.dtype, full: bool = False
) -> LanguageModel:
    """Load a language model whose layers the processes of a mesh of one axis share (FSDP2).

    frozen: precision of the layers' matrices; full: train the language model.
    """
    empty = _OnMeta(name, device, frozen)
    divide_layers(empty.model, mesh)
    empty.fill()
    # generate(): no process stops while another one writes
    empty.model._is_fsdp_managed_module = True
    loaded = LanguageModel(empty.model, empty.chat)
    if full:
        loaded.model.requires_grad_(True)
    with torch.autocast(
        torch.device(device).type, torch.bfloat16, enabled=frozen == torch.bfloat16
    ):
        with torch.no_grad():  # what a first use in inference mode makes could never train
            empty.model.base_model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device))
        loaded.prepare(name)
    return loaded


@contextmanager
def plain_weights(model: nn.Module, device: str) -> Iterator[None]:
    """Give divided weights a plain stand-in of the whole shape within this block, in which LoRA is
    added.

    PEFT makes its matrices as large as the share that it finds; new weights are moved to the device
    afterwards.
    """
    from torch.distributed.tensor import DTensor

    linear = [
        part
        for part in model.modules()
        if isinstance(part, nn.Linear) and isinstance(part.weight, DTensor)
    ]
    held: list[tuple[nn.Linear, Any]] = [(part, part.weight) for part in linear]
    before = {id(parameter) for parameter in model.parameters()}
    for part, weight in held:
        empty = torch.empty((), dtype=weight.dtype).expand(weight.shape)
        part._parameters["weight"] = nn.Parameter(empty, requires_grad=False)
    stand_ins = {id(part.weight) for part in linear}
    try:
        yield
    finally:
        for part, weight in held:
            part._parameters["weight"] = weight
    for parameter in model.parameters():
        if id(parameter) not in before | stand_ins:
            parameter.data = parameter.data.to(device)


class _OnMeta:
    """A language model without weights, and the function that fills it once it is divided."""

    def __init__(self, name: str, device: str, frozen: torch.dtype) -> None:
        from accelerate import init_empty_weights
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        self.folder, self.device = Path(str(resolve(name))), device
        rest = (
            torch.bfloat16
            if torch.device(device).type == "cuda" and frozen == torch.bfloat16
            else torch.float32
        )
        self.chat = Chat(AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False))
        config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        with init_empty_weights():
            self.model: Any = AutoModelForCausalLM.from_config(
                config, dtype=rest, attn_implementation="sdpa"
            )
        self.model.tie_weights()  # on the meta device each use got a tensor of its own
        if (self.folder / "generation_config.json").exists():
            self.model.generation_config = GenerationConfig.from_pretrained(self.folder)
        linear = {id(weight) for layer in layers(self.model) for weight in matrices_of(layer)}
        named = self.model.named_parameters()
        self.precision = {key: frozen if id(weight) in linear else rest for key, weight in named}

    def fill(self) -> None:
        """Read this process's share of each weight."""
        for key, buffer in self.model.named_buffers():
            module, _, last = key.rpartition(".")
            self.model.get_submodule(module)._buffers[last] = buffer.to(self.device)
        shares = _shares(self.model, self.folder, self.precision, self.device)
        self.model.load_state_dict(dict(shares), assign=True, strict=False)
        self.model.tie_weights()


def layers(model: Any) -> list[nn.Module]:
    """Return the decoder layers. StepDiffError: the model does not mark them."""
    marked = decoder_layers(model.base_model)
    if not marked:
        raise StepDiffError(
            f"{type(model).__name__} does not name its layers, so several processes cannot divide "
            f"them: {WHOLE}"
        )
    return marked


def matrices_of(layer: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters of a layer's linear maps."""
    for part in layer.modules():
        if isinstance(part, nn.Linear):
            yield from part.parameters(recurse=False)


def divided_matrices(model: Any) -> set[int]:
    """Return the id() of the weights that `divide_layers` divides: the matrices of the decoder
    layers."""
    return {
        id(weight) for layer in layers(model) for weight in matrices_of(layer) if weight.ndim > 1
    }


def divide_layers(model: Any, mesh: Any) -> None:
    """Divide the matrices of the decoder layers by rows; gradients are summed over the
    processes."""
    from torch.distributed.fsdp import fully_shard

    every = layers(model)
    divided = divided_matrices(model)
    whole = {weight for weight in model.parameters() if id(weight) not in divided}
    for layer in every:
        fully_shard(layer, mesh=mesh, ignored_params=whole)
        layer.set_gradient_divide_factor(1.0)  # type: ignore[operator]
        layer.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]  # gloo has no other
    fully_shard(model.base_model, mesh=mesh, ignored_params=whole)


def _shares(
    model: Any, folder: Path, precision: dict[str, torch.dtype], device: str
) -> Iterator[tuple[str, Tensor]]:
    """Yield this process's share of each weight, read from the safetensors files of the folder.
    StepDiffError: a file or a weight is missing."""
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    files = _files(folder)
    for name, weight in model.named_parameters():
        short = name.removeprefix(f"{model.base_model_prefix}.")
        key = name if name in files else short
        if key not in files:
            raise StepDiffError(
                f"{folder}: has no weight {name}, and a divided model is read by name: {WHOLE}"
            )
        with safe_open(files[key], "pt") as file:
            if not isinstance(weight, DTensor):
                yield name, file.get_tensor(key).to(device, precision[name])
                continue
            mesh, places = weight.device_mesh, weight.placements
            shape, offset = compute_local_shape_and_global_offset(weight.shape, mesh, places)
            part = tuple(
                slice(first, first + length) for first, length in zip(offset, shape, strict=True)
            )
            share = file.get_slice(key)[part].to(device, precision[name]).contiguous()
            whole = weight.shape, weight.stride()
            yield (
                name,
                DTensor.from_local(
                    share, mesh, places, run_check=False, shape=whole[0], stride=whole[1]
                ),
            )


def _files(folder: Path) -> dict[str, Path]:
    """Return the file of each weight."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    try:
        if index.exists():
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return {name: folder / file for name, file in names.items()}
        with safe_open(single, "pt") as file:
            return dict.fromkeys(file.keys(), single)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise StepDiffError(
            f"{folder}: has no readable model.safetensors ({error}), and a divided model needs "
            f"one: {WHOLE}"
        ) from error
