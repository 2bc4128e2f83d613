"""Hands, their gloves, and the sub-actions next to the step's own action."""

import math

from stepdiff.kitchen.drawing.pen import INK, WHITE, Colour, Pen, Real, by_name, darker, lighter
from stepdiff.kitchen.drawing.tools import STEEL
from stepdiff.kitchen.world import Look

SKINS: tuple[Colour, ...] = ((244, 200, 168), (206, 150, 110), (136, 88, 60))
SLEEVES: tuple[Colour, ...] = ((92, 112, 152), (120, 140, 112), (150, 120, 140), (120, 120, 124))


def hand(pen: Pen, look: Look, gloves: str, side: int = 1) -> None:
    """Draw a closed hand at the origin, with its forearm to the lower right (`side` 1) or lower
    left (-1)."""
    skin = SKINS[look.skin]
    covered: dict[str, Colour] = {"rubber gloves": (252, 226, 40), "oven mitts": (206, 40, 60)}
    colour = covered.get(gloves, skin)
    s = side
    pen.poly([s * 2, -12, s * 22, -6, s * 150, 88, s * 128, 128, s * -2, 14],
             SLEEVES[look.sleeve])  # fmt: skip
    pen.poly([s * 2, -12, s * 16, -10, s * 46, 12, s * 28, 38, s * -2, 14], colour)
    if gloves == "oven mitts":
        pen.oval(0, 0, 27, 24, colour)
        pen.oval(s * -17, 15, 9, 14, colour)
        for x, y in ((-11, -8), (4, -12), (15, -2), (-3, 4), (9, 11), (-14, 8)):
            pen.oval(s * x, y, 3.6, 3.6, (255, 244, 236), None)
        pen.poly([s * 40, 2, s * 52, 12, s * 32, 42, s * 20, 32], (255, 244, 236))
        return
    pen.oval(s * 2, 0, 18, 16, colour)
    for i in range(4):
        pen.oval(s * (-12 + i * 1.5), -10 + i * 7, 8.5, 5, colour)
    pen.oval(s * 2, -13, 6, 9, colour)
    if gloves == "rubber gloves":
        pen.poly([s * 38, 0, s * 50, 10, s * 30, 42, s * 18, 32], darker(colour, 0.18))
        pen.line([s * 6, -4, s * 16, 6], lighter(colour, 0.7), 3)


# -- sub-actions: `u` runs from 0 to 1; the vessel's middle is the origin
# ------------------------------


def _ease(u: Real, share: Real) -> Real:
    return min(1.0, u / share)


def wipe(pen: Pen, u: Real, look: Look, gloves: str, food: Colour) -> None:
    """A chequered cloth sweeps over the counter in front."""
    x = -62 + 124 * (0.5 - 0.5 * math.cos(u * math.tau * 1.5))
    pen.poly([-120, 44, x, 40, x, 84, -120, 84], (*WHITE, 90), None)
    p = pen.at(x, 62, 6)
    p.box(-54, -32, 54, 32, (250, 250, 250), radius=6)
    for i in range(5):
        for j in range(3):
            if (i + j) % 2 == 0:
                p.box(-52 + i * 21, -30 + j * 20, -31 + i * 21, -10 + j * 20, (60, 120, 210), None)
    hand(p.at(8, -6), look, gloves)


def cover(pen: Pen, u: Real, look: Look, gloves: str, food: Colour) -> None:
    """A domed lid comes down over the food."""
    p = pen.at(0, -46 * (1 - _ease(u, 0.3)))
    dome: list[tuple[Real, Real]] = [(-98, 8)]
    dome += [(-98 * math.cos(a * 0.1), -70 * math.sin(a * 0.1)) for a in range(32)]
    dome += [(98, 8), (70, 34), (0, 48), (-70, 34)]
    p.poly(dome, (176, 186, 200))
    p.arc(0, 4, 74, 52, 195, 255, (246, 250, 255), 10)
    p.arc(0, 8, 97, 38, 10, 170, (120, 128, 142), 5)
    p.box(-16, -86, 16, -66, (50, 50, 58), radius=7)
    hand(p.at(6, -84), look, gloves)


def taste(pen: Pen, u: Real, look: Look, gloves: str, food: Colour) -> None:
    """A white tasting spoon brings a mouthful up to the cook."""
    p = pen.at(-6, -10 - 34 * _ease(u, 0.5))
    p.bar([20, 8, 84, 30], (252, 252, 255), 13)
    p.oval(-18, -6, 46, 26, (252, 252, 255))
    p.oval(-18, -8, 36, 18, food)
    p.oval(-26, -14, 10, 5, lighter(food, 0.6), None)
    for x in (-34, -14, 6):
        p.line([x, -38, x + 5, -48, x - 2, -58, x + 4, -68], (*WHITE, 200), 5)
    hand(p.at(86, 30), look, gloves)


def timer(pen: Pen, u: Real, look: Look, gloves: str, food: Colour) -> None:
    """A big kitchen timer is turned."""
    hand(pen.at(44, 26), look, gloves)
    p = pen.at(0, -8)
    p.oval(0, 0, 56, 56, (230, 60, 44), width=2)
    p.oval(0, 0, 43, 43, (255, 252, 244))
    for i in range(12):
        a = i * math.tau / 12
        p.line([34 * math.cos(a), 34 * math.sin(a), 40 * math.cos(a), 40 * math.sin(a)], INK, 3)
    a = math.tau * (u * 0.8 - 0.25)
    p.line([0, 0, 30 * math.cos(a), 30 * math.sin(a)], INK, 6)
    p.oval(0, 0, 7, 7, INK)
    p.box(-11, -70, 11, -54, (180, 40, 30), radius=4)


def rinse(pen: Pen, u: Real, look: Look, gloves: str, food: Colour) -> None:
    """Water runs from a tap over everything."""
    pen.line([-40, -190, -40, -128, -4, -128, -4, -106], INK, 27)
    pen.line([-40, -190, -40, -128, -4, -128, -4, -106], STEEL, 23)
    pen.box(-19, -110, 11, -94, (150, 158, 170), radius=3)
    wobble = 3 * math.sin(u * 40)
    pen.poly([-17, -94, 9, -94, 13 + wobble, 8, -21 + wobble, 8], (90, 180, 250, 225), None)
    pen.line([-10, -92, -10 + wobble, 4], (230, 246, 255), 4)
    pen.oval(-4, 8, 62, 24, (90, 180, 250, 190), None)
    pen.oval(-4, 8, 44, 15, None, (236, 248, 255), 4)
    for i in range(8):
        a = math.pi * (1 + i / 7)
        r = 40 + 26 * ((u * 5 + i * 0.37) % 1)
        pen.oval(-4 + r * math.cos(a), 4 + r * 0.7 * math.sin(a), 5, 6, (150, 214, 255), None)


def read(pen: Pen, u: Real, look: Look, gloves: str, food: Colour) -> None:
    """An open recipe book is held in view."""
    hand(pen.at(84, 26), look, gloves)
    p = pen.at(0, 2)
    p.poly([-94, -46, 0, -36, 94, -46, 94, 48, 0, 58, -94, 48], (128, 60, 120))
    p.poly([-87, -46, 0, -38, 0, 50, -87, 42], (255, 250, 236))
    p.poly([87, -46, 0, -38, 0, 50, 87, 42], (250, 242, 224))
    for i in range(6):
        p.line([-76, -28 + i * 11, -12, -22 + i * 11], (120, 116, 120), 3)
    p.box(14, -30, 76, 8, (240, 170, 90), radius=3)
    p.oval(45, -10, 17, 12, (250, 240, 220))
    for i in range(3):
        p.line([14, 22 + i * 9, 74, 16 + i * 9], (120, 116, 120), 3)
    turn = math.cos(u * math.pi)
    p.poly([0, -38, 80 * turn, -58, 80 * turn, 32, 0, 50], (255, 255, 246))


def thermometer(pen: Pen, u: Real, look: Look, gloves: str, food: Colour) -> None:
    """A probe thermometer with a big display is put into the food."""
    p = pen.at(-10, 10 - 26 * (1 - _ease(u, 0.3)), 8)
    hand(p.at(34, -92), look, gloves)
    p.bar([0, 0, 0, -70], (226, 232, 240), 6)
    p.box(-40, -122, 42, -66, (250, 250, 252), radius=10)
    p.box(-32, -114, 34, -76, (150, 220, 160), radius=3)
    for x, segments in ((-14, "abcdefg"), (16, "afgcd")):
        lines = {
            "a": [(-8, -14), (8, -14)], "g": [(-8, 0), (8, 0)], "d": [(-8, 14), (8, 14)],
            "f": [(-8, -14), (-8, 0)], "b": [(8, -14), (8, 0)],
            "e": [(-8, 0), (-8, 14)], "c": [(8, 0), (8, 14)],
        }  # fmt: skip
        for name in segments:
            p.at(x, -95).line([(float(a), float(b)) for a, b in lines[name]], (30, 60, 40), 4)


SUBACTIONS = by_name(wipe, cover, taste, timer, rinse, read, thermometer)
