"""Guarantees of annotate/sources/{blocks,sentences}.py, by python -m annotate.manifest."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from annotate import manifest
from annotate.sources import sentences
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
