"""Small public models of random weights, saved with their processors, and stores of their towers'
tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from featurize.encoders import load
from heads.data.clips import Features
from heads.models.public.families import PublicLM, load_public
from store import Store

from .vlms import Small
from .vlms import featurized as with_tokens

SIZE, PATCH, WIDTH = 32, 8, 24
CLIPS = [f"video-_{i}_0.0_{i + 1}.5" for i in range(6)]
AROUND, IMAGE, ENDS = "<fake_token_around_image>", "<image>", "<end_of_utterance>"
SAID = (
    "In Video 2, a fork. You are a multimodal assistant. Here is Video 1. User: USER: ASSISTANT: "
    "Question: Answer:"
)
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": PATCH,
}
LANGUAGE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
}
RESAMPLER = {
    "resampler_n_latents": 4,
    "resampler_depth": 1,
    "resampler_n_heads": 2,
    "resampler_head_dim": 8,
}
TURN = "{{ messages[0]['content'][0]['text'] }}"  # of the user
TEMPLATES = {
    "llava": "USER: " + TURN + " {% if add_generation_prompt %}ASSISTANT:{% endif %}",
    "idefics2": "User: " + TURN + ENDS + "\n{% if add_generation_prompt %}Assistant:{% endif %}",
    "idefics3": "<s>User: " + TURN + ENDS + "\n{% if add_generation_prompt %}Assistant:{% endif %}",
}


def tokenizer(pieces: bool, bos: str) -> Any:
    """Return a tokenizer of sentence pieces like Llama's, which adds a space before a text, or of
    bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    first = ["<unk>", "<s>", "</s>", "<pad>"]
    if pieces:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        made.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = [chr(code) for code in range(32, 127)] + ["\n", "▁"]
    else:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + 90,
        special_tokens=first,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    made.train_from_iterator([SAID] * 9, trainer)
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=bos, eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    fast.add_tokens([IMAGE, AROUND, "<global-img>", ENDS], special_tokens=True)
    return fast


def llava(words: int, image: int) -> Any:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    text = LlamaConfig(**LANGUAGE, vocab_size=words, num_key_value_heads=2)
    vision = CLIPVisionConfig(**VISION)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=image)
    )


def blip2(words: int, image: int) -> Any:
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        OPTConfig,
    )

    former = Blip2QFormerConfig(
        vocab_size=words,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        encoder_hidden_size=WIDTH,
    )
    language = {k: v for k, v in LANGUAGE.items() if k != "intermediate_size"}
    text = OPTConfig(
        **language, ffn_dim=48, word_embed_proj_dim=32, vocab_size=words, pad_token_id=3
    )
    return Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=Blip2VisionConfig(**VISION),
            qformer_config=former,
            text_config=text,
            num_query_tokens=4,
            image_token_index=image,
        )
    )


def idefics(words: int, image: int) -> Any:
    from transformers import IdeficsConfig, IdeficsForVisionText2Text

    vision = {**{k: v for k, v in VISION.items() if k != "hidden_size"}, "embed_dim": WIDTH}
    return IdeficsForVisionText2Text(
        IdeficsConfig(
            **LANGUAGE,
            vocab_size=words - 4,
            additional_vocab_size=4,
            vision_config=vision,
            perceiver_config=RESAMPLER,
            use_resampler=True,
            cross_layer_interval=1,
            pad_token_id=3,
        )
    )


def idefics2(words: int, image: int) -> Any:
    from transformers import Idefics2Config, Idefics2ForConditionalGeneration, MistralConfig

    text = MistralConfig(**LANGUAGE, vocab_size=words, num_key_value_heads=2, pad_token_id=3)
    return Idefics2ForConditionalGeneration(
        Idefics2Config(
            text_config=text,
            vision_config=VISION,
            perceiver_config={**RESAMPLER, "num_key_value_heads": 2, "hidden_size": 32},
            image_token_id=image,
        )
    )


def idefics3(words: int, image: int) -> Any:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, LlamaConfig

    text = LlamaConfig(**LANGUAGE, vocab_size=words, num_key_value_heads=2, pad_token_id=3)
    return Idefics3ForConditionalGeneration(
        Idefics3Config(
            text_config=text,
            vision_config=VISION,
            image_token_id=image,
            scale_factor=2,
            pad_token_id=3,
        )
    )


MODELS: dict[str, tuple[Callable[[int, int], Any], str]] = {
    "llava": (llava, "CLIPImageProcessorPil"),
    "blip2": (blip2, "BlipImageProcessorPil"),
    "idefics": (idefics, "IdeficsImageProcessorPil"),
    "idefics2": (idefics2, "Idefics2ImageProcessorPil"),
    "idefics3": (idefics3, "Idefics3ImageProcessorPil"),
}


@dataclass
class Checkpoint:
    """A whole model on disk, its frames, and a store with its tower's tokens of them: CLIPS in
    order."""

    case: str
    folder: Path
    frames: np.ndarray
    store: Store

    def whole(self) -> Any:
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32).eval()

    @staticmethod
    def keys(clips: list[int]) -> list[str]:
        return [CLIPS[clip] for clip in clips]

    def load(self, clips: int = 2) -> tuple[PublicLM, Features]:
        model, features, _ = load_public(str(self.folder), self.store, self.case, clips=clips)
        return model, features

    def inputs(self, text: str, clips: list[int]) -> dict[str, torch.Tensor]:
        """Return the inputs that the model's own processor makes from a prompt with {video} and the
        frames of clips."""
        import transformers
        from transformers import AutoTokenizer

        words = AutoTokenizer.from_pretrained(self.folder)
        images = [[Image.fromarray(frame) for frame in self.frames[clip]] for clip in clips]
        flat = [image for clip in images for image in clip]
        kind = getattr(transformers, MODELS[self.case][1])
        if self.case == "idefics":
            process = transformers.IdeficsProcessor(kind(image_size=SIZE), words)
            before, *behind = text.split("{video}")
            items: list[Any] = [before]
            for clip, part in zip(images, behind, strict=True):
                items += [*clip, part]
            return dict(process(text=[items], return_tensors="pt"))
        settings: dict[str, Any] = {"do_resize": False}
        if self.case == "llava":
            made = kind(**settings, do_center_crop=False)
            process = transformers.LlavaProcessor(
                made, words, PATCH, "default", num_additional_image_tokens=1
            )
        elif self.case == "blip2":
            process = transformers.Blip2Processor(kind(**settings), words, num_query_tokens=4)
        elif self.case == "idefics2":
            process = transformers.Idefics2Processor(
                kind(**settings, do_image_splitting=False), words, image_seq_len=4
            )
        else:
            settings |= {"do_image_splitting": False, "max_image_size": {"longest_edge": SIZE}}
            process = transformers.Idefics3Processor(kind(**settings), words, image_seq_len=4)
        if self.case == "blip2":
            return dict(process(images=flat, text=text, return_tensors="pt"))
        shown = text.replace("{video}", IMAGE * self.frames.shape[1])
        return dict(
            process(
                images=[flat] if "idefics" in self.case else flat, text=shown, return_tensors="pt"
            )
        )


def save(case: str, folder: Path) -> None:
    import transformers

    words = tokenizer(
        pieces=case in ("llava", "idefics", "idefics2"), bos="</s>" if case == "blip2" else "<s>"
    )
    words.chat_template = TEMPLATES.get(case)
    words.save_pretrained(folder)
    build, processor = MODELS[case]
    torch.manual_seed(0)
    model = build(len(words), words.convert_tokens_to_ids(IMAGE))
    # with the default scale outputs are nearly constant and gates are closed
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std={"blip2": 0.8, "idefics": 0.5}.get(case, 0.3))
    model.save_pretrained(folder)
    getattr(transformers, processor)().save_pretrained(folder)


def featurized(case: str, folder: Path, path: Path, frames: int) -> Checkpoint:
    encoder = load(case, str(folder), "cpu", frames=frames)
    seen = np.random.default_rng(0).integers(
        0, 256, (len(CLIPS), frames, SIZE, SIZE, 3), dtype=np.uint8
    )
    store = Store.open(path, create=True)
    with store.lock():
        store.catalog("clips").append(pl.DataFrame({"key": CLIPS}))
        made = encoder.provenance("clips", "float32")
        view = store.create_view(
            "clips", case, made, encoder.features("clips", "float32"), rows_per_shard=8
        )
        view.resize()
        view.write_shard(0, np.arange(len(CLIPS)), encoder.encode_clips(seen), {})
    return Checkpoint(case, folder, seen, store)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Checkpoint]:
    """Return a function that makes the checkpoint of a case with n frames per clip, once each."""
    folders: dict[str, Path] = {}
    made: dict[tuple[str, int], Checkpoint] = {}

    def get(case: str, frames: int = 1) -> Checkpoint:
        if case not in folders:
            folders[case] = tmp_path_factory.mktemp(case)
            save(case, folders[case])
        if (case, frames) not in made:
            path = tmp_path_factory.mktemp("store") / "features"
            made[case, frames] = featurized(case, folders[case], path, frames)
        return made[case, frames]

    return get


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Small]:
    """Return a function that makes the small model of a family and its store, once each."""
    made: dict[str, Small] = {}

    def get(case: str) -> Small:
        if case not in made:
            made[case] = with_tokens(
                case, tmp_path_factory.mktemp(case), tmp_path_factory.mktemp("store") / "features"
            )
        return made[case]

    return get
