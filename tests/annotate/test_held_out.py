"""Guarantees of annotate/held_out.py."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from annotate.errors import AnnotateError
from annotate.held_out import held_out_by, read_held_out, task_of

CAP = {"reference": "v_-1_10_20", "candidate": "w_5.0_7.50", "category": "Visuals", "text": ["redder"]}
MCQ = {
    "difference": "x",
    "category": "Visuals",
    "options": [["a_0_1", "b_0_1"], ["a_2_3", "b_2_3"], ["a_4_5", "b_4_5"], ["a_6_7", "b_6_7"]],
    "answer": ["a_0_1", "b_0_1"],
}
RANK = {"reference": "r_0_1", "targets": ["s_0_1", "t_0_1"], "category": "Visuals", "scores": [5, 1]}


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_clip_of_the_three_test_sets_is_read(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.jsonl", row) for name, row in (("c", CAP), ("m", MCQ), ("r", RANK))]
    assert [task_of(path) for path in paths] == ["diffcap", "diffmcq", "diffrank"]
    found = read_held_out(paths)
    assert set(found["key"]) == {"v_-1_10_20", "w_5.0_7.50", "r_0_1", "s_0_1", "t_0_1"} | {
        f"{video}_{start}_{start + 1}" for video in "ab" for start in (0, 2, 4, 6)
    }
    assert found.filter(pl.col("key") == "v_-1_10_20").row(0) == ("v_-1_10_20", "v_-1", 10.0, 20.0)


def test_a_file_that_is_no_test_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotateError, match="no test set"):
        task_of(write(tmp_path / "x.jsonl", {"question": "?"}))
    with pytest.raises(AnnotateError, match="no test set"):
        task_of(write(tmp_path / "empty.jsonl"))


# clip, its file, start, end -> by id, by overlap with v_-1_10_20 and w_5.0_7.50
CLIPS = {
    ("v_-1_10_20", "videos/v_-1.mp4", 10.0, 20.0): (True, True),
    ("w_5.0_7.50", "videos/w.mp4", 5.0, 7.5): (True, True),
    ("w_5.00_7.5", "videos/w.mp4", 5.0, 7.5): (False, True),  # the same seconds, written otherwise
    ("v_-1_19.9_30", "videos/v_-1.mp4", 19.9, 30.0): (False, True),
    ("v_-1_12_13", "videos/v_-1.mp4", 12.0, 13.0): (False, True),
    ("v_-1_0_90", "videos/v_-1_720p.mkv", 0.0, 90.0): (False, True),  # a file named otherwise
    ("my clip", "v_-1", 12.0, 13.0): (False, True),  # an id that tells nothing: its video does
    ("clip 2", "videos/v_-1.mp4", 19.0, 21.0): (False, True),  # with folder and extension too
    ("seg_1_2", "v_-1.part.mkv", 12.0, 13.0): (False, False),  # another file
    ("seg_3_4", "videos/v_-1.webm", 12.0, 13.0): (False, True),  # an id that tells otherwise
    ("no file", None, 12.0, 13.0): (False, False),
    ("v_-1_x_y", "v_-1", None, None): (False, True),  # no times: it might overlap
    ("v_-1_20_30", "videos/v_-1.mp4", 20.0, 30.0): (False, False),  # touches
    ("v_-1_0_10", "videos/v_-1.mp4", 0.0, 10.0): (False, False),
    ("v_10_20", "videos/v.mp4", 10.0, 20.0): (False, False),  # another video
    ("-1_10_20", "videos/-1.mp4", 10.0, 20.0): (False, False),
}


@pytest.mark.parametrize("together", [True, False])
def test_clips_that_share_a_moment_with_a_test_clip_are_held_out_and_others_are_not(
    tmp_path: Path, together: bool
) -> None:
    held_out = read_held_out([write(tmp_path / "c.jsonl", CAP)])
    batches = [list(CLIPS)] if together else [[clip] for clip in CLIPS]
    found = {}
    for batch in batches:
        schema = {"key": pl.String, "video": pl.String, "start": pl.Float64, "end": pl.Float64}
        by_id, by_overlap = held_out_by(pl.DataFrame(batch, schema=schema, orient="row"), held_out)
        found |= dict(zip(batch, zip(by_id, by_overlap, strict=True), strict=True))
    assert found == CLIPS
