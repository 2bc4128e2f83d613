"""The CLIP encoder compared with transformers, on a tiny random checkpoint."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import StepDiffError
from featurize.encoders import Encoder, load
from featurize.encoders.image_text import Clip
from featurize.video.picture import Crop, square

SIZE, SHORT_SIDE, PATCH, WIDTH, BLOCKS, PROJECTION = 32, 40, 8, 24, 3, 12
PATCHES = (SIZE // PATCH) ** 2
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TEXTS = ["flip the pancake", "a", "clean the pool with a long brush, then rinse it twice " * 8]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of transformers: random weights, byte vocabulary, real preprocessing."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder = tmp_path_factory.mktemp("clip")
    letters = list(bytes_to_unicode().values())
    pieces = letters + [f"{letter}</w>" for letter in letters]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    vocabulary |= {"<|startoftext|>": len(pieces), "<|endoftext|>": len(pieces) + 1}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    config = CLIPConfig(
        text_config={
            "vocab_size": len(vocabulary),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 20,
            "bos_token_id": len(pieces),
            "eos_token_id": len(pieces) + 1,
        },
        vision_config={
            "hidden_size": WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": BLOCKS,
            "num_attention_heads": 2,
            "image_size": SIZE,
            "patch_size": PATCH,
        },
        projection_dim=PROJECTION,
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    for parameter in model.parameters():  # with the default scale outputs are nearly constant
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": SHORT_SIDE}, crop_size={"height": SIZE, "width": SIZE}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> Encoder:
    return load("clip", str(checkpoint), "cpu")


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 8, SIZE, SIZE, 3), dtype=np.uint8)


def reference(checkpoint: Path, frames: np.ndarray, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Return patch tokens and unit frame embeddings of transformers' forward pass, and text embeddings."""
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(checkpoint).eval()
    pixels = torch.from_numpy(frames).flatten(0, 1).permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.inference_mode():
        output = model(
            input_ids=torch.tensor([[model.config.text_config.eos_token_id]]),
            pixel_values=pixels,
            output_hidden_states=True,
        )
    tokens = output.vision_model_output.hidden_states[layer][:, 1:]
    return tokens.numpy(), output.image_embeds.numpy()


@pytest.mark.parametrize("layer", [None, -1, 0, 1])
def test_features_equal_transformers(checkpoint: Path, frames: np.ndarray, layer: int | None) -> None:
    got = load("clip", str(checkpoint), "cpu", layer).encode_clips(frames)
    tokens, embedded = reference(checkpoint, frames, -2 if layer is None else layer)
    tokens = tokens.reshape(5, 8 * PATCHES, WIDTH)  # frame-major
    embedded = embedded.reshape(5, 8, PROJECTION)
    assert tokens.std() > 0.1
    np.testing.assert_allclose(got["tokens"], tokens, rtol=0, atol=1e-5 * np.abs(tokens).max())
    np.testing.assert_allclose(got["frame_embedding"], embedded, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got["embedding"], embedded.mean(1), rtol=0, atol=1e-5)


def test_text_features_equal_transformers(checkpoint: Path, encoder: Encoder) -> None:
    from transformers import AutoTokenizer, CLIPModel

    got = encoder.encode_texts(TEXTS)["embedding"]
    model, tokenizer = CLIPModel.from_pretrained(checkpoint).eval(), AutoTokenizer.from_pretrained(checkpoint)
    for text, row in zip(TEXTS, got, strict=True):  # one by one, without padding
        ids = tokenizer(text, truncation=True, max_length=20, return_tensors="pt").input_ids
        assert ids.shape[1] <= 20
        with torch.inference_mode():
            output = model(input_ids=ids, pixel_values=torch.zeros(1, 3, SIZE, SIZE))
        np.testing.assert_allclose(row, output.text_embeds[0].numpy(), rtol=0, atol=1e-5)
    assert got[0] @ got[1] < 0.99


@pytest.mark.parametrize("height, width", [(45, 97), (240, 426), (33, 32), (61, 61)])
def test_pixels_equal_the_image_processor(checkpoint: Path, encoder: Encoder, height: int, width: int) -> None:
    """The decoder's crop and the encoder's normalisation equal the checkpoint's processor."""
    from transformers import CLIPImageProcessorPil

    picture = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    cropped = square(frame, Crop(encoder.short_side, encoder.size))
    assert isinstance(encoder, Clip)
    got = encoder.pixel_values(torch.tensor(cropped)[None])
    processor = CLIPImageProcessorPil.from_pretrained(checkpoint)
    expected = processor(Image.fromarray(picture), return_tensors="pt").pixel_values
    # 1e-5 is rounding of float32; a pixel value off by one of 255 would differ by 1.4e-2
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("entity", ["clips", "texts"])
def test_declared_features_match_the_encoders_output(encoder: Encoder, frames: np.ndarray, entity: str) -> None:
    got = encoder.encode_clips(frames) if entity == "clips" else encoder.encode_texts(TEXTS)
    declared = encoder.features(entity)
    assert {name: array.shape[1:] for name, array in got.items()} == {
        name: feature.shape for name, feature in declared.items()
    }


def test_the_same_batch_gives_the_same_bits(encoder: Encoder, frames: np.ndarray) -> None:
    once, again = encoder.encode_clips(frames), encoder.encode_clips(frames)
    for name, array in once.items():
        assert array.tobytes() == again[name].tobytes()


def test_a_frame_has_the_same_bits_in_any_batch(encoder: Encoder, frames: np.ndarray) -> None:
    together = encoder.encode_clips(frames)
    few = np.zeros_like(frames)
    few[[1, 4]] = frames[[1, 4]]
    alone = encoder.encode_clips(few)
    for name, values in together.items():
        assert alone[name][[1, 4]].tobytes() == values[[1, 4]].tobytes()


def test_provenance_records_the_options(checkpoint: Path, encoder: Encoder) -> None:
    default = encoder.provenance("clips")
    assert default == load("clip", str(checkpoint), "cpu", -2).provenance("clips")
    assert default == load("clip", str(checkpoint), "cpu", BLOCKS - 1).provenance("clips")
    assert default.crop == f"short side {SHORT_SIDE}, centre crop {SIZE}"
    last = load("clip", str(checkpoint), "cpu", -1).provenance("clips")
    assert default.difference(last).startswith("layer ")
    quantised = encoder.provenance("clips", "int8")
    assert quantised.dtypes["tokens"] == "int8"
    assert quantised.dtypes["embedding"] == "float32"


def refusal(folder: Path, layer: int | None = None) -> str:
    with pytest.raises(StepDiffError) as caught:
        load("clip", str(folder), "cpu", layer)
    line = str(caught.value)
    assert "\n" not in line
    return line


def changed(checkpoint: Path, folder: Path, edit: Callable[[dict], None]) -> Path:
    """Copy the checkpoint and edit its preprocessor configuration."""
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    path = folder / "preprocessor_config.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"do_center_crop": False}, "do_center_crop"),
        ({"resample": 0}, "filter 0, none of lanczos, bilinear, bicubic"),
        ({"size": {"height": 32, "width": 30}}, "neither the short side nor a square of 32"),
        ({"do_normalize": False}, "do_normalize"),
        ({"crop_size": {"height": 24, "width": 24}}, "the model takes 32"),
        ({"size": {"shortest_edge": 30}}, "less than its crop"),
    ],
)
def test_unsupported_preprocessing_is_refused(checkpoint: Path, tmp_path: Path, change: dict, reason: str) -> None:
    assert reason in refusal(changed(checkpoint, tmp_path, lambda content: content.update(change)))


def test_wrong_folders_are_refused_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    assert "holds no config.json" in refusal(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "'llama', not 'clip'" in refusal(tmp_path)
    assert "0 to 3" in refusal(checkpoint, 4)


def test_missing_tensors_are_refused_not_initialised(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    state = load_file(checkpoint / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 tensors of a CLIP, first visual_projection.weight" in refusal(tmp_path)


def test_unusable_input_is_refused(encoder: Encoder) -> None:
    with pytest.raises(StepDiffError, match="text 1 of the batch: the text is empty"):
        encoder.encode_texts(["ok", "  "])
    with pytest.raises(StepDiffError, match="takes frames"):
        encoder.encode_clips(np.zeros((1, 4, SIZE, SIZE, 3), np.uint8))
