"""The sample world: its plan, the drawn differences, the scores that follow from its truth, and its
files."""

import csv
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float32
from PIL import Image

from stepdiff.kitchen.__main__ import KitchenOptions, main
from stepdiff.kitchen.attributes import CATEGORY_ATTRIBUTES, Attributes, differences, score
from stepdiff.kitchen.drawing.pen import HEIGHT, SCALE, WIDTH
from stepdiff.kitchen.drawing.scenes import backdrop, frame, moment
from stepdiff.kitchen.steps import ACTIVITIES, MAIN, STEPS, UNSEEN_ACTIVITIES, Step
from stepdiff.kitchen.world import FPS, HELD_OUT_PAIRS, Look, held_out, make_world
from stepdiff_core.tasks.testsets import CATEGORIES
from tests.refusals import refuses

WORLD = make_world(KitchenOptions.videos, KitchenOptions.seed)
CLIPS = [clip for video in WORLD for clip in video.clips]
PLAIN = [
    n for names in CATEGORY_ATTRIBUTES.values() for n in names if n not in ("extras", "sequence")
]
"""attributes that hold one value each"""


def test_a_larger_world_starts_with_the_smaller() -> None:
    assert make_world(20, 0) == WORLD[:20]


def test_a_video_belongs_to_one_split() -> None:
    counts = Counter(video.split for video in WORLD)
    assert [round(counts[s] / len(WORLD), 2) for s in ("train", "val", "test")] == [
        0.65,
        0.10,
        0.25,
    ]
    assert all(clip.split == video.split for video in WORLD for clip in video.clips)
    assert len({video.uid for video in WORLD}) == len(WORLD)
    for split in counts:
        assert {c.truth.step for c in CLIPS if c.split == split} == set(STEPS)


def test_unseen_recipes_are_not_trained() -> None:
    for video in WORLD:
        assert (video.activity in UNSEEN_ACTIVITIES) == video.subset.endswith("_unseen")
        assert not (video.split == "train" and video.activity in UNSEEN_ACTIVITIES)
        steps = [clip.truth.step for clip in video.clips]
        assert steps == [s for s in ACTIVITIES[video.activity] if s in steps]
    assert {v.subset for v in WORLD} == {
        "train",
        "val_seen",
        "val_unseen",
        "test_seen",
        "test_unseen",
    }


@pytest.mark.parametrize("pair", HELD_OUT_PAIRS)
def test_held_out_combinations_are_in_test_only(pair: tuple[str, int, str, int]) -> None:
    result = [c for c in CLIPS if held_out(STEPS[c.truth.step], c.truth, pair)]
    assert len(result) >= 10
    assert {c.split for c in result} == {"test"}


def test_a_world_of_fewer_steps_shows_only_these() -> None:
    pancakes = ACTIVITIES["Make Pancakes"]
    for steps in (3, 6):
        world = make_world(24, 0, 3.5, steps)
        assert {clip.truth.step for video in world for clip in video.clips} == set(pancakes[:steps])
        assert all(len(video.clips) >= 3 for video in world)
    assert make_world(8, 0, 3.5, len(STEPS)) == make_world(8, 0)


LOOK = Look(0, 0, 0)
SECONDS = 3.5
FRAMES = 3
MARGIN = 22
"""Pixels of the central square that a tighter crop may lose at each side."""
SEEN = 0.7
"""Mean absolute difference in grey levels, over the inner square and all frames, that tells two
clips apart: one small dish with its flecks reaches 1.4, a wholly other counter 60."""


def plain_truth(step: Step) -> Attributes:
    first = {name: (step.options(name) or (None,))[0] for name in PLAIN}
    return Attributes(step=step.name, extras=(step.extras[0],), sequence=(MAIN,), **first)  # type: ignore[arg-type]


@cache
def seen(truth: Attributes) -> Float32[np.ndarray, "frames h w 3"]:
    """Return evenly spaced frames of the clip, cropped to the centre square and halved in size."""
    base = backdrop(truth, LOOK, "seed")
    left = (WIDTH - HEIGHT) // 2 + MARGIN
    result = []
    for k in range(FRAMES):
        image = base.copy()
        at = moment(truth.sequence, truth.speed, SECONDS, k * (SECONDS - 0.1) / (FRAMES - 1))
        frame(image, truth, LOOK, at, "seed")
        small = image.reduce(SCALE).crop(
            (left, MARGIN, left + HEIGHT - 2 * MARGIN, HEIGHT - MARGIN)
        )
        result.append(np.asarray(small.reduce(2), dtype=np.float32))
    return np.stack(result)


def distance(a: Attributes, b: Attributes) -> float:
    return float(np.abs(seen(a) - seen(b)).mean())


@pytest.mark.full
@pytest.mark.parametrize("name", STEPS)
def test_differences_are_visible(name: str) -> None:
    step, weak = STEPS[name], {}
    truth = plain_truth(step)
    for attribute in PLAIN:
        values = step.options(attribute)
        for value in values[1:]:
            result = distance(truth, replace(truth, **{attribute: value}))
            if result < SEEN:
                weak[f"{attribute}={value}"] = round(result, 2)
    for extra in step.extras[1:]:
        result = distance(truth, replace(truth, extras=(step.extras[0], extra)))
        if result < SEEN:
            weak[extra] = round(result, 2)
    for sub in step.subactions:
        first, last = (replace(truth, sequence=s) for s in ((sub, MAIN), (MAIN, sub)))
        for what, result in (
            (sub, distance(truth, first)),
            (f"{sub} order", distance(first, last)),
        ):
            if result < 2 * SEEN:
                weak[what] = round(result, 2)
    assert not weak


SCORED = [clip for video in make_world(60, 3) for clip in video.clips]
BY_STEP = {s: [c.truth for c in SCORED if c.truth.step == s] for s in STEPS}


def of_kind(step: str, attribute: str, value: str) -> str:
    """Return the kind of a value, derived again from its words."""
    last = getattr(STEPS[step], attribute)[2] if attribute in ("main", "motion") else None
    if attribute in ("main", "motion"):
        return "other" if value == last else "first"
    if attribute == "tool":
        return "machine" if value.startswith("electric") else "hand"
    return value if value.endswith("stove") else "counter"


def naive_score(category: str, a: dict, b: dict) -> int:
    """Apply the matrix to two records of attributes.jsonl, row by row from the lowest score."""
    if a["step"] != b["step"]:
        return 0

    def differs(name: str) -> bool:
        return a[name] != b[name]

    def other_kind(name: str) -> bool:
        return of_kind(a["step"], name, a[name]) != of_kind(a["step"], name, b[name])

    minor = len(set(a["extras"]) ^ set(b["extras"]))
    if category == "Ingredients":
        if minor >= 3 or other_kind("main"):
            return 2
        return 3 if minor else 4 if differs("main") or differs("amount") else 5
    if category == "Tools/Equipment":
        count = sum(map(differs, ("tool", "vessel", "surface", "gloves")))
        if count >= 4:
            return 2
        if count >= 2 or other_kind("tool") or other_kind("surface"):
            return 3
        return 4 if count else 5
    if category == "Technique":
        count = sum(map(differs, ("speed", "motion", "hands", "manner", "heat")))
        if differs("heat") or other_kind("motion") or count >= 4:
            return 2
        return 3 if count >= 2 else 4 if count else 5
    if category == "Actions":
        exchanged = len(set(a["sequence"]) ^ set(b["sequence"]))
        common = set(a["sequence"]) & set(b["sequence"])
        order = [[x for x in r["sequence"] if x in common] for r in (a, b)]
        if exchanged >= 4:
            return 1
        if exchanged >= 2 or (order[0] != order[1] and other_kind("main")):
            return 2
        return 3 if exchanged else 4 if order[0] != order[1] else 5
    if differs("colour") or differs("texture"):
        return 2
    return 3 if differs("shade") or differs("size") else 4 if differs("detail") else 5


def test_scores_follow_from_attributes() -> None:
    seen = set()
    for truths in BY_STEP.values():
        for a, b in itertools.combinations(truths[:14], 2):
            for category in CATEGORIES:
                result = score(category, a, b)
                assert result == naive_score(category, asdict(a), asdict(b))
                seen.add((category, result))
    assert {s for c, s in seen if c == "Actions"} == {1, 2, 3, 4, 5}
    for category in CATEGORIES:
        assert {2, 3, 4, 5} <= {s for c, s in seen if c == category}


@given(st.sampled_from(sorted(STEPS)), st.data())
def test_scores_are_symmetric_and_every_attribute_is_compared(
    step: str, data: st.DataObject
) -> None:
    a = data.draw(st.sampled_from(BY_STEP[step]))
    b = data.draw(st.sampled_from(BY_STEP[step]))
    for category in CATEGORIES:
        forth, back = differences(category, a, b), differences(category, b, a)
        assert {d.reversed() for d in forth} == set(back)
        assert score(category, a, b) == score(category, b, a)
    same = all(not differences(c, a, b) for c in CATEGORIES)
    assert same == (a == b)


VIDEOS = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("kitchen") / "tiny"
    assert (
        main(["--out", str(out), "--videos", str(VIDEOS), "--seconds", "2", "--processes", "1"])
        == 0
    )
    yield out


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_clips_csv_agrees_with_the_videos(made: Path) -> None:
    clips = rows(made / "clips.csv")
    assert list(clips[0]) == [
        "clip",
        "video",
        "start",
        "end",
        "step",
        "activity",
        "split",
        "narration",
    ]
    for clip in clips:
        uid, start, end = clip["clip"].rsplit("_", 2)
        assert (start, end) == (clip["start"], clip["end"])
        assert clip["video"] == f"videos/{uid}.mp4" and (made / clip["video"]).is_file()
        assert clip["split"] in ("train", "val", "test")
    with av.open(str(made / clips[0]["video"])) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.width >= 320 and stream.height >= 240
        times = [float(f.pts * f.time_base) for f in container.decode(stream) if f.pts is not None]
    planned = make_world(VIDEOS, 0, 2.0)[0]
    assert len(times) == round(planned.duration * FPS)
    first = planned.clips[0]
    inside = [t for t in times if first.start <= t < first.end]
    assert len(inside) == round((first.end - first.start) * FPS)


def test_fewer_frames_a_second_show_the_same_seconds(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path), "--videos", "1", "--seconds", "2", "--fps", "8"]) == 0
    with av.open(str(tmp_path / "videos" / "kitchen_0000.mp4")) as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert frames == round(make_world(1, 0, 2.0)[0].duration * 8)
    with Image.open(tmp_path / "four_clips.png") as picture:
        assert picture.size == (2 * WIDTH, HEIGHT)


def test_ground_truth_is_read_back(made: Path) -> None:
    truths = [clip.truth for video in make_world(VIDEOS, 0, 2.0) for clip in video.clips]
    assert [Attributes.from_dict(row) for row in lines(made / "attributes.jsonl")] == truths


@pytest.mark.full
def test_two_processes_write_the_same_bytes(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert (
        main(["--out", str(out), "--videos", str(VIDEOS), "--seconds", "2", "--processes", "2"])
        == 0
    )
    assert digests(out) == digests(made)


def test_complete_videos_are_kept(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(made)
    victim, kept = sorted((made / "videos").iterdir())[:2]
    stamp = kept.stat().st_mtime_ns
    victim.unlink()
    assert main(["--out", str(made), "--videos", str(VIDEOS), "--seconds", "2", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["rendered"] == 1 and summary["videos"] == VIDEOS
    assert kept.stat().st_mtime_ns == stamp
    assert digests(made) == before


def test_another_world_in_the_same_folder_is_refused(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(made)
    command = ["--out", str(made), "--videos", str(VIDEOS), "--seed", "7", "--seconds", "2"]
    refuses(main, command, capsys, "seed 0 not 7", str(made))
    assert digests(made) == before


def test_foreign_videos_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "mine.mp4").write_bytes(b"mine")
    refuses(main, ["--out", str(tmp_path), "--videos", "1"], capsys, "no world.json")
    # a manifest of videos elsewhere
    (tmp_path / "videos" / "mine.mp4").rename(tmp_path / "clips.csv")
    assert main(["--out", str(tmp_path), "--videos", "1"]) == 2
    assert (
        tmp_path / "clips.csv"
    ).read_bytes() == b"mine" and "no world.json" in capsys.readouterr().err
    (tmp_path / "world.json").write_text("{")
    refuses(main, ["--out", str(tmp_path), "--videos", "1"], capsys, "not readable as JSON")


@pytest.mark.parametrize("url", ["memory://world", "file:///world", "s3://bucket/world"])
def test_a_url_is_refused_as_the_folder(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refuses(main, ["--out", url, "--videos", "1"], capsys, "is a URL: give a path of a file system")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", [["--videos", "0"], ["--seconds", "1"], ["--processes", "-1"], ["--fps", "10"]]
)
def test_invalid_arguments_are_refused(
    wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuses(main, ["--out", str(tmp_path / "none"), *wrong], capsys)
    assert not (tmp_path / "none").exists()
