"""The frames of a clip, scene by scene: when things happen, the paths of hands and tools, liquids,
heaps of pieces.

A clip is divided into its sub-actions and the step's own action, in order. Within the own action
the hand repeats a cycle; `turns` counts the cycles done so far, so speed is turns a second.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image

from stepdiff.kitchen.attributes import Attributes
from stepdiff.kitchen.drawing import food, kitchenware, people
from stepdiff.kitchen.drawing.pen import (
    HEIGHT,
    SCALE,
    WHITE,
    WIDTH,
    Colour,
    Pen,
    Real,
    by_name,
    darker,
    lighter,
)
from stepdiff.kitchen.drawing.tools import GRIP, TOOLS
from stepdiff.kitchen.steps import MAIN, STEPS
from stepdiff.kitchen.world import Look

MIDDLE = (144.0, 176.0)
"""The middle of the work in the central square."""

NEAR = 1.09
"""Scale of the work, compared with what lies around it."""

SOURCE, DISHES = (72.0, 64.0), ((152.0, 40.0), (201.0, 40.0), (250.0, 40.0))
TURNS_PER_SECOND = {"slow": 0.42, "fast": 1.7}

STREAK: Colour = (*WHITE, 220)
"""Of lines that show speed."""

_SHARE = {0: 0.0, 1: 0.27, 2: 0.21, 3: 0.17}
"""Part of the clip that each sub-action takes, by how many there are: at least one of 8 frames."""


@dataclass(frozen=True)
class Instant:
    """One instant of a clip. `action`: what happens; `u`: how far it is, 0..1."""

    action: str
    u: Real
    now: Real
    """Seconds since the clip began."""
    turns: Real
    progress: Real
    """How far the step's own action is, 0..1, also while a sub-action runs."""


def moment(sequence: tuple[str, ...], speed: str, duration: Real, now: Real) -> Instant:
    """What happens `now` seconds into a clip of `duration` seconds."""
    others = len(sequence) - 1
    each = _SHARE[others] * duration
    action_seconds = duration - others * each
    start = 0.0
    begin_own = sequence.index(MAIN) * each
    done = min(max(now - begin_own, 0.0), action_seconds)
    for action in sequence:
        length = action_seconds if action == MAIN else each
        if now < start + length or action == sequence[-1]:
            u = min(1.0, (now - start) / length)
            return Instant(action, u, now, done * TURNS_PER_SECOND[speed], done / action_seconds)
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
    at: Instant
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
    """Draw the tool at a pose with the hand that holds it; during sub-actions it lies at the
    side."""
    truth = stage.truth
    if not stage.acting:
        TOOLS[truth.tool](stage.pen.at(52, 6, 62, _LARGE))
        return
    p = stage.pen.at(pose.x, pose.y - pose.lift, lean + pose.turn, _LARGE)
    TOOLS[truth.tool](p)
    a = math.radians(lean + pose.turn)
    grip = stage.pen.at(
        pose.x + _LARGE * GRIP * math.sin(a), pose.y - pose.lift - _LARGE * GRIP * math.cos(a)
    )
    people.hand(grip, stage.look, truth.gloves)


def other_hand(stage: Stage, x: Real = -92.0, y: Real = 8.0) -> None:
    if stage.truth.hands == "both hands" and stage.acting:
        people.hand(stage.pen.at(x, y), stage.look, stage.truth.gloves, -1)


def trail(stage: Stage, path: Callable[[str, Real], Pose]) -> None:
    """Draw white speed lines along the last part of a fast path, and drops that fly off."""
    if not stage.fast:
        return
    u = stage.at.turns
    for offset, width in ((-9.0, 4.0), (0.0, 8.0), (9.0, 4.0)):
        poses = [path(stage.truth.motion, u - 0.42 + 0.035 * k) for k in range(12)]
        points = [(p.x + offset * 0.4, p.y - p.lift + offset) for p in poses]
        stage.pen.line(points, (255, 255, 255, 215), width)
    for k in range(10):
        a = math.tau * k / 10 + 3 * stage.at.turns
        r = 1.02 + 0.26 * ((stage.at.turns * 2 + k * 0.31) % 1)
        x, y = 84 * r * math.cos(a), 46 * r * math.sin(a) - 8
        stage.pen.oval(x, y, 5, 5, lighter(stage.hue, 0.15))


def flecks(
    stage: Stage, rx: Real, ry: Real, turn: Real = 0.0, count: int = 7, size: Real = 0.95
) -> None:
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
            points = [
                (wide * (-1 + i / 4), y + 2 + 4 * math.sin(i * 1.6 + shift)) for i in range(9)
            ]
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
        size, count = (
            (1.3 if large else 0.72),
            round(count * 0.7) if truth.amount == "small" else count,
        )
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
        food.piece(p, truth.main, hue, form)
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


def backdrop(truth: Attributes, look: Look, seed: str) -> Image.Image:
    """Draw everything that does not move during a clip, at drawing size."""
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE))
    pen = Pen.on(image)
    kitchenware.surface(pen, truth.surface, seed)
    kitchenware.decor(pen, look.decor)
    hue = food.food_colour(truth.colour, truth.shade)
    pen.oval(SOURCE[0] + 4, SOURCE[1] + 40, 50, 10, (40, 30, 30, 80), None)
    food.SOURCES[truth.main](pen.at(*SOURCE, 0, 1.16), hue)
    for place, extra in zip(DISHES, truth.extras, strict=False):
        food.dish(pen.at(*place, 0, 1.15), extra)
    return image


def frame(image: Image.Image, truth: Attributes, look: Look, at: Instant, seed: str) -> None:
    """Draw one instant over a copy of the backdrop."""
    pen = Pen.on(image).at(*MIDDLE, 0, NEAR)
    stage = Stage(pen, truth, look, at, food.food_colour(truth.colour, truth.shade), seed)
    if truth.heat is not None:
        kitchenware.burner(pen, truth.surface, truth.heat)
    SCENES[STEPS[truth.step].scene](stage)
    if truth.heat is not None:
        if truth.surface == "gas stove":
            kitchenware.flames(pen, truth.heat, at.now)
        if truth.heat == "high":
            kitchenware.steam(pen, at.now)
    if not stage.acting:
        people.SUBACTIONS[at.action](pen, at.u, look, truth.gloves, stage.hue)


# -- scenes ----------------------------------------------------------------------------------------


def mix(stage: Stage) -> None:
    """A bowl of liquid; some of it hangs from a lifted tool."""
    inside = tilted(stage)
    kitchenware.vessel(inside.pen, stage.truth.vessel, stage.truth.trim, stage.hue)
    liquid(inside, *stage.area)
    trail(stage, stir_path)
    pose = stir_path(stage.truth.motion, stage.at.turns)
    if pose.lift > 12 and stage.acting:
        top = pose.y - pose.lift
        stage.pen.poly(
            [pose.x - 7, top, pose.x + 7, top, pose.x + 13, 12, pose.x - 13, 12], stage.hue
        )
    tool(stage, pose)
    other_hand(stage)


def _stir(stage: Stage, hand: tuple[Real, Real]) -> None:
    trail(stage, stir_path)
    tool(stage, stir_path(stage.truth.motion, stage.at.turns))
    other_hand(stage, *hand)


def salad(stage: Stage) -> None:
    """A bowl of pieces."""
    inside = tilted(stage)
    kitchenware.vessel(inside.pen, stage.truth.vessel, stage.truth.trim, stage.hue)
    pieces(inside, 24, *stage.area, None)
    _stir(stage, (-92.0, 8.0))


def fry(stage: Stage) -> None:
    """A pan of pieces on a stove."""
    tossing = stage.truth.motion == "tossing" and stage.acting
    lift = 12 * abs(math.sin(math.pi * stage.at.turns)) if tossing else 0.0
    inner = stage.moved(0, -lift, -7 if tossing else 0)
    kitchenware.vessel(inner.pen, stage.truth.vessel, stage.truth.trim)
    pieces(inner, 22, *stage.area, None)
    if tossing:
        trail(stage, lambda _, u: Pose(-40, 0, 70 * abs(math.sin(math.pi * u))))
        tool(stage, Pose(48, 2, lift))
        other_hand(stage, -104, 34)
    else:
        _stir(stage, (-104, 34))


def simmer(stage: Stage) -> None:
    """A pot of sauce on a stove."""
    kitchenware.vessel(stage.pen, stage.truth.vessel, stage.truth.trim)
    liquid(stage, *stage.area)
    _stir(stage, (-100, 14))


def cut(stage: Stage) -> None:
    """A board, the whole thing on its left, pieces on its right, a blade between."""
    pen, truth = stage.pen, stage.truth
    kitchenware.vessel(pen, truth.vessel, truth.trim)
    whole = ((-64, 4),) if truth.amount == "small" else ((-86, -24), (-42, -16), (-66, 20))
    for x, y in whole:
        food.SOURCES[truth.main](pen.at(x, y, 0, 0.8), stage.hue)
        if truth.detail == "stems left on":
            pen.at(x, y).bar([8, -24, 18, -46, 34, -44], (40, 110, 40), 7)
    large = truth.amount == "large"
    pieces(
        stage.moved(58, 20),
        17 if large else 9,
        50 if large else 36,
        28 if large else 20,
        truth.manner,
    )
    if truth.detail == "stems left on":
        for x, y in ((30, 2), (62, 34), (88, 8)):
            pen.bar([x, y, x + 6, y - 12], (40, 110, 40), 6)
    pose = cut_path(truth.motion, stage.at.turns)
    shifted = Pose(pose.x - 8, pose.y + 30, pose.lift, pose.turn)
    if stage.fast:
        for k in range(3):
            d = 16 + 14 * k
            if truth.motion == "straight down":
                for x in (-8 - d, -8 + d):
                    pen.line([x, -80, x, 8], STREAK, 5)
            elif truth.motion == "rocking":
                pen.arc(-20, 34, 70 + d, 70 + d, 262, 318, STREAK, 5)
            else:
                pen.line([-70, 40 - d, 60, 40 - d], STREAK, 5)
        for k in range(6):
            a = math.pi + math.pi * k / 5
            r = 46 + 22 * ((stage.at.turns * 2 + k * 0.4) % 1)
            pen.oval(-8 + r * math.cos(a), 30 + r * 0.8 * math.sin(a), 5, 5, stage.hue)
    tool(stage, shifted, 22)
    other_hand(stage, -74, 0)


def flip(stage: Stage) -> None:
    """A pancake turned over in a pan."""
    pen, truth = stage.pen, stage.truth
    tossing = truth.motion == "pan toss" and stage.acting
    height, turned = flight(stage.at.turns if stage.acting else 0.0)
    tilt = -16.0 if tossing and height > 0 else 0.0
    if truth.amount == "large":
        for k in range(4):
            pen.oval(-84, 66 - 9 * k, 40, 17, darker(stage.hue, 0.1 + 0.06 * (k % 2)))
    kitchenware.vessel(pen.at(0, 0, tilt), truth.vessel, truth.trim)
    top = {"low turn": 30.0, "high flip": 118.0, "pan toss": 84.0}[truth.motion]
    big = truth.size == "large"
    rx, ry = (70.0, 33.0) if big else (44.0, 21.0)
    y = -height * top
    if stage.fast and height > 0.05:
        for dx in (-34, 0, 34):
            pen.line([dx, y + 16, dx, y + 62], STREAK, 6)
        pen.arc(0, -10, 96, 70, 200, 340, (*WHITE, 200), 5)
    disc = stage.moved(-18 + 8 * turned, y, 40 * math.sin(math.pi * turned))
    squash = max(0.16, abs(math.cos(math.pi * turned)))
    _pancake(disc, rx, ry * squash)
    if tossing:
        people.hand(pen.at(-104, 34), stage.look, truth.gloves, -1)
        TOOLS[truth.tool](pen.at(96, 74, 40, 0.8))
    else:
        pose = Pose(30 + 10 * turned, 16, max(0.0, height * min(top, 46.0) - 6), -30 * height)
        tool(stage, pose, 52)
        other_hand(stage, -104, 34)


def _pancake(stage: Stage, rx: Real, ry: Real) -> None:
    pen, hue = stage.pen, stage.hue
    pen.oval(0, 5, rx, ry, darker(hue, 0.35))
    pen.oval(0, 0, rx, ry, lighter(hue, 0.1))
    if stage.truth.detail == "crisp edges":
        pen.oval(0, 0, rx - 1, ry - 1, None, (84, 40, 18), 9)
    else:
        pen.oval(0, 0, rx * 0.74, ry * 0.7, darker(hue, 0.14), None)
    many = stage.truth.size == "large"
    flecks(stage, rx * 0.8, ry * 0.8, 0.0, 7 if many else 3, 0.95 if many else 0.8)


def pour(stage: Stage) -> None:
    """Batter runs into a pan from above."""
    pen, truth, hue = stage.pen, stage.truth, stage.hue
    kitchenware.vessel(pen, truth.vessel, truth.trim)
    rx, ry = stage.area
    grown = 0.66 + 0.34 * stage.at.progress
    liquid(stage, rx * grown, ry * grown)
    if not stage.acting:
        TOOLS[truth.tool](pen.at(78, -30, 20 if truth.tool == "ladle" else 0))
        return
    u = stage.at.turns
    pose = stir_path("in circles", u) if truth.motion == "circling stream" else Pose(0, 0)
    x, y = pose.x * 0.8 - 12, pose.y * 0.7
    high = 104.0 if truth.manner == "from high" else 44.0
    lip = y - high
    wide = 13.0 if stage.fast else 5.5
    if truth.motion == "dollops":
        for k in range(3):
            fall = (u * 1.4 + k / 3) % 1.0
            pen.oval(x, lip + 6 + (high - 8) * fall, 12 + wide * 0.3, 14, hue)
    else:
        points = [(x - wide, lip), (x + wide, lip)]
        points += [
            (x + wide * 0.8 + 2 * math.sin(k * 1.5 + 9 * u), lip + high * k / 6)
            for k in range(1, 7)
        ]
        points += [
            (x - wide * 0.8 + 2 * math.sin(k * 1.5 + 9 * u), lip + high * k / 6)
            for k in range(6, 0, -1)
        ]
        pen.poly(points, hue)
        pen.oval(x, y, 24, 9, lighter(hue, 0.25), darker(hue, 0.3))
        pen.oval(x, y, 13, 5, None, darker(hue, 0.3), 2)
    if stage.fast:
        for k in range(8):
            a = math.pi * (1 + k / 7)
            r = 24 + 24 * ((u * 2 + k * 0.37) % 1)
            pen.oval(x + 1.6 * r * math.cos(a), y + r * math.sin(a), 5.5, 5.5, hue)
        for d in (-26, 24):
            pen.line([x + d, lip + 8, x + d, y - 10], (*WHITE, 215), 5)
    if truth.tool == "ladle":
        TOOLS[truth.tool](pen.at(x + 14, lip + 2, 24))
        grip = (x + 66, lip - 84 + 12)
    else:
        TOOLS[truth.tool](pen.at(x, lip, -14))
        grip = (x + 72, lip + 2)
    people.hand(pen.at(max(-40.0, grip[0]), max(-118.0, grip[1])), stage.look, truth.gloves)
    other_hand(stage, -104, 34)


def spread(stage: Stage) -> None:
    """A topping on a slice of bread."""
    pen, truth, hue = stage.pen, stage.truth, stage.hue
    kitchenware.vessel(pen, truth.vessel, truth.trim)
    crust = (92, 50, 24) if truth.detail == "toasted crust" else (206, 150, 92)
    slice_ = [(-70, -26), (-60, -40), (-30, -44), (0, -40), (30, -44), (60, -40), (70, -26),
              (62, -12), (66, 40), (-66, 40), (-62, -12)]  # fmt: skip
    pen.poly([(x * 1.06, y * 1.08 + 5) for x, y in slice_], darker(crust, 0.2))
    pen.poly([(x * 1.06, y * 1.08) for x, y in slice_], crust)
    pen.poly([(x * 0.92, y * 0.88) for x, y in slice_], (250, 230, 186), None)
    share = 0.94 if truth.amount == "large" else 0.56
    thick = truth.manner == "thick layer"
    shape = [(x * 0.88 * share, y * 0.84 * share) for x, y in slice_]
    if thick:
        for k in (11, 7):
            pen.poly([(x, y + k) for x, y in shape], darker(hue, 0.3))
    raised = -7.0 if thick else 0.0
    pen.poly([(x, y + raised) for x, y in shape], hue, darker(hue, 0.35))
    top = stage.moved(0, raised)
    rx, ry = 58 * share, 34 * share
    deep = darker(hue, 0.22)
    if truth.motion == "in circles":
        for r in (0.85, 0.55, 0.28):
            top.pen.oval(0, 0, rx * r, ry * r, None, deep, 3.5)
    elif truth.motion == "long strokes":
        for k in range(5):
            y = ry * (-0.7 + 0.35 * k)
            top.pen.line([-rx * 0.86, y, rx * 0.86, y + 3], deep, 3.5)
    else:
        for x, y, _ in food.scattered(stage.seed + "dabs", 8, rx * 0.8, ry * 0.8):
            top.pen.arc(x, y, 9, 7, 150, 390, deep, 3.5)
    if truth.texture == "lumpy":
        for x, y, _ in food.scattered(stage.seed + "lumps", 11, rx * 0.9, ry * 0.85):
            top.pen.oval(x, y, 10, 7.5, darker(hue, 0.12))
            top.pen.oval(x - 2, y - 2, 4, 2.5, lighter(hue, 0.5), None)
    else:
        top.pen.oval(-rx * 0.4, -ry * 0.45, rx * 0.3, ry * 0.14, lighter(hue, 0.7), None)
    flecks(top, rx * 0.9, ry * 0.9)
    trail(stage, _spread_path)
    tool(stage, _spread_path(truth.motion, stage.at.turns), 52)
    other_hand(stage, -84, 18)


def _spread_path(name: str, u: Real) -> Pose:
    if name != "dabbing":
        return stir_path(name, u)
    up = abs(math.sin(math.pi * u))
    return Pose(30 * math.cos(math.floor(u) * 2.2), 14 * math.sin(math.floor(u) * 2.2), 60 * up)


def _crumbs(stage: Stage, rx: Real, ry: Real, far: Real, colour: Colour) -> None:
    """Draw crumbs that fly off around an ellipse."""
    for k in range(10):
        a = math.tau * k / 10 + stage.at.turns
        r = 1.0 + far * ((stage.at.turns * 2 + k * 0.37) % 1)
        stage.pen.oval(rx * r * math.cos(a), ry * r * math.sin(a), 5, 4, colour)


def roll(stage: Stage) -> None:
    """Dough under a rolling pin."""
    pen, truth, hue = stage.pen, stage.truth, stage.hue
    kitchenware.vessel(pen, truth.vessel, truth.trim)
    if truth.amount == "large":
        for x in (-92, -52):
            pen.oval(x, 74, 26, 20, hue)
            pen.arc(x, 74, 16, 11, 190, 290, lighter(hue, 0.6), 4)
    grow = 0.8 + 0.2 * stage.at.progress
    discs = ((0, 0, 82, 42),) if truth.size == "large" else (
        (-52, 8, 28, 17), (4, -20, 28, 17), (52, 12, 28, 17), (0, 26, 28, 17))  # fmt: skip
    for i, (x, y, wide, deep) in enumerate(discs):
        rx, ry = wide * grow, deep * grow
        pen.oval(x, y + 6, rx, ry, darker(hue, 0.3))
        pen.oval(x, y, rx, ry, hue)
        if truth.detail == "cracked edges":
            for k in range(9):
                a = math.tau * k / 9 + i
                pen.line(
                    [x + rx * math.cos(a), y + ry * math.sin(a),
                     x + rx * 0.72 * math.cos(a + 0.1), y + ry * 0.72 * math.sin(a + 0.1)],
                    (84, 56, 36), 7,
                )  # fmt: skip
        part = replace(stage.moved(x, y), seed=f"{stage.seed}{i}")
        large = truth.size == "large"
        flecks(part, rx * 0.9, ry * 0.9, 0.0, 7 if large else 2, 0.95 if large else 0.75)
    pose = roll_path(truth.motion, stage.at.turns)
    if not stage.acting:
        TOOLS[truth.tool](pen.at(20, -52, 4))
        return
    if stage.fast:
        for k in range(3):
            d = 24 + 13 * k
            if truth.motion == "side to side":
                for off in (-d, d):
                    pen.line([pose.x + off, -44, pose.x + off, 44], STREAK, 5)
            elif truth.motion == "pounding":
                pen.line([-80 + 80 * k, -70, -80 + 80 * k, 6], STREAK, 6)
            else:
                for off in (d, -d):
                    pen.line([-60, pose.y + off, 60, pose.y + off], STREAK, 5)
        _crumbs(stage, 94, 50, 0.3, lighter(hue, 0.5))
    TOOLS[truth.tool](pen.at(pose.x, pose.y - pose.lift, pose.turn))
    a = math.radians(pose.turn)
    ends = [(86 * math.cos(a), 86 * math.sin(a))]
    if truth.hands == "both hands":
        ends.append((-86 * math.cos(a), -86 * math.sin(a)))
    for i, (dx, dy) in enumerate(ends):
        place = pen.at(pose.x + dx, pose.y - pose.lift + dy * 0.8)
        people.hand(place, stage.look, truth.gloves, -1 if i else 1)


def grate(stage: Stage) -> None:
    """A grater over a bowl of shreds."""
    pen, truth, hue = stage.pen, stage.truth, stage.hue
    kitchenware.vessel(pen, truth.vessel, truth.trim)
    rx, ry = stage.area
    coarse = truth.size == "large"
    count = 26 if coarse else 60
    length, width = (14, 8) if coarse else (9, 3)
    for i, (x, y, angle) in enumerate(food.scattered(stage.seed + "shreds", count, rx, ry)):
        tone = lighter(hue, 0.25) if i % 2 else hue
        pen.at(x, y, angle).bar([-length, 0, 0, 3, length, 0], tone, width)
        if truth.detail == "rind left on":
            pen.at(x, y, angle).line([length * 0.2, 2, length, 0], (120, 40, 30), width + 3)
    flecks(stage, rx, ry)
    lean = 34.0 if truth.manner == "slanted" else 0.0
    pose = grate_path(truth.motion, stage.at.turns if stage.acting else 0.0)
    moving = truth.motion == "moving the grater"
    base = pen.at(pose.x if moving else 0, 10, lean, 1.12)
    TOOLS[truth.tool](base)
    if not stage.acting:
        return
    block = base.at(20, -46) if moving else base.at(18 + pose.x, -44 + pose.y)
    if stage.fast:
        for d in (-18, 0, 18):
            if truth.motion == "up and down":
                base.line([44 + d, -84, 44 + d, -6], STREAK, 6)
            elif moving:
                pen.line([-84, -50 + d, 84, -50 + d], (*WHITE, 200), 6)
            else:
                base.arc(18, -44, 44 + d, 44 + d, 0, 300, STREAK, 5)
        _crumbs(stage, 88, 48, 0.26, hue)
    food.SOURCES[truth.main](block.at(0, 0, -lean, 0.62), hue)
    people.hand(block.at(24, 4, -lean), stage.look, truth.gloves)
    other_hand(stage)


SCENES: dict[str, Callable[[Stage], None]] = by_name(
    mix, salad, fry, simmer, cut, flip, pour, spread, roll, grate
)
