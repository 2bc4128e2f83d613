"""Surfaces, stoves with their heat, and vessels."""

import math
import random

from stepdiff.kitchen.drawing.pen import (
    INK,
    WHITE,
    Colour,
    Pen,
    Real,
    by_name,
    darker,
    lighter,
    mix,
)

TRIMS: dict[str, Colour] = {"red": (214, 44, 48), "blue": (44, 92, 204)}

_BODY: dict[str, tuple[Colour, Colour]] = {
    "glass bowl": ((206, 234, 242), (228, 244, 248)),
    "metal bowl": ((132, 142, 156), (172, 182, 194)),
    "ceramic bowl": ((224, 140, 60), (250, 226, 180)),
    "steel pan": ((168, 176, 188), (206, 212, 220)),
    "black pan": ((44, 44, 50), (70, 70, 78)),
    "copper pan": ((204, 112, 66), (234, 164, 120)),
    "steel pot": ((168, 176, 188), (206, 212, 220)),
    "enamel pot": ((250, 250, 246), (232, 236, 240)),
    "clay pot": ((176, 92, 58), (204, 130, 90)),
    "wooden board": ((206, 152, 92), (190, 134, 76)),
    "plastic board": ((150, 216, 196), (130, 200, 178)),
    "slate board": ((82, 90, 102), (66, 74, 86)),
    "ceramic plate": ((250, 248, 242), (232, 232, 230)),
    "wooden plate": ((186, 124, 70), (164, 104, 56)),
    "metal tray": ((186, 194, 204), (156, 164, 176)),
}
"""Outside and inside of each vessel."""

# -- surfaces --------------------------------------------------------------------------------------


def surface(pen: Pen, name: str, seed: str) -> None:
    """Fill the whole frame with a counter or a stove top."""
    rng = random.Random(seed)
    if name == "wooden table":
        for row in range(7):
            tone = darker((186, 122, 70), rng.uniform(0.0, 0.22))
            pen.box(-60, row * 44 - 8, 350, row * 44 + 36, tone, (120, 74, 42), 0)
            for _ in range(5):
                x, y = rng.uniform(-60, 320), row * 44 + rng.uniform(0, 30)
                pen.line([x, y, x + rng.uniform(20, 70), y + 1], darker(tone, 0.2), 1.4)
    elif name == "marble counter":
        pen.box(-60, -10, 350, 300, (236, 234, 238), None, 0)
        for _ in range(16):
            x, y = rng.uniform(-60, 340), rng.uniform(-10, 290)
            points = [(x, y)]
            for _ in range(6):
                x, y = x + rng.uniform(8, 30), y + rng.uniform(-16, 20)
                points.append((x, y))
            pen.line(points, (182, 184, 200), rng.choice((1.5, 2.5, 4)))
    elif name == "steel counter":
        for row in range(30):
            level = 118 + 26 * math.sin(row * 0.45) + rng.uniform(-5, 5)
            grey = (round(level * 0.86), round(level * 0.95), round(level * 1.06))
            pen.box(-60, row * 10 - 5, 350, row * 10 + 6, grey, None, 0)
    elif name == "gas stove":
        pen.box(-60, -10, 350, 300, (224, 226, 230), None, 0)
        pen.box(-8, 112, 296, 280, (64, 66, 74), radius=14)
        for x in (20, 82, 206, 268):
            pen.bar([x, 118, x, 274], (24, 24, 28), 7)
        for y in (146, 262):
            pen.bar([-2, y, 290, y], (24, 24, 28), 7)
    else:
        pen.box(-60, -10, 350, 300, (196, 186, 172), None, 0)
        pen.box(-8, 108, 296, 280, (22, 22, 28), radius=14)
        pen.line([4, 120, 120, 112], (70, 72, 84), 3)
    pen.box(-60, -10, 350, 8, (120, 160, 168), None, 0)


def decor(pen: Pen, kind: int) -> None:
    """Draw things in the side margins, which no encoder's centre crop contains."""
    pots = ((198, 98, 70), (90, 130, 180), (230, 190, 90))
    for side, x in enumerate((-25, 313)):
        which = (kind + side * 2) % 3
        if which == 0:
            for turn in (-30, -10, 12, 32):
                pen.at(x, 60, turn).oval(0, -20, 5, 22, (84, 150, 84))
            pen.poly([x - 14, 58, x + 14, 58, x + 10, 84, x - 10, 84], pots[kind % 3])
        elif which == 1:
            for y in (40, 66):
                pen.box(x - 13, y, x + 13, y + 22, pots[(kind + y) % 3], radius=5)
        else:
            pen.box(x - 14, 44, x + 12, 84, (246, 240, 226), radius=6)
            pen.arc(x + 12, 62, 8, 10, -90, 90, INK, 3)


def burner(pen: Pen, stove: str, level: str) -> None:
    """Draw the burner below a vessel whose middle is the origin."""
    if stove == "gas stove":
        pen.oval(0, 44, 112, 46, (30, 30, 36))
        pen.oval(0, 44, 84, 34, (52, 52, 60))
        return
    glow: Colour = (255, 92, 24) if level == "high" else (112, 30, 28)
    if level == "high":
        pen.oval(0, 36, 134, 66, (255, 80, 20, 90), None)
    for ring in range(4):
        rx = 124 - ring * 18
        pen.oval(0, 36, rx, rx * 0.48, None, glow, 9 if level == "high" else 4)
        if level == "high":
            pen.oval(0, 36, rx, rx * 0.48, None, (255, 216, 120), 3)


def flames(pen: Pen, level: str, phase: Real) -> None:
    """Draw gas flames in front of a vessel whose middle is the origin; `phase` in seconds."""
    count, height, wide = (11, 52, 12) if level == "high" else (9, 17, 6)
    for i in range(count):
        a = math.radians(12 + 156 * i / (count - 1))
        x, y = 98 * math.cos(a), 48 + 34 * math.sin(a)
        h = height * (0.82 + 0.18 * math.sin(phase * 19 + i * 2.1))
        flame = [
            (x - wide, y - 4),
            (x - wide * 0.8, y - h * 0.45),
            (x, y - h),
            (x + wide * 0.8, y - h * 0.45),
            (x + wide, y - 4),
            (x, y + 4),
        ]
        if level == "high":
            pen.poly(flame, (250, 130, 30), None)
            inner = [(x + (px - x) * 0.55, y + (py - y) * 0.62) for px, py in flame]
            pen.poly(inner, (255, 224, 90), None)
        else:
            pen.poly(flame, (70, 140, 250), None)


def steam(pen: Pen, phase: Real) -> None:
    """Draw three wisps of steam above the origin."""
    for i, x in enumerate((-44, 0, 44)):
        rise = (phase * 0.7 + i * 0.37) % 1.0
        points = [
            (x + 9 * math.sin(k * 1.1 + phase * 5 + i), -6 - 11 * k - 26 * rise) for k in range(6)
        ]
        pen.line(points, (*WHITE, 150), 8)


# -- vessels ---------------------------------------------------------------------------------------


def food_area(vessel: str) -> tuple[Real, Real]:
    """Return half width and half height of the food around the middle of a bowl, pan or pot."""
    return {"bowl": (74, 36), "pan": (78, 36), "pot": (73, 35)}[vessel.split()[-1]]


def vessel(pen: Pen, name: str, trim: str, content: Colour | None = None) -> None:
    """Draw a vessel whose opening is centred on the origin; glass shows the colour of its
    `content`."""
    body, inside = _BODY[name]
    if name == "glass bowl" and content is not None:
        body = mix(body, content, 0.55)
    _SHAPES[name.split()[-1]](pen, name, body, inside, TRIMS[trim])


_FRONT = [math.pi * i / 12 for i in range(13)]  # angles of the front half of an ellipse


def _hull(rx: Real, ry: Real, foot: Real, depth: Real) -> list[tuple[Real, Real]]:
    """Return the outline of a round vessel's side: the ends of its rim and the front of its
    foot."""
    return [
        (rx, 0),
        *((rx * foot * math.cos(a), depth + ry * 0.62 * math.sin(a)) for a in _FRONT),
        (-rx, 0),
    ]


def _band(pen: Pen, rx: Real, ry: Real, colour: Colour, low: Real, high: Real, taper: Real) -> None:
    """Draw a stripe around the front of a vessel between two depths."""
    upper = [(rx * (1 - taper * low) * math.cos(a), low + ry * math.sin(a)) for a in _FRONT]
    lower = [(rx * (1 - taper * high) * math.cos(a), high + ry * math.sin(a)) for a in _FRONT]
    pen.poly(upper + lower[::-1], colour, None)


def bowl(pen: Pen, name: str, body: Colour, inside: Colour, trim: Colour) -> None:
    pen.oval(6, 72, 72, 16, (40, 30, 30, 70), None)
    see_through = name == "glass bowl"
    pen.poly(_hull(90, 48, 0.76, 50), (*body, 190) if see_through else body)
    _band(pen, 90, 47, trim, 5, 15, 0.0035)
    if see_through:
        for x in (-58, 54):
            pen.line([x, 44, x * 0.82, 66], (255, 255, 255), 6)
        pen.line([-48, 54, -41, 70], (255, 255, 255), 4)
    elif name == "metal bowl":
        pen.line([-62, 46, -46, 68], (246, 250, 255), 13)
        pen.line([-30, 62, -24, 76], (90, 98, 112), 9)
        pen.line([30, 62, 26, 76], (246, 250, 255), 8)
        pen.line([60, 44, 46, 66], (84, 92, 106), 12)
    else:
        for i in range(11):
            at = -55.0 + i * 11
            y = 58 + 18 * math.sqrt(1 - (at / 80) ** 2) - (9 if i % 2 else 0)
            pen.oval(at, y - 4, 4.5, 4.5, (255, 246, 226), None)
    pen.oval(0, 0, 90, 48, lighter(body, 0.25) if not see_through else (240, 250, 252))
    pen.oval(0, 1, 82, 42, inside)
    if name == "metal bowl":
        pen.arc(0, 1, 78, 38, 190, 240, (244, 248, 252), 6)


def pan(pen: Pen, name: str, body: Colour, inside: Colour, trim: Colour) -> None:
    pen.bar([-84, 10, -134, 62], darker(body, 0.3) if name != "copper pan" else (60, 50, 46), 15)
    pen.bar([-98, 25, -112, 39], trim, 15)
    pen.poly(_hull(92, 46, 0.86, 16), body)
    _band(pen, 92, 45, trim, 6, 14, 0.003)
    pen.oval(0, 0, 92, 46, lighter(body, 0.2))
    pen.oval(0, 1, 84, 40, inside)
    pen.arc(0, 1, 78, 36, 195, 250, lighter(inside, 0.4), 4)


def pot(pen: Pen, name: str, body: Colour, inside: Colour, trim: Colour) -> None:
    for side in (-1, 1):
        pen.arc(side * 92, 16, 17, 11, 0, 360, INK, 10)
        pen.arc(side * 92, 16, 17, 11, 0, 360, darker(body, 0.3), 7)
    pen.poly(_hull(88, 46, 0.95, 44), body)
    _band(pen, 88, 45, trim, 12, 26, 0.001)
    if name == "enamel pot":
        for x in (-62, -38, -12, 14, 40, 64):
            pen.oval(x, 62 + 22 * math.sqrt(1 - (x / 90) ** 2), 5, 5, (60, 110, 190), None)
    elif name == "steel pot":
        pen.line([-62, 44, -60, 74], (238, 242, 248), 10)
        pen.line([58, 48, 56, 76], (110, 118, 130), 10)
    pen.oval(0, 0, 88, 46, lighter(body, 0.25))
    pen.oval(0, 1, 80, 40, inside)


def board(pen: Pen, name: str, body: Colour, inside: Colour, trim: Colour) -> None:
    pen.poly([-98, -46, 98, -46, 116, 54, -116, 54], body)
    pen.poly([-116, 54, 116, 54, 116, 66, -116, 66], darker(body, 0.3))
    pen.poly([-98, -46, -84, -46, -98, 54, -116, 54], trim)
    pen.poly([98, -46, 84, -46, 98, 54, 116, 54], trim)
    rng = random.Random(name)
    for i in range(7):
        y = -38 + i * 14
        if name == "wooden board":
            pen.line([-86, y, -20, y + 2, 30, y - 1, 86, y + 1], inside, 3)
        elif name == "slate board":
            x = rng.uniform(-80, 30)
            pen.line([x, y, x + 40, y + rng.uniform(-4, 4)], lighter(inside, 0.25), 2)
    if name == "plastic board":
        pen.poly([-78, -38, 78, -38, 90, 44, -90, 44], None, lighter(body, 0.6), 4)


def plate(pen: Pen, name: str, body: Colour, inside: Colour, trim: Colour) -> None:
    pen.oval(4, 12, 106, 58, (40, 30, 30, 70), None)
    pen.oval(0, 4, 106, 58, darker(body, 0.2))
    pen.oval(0, 0, 106, 57, body)
    pen.oval(0, 0, 97, 51, None, trim, 6)
    pen.oval(0, 0, 82, 43, inside)
    if name == "wooden plate":
        for y in (-26, -12, 2, 16, 30):
            pen.line([-60, y, 0, y + 3, 60, y], darker(inside, 0.2), 2)


def tray(pen: Pen, name: str, body: Colour, inside: Colour, trim: Colour) -> None:
    pen.poly([-94, -50, 94, -50, 112, 56, -112, 56], body)
    pen.poly([-94, -50, 94, -50, 112, 56, -112, 56], None, trim, 6)
    pen.poly([-84, -42, 84, -42, 98, 46, -98, 46], inside)
    for x in (-60, 0, 52):
        pen.line([x, -38, x - 22, 42], mix(inside, (255, 255, 255), 0.5), 6)


_SHAPES = by_name(bowl, pan, pot, board, plate, tray)
