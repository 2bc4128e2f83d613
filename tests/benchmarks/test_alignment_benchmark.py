"""The alignment benchmark on a world whose frames show nothing but the step and its sub-action."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import alignment
from stepdiff.kitchen.attributes import Attributes
from stepdiff.kitchen.drawing.scenes import moment
from stepdiff.kitchen.world import make_world
from store import Feature, Provenance, Store

FRAMES = 8
RULE = f"{FRAMES} at the centres of equal segments of the n frames, start <= time < end"


def shown(truth: Attributes, seconds: float) -> list[tuple[str, str]]:
    """Return the step and the sub-action of each frame of a clip."""
    centres = [(frame + 0.5) / FRAMES * seconds for frame in range(FRAMES)]
    return [(truth.step, moment(truth.sequence, truth.speed, seconds, now).action) for now in centres]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with attributes.jsonl and a store whose view `exact` has one token a frame."""
    clips = [clip for video in make_world(60, 0) for clip in video.clips]
    lines = [json.dumps({"clip": clip.id, **asdict(clip.truth)}) + "\n" for clip in clips]
    (tmp_path / "attributes.jsonl").write_text("".join(lines))
    frames = [shown(clip.truth, clip.end - clip.start) for clip in clips]
    names = sorted({name for frame in frames for pair in frame for name in pair})
    tokens = np.array([[[name in pair for name in names] for pair in frame] for frame in frames], np.float32)
    catalog = pl.DataFrame(
        {
            "key": [clip.id for clip in clips],
            "video": [f"{clip.video}.mp4" for clip in clips],
            "step": [clip.truth.step for clip in clips],
            **{name: [getattr(clip, name) for clip in clips] for name in ("start", "end", "activity", "split")},
        }
    )
    provenance = Provenance("exact", "0" * 64, "last", RULE, "", {"tokens": "float32"})
    store = Store.open(tmp_path / "store", create=True)
    features = {"tokens": Feature((FRAMES, len(names)), "float32")}
    with store.writer("clips", "exact", provenance, features) as writer:
        writer.write(catalog, {"tokens": tokens})
    return tmp_path


@pytest.mark.full
def test_exact_frames_align_videos_and_show_what_only_one_clip_has(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--store", str(world / "store"), "--world", str(world), "--view", "exact", "--pairs", "30"]
    assert alignment.main(words) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {(row["pairs of"], row["with"]): row for row in record["rows"]}
    same, missing = rows["clips", "same parts"], rows["videos", "some parts missing"]
    assert same["seconds"] < 0.1 and same["right part"] > 0.95
    assert missing["seconds"] < 0.7 * missing["linear seconds"]
    assert missing["right part"] > missing["linear right part"] + 0.1
    clips = next(row for row in record["spans"] if row["pairs of"] == "clips")
    assert clips["precision"] > 0.8 and clips["F1"] > 2 * clips["F1 of everything"]
    compared = {(race["case"], race["compared with"]) for race in record["races"]}
    assert ("videos, some parts missing", "linear stretching") in compared


def test_figures_of_two_recordings_are_those_computed_by_hand() -> None:
    first = alignment.Recording(parts={"pour": (0.0, 1.0), "stir": (1.0, 3.0)})
    second = alignment.Recording(parts={"pour": (0.0, 2.0), "stir": (2.0, 4.0), "serve": (4.0, 5.0)})
    assert alignment.relation(first, second) == "some parts missing"
    turned = alignment.Recording(parts={"stir": (0.0, 1.0), "pour": (1.0, 2.0)})
    assert alignment.relation(first, turned) == "another order"
    assert not first.lacking_in(second).any()
    np.testing.assert_array_equal(second.lacking_in(first), second.times >= 4)
    knots = np.array([0.0, 1.0, 3.0]), np.array([0.0, 2.0, 4.0])
    assert alignment.errors(first, second, knots) == (pytest.approx(0), 1)
    late = alignment.errors(first, second, (knots[0], knots[1] + 1))
    assert late == (pytest.approx(1), pytest.approx(0.5, abs=0.02))
