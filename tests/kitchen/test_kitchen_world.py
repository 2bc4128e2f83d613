"""The plan of the world: splits, held-out combinations, spread of scores."""

import itertools
from collections import Counter

import pytest

from kitchen.__main__ import Options
from kitchen.attributes import Attributes, score
from kitchen.steps import ACTIVITIES, MAIN, STEPS, UNSEEN_ACTIVITIES
from kitchen.world import FPS, HELD_OUT_PAIRS, held_out, make_world
from tasks.testsets import CATEGORIES

WORLD = make_world(Options.videos, Options.seed)
CLIPS = [clip for video in WORLD for clip in video.clips]


def test_the_same_options_give_the_same_world() -> None:
    assert make_world(Options.videos, Options.seed) == WORLD
    assert make_world(12, 1) != make_world(12, 0)


def test_a_larger_world_starts_with_the_smaller() -> None:
    assert make_world(20, 0) == WORLD[:20]


def test_default_size() -> None:
    assert len(STEPS) >= 12
    assert 1100 <= len(CLIPS) <= 1270
    assert all(3 <= len(video.clips) <= 6 for video in WORLD)
    lengths = [clip.end - clip.start for clip in CLIPS]
    assert min(lengths) >= 3 and max(lengths) <= 4


def test_clips_do_not_overlap_and_start_on_whole_frames() -> None:
    for video in WORLD:
        ends = [0.0, *(clip.end for clip in video.clips)]
        assert all(c.start > e for c, e in zip(video.clips, ends, strict=False))
        assert video.clips[-1].end <= video.duration
        for clip in video.clips:
            assert (clip.start * FPS).is_integer() and (clip.end * FPS).is_integer()
            assert clip.id.rsplit("_", 2) == [video.uid, f"{clip.start:.2f}", f"{clip.end:.2f}"]


def test_a_video_belongs_to_one_split() -> None:
    counts = Counter(video.split for video in WORLD)
    assert [round(counts[s] / len(WORLD), 2) for s in ("train", "val", "test")] == [0.65, 0.10, 0.25]
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
    assert {v.subset for v in WORLD} == {"train", "val_seen", "val_unseen", "test_seen", "test_unseen"}


@pytest.mark.parametrize("pair", HELD_OUT_PAIRS)
def test_held_out_combinations_are_in_test_only(pair: tuple[str, int, str, int]) -> None:
    found = [c for c in CLIPS if held_out(STEPS[c.truth.step], c.truth, pair)]
    assert len(found) >= 10
    assert {c.split for c in found} == {"test"}


def test_attribute_values_belong_to_the_step() -> None:
    plain = [n for n in Attributes.__dataclass_fields__ if n not in ("step", "extras", "sequence")]
    for clip in CLIPS:
        step = STEPS[clip.truth.step]
        for name in plain:
            value, options = getattr(clip.truth, name), step.options(name)
            assert value in options if options else value is None
        assert set(clip.truth.extras) <= set(step.extras)
        assert list(clip.truth.extras) == sorted(set(clip.truth.extras))
        assert clip.truth.sequence.count(MAIN) == 1
        assert set(clip.truth.sequence) <= {MAIN, *step.subactions}
        assert len(set(clip.truth.sequence)) == len(clip.truth.sequence)


def test_every_value_occurs_in_training() -> None:
    for step in STEPS.values():
        trained = [c.truth for c in CLIPS if c.split == "train" and c.truth.step == step.name]
        for name in ("main", "tool", "vessel", "surface", "motion", "colour", "detail", "gloves"):
            assert {getattr(t, name) for t in trained} == set(step.options(name))


@pytest.mark.parametrize("category", CATEGORIES)
def test_scores_are_spread(category: str) -> None:
    counts: Counter[int] = Counter()
    for step in STEPS:
        truths = [c.truth for c in CLIPS if c.truth.step == step]
        counts.update(score(category, a, b) for a, b in itertools.combinations(truths, 2))
    shares = {s: counts[s] / counts.total() for s in counts}
    assert shares[5] >= 0.13
    for level in (2, 3):
        assert shares[level] >= 0.15
    assert shares[4] >= (0.07 if category == "Actions" else 0.14)
    if category == "Actions":
        assert shares[1] >= 0.12


def test_a_world_of_fewer_steps_shows_only_these() -> None:
    pancakes = ACTIVITIES["Make Pancakes"]
    for steps in (3, 6):
        world = make_world(24, 0, 3.5, steps)
        assert {clip.truth.step for video in world for clip in video.clips} == set(pancakes[:steps])
        assert all(len(video.clips) >= 3 for video in world)
    assert make_world(8, 0, 3.5, len(STEPS)) == make_world(8, 0)
