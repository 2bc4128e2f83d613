"""Draw docs/pair.png: answers of the demo's StepDiff about pairs of test clips, drawn by seed, right and wrong marked.

    make demo && .venv/bin/python docs/picture.py
"""

import json
import random
import textwrap
from pathlib import Path

import av
import matplotlib
import numpy as np
import polars as pl

from kitchen.truth import judgements, read_world
from tasks.prompts import DIFFERENCE_QUESTION
from tasks.testsets import read_test_set

WORLD, ANSWERS, SEED = Path("data/kitchen"), Path("data/demo/diffcap_stepdiff.jsonl"), 0
MARKS = {"true": ("✓", "#007a55"), "swapped": ("✗", "#b3411a"), "shared": ("≈", "#b3411a"), "invented": ("✗", "#b3411a")}


def frame(video: Path, second: float) -> np.ndarray:
    """Return the frame [H, W, 3] of a video at a time."""
    with av.open(str(video)) as container:
        for shown in container.decode(video=0):
            if shown.time is not None and shown.time >= second:
                return shown.to_ndarray(format="rgb24")
    raise ValueError(f"{video}: ends before {second} s")


def main() -> None:
    """Draw one pair of each category."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    world = read_world(WORLD / "attributes.jsonl")
    clips = {row["clip"]: row for row in pl.read_csv(WORLD / "clips.csv").iter_rows(named=True)}
    rows = read_test_set("diffcap", ANSWERS.with_suffix(".rows.jsonl"))
    answers = [json.loads(line)["generated_text"] for line in ANSWERS.read_text(encoding="utf-8").splitlines()]
    answered = [(row, text) for row, text in zip(rows, answers, strict=True) if row.text]
    random.Random(SEED).shuffle(answered)
    drawn = {row.category: (row, text) for row, text in reversed(answered)}
    figure, axes = pyplot.subplots(
        len(drawn), 3, figsize=(11, 1.75 * len(drawn)), width_ratios=(1, 1, 2.9), layout="constrained"
    )
    for (category, (row, text)), line in zip(sorted(drawn.items()), axes, strict=True):
        for axis, clip, title in zip(line, (row.reference, row.candidate), ("Video 1", "Video 2"), strict=False):
            about = clips[clip]
            axis.imshow(frame(WORLD / about["video"], (float(about["start"]) + float(about["end"])) / 2))
            axis.set_title(title, fontsize=9, loc="left", pad=3)
        for axis in line:
            axis.set_axis_off()
        pen = {"transform": line[2].transAxes, "va": "top"}
        line[2].text(0, 1.0, DIFFERENCE_QUESTION.format(category=category), fontsize=8.5, color="#555555", **pen)
        line[2].text(0, 0.82, textwrap.fill(text, 78), fontsize=10.5, **pen)
        named = judgements(text, category, world[row.reference], world[row.candidate])
        at = 0.0
        for (_, value, side), judgement in sorted(named.items(), key=lambda item: item[0][1:]):
            mark, colour = MARKS[judgement]
            label = f"{mark} {value} in Video {1 if side == 'reference' else 2}" + (
                "" if judgement == "true" else f" ({judgement})"
            )
            line[2].text(at, 0.36, label, fontsize=8.5, color=colour, **pen)
            at += 0.018 * len(label)
        line[2].text(0, 0.16, textwrap.fill(f"A person's words: {row.text[0]}.", 96), fontsize=8.5, color="#555555", **pen)
    figure.savefig("docs/pair.png", dpi=110)


if __name__ == "__main__":
    main()
