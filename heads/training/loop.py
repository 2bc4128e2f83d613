"""The training loop of every head: AdamW, gradient accumulation, atomic checkpoints, choice of the
best, exact resume.

The checkpoint is chosen by a score of the task (heads.training.validation). Without one, each
validation writes a checkpoint that is the best so far, and the last checkpoint is the best of the
run.

Guarantees
- a run killed at any moment and resumed ends with the same weights as one that was not killed
- any number of processes that divides the batches of a step trains the same weights; only the first
  one writes
- the checkpoint with the best validation score is named, the earliest among equals; step 0 only
  until a later one
"""

import math
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from heads.training.checkpoint import Run, optimized
from heads.training.log import Hook, ReadCounts, TrainingLog, draw_curve, read_metrics, speed
from heads.training.recipe import Schedule
from heads.workers.group import ALONE, Group
from stepdiff_core.errors import HeldError, StepDiffError
from stepdiff_core.io.files import make_folder
from stepdiff_core.io.locks import locked
from stepdiff_core.progress import say
from stepdiff_core.streams import torch_seed

LINE_EVERY = 10.0
"""seconds between two lines about the steps"""


@runtime_checkable
class TrainingTask(Protocol):
    """A training task. `loss` depends only on the weights and the batch's number; `validate`
    returns figures (None: not defined), whose largest "score" chooses the checkpoint, or none at
    all."""

    counts: ReadCounts
    """reads by `loss` since the loop set it"""
    divides_rows: bool
    """whether each process computes its rows of all batches of a step, not some of the batches"""

    @property
    def module(self) -> nn.Module: ...

    def groups(self) -> list[dict[str, Any]]: ...

    def prepare(self) -> list[str]:
        """Make a new run's weights ready; return lines about the weights that train."""
        ...

    def loss(self, batch: int, following: int | None = None) -> Tensor:
        """Return the loss of a batch, and begin to read the `following` one."""
        ...

    def validate(self) -> dict[str, float | None]: ...


def rate_factor(schedule: Schedule, step: int) -> float:
    """Return the factor of the learning rates in step `step` (from 0): linear warm-up, cosine
    decay."""
    rising = min(1.0, (step + 1) / max(schedule.warmup, 1))
    remaining = (schedule.steps - step) / max(schedule.decay * schedule.steps, 1e-9)
    falling = 0.5 * (1 - math.cos(math.pi * min(1.0, remaining)))
    return rising * falling


def train(
    task: TrainingTask,
    schedule: Schedule,
    folder: Path,
    seed: int,
    group: Group = ALONE,
    patience: float = 0.0,
    log_to: Hook | None = None,
) -> dict[str, Any]:
    """Train to schedule.steps, resuming the run in the folder; return the record of best.json.

    seed: of the random draws inside `task.loss`, each batch's own; patience: seconds to wait for a
    process that still writes the folder. StepDiffError: another one trains there, the log or a
    checkpoint cannot be written, a checkpoint is damaged, or the loss is not finite.
    """
    with ExitStack() as held:

        def lock() -> None:
            make_folder(folder)
            until = time.monotonic() + patience
            while True:
                try:
                    return held.enter_context(locked(folder / "lock.json", wait=False))
                except HeldError:
                    if time.monotonic() >= until:
                        raise
                    time.sleep(0.5)

        group.from_first(lock)
        return _Training(task, schedule, folder, seed, group, log_to).run()


class _Training:
    """A run in progress: its state, and the files that the first process writes."""

    def __init__(
        self,
        task: TrainingTask,
        schedule: Schedule,
        folder: Path,
        seed: int,
        group: Group,
        log_to: Hook | None,
    ) -> None:
        self.task, self.schedule, self.seed, self.group, self.log_to = (
            task,
            schedule,
            seed,
            group,
            log_to,
        )
        self.kept = Run(folder)
        self.optimizer = torch.optim.AdamW(
            task.groups(),
            lr=schedule.learning_rate,
            betas=(0.9, schedule.beta2),
            weight_decay=schedule.weight_decay,
        )
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.state: dict[str, Any] = {"step": 0, "best_score": None, "best_step": None}
        self.log: TrainingLog | None = None
        """in the first process"""
        self.begun = self.reported = 0.0
        """times of the first step, and of the last line about one"""
        self.resumed = 0

    def run(self) -> dict[str, Any]:
        schedule, kept, task, group = self.schedule, self.kept, self.task, self.group
        latest = group.from_first(kept.latest)
        if latest is not None:
            self.state = kept.load(latest, task.module, self.optimizer, group)
        group.from_first(lambda: self._open(latest))
        if latest is None:
            for line in task.prepare():
                self._say(line)
            group.copy_from_first(optimized(self.optimizer))
            self._validate()
            if self.state["best_score"] is None:
                self._say("no validation chooses a checkpoint; the last one is the best")
        elif self.state["step"] < schedule.steps:
            self._say(f"resumes from {latest.name}")
        self.begun, self.resumed = time.monotonic(), self.state["step"]
        while self.state["step"] < schedule.steps:
            self._step()
            step = self.state["step"]
            if self._validates(step):
                self._validate()
            elif schedule.save_every and step % schedule.save_every == 0:
                kept.save(step, task.module, self.optimizer, self.state, group)
                group.from_first(kept.prune)
        self._draw()
        return {"step": self.state["best_step"], "score": self.state["best_score"]}

    def _open(self, latest: Path | None) -> None:
        """Clean the folder and open the log."""
        if latest is not None:
            # the run may have died before it named this checkpoint
            if self.state["best_step"] == self.state["step"]:
                self.kept.name_best(latest, self.state["step"], self.state["best_score"])
            self.kept.prune()
        self.log = TrainingLog(
            self.kept.folder, self.state["step"] if latest is not None else -1, self.log_to
        )

    def _draw(self) -> None:
        if self.log is not None:
            draw_curve(
                read_metrics(self.log.path), self.kept.folder / "loss.png", self.kept.folder.name
            )

    def _say(self, line: str) -> None:
        if self.group.first:
            say(f"{self.kept.folder.name}: {line}")

    def _report(self, loss: float) -> None:
        """Print a line about the step, with rate and time left, every few seconds."""
        step, total, now = self.state["step"], self.schedule.steps, time.monotonic()
        if now - self.reported >= LINE_EVERY or step == total:
            self.reported, rate = now, (step - self.resumed) / max(now - self.begun, 1e-9)
            seconds = (total - step) / max(rate, 1e-9)
            self._say(
                f"step {step}/{total}, loss {loss:.3f}, {rate:.2f} steps/s, {seconds:.0f} s left"
            )

    def _validates(self, step: int) -> bool:
        """Whether the run validates after `step` steps."""
        return step % self.schedule.validate_every == 0 or step == self.schedule.steps

    def _batches(self, step: int) -> range:
        """Return the batches of step `step` (from 0) that this process computes."""
        batches = range(step * self.schedule.accumulate, (step + 1) * self.schedule.accumulate)
        return batches if self.task.divides_rows else batches[self.group.rank :: self.group.size]

    def _step(self) -> None:
        """Compute a step."""
        task, schedule, group, optimizer = self.task, self.schedule, self.group, self.optimizer
        step, started, task.counts = self.state["step"], time.monotonic(), ReadCounts()
        task.module.train()
        for part, rate in zip(optimizer.param_groups, self.base_rates, strict=True):
            part["lr"] = rate * rate_factor(schedule, step)
        optimizer.zero_grad()
        total = 0.0
        batches = self._batches(step)
        # validation reads features too
        after = None if self._validates(step + 1) else self._batches(step + 1)[0]
        for batch, following in zip(batches, [*batches[1:], after], strict=True):
            # Each batch has its own stream, so that a resumed run draws the same, in any process.
            torch.manual_seed(torch_seed(self.seed, "dropout", batch))
            loss = task.loss(batch, following) / schedule.accumulate
            loss.backward()
            total += loss.item()
        weights = optimized(optimizer)
        group.sum_gradients(weights)
        total, *counts = group.sum([total, *vars(task.counts).values()])
        norm = group.clip(weights, schedule.clip_norm)
        if not math.isfinite(total + norm):
            raise StepDiffError(
                f"{self.kept.folder}: step {step + 1} has loss {total} and gradient norm {norm}; "
                "train into a new folder with smaller learning rates (schedule's, lora's), or a "
                "language model in float32"
            )
        optimizer.step()
        self.state["step"] = step + 1
        rates = {
            f"learning_rate/{place}": part["lr"]
            for place, part in enumerate(optimizer.param_groups)
        }
        if self.log is not None:
            figures = {"loss": total, "gradient_norm": norm, **rates}
            self.log.step(step + 1, figures, speed(ReadCounts(*counts), time.monotonic() - started))
        self._report(total)

    def _validate(self) -> None:
        """Validate, write a checkpoint and name it if it is the best so far."""
        computed = self.task.validate()
        # processes on other devices may differ in last bits
        figures = self.group.from_first(lambda: computed)
        step, score = self.state["step"], figures.get("score")
        if figures:
            if self.log is not None:
                self.log.add(step, **{f"val_{key}": value for key, value in figures.items()})
            shown = ", ".join(f"{k} {'-' if v is None else f'{v:.3f}'}" for k, v in figures.items())
            self._say(f"step {step} val {shown}")
        better = (
            self.state["best_step"] in (None, 0)
            or score is None
            or score > self.state["best_score"]
        )
        if better:
            self.state = self.state | {"best_score": score, "best_step": step}
        checkpoint = self.kept.save(step, self.task.module, self.optimizer, self.state, self.group)

        def tidy() -> None:
            if better:
                self.kept.name_best(checkpoint, step, score)
            self.kept.prune()
            if 0 < step < self.schedule.steps:  # the end of the run draws the last curve
                self._draw()

        self.group.from_first(tidy)
