"""The vision part of video language models. tests/heads/public/test_cached.py compares its tokens with whole models."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from featurize.encoders import load
from featurize.encoders.vlm import Vlm
from featurize.manifest import Manifest
from featurize.plan import pending, tasks
from featurize.shard import featurize_shard
from featurize.video.decode import Clip, read_clips
from featurize.video.frames import Sampling
from store import Store
from store.format.pool import pooled_view
from tests.heads.public.vlms import save

FRAMES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("qwen3_vl")
    save("qwen3_vl", made)
    return made


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Vlm:
    made = load("vlm", str(folder), "cpu", frames=FRAMES)
    assert isinstance(made, Vlm)
    return made


def test_the_encoder_has_no_language_model(encoder: Vlm) -> None:
    names = [name for name, _ in encoder._model.named_parameters()]
    assert names and all(name.startswith("model.visual.") for name in names)
    assert all(parameter.device.type == "cpu" for parameter in encoder._model.parameters())


def test_clips_of_several_shapes_are_featurized_and_one_that_cannot_be_fails_alone(
    encoder: Vlm, video: Callable[..., Path], tmp_path: Path
) -> None:
    shapes = {"wide.mp4": (96, 64), "high.mp4": (48, 80), "strip.mp4": (1024, 4)}
    paths = {name: video(f"vlm-{name}", size=size) for name, size in shapes.items()}
    rows = [(f"{name}_0.5_1.5", name, 0.5, 1.5) for name in shapes]
    asked = Manifest("clips", pl.DataFrame(rows, ["key", "video", "start", "end"], orient="row"), paths, {})
    store = Store.open(tmp_path / "store", create=True)
    with store.lock():
        store.catalog("clips").append(asked.rows)
        features = encoder.features("clips", "float32")
        view = store.create_view("clips", "vlm", encoder.provenance("clips", "float32"), features, 4)
        view.resize()
    known = store.catalog("clips").rows(asked.rows["key"])
    wanted = pending(asked, known, np.ones(3, bool)).sort("row")
    (task,) = tasks(store, view, wanted, 4, threads=1)
    featurize_shard(task, encoder, "cpu", lambda rows: None)
    assert view.status().tolist() == [1, 1, 2]
    ((key, reason),) = view.failures().rows()
    assert key == "strip.mp4_0.5_1.5" and reason.startswith("Qwen3VLProcessor refuses its frames (absolute aspect")
    for row, (name, (width, height)) in enumerate(list(shapes.items())[:2]):
        (clip,) = read_clips(paths[name], [(0.5, 1.5)], FRAMES, encoder.picture)
        assert isinstance(clip, Clip) and clip.frames.shape == (FRAMES, height, width, 3)
        found = encoder.encode_whole(clip.frames, clip.seconds)
        layout = view.read("layout", np.array([row]))[0]
        own = int(layout[0])
        assert own == height // 16 * (width // 16) * FRAMES // 2  # 16 x 16 pixels of two frames are a token
        assert layout[1:].tolist() == pytest.approx([height, width, 0, 0.3, 0.6, 0.95])
        tokens = view.read("tokens", np.array([row]))[0]
        np.testing.assert_array_equal(tokens, found["tokens"])
        assert np.abs(tokens[:own]).max(1).min() > 0 and not tokens[own:].any()


def test_a_clip_of_more_tokens_than_the_view_holds_is_refused(folder: Path) -> None:
    encoder = load("vlm", str(folder), "cpu", frames=FRAMES)
    assert isinstance(encoder, Vlm)
    encoder._most = 23
    frames = np.zeros((FRAMES, 64, 96, 3), np.uint8)
    with pytest.raises(StepDiffError, match="frames of 96 x 64 pixels make 48 tokens, and the view holds 23"):
        encoder.encode_whole(frames, np.zeros(FRAMES))


def test_a_view_that_is_pooled_is_refused(encoder: Vlm) -> None:
    made, features = encoder.provenance("clips"), encoder.features("clips")
    with pytest.raises(StepDiffError, match="--pool is for views with tokens of patches"):
        pooled_view(made, features, 2)


def test_fewer_pixels_make_fewer_tokens_and_are_in_the_provenance(folder: Path, encoder: Vlm) -> None:
    smaller = load(f"vlm:{folder}", device="cpu", frames=FRAMES, pixels=32 * 32)
    assert smaller.features("clips")["tokens"].shape[0] < encoder.features("clips")["tokens"].shape[0]
    assert "of at most 1024 pixels" in smaller.crop and smaller.fingerprint == encoder.fingerprint


@pytest.mark.parametrize("sampling", ["linspace", "segment-centres"])
def test_the_frame_rule_is_in_the_provenance(folder: Path, sampling: Sampling) -> None:
    made = load("vlm", str(folder), "cpu", frames=2, sampling=sampling).provenance("clips", "int8")
    assert made.encoder == "vlm" and made.frames.startswith("2 at ")
    assert made.layer == "get_video_features: list of 2 axes; 2 deepstack levels: list of 2 axes"
    assert made.crop == "whole pictures of at most 200704 pixels, bicubic, given to Qwen3VLProcessor as a video"
    assert made.dtypes == {"tokens": "int8", "layout": "float32"}


def test_a_model_that_takes_no_cached_tokens_is_refused(tmp_path: Path, folder: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    CLIPModel(CLIPConfig(text_config=small, vision_config={**small, "image_size": 8, "patch_size": 8})).save_pretrained(
        tmp_path
    )
    with pytest.raises(StepDiffError, match="is a clip, whose class in transformers takes no mm_encoder_outputs"):
        load("vlm", str(tmp_path), "cpu")


def test_an_output_without_pooled_tokens_is_refused(
    folder: Path, encoder: Vlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.modeling_outputs import BaseModelOutput

    monkeypatch.setattr(encoder, "_encoded", lambda inputs: ("get_image_features", BaseModelOutput()))
    with pytest.raises(StepDiffError, match="the model's BaseModelOutput has no pooler_output"):
        encoder.encode_whole(np.zeros((FRAMES, 48, 64, 3), np.uint8), np.zeros(FRAMES))
