"""Train a head on cached features, never on videos.

python -m heads.train --config heads/recipes/kitchen/stepdiff.yaml
python -m heads.train --config heads/recipes/kitchen/interleaved.yaml
python -m heads.train --config heads/recipes/kitchen/align.yaml
python -m heads.train --config kitchen/align    # the packaged recipe of that name, from any folder
python -m heads.train --config RECIPE --workers 8 --address auto    # on a Ray cluster
torchrun --nproc-per-node 8 -m heads.train --config RECIPE
python -m heads.train --config RECIPE --dry-run --card h100    # memory, traffic and hours; trains
                                                               nothing

A run that exists in the folder `out` is resumed, also by another number of workers.
"""

import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from heads.training.recipe import TrainingPlanOptions, TrainOptions
from heads.workers import first_prints, is_first
from stepdiff_core.cli import command
from stepdiff_core.cli.options import parse
from stepdiff_core.errors import StepDiffError
from stepdiff_core.progress import say


@dataclass(frozen=True)
class Command(TrainingPlanOptions, TrainOptions):
    workers: int | None = None
    """processes, one per device: short for --scaling.workers"""
    address: str | None = None
    """Ray cluster to join, `auto` or HOST:6379. Default: RAY_ADDRESS, else Ray is started here;
    with one worker and no address Ray is not used; torchrun takes no address"""
    dry_run: bool = False
    """print what the recipe needs of memory, network, store and time, and train nothing; refuse
    what does not fit"""


def run(options: TrainOptions) -> Any:
    """Train a recipe, in this process, as one of torchrun's, or on Ray, and return the record of
    best.json; with --dry-run return its Plan (heads.planning.plan)."""
    from heads.models.language_model import pick_device
    from heads.training.log import hook
    from heads.training.recipe import check_recipe
    from heads.workers.fit import fit, refuse_relative_paths
    from heads.workers.group import joined, launched, own_device, world_size

    address, option = None, "scaling.workers"
    planned: TrainingPlanOptions | None = None
    if isinstance(options, Command):
        planned, address = options if options.dry_run else None, options.address
        if options.workers is not None:
            option = "--workers"
            options = replace(options, scaling=replace(options.scaling, workers=options.workers))
        options = TrainOptions(
            **{field.name: getattr(options, field.name) for field in fields(TrainOptions)}
        )
    if launched():
        size, count = world_size(), options.scaling.workers
        if address is not None:
            raise StepDiffError(
                f"--address {address} starts workers on Ray, and torchrun has started its own: "
                "leave --address out, or start python -m heads.train without torchrun"
            )
        # a recipe may say 1
        if count != size and (count > 1 or option == "--workers") and is_first():
            say(
                f"{option} {count} is not used: the workers are the {size} processes that torchrun "
                "started"
            )
        options = replace(options, scaling=replace(options.scaling, workers=size))
    check_recipe(options)
    if planned is not None:
        from heads.planning.plan import plan

        made = plan(options, planned)
        if made.fits and own_device(pick_device(options.device)) == "cpu":
            say(
                f"this recipe trains on the CPU here; the plan is for {planned.card} cards, --card "
                "names others"
            )
        return made
    hook(options.log_to)
    refuse_relative_paths(options)
    if (options.scaling.workers > 1 or address is not None) and not launched():
        from heads.workers.launch import launch

        return launch(options, address)
    device = own_device(pick_device(options.device))
    with joined(options.scaling, device) as group:
        return fit(options, device, group)


def show(record: Any) -> None:
    """Print the best checkpoint, or a plan."""
    if not isinstance(record, dict):
        from heads.planning.plan import lines

        print("\n".join(lines(record)))
        return
    score = "without validation" if record["score"] is None else f"val score {record['score']:.3f}"
    print(f"best checkpoint: step {record['step']}, {score}")


def status(record: Any) -> int:
    """Return the exit status; for a plan that does not fit, say so."""
    if isinstance(record, dict) or record.fits:
        return 0
    from heads.planning.plan import refusal

    print(f"error: {refusal(record)}", file=sys.stderr)
    return 2


def main(argv: list[str] | None = None) -> int:
    with first_prints():
        recipes = Path(__file__).parent / "recipes"
        return parse(
            Command, argv, "heads.train", __doc__, run, show, status=status, recipes=recipes
        )


if __name__ == "__main__":
    command.run(main, "the last checkpoint is kept; run the same command for the rest")
