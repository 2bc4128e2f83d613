"""Small video language models of random weights with their own processors, one function per
family."""

from collections.abc import Callable
from typing import Any

import transformers

hf: Any = transformers
"""its types leave out keywords that its classes take"""

SAID = (
    "In Video 2, a fork. You are a multimodal assistant. Here is Video 1. user assistant Question: "
    "seconds Frame"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
GRID_VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "depth": 3,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 8,
}
SQUARE = {"height": 32, "width": 32}
QWEN = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
Made = tuple[Any, Any]
"""model, processor"""


def tokenizer(*control: str, begins: bool = False, **named: str) -> Any:
    """Return a tokenizer of bytes with these control tokens; `named` are attributes of it too.

    begins: whether it adds a token before every text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + 90,
        special_tokens=["<pad>", "<eos>", "<bos>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    made.train_from_iterator([SAID] * 9, trainer)
    if begins:
        made.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 2)]
        )
    fast = hf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<bos>" if begins else None,
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens=named,
    )
    fast.add_tokens(
        sorted({*control, *named.values()} - set(fast.get_vocab())), special_tokens=True
    )
    return fast


def template(image: str, video: str) -> str:
    """Return a chat template that shows clips by these words."""
    return (
        "{% for message in messages %}{{ message['role'] }}\n{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}"
        + image
        + "{% elif part['type'] == 'video' %}"
        + video
        + "{% else %}"
        "{{ part['text'] }}{% endif %}{% endfor %}<eos>\n{% endfor %}"
        "{% if add_generation_prompt %}assistant\n{% endif %}"
    )


def _rope(**more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0, **more}


def _qwen(kind: str, text: dict[str, Any], vision: dict[str, Any], video: Any, pixels: int) -> Made:
    words = tokenizer(*QWEN)
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    ids = dict(zip(names, words.convert_tokens_to_ids(QWEN), strict=True))
    config = getattr(hf, f"{kind}Config")(
        text_config={**TEXT, "vocab_size": len(words), **text},
        vision_config={**GRID_VISION, **vision},
        **ids,
    )
    sizes = {
        "patch_size": 8,
        "merge_size": 2,
        "size": {"shortest_edge": 16 * 16, "longest_edge": pixels},
    }
    image, video_words = (f"<|vision_start|>{token}<|vision_end|>" for token in QWEN[:2])
    processor = getattr(hf, f"{kind}Processor")(
        hf.Qwen2VLImageProcessor(**sizes),
        words,
        video(**sizes),
        chat_template=template(image, video_words),
    )
    return getattr(hf, f"{kind}ForConditionalGeneration")(config), processor


def qwen2_5_vl() -> Made:
    vision = {"window_size": 32, "fullatt_block_indexes": [1], "tokens_per_second": 2}
    return _qwen(
        "Qwen2_5_VL", {"rope_parameters": _rope()}, vision, hf.Qwen2VLVideoProcessor, 64 * 64
    )


def qwen3_vl() -> Made:
    text = {"head_dim": 8, "rope_parameters": _rope(mrope_interleaved=True)}
    vision = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    return _qwen("Qwen3VL", text, vision, hf.Qwen3VLVideoProcessor, 64 * 64 * 8)


def glm4v() -> Made:
    marks = [f"<|{name}|>" for name in ("image", "video", "begin_of_image", "end_of_image")]
    marks += ["<|begin_of_video|>", "<|end_of_video|>"]
    words = tokenizer(*marks)
    names = ("image", "video", "image_start", "image_end", "video_start", "video_end")
    ids = {
        f"{name}_token_id": words.convert_tokens_to_ids(mark)
        for name, mark in zip(names, marks, strict=True)
    }
    rope = _rope(partial_rotary_factor=1.0)
    config = hf.Glm4vConfig(
        text_config={**TEXT, "vocab_size": len(words), "head_dim": 8, "rope_parameters": rope},
        vision_config={**GRID_VISION, "image_size": 32},
        **ids,
    )
    sizes = {
        "patch_size": 8,
        "merge_size": 2,
        "size": {"shortest_edge": 16 * 16, "longest_edge": 64 * 64 * 4},
    }
    shown = (
        "<|begin_of_image|><|image|><|end_of_image|>",
        "<|begin_of_video|><|video|><|end_of_video|>",
    )
    processor = hf.Glm4vProcessor(
        hf.Glm4vImageProcessor(**sizes),
        words,
        hf.Glm4vVideoProcessor(**sizes),
        chat_template=template(*shown),
    )
    return hf.Glm4vForConditionalGeneration(config), processor


def internvl() -> Made:
    words = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = hf.InternVLConfig(
        text_config={**TEXT, "vocab_size": len(words), "model_type": "qwen2"},
        vision_config={**VISION, "image_size": [32, 32], "patch_size": [8, 8]},
        image_seq_length=4,
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    images, videos = hf.GotOcr2ImageProcessor(size=SQUARE), hf.InternVLVideoProcessor(size=SQUARE)
    shown = template("<IMG_CONTEXT>\n", "<video>\n")
    processor = hf.InternVLProcessor(images, words, videos, image_seq_length=4, chat_template=shown)
    return hf.InternVLForConditionalGeneration(config), processor


def _llava(words: Any, text: str, vision: dict[str, Any]) -> dict[str, Any]:
    return {
        "text_config": {**TEXT, "vocab_size": len(words), "model_type": text},
        "vision_config": {**VISION, **vision},
        "image_token_index": words.convert_tokens_to_ids("<image>"),
        "video_token_index": words.convert_tokens_to_ids("<video>"),
        "image_grid_pinpoints": [[32, 32]],
    }


def llava_onevision() -> Made:
    words = tokenizer("<image>", "<video>")
    vision = {"model_type": "siglip_vision_model", "vision_use_head": False}
    config = hf.LlavaOnevisionConfig(**_llava(words, "qwen2", vision))
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=[[32, 32]]),
        words,
        hf.LlavaOnevisionVideoProcessor(size=SQUARE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template("<image>\n", "<video>\n"),
    )
    return hf.LlavaOnevisionForConditionalGeneration(config), processor


def llava_next_video() -> Made:
    """LLaVA-NeXT-Video, whose tokenizer adds a first token that the chat template does not
    write."""
    words = tokenizer("<image>", "<video>", begins=True)
    settings = _llava(words, "llama", {"model_type": "clip_vision_model"})
    config = hf.LlavaNextVideoConfig(**settings, image_seq_length=16, video_seq_length=4)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": SQUARE}
    processor = hf.LlavaNextVideoProcessor(
        video_processor=hf.LlavaNextVideoVideoProcessor(**sizes),
        image_processor=hf.LlavaNextImageProcessor(**sizes),
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>\n", "<video>\n"),
    )
    return hf.LlavaNextVideoForConditionalGeneration(config), processor


def smolvlm() -> Made:
    """SmolVLM 2, whose processor has a chat template of its own for videos."""
    marks = [
        "<fake_token_around_image>",
        "<image>",
        "<end_of_utterance>",
        "<global-img>",
        "<video>",
        "<|im_start|>",
    ]
    words = tokenizer(*marks)
    config = hf.SmolVLMConfig(
        text_config={**TEXT, "vocab_size": len(words), "model_type": "llama", "pad_token_id": 0},
        vision_config=VISION,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    sizes = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 32}}
    sampling = {"fps": 1, "max_frames": 4, "video_size": {"longest_edge": 32}}
    videos = hf.SmolVLMVideoProcessor(**sizes, fps=1, num_frames=4, video_sampling=sampling)
    shown = template("<image>", "<video>")
    processor = hf.SmolVLMProcessor(
        hf.SmolVLMImageProcessor(**sizes), words, videos, image_seq_len=4, chat_template=shown
    )
    return hf.SmolVLMForConditionalGeneration(config), processor


def molmo2() -> Made:
    """Molmo 2, whose processor takes one video in a prompt, so that frames are images here."""
    named = ("start", "end", "patch", "col", "low")
    marks = [
        *(f"<im_{name}>" for name in named),
        "<low_res_im_start>",
        "<frame_start>",
        "<frame_end>",
    ]
    words = tokenizer(*marks, "<|image|>", "<|video|>")
    names: tuple[str, ...] = ("image_start_token", "image_end_token", "image_patch", "image_col")
    names += ("image_low_res", "low_res_image_start_token", "frame_start_token", "frame_end_token")
    ids = {
        f"{name}_id": words.convert_tokens_to_ids(mark)
        for name, mark in zip(names, marks, strict=True)
    }
    heads = {"hidden_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 12}
    config = hf.Molmo2Config(
        text_config={
            **TEXT,
            "vocab_size": len(words) - 4,
            "additional_vocab_size": 4,
            "head_dim": 8,
        },
        vision_config={**VISION, **heads, "image_size": [32, 32]},
        adapter_config={
            **heads,
            "vision_feature_layer": [-1, 0],
            "intermediate_size": 32,
            "text_hidden_size": 32,
        },
        **ids,
    )
    sizes = {"size": SQUARE, "patch_size": 8, "pooling_size": [2, 2]}
    processor = hf.Molmo2Processor(
        hf.Molmo2ImageProcessor(**sizes, max_crops=1, overlap_margins=[0, 0]),
        hf.Molmo2VideoProcessor(**sizes),
        words,
        chat_template=template("<|image|>", "<|video|>"),
    )
    return hf.Molmo2ForConditionalGeneration(config), processor


def perception_lm() -> Made:
    words = tokenizer(image_token="<|image|>", video_token="<|video|>")
    tower = {
        "embed_dim": 24,
        "img_size": [32, 32],
        "depth": 2,
        "num_heads": 2,
        "global_pool": "",
        "init_values": 0.1,
    }
    tower |= {"use_post_transformer_norm": False, "ref_feat_shape": [2, 2]}
    named = {
        "model_type": "timm_wrapper",
        "architecture": "vit_pe_core_tiny_patch16_384",
        "model_args": tower,
    }
    config = hf.PerceptionLMConfig(
        text_config={**TEXT, "vocab_size": len(words), "model_type": "llama"},
        vision_config=named,
        image_token_id=words.convert_tokens_to_ids("<|image|>"),
        video_token_id=words.convert_tokens_to_ids("<|video|>"),
        projector_pooling_ratio=1,
        vision_use_cls_token=True,
    )
    processor = hf.PerceptionLMProcessor(
        video_processor=hf.PerceptionLMVideoProcessor(size=SQUARE),
        image_processor=hf.PerceptionLMImageProcessor(tile_size=32, max_num_tiles=1),
        tokenizer=words,
        patch_size=16,
        pooling_ratio=1,
        chat_template=template("<|image|>", "<|video|>"),
    )
    return hf.PerceptionLMForConditionalGeneration(config), processor


def gemma3() -> Made:
    """Gemma 3, which takes images only, and in whose language model the tokens of an image see each
    other.

    The tokenizer adds a first token, and so does the chat template.
    """
    marks = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    words = tokenizer(begins=True, **marks)
    ids = words.convert_tokens_to_ids
    config = hf.Gemma3Config(
        text_config={**TEXT, "vocab_size": len(words), "head_dim": 8, "sliding_window": 512},
        vision_config={**VISION, "vision_use_head": False},
        mm_tokens_per_image=4,
        image_token_index=ids("<image_soft_token>"),
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
    )
    images, shown = hf.Gemma3ImageProcessor(size=SQUARE), "<bos>" + template("<start_of_image>", "")
    processor = hf.Gemma3Processor(images, words, image_seq_length=4, chat_template=shown)
    return hf.Gemma3ForConditionalGeneration(config), processor


def minicpmv4_6() -> Made:
    marks: dict[str, Any] = {
        f"{name}_token": f"<{name}>"
        for name in ("slice_start", "slice_end", "image_id_start", "image_id_end")
    }
    marks |= {"image_start_token": "<image>", "image_end_token": "</image>"}
    words = tokenizer(image_token="<|image_pad|>", video_token="<|video_pad|>", **marks)
    config = hf.MiniCPMV4_6Config(
        text_config={
            **TEXT,
            "vocab_size": len(words),
            "head_dim": 8,
            "layer_types": ["full_attention"] * 2,
        },
        vision_config={**VISION, "num_hidden_layers": 3},
        insert_layer_id=1,
        image_size=32,
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
    )
    sizes = {"patch_size": 8, "scale_resolution": 64, "max_slice_nums": 1}
    processor = hf.MiniCPMV4_6Processor(
        hf.MiniCPMV4_6ImageProcessor(**sizes),
        hf.MiniCPMV4_6VideoProcessor(**sizes),
        words,
        chat_template=template("<|image_pad|>", "<|video_pad|>"),
    )
    return hf.MiniCPMV4_6ForConditionalGeneration(config), processor


MODELS: dict[str, Callable[[], Made]] = {
    made.__name__: made
    for made in (
        qwen2_5_vl,
        qwen3_vl,
        glm4v,
        internvl,
        llava_onevision,
        llava_next_video,
        smolvlm,
        molmo2,
        perception_lm,
        gemma3,
        minicpmv4_6,
    )
}
"""family -> a function that makes its model and its processor"""
