"""Images in tar files: python -m annotate.manifest --images and python -m featurize give what the same images as files
give, and their captions train."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from annotate import manifest
from featurize.video.decode import Clip, Failure, read_clips
from featurize.video.media_file import identity
from featurize.video.picture import Crop
from heads.data.clips import Features, split_texts
from store import Store
from store.view import OK
from tests.featurize.test_featurize_run import apart, prepared, started, until

Run = Callable[..., tuple[int, dict[str, object], str]]
KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def picture(number: int, kind: str) -> bytes:
    """Return an image of its own size and colours."""
    pixels = np.random.default_rng(number).integers(0, 255, (8, 12, 3), np.uint8)
    file = io.BytesIO()
    size = (60 + 7 * number, 50 + 3 * number)
    Image.fromarray(pixels).resize(size).save(file, KINDS[kind], **({"lossless": True} if kind == "webp" else {}))
    return file.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tar files of seven images as img2dataset writes them, and the same images as files."""
    folder = tmp_path_factory.mktemp("laion")
    for number in range(7):
        shard, key, kind = f"{number // 4:05d}", f"{number // 4:05d}{number % 4:04d}", list(KINDS)[number % 3]
        (folder / shard).mkdir(exist_ok=True)
        (folder / shard / f"{key}.{kind}").write_bytes(picture(number, kind))
        (folder / shard / f"{key}.txt").write_text(f"caption {number}")
        (folder / shard / f"{key}.json").write_text(json.dumps({"caption": "of the json", "key": key}))
    for shard in ("00000", "00001"):
        write_tar(
            folder / f"{shard}.tar", {file.name: file.read_bytes() for file in sorted((folder / shard).iterdir())}
        )
    return folder


@pytest.fixture
def clips(images: Path, tmp_path: Path) -> Path:
    out = tmp_path / "images.parquet"
    assert manifest.main(["--images", str(images / "{00000..00001}.tar"), "--out", str(out)]) == 0
    return out


def as_files(clips: Path, out: Path) -> Path:
    """Write a manifest of the same images as files of folders."""
    unpacked = pl.col("video").str.replace(".tar/", "/", literal=True)
    pl.read_parquet(clips).with_columns(unpacked).write_parquet(out)
    return out


def test_features_and_identities_are_those_of_the_same_images_as_files(
    clips: Path, tmp_path: Path, featurize: Run, tiny_clip: Path
) -> None:
    of_files = as_files(clips, tmp_path / "files.parquet")
    stores = []
    for asked, name in ((clips, "tars"), (of_files, "files")):
        status, summary, _ = featurize(
            "--manifest", asked, "--store", tmp_path / name, "--encoder", "clip", "--weights", tiny_clip
        )
        assert status == 0 and summary["failed"] == 0
        stores.append(Store.open(tmp_path / name))
    tars, files = (store.catalog("clips").frame().sort("key") for store in stores)
    same = ["key", "row", "start", "end", "caption", "split", "video_bytes", "video_digest"]
    assert tars.select(same).equals(files.select(same)) and tars["video_digest"].null_count() == 0
    assert tars["key"][5] == "00001/000010001" and tars["video"][5].endswith("00001.tar/000010001.webp")
    assert tars["caption"].to_list() == [f"caption {number}" for number in range(7)]
    views = [store.view("clips", "clip") for store in stores]
    for feature in views[0].features:
        first, second = (view.read(feature, np.arange(7)) for view in views)
        assert np.array_equal(first, second) and np.ptp(first) > 0
    # the same rows may move from files to tar files, and a run repeated does nothing
    status, summary, _ = featurize(
        "--manifest", of_files, "--store", tmp_path / "tars", "--encoder", "clip", "--weights", tiny_clip
    )
    assert status == 0 and summary["done"] == 0
    found = Features(stores[0], "clip", "tokens")
    texts = pl.concat(split_texts(stores[0].catalog("clips"), "caption", found, "train"))
    assert set(texts["text"]) == set(tars["caption"])


def test_an_image_is_repeated_for_every_frame(images: Path) -> None:
    for number, kind in enumerate(KINDS):
        path = images / f"00000.tar/00000000{number}.{kind}"
        (done,) = read_clips(path, [(0.0, 1.0)], 8, Crop(36, 32))
        (alone,) = read_clips(images / f"00000/{path.name}", [(0.0, 1.0)], 8, Crop(36, 32))
        assert isinstance(done, Clip) and isinstance(alone, Clip)
        assert np.array_equal(done.frames, alone.frames) and done.frames.shape[0] == 8 and not done.repeats
        assert (done.frames == done.frames[:1]).all()
        assert identity(path) == identity(images / f"00000/{path.name}")


def test_a_member_that_is_missing_damaged_or_hostile_fails_alone(tmp_path: Path) -> None:
    good = picture(1, "jpg")
    tar = write_tar(
        tmp_path / "a.tar",
        {
            "good.jpg": good,
            "cut.jpg": good[:60],
            "text.jpg": b"a recipe\n" * 100,
            "list.jpg": b"ffconcat version 1.0\nfile good.jpg\n",
            "empty.jpg": b"",
        },
    )

    def read(name: str) -> Clip | Failure:
        (done,) = read_clips(tar / name, [(0.0, 1.0)], 2, Crop(36, 32))
        return done

    assert isinstance(read("good.jpg"), Clip)
    for name, reason in {
        "cut.jpg": "",
        "text.jpg": "no frame that can be decoded",
        "list.jpg": "is not a video in a known format",
        "empty.jpg": "is empty (0 bytes)",
        "gone.jpg": "a.tar has no member gone.jpg: make the manifest again",
        "../a.tar": "has no member",
    }.items():
        done = read(name)
        assert isinstance(done, Failure) and reason in done.reason and "\n" not in done.reason, (name, done)
    assert identity(tar / "gone.jpg") is None and identity(tmp_path / "gone.tar/x.jpg") is None
    os.truncate(tar, tar.stat().st_size // 2)
    assert isinstance(read("good.jpg"), Clip)


@pytest.mark.slow
def test_a_run_on_tar_files_that_is_killed_continues(clips: Path, tmp_path: Path, tiny_clip: Path) -> None:
    seven = pl.read_parquet(clips)
    pl.concat(seven.with_columns(pl.col("clip") + f"-{copy}") for copy in range(4)).write_parquet(clips)
    asked = ("--manifest", clips, "--encoder", "clip", "--weights", tiny_clip, "--workers", 1)
    view = prepared(tmp_path / "store", tiny_clip)
    process = started(*asked, "--store", tmp_path / "store")
    until(lambda: (view.status() == OK).sum() >= 3, process)
    process.kill()
    process.communicate()
    some = int((view.status() == OK).sum())
    assert 3 <= some < 28
    status, summary, _ = apart(*asked, "--store", tmp_path / "store")
    assert status == 0 and summary["already"] == some and summary["done"] == 28 - some
    view = Store.open(tmp_path / "store").view("clips", "clip")
    embedding = view.read("embedding", np.arange(28))
    for (video,), own in view.catalog.frame().group_by("video"):
        assert len(own) == 4 and np.unique(embedding[own["row"].to_numpy()], axis=0).shape[0] == 1, video
