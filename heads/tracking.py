"""What shows a training while it runs: the loss curve, and copies of its log in Trackio, Weights & Biases and MLflow.

Each tracker's library reads its own environment variables (TRACKIO_DIR, WANDB_MODE, WANDB_PROJECT,
MLFLOW_TRACKING_URI, ...). The project is called `stepdiff` unless they name another. A resumed run continues the
tracker's run, whose id is in RUN/trackers.json; steps that it repeats have the same figures.

A tracker whose library is missing is refused before anything trains; one that fails ends no training.
"""

import io
import itertools
import json
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io import yaml_file
from stepdiff.common.io.files import write_bytes, write_text
from stepdiff.common.progress import say

PROJECT = "stepdiff"
RAW = "#8c9bb0"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # safe for colour-blind readers (Okabe and Ito)


class Trackio:
    errors: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError)
    """what the library raises"""

    def __init__(self, run: str, title: str, recipe: dict[str, Any], ids: dict[str, str]) -> None:
        self._run = self.start(run, title, recipe)

    def start(self, run: str, title: str, recipe: dict[str, Any]) -> Any:
        """Start or continue the library's run."""
        import trackio

        project, name = os.environ.get("TRACKIO_PROJECT", PROJECT), f"{title}-{run}"
        silent = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
        return trackio.init(project, name=name, config=recipe, resume="allow", **silent)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add the figures of a step."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """Mark the run as finished."""
        self._run.finish()


class WeightsAndBiases(Trackio):
    def start(self, run: str, title: str, recipe: dict[str, Any]) -> Any:
        import wandb

        self.errors = (wandb.Error, OSError)
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        return wandb.init(project=project, id=run, name=title, resume="allow", config=recipe)


class MLflow:
    def __init__(self, run: str, title: str, recipe: dict[str, Any], ids: dict[str, str]) -> None:
        import mlflow

        self.errors: tuple[type[Exception], ...] = (mlflow.MlflowException, OSError)
        self._client = mlflow.MlflowClient()
        if "mlflow" not in ids:
            mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
            with mlflow.start_run(run_name=title) as started:
                ids["mlflow"] = started.info.run_id
                mlflow.log_dict(recipe, "recipe.json")
        self._id = ids["mlflow"]
        self._client.set_terminated(self._id, "RUNNING")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        import mlflow

        mlflow.log_metrics(dict(figures), step=step, run_id=self._id)

    def close(self) -> None:
        self._client.set_terminated(self._id)


KINDS: dict[str, type[Trackio | MLflow]] = {"trackio": Trackio, "wandb": WeightsAndBiases, "mlflow": MLflow}


def need(names: Sequence[str]) -> None:
    """Raise StepDiffError if a tracker's library is not installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise StepDiffError(
            f"--log-to {' '.join(missing)}: the library is not installed; run pip install 'stepdiff[trackers]', or "
            "leave the option out"
        )


class Trackers:
    """The trackers of a run. StepDiffError: a library is missing, or a tracker cannot be opened."""

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        """names: of KINDS; folder: of the run."""
        need(names)
        self._open: dict[str, Trackio | MLflow] = {}
        if not names:
            return
        path = folder / "trackers.json"
        ids: dict[str, str] = json.loads(path.read_text()) if path.exists() else {"run": uuid.uuid4().hex[:8]}
        recipe = yaml_file.read(folder / "recipe.yaml") if (folder / "recipe.yaml").exists() else {}
        for name in names:
            try:
                with redirect_stdout(sys.stderr):  # Trackio prints
                    self._open[name] = KINDS[name](ids["run"], folder.name, recipe, ids)
            except Exception as error:  # each library has its own; nothing has trained yet
                raise StepDiffError(f"--log-to {name}: {_line(error)}; set it up, or leave the option out") from error
        write_text(path, json.dumps(ids) + "\n")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add the figures of a step to each; one that fails is reported and gets no more."""
        for name, tracker in list(self._open.items()):
            try:
                tracker.log(step, figures)
            except tracker.errors as error:
                say(f"{name}: {_line(error)}; it gets no more figures until the run is resumed; metrics.jsonl has all")
                del self._open[name]

    def close(self) -> None:
        """Mark the runs as finished; one that fails is reported."""
        with redirect_stdout(sys.stderr):
            for name, tracker in self._open.items():
                try:
                    tracker.close()
                except tracker.errors as error:
                    say(f"{name}: {_line(error)}; its run is not marked as finished; metrics.jsonl has all figures")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


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
