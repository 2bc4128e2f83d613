"""A head of a few weights with dropout, which trains in a moment, for tests of the training loop and its folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.training.loop import train
from heads.training.recipe import Schedule
from heads.training.speed import Counts
from heads.workers.group import ALONE, Group

SCHEDULE = Schedule(6, accumulate=2, warmup=2, validate_every=2)


class SmallTask:
    """A linear fit to planted points, which records the dropout mask of each batch."""

    def __init__(self, scores: list[float] | None = None, group: Group = ALONE) -> None:
        torch.manual_seed(7)
        self.module = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 1))
        self.points = torch.randn(16, 32)
        self.masks: dict[int, tuple[bool, ...]] = {}
        self.counts, self.group = Counts(), group
        self.expected: list[int | None] = []
        self.scores = None if scores is None else iter(scores)

    def own(self, batches: range) -> range:
        return self.group.own(batches)

    def expect(self, batch: int | None) -> None:
        self.expected.append(batch)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.module.parameters())}]

    def prepare(self, say: Callable[[str], None]) -> None:
        say("nothing to prepare")

    def loss(self, batch: int) -> Tensor:
        self.counts += Counts(samples=3, tokens=30, clips=3)
        kept = functional.dropout(torch.ones(32), 0.5)
        self.masks[batch] = tuple((kept > 0).tolist())
        return (self.module(self.points[batch % 16] * kept) - self.points[batch % 16].sum()).square().mean()

    def validate(self) -> dict[str, float | None]:
        if self.scores is not None:
            return {"score": next(self.scores)}
        with torch.no_grad():
            error = (self.module(self.points)[:, 0] - self.points.sum(dim=1)).square().mean()
        return {"score": -float(error)}


def trained(folder: Path, seed: int = 0, schedule: Schedule = SCHEDULE, task: SmallTask | None = None) -> SmallTask:
    """Train a small task in the folder, or resume it."""
    task = SmallTask() if task is None else task
    train(task, schedule, folder, folder.name, seed)
    return task


def unsealed(run: Path) -> Path:
    """Change the run to the form of versions before SHA256SUMS."""
    for path in run.rglob("SHA256SUMS"):
        path.unlink()
    return run
