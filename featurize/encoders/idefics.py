"""The image towers of IDEFICS 1, 2 and 3: all tokens, as its resampler or its connector takes them."""

from typing import Any

import torch

from featurize.encoders.tower import Tower


class Idefics(Tower):
    """Of the first IDEFICS, whose language model takes them as `image_encoder_embeddings`."""

    name = "idefics"
    model_type = "idefics"
    wanted = "a transformers IDEFICS folder with safetensors weights, or a hub id such as HuggingFaceM4/idefics-9b"
    layer = "last hidden state, class token first"

    def _build(self, config: Any) -> torch.nn.Module:
        from transformers.models.idefics.vision import IdeficsVisionTransformer

        vision = config.vision_config
        vision._attn_implementation = "sdpa"  # no model of transformers by itself, so nothing else sets it
        self._tokens_shape = ((vision.image_size // vision.patch_size) ** 2 + 1, vision.embed_dim)
        return IdeficsVisionTransformer(vision)


class Idefics2(Tower):
    """Of IDEFICS 2."""

    name = "idefics2"
    model_type = "idefics2"
    wanted = "a transformers IDEFICS 2 folder with safetensors weights, or a hub id such as HuggingFaceM4/idefics2-8b"
    layer = "last hidden state, final norm"

    def _build(self, config: Any) -> torch.nn.Module:
        from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

        vision = config.vision_config
        self._tokens_shape = ((vision.image_size // vision.patch_size) ** 2, vision.hidden_size)
        return Idefics2VisionTransformer._from_config(vision, dtype=torch.float32, attn_implementation="sdpa")


class Idefics3(Tower):
    """Of IDEFICS 3; its connector shuffles pixels itself."""

    name = "idefics3"
    model_type = "idefics3"
    wanted = (
        "a transformers IDEFICS 3 folder with safetensors weights, or a hub id such as HuggingFaceM4/Idefics3-8B-Llama3"
    )
    layer = "last hidden state, final norm"

    def _build(self, config: Any) -> torch.nn.Module:
        from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionTransformer

        vision = config.vision_config
        self._tokens_shape = ((vision.image_size // vision.patch_size) ** 2, vision.hidden_size)
        return Idefics3VisionTransformer._from_config(vision, dtype=torch.float32, attn_implementation="sdpa")
