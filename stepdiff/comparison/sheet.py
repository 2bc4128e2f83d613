"""The tables of the paper from predictions (python -m heads.report), and a sheet of pairs with the
answers of methods.

stepdiff report --config report.yaml
stepdiff report --config report.yaml --sheet pairs.png --store data/features --videos data/kitchen
stepdiff report --test-set diffcap_test.jsonl --sheet annotations.pdf --store data/features \\
    --videos data/kitchen

A sheet is a picture like Figs. S4 and S7 of the supplement: the frames of both clips, what the test
set says, and what each method of the `predictions` for diffcap writes. Pairs are drawn by --seed,
the categories in turn. With --truth, details that an answer names are marked as true or not.
"""

import random
import tempfile
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, zip_longest
from pathlib import Path
from typing import Any

from heads import report
from heads.report import ReportOptions
from stepdiff_core.cli import command
from stepdiff_core.cli.options import WRITTEN, at_least, parse
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.testsets import DiffCap, read_predictions, read_test_set

RIGHT, WRONG, QUIET = "#007a55", "#b3411a", "#555555"
FRAMES, HEIGHT = 3, 160
"""frames of a clip, and their height in pixels"""
_WIDTH = 13.0  # inches of the sheet
_LINE = 0.2  # inches of a line of text
_COLUMNS = 100  # characters of an answer's line
Key = tuple[str, str, str]
"""category, reference, candidate"""


@dataclass(frozen=True)
class SheetOptions(ReportOptions):
    sheet: str | None = field(default=None, metadata=WRITTEN)
    """picture of pairs with answers to write, .png, .pdf or .svg, instead of the tables"""
    test_set: str | None = None
    """DiffCap test set whose pairs the sheet shows without answers, where no predictions are
    given"""
    store: str = "data/features"
    """feature store, whose catalog has the video, start and end of each clip of a sheet"""
    videos: str = "data/kitchen"
    """folder that the catalog's video paths begin in"""
    pairs: int = 5
    """pairs of a sheet"""


@dataclass(frozen=True)
class Line:
    """A line of the text next to a pair: parts with their colours."""

    parts: tuple[tuple[str, str], ...]
    bold: bool = False


def run(options: SheetOptions) -> Any:
    if options.sheet is None:
        return report.run(options)
    at_least(options, pairs=1, seed=0)
    rows, answers = _answered(options)
    shown = draw(sorted(rows), options.pairs, options.seed)
    write(Path(options.sheet), options, [rows[key] for key in shown], answers)
    return {"sheet": options.sheet, "pairs": len(shown), "methods": list(answers)}


def _answered(options: SheetOptions) -> tuple[dict[Key, DiffCap], dict[str, dict[Key, str]]]:
    """Return the rows that all methods answered and whose clips differ, and method -> row -> its
    answer."""
    entries = [
        each
        for entry in options.predictions
        for each in entry.trainings(1)
        if entry.task == "diffcap"
    ]
    files = [entry.test_set for entry in entries] or (
        [] if options.test_set is None else [options.test_set]
    )
    if not files:
        raise StepDiffError(
            "--sheet shows pairs of DiffCap: give --test-set, or predictions with task: diffcap"
        )
    sets = [read_test_set("diffcap", file) for file in files]
    answers: dict[str, dict[Key, str]] = {}
    for entry, test_set in zip(entries, sets, strict=False):
        captions = read_predictions("diffcap", entry.predictions, test_set)
        answers.setdefault(entry.method, dict(zip(map(_key, test_set), captions, strict=True)))
    rows = {_key(row): row for row in sets[0] if row.text}
    common = set(rows).intersection(*answers.values())
    if not common:
        raise StepDiffError(f"{files[0]}: no pair that differs is answered by every method")
    return {key: rows[key] for key in common}, answers


def _key(row: DiffCap) -> Key:
    return row.category, row.reference, row.candidate


def draw(keys: Sequence[Key], count: int, seed: int) -> list[Key]:
    """Return `count` rows in a random order, the categories in turn."""
    keys = random.Random(seed).sample(keys, len(keys))
    of_category: dict[str, list[Key]] = defaultdict(list)
    for key in keys:
        of_category[key[0]].append(key)
    turns = zip_longest(*(of_category[category] for category in sorted(of_category)))
    return [key for key in chain.from_iterable(turns) if key is not None][:count]


def write(
    path: Path, options: SheetOptions, rows: Sequence[DiffCap], answers: dict[str, dict[Key, str]]
) -> None:
    """Draw the pairs below each other. StepDiffError: the format is unknown, or a clip's video
    cannot be read."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.backend_bases import FigureCanvasBase

    from stepdiff.kitchen.truth import read_world
    from stepdiff_core.io.files import whole

    kinds = FigureCanvasBase.filetypes
    if path.suffix[1:].lower() not in kinds:
        raise StepDiffError(f"--sheet {path}: a picture is {', '.join(sorted(kinds))}")
    world = None if options.truth is None else read_world(options.truth)
    texts = [
        _lines(row, {method: captions[_key(row)] for method, captions in answers.items()}, world)
        for row in rows
    ]
    heights = [max(len(lines) * _LINE + 0.1, 1.0) for lines in texts]
    figure = pyplot.figure(figsize=(_WIDTH, sum(heights)))
    strips = clip_strips([clip for row in rows for clip in (row.reference, row.candidate)], options)
    top = 1.0
    for row, lines, height in zip(rows, texts, heights, strict=True):
        share = height / sum(heights)
        for place, clip in enumerate((row.reference, row.candidate)):
            axis = figure.add_axes((0.005 + 0.215 * place, top - share * 0.96, 0.21, share * 0.9))
            axis.imshow(strips[clip])
            axis.set_title(f"Video {place + 1}", fontsize=7, loc="left", pad=2, color=QUIET)
            axis.set_axis_off()
        for number, line in enumerate(lines):
            at, below = 0.445, top - (0.1 + number * _LINE) / sum(heights)
            for text, colour in line.parts:
                written = figure.text(
                    at,
                    below,
                    text,
                    fontsize=8,
                    color=colour,
                    va="top",
                    weight="bold" if line.bold else "normal",
                )
                written.set_parse_math(False)  # an answer may have dollars
                at += written.get_window_extent().width / figure.bbox.width
        top -= share
    with whole(path) as temporary:
        figure.savefig(temporary, dpi=120, format=path.suffix[1:].lower())
    pyplot.close("all")


def _lines(row: DiffCap, answers: dict[str, str], world: Any) -> list[Line]:
    """Return the text next to a pair: its category, the test set's texts, and each answer with its
    marks."""
    from stepdiff.kitchen.truth import details_of, judgements

    black = "black"
    lines = [Line(((row.category, black),), bold=True)]
    lines += [
        Line(((f"test set: {textwrap.shorten(text, _COLUMNS)}", QUIET),)) for text in row.text[:2]
    ]
    for method, text in answers.items():
        first, *more = textwrap.wrap(text, _COLUMNS) or ["(nothing)"]
        lines.append(Line(((f"{method}:  ", QUIET), (first, black))))
        lines += [Line((("    " + part, black),)) for part in more[:2]]
        if world is None:
            continue
        try:
            pair = world[row.reference], world[row.candidate]
        except KeyError as error:
            raise StepDiffError(
                f"--truth does not have clip {error.args[0]}: give that of the test set"
            ) from None
        named = sorted(judgements(text, row.category, *pair).items(), key=lambda item: item[0][1:])
        marks = [
            (f"✓ {value} in Video {1 if side == 'reference' else 2}", RIGHT)
            if judgement == "true"
            else (f"✗ {value} in Video {1 if side == 'reference' else 2} ({judgement})", WRONG)
            for (_, value, side), judgement in named
        ]
        marks = marks or [
            (f"✗ names none of {len(details_of(row.category, *pair))} details", WRONG)
        ]
        while marks:
            lengths = accumulate(len(mark) + 3 for mark, _ in marks)
            fit = max(1, sum(length <= _COLUMNS for length in lengths))
            lines.append(
                Line((("    ", black), *((f"{mark}   ", colour) for mark, colour in marks[:fit])))
            )
            marks = marks[fit:]
    return lines


def clip_strips(clips: Sequence[str], options: SheetOptions) -> dict[str, Any]:
    """Return the pictures [H, W, 3] of clips, FRAMES side by side. StepDiffError: one has no
    video."""
    import numpy as np
    from PIL import Image

    from featurize.video.cut import filmstrip
    from store import Store

    catalog = Store.open(options.store).catalog("clips")
    abouts = {about["key"]: about for about in catalog.select(catalog.rows(clips)).to_dicts()}
    strips: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for clip in clips:
            video, start, end = (
                abouts.get(clip, {}).get(name) for name in ("video", "start", "end")
            )
            if video is None or start is None or end is None:
                raise StepDiffError(
                    f"{options.store}: its catalog has no video, start and end of clip {clip}"
                )
            out = Path(folder) / "strip.jpg"
            filmstrip(Path(options.videos) / video, start, end, FRAMES, HEIGHT, out)
            strips[clip] = np.asarray(Image.open(out))
    return strips


def show(record: Any) -> None:
    """Print the path of the sheet, or the tables."""
    if not isinstance(record, dict):
        report.show(record)
        return
    print(
        f"{record['sheet']}: {record['pairs']} pairs, "
        f"{', '.join(record['methods']) or 'without answers'}"
    )


def main(argv: list[str] | None = None) -> int:
    recipes = Path(report.__file__).parent / "recipes"
    return parse(SheetOptions, argv, "stepdiff.report", __doc__, run, show, recipes=recipes)


if __name__ == "__main__":
    command.run(main)
