"""Tools, each drawn with its working end at the origin and its handle upwards.

Shapes are larger than life: tools must differ on a grid of 7x7 features.
"""

from collections.abc import Callable

from stepdiff.kitchen.drawing.pen import INK, Colour, Pen, by_name, darker, lighter

WOOD: Colour = (196, 140, 84)
DARK_WOOD: Colour = (120, 74, 46)
STEEL: Colour = (196, 204, 214)
BLACK: Colour = (52, 54, 62)
TEAL: Colour = (40, 160, 160)


def whisk(pen: Pen) -> None:
    pen.bar([0, -62, 0, -112], BLACK, 8)
    for width in (17, 10, 3):
        loop = [(-2, -62), (-width, -34), (-width * 0.9, -14), (0, -4)]
        loop += [(-x, y) for x, y in reversed(loop[:-1])]
        pen.line(loop, INK, 4.2)
        pen.line(loop, STEEL, 2.0)
    pen.box(-6, -68, 6, -58, STEEL)


def fork(pen: Pen) -> None:
    pen.bar([0, -44, 0, -112], STEEL, 7)
    pen.poly([-14, -36, 14, -36, 9, -22 - 32, -9, -22 - 32], STEEL)
    for x in (-12, -4, 4, 12):
        pen.bar([x, -36, x, -4], STEEL, 3.4)


def electric_mixer(pen: Pen) -> None:
    for x in (-11, 11):
        pen.bar([x, -64, x, -34], STEEL, 3)
        pen.oval(x, -18, 9, 17, (*STEEL, 150), INK, 2)
        pen.line([x, -34, x, -2], INK, 2)
    pen.box(-26, -108, 30, -62, (236, 92, 84), radius=12)
    pen.box(-12, -98, 20, -90, (255, 236, 226), radius=4)
    pen.bar([-14, -118, 34, -118], (190, 60, 60), 9)
    pen.bar([-14, -118, -14, -106], (190, 60, 60), 7)


def wooden_spoon(pen: Pen) -> None:
    pen.bar([0, -36, 0, -116], WOOD, 8)
    pen.oval(0, -22, 17, 23, WOOD)
    pen.oval(0, -20, 11, 16, darker(WOOD, 0.22), None)


def metal_spoon(pen: Pen) -> None:
    pen.bar([0, -36, 0, -112], STEEL, 6)
    pen.oval(0, -21, 14, 21, STEEL)
    pen.oval(-2, -20, 8, 14, darker(STEEL, 0.25), None)
    pen.arc(-3, -22, 8, 13, 190, 270, (255, 255, 255), 2)


def rubber_spatula(pen: Pen) -> None:
    pen.bar([0, -40, 0, -114], DARK_WOOD, 7)
    pen.poly([-16, -46, 16, -46, 16, -8, 8, 0, -16, -2], TEAL)
    pen.line([-9, -40, -9, -10], lighter(TEAL, 0.4), 3)


def tongs(pen: Pen) -> None:
    for side in (-1, 1):
        arm = [(side * 3, -116), (side * 17, -60), (side * 14, -16)]
        pen.bar(arm, STEEL, 6)
        pen.poly([side * 20, -20, side * 9, -24, side * 4, -2, side * 14, 0], (225, 60, 60))
    pen.oval(0, -114, 8, 7, STEEL)


def turner(pen: Pen) -> None:
    pen.bar([0, -46, 0, -116], BLACK, 8)
    pen.poly([-24, -2, 24, -2, 20, -50, -20, -50], STEEL)
    for x in (-12, 0, 12):
        pen.line([x, -42, x, -12], darker(STEEL, 0.55), 4)


def chopsticks(pen: Pen) -> None:
    for x in (-12, 10):
        pen.bar([x, 0, x * 0.3, -118], (150, 40, 44), 5)
        pen.line([x, 0, x * 0.8, -22], (240, 200, 110), 4)


def ladle(pen: Pen) -> None:
    pen.bar([14, -26, 14, -116], STEEL, 7)
    pen.poly([-24, -30, 24, -30, 20, -8, 10, 0, -10, 0, -20, -8], darker(STEEL, 0.12))
    pen.oval(0, -30, 24, 9, STEEL)
    pen.oval(0, -29, 19, 6, darker(STEEL, 0.45), None)


def chefs_knife(pen: Pen) -> None:
    pen.poly([-2, 0, 15, -20, 17, -78, -2, -78], STEEL)
    pen.line([0, -4, 0, -76], lighter(STEEL, 0.6), 3)
    pen.box(-4, -116, 12, -78, BLACK, radius=5)
    for y in (-106, -96, -86):
        pen.oval(4, y, 2, 2, STEEL, None)


def cleaver(pen: Pen) -> None:
    pen.box(-8, -80, 38, -4, darker(STEEL, 0.1), radius=3)
    pen.line([-4, -76, -4, -8], (255, 255, 255), 5)
    pen.oval(29, -70, 4, 4, BLACK)
    pen.box(4, -118, 20, -80, (168, 84, 44), radius=5)


def scissors(pen: Pen) -> None:
    pen.poly([-16, 0, -8, -2, 10, -66, 0, -68], STEEL)
    pen.poly([16, 0, 8, -2, -10, -66, 0, -68], lighter(STEEL, 0.3))
    pen.oval(0, -58, 4, 4, BLACK)
    for side in (-1, 1):
        pen.oval(side * 15, -92, 13, 20, None, (226, 96, 30), 8)


def wheel_cutter(pen: Pen) -> None:
    pen.bar([0, -40, 0, -114], (232, 150, 40), 11)
    pen.oval(0, -26, 27, 27, STEEL)
    pen.oval(0, -26, 19, 19, None, lighter(STEEL, 0.6), 3)
    pen.oval(0, -26, 7, 7, BLACK)


def table_knife(pen: Pen) -> None:
    pen.poly([-9, -6, -4, 0, 5, -6, 7, -56, -6, -56], lighter(STEEL, 0.25))
    pen.box(-6, -112, 7, -54, (238, 226, 196), radius=5)


def jug(pen: Pen) -> None:
    """Draw a jug that pours from its lip at the origin."""
    pen.poly([0, 0, 16, -16, 62, -2, 46, 46, 0, 30], (98, 150, 214))
    pen.poly([4, 22, 46, 36, 42, 44, 2, 30], (240, 240, 250), None)
    pen.arc(58, 22, 20, 20, -80, 110, INK, 9)
    pen.arc(58, 22, 20, 20, -80, 110, (98, 150, 214), 6)


def measuring_cup(pen: Pen) -> None:
    """Draw a transparent cup with a red scale that pours from its lip at the origin."""
    pen.poly([0, 0, 50, -10, 48, 30, 8, 34], (222, 236, 244))
    for x in (18, 28, 38):
        pen.line([x, 4, x, 26], (214, 50, 60), 3.4)
    pen.bar([50, 8, 82, 2], (214, 50, 60), 8)


def rolling_pin(pen: Pen, barrel: Colour, handle: Colour) -> None:
    """Draw a pin along x, its middle at the origin."""
    pen.bar([-92, 0, 92, 0], handle, 11)
    pen.box(-66, -17, 66, 17, barrel, radius=8)
    pen.line([-58, -9, 58, -9], lighter(barrel, 0.45), 5)


def wooden_rolling_pin(pen: Pen) -> None:
    rolling_pin(pen, WOOD, DARK_WOOD)
    for x in (-40, -10, 24):
        pen.line([x, 5, x + 26, 5], darker(WOOD, 0.25), 2)


def marble_rolling_pin(pen: Pen) -> None:
    rolling_pin(pen, (232, 232, 238), (214, 170, 70))
    for x in (-52, -18, 18, 46):
        pen.line([x, -12, x + 9, 0, x + 4, 12], (150, 152, 166), 2.5)


def glass_bottle(pen: Pen) -> None:
    green = (70, 150, 90)
    pen.box(52, -8, 98, 8, green, radius=3)
    pen.box(90, -9, 102, 9, (190, 150, 100), radius=2)
    pen.box(-74, -18, 60, 18, green, radius=12)
    pen.box(-44, -18, 18, 18, (246, 236, 210), radius=1)
    pen.line([-64, -10, 52, -10], lighter(green, 0.6), 4)


def box_grater(pen: Pen) -> None:
    """Draw a grater upright, its foot at the origin."""
    pen.poly([-34, 0, 34, 0, 24, -84, -24, -84], STEEL)
    for row in range(5):
        for column in range(-2, 3):
            pen.oval(column * 10 + (row % 2) * 3, -14 - row * 14, 3, 3, darker(STEEL, 0.6), None)
    pen.arc(0, -84, 17, 18, 180, 360, INK, 10)
    pen.arc(0, -84, 17, 18, 180, 360, BLACK, 7)


def flat_grater(pen: Pen) -> None:
    pen.box(-17, -92, 17, 0, (214, 150, 70), radius=4)
    pen.box(-12, -84, 12, -6, STEEL, radius=2)
    for row in range(8):
        pen.line([-9, -12 - row * 9, 9, -16 - row * 9], darker(STEEL, 0.6), 2.4)
    pen.bar([0, -92, 0, -122], BLACK, 9)


def electric_grater(pen: Pen) -> None:
    pen.box(-30, -92, 26, -36, (110, 190, 150), radius=12)
    pen.oval(-2, -66, 11, 11, (240, 250, 240))
    pen.poly([-20, -36, 16, -36, 24, 0, -28, 0], STEEL)
    for x in (-16, -6, 4, 14):
        pen.line([x, -28, x, -6], darker(STEEL, 0.6), 3)
    pen.bar([26, -76, 50, -76, 50, -106], (60, 120, 96), 8)


_DRAWINGS: dict[str, Callable[[Pen], None]] = by_name(
    whisk, fork, electric_mixer, wooden_spoon, metal_spoon, rubber_spatula, tongs, turner,
    chopsticks, ladle, cleaver, scissors, wheel_cutter, table_knife, jug, measuring_cup,
    wooden_rolling_pin, marble_rolling_pin, glass_bottle, box_grater, flat_grater, electric_grater,
)  # fmt: skip
TOOLS = {**_DRAWINGS, "chef's knife": chefs_knife}

GRIP = 100.0
"""Distance between a tool's working end and the hand that holds it."""
