"""Named encoders of single families: `hf` with the layer, frames and words that views of these names have recorded.

- `clip`, `siglip`: patch tokens of frames, embeddings of frames, clips and texts in one space.
- `videomae`, `vjepa2`: space-time tokens of a whole clip, and their mean.
- `llava`, `blip2`, `idefics`, `idefics2`, `idefics3`: the image tower out of the whole model's checkpoint. `tokens`
  [T*N, D] are the N tokens of each of T frames that the whole model gives to its projector. A frame is resized to the
  square that the tower was built for, without tiling or padding. By default a clip is its centre frame.

Guarantees
- features equal what transformers computes
- provenance and features are those of earlier versions, so that a view that exists can be continued
- no tensor of a language model is read
"""

from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8

from featurize.encoders.base import FRAMES, Encoder
from featurize.encoders.folder import hidden_state, load_part, read_config
from featurize.encoders.hf import HuggingFace
from featurize.encoders.hf_families import Seen
from featurize.encoders.preprocessing import Settings, image_settings
from stepdiff.common.errors import StepDiffError


class Named(HuggingFace):
    """A family by its own name."""

    model_type: ClassVar[str]
    """in config.json"""
    layer: str = ""  # type: ignore[assignment]

    @classmethod
    def variant(cls, weights: Path) -> type[Encoder]:
        read_config(weights, cls.wanted, "model_type", cls.model_type)
        return cls

    @staticmethod
    def attention(config: Any, device: torch.device) -> str | None:
        return "sdpa"


class _ImageText(Named):
    """An image tower and a text tower."""

    choices = ("layer", "frames")
    chunk = 32
    default_layer: ClassVar[int | None] = None

    def __init__(self, weights: Path, device: torch.device, layer: int | None = None, frames: int = FRAMES) -> None:
        layer = self.default_layer if layer is None else layer
        super().__init__(weights, device, layer, frames)
        state = f"hidden state {self._hidden} of {self._model.config.vision_config.num_hidden_layers}"
        self.layer = f"{'last hidden state, final norm' if layer is None else state}, patch tokens"


class Clip(_ImageText):
    """Any CLIP; its tokens are those of the last hidden state but one by default, as in LLaVA."""

    name = model_type = "clip"
    wanted = "a transformers CLIP folder with safetensors weights, or a hub id such as openai/clip-vit-large-patch14"
    default_layer = -2

    @staticmethod
    def attention(config: Any, device: torch.device) -> str | None:
        return "sdpa" if device.type == "cuda" else "eager"


class Siglip(_ImageText):
    """Any SigLIP, or SigLIP 2 of fixed resolution: one of any resolution (NaFlex) is another model, and refused."""

    name = model_type = "siglip"
    wanted = (
        "a transformers SigLIP folder with safetensors weights, or a hub id such as google/siglip2-base-patch16-224"
    )


class _Video(Named):
    """A model that sees all frames of a clip at once."""

    entities = ("clips",)

    @torch.inference_mode()
    def forward_clips(self, frames: UInt8[torch.Tensor, "B T size size 3"]) -> dict[str, Float[torch.Tensor, "B ..."]]:
        tokens = super().forward_clips(frames)["tokens"]
        return {"tokens": tokens, "embedding": tokens.mean(1)}


class VideoMae(_Video):
    """The encoder of a masked autoencoder, pretrained or fine-tuned; it sees as many frames as it was trained on."""

    name = model_type = "videomae"
    choices = ()
    wanted = "a transformers VideoMAE folder with safetensors weights, or a hub id such as MCG-NJU/videomae-base"
    layer = "last hidden state, space-time tokens"


class VJepa2(_Video):
    """The encoder without the predictor."""

    name = model_type = "vjepa2"
    choices = ("frames",)
    wanted = "a transformers V-JEPA 2 folder with safetensors, or a hub id such as facebook/vjepa2-vitl-fpc64-256"
    layer = "last hidden state of the encoder, space-time tokens"


_PLACE = r"(model\.)?(vision_tower|vision_model)\.(vision_model\.)?"  # of a tower's tensors, in checkpoints old and new
_KEPT = ("do_rescale", "do_normalize", "rescale_factor", "resample", "image_mean", "image_std")


class Tower(Named):
    """An image tower out of a whole model's checkpoint; all its tokens, the class token first."""

    entities = ("clips",)
    choices = ("frames",)
    sampling = "segment-centres"
    chunk = 4  # a batch of clips by default; towers have up to 5,000 tokens a frame
    tower: ClassVar[str]
    """module and class of transformers"""

    def __init__(self, weights: Path, device: torch.device, frames: int = 1) -> None:
        super().__init__(weights, device, frames=frames, pooling="none")

    def _load(self, weights: Path, device: torch.device) -> Any:
        from transformers.initialization import no_init_weights

        vision = self._config(weights).vision_config
        self._square = vision.image_size
        with no_init_weights():
            module = self._build(vision)
        load_part(module, weights, self.wanted, _PLACE)
        return module.eval().requires_grad_(False).to(device)

    def _build(self, vision: Any) -> torch.nn.Module:
        module, _, kind = self.tower.rpartition(".")
        built: Any = getattr(import_module(f"transformers.models.{module}"), kind)
        return built._from_config(vision, dtype=torch.float32, attn_implementation="sdpa")

    def _settings(self) -> Settings:
        """Return the filter and normalisation of the folder's processor, with a resize to a square."""
        settings, side = image_settings(self.weights, self.wanted), self._square
        return {"size": {"height": side, "width": side}, **{name: settings[name] for name in _KEPT if name in settings}}

    @property
    def crop(self) -> str:
        return f"{self.picture}, no tiling, no padding"

    def _state(self, seen: Seen) -> tuple[torch.Tensor, int]:
        return seen.tokens, 0


class Llava(Tower):
    """Of LLaVA with a CLIP or a SigLIP; several layers are concatenated by channel."""

    name = model_type = "llava"
    wanted = "a transformers LLaVA folder with safetensors weights, or a hub id such as llava-hf/llava-1.5-7b-hf"

    def __init__(self, weights: Path, device: torch.device, frames: int = 1) -> None:
        config = self._config(weights)
        blocks, named = config.vision_config.num_hidden_layers, config.vision_feature_layer
        named = [named] if isinstance(named, int) else named
        self._layers = [hidden_state(layer, blocks, "LLaVA's tower") for layer in named]
        self._first = int(config.vision_feature_select_strategy == "default")
        super().__init__(weights, device, frames)
        self._hidden = self._layers[0]
        layers, kept = ", ".join(map(str, self._layers)), "the first token left out" if self._first else "all tokens"
        self.layer = f"hidden state {layers} of {blocks}, {kept}"

    def _build(self, vision: Any) -> torch.nn.Module:
        from transformers import AutoModel

        known = ("clip_vision_model", "siglip_vision_model")
        if vision.model_type not in known:
            raise StepDiffError(
                f"the image tower of {self.weights} is {vision.model_type}, not {' or '.join(known)}: "
                f"give {self.wanted}"
            )
        return AutoModel.from_config(vision, dtype=torch.float32, attn_implementation="sdpa")

    def _state(self, seen: Seen) -> tuple[torch.Tensor, int]:
        assert seen.hidden is not None
        return torch.cat([seen.hidden[layer] for layer in self._layers], dim=-1), self._first


class Blip2(Tower):
    """Of BLIP-2 with any language model; all tokens, as its Q-Former takes them."""

    name, model_type, tower = "blip2", "blip-2", "blip_2.modeling_blip_2.Blip2VisionModel"
    wanted = "a transformers BLIP-2 folder with safetensors weights, or a hub id such as Salesforce/blip2-opt-2.7b"
    layer = "last hidden state, final norm, class token first"


class Idefics(Tower):
    """Of the first IDEFICS, whose language model takes them as `image_encoder_embeddings`."""

    name = model_type = "idefics"
    wanted = "a transformers IDEFICS folder with safetensors weights, or a hub id such as HuggingFaceM4/idefics-9b"
    layer = "last hidden state, class token first"

    def _build(self, vision: Any) -> torch.nn.Module:
        from transformers.models.idefics.vision import IdeficsVisionTransformer

        vision._attn_implementation = "sdpa"  # not a model of its own in transformers, so nothing else sets it
        return IdeficsVisionTransformer(vision)


class Idefics2(Tower):
    """Of IDEFICS 2; all tokens, as its connector takes them."""

    name = model_type = "idefics2"
    tower = "idefics2.modeling_idefics2.Idefics2VisionTransformer"
    wanted = "a transformers IDEFICS 2 folder with safetensors weights, or a hub id such as HuggingFaceM4/idefics2-8b"
    layer = "last hidden state, final norm"


class Idefics3(Tower):
    """Of IDEFICS 3; its connector shuffles pixels itself."""

    name = model_type = "idefics3"
    tower = "idefics3.modeling_idefics3.Idefics3VisionTransformer"
    wanted = (
        "a transformers IDEFICS 3 folder with safetensors weights, or a hub id such as HuggingFaceM4/Idefics3-8B-Llama3"
    )
    layer = "last hidden state, final norm"
