"""When things happen in a clip, and the paths that hands follow.

A clip is cut into its sub-actions and the step's own action, in order. Within the own action the
hand repeats a cycle; `turns` counts the cycles done so far, so speed is turns a second.
"""

import math
from dataclasses import dataclass

from kitchen.drawing.pen import Real
from kitchen.steps import MAIN

TURNS_PER_SECOND = {"slow": 0.42, "fast": 1.7}

_SHARE = {0: 0.0, 1: 0.27, 2: 0.21, 3: 0.17}
"""Part of the clip that each sub-action takes, by how many there are: at least one of 8 frames."""


@dataclass(frozen=True)
class Moment:
    """One instant of a clip. `action`: what happens; `u`: how far it is, 0..1."""

    action: str
    u: Real
    now: Real
    """Seconds since the clip began."""
    turns: Real
    progress: Real
    """How far the step's own action is, 0..1, also while a sub-action runs."""


def moment(sequence: tuple[str, ...], speed: str, duration: Real, now: Real) -> Moment:
    """What happens `now` seconds into a clip of `duration` seconds."""
    others = len(sequence) - 1
    each = _SHARE[others] * duration
    own = duration - others * each
    start = 0.0
    begin_own = sequence.index(MAIN) * each
    done = min(max(now - begin_own, 0.0), own)
    for action in sequence:
        length = own if action == MAIN else each
        if now < start + length or action == sequence[-1]:
            u = min(1.0, (now - start) / length)
            return Moment(action, u, now, done * TURNS_PER_SECOND[speed], done / own)
        start += length
    raise AssertionError("a sequence is never empty")


@dataclass(frozen=True)
class Pose:
    """Where the working end of a tool is, relative to the middle of the work."""

    x: Real
    y: Real
    lift: Real = 0.0
    turn: Real = 0.0
    """Degrees added to how the tool leans."""


def _wave(u: Real) -> Real:
    """A softened triangle wave, -1..1."""
    return math.asin(0.97 * math.sin(math.tau * u)) / math.asin(0.97)


def stir(motion: str, u: Real) -> Pose:
    """Within a vessel: around, to and fro, or up and over."""
    a = math.tau * u
    if motion in ("in circles", "circling stream"):
        return Pose(46 * math.cos(a), 21 * math.sin(a))
    if motion in ("back and forth", "long strokes"):
        return Pose(56 * _wave(u), 8 * math.sin(a * 0.5))
    up = max(0.0, math.sin(a))
    return Pose(22 * math.cos(a), 16 - 6 * up, 74 * up**1.2, -26 * up)


def cut(motion: str, u: Real) -> Pose:
    """On a board: straight down, rocking on the tip, or drawn to and fro."""
    a = math.tau * u
    if motion == "straight down":
        return Pose(0, 0, 62 * (0.5 - 0.5 * math.cos(a)))
    if motion == "rocking":
        return Pose(-16, 4, 0, 30 * math.sin(a) + 22)
    return Pose(52 * _wave(u), 4, 4, 28)


def roll(motion: str, u: Real) -> Pose:
    """Over dough: away and back, sideways, or pounding."""
    a = math.tau * u
    if motion == "forwards and back":
        return Pose(0, 32 * _wave(u))
    if motion == "side to side":
        return Pose(46 * _wave(u), 0, 0, 90)
    return Pose(0, 6, 78 * abs(math.sin(a * 0.5)), -10 * abs(math.sin(a * 0.5)))


def grate(motion: str, u: Real) -> Pose:
    """Along a grater: up and down, around, or (for the grater itself) to and fro."""
    a = math.tau * u
    if motion == "up and down":
        return Pose(0, 34 * _wave(u))
    if motion == "in circles":
        return Pose(24 * math.cos(a), 26 * math.sin(a))
    return Pose(44 * _wave(u), 0)


def flight(u: Real) -> tuple[Real, Real]:
    """A flipped pancake: height 0..1 and half turns done, one flip a cycle with a rest between."""
    part = u % 1.0
    if part < 0.3:
        return 0.0, 0.0
    v = (part - 0.3) / 0.7
    return 4 * v * (1 - v), v
