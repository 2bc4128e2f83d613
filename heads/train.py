"""python -m heads.train --config heads/recipes/kitchen/stepdiff.yaml
python -m heads.train --config heads/recipes/kitchen/interleaved.yaml
python -m heads.train --config heads/recipes/kitchen/align.yaml

Trains a head on cached features: never a raw video. A run found in the folder `out` is resumed.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from heads.cli import parse
from heads.errors import HeadsError
from heads.files import write_text
from heads.recipe import TrainOptions

RECIPE = "recipe.yaml"


def asked(options: TrainOptions) -> dict[str, Any]:
    """The recipe as YAML gives it back."""
    return dict(json.loads(json.dumps(asdict(options))))


def refuse_other(options: TrainOptions, folder: Path) -> None:
    """HeadsError: a run made by another recipe stands in the folder."""
    path, now = folder / RECIPE, asked(options)
    if not path.exists():
        return
    try:
        stood = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise HeadsError(f"{path}: damaged; give another --out or remove the folder") from error
    differ = sorted(k for k in now.keys() | stood.keys() if now.get(k) != stood.get(k))
    if differ:
        raise HeadsError(
            f"{folder}: holds a run of another recipe ({', '.join(differ)} differ); give another --out or remove it"
        )


def run(options: TrainOptions) -> dict[str, Any]:
    if (options.video_lm is None) == (options.contrastive is None):
        raise HeadsError("a recipe holds one of video_lm and contrastive; see heads/recipes/kitchen")
    from heads import lineage
    from heads.contrastive import ContrastiveTask
    from heads.device import pick_device
    from heads.training import train
    from heads.video_task import VideoTask
    from store import Store

    store, folder, device = Store.open(options.store), Path(options.out), pick_device(options.device)
    refuse_other(options, folder)
    task: VideoTask | ContrastiveTask
    if options.video_lm is not None:
        task = VideoTask(options.video_lm, store, options.seed, device)
        schedule = options.video_lm.schedule
    elif options.contrastive is not None:
        task = ContrastiveTask(options.contrastive, store, options.seed, device)
        schedule = options.contrastive.schedule
    lineage.keep(folder, options, store, task.module)  # what it starts from is refused before anything is written
    write_text(folder / RECIPE, yaml.safe_dump(asked(options), sort_keys=False))
    return train(task, schedule, folder, folder.name)


def main(argv: list[str] | None = None) -> int:
    return parse(TrainOptions, argv, "heads.train", __doc__, run, "best checkpoint: step {step}, val score {score:.3f}")


if __name__ == "__main__":
    sys.exit(main())
