"""Resolving names, paths and hub ids to local folders, without a network."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from common.errors import StepDiffError
from weights import NAMES, resolve


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEPDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and an unreachable hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def refusal(name: str) -> str:
    with pytest.raises(StepDiffError) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_message_for_a_name_that_was_not_fetched_gives_the_command(empty_cache: Path, name: str) -> None:
    assert refusal(name).endswith(f"run python -m weights fetch {name}")


def test_a_fetched_name_resolves_to_its_folder(empty_cache: Path) -> None:
    folder = empty_cache / "efficientnet-lite0"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert "is not fetched yet" in refusal("efficientnet-lite0")  # an incomplete folder does not count
    (folder / "model.safetensors").write_bytes(b"")
    assert resolve("efficientnet-lite0") == folder


def test_a_local_folder_resolves_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "head").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("runs/head") == tmp_path / "runs" / "head"  # not read as a hub id
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["nothing-like-it", "./not/there", "/not/there.ckpt", "a b"])
def test_the_message_for_an_unknown_name_lists_the_possible_forms(name: str) -> None:
    line = refusal(name)
    assert repr(name) in line
    assert "efficientnet-lite0" in line


def test_an_unreachable_hub_id_is_reported_in_one_line(hub: Path) -> None:
    line = refusal("some-people/some-model")
    assert line.startswith("some-people/some-model is neither a path nor in the hub's cache")
    assert "give a local folder" in line


def put_snapshot(hub: Path, file: str) -> Path:
    """Write a model into the hub cache in the layout of its client."""
    model = hub / "models--some-people--some-model"
    snapshot = model / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    (snapshot / file).write_bytes(b"weights")
    return snapshot


def test_a_cached_hub_model_needs_no_network(hub: Path) -> None:
    snapshot = put_snapshot(hub, "model.safetensors")
    assert resolve("some-people/some-model") == snapshot
    assert resolve("some-people/some-model@main") == snapshot
    assert "neither a path" in refusal("some-people/some-model@other")


def test_an_interrupted_download_is_not_used_as_the_model(hub: Path) -> None:
    snapshot = put_snapshot(hub, "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "its download broke off" in refusal("some-people/some-model")
    (snapshot / "model-00002-of-00002.safetensors").write_bytes(b"more")
    assert resolve("some-people/some-model") == snapshot
