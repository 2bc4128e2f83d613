"""Any CLIP of transformers: patch tokens and embeddings of frames, embeddings of texts.

The tokens are those of the last hidden state but one unless `layer` names another, as LLaVA takes it.

Guarantees
----------
- Features equal what transformers computes (`test_features_equal_transformers`).
- Pixels equal what the checkpoint's image processor makes of the same picture; a checkpoint
  whose preprocessing the decoder cannot do is refused (`test_pixels_equal_the_image_processor`).
"""

from pathlib import Path

import torch
from jaxtyping import Float32

from featurize.encoders.base import FRAMES
from featurize.encoders.folder import hidden_state, load_model, read_config
from featurize.encoders.image_text import ImageText
from featurize.encoders.preprocessing import preprocessing, read_processor


class Clip(ImageText):
    """Patch tokens for language models, embeddings for retrieval by text."""

    name = "clip"
    wanted = "a transformers CLIP folder with safetensors weights, or a hub id such as openai/clip-vit-large-patch14"

    def __init__(self, weights: Path, device: torch.device, layer: int = -2, frames: int = FRAMES) -> None:
        """Load a checkpoint.

        Args:
            weights: a folder that transformers saved.
            device: where it runs.
            layer: index of the hidden state whose patch tokens are kept: 0 is the embeddings, n
                the output of the n-th block, negative numbers count from the end.
            frames: T of a clip.

        Raises:
            StepDiffError: the folder does not hold a CLIP, there is no such layer, or the
                preprocessing is not one that the decoder can do.
        """
        from transformers import CLIPModel

        super().__init__(weights)
        read_config(weights, self.wanted, "model_type", "clip")
        self._device, self.frames = device, frames
        attention = "sdpa" if device.type == "cuda" else "eager"
        self._model = load_model(CLIPModel, weights, device, self.wanted, attention)
        vision = self._model.config.vision_config
        self._preprocessing = preprocessing(read_processor(weights, self.wanted), weights, vision.image_size, device)
        crop = self._preprocessing.crop
        self.short_side, self.size, self.resample = crop.short_side, crop.size, crop.resample
        self.max_tokens = self._model.config.text_config.max_position_embeddings
        self._hidden = hidden_state(layer, vision.num_hidden_layers, "CLIP")
        self.layer = f"hidden state {self._hidden} of {vision.num_hidden_layers}, patch tokens"
        self._patches = (self.size // vision.patch_size) ** 2
        self._widths = (vision.hidden_size, self._model.config.projection_dim)

    def _seen(self, pixels: Float32[torch.Tensor, "N 3 H W"]) -> tuple[torch.Tensor, torch.Tensor]:
        seen = self._model.vision_model(pixel_values=pixels, output_hidden_states=True)
        return seen.hidden_states[self._hidden][:, 1:], self._model.visual_projection(seen.pooler_output)

    def _read(self, texts: list[str]) -> torch.Tensor:
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        return self._model.get_text_features(
            input_ids=inputs.input_ids.to(self._device), attention_mask=inputs.attention_mask.to(self._device)
        ).pooler_output
