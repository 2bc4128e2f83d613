"""Other encoders compared with reference outputs; plug-ins; refusals of names and weights."""

import hashlib
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

from featurize.encoders import NAMES, Encoder, encoder_class, load, proper_name
from featurize.video.picture import pixels_of
from stepdiff_core.errors import StepDiffError
from stepdiff_core.weights import fingerprint
from store import Store
from tests.conftest import fetched

from .conftest import Run, refusal

FOUR = {"frames": 4, "sampling": "segment-centres"}
REFUSED: list[tuple[str, str | None, dict[str, Any], str]] = [
    ("resnet", None, {}, "efficientnet-lite0, mpnet-base, internvideo"),
    ("efficientnet-lite0", None, {}, "stepdiff weights fetch efficientnet-lite0"),
    ("mpnet-base", "empty", {"layer": 3}, "no choice of layer"),
    ("mpnet-base", "empty", {"device": "warp"}, "'warp'"),
    (
        "efficientnet-lite0",
        "empty",
        FOUR,
        "encoder efficientnet-lite0 has no choice of frames: leave it out",
    ),
    (
        "mpnet-base",
        "empty",
        FOUR,
        "encoder mpnet-base has no choice of frames or sampling: leave it out",
    ),
    ("sentence", "sentence", FOUR, "no choice of frames or sampling"),
    (
        "llava",
        "empty",
        {"statistics": "add"},
        "encoder llava has no choice of statistics: leave it out",
    ),
    ("hf", "empty", {"frames": 0}, "0 frames of a clip are too few"),
    *(
        (name, "empty", {}, "empty holds no config.json")
        for name in ("efficientnet-lite0", "mpnet-base")
    ),
    *((name, "broken", {}, "is no JSON") for name in ("efficientnet-lite0", "mpnet-base")),
    *((name, "llama", {}, "'llama'") for name in ("efficientnet-lite0", "mpnet-base")),
    ("sentence", "clip", {}, "is no sentence-transformers folder"),
    ("sentence", "system", {}, "cannot be loaded"),
]
"""encoder, its weights, options, and why they are refused"""


def test_unusable_names_weights_and_options_are_refused_in_one_line(
    tmp_path: Path, checkpoint: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPDIFF_CACHE", str(tmp_path))
    configs = {"broken": "{", "llama": '{"model_type": "llama", "architecture": "llama"}'}
    for name in ("empty", "system", *configs):
        (tmp_path / name).mkdir()
    for name, text in configs.items():
        (tmp_path / name / "config.json").write_text(text)
    module = {"idx": 0, "name": "0", "path": "", "type": "os.system"}
    (tmp_path / "system" / "modules.json").write_text(json.dumps([module]))
    folders = {"clip": tiny_clip, "sentence": checkpoint}
    for name, weights, options, why in REFUSED:
        assert why in refusal(name, weights and folders.get(weights, tmp_path / weights), **options)


@pytest.mark.parametrize("name", NAMES)
def test_every_encoder_loads_and_documents_its_weights(name: str, tmp_path: Path) -> None:
    """Each name of the table has a module that imports and a message for missing weights or an
    empty folder."""
    line = refusal(name, tmp_path)
    assert str(tmp_path) in line and line.count(": give ") == 1
    if name not in ("efficientnet-lite0", "mpnet-base"):
        assert f"encoder {proper_name(name)} needs weights: " in (message := refusal(name))
        assert (
            "the published .ckpt" if name.startswith("internvideo") else "hub id such as"
        ) in message


@pytest.fixture(scope="module")
def efficientnet() -> Encoder:
    fetched("efficientnet-lite0")
    return load("efficientnet-lite0", device="cpu")


@pytest.fixture(scope="module")
def mpnet() -> Encoder:
    fetched("mpnet-base")
    return load("mpnet-base", device="cpu")


@pytest.fixture(scope="module")
def package() -> torch.nn.Module:
    """The model of the published package with the same weights, without folded layers."""
    from efficientnet_lite_pytorch import EfficientNet
    from safetensors.torch import load_file

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(load_file(fetched("efficientnet-lite0") / "model.safetensors"))
    return model.eval()


def as_trained(frames: np.ndarray) -> torch.Tensor:
    return (torch.from_numpy(frames).flatten(0, 1).permute(0, 3, 1, 2).float() - 127) / 128


def test_tokens_equal_the_package(efficientnet: Encoder, package: torch.nn.Module) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 224, 224, 3), dtype=np.uint8)
    frames[0] = np.linspace(0, 255, 224).astype(np.uint8)[:, None, None]  # a smooth picture
    got = efficientnet.encode_clips(frames)
    with torch.inference_mode():
        maps = package.extract_features(as_trained(frames))
    assert maps.shape == (24, 1280, 7, 7)
    assert maps.std() > 0.1
    frame, row, column = 5, 6, 2  # frame-major, then row by row: token 5 * 49 + 6 * 7 + 2
    token = got["tokens"][1, frame * 49 + row * 7 + column]
    np.testing.assert_allclose(token, maps[8 + frame, :, row, column], rtol=0, atol=1e-3)
    expected = maps.permute(0, 2, 3, 1).reshape(3, 392, 1280).numpy()
    np.testing.assert_allclose(got["tokens"], expected, rtol=0, atol=1e-4 * expected.max())
    np.testing.assert_allclose(got["embedding"], expected.mean(1), rtol=0, atol=1e-4)


def test_statistics_equal_those_of_hooks(efficientnet: Encoder, package: torch.nn.Module) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 224, 224, 3), dtype=np.uint8)
    # frames that differ in shade
    frames[0] //= np.arange(1, 9, dtype=np.uint8)[:, None, None, None]
    frames[1, 1:] = frames[1, 0]
    with_them, alone = (
        load("efficientnet-lite0", None, "cpu", statistics=how) for how in ("add", "only")
    )
    got, maps = with_them.encode_clips(frames), list[torch.Tensor]()
    early = [package._blocks[place] for place in (2, 4, 7, 10)]
    hooks = [block.register_forward_hook(lambda *seen: maps.append(seen[2])) for block in early]
    with torch.inference_mode():
        package.extract_features(as_trained(frames))
    for hook in hooks:
        hook.remove()
    # [B, T * H * W, C]
    places = [each.unflatten(0, (2, 8)).movedim(2, -1).flatten(1, 3).numpy() for each in maps]
    for row, naive in enumerate((np.mean, np.max, np.min, np.std)):
        expected = np.concatenate([naive(each, axis=1) for each in places], axis=1)
        np.testing.assert_allclose(
            got["statistics"][:, row], expected, rtol=0, atol=2e-4 * np.abs(expected).max()
        )
    assert {name: values.shape[1:] for name, values in got.items()} == {
        name: feature.shape for name, feature in with_them.features("clips").items()
    }
    for name, values in efficientnet.encode_clips(frames).items():
        assert got[name].tobytes() == values.tobytes(), "other features keep their bits"
    (only,) = alone.encode_clips(frames).values()
    assert only.tobytes() == got["statistics"].tobytes() and list(alone.features("clips")) == [
        "statistics"
    ]
    maps_of = (
        "block 2 (24 channels), block 4 (40 channels), block 7 (80 channels), block 10 (112 "
        "channels)"
    )
    assert alone.provenance("clips").layer == f"mean, maximum, minimum and deviation of {maps_of}"
    assert (
        with_them.provenance("clips").layer
        == f"{efficientnet.layer}; {alone.provenance('clips').layer}"
    )


def test_sentences_of_similar_meaning_are_closer(mpnet: Encoder) -> None:
    texts = ["flip the pancake", "turn the crepe over", "clean the pool"]
    embedding = mpnet.encode_texts(texts)["embedding"]
    assert embedding.shape[1:] == mpnet.features("texts")["embedding"].shape == (768,)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
    cosine = embedding @ embedding.T
    assert cosine[0, 1] > cosine[0, 2] + 0.2


def test_a_frame_has_the_same_bits_in_any_batch() -> None:
    fetched("efficientnet-lite0")
    efficientnet = load("efficientnet-lite0", None, "cpu", statistics="add")
    frames = np.random.default_rng(1).integers(0, 256, (4, 8, 224, 224, 3), dtype=np.uint8)
    frames[1] = frames[1, 0]
    together = efficientnet.encode_clips(frames)
    for places in ([1], [3, 1], [0, 2, 3]):
        few = np.zeros_like(frames)  # other clips are padded, as featurize.shard does
        few[places] = frames[places]
        alone = efficientnet.encode_clips(few)
        for name, values in together.items():
            assert alone[name][places].tobytes() == values[places].tobytes()


TEXTS = ["flip the pancake", "a", "clean the pool " * 20, "pour the batter slowly"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights with mean pooling, in the published format of such models."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("sentence")
    letters = [chr(code) for code in range(97, 123)]
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{letter}" for letter in letters),
    ]
    BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}).save_pretrained(folder)
    small = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(pieces), max_position_embeddings=64, **small))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    # words weigh more than positions
    torch.nn.init.normal_(model.embeddings.word_embeddings.weight, std=3)
    model.save_pretrained(folder)
    modules(folder, Transformer="", Pooling="1_Pooling")
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 32, "do_lower_case": False})
    )
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def modules(folder: Path, **places: str) -> None:
    """Return the file that lists the modules of a model and their folders."""
    steps = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(places.items())
    ]
    (folder / "modules.json").write_text(json.dumps(steps))


@pytest.fixture(scope="module")
def sentence_encoder(checkpoint: Path) -> Encoder:
    return load("sentence", str(checkpoint), "cpu")


def test_embeddings_equal_sentence_transformers(
    checkpoint: Path, sentence_encoder: Encoder
) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(checkpoint), device="cpu")
    got = sentence_encoder.encode_texts(TEXTS)["embedding"]
    for text, row in zip(TEXTS, got, strict=True):  # one by one, without padding
        expected = model.encode(text)
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), rtol=0, atol=1e-5)
    assert np.abs(got[0] - got[3]).max() > 0.01
    assert sentence_encoder.features("texts")["embedding"].shape == got.shape[1:] == (24,)
    assert sentence_encoder.encode_texts(TEXTS)["embedding"].tobytes() == got.tobytes()


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
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    vision = choices.pop("vision", None) or CLIPVisionConfig(**VISION)
    config = LlavaConfig(
        vision_config=vision, text_config=LlamaConfig(**LANGUAGE), image_token_index=39, **choices
    )
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
    former = Blip2QFormerConfig(
        **small, vocab_size=40, intermediate_size=32, encoder_hidden_size=WIDTH
    )
    language = OPTConfig(
        **small, vocab_size=40, ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=64
    )
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
    perceiver = {
        "resampler_n_latents": 4,
        "resampler_depth": 1,
        "resampler_n_heads": 2,
        "resampler_head_dim": 8,
    }
    language = {k: v for k, v in LANGUAGE.items() if k != "num_key_value_heads"}
    return IdeficsForVisionText2Text(
        IdeficsConfig(
            **language, vision_config=vision, perceiver_config=perceiver, use_resampler=True
        )
    )


def idefics2() -> Any:
    from transformers import Idefics2Config, Idefics2ForConditionalGeneration, MistralConfig

    perceiver = {
        "resampler_n_latents": 4,
        "resampler_depth": 1,
        "resampler_n_heads": 2,
        "resampler_head_dim": 8,
    }
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
        text_config=LlamaConfig(**LANGUAGE),
        vision_config=VISION,
        image_token_id=39,
        scale_factor=2,
        pad_token_id=0,
    )
    return Idefics3ForConditionalGeneration(config)


# encoder, whole model, its projector, its image processor, tokens and channels per frame, recorded
# layer and filter
MODELS: dict[str, tuple[str, Callable[[], Any], str, str, tuple[int, int], str, str]] = {
    "llava": (
        "llava", llava, "model.multi_modal_projector", "CLIPImageProcessorPil", (PATCHES, WIDTH),
        "hidden state 2 of 3, the first token left out", "bicubic",
    ),
    "llava-layers": (
        "llava", lambda: llava(vision_feature_layer=[-2, 1], vision_feature_select_strategy="full"),
        "model.multi_modal_projector", "CLIPImageProcessorPil", (PATCHES + 1, 2 * WIDTH),
        "hidden state 2, 1 of 3, all tokens", "bicubic",
    ),
    "llava-siglip": (
        "llava", llava_siglip, "model.multi_modal_projector",
        "SiglipImageProcessorPil", (PATCHES, WIDTH),
        "hidden state 3 of 3, all tokens", "bicubic",
    ),
    "blip2": (
        "blip2", blip2, "qformer", "BlipImageProcessorPil", (PATCHES + 1, WIDTH),
        "last hidden state, final norm, class token first", "bicubic",
    ),
    "idefics": (
        "idefics", idefics, "model.perceiver_resampler",
        "IdeficsImageProcessorPil", (PATCHES + 1, WIDTH),
        "last hidden state, class token first", "bicubic",
    ),
    "idefics2": (
        "idefics2", idefics2, "model.connector", "Idefics2ImageProcessorPil", (PATCHES, WIDTH),
        "last hidden state, final norm", "bilinear",
    ),
    "idefics3": (
        "idefics3", idefics3, "model.connector", "Idefics3ImageProcessorPil", (PATCHES, WIDTH),
        "last hidden state, final norm", "lanczos",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole models of random weights with their image processors, in the format of transformers."""
    import transformers

    made = {}
    for case, (_, build, _, processor, *_) in MODELS.items():
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
    frames = [
        pixels_of(av.VideoFrame.from_ndarray(picture, format="rgb24"), encoder.picture)
        for picture in pictures
    ]
    return np.stack(frames).reshape(-1, encoder.frames, SIZE, SIZE, 3)


def given_to_projector(case: str, folder: Path, pictures: np.ndarray) -> torch.Tensor:
    """Return the tokens [F, N, D] that the whole model passes to its projector, after its own image
    processor."""
    import transformers

    _, _, place, processor, *_ = MODELS[case]
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    process = getattr(transformers, processor).from_pretrained(folder)
    # a square, no crop, no tiles, no padding
    steps: dict[str, Any] = {"size": {"height": SIZE, "width": SIZE}}
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


@pytest.mark.full
@pytest.mark.parametrize("case", MODELS)
def test_tokens_equal_the_input_of_the_projector(
    case: str, folders: dict[str, Path], pictures: np.ndarray
) -> None:
    name, _, _, _, shape, layer, filter_ = MODELS[case]
    encoder = load(name, str(folders[case]), "cpu")
    expected = given_to_projector(case, folders[case], pictures).numpy()
    assert expected.shape == (6, *shape) and expected.std() > 0.1
    frames = frames_of(encoder, pictures)
    got, again = encoder.encode_clips(frames), encoder.encode_clips(frames)
    np.testing.assert_allclose(got["tokens"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert got["tokens"].tobytes() == again["tokens"].tobytes()
    assert {k: f.shape for k, f in encoder.features("clips").items()} == {"tokens": shape}
    provenance = encoder.provenance("clips")
    assert (provenance.encoder, provenance.layer) == (name, layer)
    assert provenance.crop == f"square resize to {SIZE}, {filter_}, no tiling, no padding"
    assert (
        provenance.frames
        == "1 at the centres of equal segments of the n frames, start <= time < end"
    )
    more = load(name, str(folders[case]), "cpu", frames=3)
    assert more.features("clips")["tokens"].shape == (3 * shape[0], shape[1])
    tokens = more.encode_clips(frames_of(more, pictures))["tokens"]
    np.testing.assert_allclose(
        tokens, expected.reshape(2, -1, shape[1]), rtol=0, atol=1e-5 * np.abs(expected).max()
    )


@pytest.mark.full
@pytest.mark.parametrize("case", MODELS)
def test_the_language_model_is_not_read(
    case: str, folders: dict[str, Path], tmp_path: Path, pictures: np.ndarray
) -> None:
    """The folder has two files, of which the one without the tower is missing; tensor names are the
    published ones."""
    from safetensors.torch import load_file, save_file

    whole = load(MODELS[case][0], str(folders[case]), "cpu")
    shutil.copytree(folders[case], tmp_path, dirs_exist_ok=True)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    old = {
        re.sub(r"^model\.(vision_tower\.)(?!vision_model)", r"\1vision_model.", key): v
        for key, v in state.items()
    }
    tower = {
        key: value.half()
        for key, value in old.items()
        if re.match(r"(model\.)?vision_(tower|model)\.", key)
    }
    assert 0 < len(tower) < len(old)
    tower["vision_model.embeddings.position_ids"] = torch.arange(PATCHES)
    save_file(tower, tmp_path / "model-00001-of-00002.safetensors")
    places = {
        key: f"model-0000{1 if key in tower else 2}-of-00002.safetensors"
        for key in {**old, **tower}
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    encoder = load(MODELS[case][0], str(tmp_path), "cpu")
    frames = frames_of(encoder, pictures)
    got, expected = encoder.encode_clips(frames)["tokens"], whole.encode_clips(frames)["tokens"]
    # half precision files
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.02 * np.abs(expected).max())


@pytest.mark.full
@pytest.mark.parametrize("name", ["llava", "blip2", "idefics", "idefics2", "idefics3"])
def test_another_model_is_refused_in_one_line(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    other = "idefics3" if name != "idefics3" else "idefics2"
    assert f"has model_type {other!r}" in refusal(name, folders[other])
    assert "holds no config.json" in refusal(name, tmp_path)
    shutil.copytree(folders[name], tmp_path, dirs_exist_ok=True)
    different = "blip2" if name != "blip2" else "llava"
    shutil.copy(folders[different] / "model.safetensors", tmp_path)
    line = refusal(name, tmp_path)
    assert "is unknown or of another shape" in line or "of the tensors, first" in line


Writer = Callable[..., Path]
MODULE = '''
import numpy as np
import torch
from transformers import DINOv3ViTModel

from featurize.encoders import Encoder, load_model
from store import Feature

# of a pixel in [0, 1]
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class DINOv3(Encoder):
    """Patch tokens of every frame, and the mean of the frames' class tokens."""

    name, entities, choices = "dinov3", ("clips",), ("frames",)
    layer = "last hidden state, final norm, patch tokens"

    def __init__(self, weights, device, frames=8):
        super().__init__(weights)
        self.model = load_model(DINOv3ViTModel, weights, device, "a DINOv3 folder, or a hub id")
        self.frames, self.size = frames, self.model.config.image_size
        self.short_side = self.size

    def features(self, entity, dtype="float16"):
        self.check_entity(entity)
        config = self.model.config
        shape = self.frames * (self.size // config.patch_size) ** 2, config.hidden_size
        return {"tokens": Feature(shape, dtype), "embedding": Feature(shape[1:], "float32")}

    @torch.inference_mode()
    def encode_clips(self, frames):  # uint8 [B, T, size, size, 3]
        self.check_frames(frames)
        pixels = (torch.from_numpy(frames) / 255 - MEAN) / STD
        pixels = pixels.flatten(0, 1).movedim(-1, 1)  # [B*T, 3, size, size]
        states = self.model(pixels.to(self.model.device)).last_hidden_state
        states = states.unflatten(0, frames.shape[:2])
        tokens = states[:, :, 1 + self.model.config.num_register_tokens :].flatten(1, 2)
        return {"tokens": tokens.cpu().numpy(), "embedding": states[:, :, 0].mean(1).cpu().numpy()}
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module and, in `weights`, a small DINOv3 of random weights."""
    import torch
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    folder = tmp_path_factory.mktemp("plugin")
    (folder / "mymodule.py").write_text(MODULE)
    small = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    torch.manual_seed(0)
    DINOv3ViTModel(DINOv3ViTConfig(image_size=32, patch_size=8, **small)).save_pretrained(
        folder / "weights"
    )
    return folder


def test_an_unusable_encoder_is_refused_in_one_line(
    plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        StepDiffError, match=r"no_such_module:A cannot be imported .*PYTHONPATH.*--working-dir"
    ):
        encoder_class("no_such_module:A")
    with pytest.raises(StepDiffError, match=r"no encoder named 'dino': .*package\.module:Class"):
        load("dino")
    monkeypatch.syspath_prepend(plugin)
    for name in ("mymodule:np", "mymodule:Nothing", "mymodule:MEAN"):
        with pytest.raises(
            StepDiffError, match=f"{name} is not a subclass of featurize.encoders.Encoder"
        ):
            encoder_class(name)


BY_HAND = """
from featurize.encoders import Encoder
from store import Feature


class Colour(Encoder):
    name, entities, layer, size, short_side = "colour", ("clips",), "mean colour", 32, 32
    version = VERSION

    def __init__(self, weights, device):
        super().__init__(weights)

    def features(self, entity, dtype="float16"):
        return {"embedding": Feature((3,), "float32")}

    def encode_clips(self, frames):
        return {"embedding": frames.mean((1, 2, 3)).astype("float32") + 1}
"""


@pytest.fixture
def importable(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of the plugin and of the test's folder can be imported, which workers need as
    well."""
    monkeypatch.syspath_prepend(plugin)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.full
def test_an_encoder_of_another_package_featurizes(
    plugin: Path, importable: None, video: Writer, tmp_path: Path, featurize: Run
) -> None:
    arguments = [video("plugin.mp4"), "--store", tmp_path / "store", "--encoder", "mymodule:DINOv3"]
    arguments += ["--weights", plugin / "weights", "--workers", "1"]
    status, summary, message = featurize(*arguments)
    assert (status, summary["done"]) == (0, 1), message
    view = Store.open(tmp_path / "store").view("clips", "dinov3")
    assert (view.provenance.encoder, view.provenance.weights) == (
        "dinov3",
        fingerprint(plugin / "weights"),
    )
    assert {name: feature.shape for name, feature in view.features.items()} == {
        "tokens": (128, 24),
        "embedding": (24,),
    }
    assert np.isfinite(view.read("tokens", np.array([0]))).all()
    assert featurize(*arguments)[2].startswith("nothing to do: 1 clips in view dinov3")


@pytest.mark.full
def test_an_encoder_without_weights_has_a_version(
    importable: None, video: Writer, tmp_path: Path, featurize: Run
) -> None:
    """Two versions never share a view, and a finished view is recognised."""
    clip, store = video("by_hand.mp4"), tmp_path / "store"
    for module, version in (("none", "None"), ("number", "2"), ("one", "'1'"), ("two", "'2'")):
        (tmp_path / f"by_hand_{module}.py").write_text(BY_HAND.replace("VERSION", version))

    def run(module: str, *more: str) -> tuple[int, str]:
        status, _, message = featurize(
            clip, "--store", store, "--encoder", f"by_hand_{module}:Colour", *more
        )
        return status, message

    needs = (
        "needs weights: weights of that encoder; an encoder that computes without weights declares "
        "a `version`"
    )
    for module, more, why in (
        ("none", (), needs),
        ("number", (), "has the version 2: give it a text, such as version = '1'"),
        ("one", ("--weights", "any"), "has no weights: leave --weights any out"),
    ):
        assert (
            run(module, *more) == (2, f"error: encoder by_hand_{module}:Colour {why}\n")
            and not store.exists()
        )
    status, message = run("one")
    assert status == 0, message
    view = Store.open(store).view("clips", "colour")
    assert view.provenance.weights == hashlib.sha256(b"no weights, version 1\n").hexdigest()
    assert view.read("embedding", np.array([0])).all()
    assert run("one")[1].startswith("nothing to do: 1 clips in view colour")
    status, message = run("two")
    assert status == 2 and "weights" in message.splitlines()[-1], (
        "a view of another version is refused"
    )


def test_an_entry_point_registers_an_encoder(
    plugin: Path, importable: None, tmp_path: Path
) -> None:
    installed = tmp_path / "mine-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        "[stepdiff.encoders]\ndino-small = mymodule:DINOv3\n"
    )
    assert proper_name("dino-small") == "dinov3"
    assert load("dino-small", str(plugin / "weights"), "cpu").features("clips")["tokens"].shape == (
        128,
        24,
    )
    with pytest.raises(StepDiffError, match="dino-small; your own is named"):
        encoder_class("dino-large")
