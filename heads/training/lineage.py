"""What a head was trained on, remembered in its run's folder: views' provenance, the language model's weights, the run
that it started from.

    RUN/lineage.json

Guarantees
- a head is given no features of another provenance, and no other language model, than it was trained on
- a run that starts from another reads its weights as that one did: the same LoRA alpha and attention heads
- a run starts from no training that has not come to its end
- what an earlier run was given is told with what this one was
- a run whose paired QA, val test sets or held-out test sets have changed since is not resumed
- a run records which clips and videos may train it, including those of the run that it starts from
- a run that would draw clips that its beginning did not know is not resumed
"""

import json
from pathlib import Path
from typing import Any

from torch import nn

from common.errors import StepDiffError
from common.io.files import write_text
from heads.training import trained_on
from heads.training.checkpoint import Run
from heads.training.recipe import TrainOptions, VideoLMRecipe, WarmStart, read_recipe
from heads.training.trained_on import TrainedOn
from store import Provenance, Store
from weights import fingerprint, resolve

FILE = "lineage.json"


def reads(options: TrainOptions, store: Store) -> dict[str, Any]:
    """What the head of a recipe reads: each view's provenance, and the fingerprint of the language model's files."""
    found: dict[str, Any] = {e: store.view(e, name).provenance.as_dict() for e, name in views(options).items()}
    if options.video_lm is not None:
        found["language_model"] = fingerprint(resolve(options.video_lm.language_model))
    return found


def views(options: TrainOptions) -> dict[str, str]:
    """The view that the head of a recipe reads of each entity."""
    if options.video_lm is not None:
        return {"clips": options.video_lm.view}
    assert options.contrastive is not None
    return {"clips": options.contrastive.view, "texts": options.contrastive.text_view}


def check(folder: Path, options: TrainOptions, store: Store) -> None:
    """StepDiffError in one line where the run in `folder` was trained on something else than `options` would read."""
    trained, now = read(folder)["reads"], reads(options, store)
    for entity in ("clips", "texts"):
        if entity in trained and entity in now:
            differs = Provenance.from_dict(trained[entity]).difference(Provenance.from_dict(now[entity]))
            if differs:
                view = views(options)[entity]
                raise StepDiffError(
                    f"{folder}: trained on other features of {entity} than view {view} of {store.path} has "
                    f"({differs}); name the store it was trained on, or train anew"
                )
    if trained.keys() != now.keys():
        raise StepDiffError(f"{folder}: holds a head of another kind ({', '.join(trained)} against {', '.join(now)})")
    if trained.get("language_model") != now.get("language_model"):
        assert options.video_lm is not None
        raise StepDiffError(
            f"{folder}: trained with another language model than {options.video_lm.language_model} now is (sha256 "
            f"{trained['language_model'][:12]} against {now['language_model'][:12]}); name the same one, or train anew"
        )


def origin(options: TrainOptions, store: Store, module: nn.Module) -> dict[str, Any]:
    """What RUN/lineage.json is to hold. StepDiffError: `module` cannot start from the run that it is to start from, or
    that one was trained on something else."""
    start = None
    if options.video_lm is not None and options.video_lm.init is not None:
        folder = Path(options.video_lm.init)
        made = read_recipe(folder / "recipe.yaml").video_lm
        if made is None:
            raise StepDiffError(f"{folder}: holds a contrastive head, from which no language model can start")
        check(folder, options, store)
        reached = Run(folder).reached()
        if reached < made.schedule.steps:
            raise StepDiffError(
                f"{folder}: trained {reached} of its {made.schedule.steps} steps, and nothing starts from half a "
                f"training; finish it: python -m heads.train --config RECIPE.yaml --out {folder}"
            )
        Run(folder).check_start(module)
        _check_unseen(folder, options.video_lm, made)
        start = {"run": str(folder)} | disclosure(made, folder)
    return {"reads": reads(options, store), "init": start}


def _check_unseen(folder: Path, recipe: VideoLMRecipe, made: VideoLMRecipe) -> None:
    """StepDiffError where the recipe would read the weights that it starts from otherwise, though their shapes fit."""
    asked = [("projector.heads", recipe.projector.heads, made.projector.heads)]
    if recipe.lora is not None and made.lora is not None:
        asked.append(("lora.alpha", recipe.lora.alpha, made.lora.alpha))
    for name, own, theirs in asked:
        if own != theirs:
            raise StepDiffError(
                f"{folder}: made with {name} {theirs}, the recipe's {own}, under which the same weights say "
                f"something else; set video_lm.{name} to {theirs}"
            )


def keep(
    folder: Path,
    options: TrainOptions,
    store: Store,
    module: nn.Module,
    trained: TrainedOn,
    hold_out: dict[str, Any] | None,
) -> None:
    """Write the lineage of a new run that trains `module`; that of a run to be resumed is checked instead.

    trained: the clips that may train it, without those of the run that it starts from; hold_out: what was held out.
    """
    if Run(folder).latest() is not None:
        check(folder, options, store)
        _check_data(folder, options)
        _check_trained(folder, options, trained)
        return
    lineage = origin(options, store, module) | {"data": data(options), "hold_out": hold_out}
    if options.video_lm is not None and options.video_lm.init is not None:
        start = Path(options.video_lm.init)
        trained = trained.union(trained_on.read(start, read(start)))
    folder.mkdir(parents=True, exist_ok=True)
    lineage["trained_on"] = trained.write(folder)
    write_text(folder / FILE, json.dumps(lineage, indent=1))


def data(options: TrainOptions) -> dict[str, str]:
    """Sha256 of each file that training reads beside the store."""
    asked = options.contrastive.pairs if options.contrastive is not None else options.video_lm
    files: list[str | None] = [*options.hold_out]
    if asked is not None:
        files += [asked.pairqa, asked.validation.diffmcq, asked.validation.diffrank]
    return {file: fingerprint(file) for file in files if file is not None}


def _check_data(folder: Path, options: TrainOptions) -> None:
    """StepDiffError where a file that the run in `folder` trained on is another now."""
    began = read(folder).get("data", {})
    for file, sha256 in data(options).items():
        if began.get(file, sha256) != sha256:
            raise StepDiffError(
                f"{folder}: its training began with another {file}, so it cannot go on as it would have; bring that "
                "file back, or train into a new folder"
            )


def _check_trained(folder: Path, options: TrainOptions, trained: TrainedOn) -> None:
    """StepDiffError where the unfinished run in `folder` would now draw clips that it did not know as it began."""
    recipe = options.video_lm or options.contrastive
    record = read(folder).get("trained_on")
    if record is None or recipe is None or Run(folder).reached() >= recipe.schedule.steps:
        return
    trained_on.check(folder, record)
    new = int((~trained_on.contained(trained.arrays["clips"], trained_on.blocks(folder, "clips"))).sum())
    if new:
        raise StepDiffError(
            f"{folder}: the store has {new} more clips that would train than when its training began, so it cannot go "
            "on as it would have; train into a new folder, or into this one from the store as it was"
        )


def read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    try:
        lineage = json.loads(path.read_text(encoding="utf-8"))
        lineage["reads"], lineage["init"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StepDiffError(
            f"{path}: missing or damaged ({error}), so nobody can tell what the head was trained on; train anew"
        ) from error
    return lineage


def told_warm_start(options: WarmStart) -> str:
    """What the projector had learned before training began."""
    return f"{options.steps} steps on {' and '.join(options.texts)}, on those of their words that paired QA has too"


def disclosure(recipe: VideoLMRecipe, folder: Path) -> dict[str, Any]:
    """What training was given beyond the published recipe, and before it: stands beside every score it led to.

    trained: the steps it came to so far; checkpoint: the one of them that validation chose.
    """
    run = Run(folder)
    return {
        "system": recipe.system,
        "sources": list(recipe.sources),
        "warm_start": None if recipe.warm_start is None else told_warm_start(recipe.warm_start),
        "lora": recipe.lora is not None,
        "full": recipe.full,
        "packed": recipe.packed,
        "yes_no_weight": recipe.yes_no_weight,
        "compare_weight": recipe.compare_weight,
        "hard_negatives": recipe.hard_negatives is not None,
        "language_model": recipe.language_model,
        "steps": recipe.schedule.steps,
        "trained": run.reached(),
        "checkpoint": run.best().name,
        "init": read(folder)["init"],
    }
