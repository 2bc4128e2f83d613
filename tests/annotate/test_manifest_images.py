"""Guarantees of annotate/sources/images.py, by python -m annotate.manifest --images."""

import io
import os
import tarfile
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from annotate.sources import images
from common.errors import StepDiffError
from tests.annotate.test_manifest_sources import made


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 10, 10)).save(file, "JPEG")
    return file.getvalue()


def write_tar(path: Path, files: dict[str, bytes], *more: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for info in more:
            tar.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_images_of_webdataset_are_clips_with_their_captions(tmp_path: Path) -> None:
    (tmp_path / "laion").mkdir()
    files = {
        "./000000000.jpg": jpeg(),
        "./000000000.txt": b"a red\n square",
        "./000000000.json": b'{"caption": "of the json", "width": 8}',
        "sub.dir/1.x.JPG": jpeg(),  # the key is sub.dir/1 and the kind x.jpg, which is no image
        "sub.dir/2.PNG": jpeg(),
        "sub.dir/2.json": b'{"caption": "of the json"}',
    }
    write_tar(tmp_path / "laion/00000.tar", files)
    write_tar(tmp_path / "laion/00001.tar", {"000000000.jpg": jpeg(), "000000000.txt": b"another"})
    record, clips = made(tmp_path, "images", (str(tmp_path / "laion"),))
    assert clips.rows() == [
        ("00000/000000000", "laion/00000.tar/000000000.jpg", 0.0, 1.0, "train", "a red square"),
        ("00000/sub.dir/2", "laion/00000.tar/sub.dir/2.PNG", 0.0, 1.0, "train", "of the json"),
        ("00001/000000000", "laion/00001.tar/000000000.jpg", 0.0, 1.0, "train", "another"),
    ]
    assert record["captioned"] == 3 and record["unusable"] == {}
    pattern = str(tmp_path / "laion/{00000..00001}.tar")
    assert made(tmp_path, "images", (pattern,), out="other.parquet")[1].equals(clips)
    moved = made(tmp_path, "images", (pattern,), out="new/folder/m.parquet")[1]  # folders are created
    assert moved["video"][0] == "../../laion/00000.tar/000000000.jpg"


def test_an_image_without_a_caption_is_no_clip_and_is_counted(tmp_path: Path) -> None:
    files = {
        **{f"{number}.jpg": jpeg() for number in range(7)},
        "0.txt": b"good",
        "0.png": jpeg(),
        "1.txt": b" \n",
        "2.json": b"[1",
        "3.json": b'{"caption": null}',
        "4.json": b"[" * 5000,
        "5.txt": b"x" * (images.MOST_CAPTION + 1),
        "9.txt": b"no image",
    }
    record, clips = made(tmp_path, "images", (str(write_tar(tmp_path / "a.tar", files)),))
    assert clips["clip"].to_list() == ["a/0"] and clips["caption"].to_list() == ["good"]
    assert record["unusable"] == {images.NO_CAPTION: 6, images.NO_IMAGE: 1, images.TWICE: 1}


def test_links_and_unsafe_names_in_a_tar_are_counted_and_are_no_clips(tmp_path: Path) -> None:
    link = tarfile.TarInfo("0.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    files = {"../1.jpg": jpeg(), "/2.jpg": jpeg(), "0.txt": b"a link", "3.jpg": jpeg(), "3.txt": b"good"}
    record, clips = made(tmp_path, "images", (str(write_tar(tmp_path / "a.tar", files, link)),))
    assert clips["clip"].to_list() == ["a/3"]
    assert record["unusable"] == {images.REFUSED: 3, images.NO_IMAGE: 1}


def test_a_damaged_tar_gives_the_images_before_the_damage_and_is_named(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"0.jpg": jpeg(), "0.txt": b"good", "1.jpg": jpeg(), "1.txt": b"lost"})
    with tarfile.open(tar) as read:
        cut = read.getmember("1.jpg").offset_data + 10
    os.truncate(tar, cut)
    record, clips = made(tmp_path, "images", (str(tar),))
    assert clips["clip"].to_list() == ["a/0"]
    assert record["unusable"] == {f"{tar} is cut short after 2 members; copy it again": 1}


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "0.tar", {"0.jpg": jpeg(), "0.txt": b"x"})
    with pytest.raises(StepDiffError, match="would give two images one id"):
        made(tmp_path, "images", (str(tmp_path / "a"), str(tmp_path / "b")))


def test_a_tar_is_read_once_in_order_and_its_pictures_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = os.urandom(2**18)
    files = {f"{number}.{kind}": big if kind == "jpg" else b"words" for number in range(9) for kind in ("jpg", "txt")}
    tar = write_tar(tmp_path / "a.tar", files)
    places: list[int] = []
    nbytes = 0
    real = os.pread

    def spy(fd: int, count: int, offset: int) -> bytes:
        nonlocal nbytes
        places.append(offset)
        nbytes += count
        return real(fd, count, offset)

    monkeypatch.setattr(os, "pread", spy)
    assert len(list(images.read_images([str(tar)], tmp_path, Counter()))[0]) == 9
    assert places == sorted(places) and nbytes < 2**16


def img2dataset(folder: Path, form: str) -> Path:
    """Write what img2dataset writes: a table, and the images that it got as a tar file or as files."""
    folder.mkdir()
    rows = {
        "url": ["https://a/0.jpg", "https://a/1.jpg", "https://a/2.jpg", "https://a/3.jpg"],
        "caption": ["zero", "one", None, "three"],
        "key": ["000000000", "000000001", "000000002", "000000003"],
        "status": ["success", "failed_to_download", "success", "success"],
        "error_message": [None, "HTTP Error 404", None, None],
        "width": [8, None, 8, 8],
        "sha256": ["a", None, "b", "c"],
    }
    pl.DataFrame(rows).write_parquet(folder / "00000.parquet")
    files = {f"{key}.jpg": jpeg() for key in ("000000000", "000000002")} | {"000000000.txt": b"zero"}
    if form == "webdataset":
        write_tar(folder / "00000.tar", files)
    else:
        (folder / "00000").mkdir()
        for name, content in files.items():
            (folder / "00000" / name).write_bytes(content)
    return folder / "00000.parquet"


@pytest.mark.parametrize("form", ["webdataset", "files"])
def test_tables_of_img2dataset_name_the_images_that_it_got(tmp_path: Path, form: str) -> None:
    table = img2dataset(tmp_path / "laion", form)
    record, clips = made(tmp_path, "images", (str(table),))
    place = "laion/00000.tar/000000000.jpg" if form == "webdataset" else "laion/00000/000000000.jpg"
    assert clips.rows() == [("00000/000000000", place, 0.0, 1.0, "train", "zero")]
    counts = {images.NOT_DOWNLOADED: 1, images.NO_CAPTION: 1, images.NO_IMAGE: 1}
    assert record["unusable"] == counts
    if form == "files":  # a folder without tar files is its tables
        assert made(tmp_path, "images", (str(table.parent),))[1].equals(clips)


def test_tables_of_another_form_are_refused(tmp_path: Path) -> None:
    pl.DataFrame({"URL": ["x"], "TEXT": ["y"]}).write_parquet(tmp_path / "list.parquet")
    with pytest.raises(StepDiffError, match=r"list.parquet: no column caption; give the \.parquet that img2dataset"):
        made(tmp_path, "images", (str(tmp_path / "list.parquet"),))
    pl.DataFrame({"key": ["x"], "jpg": [b"y"]}).write_parquet(tmp_path / "inside.parquet")
    with pytest.raises(StepDiffError, match="holds the images themselves"):
        made(tmp_path, "images", (str(tmp_path / "inside.parquet"),))
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(StepDiffError, match="damaged.parquet"):
        made(tmp_path, "images", (str(tmp_path / "damaged.parquet"),))
    keys = {"key": ["../up", "/etc/x"], "caption": ["a", "b"], "status": ["success"] * 2}
    pl.DataFrame(keys).write_parquet(tmp_path / "unsafe.parquet")
    (tmp_path / "up.jpg").write_bytes(jpeg())
    with pytest.raises(StepDiffError, match=r"2 x links, devices, sparse files and unsafe names"):
        made(tmp_path, "images", (str(tmp_path / "unsafe.parquet"),))
