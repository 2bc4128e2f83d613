"""CLIP and SigLIP of transformers: patch tokens and embeddings of frames, embeddings of texts in the same space.

- `tokens` [T*P, D]: the patch tokens of one hidden state, frame-major, without a class token.
- `frame_embedding` [T, E]: what the model compares with texts, L2-normalised.
- `embedding` [E]: for clips the mean over the T frame embeddings, for texts the text's embedding, L2-normalised.

Guarantees
----------
- Features equal what transformers computes (`test_features_equal_transformers`).
- Pixels equal what the checkpoint's image processor makes of the same picture; a checkpoint whose preprocessing the
  decoder cannot do is refused (`test_pixels_equal_the_image_processor`).
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch.nn.functional import normalize

from featurize.encoders.base import FRAMES, Encoder, check_texts
from featurize.encoders.folder import hidden_state, load_model, read_config
from featurize.encoders.preprocessing import encode_distinct, preprocessing, read_processor
from store import Feature

_CHUNK = 32  # frames at once, a bound on memory


class ImageText(Encoder):
    """A model of transformers with an image tower and a text tower."""

    entities = ("clips", "texts")
    choices = ("layer", "frames")
    kind: ClassVar[str]
    """Class of transformers."""
    title: ClassVar[str]
    """The model's name in messages."""
    default_layer: ClassVar[int | None] = None
    """Hidden state whose tokens are kept; None is the last one after the final norm."""
    class_tokens: ClassVar[int] = 0
    """Tokens of a frame before those of its patches."""
    padding: ClassVar[bool | str]
    """How the texts of a batch are padded: to the longest (True) or to `max_length`."""

    def __init__(self, weights: Path, device: torch.device, layer: int | None = None, frames: int = FRAMES) -> None:
        """Load a checkpoint.

        Args:
            weights: a folder that transformers saved.
            device: where it runs.
            layer: index of the hidden state whose tokens are kept: 0 is the embeddings, n the output of the n-th
                block, negative numbers count from the end; None is `default_layer`.
            frames: T of a clip.

        Raises:
            StepDiffError: the folder does not hold such a model, it has no such layer, or the decoder cannot do its
                preprocessing.
        """
        import transformers

        super().__init__(weights)
        read_config(weights, self.wanted, "model_type", self.name)
        self._device, self.frames = device, frames
        attention = "eager" if self.name == "clip" and device.type != "cuda" else "sdpa"
        self._model = load_model(getattr(transformers, self.kind), weights, device, self.wanted, attention)
        vision, text = self._model.config.vision_config, self._model.config.text_config
        self._preprocessing = preprocessing(read_processor(weights, self.wanted), weights, vision.image_size, device)
        crop = self._preprocessing.crop
        self.short_side, self.size, self.resample = crop.short_side, crop.size, crop.resample
        self.max_tokens = text.max_position_embeddings
        blocks, layer = vision.num_hidden_layers, self.default_layer if layer is None else layer
        self._hidden = None if layer is None else hidden_state(layer, blocks, self.title)
        state = "last hidden state, final norm" if layer is None else f"hidden state {self._hidden} of {blocks}"
        self.layer = f"{state}, patch tokens"
        self._patches = (self.size // vision.patch_size) ** 2
        self._width = vision.hidden_size

    @property
    def _embedding(self) -> Feature:
        return Feature((self._width,), "float32")

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        """See `Encoder.features`."""
        self.check_entity(entity)
        if entity == "texts":
            _ = self.tokenizer  # if it is missing, a run ends before it has written anything
            return {"embedding": self._embedding}
        return {
            "tokens": Feature((self.frames * self._patches, self._width), dtype),
            "frame_embedding": Feature((self.frames, *self._embedding.shape), "float32"),
            "embedding": self._embedding,
        }

    @torch.inference_mode()
    def encode_clips(self, frames: UInt8[np.ndarray, "B T size size 3"]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """`tokens` [B, T*P, D], `frame_embedding` [B, T, E], `embedding` [B, E]."""
        self.check_frames(frames)
        tokens, embedded = encode_distinct(self._encode_frames, frames, _CHUNK)
        return {
            "tokens": tokens.flatten(1, 2).numpy(),
            "frame_embedding": embedded.numpy(),
            "embedding": embedded.mean(1).numpy(),
        }

    def pixel_values(self, frames: UInt8[torch.Tensor, "N size size 3"]) -> torch.Tensor:
        """Return the normalised pixels [N, 3, size, size] of cropped frames, as the checkpoint reads them."""
        return self._preprocessing.normalised(frames)

    def _encode_frames(self, frames: UInt8[torch.Tensor, "N size size 3"]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return patch tokens [N, P, D] and unit embeddings [N, E], float32 in main memory."""
        with self._precision():
            seen = self._model.vision_model(
                pixel_values=self.pixel_values(frames), output_hidden_states=self._hidden is not None
            )
            tokens = seen.last_hidden_state if self._hidden is None else seen.hidden_states[self._hidden]
            embedded = self._embedded(seen.pooler_output)
        return tokens[:, self.class_tokens :].float().cpu(), normalize(embedded.float(), dim=-1).cpu()

    def _embedded(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of frames that are compared with those of texts."""
        return pooled

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """`embedding` [B, E] of norm 1."""
        check_texts(texts)
        inputs = self.tokenizer(
            texts, padding=self.padding, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self._device)
        given = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        with self._precision():
            embedded = self._model.get_text_features(**given).pooler_output
        return {"embedding": normalize(embedded.float(), dim=-1).cpu().numpy()}

    def _precision(self) -> torch.autocast:
        return torch.autocast("cuda", torch.bfloat16, enabled=self._device.type == "cuda")


class Clip(ImageText):
    """Any CLIP; its tokens are those of the last hidden state but one by default, as in LLaVA."""

    name, kind, title = "clip", "CLIPModel", "CLIP"
    wanted = "a transformers CLIP folder with safetensors weights, or a hub id such as openai/clip-vit-large-patch14"
    default_layer = -2
    class_tokens = 1
    padding = True

    @property
    def _embedding(self) -> Feature:
        return Feature((self._model.config.projection_dim,), "float32")

    def _embedded(self, pooled: torch.Tensor) -> torch.Tensor:
        return self._model.visual_projection(pooled)


class Siglip(ImageText):
    """Any SigLIP, or SigLIP 2 of fixed resolution: one of any resolution (NaFlex) is another model, and refused.

    Texts are padded to their full length, as in the model's training.
    """

    name, kind, title = "siglip", "SiglipModel", "SigLIP"
    wanted = (
        "a transformers SigLIP folder with safetensors weights, or a hub id such as google/siglip2-base-patch16-224"
    )
    padding = "max_length"
