"""Image towers of language models compared with the input of the whole model's projector."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import StepDiffError
from featurize.encoders import Encoder, load
from featurize.video.picture import square

SIZE, PATCH, WIDTH = 32, 8, 24
PATCHES = (SIZE // PATCH) ** 2
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": PATCH,
}
LANGUAGE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def llava(**choices: Any) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = choices.pop("vision", None) or CLIPVisionConfig(**VISION)
    config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(**LANGUAGE), image_token_index=39, **choices)
    return LlavaForConditionalGeneration(config)


def llava_siglip() -> Any:
    from transformers import SiglipVisionConfig

    vision = SiglipVisionConfig(**VISION, vision_use_head=False)
    return llava(vision=vision, vision_feature_layer=-1, vision_feature_select_strategy="full")


def blip2() -> Any:
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        OPTConfig,
    )

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    former = Blip2QFormerConfig(**small, vocab_size=40, intermediate_size=32, encoder_hidden_size=WIDTH)
    language = OPTConfig(**small, vocab_size=40, ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=64)
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION),
        qformer_config=former,
        text_config=language,
        num_query_tokens=4,
        image_token_index=39,
    )
    return Blip2ForConditionalGeneration(config)


def idefics() -> Any:
    from transformers import IdeficsConfig, IdeficsForVisionText2Text

    vision = {**{k: v for k, v in VISION.items() if k != "hidden_size"}, "embed_dim": WIDTH}
    perceiver = {"resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 8}
    language = {k: v for k, v in LANGUAGE.items() if k != "num_key_value_heads"}
    return IdeficsForVisionText2Text(
        IdeficsConfig(**language, vision_config=vision, perceiver_config=perceiver, use_resampler=True)
    )


def idefics2() -> Any:
    from transformers import Idefics2Config, Idefics2ForConditionalGeneration, MistralConfig

    perceiver = {"resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 8}
    config = Idefics2Config(
        text_config=MistralConfig(**LANGUAGE),
        vision_config=VISION,
        perceiver_config={**perceiver, "num_key_value_heads": 2, "hidden_size": 16},
        image_token_id=39,
    )
    return Idefics2ForConditionalGeneration(config)


def idefics3() -> Any:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, LlamaConfig

    config = Idefics3Config(
        text_config=LlamaConfig(**LANGUAGE), vision_config=VISION, image_token_id=39, scale_factor=2, pad_token_id=0
    )
    return Idefics3ForConditionalGeneration(config)


# encoder name, whole model, its projector, its image processor, tokens and channels per frame
MODELS: dict[str, tuple[str, Callable[[], Any], str, str, tuple[int, int]]] = {
    "llava": ("llava", llava, "model.multi_modal_projector", "CLIPImageProcessorPil", (PATCHES, WIDTH)),
    "llava-layers": (
        "llava",
        lambda: llava(vision_feature_layer=[-2, 1], vision_feature_select_strategy="full"),
        "model.multi_modal_projector",
        "CLIPImageProcessorPil",
        (PATCHES + 1, 2 * WIDTH),
    ),
    "llava-siglip": ("llava", llava_siglip, "model.multi_modal_projector", "SiglipImageProcessorPil", (PATCHES, WIDTH)),
    "blip2": ("blip2", blip2, "qformer", "BlipImageProcessorPil", (PATCHES + 1, WIDTH)),
    "idefics": ("idefics", idefics, "model.perceiver_resampler", "IdeficsImageProcessorPil", (PATCHES + 1, WIDTH)),
    "idefics2": ("idefics2", idefics2, "model.connector", "Idefics2ImageProcessorPil", (PATCHES, WIDTH)),
    "idefics3": ("idefics3", idefics3, "model.connector", "Idefics3ImageProcessorPil", (PATCHES, WIDTH)),
}
FILTERS = {"idefics2": "bilinear", "idefics3": "lanczos"}  # default of these processors; the others use bicubic


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole models of random weights with their image processors, in the format of transformers."""
    import transformers

    made = {}
    for case, (_, build, _, processor, _) in MODELS.items():
        made[case] = tmp_path_factory.mktemp(case)
        torch.manual_seed(0)
        model = build()
        for parameter in model.parameters():  # with the default scale outputs are nearly constant
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(made[case])
        getattr(transformers, processor)().save_pretrained(made[case])
    return made


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Return decoded frames, wider than high."""
    return np.random.default_rng(0).integers(0, 256, (6, 45, 61, 3), dtype=np.uint8)


def frames_of(encoder: Encoder, pictures: np.ndarray) -> np.ndarray:
    """Return frames as from the decoder, as many per clip as the encoder reads."""
    frames = [square(av.VideoFrame.from_ndarray(picture, format="rgb24"), encoder.picture) for picture in pictures]
    return np.stack(frames).reshape(-1, encoder.frames, SIZE, SIZE, 3)


def given_to_projector(case: str, folder: Path, pictures: np.ndarray) -> torch.Tensor:
    """Return the tokens [F, N, D] that the whole model passes to its projector, after its own image processor."""
    import transformers

    _, _, place, processor, _ = MODELS[case]
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    process = getattr(transformers, processor).from_pretrained(folder)
    steps: dict[str, Any] = {"size": {"height": SIZE, "width": SIZE}}  # a square, no crop, no tiles, no padding
    images: list[Any] = [Image.fromarray(picture) for picture in pictures]
    if "CLIP" in processor:
        steps["do_center_crop"] = False
    if case == "idefics3":  # without tiling a picture becomes a square of one tile
        steps = {"do_resize": False, "max_image_size": {"longest_edge": SIZE}}
    if case in ("idefics2", "idefics3"):
        images = [[image] for image in images]
        steps["do_image_splitting"] = False
    made = process(images, return_tensors="pt", **steps)
    pixels = made if isinstance(made, torch.Tensor) else made.pixel_values
    caught: list[torch.Tensor] = []

    def catch(_: torch.nn.Module, positional: tuple, named: dict) -> None:
        if "encoder_hidden_states" in named:
            caught.append(named["encoder_hidden_states"])
        else:
            caught.append(positional[0] if positional else named["image_hidden_states"])

    model.get_submodule(place).register_forward_pre_hook(catch, with_kwargs=True)
    with torch.inference_mode():
        if case == "idefics":
            ids = torch.ones(len(pictures), 2, dtype=torch.long)
            seen = torch.ones(len(pictures), 2, 1, dtype=torch.long)
            model(input_ids=ids, pixel_values=pixels[:, None], image_attention_mask=seen)
        else:
            (model if case == "blip2" else model.model).get_image_features(pixel_values=pixels)
    return caught[0]


@pytest.mark.parametrize("case", MODELS)
def test_tokens_equal_the_input_of_the_projector(case: str, folders: dict[str, Path], pictures: np.ndarray) -> None:
    name, _, _, _, shape = MODELS[case]
    encoder = load(name, str(folders[case]), "cpu")
    expected = given_to_projector(case, folders[case], pictures).numpy()
    assert expected.shape == (6, *shape) and expected.std() > 0.1
    frames = frames_of(encoder, pictures)
    got, again = encoder.encode_clips(frames), encoder.encode_clips(frames)
    np.testing.assert_allclose(got["tokens"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert got["tokens"].tobytes() == again["tokens"].tobytes()
    assert {k: f.shape for k, f in encoder.features("clips").items()} == {"tokens": shape}
    more = load(name, str(folders[case]), "cpu", frames=3)
    assert more.features("clips")["tokens"].shape == (3 * shape[0], shape[1])
    tokens = more.encode_clips(frames_of(more, pictures))["tokens"]
    np.testing.assert_allclose(tokens, expected.reshape(2, -1, shape[1]), rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("case", MODELS)
def test_provenance_records_size_crop_and_layer(case: str, folders: dict[str, Path]) -> None:
    provenance = load(MODELS[case][0], str(folders[case]), "cpu").provenance("clips")
    assert provenance.crop == f"square resize to {SIZE}, {FILTERS.get(case, 'bicubic')}, no tiling, no padding"
    assert provenance.frames == "1 at the centres of equal segments of the n frames, start <= time < end"
    layers = {
        "llava": "hidden state 2 of 3, the first token left out",
        "llava-layers": "hidden state 2, 1 of 3, all tokens",
        "llava-siglip": "hidden state 3 of 3, all tokens",
        "blip2": "last hidden state, final norm, class token first",
        "idefics": "last hidden state, class token first",
        "idefics2": "last hidden state, final norm",
        "idefics3": "last hidden state, final norm",
    }
    assert provenance.layer == layers[case] and provenance.encoder == MODELS[case][0]


@pytest.mark.parametrize("case", MODELS)
def test_the_language_model_is_not_read(
    case: str, folders: dict[str, Path], tmp_path: Path, pictures: np.ndarray
) -> None:
    """The folder has two files, of which the one without the tower is missing; tensor names are the published ones."""
    from safetensors.torch import load_file, save_file

    whole = load(MODELS[case][0], str(folders[case]), "cpu")
    shutil.copytree(folders[case], tmp_path, dirs_exist_ok=True)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    old = {re.sub(r"^model\.(vision_tower\.)(?!vision_model)", r"\1vision_model.", key): v for key, v in state.items()}
    tower = {key: value.half() for key, value in old.items() if re.match(r"(model\.)?vision_(tower|model)\.", key)}
    assert 0 < len(tower) < len(old)
    tower["vision_model.embeddings.position_ids"] = torch.arange(PATCHES)
    save_file(tower, tmp_path / "model-00001-of-00002.safetensors")
    places = {key: f"model-0000{1 if key in tower else 2}-of-00002.safetensors" for key in {**old, **tower}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    encoder = load(MODELS[case][0], str(tmp_path), "cpu")
    frames = frames_of(encoder, pictures)
    got, expected = encoder.encode_clips(frames)["tokens"], whole.encode_clips(frames)["tokens"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.02 * np.abs(expected).max())  # half precision files


def refusal(name: str, folder: Path) -> str:
    with pytest.raises(StepDiffError) as caught:
        load(name, str(folder), "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["llava", "blip2", "idefics", "idefics2", "idefics3"])
def test_another_model_is_refused_in_one_line(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    other = "idefics3" if name != "idefics3" else "idefics2"
    assert f"has model_type {other!r}" in refusal(name, folders[other])
    assert "holds no config.json" in refusal(name, tmp_path)
    shutil.copytree(folders[name], tmp_path, dirs_exist_ok=True)
    different = "blip2" if name != "blip2" else "llava"
    shutil.copy(folders[different] / "model.safetensors", tmp_path)
    line = refusal(name, tmp_path)
    assert "is unknown or of another shape" in line or "tensors of the image tower, first" in line


def test_an_incomplete_tower_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folders["idefics2"], tmp_path, dirs_exist_ok=True)
    state = load_file(folders["idefics2"] / "model.safetensors")
    lost = next(key for key in state if key.endswith("post_layernorm.bias"))
    save_file({key: value for key, value in state.items() if key != lost}, tmp_path / "model.safetensors")
    assert "lacks 1 tensors of the image tower, first post_layernorm.bias" in refusal("idefics2", tmp_path)
    save_file({**state, lost: torch.zeros(3)}, tmp_path / "model.safetensors")
    assert f"{lost} is unknown or of another shape" in refusal("idefics2", tmp_path)
    whole = (folders["idefics2"] / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refusal("idefics2", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "cannot be read" in refusal("idefics2", tmp_path)


def test_a_tower_of_another_kind_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["llava"], tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"] = {"model_type": "pixtral", "image_size": SIZE}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "is pixtral, not clip_vision_model or siglip_vision_model" in refusal("llava", tmp_path)
