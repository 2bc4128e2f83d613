"""A pen for flat illustration: shapes with an outline, under a movable coordinate frame.

Lengths are frame pixels; drawing happens at `SCALE` times that size and is reduced once at the end,
which is what smooths the edges.
"""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

WIDTH, HEIGHT = 384, 288
SCALE = 2

Colour = tuple[int, ...]
Real = float | int
Point = tuple[Real, Real]

INK: Colour = (58, 44, 40)
"""The outline of everything."""

_CIRCLE = [(math.cos(i * math.pi / 14), math.sin(i * math.pi / 14)) for i in range(28)]


def mix(a: Colour, b: Colour, share: Real) -> Colour:
    """Colour between `a` and `b`; `share` 0 is `a`, 1 is `b`."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a[:3], b[:3], strict=True))


def lighter(colour: Colour, share: Real) -> Colour:
    """Colour moved towards white."""
    return mix(colour, (255, 255, 255), share)


def darker(colour: Colour, share: Real) -> Colour:
    """Colour moved towards a warm black."""
    return mix(colour, (30, 18, 16), share)


class Pen:
    """Draws on one image; `at` gives a pen with moved, turned and scaled coordinates."""

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        frame: tuple[Real, Real, Real, Real] = (SCALE, 0.0, 0.0, 0.0),
    ) -> None:
        self._draw = draw
        self._cos, self._sin, self._dx, self._dy = frame
        self._scale = math.hypot(self._cos, self._sin)

    @classmethod
    def on(cls, image: Image.Image) -> "Pen":
        """A pen whose origin is the top left corner of the central square of `image`."""
        draw = ImageDraw.Draw(image, "RGBA")
        return cls(draw, (SCALE, 0.0, SCALE * (WIDTH - HEIGHT) / 2, 0.0))

    def at(self, x: Real, y: Real, degrees: Real = 0.0, scale: Real = 1.0) -> "Pen":
        """Pen with its origin at (x, y), turned clockwise by `degrees`."""
        angle = math.radians(degrees)
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        ox, oy = self._map(x, y)
        frame = (
            self._cos * cos - self._sin * sin,
            self._sin * cos + self._cos * sin,
            ox,
            oy,
        )
        return Pen(self._draw, frame)

    def _map(self, x: Real, y: Real) -> Point:
        return (
            self._cos * x - self._sin * y + self._dx,
            self._sin * x + self._cos * y + self._dy,
        )

    def _width(self, width: Real) -> int:
        return max(1, round(width * self._scale))

    def poly(self, points: Sequence[Point], fill: Colour | None, ink: Colour | None = INK, width: Real = 1.3) -> None:
        """Filled polygon; `ink` None leaves out the outline."""
        mapped = [self._map(x, y) for x, y in points]
        if fill is not None:
            self._draw.polygon(mapped, fill=fill)
        if ink is not None:
            self._draw.line([*mapped, mapped[0], mapped[1]], fill=ink, width=self._width(width))

    def oval(
        self,
        x: Real,
        y: Real,
        rx: Real,
        ry: Real,
        fill: Colour | None,
        ink: Colour | None = INK,
        width: Real = 1.3,
    ) -> None:
        """Filled ellipse around (x, y)."""
        if self._sin == 0.0:
            cx, cy = self._map(x, y)
            rx, ry = rx * self._scale, ry * self._scale
            self._draw.ellipse(
                (cx - rx, cy - ry, cx + rx, cy + ry),
                fill=fill,
                outline=ink,
                width=self._width(width) if ink is not None else 0,
            )
        else:
            self.poly([(x + rx * c, y + ry * s) for c, s in _CIRCLE], fill, ink, width)

    def box(
        self,
        x0: Real,
        y0: Real,
        x1: Real,
        y1: Real,
        fill: Colour | None,
        ink: Colour | None = INK,
        radius: Real = 3.0,
        width: Real = 1.3,
    ) -> None:
        """Filled rectangle with rounded corners."""
        r = min(radius, abs(x1 - x0) / 2, abs(y1 - y0) / 2)
        points = [
            (cx + r * math.cos(math.radians(a)), cy + r * math.sin(math.radians(a)))
            for cx, cy, start in (
                (x1 - r, y1 - r, 0),
                (x0 + r, y1 - r, 90),
                (x0 + r, y0 + r, 180),
                (x1 - r, y0 + r, 270),
            )
            for a in (start, start + 45, start + 90)
        ]
        self.poly(points, fill, ink, width)

    def line(self, points: Sequence[Point], colour: Colour, width: Real) -> None:
        """Open line with round ends."""
        mapped = [self._map(x, y) for x, y in points]
        thick = self._width(width)
        self._draw.line(mapped, fill=colour, width=thick, joint="curve" if thick > 5 else None)
        if thick > 3 and len(colour) == 3:
            r = thick / 2
            for x, y in (mapped[0], mapped[-1]):
                self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def bar(self, points: Sequence[Point], colour: Colour, width: Real) -> None:
        """Open line with an outline: a handle, a wire, a stick."""
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
        """Part of an ellipse from `start` to `end` degrees, clockwise from the right."""
        steps = max(3, int(abs(end - start) / 12))
        points = []
        for i in range(steps + 1):
            a = math.radians(start + (end - start) * i / steps)
            points.append((x + rx * math.cos(a), y + ry * math.sin(a)))
        self.line(points, colour, width)
