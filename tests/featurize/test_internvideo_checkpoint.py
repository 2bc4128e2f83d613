"""Checkpoints of InternVideo: the published format, older formats, and one error line for each wrong one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from common.errors import StepDiffError
from featurize.encoders.internvideo.checkpoint import load_model
from featurize.encoders.internvideo.model import SIZES, InternVideoMM, Size

TINY = Size(patch=16, width=64, layers=4, embedding=24, text_width=64, text_layers=1, image=32, vocabulary=20)
NAME = "internvideo-mm-b16"
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return {name: torch.randn(values.shape) for name, values in InternVideoMM(TINY).state_dict().items()}


def prefixed(state: State) -> State:
    return {f"clip.{name}": values for name, values in state.items()}


def opened(path: Path, size: Size = TINY) -> InternVideoMM:
    return load_model(path, NAME, size, torch.device("cpu"))


def refusal(path: Path, size: Size = TINY) -> str:
    with pytest.raises(StepDiffError) as caught:
        opened(path, size)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    return line


def write_published(path: Path, state: State) -> None:
    torch.save({"state_dict": prefixed(state) | {"alignment.weight": torch.zeros(2)}, "global_step": 3}, path)


def write_old(path: Path, state: State) -> None:
    torch.save({"state_dict": prefixed(state)}, path, _use_new_zipfile_serialization=False)


def write_half(path: Path, state: State) -> None:
    torch.save({"state_dict": {name: values.half() for name, values in prefixed(state).items()}}, path)


@pytest.mark.parametrize(
    "file, write, tolerance",
    [
        ("published.ckpt", write_published, 0),
        ("old.ckpt", write_old, 0),
        ("half.ckpt", write_half, 2e-3),
        ("prefixed.safetensors", lambda path, state: save_file(prefixed(state), path), 0),
        ("bare.safetensors", lambda path, state: save_file(state, path), 0),
    ],
)
def test_every_checkpoint_format_loads(
    tmp_path: Path, state: State, file: str, write: Callable[[Path, State], None], tolerance: float
) -> None:
    write(tmp_path / file, state)
    loaded = opened(tmp_path / file).state_dict()
    (tmp_path / file).write_bytes(b"")  # the weights are a copy, not a memory map
    assert set(loaded) == set(state)
    for name, values in loaded.items():
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, state[name], rtol=tolerance, atol=tolerance * 1e-3)


def test_the_module_is_frozen(tmp_path: Path, state: State) -> None:
    write_published(tmp_path / "model.ckpt", state)
    model = opened(tmp_path / "model.ckpt")
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"visual_proj": None}, "lacks 1 tensors, first visual_proj"),
        ({"ln_final.bias": None, "ln_final.weight": None}, "lacks 2 tensors, first ln_final.bias"),
        ({"visual.conv2.weight": (3,)}, f"has 1 that {NAME} has not, first visual.conv2.weight"),
        ({"text_projection": (64, 25)}, "has 1 of another shape, first text_projection [64, 25] for [64, 24]"),
    ],
)
def test_wrong_checkpoints_are_refused(
    tmp_path: Path, state: State, change: dict[str, tuple[int, ...] | None], reason: str
) -> None:
    wrong = dict(state)
    for name, shape in change.items():
        if shape is None:
            del wrong[name]
        else:
            wrong[name] = torch.zeros(shape)
    write_published(tmp_path / "model.ckpt", wrong)
    assert reason in refusal(tmp_path / "model.ckpt")


@pytest.mark.parametrize("content", [[1, 2], {"weights": {}}, {"state_dict": [1]}])
def test_a_torch_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.ckpt")
    assert "has no state_dict" in refusal(tmp_path / "model.ckpt")


def test_another_model_is_refused(tmp_path: Path, state: State) -> None:
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")  # no tensor name begins with clip.
    assert f"is another model's, without a tensor of {NAME}" in refusal(tmp_path / "model.ckpt")
    save_file({"encoder.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert f"is another model's, without a tensor of {NAME}" in refusal(tmp_path / "model.safetensors")


@pytest.mark.parametrize("given, asked", [SIZES, list(SIZES)[::-1]])
def test_the_message_for_a_model_of_another_size_names_the_size(tmp_path: Path, given: str, asked: str) -> None:
    path = tmp_path / "model.ckpt"
    with torch.device("meta"):
        shapes = InternVideoMM(SIZES[given]).state_dict()
    one = torch.zeros(())  # every tensor repeats one number: the file stays small
    torch.save({"state_dict": {f"clip.{name}": one.expand(values.shape) for name, values in shapes.items()}}, path)
    with pytest.raises(StepDiffError, match=f"holds {given}, not {asked}: give --encoder {given}"):
        load_model(path, asked, SIZES[asked], torch.device("cpu"))


@pytest.mark.parametrize("write", [write_published, write_old])
@pytest.mark.parametrize("kept", [0, 10, 0.2, 0.9, 0.999])
def test_a_truncated_file_is_refused(
    tmp_path: Path, state: State, write: Callable[[Path, State], None], kept: float
) -> None:
    path = tmp_path / "model.ckpt"
    write(path, state)
    size = path.stat().st_size
    os.truncate(path, int(kept if kept >= 1 else kept * size))
    assert "copy it again" in (line := refusal(path)) or "is refused" in line


def test_a_truncated_safetensors_file_is_refused(tmp_path: Path, state: State) -> None:
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    for size in (path.stat().st_size - 1, 100, 3, 0):
        os.truncate(path, size)
        assert "cannot be read" in refusal(path)


class _Runs:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, state: State, zipped: bool) -> None:
    path, mark = tmp_path / "model.ckpt", tmp_path / "it-ran"
    content = {"state_dict": prefixed(state), "hyper": _Runs(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    line = refusal(path)
    assert "is refused" in line and "mkdir" in line
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # the code would have run
