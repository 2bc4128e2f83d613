"""InternVideo-MM as a torch module compared with outputs of the published model, on reproducible weights."""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from featurize.encoders.internvideo.model import SIZES, InternVideoMM, Size, halve

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
NORMS = {"ln_1", "ln_2", "ln_3", "ln_pre", "ln_final", "visual_ln_post"}
TINY = Size(patch=16, width=128, layers=5, embedding=24, text_width=64, text_layers=2, image=48, vocabulary=514)

golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no folder shared/golden next to the project")
by_hand = pytest.mark.skipif("STEPDIFF_GOLDEN_L14" not in os.environ, reason="takes a minute: set STEPDIFF_GOLDEN_L14")


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    found = json.loads((GOLDEN / f"{name.replace('-', '_')}_state_dict.json").read_text())
    return {tensor: tuple(shape) for tensor, shape in found.items()}


def made(tensor: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the tensor that the README of the golden outputs defines."""
    rng = np.random.default_rng(zlib.crc32(tensor.encode()))
    values = np.asarray(rng.standard_normal(shape), np.float32) * np.float32(0.02)
    if tensor.endswith("weight") and NORMS & set(tensor.split(".")):
        values += 1
    return torch.from_numpy(np.asarray(values))


@golden
@pytest.mark.parametrize("name", SIZES)
def test_tensors_have_the_published_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        state = InternVideoMM(SIZES[name]).state_dict()
    assert {tensor: tuple(values.shape) for tensor, values in state.items()} == shapes(name)


@golden
@pytest.mark.parametrize("name", ["internvideo-mm-b16", pytest.param("internvideo-mm-l14", marks=by_hand)])
def test_outputs_equal_those_of_the_published_model(name: str) -> None:
    with torch.device("meta"):
        model = InternVideoMM(SIZES[name]).eval()
    model.load_state_dict({tensor: made(tensor, shape) for tensor, shape in shapes(name).items()}, assign=True)
    expected = np.load(GOLDEN / f"{name.replace('-', '_')}.npz")
    pixels = torch.from_numpy(np.random.default_rng(7).standard_normal((2, 3, 8, 224, 224)).astype(np.float32))
    seen: list[tuple[torch.Tensor, ...]] = []
    model.visual.register_forward_hook(lambda module, given, states: seen.append(states))
    with torch.inference_mode():
        embedding, tokens = model.encode_video(pixels)
        texts = model.encode_text(torch.from_numpy(expected["text_tokens"]))
    by_frame = tokens.unflatten(1, (8, -1))
    got = {
        "text_embedding": texts,
        "video_embedding": embedding,
        "patch_tokens_sample": by_frame[:, :, torch.from_numpy(expected["patch_index"])],
        "patch_mean_per_frame": by_frame.mean((2, 3)),
        "cls_tokens": seen[0][-1].unflatten(0, (2, 8))[:, :, 0],
    }
    assert set(got) == set(expected.files) - {"text_tokens", "patch_index"}
    for array, values in got.items():
        np.testing.assert_allclose(
            values.numpy(), expected[array], rtol=0, atol=1e-4 * np.abs(expected[array]).max(), err_msg=array
        )


@pytest.fixture(scope="module")
def tiny() -> InternVideoMM:
    torch.manual_seed(0)
    model = InternVideoMM(TINY).eval().requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def pixels_of(clips: int) -> torch.Tensor:
    return torch.randn(clips, 3, 8, 48, 48, generator=torch.Generator().manual_seed(1))


def test_tokens_are_frame_major(tiny: InternVideoMM) -> None:
    """Changing a frame changes its own tokens only."""
    pixels = pixels_of(1)
    other = pixels.clone()
    other[:, :, 5] += 1
    (before, tokens), (after, changed) = tiny.encode_video(pixels), tiny.encode_video(other)
    differs = (tokens != changed).any(-1).unflatten(1, (8, TINY.patches))[0]
    assert differs[5].all() and not differs[[0, 1, 2, 3, 4, 6, 7]].any()
    assert not torch.allclose(before, after)


def test_patches_are_ordered_row_by_row(tiny: InternVideoMM) -> None:
    """Without positions and blocks the token of a patch identifies its place."""
    pixels = pixels_of(1)
    other = pixels.clone()
    other[:, :, :, 16:32, 32:] += 1  # row 1, column 2 of 3 x 3
    first = tiny.visual.conv1(pixels.transpose(1, 2).flatten(0, 1).unsqueeze(2)).flatten(2)
    second = tiny.visual.conv1(other.transpose(1, 2).flatten(0, 1).unsqueeze(2)).flatten(2)
    assert (first != second).any(1)[0].nonzero().flatten().tolist() == [1 * 3 + 2]


def test_a_text_is_read_at_its_first_end_token(tiny: InternVideoMM) -> None:
    """Tokens after the end token change nothing."""
    ids = torch.zeros(2, 77, dtype=torch.int64)
    ids[:, :4] = torch.tensor([512, 5, 6, 513])
    ids[1, 4:] = 7
    first, second = tiny.encode_text(ids)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
    ids[1, 2] = 8
    assert not torch.allclose(first, tiny.encode_text(ids)[1], atol=1e-3)


@pytest.mark.parametrize("encode", ["video", "text"])
def test_half_precision_is_close_to_float32(tiny: InternVideoMM, encode: str) -> None:
    """With bf16 matrix products, as on a GPU, the cosine to float32 embeddings is above 0.999."""

    def run() -> torch.Tensor:
        if encode == "video":
            return tiny.encode_video(pixels_of(2))[0]
        return tiny.encode_text(torch.arange(2 * 77).reshape(2, 77))

    exact = run()
    with torch.autocast("cpu", torch.bfloat16):
        near = run()
        before = [parameter.data for parameter in tiny.parameters()]
        halve(tiny)
        assert torch.equal(run(), near)  # autocast casts the same weights at every call
        for parameter, values in zip(tiny.parameters(), before, strict=True):
            parameter.data = values
    assert not torch.equal(near.float(), exact)
    assert torch.cosine_similarity(near.float(), exact).min() > 0.999
