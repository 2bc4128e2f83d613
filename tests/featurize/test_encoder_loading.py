"""Unusable names, devices and weights are refused in one line."""

from pathlib import Path

import pytest
import torch

from common.errors import StepDiffError
from featurize.encoders import NAMES, load


def refusal(name: str, weights: str | None = None, device: str | None = "cpu", layer: int | None = None) -> str:
    with pytest.raises(StepDiffError) as caught:
        load(name, weights, device, layer)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_the_message_for_an_unknown_encoder_lists_the_known_ones() -> None:
    line = refusal("resnet")
    assert "'resnet'" in line
    assert "efficientnet-lite0, mpnet-base, clip" in line


def test_the_message_for_clip_without_weights_says_what_to_pass() -> None:
    assert "openai/clip-vit-large-patch14" in refusal("clip")


def test_the_message_for_weights_that_were_not_fetched_gives_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPDIFF_CACHE", str(tmp_path))
    assert "python -m weights fetch efficientnet-lite0" in refusal("efficientnet-lite0")


@pytest.mark.parametrize("name", ["efficientnet-lite0", "mpnet-base"])
def test_a_wrong_weights_folder_is_refused(tmp_path: Path, name: str) -> None:
    assert f"{tmp_path} holds no config.json" in refusal(name, str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    assert "is no JSON" in refusal(name, str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architecture": "llama"}')
    assert "'llama'" in refusal(name, str(tmp_path))


def test_a_layer_is_refused_by_encoders_without_that_option(tmp_path: Path) -> None:
    assert "no choice of layer" in refusal("mpnet-base", str(tmp_path), "cpu", 3)


def test_an_unknown_device_is_refused(tmp_path: Path) -> None:
    assert "'warp'" in refusal("mpnet-base", str(tmp_path), "warp")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_missing_gpu_is_refused(tmp_path: Path) -> None:
    assert "no CUDA device" in refusal("mpnet-base", str(tmp_path), "cuda:0")


@pytest.mark.parametrize("name", NAMES)
def test_every_encoder_loads_and_documents_its_weights(name: str, tmp_path: Path) -> None:
    """Each name of the table has a module that imports and a message for missing weights or an empty folder."""
    line = refusal(name, str(tmp_path))
    assert str(tmp_path) in line and line.count(": give ") == 1
    if name not in ("efficientnet-lite0", "mpnet-base"):
        assert f"encoder {name} needs weights: " in (message := refusal(name))
        assert ("the published .ckpt" if name.startswith("internvideo") else "hub id such as") in message


def test_options_that_an_encoder_does_not_have_are_refused(tmp_path: Path) -> None:
    given = {"frames": 4, "sampling": "segment-centres"}
    for name, words in (("efficientnet-lite0", "frames"), ("mpnet-base", "frames or sampling")):
        with pytest.raises(StepDiffError, match=f"encoder {name} has no choice of {words}: leave it out"):
            load(name, str(tmp_path), "cpu", **given)
    with pytest.raises(StepDiffError, match="0 frames of a clip are too few"):
        load("clip", str(tmp_path), "cpu", frames=0)
