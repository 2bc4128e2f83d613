"""The InternVideo encoder with a small random model: features, provenance, texts, and a whole run into a store."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from common.errors import StepDiffError
from featurize.encoders import Encoder, digest, load
from featurize.encoders.internvideo.mm import InternVideo, InternVideoB16
from featurize.encoders.internvideo.model import InternVideoMM, Size
from featurize.manifest import Manifest
from featurize.plan import pending, tasks
from featurize.shard import featurize_shard
from store import Store, View

TINY = Size(patch=16, width=128, layers=5, embedding=24, text_width=64, text_layers=2, image=48, vocabulary=515)
NAME = "internvideo-mm-b16"
TEXTS = ["flip the pancake", "a", "clean the pool with a long brush, then rinse it twice " * 8]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Writer = Callable[..., Path]


def vocabulary() -> tuple[dict[str, int], list[str]]:
    """Return CLIP's bytes, one merge, and the start and end tokens: 515 ids."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "th", "<|startoftext|>", "<|endoftext|>"]
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
    np.testing.assert_allclose(got["embedding"], torch.nn.functional.normalize(embedding), rtol=0, atol=1e-5)


def test_a_still_image_is_encoded_by_the_vit_once(encoder: InternVideo, frames: np.ndarray) -> None:
    still = frames[:, :1].repeat(8, axis=1)
    seen: list[int] = []
    hook = encoder.module.visual.register_forward_hook(lambda module, given, states: seen.append(len(given[0])))
    got = encoder.encode_clips(still)
    hook.remove()
    assert sum(seen) == 8  # three frames, padded to a chunk
    embedding, tokens = encoder.module.encode_video(normalised(still))
    np.testing.assert_allclose(got["tokens"], tokens, rtol=0, atol=1e-5 * tokens.abs().max().item())
    np.testing.assert_allclose(got["embedding"], torch.nn.functional.normalize(embedding), rtol=0, atol=1e-5)


@pytest.mark.parametrize("entity", ["clips", "texts"])
def test_declared_features_match_the_encoders_output(encoder: Encoder, frames: np.ndarray, entity: str) -> None:
    got = encoder.encode_clips(frames) if entity == "clips" else encoder.encode_texts(TEXTS)
    declared = encoder.features(entity)
    assert {name: array.shape[1:] for name, array in got.items()} == {n: f.shape for n, f in declared.items()}
    np.testing.assert_allclose(np.linalg.norm(got["embedding"], axis=1), 1, rtol=1e-5)
    assert all(array.dtype == np.float32 for array in got.values())


def test_the_same_batch_gives_the_same_bits(encoder: Encoder, frames: np.ndarray) -> None:
    once, again = encoder.encode_clips(frames), encoder.encode_clips(frames)
    for name, array in once.items():
        assert array.tobytes() == again[name].tobytes()


def test_unusable_input_is_refused(encoder: Encoder) -> None:
    with pytest.raises(StepDiffError, match="text 1 of the batch: the text is empty"):
        encoder.encode_texts(["ok", "  "])
    with pytest.raises(StepDiffError, match="takes frames"):
        encoder.encode_clips(np.zeros((1, 8, 224, 224, 3), np.uint8))


def test_tokenizer_files_do_not_change_the_provenance_of_clips(
    encoder: InternVideo, weights: Path, tmp_path: Path
) -> None:
    shutil.copy(weights / "model.ckpt", tmp_path)
    expected = encoder.provenance("clips")
    assert expected.crop == "short side 55, centre crop 48"
    bare, file = opened(tmp_path), opened(tmp_path / "model.ckpt")
    assert expected == bare.provenance("clips") == file.provenance("clips")
    for place in (weights, tmp_path, tmp_path / "model.ckpt"):  # the values that a finished run compares
        assert digest(NAME, place) == expected.weights
    with pytest.raises(StepDiffError, match=r"texts need a tokenizer, and .* has none: put CLIP's tokenizer.json"):
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
    assert abs(got[0] @ got[1]) < 0.99


def test_both_kinds_of_tokenizer_files_give_the_same_ids(encoder: InternVideo, weights: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    "files, reason",
    [
        ({"vocab.json": "{", "merges.txt": ""}, "are damaged"),
        ({"vocab.json": "[1]", "merges.txt": ""}, "are damaged"),
        ({"tokenizer.json": "{}"}, "are damaged"),
        ({"vocab.json": '{"a": 0}', "merges.txt": ""}, "it has 1 ids with <|endoftext|> at None, where 515"),
        ({"vocab.json": json.dumps(vocabulary()[0]), "merges.txt": "t h e"}, "are damaged"),
        ({"vocab.json": json.dumps(vocabulary()[0]), "merges.txt": "x y"}, "merges ('x', 'y'), not in its vocabulary"),
    ],
)
def test_a_wrong_tokenizer_is_refused(weights: Path, tmp_path: Path, files: dict[str, str], reason: str) -> None:
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
    with pytest.raises(StepDiffError, match=r"holds 2 checkpoints \(model.ckpt, model.safetensors\)"):
        load(NAME, str(tmp_path), "cpu")


@pytest.mark.parametrize("dtype", ["float16", "int8", "float32"])
def test_stored_features_equal_the_modules_output(
    encoder: InternVideo, video: Writer, tmp_path: Path, dtype: str
) -> None:
    """Featurize videos; the tokens of a view are those of the clip's frames in order."""
    from featurize.video.decode import Clip, read_clips
    from featurize.video.picture import Crop

    path = video("cooking.mp4", frames=60, g=10)
    intervals = [(0.0, 1.0), (0.5, 2.0), (1.0, 3.0)]
    keys = [f"cooking_{start}_{end}" for start, end in intervals]
    table = pl.DataFrame({"key": keys, "video": "cooking.mp4"}).with_columns(
        start=pl.Series([start for start, _ in intervals]), end=pl.Series([end for _, end in intervals])
    )
    asked = Manifest("clips", table, {"cooking.mp4": path}, {})
    store = Store.open(tmp_path / "store", create=True)
    with store.lock():
        store.catalog("clips").append(asked.rows)
        made = encoder.provenance("clips", dtype), encoder.features("clips", dtype)
        view: View = store.create_view("clips", NAME, *made, 16)
        view.resize()
    (task,) = tasks(store, view, pending(asked, np.arange(3), np.ones(3, bool)), 2, 1)
    featurize_shard(task, encoder, "cpu", lambda rows: None)
    rows = np.arange(3)
    stored = view.read("tokens", rows, dtype="float32")
    clips = [c for c in read_clips(path, intervals, 8, Crop(encoder.short_side, encoder.size)) if isinstance(c, Clip)]
    pixels = np.stack([clip.frames for clip in sorted(clips, key=lambda clip: clip.index)])
    embedding, tokens = encoder.module.encode_video(normalised(pixels))
    exact = tokens.numpy()
    allowed = {"float32": 1e-5, "float16": 1e-3, "int8": 1e-2}[dtype]
    assert np.abs(stored - exact).max() <= allowed * np.abs(exact).max()
    np.testing.assert_allclose(
        view.read("embedding", rows), torch.nn.functional.normalize(embedding), rtol=0, atol=1e-5
    )
