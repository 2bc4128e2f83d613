"""A trained head, read back from its run's folder: the checkpoint that validation chose.

Guarantees
- a head for another view or another language model is refused in one line (heads.lineage)
"""

from pathlib import Path

from heads import contrastive, lineage, video_task
from heads.checkpoint import Run
from heads.clips import Features
from heads.contrastive import ContrastiveHead
from heads.errors import HeadsError
from heads.recipe import ContrastiveRecipe, TrainOptions, read_recipe
from heads.video_lm import VideoLM
from store import Store


def load_video_lm(folder: Path, store: Store, device: str) -> tuple[VideoLM, Features, TrainOptions]:
    """The model, the features it reads, and the recipe that made it."""
    options = read_recipe(folder / "recipe.yaml")
    if options.video_lm is None:
        raise HeadsError(f"{folder}: holds a contrastive head, which answers no questions; name another run")
    features = Features(store, options.video_lm.view, "tokens")
    lineage.check(folder, options, store)
    model = video_task.build(options.video_lm, features, options.seed, device)
    run = Run(folder)
    run.load(run.best(), model)
    return model.eval(), features, options


def load_contrastive(
    folder: Path, store: Store, device: str
) -> tuple[ContrastiveHead, ContrastiveRecipe]:
    options = read_recipe(folder / "recipe.yaml")
    if options.contrastive is None:
        raise HeadsError(f"{folder}: holds no contrastive head; train heads/recipes/kitchen/align.yaml")
    lineage.check(folder, options, store)
    head = contrastive.build(options.contrastive, store, options.seed).to(device)
    run = Run(folder)
    run.load(run.best(), head)
    return head.eval(), options.contrastive
