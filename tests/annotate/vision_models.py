"""Small vision-language models of random weights, saved with their processors in the format of
transformers."""

from pathlib import Path
from typing import Any

import torch

from tests.heads.public import conftest as tiny
from tests.heads.public.conftest import PATCH, SIZE, VISION, WIDTH

SMALL = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
CHAT = (
    "{% for m in messages %}USER:{% for part in m.content %}{% if part.type == 'image' %} "
    "<image>{% else %} {{ part.text }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)


def words() -> Any:
    """Return a tokenizer of bytes with an image token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        "<pad>",
        "<image>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
    ]
    made = Tokenizer(
        models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], unk_token="<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
    fast.add_tokens(["<image>"], special_tokens=True)
    return fast


def saved(folder: Path, model: Any, processor: Any) -> Path:
    torch.manual_seed(0)
    for parameter in model.parameters():  # with the default scale outputs are nearly constant
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def llava(folder: Path) -> Path:
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    tokenizer = words()
    model = tiny.llava(len(tokenizer), tokenizer.convert_tokens_to_ids("<image>"))
    crop = {"height": SIZE, "width": SIZE}
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=crop)
    processor = LlavaProcessor(
        pictures, tokenizer, PATCH, "default", chat_template=CHAT, num_additional_image_tokens=1
    )
    return saved(folder, model, processor)


def blip2(folder: Path) -> Path:
    from transformers import Blip2Processor, BlipImageProcessorPil

    tokenizer = words()
    model = tiny.blip2(len(tokenizer), tokenizer.convert_tokens_to_ids("<image>"))
    pictures = BlipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    return saved(folder, model, Blip2Processor(pictures, tokenizer, num_query_tokens=4))


def blip(folder: Path) -> Path:
    from transformers import (
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
        BlipProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )

    tokenizer = words()
    text = BlipTextConfig(
        **SMALL,
        vocab_size=len(tokenizer),
        encoder_hidden_size=WIDTH,
        max_position_embeddings=64,
        bos_token_id=1,
        sep_token_id=2,
        eos_token_id=2,
        pad_token_id=3,
    )
    config = BlipConfig(
        vision_config=BlipVisionConfig(**VISION).to_dict(), text_config=text.to_dict()
    )
    pictures = BlipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    return saved(folder, BlipForConditionalGeneration(config), BlipProcessor(pictures, tokenizer))


def owlv2(folder: Path) -> Path:
    from transformers import (
        CLIPTokenizer,
        Owlv2Config,
        Owlv2ForObjectDetection,
        Owlv2ImageProcessorPil,
        Owlv2Processor,
    )
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    pieces = (
        letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    )
    tokenizer = CLIPTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=16
    )
    ends = {
        "bos_token_id": len(pieces) - 2,
        "eos_token_id": len(pieces) - 1,
        "pad_token_id": len(pieces) - 1,
    }
    config = Owlv2Config(
        text_config={**SMALL, **ends, "vocab_size": len(pieces), "max_position_embeddings": 16},
        vision_config=VISION,
        projection_dim=WIDTH,
    )
    pictures = Owlv2ImageProcessorPil(size={"height": SIZE, "width": SIZE})
    return saved(folder, Owlv2ForObjectDetection(config), Owlv2Processor(pictures, tokenizer))


def grounding_dino(folder: Path) -> Path:
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessorPil,
        GroundingDinoProcessor,
        SwinConfig,
    )

    letters = [chr(code) for code in range(97, 123)]
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        ".",
        *letters,
        *(f"##{letter}" for letter in letters),
    ]
    backbone = SwinConfig(
        image_size=SIZE,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1],
        num_heads=[1, 2, 2],
        window_size=2,
        out_features=["stage2", "stage3"],
    )
    text = BertConfig(
        **{**SMALL, "hidden_size": 16}, vocab_size=len(pieces), max_position_embeddings=128
    )
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=5,
        num_feature_levels=3,
        max_text_len=128,
    )
    tokenizer = BertTokenizer({piece: i for i, piece in enumerate(pieces)})
    pictures = GroundingDinoImageProcessorPil(size={"shortest_edge": SIZE, "longest_edge": 48})
    return saved(
        folder, GroundingDinoForObjectDetection(config), GroundingDinoProcessor(pictures, tokenizer)
    )
