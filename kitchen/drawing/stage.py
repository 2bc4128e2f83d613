"""What every scene is made of: hands with tools, speed lines, liquids, heaps of pieces."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from kitchen.attributes import Attributes
from kitchen.drawing import food, kitchenware, people
from kitchen.drawing.motion import Moment, Pose
from kitchen.drawing.pen import Colour, Pen, Real, darker, lighter
from kitchen.drawing.tools import GRIP, TOOLS
from kitchen.steps import MAIN
from kitchen.world import Look

_LARGE = 1.14
"""How much larger than life tools are held."""


@dataclass(frozen=True)
class Stage:
    """A pen at the middle of the work, and everything that a scene needs to know."""

    pen: Pen
    truth: Attributes
    look: Look
    at: Moment
    hue: Colour
    seed: str

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
        """Half axes of the food: the vessel's, or less of it for a small amount."""
        rx, ry = kitchenware.food_area(self.truth.vessel)
        share = 1.0 if self.truth.amount == "large" else 0.7
        return rx * share, ry * share


def tool(stage: Stage, pose: Pose, lean: Real = 40.0) -> None:
    """The tool at a pose with the hand that holds it; laid aside during sub-actions."""
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
    """White speed lines along the last stretch of a fast path, and drops that fly off."""
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
    """The minor additions, lying in the food; fewer where there is little of it."""
    count = count if rx > 58 else min(count, 5)
    for i, extra in enumerate(stage.truth.extras):
        places = food.scattered(f"{stage.seed} {extra}", count, rx * 0.86, ry * 0.86)
        for x, y, angle in places:
            a = math.radians(turn + 37 * i)
            px, py = x / rx, y / ry
            x = rx * (px * math.cos(a) - py * math.sin(a))
            y = ry * (px * math.sin(a) + py * math.cos(a))
            food.EXTRAS[extra](stage.pen.at(x, y, angle % 50 - 25, size))


def liquid(stage: Stage, rx: Real, ry: Real) -> None:
    """A liquid surface: furrows tell the motion, its texture and details lie on top."""
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
    """Cut pieces heaped over an ellipse, tossed up where the motion tosses."""
    truth, hue = stage.truth, stage.hue
    large = truth.size == "large"
    size = 1.3 if large else 0.72
    if truth.amount == "small" and form is None:
        count = round(count * 0.7)
    number = round(count * (0.62 if large else 1.5))
    places = food.scattered(stage.seed + "pieces", number, rx, ry)
    if form is not None:
        size = 1.5 if large else 0.95
        number = max(4, round(count * (0.55 if large else 1.0)))
        places = food.scattered(stage.seed + "pieces", number, rx, ry)
    if form == "slices":
        places = _rows(number, rx, ry)
    u = stage.at.turns
    for i, (x, y, angle) in enumerate(places):
        if truth.motion == "in circles":
            a = math.tau * u * 0.35
            px, py = x / rx, y / ry
            x = rx * (px * math.cos(a) - py * math.sin(a))
            y = ry * (px * math.sin(a) + py * math.cos(a))
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


def _rows(number: int, rx: Real, ry: Real) -> list[tuple[Real, Real, Real]]:
    """Slices fallen over one another in rows."""
    across = max(3, math.ceil(number / 3))
    return [
        (rx * (-0.9 + 1.8 * (i % across) / (across - 1)), ry * (-0.8 + 0.8 * (i // across)), 74.0)
        for i in range(number)
    ]


def tilted(stage: Stage) -> Stage:
    if stage.truth.manner != "tilted":
        return stage
    return Stage(stage.pen.at(-4, 6, -19), stage.truth, stage.look, stage.at, stage.hue, stage.seed)
