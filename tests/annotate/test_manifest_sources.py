"""Guarantees of annotate/sources/{blocks,sentences,images}.py, by python -m annotate.manifest."""

import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from annotate import manifest
from annotate.sources import images, sentences
from annotate.sources.blocks import place_of, write_frames
from common.errors import StepDiffError
from featurize.manifest import read_manifest

ALIGN = {  # htm_align.json: alignable, start, end, text
    "-3CEg4y7mQM": [
        [0, 3.1, 5.0, "welcome back to my channel"],
        [1, 10.739, 17.535, "add extra virgin olive oil and garlic"],
        [1, 18.0, 21.25, "saute\nthem"],
    ]
}
SENTENCIFIED = {  # sentencified_htm_370k.json
    "abcdefghijk": {
        "start": [4.13, 6.5, 9.0, 12.0],
        "end": [6.5, 8.36, 9.0, 80.0],
        "text": ["so we've moved location", "and as you can see", "a moment", "a very long sentence"],
    },
    "lmnopqrstuv": {"start": [0.5], "end": [0.9], "text": ["short"]},
}
AUTO_ALIGNED = """vid,timestamp,text
6yooogsTG8k,284,and starting with pink
abcdefghijk,1,at the start
6yooogsTG8k,284,knead that a little bit
6yooogsTG8k,12,"first, of this video"
"""


def made(folder: Path, *given: object, out: str = "m.parquet") -> tuple[dict[str, Any], pl.DataFrame]:
    """Run the command; return its record and the manifest."""
    record = manifest.run(
        manifest.ManifestOptions(str(folder / out), **dict(zip(given[::2], given[1::2], strict=True)))
    )
    manifest.show(record)
    return record, pl.read_parquet(folder / out)


def test_each_sentence_is_a_clip_named_by_its_video_and_times(tmp_path: Path) -> None:
    file = tmp_path / "sentencified_htm_370k.json"
    file.write_text(json.dumps(SENTENCIFIED))
    record, clips = made(tmp_path, "sentences", str(file), "on_disk", False)
    assert clips.drop("narration").rows() == [
        ("abcdefghijk_4.13_6.5", "videos/abcdefghijk.mp4", 4.13, 6.5, "train"),
        ("abcdefghijk_6.5_8.36", "videos/abcdefghijk.mp4", 6.5, 8.36, "train"),
        ("abcdefghijk_12.0_80.0", "videos/abcdefghijk.mp4", 12.0, 80.0, "train"),
        ("lmnopqrstuv_0.5_0.9", "videos/lmnopqrstuv.mp4", 0.5, 0.9, "train"),
    ]
    assert clips["narration"][1] == "and as you can see" and record["narrated"] == 4 and record["missing"] is None
    assert record["narration_faults"] == {"sentences of no length": 1} and record["videos"] == 2
    assert not read_manifest(tmp_path / "m.parquet").failures


def test_sentences_that_cannot_be_aligned_are_no_clips_and_are_counted(tmp_path: Path) -> None:
    (tmp_path / "htm_align.json").write_text(json.dumps(ALIGN))
    record, clips = made(tmp_path, "sentences", str(tmp_path / "htm_align.json"), "on_disk", False)
    assert clips["clip"].to_list() == ["-3CEg4y7mQM_10.739_17.535", "-3CEg4y7mQM_18.0_21.25"]
    assert clips["narration"][1] == "saute them"
    assert record["narration_faults"] == {"sentences that are not alignable": 1}


def test_sentences_of_one_interval_are_one_clip(tmp_path: Path) -> None:
    (tmp_path / "htm_aa_v1.csv").write_text(AUTO_ALIGNED)
    _, clips = made(tmp_path, "sentences", str(tmp_path / "htm_aa_v1.csv"), "on_disk", False)
    assert clips.select("clip", "start", "end", "narration").rows() == [
        ("6yooogsTG8k_10.4_13.6", 10.4, 13.6, "first, of this video"),
        ("6yooogsTG8k_282.4_285.6", 282.4, 285.6, "and starting with pink knead that a little bit"),
        ("abcdefghijk_0.0_2.6", 0.0, 2.6, "at the start"),
    ]
    _, longer = made(tmp_path, "sentences", str(tmp_path / "htm_aa_v1.csv"), "on_disk", False, "seconds", 10.0)
    assert longer.select("start", "end").rows() == [(7.0, 17.0), (279.0, 289.0), (0.0, 6.0)]


def test_sentences_of_a_csv_are_read_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [f"video{number:06d}" for number in range(300)]
    lines = [f"{video},{second},{'word ' * 40}\n" for second in range(40) for video in videos]  # videos in turns
    (tmp_path / "aa.csv").write_text("vid,timestamp,text\n" + "".join(lines))
    monkeypatch.setattr(sentences, "ROWS", 500)
    read: list[int] = []  # rows of each temporary part
    real = sentences.Buckets.read

    def spy(buckets: sentences.Buckets, number: int) -> pl.DataFrame:
        found = real(buckets, number)
        read.append(found.height)
        return found

    monkeypatch.setattr(sentences.Buckets, "read", spy)
    for part, parts in ((2**40, 1), (2**18, 10)):
        monkeypatch.setattr(sentences, "_PART", part)
        read.clear()
        blocks = list(sentences.read_sentences(tmp_path / "aa.csv", 0.5, Counter()))
        clips = pl.concat(blocks)
        assert clips.height == clips["clip"].n_unique() == sum(read) == len(lines)
        assert all(block.group_by("video").len()["len"].unique().to_list() == [40] for block in blocks)
        assert max(block.height for block in blocks) < 500 + 40, "a block has whole videos"
        assert len(read) == parts and max(read) < 3 * len(lines) / parts


def test_a_manifest_of_any_size_is_written_in_bounded_memory(tmp_path: Path) -> None:
    alive, most = 0, 0

    class Counted(pl.DataFrame):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def frames() -> Iterator[pl.DataFrame]:
        nonlocal alive, most
        for number in range(200):
            alive += 1
            most = max(most, alive)
            yield Counted({"clip": [f"{number}-{row}" for row in range(100)]})

    for suffix in ("csv", "jsonl", "parquet"):
        write_frames(frames(), {"clip": pl.String}, tmp_path / f"m.{suffix}")
    found = pl.read_parquet(tmp_path / "m.parquet")
    assert found["clip"].n_unique() == 20_000 and most < 20
    assert found.equals(pl.read_csv(tmp_path / "m.csv")) and found.equals(pl.read_ndjson(tmp_path / "m.jsonl"))


def test_a_video_that_is_not_on_disk_is_listed_and_its_clips_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.json"
    file.write_text(json.dumps(SENTENCIFIED))
    (tmp_path / "howto").mkdir()
    (tmp_path / "howto/lmnopqrstuv.webm").write_bytes(b"a video")
    (tmp_path / "howto/abcdefghijk.webm").mkdir()  # not a file
    given = ["--sentences", str(file), "--out", str(tmp_path / "m.parquet"), "--videos", "howto/{video}.webm"]
    assert manifest.main([*given, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["missing"] == ["howto/abcdefghijk.webm"] and record["clips"] == record["videos"] == 1
    assert pl.read_parquet(tmp_path / "m.parquet")["video"].to_list() == ["howto/lmnopqrstuv.webm"]
    assert manifest.main(given) == 0
    printed = capsys.readouterr().out
    assert "1 of 2 videos (50.0%) are on disk" in printed and "missing: 1 videos, e.g. howto/abc" in printed
    given[-1] = "elsewhere/{video}.webm"
    os.remove(tmp_path / "m.parquet")
    assert manifest.main(given) == 2
    error = capsys.readouterr().err
    assert "none of the 2 videos is on disk" in error and "--no-on-disk" in error and error.count("\n") == 1
    assert not (tmp_path / "m.parquet").exists()
    assert manifest.main([*given, "--no-on-disk"]) == 0 and pl.read_parquet(tmp_path / "m.parquet").height == 4


def test_a_clip_that_is_too_short_or_too_long_is_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SENTENCIFIED))
    given = ("sentences", str(tmp_path / "s.json"), "on_disk", False)
    record, clips = made(tmp_path, *given, "least_seconds", 1.0, "most_seconds", 30.0)
    assert clips["clip"].to_list() == ["abcdefghijk_4.13_6.5", "abcdefghijk_6.5_8.36"]
    assert record["unusable"] == {"clips shorter than 1 s": 1, "clips longer than 30 s": 1}
    with pytest.raises(StepDiffError, match=r"no clip can be used \(4 x clips shorter than 100 s\)"):
        made(tmp_path, *given, "least_seconds", 100.0)


def test_a_source_that_fails_leaves_no_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SENTENCIFIED)[:-30])
    (tmp_path / "aa.csv").write_text("vid,seconds,text\n")
    for file, said in (
        ("s.json", "damaged after entry"),
        ("aa.csv", "no column timestamp"),
        ("gone.json", "cannot be"),
    ):
        given = ["--sentences", str(tmp_path / file), "--out", str(tmp_path / "m.csv"), "--no-on-disk"]
        assert manifest.main(given) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1 and not list(tmp_path.glob("*m.csv*"))


def test_sentences_of_held_out_videos_get_the_split_test(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SENTENCIFIED))
    row = {"reference": "lmnopqrstuv_3_9", "targets": ["elsewhere_0_1"], "category": "Visuals", "scores": [1]}
    (tmp_path / "diffrank.jsonl").write_text(json.dumps(row))
    given = ("sentences", str(tmp_path / "s.json"), "on_disk", False, "hold_out", (str(tmp_path / "diffrank.jsonl"),))
    record, clips = made(tmp_path, *given)
    assert clips.filter(split="test")["clip"].to_list() == ["lmnopqrstuv_0.5_0.9"]
    assert record["held_out_of"] == {"train": 1} and record["splits"] == {"train": 3, "test": 1}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--sentences", "s.json", "--annotations", "a.json", "--taxonomy", "t.csv"], "is a manifest of its own"),
        (["--sentences", "s.json", "--data", "d"], "--sentences does not use all of these options; leave out --data"),
        (["--images", "a.tar", "--videos", "{video}"], "leave out --videos"),
        (["--images", "a.txt"], "a.txt: neither a .tar file nor a .parquet"),
        (["--images", "gone-{0..2}.tar"], "gone-0.tar: no such file; correct --images"),
        (["--dataset", "captaincook"], "--dataset captaincook needs --data"),
        (["--dataset", "ego", "--data", "d"], "no such dataset; known: captaincook, egoexo-exo"),
        (["--dataset", "egoexo-exo", "--data", "d"], "d/takes.json: no such file"),
        (["--sentences", "s.json", "--videos", "videos"], "write {video} in the place"),
    ],
)
def test_options_that_a_source_does_not_use_are_refused(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert manifest.main([*given, "--out", str(tmp_path / "m.parquet")]) == 2
    assert said in capsys.readouterr().err


def test_a_pattern_places_a_video_by_its_parts() -> None:
    assert place_of("a/{folder}/small/{name}", "takes/x/{video}.mp4") == "a/takes/x/small/{video}.mp4"


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


def test_sentences_of_a_folder_are_those_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/abc.csv").write_text('start,end,text\n4.13,6.50,"so, we moved"\n6.50,8.36,and see\n9,9.5,\n')
    record, clips = made(tmp_path, "sentences", str(tmp_path / "raw"), "on_disk", False)
    assert clips["clip"].to_list() == ["abc_4.13_6.5", "abc_6.5_8.36"] and clips["narration"][0] == "so, we moved"
    assert record["narration_faults"] == {"pieces without text or time": 1}


@pytest.mark.parametrize(
    "content",
    [
        {"x": [[1, 2]]},
        {"x": [[1, 2, 3, "a", 5]]},
        {"x": {"start": [1], "end": [2, 3], "text": ["a"]}},
        {"x": 5},
        {"x": [5]},
        {"x": [[1, float("inf"), float("nan"), "a"], [1, "1", "0.5", "a"], [1, 1, 2, None]]},
        {},
        [],
    ],
)
def test_sentences_of_another_form_are_refused_in_one_line(tmp_path: Path, content: Any) -> None:
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(StepDiffError) as error:
        made(tmp_path, "sentences", str(tmp_path / "s.json"), "on_disk", False)
    assert "\n" not in str(error.value) and not (tmp_path / "m.parquet").exists()
