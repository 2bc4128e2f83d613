"""The image tower of a vision-language model: the tokens that the whole model gives to its projector.

A language head reads them from the store and runs the projector (Q-Former, resampler, connector) on them.

- `tokens` [T*N, D]: N tokens of each of T frames, frame-major.

The whole picture is resized to the square that the tower was built for, whatever the model's own processor does: no
tiling, no padding. By default a clip is its centre frame.

Guarantees
- tokens are what the whole model's projector receives for the same pixels
  (`test_tokens_equal_the_input_of_the_projector`)
- no tensor of the language model is read (`test_the_language_model_is_not_read`)
"""

from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from common.errors import StepDiffError
from featurize.encoders.base import Encoder
from featurize.encoders.folder import hidden_state, load_part, read_config
from featurize.encoders.preprocessing import encode_distinct, read_processor, squared
from store import Feature

_CHUNK = 4  # frames at once: a batch of clips by default; towers have up to 5,000 tokens a frame
_PLACE = r"(model\.)?(vision_tower|vision_model)\.(vision_model\.)?"  # in checkpoints old and new


class Tower(Encoder):
    """An image tower out of a whole model's checkpoint."""

    entities = ("clips",)
    choices = ("frames",)
    sampling = "segment-centres"
    model_type: ClassVar[str]
    """in config.json"""
    module: ClassVar[str]
    """of transformers, with the class `tower`"""
    tower: ClassVar[str]
    class_tokens: ClassVar[int] = 0
    """tokens of a frame that are not of its patches"""
    _tokens_shape: tuple[int, int]
    """N tokens, D channels of a frame"""

    def __init__(self, weights: Path, device: torch.device, frames: int = 1) -> None:
        """Load the tower.

        Args:
            weights: a folder of the whole model, that transformers saved.
            device: where it runs.
            frames: T of a clip.

        Raises:
            StepDiffError: the folder does not hold such a model.
        """
        from transformers import AutoConfig
        from transformers.initialization import no_init_weights

        super().__init__(weights)
        read_config(weights, self.wanted, "model_type", self.model_type)
        try:
            config = AutoConfig.from_pretrained(weights, local_files_only=True)
        except (OSError, ValueError, TypeError) as problem:
            reason = str(problem).strip().splitlines()[0]
            raise StepDiffError(f"{weights} cannot be loaded ({reason}): give {self.wanted}") from None
        self.short_side, self.size, self.frames = None, config.vision_config.image_size, frames
        self._preprocessing = squared(read_processor(weights, self.wanted), weights, self.size, device)
        self.resample = self._preprocessing.crop.resample
        with no_init_weights():
            module = self._build(config)
        load_part(module, weights, _PLACE, self.wanted)
        self._module, self._device = module.eval().requires_grad_(False).to(device), device

    def _build(self, config: Any) -> torch.nn.Module:
        """Return the tower without its weights; sets `_tokens_shape`."""
        vision = config.vision_config
        self._tokens_shape = ((vision.image_size // vision.patch_size) ** 2 + self.class_tokens, vision.hidden_size)
        kind = getattr(import_module(f"transformers.models.{self.module}"), self.tower)
        return kind._from_config(vision, dtype=torch.float32, attn_implementation="sdpa")

    def _tokens(self, pixels: Float32[torch.Tensor, "F 3 H W"]) -> torch.Tensor:
        """Tokens [F, N, D] of normalised frames."""
        return self._module(pixel_values=pixels).last_hidden_state

    @property
    def crop(self) -> str:
        """See `Encoder.crop`."""
        return f"{self.picture}, no tiling, no padding"

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        """See `Encoder.features`."""
        self.check_entity(entity)
        tokens, channels = self._tokens_shape
        return {"tokens": Feature((self.frames * tokens, channels), dtype)}

    @torch.inference_mode()
    def encode_clips(self, frames: UInt8[np.ndarray, "B T size size 3"]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """`tokens` [B, T*N, D]."""
        self.check_frames(frames)
        (tokens,) = encode_distinct(self._encode_frames, frames, _CHUNK)
        return {"tokens": tokens.flatten(1, 2).numpy()}

    def _encode_frames(self, frames: UInt8[torch.Tensor, "F size size 3"]) -> tuple[torch.Tensor]:
        with torch.autocast("cuda", torch.bfloat16, enabled=self._device.type == "cuda"):
            tokens = self._tokens(self._preprocessing.normalised(frames))
        return (tokens.float().cpu(),)


_TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0}  # class tokens of a frame


class Llava(Tower):
    """With a CLIP or a SigLIP as its tower."""

    name = "llava"
    model_type = "llava"
    wanted = "a transformers LLaVA folder with safetensors weights, or a hub id such as llava-hf/llava-1.5-7b-hf"

    def _build(self, config: Any) -> torch.nn.Module:
        from transformers import AutoModel

        vision = config.vision_config
        if vision.model_type not in _TOWERS:
            raise StepDiffError(
                f"the image tower of {self.weights} is {vision.model_type}, not {' or '.join(_TOWERS)}: "
                f"give {self.wanted}"
            )
        named = config.vision_feature_layer
        layers = [named] if isinstance(named, int) else list(named)
        self._layers = [hidden_state(layer, vision.num_hidden_layers, "LLaVA's tower") for layer in layers]
        self._first = 1 if config.vision_feature_select_strategy == "default" else 0
        self.layer = (
            f"hidden state {', '.join(map(str, self._layers))} of {vision.num_hidden_layers}, "
            f"{'the first token left out' if self._first else 'all tokens'}"
        )
        tokens = (vision.image_size // vision.patch_size) ** 2 + _TOWERS[vision.model_type] - self._first
        self._tokens_shape = (tokens, vision.hidden_size * len(self._layers))
        return AutoModel.from_config(vision, dtype=torch.float32, attn_implementation="sdpa")

    def _tokens(self, pixels: Float32[torch.Tensor, "F 3 H W"]) -> torch.Tensor:
        """See `Tower._tokens`; several layers are concatenated by channel."""
        states = self._module(pixel_values=pixels, output_hidden_states=True).hidden_states
        return torch.cat([states[layer][:, self._first :] for layer in self._layers], dim=-1)


class Blip2(Tower):
    """Of BLIP-2 with any language model; all tokens, as its Q-Former takes them."""

    name, model_type, module, tower = "blip2", "blip-2", "blip_2.modeling_blip_2", "Blip2VisionModel"
    class_tokens = 1
    wanted = "a transformers BLIP-2 folder with safetensors weights, or a hub id such as Salesforce/blip2-opt-2.7b"
    layer = "last hidden state, final norm, class token first"


class Idefics(Tower):
    """Of the first IDEFICS, whose language model takes them as `image_encoder_embeddings`."""

    name = "idefics"
    model_type = "idefics"
    wanted = "a transformers IDEFICS folder with safetensors weights, or a hub id such as HuggingFaceM4/idefics-9b"
    layer = "last hidden state, class token first"

    def _build(self, config: Any) -> torch.nn.Module:
        """See `Tower._build`."""
        from transformers.models.idefics.vision import IdeficsVisionTransformer

        vision = config.vision_config
        vision._attn_implementation = "sdpa"  # not a model of its own in transformers, so nothing else sets it
        self._tokens_shape = ((vision.image_size // vision.patch_size) ** 2 + 1, vision.embed_dim)
        return IdeficsVisionTransformer(vision)


class Idefics2(Tower):
    """Of IDEFICS 2; all tokens, as its connector takes them."""

    name = model_type = "idefics2"
    module, tower = "idefics2.modeling_idefics2", "Idefics2VisionTransformer"
    wanted = "a transformers IDEFICS 2 folder with safetensors weights, or a hub id such as HuggingFaceM4/idefics2-8b"
    layer = "last hidden state, final norm"


class Idefics3(Tower):
    """Of IDEFICS 3; its connector shuffles pixels itself."""

    name = model_type = "idefics3"
    module, tower = "idefics3.modeling_idefics3", "Idefics3VisionTransformer"
    wanted = (
        "a transformers IDEFICS 3 folder with safetensors weights, or a hub id such as HuggingFaceM4/Idefics3-8B-Llama3"
    )
    layer = "last hidden state, final norm"
