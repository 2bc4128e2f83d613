"""Small random checkpoints of the model families that encoder hf is proven on, with published
preprocessing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf

SMALL = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
PICTURE = {"image_size": 32, "patch_size": 8}
WORDS = {
    "vocab_size": 99,
    "max_position_embeddings": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 2, "image_size": 32,
    "tubelet_size": (1, 8, 8), "num_frames": 4, "num_spatial_layers": 2, "num_temporal_layers": 1,
}  # fmt: skip
TIMM = {"architecture": "vit_pe_core_tiny_patch16_384", "do_pooling": True}
TIMM_SMALL = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2}
_NORMAL = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "resample": 3,
}
_NORMAL |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
CROPPED = {
    "size": {"shortest_edge": 40},
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
}
SQUARE = {"size": {"height": 32, "width": 32}, "do_center_crop": False}


def shaken(model: torch.nn.Module) -> Any:
    """Return the model with weights for which no output is constant."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def picture_settings(folder: Path, kind: str, **settings: object) -> None:
    described = {**_NORMAL, "image_processor_type": kind, **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(described))


def clip_settings(folder: Path, kind: str, **settings: object) -> None:
    described = {**_NORMAL, "video_processor_type": kind, **settings}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(described))


def save_tokenizer(folder: Path) -> None:
    """A tokenizer whose words are letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = {piece: at for at, piece in enumerate(["<pad>", "<s>", "</s>", "<unk>", *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    ).save_pretrained(folder)


def _of(
    model: str, config: str, processor: str, settings: dict[str, Any], **sizes: Any
) -> Callable[[Path], Any]:
    """Return a function that makes a model of pictures or videos of these classes, and writes its
    preprocessing."""

    def make(folder: Path) -> Any:
        picture_settings(folder, processor, **settings)
        return getattr(tf, model)(getattr(tf, config)(**sizes))

    return make


def _with_texts(
    model: str, config: str, processor: str, settings: dict[str, Any], **sizes: Any
) -> Any:
    """Return a function that makes a model of pictures and texts, with a tokenizer."""
    vision = sizes.pop("vision", {**SMALL, **PICTURE})
    parts = {"text_config": {**SMALL, **WORDS, **sizes.pop("text", {})}, "vision_config": vision}
    of_pictures = _of(model, config, processor, settings, **parts, **sizes)

    def make(folder: Path) -> Any:
        save_tokenizer(folder)
        return of_pictures(folder)

    return make


def _siglip2_naflex(folder: Path) -> Any:
    vision = {**SMALL, "num_patches": 16, "patch_size": 8}
    made = _with_texts(
        "Siglip2Model", "Siglip2Config", "", {}, text={"projection_size": 24}, vision=vision
    )(folder)
    tf.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(folder)
    return made


def _timm(folder: Path) -> Any:
    described = {
        "input_size": [3, 32, 32],
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    config = tf.TimmWrapperConfig(
        **TIMM, model_args=TIMM_SMALL, pretrained_cfg={**described, "crop_mode": "squash"}
    )
    return tf.TimmWrapperModel(config)


def _vjepa2(folder: Path) -> Any:
    clip_settings(
        folder,
        "VJEPA2VideoProcessor",
        crop_size={"height": 32, "width": 32},
        resample=2,
        do_center_crop=True,
    )
    sizes = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 8,
        "crop_size": 32,
    }
    sizes |= {
        "pred_hidden_size": 12,
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
        "frames_per_clip": 4,
    }
    return tf.VJEPA2Model(tf.VJEPA2Config(**sizes))


def _videoprism_vision(folder: Path) -> Any:
    clip_settings(folder, "LlavaOnevisionVideoProcessor", size={"height": 32, "width": 32})
    return tf.VideoPrismVisionModel(tf.VideoPrismVisionConfig(**VISION))


def _videoprism(folder: Path) -> Any:
    clip_settings(folder, "LlavaOnevisionVideoProcessor", size={"height": 32, "width": 32})
    save_tokenizer(folder)
    return tf.VideoPrismClipModel(
        tf.VideoPrismConfig(text_config={**SMALL, **WORDS}, vision_config=VISION)
    )


def _pe_video(folder: Path) -> Any:
    clip_settings(folder, "PeVideoVideoProcessor", size={"height": 32, "width": 32}, resample=2)
    save_tokenizer(folder)
    text = {**SMALL, **WORDS, "model_type": "modernbert", "cls_token_id": 1, "sep_token_id": 2}
    vision = {**TIMM, "num_classes": 16, "model_args": TIMM_SMALL}
    video = {**SMALL, "head_dim": 12, "vision_config": vision}
    return tf.PeVideoModel(tf.PeVideoConfig(text_config=text, video_config=video))


RATIO = {
    "hidden_size": 24,
    "mlp_ratio": 2,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    **PICTURE,
}
UNIT = SQUARE | {"do_normalize": False}
STAGES = {"hidden_sizes": [8, 8, 16, 24], "depths": [1, 1, 1, 1]}
SMALL_CROP = {"size": {"shortest_edge": 32}, "crop_pct": 0.8}
BILINEAR = {"resample": 2}
CLIPS = {**SMALL, **PICTURE, "num_frames": 4}
IMAGES: dict[str, Callable[[Path], Any]] = {
    "dinov2": _of("Dinov2Model", "Dinov2Config", "BitImageProcessor", CROPPED, **RATIO),
    "dinov2-registers": _of(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", "BitImageProcessor", CROPPED,
        **RATIO
    ),
    "dinov3": _of(
        "DINOv3ViTModel", "DINOv3ViTConfig", "DINOv3ViTImageProcessorFast", SQUARE | BILINEAR,
        **SMALL, **PICTURE, num_register_tokens=4,
    ),
    "dinov3-convnext": _of(
        "DINOv3ConvNextModel", "DINOv3ConvNextConfig", "DINOv3ViTImageProcessorFast",
        SQUARE | BILINEAR, **STAGES
    ),
    "aimv2": _of(
        "Aimv2VisionModel", "Aimv2VisionConfig", "CLIPImageProcessor", CROPPED, **SMALL, **PICTURE,
    ),
    "aimv2-lit": _with_texts(
        "Aimv2Model", "Aimv2Config", "CLIPImageProcessor", CROPPED, projection_dim=12,
    ),
    "clip": _with_texts(
        "CLIPModel", "CLIPConfig", "CLIPImageProcessor", CROPPED, projection_dim=12,
    ),
    "metaclip2": _with_texts(
        "MetaClip2Model", "MetaClip2Config", "CLIPImageProcessor", CROPPED, projection_dim=12,
    ),
    "siglip": _with_texts(
        "SiglipModel", "SiglipConfig", "SiglipImageProcessor", SQUARE, text={"projection_size": 24},
    ),
    "mlcd": _of(
        "MLCDVisionModel", "MLCDVisionConfig", "CLIPImageProcessor", CROPPED,
        **SMALL, **PICTURE, num_key_value_groups=1,
    ),
    "radio": _of(
        "RadioModel", "RadioConfig", "CLIPImageProcessor", UNIT,
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, **PICTURE, max_img_size=64,
    ),
    "vit": _of("ViTModel", "ViTConfig", "ViTImageProcessor", SQUARE, **SMALL, **PICTURE),
    "convnextv2": _of(
        "ConvNextV2Model", "ConvNextV2Config", "ConvNextImageProcessor", SMALL_CROP, **STAGES,
    ),
    "tipsv2": _with_texts(
        "Tipsv2Model", "Tipsv2Config", "Tipsv2ImageProcessor", UNIT | BILINEAR, vision=RATIO,
    ),
    "timm": _timm,
}  # fmt: skip
VIDEOS: dict[str, Callable[[Path], Any]] = {
    "vjepa2": _vjepa2,
    "videomae": _of("VideoMAEModel", "VideoMAEConfig", "VideoMAEImageProcessor", CROPPED, **CLIPS),
    "timesformer": _of(
        "TimesformerModel", "TimesformerConfig", "VideoMAEImageProcessor", CROPPED, **CLIPS,
    ),
    "vivit": _of(
        "VivitModel", "VivitConfig", "VivitImageProcessor", CROPPED,
        **SMALL, image_size=32, tubelet_size=[2, 8, 8], num_frames=4,
    ),
    "videoprism-vision": _videoprism_vision,
    "videoprism": _videoprism,
    "pe-video": _pe_video,
}  # fmt: skip
NAFLEX: dict[str, Callable[[Path], Any]] = {"siglip2-naflex": _siglip2_naflex}
TEXTS = (
    "aimv2-lit",
    "clip",
    "metaclip2",
    "siglip",
    "siglip2-naflex",
    "tipsv2",
    "videoprism",
    "pe-video",
)
EVERY = {**IMAGES, **VIDEOS, **NAFLEX}
