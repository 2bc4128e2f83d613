"""Encoders clip, siglip, videomae and vjepa2 compared with transformers, on small random checkpoints."""

import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from common.errors import StepDiffError
from featurize.encoders import load
from featurize.video.picture import square

from . import hf_models as models
from .test_encoder_hf import decoded, own_pixels

FRAMES, TOKENS, WIDTH = 4, 16, 24
TEXTS = ["flip the pancake", "a", "clean the pool with a long brush then rinse it twice " * 8]
NAMES = ("clip", "siglip", "videomae", "vjepa2")
LINSPACE = "linspace(0, n - 1) truncated, start <= time < end"
RECORDED = {  # by views of these names: layer, frames and crop
    "clip": ("hidden state 1 of 2, patch tokens", f"8 at {LINSPACE}", "short side 40, centre crop 32"),
    "siglip": ("last hidden state, final norm, patch tokens", f"8 at {LINSPACE}", "square resize to 32, bicubic"),
    "videomae": ("last hidden state, space-time tokens", f"4 at {LINSPACE}", "short side 40, centre crop 32"),
    "vjepa2": (
        "last hidden state of the encoder, space-time tokens",
        f"4 at {LINSPACE}",
        "short side 36, centre crop 32, bilinear",
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = {name: tmp_path_factory.mktemp(name) for name in NAMES}
    for name, path in paths.items():
        models.shaken(models.EVERY[name](path)).save_pretrained(path)
    return paths


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Return decoded frames of three clips, wider than high."""
    return np.random.default_rng(0).integers(0, 256, (3, FRAMES, 45, 61, 3), dtype=np.uint8)


def reference(
    name: str, path: Path, pictures: np.ndarray, layer: int | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return tokens [B, N, D] and embeddings of frames [B, T, E] of the whole model's forward pass."""
    model, pixels = AutoModel.from_pretrained(path).eval(), own_pixels(name, path, pictures)
    with torch.inference_mode():
        if name in ("videomae", "vjepa2"):
            return model(pixels).last_hidden_state, None
        ids = torch.full((1, 20), 2)
        output = model(input_ids=ids, pixel_values=pixels.flatten(0, 1), output_hidden_states=True)
    seen = output.vision_model_output
    state = seen.last_hidden_state if layer is None else seen.hidden_states[layer]
    tokens = state[:, int(name == "clip") :].reshape(len(pictures), FRAMES * TOKENS, WIDTH)
    return tokens, output.image_embeds.unflatten(0, (-1, FRAMES))


def close(got: np.ndarray, expected: torch.Tensor) -> None:
    values = expected.numpy()
    np.testing.assert_allclose(got, values, rtol=0, atol=1e-5 * np.abs(values).max())


@pytest.mark.parametrize(
    ("name", "layer"),
    [("clip", None), ("clip", -1), ("clip", 0), ("siglip", None), ("siglip", 1), ("videomae", None), ("vjepa2", None)],
)
def test_features_equal_transformers(
    name: str, layer: int | None, folders: dict[str, Path], pictures: np.ndarray
) -> None:
    frames_of_images = FRAMES if name in ("clip", "siglip") else None
    encoder = load(name, str(folders[name]), "cpu", layer, frames_of_images)
    frames = decoded(encoder, pictures)
    got, again = encoder.encode_clips(frames), encoder.encode_clips(frames)
    tokens, embedded = reference(name, folders[name], pictures, -2 if name == "clip" and layer is None else layer)
    assert tokens.std() > 0.1
    close(got["tokens"], tokens)
    if embedded is None:
        close(got["embedding"], tokens.mean(1))
    else:
        close(got["frame_embedding"], embedded)
        close(got["embedding"], embedded.mean(1))
    declared = {key: feature.shape for key, feature in encoder.features("clips").items()}
    assert {key: values.shape[1:] for key, values in got.items()} == declared
    assert all(values.tobytes() == again[key].tobytes() for key, values in got.items())
    few = np.zeros_like(frames)  # other clips of a batch do not change a clip's bits
    few[1] = frames[1]
    assert all(values[1].tobytes() == got[key][1].tobytes() for key, values in encoder.encode_clips(few).items())


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_text_features_equal_transformers(name: str, folders: dict[str, Path]) -> None:
    encoder = load(name, str(folders[name]), "cpu")
    got = encoder.encode_texts(TEXTS)["embedding"]
    model, tokenizer = AutoModel.from_pretrained(folders[name]).eval(), AutoTokenizer.from_pretrained(folders[name])
    for text, row in zip(TEXTS, got, strict=True):  # one by one
        padding = "max_length" if name == "siglip" else False
        inputs = tokenizer(text, padding=padding, truncation=True, max_length=20, return_tensors="pt")
        known = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            output = model(**known, pixel_values=torch.zeros(1, 3, 32, 32))
        np.testing.assert_allclose(row, output.text_embeds[0].numpy(), rtol=0, atol=1e-5)
    assert got[0] @ got[1] < 0.99
    assert {key: feature.shape for key, feature in encoder.features("texts").items()} == {"embedding": got[0].shape}
    with pytest.raises(StepDiffError, match="text 1 of the batch: the text is empty"):
        encoder.encode_texts(["ok", "  "])
    with pytest.raises(StepDiffError, match="takes frames"):
        encoder.encode_clips(np.zeros((1, 3, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("name", NAMES)
def test_the_recorded_provenance(name: str, folders: dict[str, Path]) -> None:
    """A view that exists must be continued: no word of its provenance may change."""
    made = load(name, str(folders[name]), "cpu").provenance("clips", "int8")
    assert (made.encoder, made.layer, made.frames, made.crop) == (name, *RECORDED[name])
    images = {"frame_embedding": "float32"} if name in ("clip", "siglip") else {}
    assert made.dtypes == {"tokens": "int8", **images, "embedding": "float32"}
    if images:
        texts = load(name, str(folders[name]), "cpu").provenance("texts")
        assert (texts.layer, texts.frames, texts.crop) == (made.layer, "none", "first 20 tokens")
        other = load(name, str(folders[name]), "cpu", -1, frames=3, sampling="segment-centres").provenance("clips")
        assert other.layer == "hidden state 2 of 2, patch tokens"
        assert other.frames == "3 at the centres of equal segments of the n frames, start <= time < end"


@pytest.mark.parametrize("height, width", [(45, 97), (240, 426), (33, 32), (61, 61)])
def test_pixels_equal_the_image_processor(folders: dict[str, Path], height: int, width: int) -> None:
    picture = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    encoder: Any = load("clip", str(folders["clip"]), "cpu")
    cropped = square(av.VideoFrame.from_ndarray(picture, format="rgb24"), encoder.picture)
    got = encoder._preprocessing.normalised(torch.tensor(cropped)[None])
    processor = AutoImageProcessor.from_pretrained(folders["clip"], backend="pil")
    expected = processor(Image.fromarray(picture), return_tensors="pt").pixel_values
    # 1e-5 is rounding of float32; a pixel value off by one of 255 would differ by 1e-2
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_vjepa2_takes_more_frames(folders: dict[str, Path]) -> None:
    longer = load("vjepa2", str(folders["vjepa2"]), "cpu", frames=6)
    assert longer.features("clips")["tokens"].shape == (48, WIDTH)
    assert longer.encode_clips(np.zeros((1, 6, 32, 32, 3), np.uint8))["tokens"].shape == (1, 48, WIDTH)


def refusal(name: str, folder: Path, **choices: int) -> str:
    with pytest.raises(StepDiffError) as caught:
        load(name, str(folder), "cpu", **choices)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_other_weights_are_refused(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = "clip" if name != "clip" else "siglip"
    assert f"{other!r}, not {name!r}" in refusal(name, folders[other])
    assert "holds no config.json" in refusal(name, tmp_path)
    shutil.copytree(folders[name], tmp_path, dirs_exist_ok=True)
    state = load_file(tmp_path / "model.safetensors")
    lost = max(key for key in state if key.endswith("weight"))
    save_file({key: value for key, value in state.items() if key != lost}, tmp_path / "model.safetensors")
    line = refusal(name, tmp_path)
    assert "lacks 1 tensors of a" in line and lost in line
    whole = (folders[name] / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cannot be loaded" in refusal(name, tmp_path)


def test_choices_that_do_not_fit_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    assert "0 to 2" in refusal("clip", folders["clip"], layer=4)
    assert "hidden states 0 to 2" in refusal("siglip", folders["siglip"], layer=4)
    assert "no choice of frames" in refusal("videomae", folders["videomae"], frames=8)
    assert "5 are no multiple: change --frames" in refusal("vjepa2", folders["vjepa2"], frames=5)
    shutil.copytree(folders["siglip"], tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "siglip2"}))
    assert "'siglip2', not 'siglip'" in refusal("siglip", tmp_path)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"do_center_crop": False}, "which gives no square"),
        ({"resample": 0}, "filter 0, none of lanczos, bilinear, bicubic"),
        ({"size": {"height": 32, "width": 30}}, "which gives no square"),
        ({"crop_size": {"height": 24, "width": 24}}, "CLIPModel cannot take frames of 24 x 24 pixels"),
        ({"size": {"shortest_edge": 30}}, "less than its crop"),
    ],
)
def test_unsupported_preprocessing_is_refused(
    change: dict[str, Any], reason: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["clip"], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert reason in refusal("clip", tmp_path)


def test_without_a_tokenizer_clips_are_encoded_and_texts_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["siglip"], tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("tokenizer*"))
    encoder = load("siglip", str(tmp_path), "cpu")
    assert set(encoder.features("clips")) == {"tokens", "frame_embedding", "embedding"}
    with pytest.raises(StepDiffError, match="has no tokenizer that can be loaded"):
        encoder.features("texts")


@pytest.mark.parametrize("text", ["[]", None])
def test_a_video_processor_that_is_missing_is_refused(
    text: str | None, folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["vjepa2"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "video_preprocessor_config.json").unlink()
    if text is not None:
        (tmp_path / "video_preprocessor_config.json").write_text(text)
    assert "has no image processor" in refusal("vjepa2", tmp_path)
