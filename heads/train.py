"""Train a head on cached features, never on videos.

python -m heads.train --config heads/recipes/kitchen/stepdiff.yaml
python -m heads.train --config heads/recipes/kitchen/interleaved.yaml
python -m heads.train --config heads/recipes/kitchen/align.yaml
python -m heads.train --config kitchen/align    # the packaged recipe of that name, from any folder
python -m heads.train --config RECIPE --workers 8 --address auto    # on a Ray cluster
torchrun --nproc-per-node 8 -m heads.train --config RECIPE

A run that exists in the folder `out` is resumed, also by another number of workers.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from common.cli import command
from common.cli.options import parse
from heads.training.recipe import TrainOptions


@dataclass(frozen=True)
class Command(TrainOptions):
    workers: int | None = None
    """processes, one per device: short for --scaling.workers"""
    address: str | None = None
    """Ray cluster to join, `auto` or HOST:6379. Default: RAY_ADDRESS, else Ray is started here; with one worker, or
    under torchrun, Ray is not used"""


def run(options: TrainOptions) -> dict[str, Any]:
    """Train a recipe: in this process, as one of torchrun's, or on Ray."""
    from heads.models.language_model import pick_device
    from heads.workers.fit import check, fit
    from heads.workers.group import joined, launched, own_device, world_size

    address = None
    if isinstance(options, Command):
        if options.workers is not None:
            options = replace(options, scaling=replace(options.scaling, workers=options.workers))
        address = options.address
        options = TrainOptions(**{field.name: getattr(options, field.name) for field in fields(TrainOptions)})
    if launched():
        options = replace(options, scaling=replace(options.scaling, workers=world_size()))
    check(options)
    if options.scaling.workers > 1 and not launched():
        from heads.workers.launch import launch

        return launch(options, address)
    device = own_device(pick_device(options.device))
    with joined(options.scaling, device) as group:
        return fit(options, device, group)


def show(record: dict[str, Any]) -> None:
    score = "without validation" if record["score"] is None else f"val score {record['score']:.3f}"
    print(f"best checkpoint: step {record['step']}, {score}")


def main(argv: list[str] | None = None) -> int:
    return parse(Command, argv, "heads.train", __doc__, run, show, recipes=Path(__file__).parent / "recipes")


if __name__ == "__main__":
    command.run(main, "the last checkpoint is kept; run the same command for the rest")
