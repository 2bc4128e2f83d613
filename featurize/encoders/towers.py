"""Image towers out of whole models: `llava`, `blip2`, `idefics`, `idefics2`, `idefics3`.

`tokens` [T*N, D] are the N tokens of each of T frames that the whole model gives to its projector,
from which `heads.evaluate` runs the rest of it. A frame is resized to the square that the tower was
built for, without tiling or padding. By default a clip is its centre frame.

Guarantees
- tokens equal what transformers computes
- no tensor of a language model is read
"""

from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch

from featurize.encoders.base import Encoder
from featurize.encoders.folder import hidden_state, load_part, read_config
from featurize.encoders.hf import HuggingFace
from featurize.encoders.hf_families import ModelOutput
from featurize.encoders.preprocessing import Settings, image_settings
from stepdiff_core.errors import StepDiffError

# of a tower's tensors, in checkpoints old and new
_PLACE = r"(model\.)?(vision_tower|vision_model)\.(vision_model\.)?"
_KEPT = ("do_rescale", "do_normalize", "rescale_factor", "resample", "image_mean", "image_std")


class Tower(HuggingFace):
    """An image tower out of a whole model's checkpoint; all its tokens, the class token first."""

    model_type: ClassVar[str]
    """in config.json"""
    entities = ("clips",)
    choices = ("frames",)
    sampling = "segment-centres"
    chunk = 4  # a batch of clips by default; towers have up to 5,000 tokens a frame
    tower: ClassVar[str]
    """module and class of transformers"""
    layer: str = ""  # type: ignore[assignment]

    @classmethod
    def variant(cls, weights: Path) -> type[Encoder]:
        read_config(weights, cls.weights_needed, "model_type", cls.model_type)
        return cls

    def __init__(self, weights: Path, device: torch.device, frames: int = 1) -> None:
        super().__init__(weights, device, frames=frames, pooling="none")

    def _load(self, weights: Path, device: torch.device) -> Any:
        from transformers.initialization import no_init_weights

        vision = self._config(weights).vision_config
        self._square = vision.image_size
        with no_init_weights():
            module = self._build(vision)
        load_part(module, weights, self.weights_needed, _PLACE)
        return module.eval().requires_grad_(False).to(device)

    def _build(self, vision: Any) -> torch.nn.Module:
        module, _, kind = self.tower.rpartition(".")
        built: Any = getattr(import_module(f"transformers.models.{module}"), kind)
        return built._from_config(vision, dtype=torch.float32, attn_implementation="sdpa")

    def _settings(self) -> Settings:
        """Return the filter and normalisation of the folder's processor, with a resize to a
        square."""
        settings, side = image_settings(self.weights, self.weights_needed), self._square
        return {
            "size": {"height": side, "width": side},
            **{name: settings[name] for name in _KEPT if name in settings},
        }

    @property
    def crop(self) -> str:
        return f"{self.picture}, no tiling, no padding"

    def _state(self, seen: ModelOutput) -> tuple[torch.Tensor, int]:
        return seen.tokens, 0


class LlavaTower(Tower):
    """Of LLaVA with a CLIP or a SigLIP; several layers are concatenated by channel."""

    name = model_type = "llava"
    weights_needed = (
        "a transformers LLaVA folder with safetensors weights, or a hub id such as "
        "llava-hf/llava-1.5-7b-hf"
    )

    def __init__(self, weights: Path, device: torch.device, frames: int = 1) -> None:
        config = self._config(weights)
        blocks, named = config.vision_config.num_hidden_layers, config.vision_feature_layer
        named = [named] if isinstance(named, int) else named
        self._layers = [hidden_state(layer, blocks, "LLaVA's tower") for layer in named]
        self._first = int(config.vision_feature_select_strategy == "default")
        super().__init__(weights, device, frames)
        self._hidden = self._layers[0]
        layers, kept = (
            ", ".join(map(str, self._layers)),
            "the first token left out" if self._first else "all tokens",
        )
        self.layer = f"hidden state {layers} of {blocks}, {kept}"

    def _build(self, vision: Any) -> torch.nn.Module:
        from transformers import AutoModel

        kinds = ("clip_vision_model", "siglip_vision_model")
        if vision.model_type not in kinds:
            raise StepDiffError(
                f"the image tower of {self.weights} is {vision.model_type}, not "
                f"{' or '.join(kinds)}: give {self.weights_needed}"
            )
        return AutoModel.from_config(vision, dtype=torch.float32, attn_implementation="sdpa")

    def _state(self, seen: ModelOutput) -> tuple[torch.Tensor, int]:
        assert seen.hidden is not None
        return torch.cat([seen.hidden[layer] for layer in self._layers], dim=-1), self._first


class Blip2Tower(Tower):
    """Of BLIP-2 with any language model; all tokens, as its Q-Former takes them."""

    name, model_type, tower = "blip2", "blip-2", "blip_2.modeling_blip_2.Blip2VisionModel"
    weights_needed = (
        "a transformers BLIP-2 folder with safetensors weights, or a hub id such as "
        "Salesforce/blip2-opt-2.7b"
    )
    layer = "last hidden state, final norm, class token first"


class IdeficsTower(Tower):
    """Of the first IDEFICS, whose language model takes them as `image_encoder_embeddings`."""

    name = model_type = "idefics"
    weights_needed = (
        "a transformers IDEFICS folder with safetensors weights, or a hub id such as "
        "HuggingFaceM4/idefics-9b"
    )
    layer = "last hidden state, class token first"

    def _build(self, vision: Any) -> torch.nn.Module:
        from transformers.models.idefics.vision import IdeficsVisionTransformer

        # not a model of its own in transformers, so nothing else sets it
        vision._attn_implementation = "sdpa"
        return IdeficsVisionTransformer(vision)


class Idefics2Tower(Tower):
    """Of IDEFICS 2; all tokens, as its connector takes them."""

    name = model_type = "idefics2"
    tower = "idefics2.modeling_idefics2.Idefics2VisionTransformer"
    weights_needed = (
        "a transformers IDEFICS 2 folder with safetensors weights, or a hub id such as "
        "HuggingFaceM4/idefics2-8b"
    )
    layer = "last hidden state, final norm"


class Idefics3Tower(Tower):
    """Of IDEFICS 3; its connector shuffles pixels itself."""

    name = model_type = "idefics3"
    tower = "idefics3.modeling_idefics3.Idefics3VisionTransformer"
    weights_needed = (
        "a transformers IDEFICS 3 folder with safetensors weights, or a hub id such as "
        "HuggingFaceM4/Idefics3-8B-Llama3"
    )
    layer = "last hidden state, final norm"
