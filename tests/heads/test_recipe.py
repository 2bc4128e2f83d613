"""Guarantees of the published recipes and of the kitchen's."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from heads import train
from heads.data.packing import Turn
from heads.training.lineage import load_video_lm
from heads.training.log import read_metrics
from heads.training.recipe import Validation, read_recipe
from store import Store

from .conftest import SYSTEMS

RECIPES = Path(train.__file__).parent / "recipes"


@pytest.mark.parametrize(
    ("name", "system", "batch", "steps"),
    [("vclm", "VCLM", 512, 50_000), ("interleaved", "Interleaved", 512, 50_000), ("stepdiff", "StepDiff", 256, 20_000)],
)
def test_the_recipes_have_the_published_figures(name: str, system: str, batch: int, steps: int) -> None:
    recipe = read_recipe(RECIPES / f"{name}.yaml").video_lm
    assert recipe is not None
    recipe.check()
    assert (recipe.system, recipe.sources) == (system, SYSTEMS[system])
    assert (recipe.batch * recipe.schedule.accumulate, recipe.schedule.steps) == (batch, steps)
    assert recipe.schedule.learning_rate == 1e-4 and (recipe.projector.layers, recipe.projector.outputs) == (2, 32)
    assert recipe.view == "internvideo-mm-l14" and recipe.language_model == "meta-llama/Llama-2-70b-chat-hf"
    assert not recipe.full and recipe.lora is None
    assert recipe.init == ("runs/interleaved" if system == "StepDiff" else None)


def test_every_recipe_holds_out_the_test_sets_next_to_what_it_trains_on() -> None:
    """Those of the kitchen do not name DiffMCQ, which is made from DiffCap and has its clips."""
    paths = [path for path in RECIPES.rglob("*.yaml") if path.name != "report.yaml"]
    assert len(paths) == 14
    for path in paths:
        made, folder = read_recipe(path), "data/kitchen" if path.parent.name == "kitchen" else "data"
        tasks = ("diffcap", "diffrank") if folder == "data/kitchen" else ("diffcap", "diffmcq", "diffrank")
        assert made.hold_out == tuple(f"{folder}/{task}_test.jsonl" for task in tasks), path
        assert made.hold_out_by == "video"
        recipe = made.video_lm or (made.contrastive and made.contrastive.pairs)
        if recipe and recipe.pairqa:
            assert Path(recipe.pairqa).parent == Path(folder)


def test_all_kitchen_recipes_share_their_options() -> None:
    """They differ in what they read; the two plain ones are the paper's in small, without additions."""
    given = set()
    for name in ("stepdiff", "vclm", "interleaved"):
        recipe = read_recipe(RECIPES / "kitchen" / f"{name}.yaml").video_lm
        assert recipe is not None
        recipe.check()
        assert recipe.validation is None, "the last checkpoint counts"
        given.add((recipe.language_model, recipe.view, recipe.projector, recipe.lora, recipe.evidence, recipe.schedule))
    assert len(given) == 1
    for name in ("plain", "plain_interleaved"):
        plain = read_recipe(RECIPES / "kitchen" / f"{name}.yaml").video_lm
        assert plain is not None and plain.lora is None and plain.evidence is None and not plain.full
    pairs = read_recipe(RECIPES / "kitchen" / "align_pairs.yaml").contrastive
    assert pairs is not None and pairs.pairs is not None


@pytest.mark.timeout(900)  # it trains the real language model, which takes minutes
def test_the_kitchens_stepdiff_learns_with_the_fetched_language_model(world: Path, tmp_path: Path) -> None:
    made = read_recipe(RECIPES / "kitchen" / "stepdiff.yaml")
    assert made.video_lm is not None and made.video_lm.language_model == "smollm2-135m-instruct"
    recipe = dataclasses.replace(
        made.video_lm,
        view="visual",
        pairqa=str(world / "pairqa.jsonl"),
        schedule=dataclasses.replace(made.video_lm.schedule, steps=5, warmup=1, validate_every=5),
        batch=2,
        answers=("text", "video", "decision"),
        evidence=None,
        validation=Validation(str(world / "diffmcq_val.jsonl"), str(world / "diffrank_val.jsonl"), 2),
    )
    files = tuple(str(world / f"{task}_test.jsonl") for task in ("diffcap", "diffmcq", "diffrank"))
    out = {"store": str(world / "features"), "out": str(tmp_path / "run"), "hold_out": files}
    train.run(dataclasses.replace(made, video_lm=recipe, **out))  # type: ignore[arg-type]
    losses = [r["loss"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in r]
    assert np.mean(losses[-2:]) < 0.7 * np.mean(losses[:2])
    model, features, _ = load_video_lm(tmp_path / "run", Store.open(world / "features"), "cpu")
    clips = features.view.catalog.frame()["key"].to_list()[:2]
    question = Turn("Do they share a similar tool?", "", ends=False)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        (answer,) = model.generate([question], model.project(features.read(clips)), 2)
    assert answer.upper() in ("YES", "NO")
