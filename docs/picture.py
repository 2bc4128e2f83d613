"""Draw docs/pair.png: answers of the demo about test pairs, one a category, drawn by seed, right and wrong marked.

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

from stepdiff.kitchen.truth import details_of, judgements, read_world
from stepdiff.tasks.testsets import DiffCap, read_test_set

WORLD, DEMO, SEED = Path("data/kitchen"), Path("data/demo"), 0
METHODS = {"StepDiff": "diffcap_stepdiff", "Word evidence": "diffcap_words"}
RIGHT, WRONG = "#007a55", "#b3411a"
TEXT, END = 0.225, 0.86  # of the width: where texts begin, and where no other detail begins


def frame(video: Path, second: float) -> np.ndarray:
    """Return the frame [H, W, 3] of a video at a time."""
    with av.open(str(video)) as container:
        for shown in container.decode(video=0):
            if shown.time is not None and shown.time >= second:
                return shown.to_ndarray(format="rgb24")
    raise ValueError(f"{video}: ends before {second} s")


def answered(name: str) -> dict[tuple[str, str, str], tuple[DiffCap, str]]:
    """Return the rows that a method answered, with its captions."""
    rows = read_test_set("diffcap", DEMO / f"{name}.rows.jsonl")
    lines = (DEMO / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    captions = [json.loads(line)["generated_text"] for line in lines]
    pairs = zip(rows, captions, strict=True)
    return {(row.category, row.reference, row.candidate): (row, text) for row, text in pairs if row.text}


def main() -> None:
    """Draw one pair of each category."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    world = read_world(WORLD / "attributes.jsonl")
    clips = {row["clip"]: row for row in pl.read_csv(WORLD / "clips.csv").iter_rows(named=True)}
    captions = {method: answered(name) for method, name in METHODS.items()}
    keys = sorted(set.intersection(*map(set, captions.values())))
    random.Random(SEED).shuffle(keys)
    drawn = {key[0]: key for key in keys}
    size, widths = (12, 1.62 * len(drawn)), (1, 1, 3.6)
    figure, axes = pyplot.subplots(len(drawn), 3, figsize=size, width_ratios=widths, layout="constrained")
    for (category, key), line in zip(sorted(drawn.items()), axes, strict=True):
        for axis, clip, title in zip(line, key[1:], ("Video 1", "Video 2"), strict=False):
            about = clips[clip]
            axis.imshow(frame(WORLD / about["video"], (float(about["start"]) + float(about["end"])) / 2))
            axis.set_title(title, fontsize=8, loc="left", pad=2)
        for axis in line:
            axis.set_axis_off()
        pen = {"transform": line[2].transAxes, "va": "top"}
        row, _ = captions["StepDiff"][key]
        line[2].text(0, 1.0, category, fontsize=9, fontweight="bold", **pen)
        line[2].text(TEXT, 0.99, textwrap.shorten(f"test set: {row.text[0]}", 96), fontsize=8, color="#555555", **pen)
        for place, method in enumerate(METHODS):
            text = captions[method][key][1]
            top = 0.8 - 0.4 * place
            line[2].text(0, top, method, fontsize=8, color="#555555", **pen)
            line[2].text(TEXT, top + 0.01, textwrap.shorten(text, 92), fontsize=9.5, **pen)
            named = judgements(text, category, world[row.reference], world[row.candidate])
            at = TEXT
            if not named:
                missed = len(details_of(category, world[row.reference], world[row.candidate]))
                line[2].text(at, top - 0.17, f"✗ names none of {missed} details", fontsize=7.5, color=WRONG, **pen)
            for (_, value, side), judgement in sorted(named.items(), key=lambda item: item[0][1:]):
                true = judgement == "true"
                label = f"{'✓' if true else '✗'} {value} in Video {1 if side == 'reference' else 2}"
                label += "" if true else f" ({judgement})"
                if at > END:
                    line[2].text(at, top - 0.17, "...", fontsize=7.5, **pen)
                    break
                line[2].text(at, top - 0.17, label, fontsize=7.5, color=RIGHT if true else WRONG, **pen)
                at += 0.012 * len(label) + 0.01
    figure.savefig("docs/pair.png", dpi=100)


if __name__ == "__main__":
    main()
