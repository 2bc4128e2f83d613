"""The training loop of every head: AdamW, gradient accumulation, atomic checkpoints, choice of the best, exact resume.

The checkpoint is chosen by a score of the task (heads.training.validation). Without one, each validation writes a
checkpoint that is the best so far, and the last checkpoint is the best of the run.

Guarantees
- a run killed at any moment and resumed ends with the same weights as one that was not killed
- a non-finite loss ends the run before it reaches any weight
- the checkpoint with the best validation score is named, the earliest among equals; the one before the first step is
  named only until a later one is validated
- metrics.jsonl has every record once
- two trainings cannot write one folder at the same time
- without_validation_the_last_checkpoint_is_the_best_one
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from common.errors import StepDiffError
from common.io.files import make_folder
from common.io.locks import locked
from common.progress import say
from common.streams import torch_seed
from heads.training.checkpoint import Run
from heads.training.log import TrainingLog, draw_curve, read_metrics
from heads.training.recipe import Schedule
from heads.training.speed import Counts, speed


@runtime_checkable
class Task(Protocol):
    """A training task. `loss` depends only on the weights and the batch's number; `validate` returns figures (None: not
    defined), of which the largest "score" chooses the checkpoint, or none at all."""

    counts: Counts
    """what `loss` has read so far"""

    @property
    def module(self) -> nn.Module: ...

    def groups(self) -> list[dict[str, Any]]: ...

    def prepare(self, say: Callable[[str], None]) -> None: ...

    def loss(self, batch: int) -> Tensor: ...

    def validate(self) -> dict[str, float | None]: ...


def step_lines(name: str, total: int, done: int = 0, seconds: float = 10.0) -> Callable[[int, float], None]:
    """Return a function that receives (step, loss) and prints a line with rate and time left every few seconds."""
    started, last = time.monotonic(), 0.0

    def report(step: int, loss: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < seconds and step < total:
            return
        last = now
        rate = (step - done) / max(now - started, 1e-9)
        left = (total - step) / max(rate, 1e-9)
        say(f"{name}: step {step}/{total}, loss {loss:.3f}, {rate:.2f} steps/s, {left:.0f} s left")

    return report


def rate_factor(schedule: Schedule, step: int) -> float:
    """Return the factor of the learning rates in step `step` (from 0): linear warm-up, cosine decay."""
    rising = min(1.0, (step + 1) / max(schedule.warmup, 1))
    left = (schedule.steps - step) / max(schedule.decay * schedule.steps, 1e-9)
    falling = 0.5 * (1 - math.cos(math.pi * min(1.0, left)))
    return rising * falling


def train(task: Task, schedule: Schedule, folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Train to schedule.steps, resuming the run in the folder; return the record of best.json.

    Args:
        seed: of the random draws inside `task.loss`; each batch has its own stream.

    Raises:
        StepDiffError: another process trains there, the log or a checkpoint cannot be written, a checkpoint is damaged,
            or the loss is not finite.
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
        if state["best_step"] == state["step"]:  # the run may have died before it named this checkpoint
            run.name_best(latest, state["step"], state["best_score"])
        run.prune()
    log = TrainingLog(folder, state["step"] if latest is not None else -1)
    if latest is None:
        task.prepare(lambda line: say(f"{name}: {line}"))
        state = _validate(task, run, optimizer, log, name, state)
        if state["best_score"] is None:
            say(f"{name}: no validation chooses a checkpoint; the last one is the best")
    elif state["step"] < schedule.steps:
        say(f"{name}: resumes from {latest.name}")
    report = step_lines(name, schedule.steps, state["step"])
    while state["step"] < schedule.steps:
        step, started, before = state["step"], time.monotonic(), task.counts
        task.module.train()
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * rate_factor(schedule, step)
        optimizer.zero_grad()
        total = 0.0
        for batch in range(step * schedule.accumulate, (step + 1) * schedule.accumulate):
            # Each batch has its own stream, so that a resumed run draws the same, in any process.
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
        rates = {f"learning_rate/{place}": group["lr"] for place, group in enumerate(optimizer.param_groups)}
        figures = {"loss": total, "gradient_norm": float(norm), **rates}
        log.step(step + 1, figures, speed(task.counts - before, time.monotonic() - started))
        report(step + 1, total)
        if (step + 1) % schedule.validate_every == 0 or step + 1 == schedule.steps:
            state = _validate(task, run, optimizer, log, name, state)
        elif schedule.save_every and (step + 1) % schedule.save_every == 0:
            run.save(step + 1, task.module, optimizer, state)
            run.prune()
    draw_curve(read_metrics(log.path), folder / "loss.png", name)
    return {"step": state["best_step"], "score": state["best_score"]}


def _validate(
    task: Task, run: Run, optimizer: torch.optim.Optimizer, log: TrainingLog, name: str, state: dict[str, Any]
) -> dict[str, Any]:
    """Validate, write a checkpoint and name it if it is the best so far; return the new state."""
    figures = task.validate()
    step, score = state["step"], figures.get("score")
    if figures:
        log.add(step, **{f"val_{key}": value for key, value in figures.items()})
        shown = ", ".join(f"{k} {'-' if v is None else f'{v:.3f}'}" for k, v in figures.items())
        say(f"{name}: step {step} val {shown}")
    better = state["best_step"] in (None, 0) or score is None or score > state["best_score"]
    if better:
        state = state | {"best_score": score, "best_step": step}
    checkpoint = run.save(step, task.module, optimizer, state)
    if better:
        run.name_best(checkpoint, step, score)
    run.prune()
    return state
