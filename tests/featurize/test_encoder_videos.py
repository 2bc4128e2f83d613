"""VideoMAE and V-JEPA 2 compared with transformers, on tiny random checkpoints."""

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

SIZE, WIDTH, FRAMES = 32, 24, 4
TOKENS = FRAMES // 2 * (SIZE // 8) ** 2
NAMES = ("videomae", "vjepa2")


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model with weights for which no output is constant."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint folders of transformers with the published preprocessing."""
    from transformers import (
        VideoMAEConfig,
        VideoMAEForPreTraining,
        VideoMAEImageProcessorPil,
        VJEPA2Config,
        VJEPA2Model,
    )

    small = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    mae, jepa = tmp_path_factory.mktemp("videomae"), tmp_path_factory.mktemp("vjepa2")
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    config = VideoMAEConfig(**small, **decoder, intermediate_size=32, image_size=SIZE, num_frames=FRAMES)
    shaken(VideoMAEForPreTraining(config)).save_pretrained(mae)
    crop = {"height": SIZE, "width": SIZE}
    VideoMAEImageProcessorPil(size={"shortest_edge": 36}, crop_size=crop).save_pretrained(mae)
    predictor = {"pred_hidden_size": 12, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    shaken(VJEPA2Model(VJEPA2Config(**small, **predictor, crop_size=SIZE, frames_per_clip=FRAMES))).save_pretrained(
        jepa
    )
    described = {"crop_size": crop, "resample": 2, "size": {"shortest_edge": 36}, "image_std": [0.2, 0.3, 0.4]}
    (jepa / "video_preprocessor_config.json").write_text(json.dumps(described))
    return {"videomae": mae, "vjepa2": jepa}


@pytest.fixture(scope="module")
def encoders(folders: dict[str, Path]) -> dict[str, Encoder]:
    return {name: load(name, str(folder), "cpu") for name, folder in folders.items()}


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Return decoded frames of three clips, wider than high."""
    return np.random.default_rng(0).integers(0, 256, (3, FRAMES, 45, 61, 3), dtype=np.uint8)


def frames_of(encoder: Encoder, pictures: np.ndarray) -> np.ndarray:
    """Return frames as from the decoder."""
    return np.stack(
        [
            [square(av.VideoFrame.from_ndarray(picture, format="rgb24"), encoder.picture) for picture in clip]
            for clip in pictures
        ]
    )


def reference(name: str, folder: Path, pictures: np.ndarray) -> torch.Tensor:
    """Return the last hidden states of the whole batch from transformers' model and processor."""
    from transformers import AutoModel, VideoMAEImageProcessorPil

    if name == "videomae":
        processor = VideoMAEImageProcessorPil.from_pretrained(folder)
    else:  # its own processor needs torchvision; another one does the same steps
        processor = VideoMAEImageProcessorPil(
            size={"shortest_edge": 36},
            crop_size={"height": SIZE, "width": SIZE},
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.2, 0.3, 0.4],
        )
    clips = [[Image.fromarray(picture) for picture in clip] for clip in pictures]
    pixels = processor(clips, return_tensors="pt").pixel_values
    assert pixels.shape == (3, FRAMES, 3, SIZE, SIZE)
    with torch.inference_mode():
        return AutoModel.from_pretrained(folder).eval()(pixels).last_hidden_state


@pytest.mark.parametrize("name", NAMES)
def test_features_equal_transformers(
    name: str, folders: dict[str, Path], encoders: dict[str, Encoder], pictures: np.ndarray
) -> None:
    got = encoders[name].encode_clips(frames_of(encoders[name], pictures))
    expected = reference(name, folders[name], pictures).numpy()
    assert expected.shape == (3, TOKENS, WIDTH) and expected.std() > 0.1
    np.testing.assert_allclose(got["tokens"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(got["embedding"], expected.mean(1), rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_declared_features_match_the_encoders_output(
    name: str, encoders: dict[str, Encoder], pictures: np.ndarray
) -> None:
    encoder = encoders[name]
    frames = frames_of(encoder, pictures)
    got, again = encoder.encode_clips(frames), encoder.encode_clips(frames)
    assert {k: v.shape[1:] for k, v in got.items()} == {k: f.shape for k, f in encoder.features("clips").items()}
    assert all(array.tobytes() == again[name].tobytes() for name, array in got.items())
    assert encoder.provenance("clips").crop == f"short side 36, centre crop {SIZE}, bilinear"
    assert encoder.provenance("clips").frames.startswith(f"{FRAMES} at linspace")


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_ordered_by_time_step_then_row(name: str, encoders: dict[str, Encoder]) -> None:
    """In the patch embedding a bright patch changes only its token, at step 1, row 2, column 3."""
    encoder = encoders[name]
    dark = np.zeros((1, FRAMES, SIZE, SIZE, 3), np.uint8)
    bright = dark.copy()
    bright[0, 2:4, 16:24, 24:32] = 255
    embeddings = encoder._model.embeddings
    pixels = [encoder._preprocessing.normalised(torch.from_numpy(frames)) for frames in (dark, bright)]
    extra = (None,) if name == "videomae" else ()
    before, after = (embeddings(values, *extra)[0] for values in pixels)
    assert torch.nonzero((before != after).any(-1)).tolist() == [[1 * 16 + 2 * 4 + 3]]


def test_vjepa2_reads_more_frames(folders: dict[str, Path]) -> None:
    longer = load("vjepa2", str(folders["vjepa2"]), "cpu", frames=6)
    assert longer.features("clips")["tokens"].shape == (48, WIDTH)
    assert longer.encode_clips(np.zeros((1, 6, SIZE, SIZE, 3), np.uint8))["tokens"].shape == (1, 48, WIDTH)


def refusal(name: str, folder: Path, **choices: int) -> str:
    with pytest.raises(StepDiffError) as caught:
        load(name, str(folder), "cpu", **choices)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unusable_weights_are_refused_in_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    assert "'vjepa2', not 'videomae'" in refusal("videomae", folders["vjepa2"])
    assert "'videomae', not 'vjepa2'" in refusal("vjepa2", folders["videomae"])
    assert "no choice of frames" in refusal("videomae", folders["videomae"], frames=8)
    assert "give --frames a multiple" in refusal("vjepa2", folders["vjepa2"], frames=5)
    shutil.copytree(folders["vjepa2"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "video_preprocessor_config.json").write_text("[]")
    assert "cannot be read" in refusal("vjepa2", tmp_path)
    (tmp_path / "video_preprocessor_config.json").unlink()
    assert "cannot be read" in refusal("vjepa2", tmp_path)
    shutil.copy(folders["videomae"] / "model.safetensors", tmp_path)
    assert "tensors of a VJEPA2, first" in refusal("vjepa2", tmp_path)
