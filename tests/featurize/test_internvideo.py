"""InternVideo: its model compared with outputs of the published one, its encoder, and its
checkpoints."""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from featurize.encoders import Encoder, digest, load
from featurize.encoders.internvideo.mm import InternVideo, InternVideoB16, load_model
from featurize.encoders.internvideo.model import SIZES, InternVideoMM, Size, halve
from stepdiff_core.errors import StepDiffError

TINY = Size(
    patch=16,
    width=128,
    layers=5,
    embedding=24,
    text_width=64,
    text_layers=2,
    image=48,
    vocabulary=515,
)
NAME = "internvideo-mm-b16"
TEXTS = ["flip the pancake", "a", "clean the pool with a long brush, then rinse it twice " * 8]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def vocabulary() -> tuple[dict[str, int], list[str]]:
    """Return CLIP's bytes, one merge, and the start and end tokens: 515 ids."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    pieces = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "th",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return {piece: i for i, piece in enumerate(pieces)}, ["t h"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint in the published format and CLIP's tokenizer files."""
    folder = tmp_path_factory.mktemp("internvideo")
    torch.manual_seed(0)
    model = InternVideoMM(TINY)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    state = {f"clip.{tensor}": values for tensor, values in model.state_dict().items()}
    state["predictor.weight"] = torch.zeros(3)
    torch.save({"state_dict": state, "epoch": 4}, folder / "model.ckpt")
    ids, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    return folder


@pytest.fixture(scope="module")
def encoder(weights: Path) -> InternVideo:
    return opened(weights)


def opened(weights: Path) -> InternVideo:
    return InternVideoB16(weights, torch.device("cpu"), TINY)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 8, 48, 48, 3), dtype=np.uint8)


def normalised(frames: np.ndarray) -> torch.Tensor:
    """Return normalised pixels [B, 3, T, H, W]."""
    pixels = torch.from_numpy(frames).permute(0, 4, 1, 2, 3) / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1, 1)) / torch.tensor(STD).view(3, 1, 1, 1)


def test_features_equal_the_modules_output(encoder: InternVideo, frames: np.ndarray) -> None:
    got = encoder.encode_clips(frames)
    embedding, tokens = encoder.module.encode_video(normalised(frames))
    assert tokens.std() > 0.1
    np.testing.assert_allclose(got["tokens"], tokens, rtol=0, atol=1e-5 * tokens.abs().max().item())
    np.testing.assert_allclose(
        got["embedding"], torch.nn.functional.normalize(embedding), rtol=0, atol=1e-5
    )
    declared = {name: feature.shape for name, feature in encoder.features("clips").items()}
    assert {name: array.shape[1:] for name, array in got.items()} == declared
    assert all(array.dtype == np.float32 for array in got.values())


def test_unusable_input_is_refused(encoder: Encoder) -> None:
    with pytest.raises(StepDiffError, match="text 1 of the batch: the text is empty"):
        encoder.encode_texts(["ok", "  "])
    with pytest.raises(StepDiffError, match="takes frames"):
        encoder.encode_clips(np.zeros((1, 8, 224, 224, 3), np.uint8))


def test_a_tokenizer_does_not_change_clips(
    encoder: InternVideo, weights: Path, tmp_path: Path
) -> None:
    shutil.copy(weights / "model.ckpt", tmp_path)
    expected = encoder.provenance("clips")
    assert expected.crop == "short side 55, centre crop 48"
    bare, file = opened(tmp_path), opened(tmp_path / "model.ckpt")
    assert expected == bare.provenance("clips") == file.provenance("clips")
    # the values that a finished run compares
    for place in (weights, tmp_path, tmp_path / "model.ckpt"):
        assert digest(NAME, place) == expected.weights
    with pytest.raises(
        StepDiffError, match=r"texts need a tokenizer, and .* has none: put CLIP's tokenizer.json"
    ):
        bare.features("texts")
    assert opened(weights / "model.ckpt").provenance("texts") == encoder.provenance("texts")


def test_ids_are_start_text_end_and_zeros(encoder: InternVideo) -> None:
    ids = encoder.token_ids(TEXTS)
    table, _ = vocabulary()
    letters = ["f", "l", "i", "p</w>", "th", "e</w>", "p", "a", "n", "c", "a", "k", "e</w>"]
    assert ids.shape == (3, 77)
    assert ids[0].tolist() == [513, *(table[letter] for letter in letters), 514] + [0] * 62
    assert ids[1].tolist() == [513, table["a</w>"], 514] + [0] * 74
    assert ids[2, -1] == 514 and (ids[2] > 0).all()
    counts = [len(tokens) for tokens in encoder.tokenizer(TEXTS, verbose=False)["input_ids"]]
    assert counts[:2] == [15, 3] and counts[2] > 77


def test_text_features_equal_the_modules_output(encoder: InternVideo) -> None:
    got = encoder.encode_texts(TEXTS)["embedding"]
    expected = torch.nn.functional.normalize(encoder.module.encode_text(encoder.token_ids(TEXTS)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    assert (
        abs(got[0] @ got[1]) < 0.99
        and got.shape[1:] == encoder.features("texts")["embedding"].shape
    )


def test_both_kinds_of_tokenizer_files_give_the_same_ids(
    encoder: InternVideo, weights: Path, tmp_path: Path
) -> None:
    from transformers import CLIPTokenizer

    ids, merges = vocabulary()
    library = CLIPTokenizer(vocab=ids, merges=[tuple(pair.split(" ")) for pair in merges])
    library.save_pretrained(tmp_path)
    shutil.copy(weights / "model.ckpt", tmp_path)
    assert (tmp_path / "tokenizer.json").is_file() and not (tmp_path / "vocab.json").exists()
    other = opened(tmp_path)
    assert torch.equal(other.token_ids(TEXTS), encoder.token_ids(TEXTS))
    assert other.provenance("texts") == encoder.provenance("texts")
    assert encoder.token_ids(TEXTS)[0, :15].tolist() == library(TEXTS[0])["input_ids"]


@pytest.mark.full
@pytest.mark.parametrize(
    "files, reason",
    [
        ({"vocab.json": "{", "merges.txt": ""}, "are damaged"),
        ({"vocab.json": "[1]", "merges.txt": ""}, "are damaged"),
        ({"tokenizer.json": "{}"}, "are damaged"),
        (
            {"vocab.json": '{"a": 0}', "merges.txt": ""},
            "it has 1 ids with <|endoftext|> at None, where 515",
        ),
        ({"vocab.json": json.dumps(vocabulary()[0]), "merges.txt": "t h e"}, "are damaged"),
        (
            {"vocab.json": json.dumps(vocabulary()[0]), "merges.txt": "x y"},
            "merges ('x', 'y'), not in its vocabulary",
        ),
    ],
)
def test_a_wrong_tokenizer_is_refused(
    weights: Path, tmp_path: Path, files: dict[str, str], reason: str
) -> None:
    shutil.copy(weights / "model.ckpt", tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(StepDiffError) as caught:
        opened(tmp_path).features("texts")
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_weights_are_required(tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match="needs weights: the published .ckpt"):
        load(NAME, device="cpu")
    with pytest.raises(StepDiffError, match=r"holds no .ckpt and no .safetensors"):
        load(NAME, str(tmp_path), "cpu")
    for ending in ("ckpt", "safetensors"):
        (tmp_path / f"model.{ending}").touch()
    with pytest.raises(
        StepDiffError, match=r"holds 2 checkpoints \(model.ckpt, model.safetensors\)"
    ):
        load(NAME, str(tmp_path), "cpu")


SMALL = Size(
    patch=16,
    width=64,
    layers=4,
    embedding=24,
    text_width=64,
    text_layers=1,
    image=32,
    vocabulary=20,
)
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return {
        name: torch.randn(values.shape)
        for name, values in InternVideoMM(SMALL).state_dict().items()
    }


def prefixed(state: State) -> State:
    return {f"clip.{name}": values for name, values in state.items()}


def load_checkpoint(path: Path, size: Size = SMALL) -> InternVideoMM:
    return load_model(path, NAME, size, torch.device("cpu"))


def refusal(path: Path, size: Size = SMALL) -> str:
    with pytest.raises(StepDiffError) as caught:
        load_checkpoint(path, size)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    return line


def write_published(path: Path, state: State) -> None:
    torch.save(
        {"state_dict": prefixed(state) | {"alignment.weight": torch.zeros(2)}, "global_step": 3},
        path,
    )


def write_old(path: Path, state: State) -> None:
    torch.save({"state_dict": prefixed(state)}, path, _use_new_zipfile_serialization=False)


def write_half(path: Path, state: State) -> None:
    torch.save(
        {"state_dict": {name: values.half() for name, values in prefixed(state).items()}}, path
    )


@pytest.mark.full
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
    loaded = load_checkpoint(tmp_path / file).state_dict()
    (tmp_path / file).write_bytes(b"")  # the weights are a copy, not a memory map
    assert set(loaded) == set(state)
    for name, values in loaded.items():
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, state[name], rtol=tolerance, atol=tolerance * 1e-3)


@pytest.mark.full
@pytest.mark.parametrize(
    "change, reason",
    [
        ({"visual_proj": None}, "lacks 1 tensors, first visual_proj"),
        ({"ln_final.bias": None, "ln_final.weight": None}, "lacks 2 tensors, first ln_final.bias"),
        ({"visual.conv2.weight": (3,)}, f"has 1 that {NAME} has not, first visual.conv2.weight"),
        (
            {"text_projection": (64, 25)},
            "has 1 of another shape, first text_projection [64, 25] for [64, 24]",
        ),
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


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, state: State) -> None:
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")  # no tensor name begins with clip.
    assert f"is another model's, without a tensor of {NAME}" in refusal(tmp_path / "model.ckpt")
    save_file({"encoder.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert f"is another model's, without a tensor of {NAME}" in refusal(
        tmp_path / "model.safetensors"
    )


@pytest.mark.full
@pytest.mark.parametrize("held, requested", [SIZES, list(SIZES)[::-1]])
def test_the_message_for_a_model_of_another_size_names_the_size(
    tmp_path: Path, held: str, requested: str
) -> None:
    path = tmp_path / "model.ckpt"
    with torch.device("meta"):
        shapes = InternVideoMM(SIZES[held]).state_dict()
    one = torch.zeros(())  # every tensor repeats one number: the file stays small
    torch.save(
        {
            "state_dict": {
                f"clip.{name}": one.expand(values.shape) for name, values in shapes.items()
            }
        },
        path,
    )
    with pytest.raises(
        StepDiffError, match=f"holds {held}, not {requested}: give --encoder {held}"
    ):
        load_model(path, requested, SIZES[requested], torch.device("cpu"))


@pytest.mark.full
def test_a_truncated_file_is_refused(tmp_path: Path, state: State) -> None:
    path = tmp_path / "model.ckpt"
    for write in (write_published, write_old):
        write(path, state)
        size = path.stat().st_size
        for kept in (0.999 * size, 0.9 * size, 0.2 * size, 10, 0):
            os.truncate(path, int(kept))
            assert "copy it again" in (line := refusal(path)) or "is refused" in line
    path.unlink()
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


GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
NORMS = {"ln_1", "ln_2", "ln_3", "ln_pre", "ln_final", "visual_ln_post"}
golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="no folder shared/golden next to the project"
)
by_hand = pytest.mark.skipif(
    "STEPDIFF_GOLDEN_L14" not in os.environ, reason="takes a minute: set STEPDIFF_GOLDEN_L14"
)


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    result = json.loads((GOLDEN / f"{name.replace('-', '_')}_state_dict.json").read_text())
    return {tensor: tuple(shape) for tensor, shape in result.items()}


def golden_tensor(tensor: str, shape: tuple[int, ...]) -> torch.Tensor:
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


@pytest.mark.full
@golden
@pytest.mark.parametrize(
    "name", ["internvideo-mm-b16", pytest.param("internvideo-mm-l14", marks=by_hand)]
)
def test_outputs_equal_those_of_the_published_model(name: str) -> None:
    with torch.device("meta"):
        model = InternVideoMM(SIZES[name]).eval()
    model.load_state_dict(
        {tensor: golden_tensor(tensor, shape) for tensor, shape in shapes(name).items()},
        assign=True,
    )
    expected = np.load(GOLDEN / f"{name.replace('-', '_')}.npz")
    pixels = torch.from_numpy(
        np.random.default_rng(7).standard_normal((2, 3, 8, 224, 224)).astype(np.float32)
    )
    seen: list[tuple[torch.Tensor, ...]] = []
    model.visual.register_forward_hook(lambda module, arguments, states: seen.append(states))
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
            values.numpy(),
            expected[array],
            rtol=0,
            atol=1e-4 * np.abs(expected[array]).max(),
            err_msg=array,
        )


@pytest.fixture(scope="module")
def tiny(encoder: InternVideo) -> InternVideoMM:
    return encoder.module


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


def test_a_text_is_read_at_its_first_end_token(tiny: InternVideoMM) -> None:
    """Tokens after the end token change nothing."""
    ids = torch.zeros(2, 77, dtype=torch.int64)
    ids[:, :4] = torch.tensor([513, 5, 6, 514])
    ids[1, 4:] = 7
    first, second = tiny.encode_text(ids)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
    ids[1, 2] = 8
    assert not torch.allclose(first, tiny.encode_text(ids)[1], atol=1e-3)


@pytest.mark.full
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
