"""The figures of the paper's supplement about difference annotations: Fig. S5 as bars, Fig. S6 as
word clouds."""

import io
import math
import textwrap
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from stepdiff.annotate.forms.form import DIRECTION, HIGHEST, LOWEST, SCORES
from stepdiff.annotate.statistics import BINS, Statistics

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""of categories; safe for colour-blind readers (Okabe and Ito)"""
INKS = ("#0072b2", "#b34f00", "#007a57", "#a8527f", "#8a6000", "#2b7ba8", "#555555")
"""the same for words, dark enough to read on white"""
FONT = "DejaVu Sans"
# width and height of a cloud in pixels; words are placed on every second one
SIZE, SCALE = (960, 600), 2
WORDS, LONGEST = 32, 40  # words of a cloud and letters of a word, at most
_SAMPLE = {"fontsize": 8, "color": "#555555"}


def scores_figure(record: Statistics) -> bytes | None:
    """Return Fig. S5 as PNG: captions by category, aggregate scores of pairs, scores with a text;
    None without data."""
    counts = (
        (_captions, record.captions),
        (_aggregates, sum(record.aggregates)),
        (_written, record.written),
    )
    panels = [draw for draw, count in counts if count]
    if not panels:
        return None
    figure = Figure(figsize=(4.1 * len(panels), 3.5), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, draw in zip(axes[0], panels, strict=True):
        draw(axis, record)
    note = textwrap.fill(f"Scores: {DIRECTION}. {record.sentence}.", 66 * len(panels))
    figure.supxlabel(note, **_SAMPLE)
    return _png(figure)


def _captions(axis: Any, record: Statistics) -> None:
    names = [name for name, category in record.categories.items() if category.captions]
    counts = [record.categories[name].captions for name in names]
    bars = axis.barh(
        range(len(names)), counts, color=[_colour(record, name) for name in names], height=0.72
    )
    labels = [f"{count:,} ({count / record.captions:.0%})" for count in counts]
    axis.bar_label(bars, labels, padding=3, fontsize=8)
    axis.set_yticks(range(len(names)), [_plain(name) for name in names])
    axis.set_xlim(0, max(counts) * 1.38)
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)
    _finish(axis, "Difference captions by category", "captions", "", "x")


def _aggregates(axis: Any, record: Statistics) -> None:
    width = (HIGHEST - LOWEST) / BINS
    places = [LOWEST + width * (number + 0.5) for number in range(BINS)]
    axis.bar(places, record.aggregates, width=width * 0.92, color="#9aa5b4")
    mean = record.aggregate or 0.0
    axis.axvline(mean, color="#222222", linewidth=1.2, linestyle="--")
    to_the_left = mean > (LOWEST + HIGHEST) / 2
    axis.annotate(
        f"mean {mean:.2f}",
        (mean, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if to_the_left else 5, -2),
        textcoords="offset points",
        ha="right" if to_the_left else "left",
        va="top",
        fontsize=8,
    )
    axis.set_xticks(SCORES)
    axis.set_ylim(0, max(record.aggregates) * 1.14)
    _finish(axis, "Aggregate score of a pair", "mean score over categories", "pairs", "y")


def _written(axis: Any, record: Statistics) -> None:
    names = [name for name, category in record.categories.items() if sum(category.written.values())]
    width = 0.84 / len(names)
    for number, name in enumerate(names):
        counts = record.categories[name].written
        shares = [100 * counts[str(score)] / sum(counts.values()) for score in SCORES]
        places = [score + width * (number - (len(names) - 1) / 2) for score in SCORES]
        axis.bar(
            places, shares, width=width * 0.94, color=_colour(record, name), label=_plain(name)
        )
    axis.set_xticks(SCORES)
    axis.legend(
        frameon=False,
        fontsize=7,
        handlelength=0.9,
        handletextpad=0.4,
        labelspacing=0.25,
        loc="best",
    )
    _finish(
        axis,
        "Scores with a difference text",
        "score where a text was written",
        "% of the category's scores",
        "y",
    )


def _finish(axis: Any, title: str, x: str, y: str, lines: str) -> None:
    axis.set(xlabel=x, ylabel=y, axisbelow=True)
    axis.grid(axis=lines, alpha=0.4, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    _title(axis, title)


def clouds_figure(record: Statistics) -> bytes | None:
    """Return Fig. S6 as PNG: the terms of each category as a word cloud; None if no category has
    any."""
    names = [name for name, category in record.categories.items() if category.terms]
    if not names:
        return None
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.1 * columns, 2.85 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color("#dddddd")
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, names, strict=False):
        ink = INKS[list(record.categories).index(name) % len(INKS)]
        _title(axis, _plain(name), ink)
        axis.imshow(cloud({term.term: term.weight for term in record.categories[name].terms}, ink))
    note = (
        "Size: mean TF-IDF over the captions of a category; terms in more than 25 % of all "
        "captions are left out."
    )
    figure.supxlabel(note, **_SAMPLE)
    return _png(figure)


def cloud(weights: Mapping[str, float], ink: str) -> UInt8[np.ndarray, "H W 3"]:
    """Return a word cloud of at most WORDS words, whose sizes follow their weights.

    Words of more than LONGEST letters and words that the font cannot draw are left out.
    """
    from matplotlib.font_manager import findfont, get_font
    from wordcloud import WordCloud

    path = findfont(FONT)
    font = get_font(path)
    words = (word for word in sorted(weights) if len(word) <= LONGEST)
    drawable = {
        word: weights[word]
        for word in words
        if all(font.get_char_index(ord(letter)) for letter in word)
    }
    if not drawable:
        return np.full((*SIZE[::-1], 3), 255, np.uint8)
    drawing = WordCloud(
        font_path=path,
        width=SIZE[0] // SCALE,
        height=SIZE[1] // SCALE,
        scale=SCALE,
        max_words=WORDS,
        relative_scaling=1,
        min_font_size=8,
        max_font_size=50,
        margin=8,
        prefer_horizontal=1,
        background_color="white",
        color_func=lambda *_, **__: ink,
        random_state=0,
    )
    return drawing.generate_from_frequencies(drawable).to_array()


def _colour(record: Statistics, name: str) -> str:
    return COLOURS[list(record.categories).index(name) % len(COLOURS)]


def _plain(name: str) -> str:
    """Return a name that is no formula, on one line of at most 30 characters."""
    words = " ".join(name.split())
    return (words if len(words) <= 30 else words[:29] + "…").replace("$", r"\$")


def _title(axis: Any, text: str, colour: str = "#222222") -> None:
    axis.set_title(text, fontsize=10, loc="left", fontweight="bold", color=colour)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        # of a name in a script that the font lacks
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(out, format="png", dpi=150, metadata={"Software": None})
    return out.getvalue()
