"""The loop that trains any head: AdamW, accumulation, atomic checkpoints, the best one named, exact resume.

Guarantees
- a run killed at any moment and resumed ends with the weights of one that was not
- a loss that is no number ends the run before it reaches any weight
- the checkpoint with the best validation score is named, the earliest of equals; what stands before the first step is
  named only as long as nothing behind it was validated
- every record of metrics.jsonl stands there once
- two trainings do not write one folder at once
"""

import math
import sys
import time
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from rich.console import Console
from torch import Tensor, nn

from common.errors import StepDiffError
from common.io.files import make_folder
from common.io.locks import locked
from common.streams import torch_seed
from heads.training.checkpoint import Run, draw_curve
from heads.training.log import TrainingLog, read_metrics
from heads.training.recipe import Schedule


@runtime_checkable
class Task(Protocol):
    """What is trained. `validate` returns figures, None where one is undefined; "score" is to be largest."""

    @property
    def module(self) -> nn.Module: ...

    def groups(self) -> list[dict[str, Any]]: ...

    def prepare(self, told: "Progress") -> None: ...

    def loss(self, batch: int) -> Tensor: ...

    def validate(self) -> dict[str, float | None]: ...


class Progress:
    """Lines on stderr at most every `seconds`: step, loss, rate, time left."""

    def __init__(self, what: str, total: int, done: int = 0, seconds: float = 10.0) -> None:
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self.what, self.total, self.seconds = what, total, seconds
        self.first, self.started, self.last = done, time.monotonic(), 0.0

    def told(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if now - self.last < self.seconds and step < self.total:
            return
        self.last = now
        rate = (step - self.first) / max(now - self.started, 1e-9)
        left = (self.total - step) / max(rate, 1e-9)
        self.console.print(
            f"{self.what}: step {step}/{self.total}, loss {loss:.3f}, {rate:.2f} steps/s, {left:.0f} s left"
        )

    def count(self, done: int, total: int) -> None:
        """Work without a loss."""
        now = time.monotonic()
        if now - self.last >= self.seconds or done == total:
            self.last = now
            rate = done / max(now - self.started, 1e-9)
            left = (total - done) / rate
            self.console.print(f"{self.what}: {done}/{total}, {rate:.1f}/s, {left:.0f} s left")

    def say(self, text: str) -> None:
        self.console.print(f"{self.what}: {text}")


def rate_factor(schedule: Schedule, step: int) -> float:
    """What the learning rates are multiplied by in step `step` (from 0)."""
    rising = min(1.0, (step + 1) / max(schedule.warmup, 1))
    left = (schedule.steps - step) / max(schedule.decay * schedule.steps, 1e-9)
    falling = 0.5 * (1 - math.cos(math.pi * min(1.0, left)))
    return rising * falling


def train(task: Task, schedule: Schedule, folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Train to schedule.steps, resuming what stands in the folder; returns the record of best.json.

    seed: of the random draws inside `task.loss`, which has a stream of its own for each batch.

    StepDiffError: another process trains there, the log or a checkpoint cannot be written, a checkpoint is damaged, or
    the loss is not finite.
    """
    make_folder(folder)
    with locked(folder / "lock.json", wait=False):
        return _train(task, schedule, folder, name, seed)


def _train(task: Task, schedule: Schedule, folder: Path, name: str, seed: int) -> dict[str, Any]:
    run = Run(folder)
    optimizer = torch.optim.AdamW(
        task.groups(),
        lr=schedule.learning_rate,
        betas=(0.9, schedule.beta2),
        weight_decay=schedule.weight_decay,
    )
    base_rates = [group["lr"] for group in optimizer.param_groups]
    state: dict[str, Any] = {"step": 0, "best_score": None, "best_step": None}
    latest = run.latest()
    if latest is not None:
        state = run.load(latest, task.module, optimizer)
        if state["best_step"] == state["step"]:  # the run may have died before it could name it
            run.name_best(latest, state["step"], state["best_score"])
        run.prune()
    progress = Progress(name, schedule.steps, state["step"])
    log = TrainingLog(folder, state["step"] if latest is not None else -1)
    if latest is None:
        task.prepare(progress)
        state = _validate(task, run, optimizer, log, progress, state)
        progress = Progress(name, schedule.steps)  # its clock starts behind what prepares
    elif state["step"] < schedule.steps:
        progress.say(f"resumes from {latest.name}")
    while state["step"] < schedule.steps:
        step = state["step"]
        task.module.train()
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * rate_factor(schedule, step)
        optimizer.zero_grad()
        total = 0.0
        for batch in range(step * schedule.accumulate, (step + 1) * schedule.accumulate):
            # Each batch has a stream of its own: a resumed run draws the same, in whatever process.
            torch.manual_seed(torch_seed(seed, "dropout", batch))
            loss = task.loss(batch) / schedule.accumulate
            loss.backward()
            total += loss.item()
        norm = nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], schedule.clip_norm)
        if not math.isfinite(total + float(norm)):
            raise StepDiffError(
                f"{folder}: step {step + 1} has loss {total} and gradient norm {float(norm)}; train into a new folder "
                "with smaller learning rates (schedule's, lora's), or a language model in float32"
            )
        optimizer.step()
        state["step"] = step + 1
        log.add(step + 1, loss=total, gradient_norm=float(norm))
        progress.told(step + 1, total)
        if (step + 1) % schedule.validate_every == 0 or step + 1 == schedule.steps:
            state = _validate(task, run, optimizer, log, progress, state)
        elif schedule.save_every and (step + 1) % schedule.save_every == 0:
            run.save(step + 1, task.module, optimizer, state)
            run.prune()
    draw_curve(read_metrics(log.path), folder / "loss.png", name)
    return {"step": state["best_step"], "score": state["best_score"]}


def _validate(
    task: Task,
    run: Run,
    optimizer: torch.optim.Optimizer,
    log: TrainingLog,
    progress: Progress,
    state: dict[str, Any],
) -> dict[str, Any]:
    figures = task.validate()
    step, score = state["step"], figures["score"]
    assert score is not None
    log.add(step, **{f"val_{key}": value for key, value in figures.items()})
    progress.say(f"step {step} val " + ", ".join(f"{k} {'-' if v is None else f'{v:.3f}'}" for k, v in figures.items()))
    better = state["best_step"] in (None, 0) or score > state["best_score"]
    if better:
        state = state | {"best_score": score, "best_step": step}
    checkpoint = run.save(step, task.module, optimizer, state)
    if better:
        run.name_best(checkpoint, step, score)
    run.prune()
    return state
