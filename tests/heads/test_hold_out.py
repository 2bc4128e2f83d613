"""Guarantees of heads/data/hold_out.py."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from common.errors import StepDiffError
from heads.data.hold_out import BY_ID, BY_OVERLAP, BY_VIDEO, NAMESAKE, By, HoldOut, held_out, read_test_clips, task_of

CAP = {"reference": "v_-1_10_20", "candidate": "w_5.0_7.50", "category": "Visuals", "text": ["redder"]}
MCQ = {
    "difference": "x",
    "category": "Visuals",
    "options": [["a_0_1", "b_0_1"], ["a_2_3", "b_2_3"], ["a_4_5", "b_4_5"], ["a_6_7", "b_6_7"]],
    "answer": ["a_0_1", "b_0_1"],
}
RANK = {"reference": "r_0_1", "targets": ["s_0_1", "t_0_1"], "category": "Visuals", "scores": [5, 1]}
SHARED = Path(__file__).parents[3] / "shared/data"
SCHEMA = {"key": pl.String, "video": pl.String, "start": pl.Float64, "end": pl.Float64}


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_clip_of_the_three_test_sets_is_read(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.jsonl", row) for name, row in (("c", CAP), ("m", MCQ), ("r", RANK))]
    assert [task_of(path) for path in paths] == ["diffcap", "diffmcq", "diffrank"]
    found = read_test_clips(paths)
    assert set(found["key"]) == {"v_-1_10_20", "w_5.0_7.50", "r_0_1", "s_0_1", "t_0_1"} | {
        f"{video}_{start}_{start + 1}" for video in "ab" for start in (0, 2, 4, 6)
    }
    assert found.filter(pl.col("key") == "v_-1_10_20").row(0) == ("v_-1_10_20", 10.0, 20.0)


def test_a_file_that_does_not_exist_or_is_no_test_set_is_refused(tmp_path: Path) -> None:
    for rows in ([{"question": "?"}], []):
        with pytest.raises(StepDiffError, match="x.jsonl: not a test set"):
            read_test_clips([write(tmp_path / "x.jsonl", *rows)])
    with pytest.raises(StepDiffError, match="y.jsonl: no such file"):
        read_test_clips([tmp_path / "y.jsonl"])


# clip, its file, start, end -> why v_-1_10_20 and w_5.0_7.50, which are not in the catalog, hold it out
CLIPS = {
    ("w_5.00_7.5", "videos/w.mp4", 5.0, 7.5): BY_OVERLAP,  # the same seconds in another notation
    ("v_-1_19.9_30", "videos/v_-1.mp4", 19.9, 30.0): BY_OVERLAP,
    ("v_-1_12_13", "videos/v_-1.mp4", 12.0, 13.0): BY_OVERLAP,
    ("v_-1_0_90", "videos/v_-1_720p.mkv", 0.0, 90.0): BY_OVERLAP,  # the id names the video
    ("my clip", "v_-1", 12.0, 13.0): BY_OVERLAP,  # the id names no video; its file does
    ("clip 2", "videos/v_-1.mp4", 19.0, 21.0): BY_OVERLAP,  # also with folder and extension
    ("seg_1_2", "v_-1.part.mkv", 12.0, 13.0): None,  # another file
    ("seg_3_4", "videos/v_-1.webm", 12.0, 13.0): BY_OVERLAP,  # an id that names another video
    ("no file", None, 12.0, 13.0): None,
    ("v_-1_x_y", "v_-1", None, None): BY_OVERLAP,  # no times: it may overlap
    ("v_-1_20_30", "videos/v_-1.mp4", 20.0, 30.0): BY_VIDEO,  # touches
    ("v_-1_0_10", "videos/v_-1.mp4", 0.0, 10.0): BY_VIDEO,
    ("v_10_20", "videos/v.mp4", 10.0, 20.0): None,  # another video
    ("-1_10_20", "videos/-1.mp4", 10.0, 20.0): None,
}
# What changes if the catalog has both test clips, in videos/v_-1.mp4 and videos/w.mp4.
KNOWN = {
    ("v_-1_10_20", "videos/v_-1.mp4", 10.0, 20.0): BY_ID,
    ("w_5.0_7.50", "videos/w.mp4", 5.0, 7.5): BY_ID,
}
OF_ANOTHER_FILE = {"v_-1_0_90": NAMESAKE, "seg_3_4": NAMESAKE}


def found(clips: Any, test: pl.DataFrame, by: By = "video") -> dict[str, str]:
    catalog = pl.DataFrame(list(clips), schema=SCHEMA, orient="row")
    return dict(held_out(catalog, test, by).join(catalog, on="key", how="semi").iter_rows())


@pytest.mark.parametrize("together", [True, False])
def test_a_clip_that_overlaps_a_test_clip_is_held_out_and_by_video_every_clip_of_its_video(
    tmp_path: Path, together: bool
) -> None:
    test = read_test_clips([write(tmp_path / "c.jsonl", CAP)])
    expected = {clip[0]: reason for clip, reason in CLIPS.items() if reason is not None}
    for batch in [list(CLIPS)] if together else [[clip] for clip in CLIPS]:
        keys = {clip[0] for clip in batch}
        own = {key: reason for key, reason in expected.items() if key in keys}
        assert found(batch, test) == own
        assert found(batch, test, "clip") == {key: reason for key, reason in own.items() if reason != BY_VIDEO}


def test_a_test_clip_whose_file_the_catalog_knows_matches_by_that_file_and_namesakes_are_kept_and_counted(
    tmp_path: Path,
) -> None:
    test = read_test_clips([write(tmp_path / "c.jsonl", CAP)])
    expected = {clip[0]: reason for clip, reason in (CLIPS | KNOWN).items() if reason is not None} | OF_ANOTHER_FILE
    assert found({**CLIPS, **KNOWN}, test) == expected
    files = [("video_0_5.000", "a/video.mp4", 0.0, 5.0), ("video_0_7.000", "b/video.mp4", 0.0, 7.0)]
    more = [("x", "a/video.mp4", 5.0, 9.0), ("y", "b/video.mp4", 0.0, 5.0), ("video_1_2", None, 1.0, 2.0)]
    row = CAP | {"reference": "video_0_5.000", "candidate": "other_0_1"}
    test = read_test_clips([write(tmp_path / "files.jsonl", row)])
    assert found([*files, *more], test) == {
        "video_0_5.000": BY_ID,
        "x": BY_VIDEO,
        "video_0_7.000": NAMESAKE,
        "y": NAMESAKE,
        "video_1_2": BY_OVERLAP,  # known by its name only
    }
    catalog = pl.DataFrame([*files, *more], schema=SCHEMA, orient="row")
    held = HoldOut([str(tmp_path / "files.jsonl")])
    held.look_up(catalog)
    assert held.keep(catalog, "clips")["key"].to_list() == ["video_0_7.000", "y"]
    assert held.sources == {"clips": {"of": 5, BY_ID: 1, BY_OVERLAP: 1, BY_VIDEO: 1, NAMESAKE: 2}}
    assert "2 clips with the name of a test video, but another file, are kept" in held.lines()[-1]


def test_times_come_from_the_catalog_or_else_from_the_id(tmp_path: Path) -> None:
    test = read_test_clips([write(tmp_path / "c.jsonl", CAP)])
    clips = [("v_-1_10_20", "v.mp4", 50.0, 60.0), ("one", "v.mp4", 12.0, 18.0), ("two", "v.mp4", 59.0, 70.0)]
    assert found(clips, test, "clip") == {"v_-1_10_20": BY_ID, "two": BY_OVERLAP}
    clips[0] = ("v_-1_10_20", "v.mp4", None, None)
    assert found(clips, test, "clip") == {"v_-1_10_20": BY_ID, "one": BY_OVERLAP}
    assert dict(held_out(pl.DataFrame({"key": ["v_-1_1_2", "z"]}), test).iter_rows())["v_-1_1_2"] == BY_OVERLAP


def test_a_test_clip_whose_times_are_unknown_overlaps_every_clip_of_its_video(tmp_path: Path) -> None:
    test = read_test_clips([write(tmp_path / "c.jsonl", CAP | {"reference": "a", "candidate": "ü/x"})])
    assert test["start"].to_list() == [None, None]
    clips = [("a", "v.mp4", None, None), ("b", "v.mp4", 5.0, 6.0), ("ü/x", "w.mp4", 1.0, 2.0), ("c", "w.mp4", 3.0, 4.0)]
    assert found(clips, test, "clip") == {"a": BY_ID, "ü/x": BY_ID, "b": BY_OVERLAP}
    assert found(clips, test) == {"a": BY_ID, "ü/x": BY_ID, "b": BY_OVERLAP, "c": BY_VIDEO}


def test_overlap_among_many_test_clips_of_a_video_equals_a_comparison_of_all_pairs(tmp_path: Path) -> None:
    import numpy as np

    random = np.random.default_rng(0)
    spans = {(int(a), int(a + n)) for a, n in zip(random.integers(0, 900, 60), random.integers(1, 40, 60), strict=True)}
    rows = [CAP | {"reference": f"v{a % 3}_{a}_{b}", "candidate": "w_0_1"} for a, b in sorted(spans)]
    test = read_test_clips([write(tmp_path / "c.jsonl", *rows)])
    clips = [(f"c{i}", f"x/v{i % 4}.mp4", float(a), float(a + 3)) for i, a in enumerate(random.integers(0, 950, 400))]
    expected = {
        key
        for key, video, start, end in clips
        if any(f"x/v{a % 3}.mp4" == video and start < b and end > a for a, b in spans)
    }
    by_clip = found(clips, test, "clip")
    assert set(by_clip) == expected and set(by_clip.values()) == {BY_OVERLAP} and 0 < len(expected) < 300
    assert set(found(clips, test)) == {key for key, video, _, _ in clips if video != "x/v3.mp4"}


def test_dropped_rows_are_counted_by_source_and_a_source_without_rows_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", CAP)
    catalog = pl.DataFrame(list(CLIPS | KNOWN), schema=SCHEMA, orient="row")
    held = HoldOut([path])
    held.look_up(catalog)
    pairs = [("v_10_20", "-1_10_20"), ("v_10_20", "v_-1_12_13"), ("w_5.0_7.50", "v_-1_0_10"), ("no file", "v_-1_0_10")]
    assert held.keep_pairs(pairs, "pairs") == [True, False, False, False]
    assert held.sources == {"pairs": {"of": 4, BY_ID: 1, BY_OVERLAP: 1, BY_VIDEO: 1}}
    assert held.lines() == [
        "hold-out by video: 2 clips of 1 test sets",
        "hold-out, pairs: 3 of 4 dropped (1 clip of a test set, 1 overlaps a clip of a test set, 1 of the video of a "
        "test clip)",
    ]
    assert held.record() == {"by": "video", "files": [path], "test_clips": 2, "sources": held.sources}
    with pytest.raises(StepDiffError, match="hold_out leaves nothing of clips to train on: 2 of 2 dropped"):
        held.keep(catalog.filter(pl.col("key").is_in(["v_-1_12_13", "w_5.0_7.50"])), "clips")
    with pytest.raises(StepDiffError, match="hold_out leaves nothing of pairs"):
        held.keep_pairs(pairs[1:], "pairs")


def test_without_test_sets_nothing_is_held_out() -> None:
    catalog = pl.DataFrame(list(CLIPS), schema=SCHEMA, orient="row")
    held = HoldOut()
    held.look_up(catalog)
    assert held.keep(catalog, "clips") is catalog and held.keep_pairs([("a", "b")], "pairs") == [True]
    assert held.record() is None and held.lines() == []


def test_most_published_diffrank_clips_are_of_train_videos_and_none_of_them_trains() -> None:
    """A catalog of HT-Step's train videos with the published clips, one clip that overlaps each, and one after each."""
    file, splits = SHARED / "stepdiff/diffrank_dataset.jsonl", SHARED / "htstep/video_splits.json"
    if not (file.is_file() and splits.is_file()):
        pytest.skip("the published files are not here")
    test = read_test_clips([file])
    train = pl.DataFrame({"video": json.loads(splits.read_text())["train"]})
    uid = pl.col("key").str.extract(r"^(.+)_[0-9.]+_[0-9.]+$")
    own = test.with_columns(video=uid).join(train, on="video", how="semi")
    assert (test.height, own.height, own["video"].n_unique()) == (5946, 5046, 4073)
    moved = [
        own.with_columns(key=pl.format("{}_{}_{}", "video", shift, pl.int_range(pl.len())), start=start, end=start + 1)
        for shift, start in ((0, pl.col("end") - 0.25), (1, pl.lit(1e5)))
    ]
    others = train.join(own, on="video", how="anti").select(
        key=pl.col("video") + pl.lit("_0_9"), start=pl.lit(0.0), end=pl.lit(9.0), video="video"
    )
    clips = pl.concat([frame.select("key", "start", "end", "video") for frame in (own, *moved, others)])
    catalog = clips.with_columns(video="videos/" + pl.col("video") + ".mp4")
    for by, of_video in (("video", 5046), ("clip", 0)):
        hold_out = HoldOut([str(file)], by)  # type: ignore[arg-type]
        hold_out.look_up(catalog)
        kept = hold_out.keep(catalog, "clips")
        assert hold_out.sources["clips"] == {
            "of": 3 * 5046 + others.height,
            BY_ID: 5046,
            BY_OVERLAP: 5046,
            BY_VIDEO: of_video,
        }
        assert kept.height == others.height + (0 if of_video else 5046)
