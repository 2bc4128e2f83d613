"""The loss curve of a training as a picture."""

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from stepdiff.common.io.files import write_bytes

RAW = "#8c9bb0"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # safe for colour-blind readers (Okabe and Ito)


def draw_curve(records: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the loss of each step with its running mean and, if there are any, the validation figures, as one PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import patheffects, pyplot

    losses = [(r["step"], r["loss"]) for r in records if "loss" in r]
    figures = sorted({key for r in records for key in r if key.startswith("val_")})
    ratios, height = ((3, 2), 6) if figures else ((1,), 4)
    figure = pyplot.figure(figsize=(7, height), layout="constrained", facecolor="white")
    axes = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    if losses:
        steps, values = np.array(losses).T
        axes[0].plot(steps, values, color=RAW, linewidth=0.9, label="loss of each step")
        if (window := len(values) // 20) > 1:
            middles, means = running_mean(steps, values, window)
            # The white edge separates the mean from the raw line, which it does not cover.
            edge = [patheffects.Stroke(linewidth=3, foreground="white"), patheffects.Normal()]
            axes[0].plot(middles, means, color=COLOURS[0], linewidth=1.4, path_effects=edge, label=f"mean of {window}")
        axes[0].legend(frameon=False)
    axes[0].set(ylabel="training loss", title=title)
    for name, colour in zip(figures, itertools.cycle(COLOURS)):  # noqa: B905 (the colours repeat)
        points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
        axes[1].plot(*np.array(points).T, marker="o", markersize=3, color=colour, label=name.removeprefix("val_"))
    if figures:
        axes[1].set(ylabel="validation")
        axes[1].legend(frameon=False)
    axes[-1].set(xlabel="step")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    pyplot.close(figure)
    write_bytes(path, picture.getvalue())


def running_mean(
    steps: Shaped[np.ndarray, " S"], values: Float[np.ndarray, " S"], window: int
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Return the mean of each `window` consecutive values and the mean of their steps, so that it does not lag."""
    each = np.ones(window) / window
    return np.convolve(steps, each, mode="valid"), np.convolve(values, each, mode="valid")
