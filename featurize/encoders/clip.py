"""Any CLIP of transformers: patch tokens and embeddings of frames, embeddings of texts.

- `tokens` [T*P, D]: the patch tokens of one hidden state, frame-major, the class token not counted.
  The hidden state is the last but one unless `layer` names another, as LLaVA takes it.
- `frame_embedding` [T, E]: what CLIP compares with texts, L2-normalised.
- `embedding` [E]: for clips the mean over the T frame embeddings, for texts the text's embedding,
  L2-normalised. Both lie in one space.

Guarantees
----------
- Features equal what transformers computes (`test_features_equal_transformers`).
- Pixels equal what the checkpoint's image processor makes of the same picture; a checkpoint
  whose preprocessing the decoder cannot do is refused (`test_pixels_equal_the_image_processor`).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch.nn.functional import normalize

from featurize.encoders.base import Encoder, check_texts
from featurize.encoders.folder import quiet_loading, read_config
from featurize.encoders.repeats import encode_distinct
from featurize.errors import FeaturizeError
from store import Feature

_WANTED = "a transformers CLIP folder with safetensors weights"
_BICUBIC = 3  # Pillow's number
_CHUNK = 32  # frames at once, a bound on memory


class Clip(Encoder):
    """Patch tokens for language models, embeddings for retrieval by text."""

    name = "clip"
    entities = ("clips", "texts")

    def __init__(self, weights: Path, device: torch.device, layer: int | None = None) -> None:
        """Load a checkpoint.

        Args:
            weights: a folder that transformers saved.
            device: where it runs.
            layer: index of the hidden state whose patch tokens are kept: 0 is the embeddings, n
                the output of the n-th block, negative numbers count from the end. None is -2.

        Raises:
            FeaturizeError: the folder does not hold a CLIP, there is no such layer, or the
                preprocessing is not a bicubic resize of the short side and a square centre crop.
        """
        super().__init__(weights)
        read_config(weights, _WANTED, "model_type", "clip")
        self._device = device
        self._model, self._tokenizer, processor = _load(weights, device)
        vision = self._model.config.vision_config
        self.short_side, self.size = _sizes(processor, weights, vision.image_size)
        self.max_tokens = self._model.config.text_config.max_position_embeddings
        self._hidden = _hidden_state(layer, vision.num_hidden_layers)
        self.layer = f"hidden state {self._hidden} of {vision.num_hidden_layers}, patch tokens"
        self._tokens_shape = (self.frames * (self.size // vision.patch_size) ** 2, vision.hidden_size)
        self._width = self._model.config.projection_dim
        scale = processor.rescale_factor
        mean, std = (
            torch.tensor(value, device=device).view(3, 1, 1) for value in (processor.image_mean, processor.image_std)
        )
        self._mean, self._std = mean / scale, std / scale  # in units of a byte, as the pixels are

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        """See `Encoder.features`."""
        self.check_entity(entity)
        embedding = Feature((self._width,), "float32")
        if entity == "texts":
            return {"embedding": embedding}
        return {
            "tokens": Feature(self._tokens_shape, dtype),
            "frame_embedding": Feature((self.frames, self._width), "float32"),
            "embedding": embedding,
        }

    @torch.inference_mode()
    def encode_clips(self, frames: UInt8[np.ndarray, "B T size size 3"]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """`tokens` [B, T*P, D], `frame_embedding` [B, T, E], `embedding` [B, E]."""
        self.check_frames(frames)
        tokens, embedded = encode_distinct(self._encode_frames, frames, _CHUNK)
        return {
            "tokens": tokens.reshape(len(frames), *self._tokens_shape).numpy(),
            "frame_embedding": embedded.numpy(),
            "embedding": embedded.mean(1).numpy(),
        }

    def pixel_values(self, frames: UInt8[torch.Tensor, "N size size 3"]) -> torch.Tensor:
        """Normalised pixels [N, 3, size, size] of cropped frames, as the checkpoint wants them."""
        pixels = frames.permute(0, 3, 1, 2).to(self._device).float()
        return (pixels - self._mean) / self._std

    def _encode_frames(self, frames: UInt8[torch.Tensor, "N size size 3"]) -> tuple[torch.Tensor, torch.Tensor]:
        """Patch tokens [N, P, D] and frame embeddings [N, E], float32 in main memory."""
        with self._precision():
            seen = self._model.vision_model(pixel_values=self.pixel_values(frames), output_hidden_states=True)
            embedded = self._model.visual_projection(seen.pooler_output)
        tokens = seen.hidden_states[self._hidden][:, 1:]
        return tokens.float().cpu(), normalize(embedded.float(), dim=-1).cpu()

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """`embedding` [B, E] of norm 1."""
        check_texts(texts)
        inputs = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self._device)
        with self._precision():
            embedded = self._model.get_text_features(
                input_ids=inputs.input_ids, attention_mask=inputs.attention_mask
            ).pooler_output
        return {"embedding": normalize(embedded.float(), dim=-1).cpu().numpy()}

    def _precision(self) -> torch.autocast:
        return torch.autocast("cuda", torch.bfloat16, enabled=self._device.type == "cuda")


def _load(folder: Path, device: torch.device) -> tuple[Any, Any, Any]:
    """The model in float32, its tokenizer and its image processor."""
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    attention = "sdpa" if device.type == "cuda" else "eager"
    try:
        with quiet_loading():
            # the annotation of from_pretrained leaves out that it may return a pair
            loaded: Any = CLIPModel.from_pretrained(
                folder,
                dtype=torch.float32,
                attn_implementation=attention,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as problem:
        reason = str(problem).splitlines()[0]
        raise FeaturizeError(f"{folder} cannot be loaded ({reason}): give {_WANTED}") from None
    model, report = loaded
    if report["missing_keys"]:  # transformers would go on with random numbers in their place
        missing = sorted(report["missing_keys"])
        raise FeaturizeError(f"{folder} lacks {len(missing)} tensors of a CLIP, first {missing[0]}: give {_WANTED}")
    return model.eval().requires_grad_(False).to(device), tokenizer, processor


def _sizes(processor: Any, folder: Path, image_size: int) -> tuple[int, int]:
    """Short side and crop in pixels, of a preprocessing that the decoder can do."""
    short_side = processor.size.get("shortest_edge")
    crop = processor.crop_size
    steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
    off = [step for step in steps if not getattr(processor, step)]
    if off:
        reason = f"it sets {', '.join(off)} to false"
    elif processor.resample != _BICUBIC:
        reason = f"it resizes with filter {processor.resample}, not bicubic"
    elif short_side is None:
        reason = f"it resizes to {dict(processor.size)}, not the short side"
    elif not crop["height"] == crop["width"] == image_size:
        reason = f"it crops to {dict(crop)}, where the model takes {image_size}"
    elif short_side < image_size:
        reason = f"its short side {short_side} is less than its crop {image_size}"
    else:
        return short_side, image_size
    raise FeaturizeError(f"the preprocessing of {folder} is not supported: {reason}")


def _hidden_state(layer: int | None, blocks: int) -> int:
    """The index from the front, 0 to `blocks`."""
    index = -2 if layer is None else layer
    if not -blocks - 1 <= index <= blocks:
        raise FeaturizeError(
            f"there is no layer {index}: this CLIP has hidden states 0 to {blocks} (or -{blocks + 1} to -1)"
        )
    return index % (blocks + 1)
