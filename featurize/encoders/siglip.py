"""Any SigLIP or fixed-resolution SigLIP 2 of transformers: patch tokens and embeddings of frames, embeddings of texts.

The tokens are the image tower's last hidden state after its final norm unless `layer` names a
hidden state. Texts are padded to their full length, as the model was trained. A SigLIP 2 of any
resolution (NaFlex) is another model, and refused.

Guarantees
----------
- Features equal what transformers computes (`test_features_equal_transformers`).
"""

from pathlib import Path

import torch
from jaxtyping import Float32

from featurize.encoders.base import FRAMES
from featurize.encoders.folder import hidden_state, load_model, read_config
from featurize.encoders.image_text import ImageText
from featurize.encoders.preprocessing import preprocessing, read_processor


class Siglip(ImageText):
    """Patch tokens for language models, embeddings for retrieval by text."""

    name = "siglip"
    wanted = (
        "a transformers SigLIP folder with safetensors weights, or a hub id such as google/siglip2-base-patch16-224"
    )

    def __init__(self, weights: Path, device: torch.device, layer: int | None = None, frames: int = FRAMES) -> None:
        """Load a checkpoint.

        Args:
            weights: a folder that transformers saved.
            device: where it runs.
            layer: index of the hidden state whose tokens are kept: 0 is the embeddings, n the output
                of the n-th block, negative numbers count from the end. None is the last after the
                final norm.
            frames: T of a clip.

        Raises:
            StepDiffError: the folder does not hold a SigLIP, there is no such layer, or the
                preprocessing is not one that the decoder can do.
        """
        from transformers import SiglipModel

        super().__init__(weights)
        read_config(weights, self.wanted, "model_type", "siglip")
        self._device, self.frames = device, frames
        self._model = load_model(SiglipModel, weights, device, self.wanted)
        vision, text = self._model.config.vision_config, self._model.config.text_config
        self._preprocessing = preprocessing(read_processor(weights, self.wanted), weights, vision.image_size, device)
        crop = self._preprocessing.crop
        self.short_side, self.size, self.resample = crop.short_side, crop.size, crop.resample
        self.max_tokens = text.max_position_embeddings
        blocks = vision.num_hidden_layers
        self._hidden = None if layer is None else hidden_state(layer, blocks, "SigLIP")
        state = "last hidden state, final norm" if layer is None else f"hidden state {self._hidden} of {blocks}"
        self.layer = f"{state}, patch tokens"
        self._patches = (self.size // vision.patch_size) ** 2
        self._widths = (vision.hidden_size, vision.hidden_size)

    def _seen(self, pixels: Float32[torch.Tensor, "N 3 H W"]) -> tuple[torch.Tensor, torch.Tensor]:
        seen = self._model.vision_model(pixel_values=pixels, output_hidden_states=self._hidden is not None)
        tokens = seen.last_hidden_state if self._hidden is None else seen.hidden_states[self._hidden]
        return tokens, seen.pooler_output

    def _read(self, texts: list[str]) -> torch.Tensor:
        inputs = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        return self._model.get_text_features(**inputs.to(self._device)).pooler_output
