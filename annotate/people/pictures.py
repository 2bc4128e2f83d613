"""The figures of the paper's supplement about difference annotations: Fig. S5 as bars, Fig. S6 as word clouds.

Guarantees
- no two words of a cloud overlap, and the same terms give the same cloud
- a figure without data is left out
- a word that the font cannot draw is left out of the cloud
- nothing in a name is read as a formula, and all figures are drawn
"""

import io
import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from annotate.people.statistics import BINS, Statistics
from annotate.people.task import DIRECTION, HIGHEST, LOWEST, SCORES

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""of categories; safe for colour-blind readers (Okabe and Ito)"""
INKS = ("#0072b2", "#b34f00", "#007a57", "#a8527f", "#8a6000", "#2b7ba8", "#555555")
"""the same for words, dark enough to read on white"""
FONT = "DejaVu Sans"
WIDTH, HEIGHT = 100.0, 62.0
"""of a cloud; its unit is that of the sizes of words"""
LARGEST = (18.0, 16.0, 14.0, 12.5, 11.0, 10.0, 9.0, 8.0, 7.0, 6.0)
"""sizes of the largest word: the first with which all words find a place"""
SMALLEST, GAP = 2.6, 1.1
SPACE = 0.3
"""least distance of two words on a line, in sizes of the smaller one"""
WORDS = 32
"""of a cloud, at most"""
_TURN, _STEP = 0.13, 0.006  # of the spiral on which a place is searched: radians, and part of the cloud per radian
_SAMPLE = {"fontsize": 8, "color": "#555555"}


@dataclass(frozen=True)
class Placed:
    """A word in a cloud: its lower left corner, its size as a font and as a box."""

    word: str
    x: float
    y: float
    size: float
    width: float
    height: float

    def overlaps(self, other: "Placed", across: float = 0.0, above: float = 0.0) -> bool:
        """Return whether the boxes overlap, or are nearer than `across` next to or `above` one another."""
        if self.y >= other.y + other.height + above or other.y >= self.y + self.height + above:
            return False
        return self.x < other.x + other.width + across and other.x < self.x + self.width + across


def scores_figure(found: Statistics) -> bytes | None:
    """Return Fig. S5 as PNG: captions by category, aggregate scores of pairs, scores with a text; None without data."""
    panels = [
        draw
        for draw, data in (
            (_captions, found.captions),
            (_aggregates, sum(found.aggregates)),
            (_written, found.written),
        )
        if data
    ]
    if not panels:
        return None
    pyplot = _pyplot()
    size = (4.1 * len(panels), 3.5)
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    for axis, draw in zip(axes[0], panels, strict=True):
        draw(axis, found)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_axisbelow(True)
    note = textwrap.fill(f"Scores: {DIRECTION}. {found.sentence}.", 66 * len(panels))
    figure.supxlabel(note, **_SAMPLE)
    return _png(figure)


def _captions(axis: Any, found: Statistics) -> None:
    names = [name for name, category in found.categories.items() if category.captions]
    counts = [found.categories[name].captions for name in names]
    bars = axis.barh(range(len(names)), counts, color=[_colour(found, name) for name in names], height=0.72)
    labels = [f"{count:,} ({count / found.captions:.0%})" for count in counts]
    axis.bar_label(bars, labels, padding=3, fontsize=8)
    axis.set_yticks(range(len(names)), [_plain(name) for name in names])
    axis.set_xlim(0, max(counts) * 1.38)
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("captions")
    axis.grid(axis="x", alpha=0.4, linewidth=0.6)
    _title(axis, "Difference captions by category")


def _aggregates(axis: Any, found: Statistics) -> None:
    width = (HIGHEST - LOWEST) / BINS
    places = [LOWEST + width * (number + 0.5) for number in range(BINS)]
    axis.bar(places, found.aggregates, width=width * 0.92, color="#9aa5b4")
    mean = found.aggregate or 0.0
    axis.axvline(mean, color="#222222", linewidth=1.2, linestyle="--")
    left = mean > (LOWEST + HIGHEST) / 2
    axis.annotate(
        f"mean {mean:.2f}",
        (mean, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if left else 5, -2),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        fontsize=8,
    )
    axis.set_xticks(SCORES)
    axis.set_ylim(0, max(found.aggregates) * 1.14)
    axis.set_xlabel("mean score over categories")
    axis.set_ylabel("pairs")
    axis.grid(axis="y", alpha=0.4, linewidth=0.6)
    _title(axis, "Aggregate score of a pair")


def _written(axis: Any, found: Statistics) -> None:
    names = [name for name, category in found.categories.items() if sum(category.written.values())]
    width = 0.84 / len(names)
    for number, name in enumerate(names):
        counts = found.categories[name].written
        shares = [100 * counts[str(score)] / sum(counts.values()) for score in SCORES]
        places = [score + width * (number - (len(names) - 1) / 2) for score in SCORES]
        axis.bar(places, shares, width=width * 0.94, color=_colour(found, name), label=_plain(name))
    axis.set_xticks(SCORES)
    axis.set_xlabel("score where a text was written")
    axis.set_ylabel("% of the category's scores")
    axis.grid(axis="y", alpha=0.4, linewidth=0.6)
    axis.legend(frameon=False, fontsize=7, handlelength=0.9, handletextpad=0.4, labelspacing=0.25, loc="best")
    _title(axis, "Scores with a difference text")


def clouds_figure(found: Statistics) -> bytes | None:
    """Return Fig. S6 as PNG: the terms of each category as a word cloud; None where no category has any."""
    names = [name for name, category in found.categories.items() if category.terms]
    if not names:
        return None
    from matplotlib.patches import Rectangle

    pyplot = _pyplot()
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    size = (4.1 * columns, 2.85 * rows + 0.3)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis, name in zip(axes.flat, names, strict=False):
        ink = INKS[list(found.categories).index(name) % len(INKS)]
        _title(axis, _plain(name), ink)
        axis.add_patch(Rectangle((0, 0), WIDTH, HEIGHT, facecolor="none", edgecolor="#dddddd", linewidth=0.8))
        for placed in cloud({term.term: term.weight for term in found.categories[name].terms}):
            _draw_word(axis, placed, ink)
    for axis in axes.flat:
        axis.set_axis_off()
        axis.set_xlim(-0.5, WIDTH + 0.5)
        axis.set_ylim(-0.5, HEIGHT + 0.5)
        axis.set_aspect("equal")
    note = "Size: mean TF-IDF over the captions of a category; terms in more than 25 % of all captions are left out."
    figure.supxlabel(note, **_SAMPLE)
    return _png(figure)


def cloud(weights: Mapping[str, float], width: float = WIDTH, height: float = HEIGHT) -> list[Placed]:
    """Return the places of words whose sizes follow their weights, at most WORDS of them.

    The words are placed from the largest weight on, each at the first free place of a spiral from the middle. Words
    that find no place at any size are left out.
    """
    words = [word for word in sorted(weights, key=lambda word: (-weights[word], word)) if drawable(word)][:WORDS]
    placed: list[Placed] = []
    for largest in LARGEST if words else ():
        placed = []
        for word in words:
            size = max(largest * weights[word] / weights[words[0]], SMALLEST)
            made = _place(word, size, placed, width, height)
            placed += [] if made is None else [made]
        if len(placed) == len(words):
            break
    return placed


def _place(word: str, size: float, placed: list[Placed], width: float, height: float) -> Placed | None:
    """Return the word at its first free place, None if it has none."""
    _, _, across, high = box(word)
    for x, y in _spiral(width, height):
        made = Placed(word, x - size * across / 2, y - size * high / 2, size, size * across, size * high)
        inside = GAP <= made.x <= width - made.width - GAP and GAP <= made.y <= height - made.height - GAP
        if inside and not any(made.overlaps(each, max(GAP, SPACE * min(size, each.size)), GAP) for each in placed):
            return made
    return None


def _spiral(width: float, height: float) -> Iterator[tuple[float, float]]:
    """Yield points from the middle outwards, along an ellipse of the form of the cloud."""
    angle = 0.0
    while (radius := _STEP * angle) < 0.65:
        yield width * (0.5 + radius * math.cos(angle)), height * (0.5 + radius * math.sin(angle))
        angle += _TURN


@cache
def box(word: str) -> tuple[float, float, float, float]:
    """Return the left and lower edge, the width and the height of a word of size 1."""
    edges = _path(word).get_extents()
    return float(edges.x0), float(edges.y0), float(edges.width), float(edges.height)


def _path(word: str) -> Any:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), word, size=1, prop=FontProperties(family=FONT), usetex=False)


def drawable(word: str) -> bool:
    """Return whether the font has all letters of a word."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont(FONT))
    return bool(word.strip()) and all(font.get_char_index(ord(letter)) for letter in word)


def _draw_word(axis: Any, placed: Placed, colour: str) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.transforms import Affine2D

    left, low, _, _ = box(placed.word)
    move = Affine2D().translate(-left, -low).scale(placed.size).translate(placed.x, placed.y)
    strength = 0.7 + 0.3 * min(placed.size / LARGEST[3], 1)
    axis.add_patch(PathPatch(move.transform_path(_path(placed.word)), facecolor=colour, alpha=strength, linewidth=0))


def _colour(found: Statistics, name: str) -> str:
    return COLOURS[list(found.categories).index(name) % len(COLOURS)]


def _plain(name: str) -> str:
    """Return a name that is no formula, on one line of at most 30 characters."""
    words = " ".join(name.split())
    return (words if len(words) <= 30 else words[:29] + "…").replace("$", r"\$")


def _title(axis: Any, text: str, colour: str = "#222222") -> None:
    axis.set_title(text, fontsize=10, loc="left", fontweight="bold", color=colour)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # of a name in a script that the font lacks
        figure.savefig(out, format="png", dpi=150, metadata={"Software": None})
    _pyplot().close(figure)
    return out.getvalue()
