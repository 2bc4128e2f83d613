"""python -m heads.train --config heads/recipes/kitchen/stepdiff.yaml
python -m heads.train --config heads/recipes/kitchen/interleaved.yaml
python -m heads.train --config heads/recipes/kitchen/align.yaml
python -m heads.train --config kitchen/align    # the packaged recipe of that name, from any folder

Trains a head on cached features: never a raw video. A run found in the folder `out` is resumed.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from common.cli import command
from common.cli.options import parse
from common.errors import StepDiffError
from heads.training.recipe import TrainOptions, read_recipe

RECIPE = "recipe.yaml"


def asked(options: TrainOptions) -> dict[str, Any]:
    """The recipe as YAML gives it back."""
    return dict(json.loads(json.dumps(asdict(options))))


def _makes_weights(options: TrainOptions) -> dict[str, Any]:
    """What of a recipe its weights depend on: not how often a killed run can go on."""
    found = asked(options)
    for recipe in (found["video_lm"], found["contrastive"]):
        if recipe is not None:
            del recipe["schedule"]["save_every"]
    return found


def refuse_other(options: TrainOptions, folder: Path) -> None:
    """StepDiffError: a run made by another recipe stands in the folder."""
    path = folder / RECIPE
    if not path.exists():
        return
    now, stood = _makes_weights(options), _makes_weights(read_recipe(path))
    differ = sorted(k for k in now.keys() | stood.keys() if now.get(k) != stood.get(k))
    if differ:
        raise StepDiffError(
            f"{folder}: holds a run of another recipe ({', '.join(differ)} differ); give another --out or remove it"
        )


def run(options: TrainOptions) -> dict[str, Any]:
    if (options.video_lm is None) == (options.contrastive is None):
        raise StepDiffError("a recipe holds one of video_lm and contrastive, as kitchen/stepdiff and kitchen/align do")
    from heads.data.hold_out import HoldOut
    from heads.models.language_model import pick_device
    from heads.training import lineage
    from heads.training.checkpoint import Run
    from heads.training.contrastive_task import ContrastiveTask
    from heads.training.loop import Progress, train
    from heads.training.video_task import VideoTask
    from store import Store

    hold_out = HoldOut(options.hold_out, options.hold_out_by)  # a fault in a test set ends the run first
    store, folder, device = Store.open(options.store), Path(options.out), pick_device(options.device)
    Run(folder).check_made_by()
    refuse_other(options, folder)
    task: VideoTask | ContrastiveTask
    if options.video_lm is not None:
        task = VideoTask(options.video_lm, store, options.seed, device, hold_out)
        schedule = options.video_lm.schedule
    elif options.contrastive is not None:
        task = ContrastiveTask(options.contrastive, store, options.seed, device, hold_out)
        schedule = options.contrastive.schedule
    if Run(folder).latest() is None:
        Run(folder).forget_made_by()  # a run that was killed before its first checkpoint writes lineage.json again
    # A run that it cannot start from is refused before anything is written.
    lineage.keep(folder, options, store, task.module, task.trained_on(), hold_out.record())
    for line in hold_out.lines():
        Progress(folder.name, schedule.steps).say(line)
    Run(folder).write_made_by(yaml.safe_dump(asked(options), sort_keys=False))
    return train(task, schedule, folder, folder.name, options.seed)


def main(argv: list[str] | None = None) -> int:
    best = "best checkpoint: step {step}, val score {score:.3f}"
    return parse(TrainOptions, argv, "heads.train", __doc__, run, best, recipes=Path(__file__).parent / "recipes")


if __name__ == "__main__":
    command.run(main, "what is finished stays, run the same command for the rest")
