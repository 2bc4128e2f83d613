"""The parts of every scene: when things happen, the paths of hands, tools, speed lines, liquids, heaps of pieces.

A clip is divided into its sub-actions and the step's own action, in order. Within the own action the hand repeats a
cycle; `turns` counts the cycles done so far, so speed is turns a second.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from stepdiff.kitchen.attributes import Attributes
from stepdiff.kitchen.drawing import food, kitchenware, people
from stepdiff.kitchen.drawing.pen import Colour, Pen, Real, darker, lighter
from stepdiff.kitchen.drawing.tools import GRIP, TOOLS
from stepdiff.kitchen.steps import MAIN
from stepdiff.kitchen.world import Look

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


def stir_path(motion: str, u: Real) -> Pose:
    """Within a vessel: around, to and fro, or up and over."""
    a = math.tau * u
    if motion in ("in circles", "circling stream"):
        return Pose(46 * math.cos(a), 21 * math.sin(a))
    if motion in ("back and forth", "long strokes"):
        return Pose(56 * _wave(u), 8 * math.sin(a * 0.5))
    up = max(0.0, math.sin(a))
    return Pose(22 * math.cos(a), 16 - 6 * up, 74 * up**1.2, -26 * up)


def cut_path(motion: str, u: Real) -> Pose:
    """On a board: straight down, rocking on the tip, or drawn to and fro."""
    a = math.tau * u
    if motion == "straight down":
        return Pose(0, 0, 62 * (0.5 - 0.5 * math.cos(a)))
    if motion == "rocking":
        return Pose(-16, 4, 0, 30 * math.sin(a) + 22)
    return Pose(52 * _wave(u), 4, 4, 28)


def roll_path(motion: str, u: Real) -> Pose:
    """Over dough: away and back, sideways, or pounding."""
    a = math.tau * u
    if motion == "forwards and back":
        return Pose(0, 32 * _wave(u))
    if motion == "side to side":
        return Pose(46 * _wave(u), 0, 0, 90)
    return Pose(0, 6, 78 * abs(math.sin(a * 0.5)), -10 * abs(math.sin(a * 0.5)))


def grate_path(motion: str, u: Real) -> Pose:
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


_LARGE = 1.14
"""How much larger than life tools are held."""


@dataclass(frozen=True)
class Stage:
    """A pen at the middle of the work, and everything that a scene reads."""

    pen: Pen
    truth: Attributes
    look: Look
    at: Moment
    hue: Colour
    seed: str

    def moved(self, x: Real, y: Real, degrees: Real = 0.0) -> "Stage":
        """Return the stage with its pen at (x, y), turned clockwise by `degrees`."""
        return replace(self, pen=self.pen.at(x, y, degrees))

    @property
    def acting(self) -> bool:
        """Whether the step's own action runs (and not a sub-action)."""
        return self.at.action == MAIN

    @property
    def fast(self) -> bool:
        """Whether the own action runs now, and fast."""
        return self.acting and self.truth.speed == "fast"

    @property
    def area(self) -> tuple[Real, Real]:
        """Half axes of the food: the vessel's, or less for a small amount."""
        rx, ry = kitchenware.food_area(self.truth.vessel)
        share = 1.0 if self.truth.amount == "large" else 0.7
        return rx * share, ry * share


def tool(stage: Stage, pose: Pose, lean: Real = 40.0) -> None:
    """Draw the tool at a pose with the hand that holds it; during sub-actions it lies at the side."""
    truth = stage.truth
    if not stage.acting:
        TOOLS[truth.tool](stage.pen.at(52, 6, 62, _LARGE))
        return
    p = stage.pen.at(pose.x, pose.y - pose.lift, lean + pose.turn, _LARGE)
    TOOLS[truth.tool](p)
    a = math.radians(lean + pose.turn)
    grip = stage.pen.at(pose.x + _LARGE * GRIP * math.sin(a), pose.y - pose.lift - _LARGE * GRIP * math.cos(a))
    people.hand(grip, stage.look, truth.gloves)


def other_hand(stage: Stage, x: Real = -92.0, y: Real = 8.0) -> None:
    if stage.truth.hands == "both hands" and stage.acting:
        people.hand(stage.pen.at(x, y), stage.look, stage.truth.gloves, -1)


def trail(stage: Stage, path: Callable[[str, Real], Pose], dx: Real = 0, dy: Real = 0) -> None:
    """Draw white speed lines along the last part of a fast path, and drops that fly off."""
    if not stage.fast:
        return
    u = stage.at.turns
    for offset, width in ((-9.0, 4.0), (0.0, 8.0), (9.0, 4.0)):
        poses = [path(stage.truth.motion, u - 0.42 + 0.035 * k) for k in range(12)]
        points = [(p.x + dx + offset * 0.4, p.y - p.lift + dy + offset) for p in poses]
        stage.pen.line(points, (255, 255, 255, 215), width)
    for k in range(10):
        a = math.tau * k / 10 + 3 * stage.at.turns
        r = 1.02 + 0.26 * ((stage.at.turns * 2 + k * 0.31) % 1)
        x, y = 84 * r * math.cos(a), 46 * r * math.sin(a) - 8
        stage.pen.oval(x + dx * 0.3, y, 5, 5, lighter(stage.hue, 0.15))


def flecks(stage: Stage, rx: Real, ry: Real, turn: Real = 0.0, count: int = 7, size: Real = 0.95) -> None:
    """Draw the minor additions in the food; fewer if its area is small."""
    count = count if rx > 58 else min(count, 5)
    for i, extra in enumerate(stage.truth.extras):
        places = food.scattered(f"{stage.seed} {extra}", count, rx * 0.86, ry * 0.86)
        for x, y, angle in places:
            x, y = _turned(x, y, rx, ry, math.radians(turn + 37 * i))
            food.EXTRAS[extra](stage.pen.at(x, y, angle % 50 - 25, size))


def liquid(stage: Stage, rx: Real, ry: Real) -> None:
    """Draw a liquid surface: furrows show the motion; its texture and details lie on top."""
    pen, truth, hue = stage.pen, stage.truth, stage.hue
    pen.oval(0, 2, rx, ry, hue, darker(hue, 0.35))
    deep = darker(hue, 0.34)
    u = stage.at.turns
    if truth.motion == "in circles":
        for k, r in enumerate((0.82, 0.58, 0.34)):
            start = 360 * u + 70 * k
            pen.arc(0, 2, rx * r, ry * r, start, start + 250, deep, 4.5)
    elif truth.motion == "back and forth":
        for k in range(5):
            y = ry * (-0.64 + 0.32 * k)
            wide = rx * math.sqrt(1 - (y / ry) ** 2) * 0.9
            shift = 10 * math.sin(math.tau * u + k)
            points = [(wide * (-1 + i / 4), y + 2 + 4 * math.sin(i * 1.6 + shift)) for i in range(9)]
            pen.line(points, deep, 4.5)
    elif truth.motion == "folding":
        for k in range(3):
            x = rx * (-0.5 + 0.5 * k)
            pen.arc(x, 12, rx * 0.28, ry * 0.72, 180, 360, deep, 5.5)
            pen.arc(x + 3, 15, rx * 0.2, ry * 0.52, 180, 320, lighter(hue, 0.5), 4)
    if truth.texture == "runny":
        pen.oval(-rx * 0.42, -ry * 0.4, rx * 0.26, ry * 0.16, lighter(hue, 0.7), None)
        pen.oval(rx * 0.3, ry * 0.52, rx * 0.16, ry * 0.1, lighter(hue, 0.7), None)
    elif truth.texture == "frothy":
        for x, y, _ in food.scattered(stage.seed + "froth", 34, rx * 0.9, ry * 0.86):
            pen.oval(x, y, 7.5, 6, (255, 255, 250), darker(hue, 0.25), 1.2)
    else:
        for x, y, _ in food.scattered(stage.seed + "lumps", 13, rx * 0.84, ry * 0.78):
            pen.oval(x, y + 2, 13, 9, darker(hue, 0.3), None)
            pen.oval(x, y - 1, 12, 8, lighter(hue, 0.12))
    if truth.detail == "bubbles":
        for x, y, _ in food.scattered(stage.seed + "bubbles", 10, rx * 0.84, ry * 0.74):
            pen.oval(x, y, 13.5, 10.5, lighter(hue, 0.62), darker(hue, 0.6), 3)
            pen.oval(x - 4, y - 3, 3.4, 2.4, (255, 255, 255), None)
    elif truth.detail == "streaks":
        for k in range(3):
            y = ry * (-0.45 + 0.45 * k)
            points = [(rx * (-0.6 + 0.15 * i), y + 5 * math.sin(i * 1.4 + k)) for i in range(9)]
            pen.line(points, (232, 92, 24), 7.5)
    flecks(stage, rx, ry, 360 * u * 0.3)


def pieces(stage: Stage, count: int, rx: Real, ry: Real, form: str | None) -> None:
    """Draw cut pieces heaped over an ellipse, thrown up if the motion tosses."""
    truth, hue = stage.truth, stage.hue
    large = truth.size == "large"
    if form is None:
        size, count = (1.3 if large else 0.72), round(count * 0.7) if truth.amount == "small" else count
        number = round(count * (0.62 if large else 1.5))
    else:
        size, number = (1.5 if large else 0.95), max(4, round(count * (0.55 if large else 1.0)))
    if form == "slices":  # in rows, each on the one before
        across = max(3, math.ceil(number / 3))
        span = [(i // across, -0.9 + 1.8 * (i % across) / (across - 1)) for i in range(number)]
        places = [(rx * x, ry * (-0.8 + 0.8 * row), 74.0) for row, x in span]
    else:
        places = food.scattered(stage.seed + "pieces", number, rx, ry)
    u = stage.at.turns
    for i, (x, y, angle) in enumerate(places):
        if truth.motion == "in circles":
            x, y = _turned(x, y, rx, ry, math.tau * u * 0.35)
        elif truth.motion == "back and forth":
            x += 7 * math.sin(math.tau * u + y)
        elif truth.motion in ("tossing", "folding") and stage.acting and i % 3 == 0:
            height = 92 if truth.motion == "tossing" else 58
            y -= height * abs(math.sin(math.pi * (u + (i % 5) * 0.06)))
        p = stage.pen.at(x, y, angle, size)
        food.piece(p, truth.main, hue, form, i)
        if truth.detail == "charred edges":
            p.arc(0, 0, 11, 8, 20, 200, (30, 20, 18), 4.5)
        elif truth.detail == "seeds left in":
            for dx in (-4, 4):
                p.oval(dx, 0, 2.2, 3.4, (70, 40, 24), None)
    if truth.detail == "glossy dressing":
        for k in range(4):
            y = ry * (-0.6 + 0.4 * k)
            points = [(rx * (-0.7 + 0.175 * i), y + 6 * math.sin(i * 1.7 + k)) for i in range(9)]
            stage.pen.line(points, (255, 214, 60), 7)
            stage.pen.line(points, (255, 248, 190), 2.5)
    flecks(stage, rx, ry, 0.0, 7 if form is None else 4)


def _turned(x: Real, y: Real, rx: Real, ry: Real, a: Real) -> tuple[Real, Real]:
    """Return a point after a turn by `a` radians along an ellipse."""
    x, y = x / rx, y / ry
    return rx * (x * math.cos(a) - y * math.sin(a)), ry * (x * math.sin(a) + y * math.cos(a))


def tilted(stage: Stage) -> Stage:
    return stage.moved(-4, 6, -19) if stage.truth.manner == "tilted" else stage
