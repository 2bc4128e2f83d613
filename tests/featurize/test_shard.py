"""A shard: fixed batches, isolated failures, pooled tokens."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from featurize.encoders import Encoder, load
from featurize.manifest import Manifest
from featurize.plan import Outcome
from featurize.shard import featurize_shards
from featurize.video.decode import Source, decoded_clips
from store import Store, View, text_key
from store.format.pool import pooled_view
from store.verbs import derive
from store.verbs.options import PoolOptions

from .conftest import Writer, clips_of, new_view, planned

ROWS = 16


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load("clip", str(tiny_clip), "cpu")


@pytest.fixture(scope="module")
def clips(video: Writer) -> Manifest:
    """Return clips of three videos; one video is missing and one clip begins after the end of its
    video."""
    paths = {name: video(name, frames=60, g=10) for name in ("one.mp4", "two.mp4")}
    paths["gone.mp4"] = paths["one.mp4"].with_name("gone.mp4")
    times = [("one.mp4", i / 4, i / 4 + 1) for i in range(6)]
    times += [
        ("gone.mp4", 0.0, 1.0),
        ("two.mp4", 0.0, 0.2),
        ("two.mp4", 1.0, 3.0),
        ("two.mp4", 2.0, 9.0),
    ]
    rows = [(f"{name}_{start}_{end}", name, start, end) for name, start, end in times]
    return clips_of(rows, paths)


def do(
    view: View,
    requested: Manifest,
    encoder: Encoder,
    rows: Iterable[int] | None = None,
    pool: int = 1,
) -> Outcome:
    """Featurize some rows of a view, by default all."""
    return featurize_shards(
        planned(view, requested, 4, rows, threads=2), encoder, "cpu", lambda rows: None, pool
    )


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pooling_equals_that_of_a_view(
    tmp_path: Path, encoder: Encoder, clips: Manifest, dtype: str
) -> None:
    """From float32 to the last bit, with the same provenance; from float16 up to its rounding."""
    store = Store.open(new_view(tmp_path / "store", encoder, clips, ROWS).paths.store)
    provenance, features = encoder.provenance("clips", dtype), encoder.features("clips", dtype)
    smaller, fewer, _ = pooled_view(provenance, features, 2)
    with store.lock():
        whole = store.create_view("clips", "whole", provenance, features, ROWS)
        small = store.create_view("clips", "small", smaller, fewer, ROWS)
    for view, pool in ((whole, 1), (small, 2)):
        do(view, clips, encoder, pool=pool)
    derive.pool(PoolOptions(str(store.path), "whole", "after", 2))
    after = store.view("clips", "after")
    good = np.flatnonzero(whole.status() == 1).tolist()
    assert len(good) == 8 and after.status().tolist() == small.status().tolist()
    expected, got = arrays(small, good), arrays(after, good)
    assert expected["tokens"].shape[1:] == (32, 24)
    for name in ("embedding", "frame_embedding"):
        np.testing.assert_array_equal(got[name], expected[name])
    if dtype == "float32":
        np.testing.assert_array_equal(got["tokens"], expected["tokens"])
        assert not after.provenance.difference(small.provenance)
    else:
        np.testing.assert_allclose(got["tokens"], expected["tokens"], rtol=2e-3, atol=2e-3)
        assert "'float16 from float16'" in small.provenance.difference(after.provenance)


def arrays(view: View, rows: Iterable[int]) -> dict[str, np.ndarray]:
    return {name: view.read(name, np.array(list(rows))) for name in view.features}


def test_a_part_of_a_shard_gives_the_same_bits(
    tmp_path: Path, encoder: Encoder, clips: Manifest
) -> None:
    whole = new_view(tmp_path / "whole", encoder, clips, ROWS)
    outcome = do(whole, clips, encoder)
    good = np.flatnonzero(whole.status() == 1).tolist()
    assert good == [0, 1, 2, 3, 4, 5, 7, 8] and outcome.repeated == 1
    reasons = dict(whole.failures().rows())
    assert "does not exist" in reasons["gone.mp4_0.0_1.0"]
    assert "ends at 9 s" in reasons["two.mp4_2.0_9.0"]
    parts = new_view(tmp_path / "parts", encoder, clips, ROWS)
    for rows in ([8, 1], [0, 2, 9], [3], [4, 5, 6, 7]):
        do(parts, clips, encoder, rows)
    expected, got = arrays(whole, good), arrays(parts, good)
    assert set(expected) == {"tokens", "frame_embedding", "embedding"}
    for name, array in expected.items():
        assert array.any(axis=tuple(range(1, array.ndim))).all()
        np.testing.assert_array_equal(got[name], array)
    assert parts.failures().sort("key").equals(whole.failures().sort("key"))


@pytest.mark.full
def test_frames_and_sampling_are_passed_to_the_decoder(
    tmp_path: Path, tiny_clip: Path, clips: Manifest
) -> None:
    """With one frame and centre sampling, of 20 frames from 0.25 s on it is the eleventh."""
    centre = load("clip", str(tiny_clip), "cpu", frames=1, sampling="segment-centres")
    view = new_view(tmp_path / "store", centre, clips, ROWS)
    do(view, clips, centre)
    source = str(clips.paths["one.mp4"])
    ((_, done),) = decoded_clips({0: Source(source, 0.75, 0.8)}, 1, centre.picture)
    alone = centre.encode_clips(done.frames[None])
    assert view.features["tokens"].shape == alone["tokens"].shape[1:] == (16, 24)
    np.testing.assert_allclose(view.read("embedding", np.array([1])), alone["embedding"], atol=1e-5)
    first = new_view(tmp_path / "first", load("clip", str(tiny_clip), "cpu", frames=1), clips, ROWS)
    assert "frames '1 at linspace" in first.provenance.difference(view.provenance)


def test_a_part_of_the_texts_gives_the_same_bits(tmp_path: Path, encoder: Encoder) -> None:
    texts = ["whisk", "chop the onion", "", "pour the batter slowly " * 20, "flip", "wait", "serve"]
    keys = [text_key(text) for text in texts]
    requested = Manifest(
        "texts", pl.DataFrame({"key": keys, "text": texts}), {}, {keys[2]: "it is empty"}
    )
    whole = new_view(tmp_path / "whole", encoder, requested, ROWS)
    assert do(whole, requested, encoder).truncated == 1
    assert whole.failures().rows() == [(keys[2], "it is empty")]
    parts = new_view(tmp_path / "parts", encoder, requested, ROWS)
    for rows in ([5, 0], [2, 3], [1, 4, 6]):
        do(parts, requested, encoder, rows)
    good = [0, 1, 3, 4, 5, 6]
    np.testing.assert_array_equal(
        arrays(parts, good)["embedding"], arrays(whole, good)["embedding"]
    )


@pytest.mark.full
def test_an_unusual_file_fails_only_its_own_clips(
    tmp_path: Path, encoder: Encoder, video: Writer
) -> None:
    """Neither an invalid path nor a picture that is too large after the resize raises an
    FFmpegError."""
    narrow = tmp_path / "narrow.png"
    Image.new("1", (200_000, 1)).save(narrow)
    paths = {
        "good.mp4": video("good.mp4", g=10),
        "nul.mp4": tmp_path / "nul\0.mp4",
        "narrow.png": narrow,
    }
    rows = [(f"{name}_{i}", name, i / 2, i / 2 + 1) for i in range(2) for name in paths]
    requested = clips_of(rows, paths)
    view = new_view(tmp_path / "store", encoder, requested, ROWS)
    assert do(view, requested, encoder).error is None
    assert np.flatnonzero(view.status() == 1).tolist() == [0, 3]
    reasons = dict(view.failures().rows())
    assert sorted(reasons) == ["narrow.png_0", "narrow.png_1", "nul.mp4_0", "nul.mp4_1"]
    assert "embedded null byte" in reasons["nul.mp4_0"]
    assert (
        f"{narrow} cannot be decoded (ValueError: a picture of 200000 x 1 is too narrow"
        in reasons["narrow.png_0"]
    )
    alone = new_view(tmp_path / "alone", encoder, requested, ROWS)
    do(alone, requested, encoder, [0, 3])
    np.testing.assert_array_equal(arrays(view, [0, 3])["tokens"], arrays(alone, [0, 3])["tokens"])
