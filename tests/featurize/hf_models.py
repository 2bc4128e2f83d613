"""Small random checkpoints of the model families that encoder hf is proven on, with published preprocessing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf

SMALL = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
PICTURE = {"image_size": 32, "patch_size": 8}
WORDS = {"vocab_size": 99, "max_position_embeddings": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
VISION = {
    "hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 2, "image_size": 32, "tubelet_size": (1, 8, 8),
    "num_frames": 4, "num_spatial_layers": 2, "num_temporal_layers": 1,
}  # fmt: skip
TIMM = {"architecture": "vit_pe_core_tiny_patch16_384", "do_pooling": True}
TIMM_SMALL = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2}
_NORMAL = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255, "resample": 3}
_NORMAL |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
CROPPED = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
SQUARE = {"size": {"height": 32, "width": 32}, "do_center_crop": False}


def shaken(model: torch.nn.Module) -> Any:
    """Return the model with weights for which no output is constant."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def picture_settings(folder: Path, kind: str, **settings: object) -> None:
    said = {**_NORMAL, "image_processor_type": kind, **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


def clip_settings(folder: Path, kind: str, **settings: object) -> None:
    said = {**_NORMAL, "video_processor_type": kind, **settings}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(said))


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
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def _dinov2(folder: Path) -> Any:
    picture_settings(folder, "BitImageProcessor", **CROPPED)
    sizes = {"hidden_size": 24, "mlp_ratio": 2, "num_hidden_layers": 2, "num_attention_heads": 2, **PICTURE}
    return tf.Dinov2Model(tf.Dinov2Config(**sizes))


def _dinov2_registers(folder: Path) -> Any:
    picture_settings(folder, "BitImageProcessor", **CROPPED)
    sizes = {"hidden_size": 24, "mlp_ratio": 2, "num_hidden_layers": 2, "num_attention_heads": 2, **PICTURE}
    return tf.Dinov2WithRegistersModel(tf.Dinov2WithRegistersConfig(**sizes))


def _dinov3(folder: Path) -> Any:
    picture_settings(folder, "DINOv3ViTImageProcessorFast", **SQUARE, resample=2)
    return tf.DINOv3ViTModel(tf.DINOv3ViTConfig(**SMALL, **PICTURE, num_register_tokens=4))


def _dinov3_convnext(folder: Path) -> Any:
    picture_settings(folder, "DINOv3ViTImageProcessorFast", **SQUARE, resample=2)
    return tf.DINOv3ConvNextModel(tf.DINOv3ConvNextConfig(hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 1, 1]))


def _aimv2(folder: Path) -> Any:
    picture_settings(folder, "CLIPImageProcessor", **CROPPED)
    return tf.Aimv2VisionModel(tf.Aimv2VisionConfig(**SMALL, **PICTURE))


def _aimv2_lit(folder: Path) -> Any:
    picture_settings(folder, "CLIPImageProcessor", **CROPPED)
    save_tokenizer(folder)
    parts = {"text_config": {**SMALL, **WORDS}, "vision_config": {**SMALL, **PICTURE}}
    return tf.Aimv2Model(tf.Aimv2Config(**parts, projection_dim=12))


def _clip(folder: Path) -> Any:
    picture_settings(folder, "CLIPImageProcessor", **CROPPED)
    save_tokenizer(folder)
    parts = {"text_config": {**SMALL, **WORDS}, "vision_config": {**SMALL, **PICTURE}}
    return tf.CLIPModel(tf.CLIPConfig(**parts, projection_dim=12))


def _metaclip2(folder: Path) -> Any:
    picture_settings(folder, "CLIPImageProcessor", **CROPPED)
    save_tokenizer(folder)
    parts = {"text_config": {**SMALL, **WORDS}, "vision_config": {**SMALL, **PICTURE}}
    return tf.MetaClip2Model(tf.MetaClip2Config(**parts, projection_dim=12))


def _siglip(folder: Path) -> Any:
    picture_settings(folder, "SiglipImageProcessor", **SQUARE)
    save_tokenizer(folder)
    text = {**SMALL, **WORDS, "projection_size": 24}
    return tf.SiglipModel(tf.SiglipConfig(text_config=text, vision_config={**SMALL, **PICTURE}))


def _siglip2_naflex(folder: Path) -> Any:
    tf.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(folder)
    save_tokenizer(folder)
    text = {**SMALL, **WORDS, "projection_size": 24}
    vision = {**SMALL, "num_patches": 16, "patch_size": 8}
    return tf.Siglip2Model(tf.Siglip2Config(text_config=text, vision_config=vision))


def _mlcd(folder: Path) -> Any:
    picture_settings(folder, "CLIPImageProcessor", **CROPPED)
    return tf.MLCDVisionModel(tf.MLCDVisionConfig(**SMALL, **PICTURE, num_key_value_groups=1))


def _radio(folder: Path) -> Any:
    picture_settings(folder, "CLIPImageProcessor", **SQUARE | {"do_normalize": False})
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, **PICTURE, "max_img_size": 64}
    return tf.RadioModel(tf.RadioConfig(**sizes))


def _vit(folder: Path) -> Any:
    picture_settings(folder, "ViTImageProcessor", **SQUARE)
    return tf.ViTModel(tf.ViTConfig(**SMALL, **PICTURE))


def _convnextv2(folder: Path) -> Any:
    picture_settings(folder, "ConvNextImageProcessor", size={"shortest_edge": 32}, crop_pct=0.8)
    return tf.ConvNextV2Model(tf.ConvNextV2Config(hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 1, 1]))


def _tipsv2(folder: Path) -> Any:
    picture_settings(folder, "Tipsv2ImageProcessor", **SQUARE | {"do_normalize": False}, resample=2)
    save_tokenizer(folder)
    vision = {"hidden_size": 24, "mlp_ratio": 2, "num_hidden_layers": 2, "num_attention_heads": 2, **PICTURE}
    return tf.Tipsv2Model(tf.Tipsv2Config(text_config={**SMALL, **WORDS}, vision_config=vision))


def _timm(folder: Path) -> Any:
    said = {"input_size": [3, 32, 32], "crop_pct": 1.0, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    config = tf.TimmWrapperConfig(**TIMM, model_args=TIMM_SMALL, pretrained_cfg={**said, "crop_mode": "squash"})
    return tf.TimmWrapperModel(config)


def _vjepa2(folder: Path) -> Any:
    clip_settings(
        folder, "VJEPA2VideoProcessor", crop_size={"height": 32, "width": 32}, resample=2, do_center_crop=True
    )
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "crop_size": 32}
    sizes |= {"pred_hidden_size": 12, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, "frames_per_clip": 4}
    return tf.VJEPA2Model(tf.VJEPA2Config(**sizes))


def _videomae(folder: Path) -> Any:
    picture_settings(folder, "VideoMAEImageProcessor", **CROPPED)
    return tf.VideoMAEModel(tf.VideoMAEConfig(**SMALL, **PICTURE, num_frames=4))


def _timesformer(folder: Path) -> Any:
    picture_settings(folder, "VideoMAEImageProcessor", **CROPPED)
    return tf.TimesformerModel(tf.TimesformerConfig(**SMALL, **PICTURE, num_frames=4))


def _vivit(folder: Path) -> Any:
    picture_settings(folder, "VivitImageProcessor", **CROPPED)
    return tf.VivitModel(tf.VivitConfig(**SMALL, image_size=32, tubelet_size=[2, 8, 8], num_frames=4))


def _videoprism_vision(folder: Path) -> Any:
    clip_settings(folder, "LlavaOnevisionVideoProcessor", size={"height": 32, "width": 32})
    return tf.VideoPrismVisionModel(tf.VideoPrismVisionConfig(**VISION))


def _videoprism(folder: Path) -> Any:
    clip_settings(folder, "LlavaOnevisionVideoProcessor", size={"height": 32, "width": 32})
    save_tokenizer(folder)
    return tf.VideoPrismClipModel(tf.VideoPrismConfig(text_config={**SMALL, **WORDS}, vision_config=VISION))


def _pe_video(folder: Path) -> Any:
    clip_settings(folder, "PeVideoVideoProcessor", size={"height": 32, "width": 32}, resample=2)
    save_tokenizer(folder)
    text = {**SMALL, **WORDS, "model_type": "modernbert", "cls_token_id": 1, "sep_token_id": 2}
    vision = {**TIMM, "num_classes": 16, "model_args": TIMM_SMALL}
    video = {**SMALL, "head_dim": 12, "vision_config": vision}
    return tf.PeVideoModel(tf.PeVideoConfig(text_config=text, video_config=video))


IMAGES: dict[str, Callable[[Path], Any]] = {
    "dinov2": _dinov2,
    "dinov2-registers": _dinov2_registers,
    "dinov3": _dinov3,
    "dinov3-convnext": _dinov3_convnext,
    "aimv2": _aimv2,
    "aimv2-lit": _aimv2_lit,
    "clip": _clip,
    "metaclip2": _metaclip2,
    "siglip": _siglip,
    "mlcd": _mlcd,
    "radio": _radio,
    "vit": _vit,
    "convnextv2": _convnextv2,
    "tipsv2": _tipsv2,
    "timm": _timm,
}
VIDEOS: dict[str, Callable[[Path], Any]] = {
    "vjepa2": _vjepa2,
    "videomae": _videomae,
    "timesformer": _timesformer,
    "vivit": _vivit,
    "videoprism-vision": _videoprism_vision,
    "videoprism": _videoprism,
    "pe-video": _pe_video,
}
NAFLEX: dict[str, Callable[[Path], Any]] = {"siglip2-naflex": _siglip2_naflex}
NEED_TIMM = ("timm", "pe-video")
TEXTS = ("aimv2-lit", "clip", "metaclip2", "siglip", "siglip2-naflex", "tipsv2", "videoprism", "pe-video")
EVERY = {**IMAGES, **VIDEOS, **NAFLEX}
