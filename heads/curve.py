"""The loss curve of a run as a picture."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from heads.files import write_bytes


def draw_curve(records: list[dict[str, Any]], path: Path, title: str) -> None:
    """Loss a step with its running mean, and the validation figures below it, as one PNG. StepDiffError: no space."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    losses = [(r["step"], r["loss"]) for r in records if "loss" in r]
    figures = sorted({key for r in records for key in r if key.startswith("val_")})
    figure, axes = pyplot.subplots(2, 1, figsize=(7, 6), sharex=True, height_ratios=(3, 2), layout="constrained")
    if losses:
        steps, values = np.array(losses).T
        window = max(1, len(values) // 20)
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        axes[0].plot(steps, values, color="#b8c4d6", linewidth=0.8, label="loss of a step")
        axes[0].plot(steps[window - 1 :], smooth, color="#1f4e9c", label=f"mean of {window}")
        axes[0].legend(frameon=False)
    axes[0].set(ylabel="training loss", title=title)
    for name in figures:
        points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
        axes[1].plot(*np.array(points).T, marker="o", markersize=3, label=name.removeprefix("val_"))
    axes[1].set(xlabel="step", ylabel="validation")
    axes[1].legend(frameon=False)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    pyplot.close(figure)
    write_bytes(path, picture.getvalue())
