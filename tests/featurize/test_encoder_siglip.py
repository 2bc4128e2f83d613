"""SigLIP compared with transformers, on a tiny random checkpoint with its processor."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import StepDiffError
from featurize.encoders import Encoder, load
from featurize.video.picture import square

SIZE, PATCHES, WIDTH, BLOCKS, LENGTH = 32, 16, 24, 3, 16
TEXTS = ["flip the pancake", "a", "clean the pool with a long brush, then rinse it twice " * 3]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of transformers: random weights, a vocabulary of letters, real preprocessing."""
    from transformers import GemmaTokenizer, SiglipConfig, SiglipImageProcessorPil, SiglipModel

    folder = tmp_path_factory.mktemp("siglip")
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *map(chr, range(33, 127))]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    GemmaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]).save_pretrained(folder)
    small = {
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 2,
    }
    config = SiglipConfig(
        text_config={**small, "vocab_size": len(pieces), "max_position_embeddings": LENGTH, "projection_size": WIDTH},
        vision_config={**small, "image_size": SIZE, "patch_size": 8},
    )
    torch.manual_seed(0)
    model = SiglipModel(config)
    for parameter in model.parameters():  # with the default scale outputs are nearly constant
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE}, resample=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> Encoder:
    return load("siglip", str(checkpoint), "cpu")


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Return decoded frames, wider than high."""
    return np.random.default_rng(0).integers(0, 256, (16, 45, 61, 3), dtype=np.uint8)


def frames_of(encoder: Encoder, pictures: np.ndarray) -> np.ndarray:
    """Return two clips of eight frames, as from the decoder."""
    frames = [square(av.VideoFrame.from_ndarray(picture, format="rgb24"), encoder.picture) for picture in pictures]
    return np.stack(frames).reshape(2, 8, SIZE, SIZE, 3)


@pytest.mark.parametrize("layer", [None, -1, 1])
def test_features_equal_transformers(checkpoint: Path, pictures: np.ndarray, layer: int | None) -> None:
    from transformers import AutoImageProcessor, SiglipModel

    encoder = load("siglip", str(checkpoint), "cpu", layer)
    got = encoder.encode_clips(frames_of(encoder, pictures))
    model = SiglipModel.from_pretrained(checkpoint).eval()
    processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
    pixels = processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt").pixel_values
    with torch.inference_mode():
        output = model(
            input_ids=torch.ones(1, LENGTH, dtype=torch.long), pixel_values=pixels, output_hidden_states=True
        )
    seen = output.vision_model_output
    tokens = seen.last_hidden_state if layer is None else seen.hidden_states[layer]
    tokens = tokens.reshape(2, 8 * PATCHES, WIDTH).numpy()  # frame-major
    embedded = output.image_embeds.reshape(2, 8, WIDTH).numpy()
    assert tokens.std() > 0.1
    np.testing.assert_allclose(got["tokens"], tokens, rtol=0, atol=1e-5 * np.abs(tokens).max())
    np.testing.assert_allclose(got["frame_embedding"], embedded, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got["embedding"], embedded.mean(1), rtol=0, atol=1e-5)


def test_text_features_equal_transformers(checkpoint: Path, encoder: Encoder) -> None:
    from transformers import AutoTokenizer, SiglipModel

    got = encoder.encode_texts(TEXTS)["embedding"]
    model, tokenizer = SiglipModel.from_pretrained(checkpoint).eval(), AutoTokenizer.from_pretrained(checkpoint)
    for text, row in zip(TEXTS, got, strict=True):
        inputs = tokenizer(text, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
        assert inputs.input_ids.shape == (1, LENGTH)
        with torch.inference_mode():
            output = model(**inputs, pixel_values=torch.zeros(1, 3, SIZE, SIZE))
        np.testing.assert_allclose(row, output.text_embeds[0].numpy(), rtol=0, atol=1e-5)
    assert got[0] @ got[1] < 0.99


@pytest.mark.parametrize("entity", ["clips", "texts"])
def test_declared_features_match_the_encoders_output(encoder: Encoder, pictures: np.ndarray, entity: str) -> None:
    got = encoder.encode_clips(frames_of(encoder, pictures)) if entity == "clips" else encoder.encode_texts(TEXTS)
    declared = encoder.features(entity)
    assert {k: v.shape[1:] for k, v in got.items()} == {k: f.shape for k, f in declared.items()}


def test_the_same_batch_gives_the_same_bits(encoder: Encoder, pictures: np.ndarray) -> None:
    frames = frames_of(encoder, pictures)
    once, again = encoder.encode_clips(frames), encoder.encode_clips(frames)
    assert all(array.tobytes() == again[name].tobytes() for name, array in once.items())


def test_provenance_records_the_options(checkpoint: Path, encoder: Encoder) -> None:
    default = encoder.provenance("clips")
    assert default.crop == f"square resize to {SIZE}, bilinear"
    assert default.layer == "last hidden state, final norm, patch tokens"
    assert encoder.provenance("texts").crop == f"first {LENGTH} tokens"
    other = load("siglip", str(checkpoint), "cpu", -2, frames=3, sampling="segment-centres")
    assert other.features("clips")["tokens"].shape == (3 * PATCHES, WIDTH)
    assert default.difference(other.provenance("clips")) == (
        "layer 'last hidden state, final norm, patch tokens' against 'hidden state 2 of 3, patch tokens', frames "
        "'8 at linspace(0, n - 1) truncated, start <= time < end' against "
        "'3 at the centres of equal segments of the n frames, start <= time < end'"
    )


def refusal(folder: Path, layer: int | None = None) -> str:
    with pytest.raises(StepDiffError) as caught:
        load("siglip", str(folder), "cpu", layer)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_model_is_refused_in_one_line(checkpoint: Path, tiny_clip: Path, tmp_path: Path) -> None:
    assert "'clip', not 'siglip'" in refusal(tiny_clip)
    assert "hidden states 0 to 3" in refusal(checkpoint, 4)
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "siglip2"}))
    assert "'siglip2', not 'siglip'" in refusal(tmp_path)
    shutil.copy(checkpoint / "config.json", tmp_path)
    shutil.copy(tiny_clip / "model.safetensors", tmp_path)
    assert "tensors of a Siglip, first" in refusal(tmp_path) or "cannot be loaded" in refusal(tmp_path)
    whole = (checkpoint / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cannot be loaded" in refusal(tmp_path)


def test_without_a_tokenizer_clips_are_encoded_and_texts_refused(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("tokenizer*"))
    encoder = load("siglip", str(tmp_path), "cpu")
    assert set(encoder.features("clips")) == {"tokens", "frame_embedding", "embedding"}
    with pytest.raises(StepDiffError, match="has no tokenizer that can be loaded"):
        encoder.features("texts")
