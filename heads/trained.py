"""A trained head, read back from its run's folder: the checkpoint that validation chose.

Guarantees
- a head for another view or another language model is refused in one line (heads.training.lineage)
- a training that has not come to its end is told of
- a changed recipe.yaml, lineage.json or checkpoint is refused in one line (heads.training.checkpoint)
"""

from pathlib import Path

from torch import nn

from common.errors import StepDiffError
from heads.data.clips import Features
from heads.models.video_lm import VideoLM
from heads.training import contrastive_task as contrastive
from heads.training import lineage, video_task
from heads.training.checkpoint import Run
from heads.training.contrastive_task import ContrastiveHead
from heads.training.loop import Progress
from heads.training.recipe import ContrastiveRecipe, Schedule, TrainOptions, read_recipe
from store import Store


def load_video_lm(folder: Path, store: Store, device: str) -> tuple[VideoLM, Features, TrainOptions]:
    """The model, the features it reads, and the recipe that made it."""
    Run(folder).check_made_by()
    options = read_recipe(folder / "recipe.yaml")
    if options.video_lm is None:
        raise StepDiffError(f"{folder}: holds a contrastive head, which answers no questions; name another run")
    features = Features(store, options.video_lm.view, "tokens")
    lineage.check(folder, options, store)
    model = video_task.build(options.video_lm, features, options.seed, device)
    _load(Run(folder), model, options.video_lm.schedule)
    return model.eval(), features, options


def load_contrastive(folder: Path, store: Store, device: str) -> tuple[ContrastiveHead, ContrastiveRecipe]:
    Run(folder).check_made_by()
    options = read_recipe(folder / "recipe.yaml")
    if options.contrastive is None:
        raise StepDiffError(f"{folder}: holds no contrastive head; train heads/recipes/kitchen/align.yaml")
    lineage.check(folder, options, store)
    head = contrastive.build(options.contrastive, store, options.seed).to(device)
    _load(Run(folder), head, options.contrastive.schedule)
    return head.eval(), options.contrastive


def _load(run: Run, module: nn.Module, schedule: Schedule) -> None:
    best, reached = run.best(), run.reached()
    if reached < schedule.steps:
        told = f"trained {reached} of {schedule.steps} steps so far; {best.name} is the best of them"
        Progress(str(run.folder), schedule.steps).say(told)
    run.load(best, module)
