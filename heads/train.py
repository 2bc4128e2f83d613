"""Train a head on cached features, never on videos.

python -m heads.train --config heads/recipes/kitchen/stepdiff.yaml
python -m heads.train --config heads/recipes/kitchen/interleaved.yaml
python -m heads.train --config heads/recipes/kitchen/align.yaml
python -m heads.train --config kitchen/align    # the packaged recipe of that name, from any folder

A run that exists in the folder `out` is resumed.
"""

from pathlib import Path
from typing import Any

from common.cli import command
from common.cli.options import parse
from common.errors import StepDiffError
from heads.training.recipe import TrainOptions, as_yaml, differences, read_recipe

RECIPE = "recipe.yaml"


def refuse_other(options: TrainOptions, folder: Path) -> None:
    """Raise StepDiffError if the folder holds a run of another recipe."""
    path = folder / RECIPE
    if path.exists() and (found := differences(read_recipe(path), options)):
        raise StepDiffError(
            f"{folder}: holds a run of another recipe ({'; '.join(found)}); give another --out, or remove the folder"
        )


def run(options: TrainOptions) -> dict[str, Any]:
    if (options.video_lm is None) == (options.contrastive is None):
        raise StepDiffError("a recipe has one of video_lm and contrastive, as kitchen/stepdiff and kitchen/align do")
    import yaml

    from common.progress import say
    from heads.data.hold_out import HoldOut
    from heads.models.language_model import pick_device
    from heads.training import lineage
    from heads.training.checkpoint import Run
    from heads.training.contrastive_task import ContrastiveTask
    from heads.training.loop import train
    from heads.training.video_task import VideoTask
    from store import Store

    hold_out = HoldOut(options.hold_out, options.hold_out_by)  # first: a damaged test set ends the run
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
    # Before anything is written, this refuses a run to start from that does not fit.
    lineage.keep(folder, options, store, task.module, task.trained_on(), hold_out)
    for line in hold_out.lines():
        say(f"{folder.name}: {line}")
    Run(folder).write_made_by(yaml.safe_dump(as_yaml(options), sort_keys=False))
    return train(task, schedule, folder, folder.name, options.seed)


def show(record: dict[str, Any]) -> None:
    score = "without validation" if record["score"] is None else f"val score {record['score']:.3f}"
    print(f"best checkpoint: step {record['step']}, {score}")


def main(argv: list[str] | None = None) -> int:
    return parse(TrainOptions, argv, "heads.train", __doc__, run, show, recipes=Path(__file__).parent / "recipes")


if __name__ == "__main__":
    command.run(main, "the last checkpoint is kept; run the same command for the rest")
