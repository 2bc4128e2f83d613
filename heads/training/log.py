"""The log of a training run: one JSON object per record, the same figures as TensorBoard events,
and the loss curve.

    RUN/metrics.jsonl               {"step": 12, "loss": 1.5, "gradient_norm": 0.7,
                                    "learning_rate/0": 0.0001}
    RUN/speed.jsonl                 {"step": 12, "samples_per_second": 41.0, "seconds_waited": 0.1,
                                    ...}
    RUN/tensorboard/                events with the figures of both, one file per start
    RUN/loss.png                    the curve

metrics.jsonl has only figures that depend on the recipe and the data, so that a resumed run and one
that was never interrupted write the same file. Figures that depend on the machine are in
speed.jsonl.

Events are written in the caller's thread: torch.utils.tensorboard writes in a thread of its own, in
which a full disk ends as a traceback that nobody can catch.

Guarantees
- steps after the checkpoint that a run resumes from are logged once
- a last line that a kill cut is dropped; a damaged line elsewhere is refused by its number
- a disk that fills up during the log ends in one line, and the run resumes exactly
"""

import io
import itertools
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import make_folder, write_bytes
from stepdiff_core.io.jsonl import parse_object
from stepdiff_core.io.local import named_errors
from stepdiff_core.plugins import load

GIGA = 1e9
RAW = "#8c9bb0"
# safe for colour-blind readers (Okabe and Ito)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
Hook = Callable[[Path, int, dict[str, float]], object]
"""receives the folder of the run, a step and its figures: the function that --log-to names"""


def hook(name: str | None) -> Hook | None:
    """Import the function that --log-to names as MODULE:FUNCTION. StepDiffError: there is no such
    function."""
    if name is None:
        return None
    place, function = load(name, "stepdiff.logs", "--log-to")
    if not callable(function):
        raise StepDiffError(f"--log-to {place}: no such function; give MODULE:FUNCTION")
    return function


@dataclass(frozen=True)
class ReadCounts:
    """Counts of a task's reads in a step; counts of several processes add up."""

    samples: int | float = 0
    """clips, sequences, images or pairs"""
    tokens: int | float = 0
    """of the language model, without padding; 0: the task has none"""
    clips: int | float = 0
    """clips whose features were read"""
    waited: int | float = 0
    """seconds in which the step waited for a batch"""

    def __add__(self, other: "ReadCounts") -> "ReadCounts":
        return ReadCounts(*map(sum, zip(vars(self).values(), vars(other).values(), strict=True)))


def speed(done: ReadCounts, seconds: float) -> dict[str, float]:
    """Return the figures of a step that depend on the machine. done: contents of the step, of all
    processes."""
    seconds = max(seconds, 1e-9)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    figures = {
        "seconds": seconds,
        "steps_per_second": 1 / seconds,
        "samples_per_second": done.samples / seconds,
        "clips_per_second": done.clips / seconds,
        "seconds_waited": done.waited,
        "peak_memory_gb": most / GIGA,
    }
    if done.tokens:
        figures["tokens_per_second"] = done.tokens / seconds
    if torch.cuda.is_available():
        figures["peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated() / GIGA
    return figures


class TrainingLog:
    """metrics.jsonl and TensorBoard events, cut back to the step that a run resumes from.

    Every method raises StepDiffError, in one line that names the file, if the disk is full.
    """

    def __init__(self, folder: Path, step: int, log_to: Hook | None = None) -> None:
        """Keep the records up to `step`; log_to: receives the figures too.

        StepDiffError: a damaged line, or metrics.jsonl cannot be written.
        """
        from tensorboard.compat.proto.event_pb2 import SessionLog

        make_folder(folder)
        self.folder, self.log_to = folder, log_to
        self.path, self.speed_path = folder / "metrics.jsonl", folder / "speed.jsonl"
        for path in (self.path, self.speed_path):
            records = [record for record in read_metrics(path) if record["step"] <= step]
            write_bytes(path, b"".join(map(_line, records)))
        now = time.time_ns()
        name = f"events.out.tfevents.{now // 10**9:010d}.{socket.gethostname()}.{os.getpid()}.{now}"
        make_folder(folder / "tensorboard")
        self.events_path = folder / "tensorboard" / name
        self._write_event(file_version="brain.Event:2")
        # TensorBoard hides the events of this step and later ones in earlier files.
        self._write_event(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def step(self, step: int, figures: Mapping[str, float], speed: Mapping[str, float]) -> None:
        """Append the records of a step, from 1. figures: depend on recipe and data only; speed: on
        the machine."""
        append(self.path, _line({"step": step, **figures}))
        append(self.speed_path, _line({"step": step, **speed}))
        self._show(step, {**figures, **speed})

    def add(self, step: int, **values: float | None) -> None:
        """Append one record; None is an undefined figure, which TensorBoard does not show."""
        append(self.path, _line({"step": step, **values}))
        self._show(step, {name: value for name, value in values.items() if value is not None})

    def _show(self, step: int, values: dict[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        shown = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write_event(step=step, summary=Summary(value=shown))
        if self.log_to is not None:
            self.log_to(self.folder, step, values)

    def _write_event(self, **event: Any) -> None:
        """Append one record to the TensorBoard events, which is in the file when the call
        returns."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **event).SerializeToString())
        append(self.events_path, record.getvalue())


def append(path: Path, data: bytes) -> None:
    """Append to a file, without a buffer: closing it retries nothing. StepDiffError: the disk is
    full."""
    with named_errors(path, len(data)), open(path, "ab", buffering=0) as file:
        while data:
            data = data[file.write(data) :]


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record) + "\n").encode()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of metrics.jsonl, none if the file does not exist. StepDiffError: a
    damaged line, by number.

    An incomplete last line, as a kill leaves it, is dropped with a notice on stderr.
    """
    if not path.exists():
        return []
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except OSError as error:
        raise StepDiffError(f"{path}: cannot be read ({error.strerror})") from error
    records = [_record(path, number, line) for number, line in enumerate(lines, 1)]
    if rest:
        try:
            records.append(_record(path, len(lines) + 1, rest))
        except StepDiffError:
            print(
                f"{path}: the last line was cut short by a kill; it is dropped",
                file=sys.stderr,
                flush=True,
            )
    return records


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = parse_object(line)
        if type(record.get("step")) is not int:
            raise StepDiffError("no whole number under 'step'")
    except StepDiffError as error:
        raise StepDiffError(
            f"{path}:{number}: damaged ({error}); remove that line and run the same command again: "
            "weights and checkpoints do not depend on it"
        ) from error
    return record


def draw_curve(records: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the loss of each step with its running mean and, if there are any, the validation
    figures, as one PNG."""
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
            # The mean of steps too, so that the curve does not lag.
            middles, means = (
                np.convolve(each, np.ones(window) / window, mode="valid")
                for each in (steps, values)
            )
            # The white edge separates the mean from the raw line, which it does not cover.
            edge = [patheffects.Stroke(linewidth=3, foreground="white"), patheffects.Normal()]
            axes[0].plot(
                middles,
                means,
                color=COLOURS[0],
                linewidth=1.4,
                path_effects=edge,
                label=f"mean of {window}",
            )
        axes[0].legend(frameon=False)
    axes[0].set(ylabel="training loss", title=title)
    for name, colour in zip(figures, itertools.cycle(COLOURS)):  # noqa: B905 (the colours repeat)
        points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
        axes[1].plot(
            *np.array(points).T,
            marker="o",
            markersize=3,
            color=colour,
            label=name.removeprefix("val_"),
        )
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
