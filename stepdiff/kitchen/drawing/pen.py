"""A pen for flat illustration: shapes with an outline, under a movable coordinate frame.

Lengths are frame pixels. The picture is drawn at `SCALE` times that size and reduced once at the
end, which smooths the edges.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from PIL import Image, ImageDraw

WIDTH, HEIGHT = 384, 288
SCALE = 2

Colour = tuple[int, ...]
Paint = Colour | None  # None: no fill, or no outline
Real = float | int
Point = tuple[Real, Real]
Points = Sequence[Point] | Sequence[Real]
"""as in Pillow: pairs, or x and y of one point after another"""
Drawing = TypeVar("Drawing", bound=Callable[..., None])

INK: Colour = (58, 44, 40)
"""The colour of outlines."""
WHITE: Colour = (255, 255, 255)

_CIRCLE = [(math.cos(i * math.pi / 14), math.sin(i * math.pi / 14)) for i in range(28)]


def by_name(*drawings: Drawing) -> dict[str, Drawing]:
    """Return drawings by the values that they show: `hen_eggs` draws "hen eggs"."""
    return {drawing.__name__.replace("_", " "): drawing for drawing in drawings}


def mix(a: Colour, b: Colour, share: Real) -> Colour:
    """Return the colour between `a` and `b`; `share` 0 is `a`, 1 is `b`."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a[:3], b[:3], strict=True))


def lighter(colour: Colour, share: Real) -> Colour:
    """Return a colour closer to white."""
    return mix(colour, WHITE, share)


def darker(colour: Colour, share: Real) -> Colour:
    """Return a colour closer to a warm black."""
    return mix(colour, (30, 18, 16), share)


class Pen:
    """Draws on one image; `at` gives a pen with moved, turned and scaled coordinates."""

    def __init__(self, draw: ImageDraw.ImageDraw, frame: tuple[Real, Real, Real, Real]) -> None:
        self._draw = draw
        self._cos, self._sin, self._dx, self._dy = frame
        self._scale = math.hypot(self._cos, self._sin)

    @classmethod
    def on(cls, image: Image.Image) -> "Pen":
        """Return a pen whose origin is the top left corner of the central square of `image`."""
        return cls(ImageDraw.Draw(image, "RGBA"), (SCALE, 0.0, SCALE * (WIDTH - HEIGHT) / 2, 0.0))

    def at(self, x: Real, y: Real, degrees: Real = 0.0, scale: Real = 1.0) -> "Pen":
        """Return a pen with its origin at (x, y), turned clockwise by `degrees`."""
        angle = math.radians(degrees)
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        ox, oy = self._map(x, y)
        return Pen(
            self._draw,
            (self._cos * cos - self._sin * sin, self._sin * cos + self._cos * sin, ox, oy),
        )

    def _map(self, x: Real, y: Real) -> Point:
        return (self._cos * x - self._sin * y + self._dx, self._sin * x + self._cos * y + self._dy)

    def _mapped(self, points: Points) -> list[Point]:
        numbers: Any = points
        pairs = (
            numbers
            if isinstance(points[0], tuple)
            else zip(numbers[::2], numbers[1::2], strict=True)
        )
        return [self._map(x, y) for x, y in pairs]

    def _width(self, width: Real) -> int:
        return max(1, round(width * self._scale))

    def poly(self, points: Points, fill: Paint, ink: Paint = INK, width: Real = 1.3) -> None:
        """Draw a filled polygon; `ink` None leaves out the outline."""
        mapped = self._mapped(points)
        if fill is not None:
            self._draw.polygon(mapped, fill=fill)
        if ink is not None:
            self._draw.line([*mapped, mapped[0], mapped[1]], fill=ink, width=self._width(width))

    def oval(
        self, x: Real, y: Real, rx: Real, ry: Real, fill: Paint, ink: Paint = INK, width: Real = 1.3
    ) -> None:
        """Draw a filled ellipse around (x, y)."""
        if self._sin == 0.0:
            cx, cy = self._map(x, y)
            rx, ry = rx * self._scale, ry * self._scale
            thick = 0 if ink is None else self._width(width)
            self._draw.ellipse(
                (cx - rx, cy - ry, cx + rx, cy + ry), fill=fill, outline=ink, width=thick
            )
        else:
            self.poly([(x + rx * c, y + ry * s) for c, s in _CIRCLE], fill, ink, width)

    def box(
        self,
        x0: Real,
        y0: Real,
        x1: Real,
        y1: Real,
        fill: Paint,
        ink: Paint = INK,
        radius: Real = 3.0,
    ) -> None:
        """Draw a filled rectangle with rounded corners."""
        r = min(radius, abs(x1 - x0) / 2, abs(y1 - y0) / 2)
        corners = ((x1 - r, y1 - r), (x0 + r, y1 - r), (x0 + r, y0 + r), (x1 - r, y0 + r))
        points = [
            (cx + r * math.cos(math.radians(a)), cy + r * math.sin(math.radians(a)))
            for quarter, (cx, cy) in enumerate(corners)
            for a in (90 * quarter, 90 * quarter + 45, 90 * quarter + 90)
        ]
        self.poly(points, fill, ink)

    def line(self, points: Points, colour: Colour, width: Real) -> None:
        """Draw an open line with round ends."""
        mapped = self._mapped(points)
        thick = self._width(width)
        self._draw.line(mapped, fill=colour, width=thick, joint="curve" if thick > 5 else None)
        if thick > 3 and len(colour) == 3:
            r = thick / 2
            for x, y in (mapped[0], mapped[-1]):
                self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def bar(self, points: Points, colour: Colour, width: Real) -> None:
        """Draw an open line with an outline: a handle, a wire, a stick."""
        self.line(points, INK, width + 2.4)
        self.line(points, colour, width)

    def arc(
        self,
        x: Real,
        y: Real,
        rx: Real,
        ry: Real,
        start: Real,
        end: Real,
        colour: Colour,
        width: Real,
    ) -> None:
        """Draw a part of an ellipse from `start` to `end` degrees, clockwise from the right."""
        steps = max(3, int(abs(end - start) / 12))
        angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
        self.line([(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles], colour, width)
