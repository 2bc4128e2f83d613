"""A training as one process runs it, alone or in a group: the recipe is checked, the task is built,
the loop runs.

Guarantees
- a folder that holds a run of another recipe, or that cannot hold one, is refused before anything
  is written
- a number of workers that does not divide a step is refused with those that do
- a worker out of memory names the settings to change
"""

from pathlib import Path
from typing import Any

import torch
import yaml

from heads.data.hold_out import HoldOut, test_path
from heads.data.training_clips import TrainedOn
from heads.evidence.fitting import Pooled, learn_familiarity
from heads.evidence.head import POOLING
from heads.training import run_record
from heads.training.checkpoint import MADE_BY, Run
from heads.training.contrastive_task import ContrastiveTask
from heads.training.log import hook
from heads.training.loop import train
from heads.training.recipe import TrainOptions, as_yaml, differences, flat, read_recipe
from heads.training.video_task import VideoTask
from heads.workers.group import ALONE, Group
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import place
from stepdiff_core.progress import say
from stepdiff_core.weights import NAMES
from stepdiff_core.workers.cluster import refuse_relative
from store import Store

_PATHS = ("out", "store", "pairqa", "init", "head", "diffmcq", "diffrank", "language_model")
"""options that are paths"""


def refuse_relative_paths(options: TrainOptions) -> None:
    """Raise StepDiffError if, inside a Ray job, a path of the recipe is relative."""
    for option, value in flat(as_yaml(options)):
        name = option.rpartition(".")[2]
        # A language model that is not a folder is a name or an id of the hub, see weights.resolve.
        is_name = name == "language_model" and (
            value in NAMES or not Path(value).expanduser().exists()
        )
        if name in _PATHS and value is not None and not is_name and not place(value).remote:
            refuse_relative([(f"--{option.replace('_', '-')}", value)])
    refuse_relative(("--hold-out", test_path(source)) for source in options.hold_out)


def fit(
    options: TrainOptions, device: str, group: Group = ALONE, patience: float = 0.0
) -> dict[str, Any]:
    """Train a recipe that was checked in this process, one of the group; return the record of
    best.json.

    patience: seconds to wait for a process that still writes the folder.
    """
    try:
        return _fit(options, device, group, patience)
    except (MemoryError, RuntimeError) as error:  # torch's kinds are RuntimeErrors
        memory = isinstance(
            error, (MemoryError, torch.OutOfMemoryError)
        ) or "DefaultCPUAllocator" in str(error)
        if group is ALONE or not memory:
            raise
        raise StepDiffError(f"worker {group.rank} is out of memory: {options.lighter}") from error


def _fit(options: TrainOptions, device: str, group: Group, patience: float) -> dict[str, Any]:
    # First: a damaged test set ends the run.
    hold_out = HoldOut(options.hold_out, options.hold_out_by, options.skip_missing)
    store, folder = Store.open(options.store, at=options.at), Path(options.out)
    run = Run(folder)

    def accept() -> None:
        run.check_made_by()
        path = folder / MADE_BY[0]
        if path.exists() and (changes := differences(read_recipe(path), options)):
            raise StepDiffError(
                f"{folder}: holds a run of another recipe ({'; '.join(changes)}); give another "
                "--out, or remove the folder"
            )

    group.from_first(accept)
    task: VideoTask | ContrastiveTask
    if options.video_lm is not None:
        words = run_record.words_of(folder, options.video_lm, store)
        task = VideoTask(
            options.video_lm, store, options.seed, device, hold_out, group, options.scaling, words
        )
    else:
        assert options.contrastive is not None
        task = ContrastiveTask(options.contrastive, store, options.seed, device, hold_out, group)

    def record() -> None:
        if run.latest() is None:
            # a run that was killed before its first checkpoint writes lineage.json again
            run.forget_made_by()
        trained = TrainedOn.of_catalog(task.catalog, task.trained_rows())
        # Before anything is written, this refuses a run to start from that does not fit.
        run_record.keep(folder, options, store, task.module, trained, hold_out)
        if run.latest() is None and (options.video_lm is None or options.video_lm.evidence is None):
            learn_familiarity(
                Pooled(store, task.features.view.name, POOLING), task.trained_rows()
            ).save(folder)
        for line in hold_out.lines():
            say(f"{folder.name}: {line}")
        run.write_made_by(yaml.safe_dump(as_yaml(options), sort_keys=False))

    group.from_first(record)
    return train(
        task, options.schedule, folder, options.seed, group, patience, hook(options.log_to)
    )
