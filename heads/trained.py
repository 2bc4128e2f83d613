"""A trained head, read back from its run's folder: the checkpoint that validation chose."""

from pathlib import Path
from typing import Any

from heads import contrastive, paired_task
from heads.checkpoint import Run
from heads.clips import Features
from heads.contrastive import ContrastiveHead
from heads.errors import HeadsError
from heads.recipe import ContrastiveRecipe, TrainOptions, VideoLMRecipe, read_recipe
from heads.video_lm import VideoLM
from store import Store


def load_video_lm(folder: Path, store: Store, device: str) -> tuple[VideoLM, Features, TrainOptions]:
    """The model, the features it reads, and the recipe that made it."""
    options = read_recipe(folder / "recipe.yaml")
    if options.video_lm is None:
        raise HeadsError(f"{folder}: holds a contrastive head, which answers no questions; name another run")
    features = Features(store, options.video_lm.view, "tokens")
    model = paired_task.build(options.video_lm, features, options.seed, device)
    run = Run(folder)
    run.load(run.best(), model)
    return model.eval(), features, options


def load_contrastive(
    folder: Path, store: Store, device: str
) -> tuple[ContrastiveHead, ContrastiveRecipe]:
    options = read_recipe(folder / "recipe.yaml")
    if options.contrastive is None:
        raise HeadsError(f"{folder}: holds no contrastive head; train heads/recipes/kitchen/align.yaml")
    head = contrastive.build(options.contrastive, store, options.seed).to(device)
    run = Run(folder)
    run.load(run.best(), head)
    return head.eval(), options.contrastive


def disclosure(recipe: VideoLMRecipe) -> dict[str, Any]:
    """What training was given beyond the published recipe: stands beside every score it led to."""
    return {
        "warm_start": recipe.warm_start is not None,
        "lora": recipe.lora is not None,
        "packed": recipe.packed,
        "yes_no_weight": recipe.yes_no_weight,
        "one_sided_first": recipe.one_sided_first,
        "decisions_first": recipe.decisions_first,
        "language_model": recipe.language_model,
        "steps": recipe.schedule.steps,
    }
