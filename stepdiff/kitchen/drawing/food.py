"""Ingredients: next to the work (source), in it (piece), and minor additions."""

import math
import random
from collections.abc import Callable

from stepdiff.kitchen.drawing.pen import INK, Colour, Pen, Real, by_name, darker, lighter, mix

COLOURS: dict[str, tuple[Colour, Colour]] = {
    "white": ((255, 253, 248), (216, 206, 184)),
    "yellow": ((255, 236, 140), (228, 152, 16)),
    "orange": ((255, 186, 104), (204, 86, 12)),
    "red": ((234, 98, 88), (150, 22, 30)),
    "green": ((166, 212, 106), (62, 120, 44)),
    "purple": ((176, 120, 194), (92, 38, 114)),
    "brown": ((172, 114, 66), (92, 50, 26)),
    "pink": ((250, 176, 202), (212, 72, 126)),
}
"""The light and the dark shade of every colour of food."""

LEAF: Colour = (70, 140, 60)


def food_colour(colour: str, shade: str) -> Colour:
    """Return the light or the dark shade of a colour of food."""
    return COLOURS[colour][shade == "dark"]


# -- sources: about 84 px wide, centred on the origin ----------------------------------------------


def hen_eggs(pen: Pen, hue: Colour) -> None:
    pen.box(-42, 2, 42, 32, (150, 150, 170), radius=8)
    for x in (-26, 0, 26):
        pen.oval(x, -4, 14, 20, (206, 140, 92))
        pen.oval(x - 4, -10, 3, 5, (236, 186, 146), None)
    pen.box(-42, 12, 42, 32, (150, 150, 170), radius=6)


def quail_eggs(pen: Pen, hue: Colour) -> None:
    pen.oval(0, 16, 42, 18, (214, 178, 110))
    for x, y in ((-22, 8), (0, 14), (22, 8), (-11, -8), (12, -8)):
        pen.oval(x, y, 10, 12, (240, 236, 222))
        for dx, dy in ((-4, -3), (3, 1), (-1, 6), (4, -6)):
            pen.oval(x + dx, y + dy, 2.4, 2, (60, 50, 46), None)


def tofu(pen: Pen, hue: Colour) -> None:
    pen.poly([-36, -10, -14, -28, 38, -28, 18, -10], (255, 253, 244))
    pen.poly([18, -10, 38, -28, 38, 8, 18, 28], (222, 216, 200))
    pen.box(-36, -10, 18, 28, (246, 242, 230), radius=1)
    pen.line([-9, -10, -9, 28], (214, 206, 190), 2)
    pen.line([-36, 9, 18, 9], (214, 206, 190), 2)


def wheat_flour(pen: Pen, hue: Colour) -> None:
    pen.poly([-28, 36, 28, 36, 32, -20, 24, -36, -24, -36, -32, -20], (250, 248, 240))
    pen.poly([-31, -20, 31, -20, 24, -36, -24, -36], (214, 60, 56))
    pen.line([0, 28, 0, -8], (204, 150, 40), 3)
    for y in (-6, 4, 14):
        pen.oval(-7, y, 6, 4, (226, 176, 60))
        pen.oval(7, y, 6, 4, (226, 176, 60))


def oat_flour(pen: Pen, hue: Colour) -> None:
    pen.box(-30, -24, 30, 36, (222, 196, 150), radius=10)
    pen.box(-32, -38, 32, -22, (60, 96, 160), radius=4)
    pen.oval(0, 8, 20, 18, (244, 232, 206))
    for x, y in ((-8, 2), (6, 0), (-2, 12), (10, 14), (-11, 16)):
        pen.oval(x, y, 5, 3, (186, 146, 88))


def bananas(pen: Pen, hue: Colour) -> None:
    for turn in (-12, 12, 36):
        p = pen.at(6, -26, turn)
        outer = [(-30, 6), (-34, 30), (-20, 52), (0, 60), (6, 52), (-10, 42), (-18, 26), (-14, 4)]
        p.poly([(x + 20, y) for x, y in outer], (248, 214, 60))
        p.box(-10, -4, 6, 8, (110, 80, 40), radius=2)


def lettuce(pen: Pen, hue: Colour) -> None:
    for i in range(9):
        a = i * math.tau / 9
        pen.oval(26 * math.cos(a), 22 * math.sin(a), 16, 14, mix(hue, LEAF, 0.15))
    pen.oval(0, 0, 25, 21, lighter(hue, 0.2))
    pen.oval(0, 2, 13, 11, lighter(hue, 0.45))


def cabbage(pen: Pen, hue: Colour) -> None:
    pen.oval(0, 0, 38, 35, hue)
    for x in (-26, -14, 0, 14, 26):
        pen.line([0, 34, x, 4, x * 1.15, -24], lighter(hue, 0.5), 3.2)
    pen.arc(0, 0, 28, 30, 200, 320, darker(hue, 0.3), 3)


def cauliflower(pen: Pen, hue: Colour) -> None:
    for i in range(7):
        a = math.pi * (i / 6)
        pen.oval(36 * math.cos(a), 8 + 20 * math.sin(a), 13, 12, LEAF)
    for x, y in ((-22, 0), (22, 0), (-12, -16), (12, -16), (0, 4), (-14, 14), (14, 14), (0, -10)):
        pen.oval(x, y, 15, 13, hue)
        pen.oval(x - 3, y - 3, 5, 4, lighter(hue, 0.35), None)


def bell_pepper(pen: Pen, hue: Colour) -> None:
    for x in (-20, 20, 0):
        pen.oval(x, 4, 18, 31, hue)
    pen.arc(-20, 0, 9, 20, 160, 250, lighter(hue, 0.6), 4)
    pen.bar([0, -24, 5, -40], LEAF, 7)


def chilli(pen: Pen, hue: Colour) -> None:
    for x, turn in ((-20, -14), (4, 4), (26, 20)):
        p = pen.at(x, -22, turn)
        p.poly([-9, 0, 9, 0, 9, 26, 2, 58, -3, 56, -8, 28], hue)
        p.poly([-10, 2, 10, 2, 3, -8, -3, -8], LEAF)
        p.bar([0, -6, 3, -16], LEAF, 4)


def onion(pen: Pen, hue: Colour) -> None:
    pen.poly([-6, -30, 0, -44, 6, -30], darker(hue, 0.2))
    pen.oval(0, 2, 37, 33, hue)
    for x in (-25, -10, 10, 25):
        pen.arc(0, 2, abs(x), 32, 90 if x > 0 else 90, -90 if x > 0 else 270, darker(hue, 0.25), 2)
    for x in (-6, 0, 6):
        pen.line([x, 34, x * 1.6, 42], INK, 2)


def apple(pen: Pen, hue: Colour) -> None:
    pen.oval(-13, 4, 24, 29, hue)
    pen.oval(13, 4, 24, 29, hue)
    pen.oval(0, 6, 22, 26, hue, None)
    pen.oval(-18, -6, 6, 9, lighter(hue, 0.55), None)
    pen.bar([0, -20, 3, -38], (110, 74, 40), 4)
    pen.poly([4, -30, 20, -42, 30, -34, 14, -26], LEAF)


def pear(pen: Pen, hue: Colour) -> None:
    pen.poly(
        [-9, -26, 9, -26, 15, -4, 28, 10, 28, 26, 14, 38, -14, 38, -28, 26,
         -28, 10, -15, -4], hue,
    )  # fmt: skip
    pen.oval(-14, 18, 6, 9, lighter(hue, 0.55), None)
    pen.bar([0, -26, 5, -42], (110, 74, 40), 4)


def grapes(pen: Pen, hue: Colour) -> None:
    pen.bar([0, -24, 2, -42], (120, 90, 50), 5)
    for row, count in enumerate((4, 3, 3, 2, 1)):
        for i in range(count):
            x, y = (i - (count - 1) / 2) * 19, -20 + row * 14
            pen.oval(x, y, 11, 11, hue)
            pen.oval(x - 3, y - 3, 3, 3, lighter(hue, 0.6), None)


def carrot(pen: Pen, hue: Colour) -> None:
    for x, turn in ((-14, 24), (10, 4)):
        p = pen.at(x, -14, turn)
        for dx in (-8, 0, 8):
            p.bar([0, 0, dx, -24], LEAF, 5)
        p.poly([-13, -2, 13, -2, 9, 28, 1, 56, -2, 56, -9, 28], hue)
        for y in (8, 20, 32):
            p.line([-6, y, 2, y + 2], darker(hue, 0.3), 2)


def sweet_potato(pen: Pen, hue: Colour) -> None:
    for y, turn in ((-12, -14), (16, 8)):
        p = pen.at(0, y, turn)
        p.poly([-42, 2, -22, -15, 10, -18, 34, -8, 44, 2, 28, 14, -6, 17, -28, 12],
               darker(hue, 0.15))  # fmt: skip
        p.oval(30, 1, 11, 12, lighter(hue, 0.35))
        for x in (-24, -8, 8):
            p.line([x, -4, x + 6, -2], darker(hue, 0.45), 2)


def tomato(pen: Pen, hue: Colour) -> None:
    pen.oval(0, 4, 38, 32, hue)
    pen.oval(-16, -6, 8, 7, lighter(hue, 0.5), None)
    for i in range(5):
        a = math.radians(i * 72 - 90)
        x, y = 20 * math.cos(a), -16 + 12 * math.sin(a)
        pen.poly([-4, -20, 4, -20, x, y], LEAF)
    pen.bar([0, -20, 2, -36], LEAF, 5)


def butter(pen: Pen, hue: Colour) -> None:
    pen.oval(0, 22, 44, 14, (236, 240, 246))
    pen.poly([-32, -2, -20, -18, 36, -18, 26, -2], lighter(hue, 0.35))
    pen.poly([26, -2, 36, -18, 36, 8, 26, 24], darker(hue, 0.15))
    pen.box(-32, -2, 26, 24, hue, radius=1)
    pen.line([-12, -2, -12, 24], darker(hue, 0.25), 2)


def cream_cheese(pen: Pen, hue: Colour) -> None:
    pen.poly([-36, -14, 36, -14, 28, 34, -28, 34], (96, 152, 220))
    pen.oval(0, -14, 36, 14, (240, 244, 250))
    pen.oval(0, -14, 29, 10, hue)
    pen.box(-18, 6, 18, 22, (250, 250, 250), radius=3)


def jam(pen: Pen, hue: Colour) -> None:
    pen.box(-28, -16, 28, 38, hue, radius=9)
    pen.box(-18, -2, 18, 26, (252, 246, 230), radius=2)
    pen.oval(0, 12, 10, 9, hue)
    pen.box(-32, -36, 32, -14, (250, 250, 250), radius=4)
    for i in range(6):
        pen.box(-31 + i * 11, -35 + (i % 2) * 10, -21 + i * 11, -25 + (i % 2) * 10, (210, 60, 66),
                None)  # fmt: skip


def potatoes(pen: Pen, hue: Colour) -> None:
    for x, y, r in ((-18, 12, 24), (20, 14, 22), (2, -14, 24)):
        pen.oval(x, y, r, r * 0.78, (200, 160, 96))
        for dx, dy in ((-8, -4), (6, 3), (-2, 8)):
            pen.oval(x + dx, y + dy, 2, 1.5, (120, 88, 50), None)


def cheddar(pen: Pen, hue: Colour) -> None:
    pen.poly([-38, -8, -18, -28, 42, -28, 24, -8], lighter(hue, 0.3))
    pen.poly([24, -8, 42, -28, 42, 10, 24, 32], darker(hue, 0.2))
    pen.box(-38, -8, 24, 32, hue, radius=1)


def gouda(pen: Pen, hue: Colour) -> None:
    pen.oval(0, 4, 40, 34, (214, 50, 50))
    pen.poly([0, 4, 44, -14, 44, 26], hue)
    for x, y in ((24, 2), (33, 10), (32, -5)):
        pen.oval(x, y, 3, 3, darker(hue, 0.3), None)
    pen.arc(0, 4, 28, 22, 120, 250, (250, 150, 140), 3)


SOURCES: dict[str, Callable[[Pen, Colour], None]] = by_name(
    hen_eggs, quail_eggs, tofu, wheat_flour, oat_flour, bananas, lettuce, cabbage, cauliflower,
    bell_pepper, chilli, onion, apple, pear, grapes, carrot, sweet_potato, tomato, butter,
    cream_cheese, jam, potatoes, cheddar, gouda,
)  # fmt: skip


# -- minor additions -------------------------------------------------------------------------------


def herbs(pen: Pen) -> None:
    pen.poly([0, -8, 6, -2, 4, 6, 0, 9, -4, 6, -6, -2], (40, 150, 60))
    pen.line([0, -6, 0, 8], (170, 220, 150), 1.2)


def peppercorns(pen: Pen) -> None:
    pen.oval(0, 0, 5.5, 5.5, (34, 32, 34))


def chilli_flakes(pen: Pen) -> None:
    pen.poly([-7, -3, 0, -6, 7, 0, 2, 6, -5, 4], (214, 36, 30))


def garlic(pen: Pen) -> None:
    pen.poly([0, -9, 7, 2, 5, 8, -5, 8, -7, 2], (252, 248, 238))
    pen.line([0, -5, 0, 6], (200, 186, 200), 1.2)


def chocolate_chips(pen: Pen) -> None:
    pen.poly([0, -8, 7, 5, 4, 8, -4, 8, -7, 5], (66, 38, 26))


def blueberries(pen: Pen) -> None:
    pen.oval(0, 0, 7.5, 7.5, (64, 84, 176))
    pen.oval(0, -2, 2.6, 2.6, (30, 40, 100), None)


def nuts(pen: Pen) -> None:
    pen.oval(0, 0, 5.5, 8.5, (206, 150, 84))
    pen.line([0, -6, 0, 6], (140, 90, 44), 1.4)


def cherries(pen: Pen) -> None:
    pen.oval(0, 1, 7.5, 7.5, (196, 20, 50))
    pen.oval(-2.5, -1.5, 2, 2, (250, 180, 190), None)


EXTRAS: dict[str, Callable[[Pen], None]] = by_name(
    herbs, peppercorns, chilli_flakes, garlic, chocolate_chips, blueberries, nuts, cherries,
)  # fmt: skip


def dish(pen: Pen, extra: str) -> None:
    """Draw a small dish with one addition, 40 px wide, centred on the origin."""
    pen.oval(0, 5, 20, 14, (250, 250, 252))
    pen.oval(0, 3, 16, 10, (206, 212, 224), None)
    for x, y in ((-9, 2), (9, 2), (0, 6), (-5, -5), (5, -5), (0, -1)):
        EXTRAS[extra](pen.at(x, y))


# -- pieces: about 22 px wide at scale 1, centred on the origin
# --------------------------------------


def piece(pen: Pen, main: str, hue: Colour, form: str | None) -> None:
    """Draw one cut piece of a main ingredient; `form` "slices" or "dice" replaces its own shape."""
    inner = lighter(hue, 0.55)
    if form == "dice":
        pen.poly([-10, -5, -4, -11, 11, -11, 5, -5], lighter(hue, 0.4))
        pen.poly([5, -5, 11, -11, 11, 3, 5, 9], darker(hue, 0.35))
        pen.box(-10, -5, 5, 9, hue, radius=0)
    elif form == "slices":
        pen.oval(0, 2, 17, 10, darker(hue, 0.25))
        pen.oval(0, 0, 17, 10, hue)
        pen.oval(0, -1, 12, 6.5, inner, None)
        if main in ("onion", "bell pepper", "chilli"):
            pen.oval(0, -1, 7, 4, None, hue, 2)
        else:
            pen.oval(0, -1, 3, 2, darker(inner, 0.3), None)
    elif main == "lettuce":
        leaf = [(0, -15), (8, -12), (9, -4), (13, 2), (7, 10), (0, 14), (-7, 10), (-13, 2),
                (-9, -4), (-8, -12)]  # fmt: skip
        pen.poly(leaf, hue)
        pen.line([0, 12, 0, -10], inner, 2)
    elif main == "cabbage":
        pen.bar([-15, 4, -5, -4, 5, 4, 15, -4], hue, 4.5)
    elif main == "cauliflower":
        pen.bar([0, 2, 0, 12], inner, 6)
        for x, y in ((-7, -1), (7, -1), (0, -7), (0, 2)):
            pen.oval(x, y, 7.5, 7, hue)
    elif main == "carrot":
        pen.oval(0, 0, 12, 10, hue)
        pen.oval(0, 0, 6, 5, lighter(hue, 0.35), darker(hue, 0.25), 1)
    else:  # sweet potato
        pen.box(-17, -5, 17, 5, hue, radius=2)
        pen.line([-13, -1, 13, -1], lighter(hue, 0.4), 2)


def scattered(seed: str, count: int, rx: Real, ry: Real) -> list[tuple[Real, Real, Real]]:
    """Return `count` seeded places (x, y, degrees) spread over an ellipse, back to front."""
    rng = random.Random(seed)
    places = []
    for i in range(count):
        radius = math.sqrt((i + 0.5) / count)
        angle = i * 2.399963 + rng.uniform(-0.35, 0.35)
        places.append(
            (rx * radius * math.cos(angle), ry * radius * math.sin(angle), rng.uniform(0, 360))
        )
    return sorted(places, key=lambda place: place[1])
