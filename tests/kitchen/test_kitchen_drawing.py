"""Every difference of the ground truth is visible in the pixels that an encoder keeps."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from jaxtyping import Float32

from kitchen.attributes import PLAIN, Attributes
from kitchen.drawing.pen import HEIGHT, SCALE, WIDTH
from kitchen.drawing.scenes import backdrop, frame
from kitchen.drawing.stage import moment
from kitchen.steps import MAIN, STEPS, Step
from kitchen.world import Look

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
    found = []
    for k in range(FRAMES):
        image = base.copy()
        at = moment(truth.sequence, truth.speed, SECONDS, k * (SECONDS - 0.1) / (FRAMES - 1))
        frame(image, truth, LOOK, at, "seed")
        small = image.reduce(SCALE).crop((left, MARGIN, left + HEIGHT - 2 * MARGIN, HEIGHT - MARGIN))
        found.append(np.asarray(small.reduce(2), dtype=np.float32))
    return np.stack(found)


def distance(a: Attributes, b: Attributes) -> float:
    return float(np.abs(seen(a) - seen(b)).mean())


@pytest.mark.parametrize("name", STEPS)
def test_differences_are_visible(name: str) -> None:
    step, weak = STEPS[name], {}
    truth = plain_truth(step)
    for attribute in PLAIN:
        values = step.options(attribute)
        for value in values[1:]:
            found = distance(truth, replace(truth, **{attribute: value}))
            if found < SEEN:
                weak[f"{attribute}={value}"] = round(found, 2)
    for extra in step.extras[1:]:
        found = distance(truth, replace(truth, extras=(step.extras[0], extra)))
        if found < SEEN:
            weak[extra] = round(found, 2)
    for sub in step.subactions:
        first, last = (replace(truth, sequence=s) for s in ((sub, MAIN), (MAIN, sub)))
        for what, found in ((sub, distance(truth, first)), (f"{sub} order", distance(first, last))):
            if found < 2 * SEEN:
                weak[what] = round(found, 2)
    assert not weak


def test_drawing_is_deterministic_and_frames_move() -> None:
    truth = plain_truth(STEPS["whisk the eggs"])
    seen.cache_clear()
    first = seen(truth)
    seen.cache_clear()
    assert np.array_equal(first, seen(truth))
    assert np.abs(first[1:] - first[:-1]).mean() > SEEN


def test_every_action_is_visible_in_one_of_eight_frames() -> None:
    for count in range(4):
        sequence = (*STEPS["whisk the eggs"].subactions[:count], MAIN)
        for seconds in (3.0, 3.5, 4.0):
            last = seconds - 1 / 12
            times = [round(k * last * 12 / 7) / 12 for k in range(8)]
            actions = {moment(sequence, "slow", seconds, t).action for t in times}
            assert actions == set(sequence)


def test_the_main_action_pauses_during_other_actions() -> None:
    sequence = ("wipe", MAIN, "taste")
    before, after = (moment(sequence, "fast", 4.0, t) for t in (0.2, 3.9))
    assert before.action == "wipe" and before.turns == 0 and before.progress == 0
    assert after.action == "taste" and after.progress == 1
    assert moment(sequence, "fast", 4.0, 3.5).turns == after.turns
