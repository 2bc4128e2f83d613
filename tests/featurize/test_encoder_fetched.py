"""Encoders with weights of `python -m weights fetch`; skipped if they were not fetched."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from common.errors import StepDiffError
from featurize.encoders import Encoder, load
from featurize.video.frames import chosen
from featurize.video.picture import Crop, square
from weights import resolve

VIDEOS = Path(__file__).parents[2].parent / "shared" / "videos"
# ImageNet classes: sharks, rays, sea snake, snorkel, scuba diver
AQUATIC = [2, 3, 4, 5, 6, 65, 801, 983]


def fetched(name: str) -> Path:
    try:
        return resolve(name)
    except StepDiffError as problem:
        pytest.skip(str(problem))


@pytest.fixture(scope="module")
def efficientnet() -> Encoder:
    fetched("efficientnet-lite0")
    return load("efficientnet-lite0", device="cpu")


@pytest.fixture(scope="module")
def mpnet() -> Encoder:
    fetched("mpnet-base")
    return load("mpnet-base", device="cpu")


@pytest.fixture(scope="module")
def package() -> torch.nn.Module:
    """The model of the published package with the same weights, without folded layers."""
    from efficientnet_lite_pytorch import EfficientNet
    from safetensors.torch import load_file

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(load_file(fetched("efficientnet-lite0") / "model.safetensors"))
    return model.eval()


def as_trained(frames: np.ndarray) -> torch.Tensor:
    return (torch.from_numpy(frames).flatten(0, 1).permute(0, 3, 1, 2).float() - 127) / 128


def clip_of(video: str) -> np.ndarray:
    """Return the 8 frames [8, 224, 224, 3] of a whole video."""
    path = VIDEOS / video
    if not path.exists():
        pytest.skip(f"the sample video {path.name} is not here")
    with av.open(str(path)) as opened:
        decoded = list(opened.decode(video=0))
    return np.stack([square(decoded[i], Crop(224, 224)) for i in chosen(len(decoded), 8)])


def test_tokens_equal_the_package(efficientnet: Encoder, package: torch.nn.Module) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 224, 224, 3), dtype=np.uint8)
    frames[0] = np.linspace(0, 255, 224).astype(np.uint8)[:, None, None]  # a smooth picture
    got = efficientnet.encode_clips(frames)
    with torch.inference_mode():
        maps = package.extract_features(as_trained(frames))
    assert maps.shape == (24, 1280, 7, 7)
    assert maps.std() > 0.1
    frame, row, column = 5, 6, 2  # frame-major, then row by row: token 5 * 49 + 6 * 7 + 2
    token = got["tokens"][1, frame * 49 + row * 7 + column]
    np.testing.assert_allclose(token, maps[8 + frame, :, row, column], rtol=0, atol=1e-3)
    expected = maps.permute(0, 2, 3, 1).reshape(3, 392, 1280).numpy()
    np.testing.assert_allclose(got["tokens"], expected, rtol=0, atol=1e-4 * expected.max())
    np.testing.assert_allclose(got["embedding"], expected.mean(1), rtol=0, atol=1e-4)


def test_pretrained_features_distinguish_water_from_a_kitchen(efficientnet: Encoder, package: torch.nn.Module) -> None:
    frames = np.stack([clip_of("cleaning_pool_a.mp4"), clip_of("flipping_a_pancake.mkv")])
    pooled = torch.from_numpy(efficientnet.encode_clips(frames)["tokens"])
    pooled = pooled.unflatten(1, (8, 49)).mean(2)
    with torch.inference_mode():
        chances = package._fc(pooled).softmax(-1)
    pool, kitchen = chances[..., AQUATIC].sum(-1).mean(1)
    assert pool > 0.1 > 5 * kitchen


def test_similar_clips_are_closer(efficientnet: Encoder) -> None:
    names = ("cleaning_pool_a.mp4", "cleaning_pool_b.mp4", "flipping_a_pancake.mkv")
    embedding = efficientnet.encode_clips(np.stack([clip_of(n) for n in names]))["embedding"]
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    cosine = embedding @ embedding.T
    assert cosine[0, 1] > cosine[0, 2] + 0.1


def test_declared_efficientnet_features_match_its_output(efficientnet: Encoder) -> None:
    frames = np.zeros((2, 8, 224, 224, 3), np.uint8)
    got = efficientnet.encode_clips(frames)
    declared = efficientnet.features("clips")
    assert declared["tokens"].dtype == "float16"
    assert {k: v.shape[1:] for k, v in got.items()} == {k: f.shape for k, f in declared.items()}
    assert efficientnet.provenance("clips").crop == "short side 224, centre crop 224"
    with pytest.raises(StepDiffError, match="encodes clips, not texts"):
        efficientnet.features("texts")
    with pytest.raises(StepDiffError, match="encodes clips, not texts"):
        efficientnet.encode_texts(["a"])


def test_efficientnet_is_deterministic(efficientnet: Encoder) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (2, 8, 224, 224, 3), dtype=np.uint8)
    once, again = efficientnet.encode_clips(frames), efficientnet.encode_clips(frames)
    assert once["tokens"].tobytes() == again["tokens"].tobytes()
    assert once["embedding"].tobytes() == again["embedding"].tobytes()


def test_sentences_of_similar_meaning_are_closer(mpnet: Encoder) -> None:
    texts = ["flip the pancake", "turn the crepe over", "clean the pool"]
    embedding = mpnet.encode_texts(texts)["embedding"]
    assert embedding.shape[1:] == mpnet.features("texts")["embedding"].shape == (768,)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
    cosine = embedding @ embedding.T
    assert cosine[0, 1] > cosine[0, 2] + 0.2


def test_a_long_text_is_truncated_and_an_empty_one_refused(mpnet: Encoder) -> None:
    long = "stir the soup " * 400
    both = mpnet.encode_texts([long, long + "then drive the car home"])["embedding"]
    np.testing.assert_array_equal(both[0], both[1])
    assert mpnet.provenance("texts").crop == "first 384 tokens"
    with pytest.raises(StepDiffError, match="the text is empty"):
        mpnet.encode_texts(["fine", ""])
