"""A training run's folder: checkpoints that appear whole, the best one named, and the state for exact resume.

    RUN/recipe.yaml                 the options of the training
    RUN/lineage.json                what it was trained on (heads.training.lineage)
    RUN/SHA256SUMS                  digests of these two
    RUN/checkpoint-000100/          head.safetensors, optimizer.safetensors, state.json, and their SHA256SUMS
    RUN/best.json                   the checkpoint with the best validation score

A checkpoint holds whole tensors, also of weights that are divided among processes: any number of processes reads it.

Guarantees
- a checkpoint exists completely or not at all
- weights and optimiser are restored bit for bit, without pickle
- no_weight_is_read_from_a_checkpoint_whose_files_differ_from_its_sha256sums
- a_checkpoint_without_sha256sums_loads_with_one_notice
- a damaged file is named in one line; best.json names a checkpoint of its own folder or is refused
- best_json_that_contradicts_its_checkpoint_is_refused
- a_checkpoint_is_the_same_for_any_number_of_processes
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from heads.training.sums import SUMS, check_sums, write_sums
from heads.workers.group import ALONE, Group
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import write_text
from stepdiff.common.io.local import sync_folder
from stepdiff.common.progress import say

_NAME = re.compile(r"checkpoint-\d+")
_STATE_TENSORS = frozenset({"step", "exp_avg", "exp_avg_sq"})
"""AdamW's state of a weight"""
MADE_BY = ("recipe.yaml", "lineage.json")
"""the files in the SHA256SUMS of a run's folder"""


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


def trainable(module: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{index}.{name}": value.contiguous()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def check_optimizer(weights: Sequence[Tensor], tensors: dict[str, Tensor], path: Path) -> None:
    """Raise StepDiffError for AdamW's tensors of the file `path` that do not fit the weights.

    tensors: named `<number of the weight>.<name of the state>`.
    """
    found: dict[int, set[str]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        known = re.fullmatch(r"0|[1-9]\d{0,8}", index) and int(index) < len(weights) and name in _STATE_TENSORS
        if not known:
            raise _damaged(path, f"AdamW has no {key!r} of its {len(weights)} weights")
        shape = () if name == "step" else tuple(weights[int(index)].shape)
        if tuple(value.shape) != shape:
            raise _damaged(path, f"{key} is {tuple(value.shape)} and not {shape}")
        found.setdefault(int(index), set()).add(name)
    for number, names in found.items():
        if lacking := sorted(_STATE_TENSORS - names):
            raise _damaged(path, f"no {number}.{lacking[0]}")


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore AdamW from its tensors, named as in `check_optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def optimized(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return the optimiser's weights, in the order of their numbers."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


class Run:
    """One folder, one training run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def checkpoints(self) -> list[Path]:
        """Return the run's checkpoints by step; other folders (checkpoint-000100-mine) are ignored."""
        found = [path for path in self.folder.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=step_of)

    def latest(self) -> Path | None:
        return next(reversed(self.checkpoints()), None)

    def reached(self) -> int:
        """Return the step of the latest checkpoint, 0 without one."""
        latest = self.latest()
        return 0 if latest is None else step_of(latest)

    def check_made_by(self) -> None:
        """Compare recipe.yaml and lineage.json with SHA256SUMS. StepDiffError: one of them was changed."""
        advice = "the weights were made with its earlier content: restore it from a copy, or train into a new folder"
        if self.folder.is_dir() and not check_sums(self.folder, advice, MADE_BY) and self.latest() is not None:
            _notice(self.folder)

    def write_made_by(self, recipe: str) -> None:
        """Write recipe.yaml, its digest and lineage.json's. A kill leaves no SHA256SUMS, never a wrong one."""
        path = self.folder / MADE_BY[0]
        if not path.exists() or path.read_text(encoding="utf-8") != recipe:
            self.forget_made_by()
            write_text(path, recipe)
        write_sums(self.folder, MADE_BY)

    def forget_made_by(self) -> None:
        """Remove the digests, before their files are written again."""
        (self.folder / SUMS).unlink(missing_ok=True)

    def best(self) -> Path:
        """Return the checkpoint that validation chose.

        Raises:
            StepDiffError: no finished training, or best.json contradicts the checkpoint.
        """
        checkpoint, record = self._named_best()
        state = _read_state(checkpoint)
        if (record["step"], record["score"]) != (state["best_step"], state["best_score"]):
            _check(checkpoint)  # names the checkpoint's file if that is the one that changed
            raise StepDiffError(
                f"{self.folder / 'best.json'}: step {record['step']} and score {record['score']}, but "
                f"{checkpoint.name}/state.json has step {state['best_step']} and score {state['best_score']}; restore "
                "it from a copy, or train into a new folder"
            )
        return checkpoint

    def _named_best(self) -> tuple[Path, dict[str, Any]]:
        """Return the checkpoint that best.json names, and its record."""
        path = self.folder / "best.json"
        if not path.exists():
            raise StepDiffError(
                f"{self.folder}: no finished training here; run python -m heads.train --config RECIPE.yaml"
            )
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StepDiffError(f"{path}: damaged ({error}); train into a new folder") from error
        name = record.get("checkpoint") if isinstance(record, dict) else None
        if not _NAME.fullmatch(str(name)):
            raise StepDiffError(f"{path}: names no checkpoint of this folder ({name!r}); train into a new folder")
        checkpoint = self.folder / str(name)
        if record.get("step") != step_of(checkpoint) or "score" not in record:
            raise StepDiffError(
                f"{path}: damaged, it names {name} for step {record.get('step')}; train into a new folder"
            )
        return checkpoint, record

    def save(
        self,
        step: int,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: dict[str, Any],
        group: Group = ALONE,
    ) -> Path:
        """Write a checkpoint, in the first process of the group. StepDiffError: it cannot be written."""
        weights, moments = group.whole(trainable(module)), group.whole(optimizer_tensors(optimizer))
        return group.from_first(lambda: self._write(step, weights, moments, state))

    def _write(self, step: int, weights: dict[str, Tensor], moments: dict[str, Tensor], state: dict[str, Any]) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"checkpoint-{step:06d}"
        temporary = self.folder / f".checkpoint.{uuid.uuid4().hex}"
        try:
            temporary.mkdir()
            save_file({k: v.contiguous() for k, v in weights.items()}, temporary / "head.safetensors")
            save_file(moments, temporary / "optimizer.safetensors")
            write_text(temporary / "state.json", json.dumps({"step": step} | state, indent=1))
            names = os.listdir(temporary)
            for name in names:
                with open(temporary / name, "rb") as handle:
                    os.fsync(handle.fileno())
            write_sums(temporary, names)
            if target.exists():
                shutil.rmtree(target)
            os.replace(temporary, target)
            sync_folder(self.folder)
        except (OSError, SafetensorError, StepDiffError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise StepDiffError(
                f"{target}: cannot be written ({error}); make room and run again: it resumes from the last checkpoint"
            ) from error
        return target

    def load(
        self,
        checkpoint: Path,
        module: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        group: Group = ALONE,
    ) -> dict[str, Any]:
        """Read a checkpoint into the module and the optimiser; return its state. The group's first process reads.

        Raises:
            StepDiffError: a damaged file, or the weights of another recipe.
        """
        wanted = trainable(module)
        weights: list[Tensor] = [] if optimizer is None else [*optimized(optimizer)]
        found: dict[str, Tensor] = {}
        moments: dict[str, Tensor] = {}

        def read() -> tuple[dict[str, Any], list[str]]:
            _check(checkpoint)
            found.update(_read_weights(checkpoint, wanted))
            if optimizer is not None:
                path = checkpoint / "optimizer.safetensors"
                moments.update(_read_tensors(path))
                check_optimizer(weights, moments, path)
            return _read_state(checkpoint), sorted(moments)

        state, names = group.from_first(read)
        for name in sorted(wanted):
            group.fill(wanted[name], found.get(name))
        if optimizer is not None:
            restored = moments
            if group.size > 1:
                restored = {name: _like(weights, name) for name in names}
                for name in names:
                    group.fill(restored[name], moments.get(name))
            restore_optimizer(optimizer, restored)
        return state

    def check_start(self, module: nn.Module) -> Path:
        """Return the best checkpoint if the module can start from its weights; copy none.

        Raises:
            StepDiffError: a damaged file, weights that the module does not train, or weights of another shape.
        """
        self.check_made_by()
        checkpoint, wanted = self.best(), trainable(module)
        _check(checkpoint)
        found = _read_shapes(checkpoint / "head.safetensors")
        odd = sorted(found.keys() - wanted.keys())
        if odd:
            raise StepDiffError(
                f"{checkpoint}: holds {len(odd)} weights that this recipe does not train, e.g. {odd[0]}; give it the "
                "lora, full and projector of that run"
            )
        _check_shapes(found, wanted, checkpoint, "give the recipe the projector and lora of that run")
        return checkpoint

    def start(self, module: nn.Module) -> Path:
        """Copy the weights of the best checkpoint into the module and return it; raises as `check_start`."""
        checkpoint, wanted = self.check_start(module), trainable(module)
        for name, value in _read_tensors(checkpoint / "head.safetensors").items():
            ALONE.fill(wanted[name], value)
        return checkpoint

    def name_best(self, checkpoint: Path, step: int, score: float | None) -> None:
        """Record the best checkpoint. A file that says so already is not touched: make would score the head again."""
        path, found = self.folder / "best.json", {"checkpoint": checkpoint.name, "step": step, "score": score}
        record = json.dumps(found, indent=1)
        if not path.is_file() or path.read_text(encoding="utf-8") != record:
            write_text(path, record)

    def prune(self) -> None:
        """Keep only the best and the latest checkpoint, and no temporary folder of a killed run."""
        keep = {self.latest()}
        if (self.folder / "best.json").exists():
            keep.add(self._named_best()[0])
        for checkpoint in self.checkpoints():
            if checkpoint not in keep:
                shutil.rmtree(checkpoint)
        for rest in self.folder.glob(".checkpoint.*"):
            shutil.rmtree(rest)


def _read_weights(checkpoint: Path, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the checkpoint's weights. StepDiffError: they are not the wanted ones."""
    found = _read_tensors(checkpoint / "head.safetensors")
    if wanted.keys() != found.keys():
        odd = sorted(wanted.keys() ^ found.keys())
        raise StepDiffError(
            f"{checkpoint}: made by another recipe ({len(odd)} weights differ, e.g. {odd[0]}); train into a new folder"
        )
    _check_shapes(_shapes(found), wanted, checkpoint, "train into a new folder")
    return found


def _like(weights: Sequence[Tensor], name: str) -> Tensor:
    """Return an empty tensor for AdamW's state `<number of the weight>.<name>`, whole or divided as its weight is."""
    index, _, kind = name.partition(".")
    return torch.zeros(()) if kind == "step" else torch.zeros_like(weights[int(index)])


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _check_shapes(found: dict[str, tuple[int, ...]], wanted: dict[str, Tensor], checkpoint: Path, advice: str) -> None:
    """Raise StepDiffError if a tensor does not have the shape of the wanted tensor of its name."""
    needed = _shapes(wanted)
    for name, shape in found.items():
        if needed[name] != shape:
            raise StepDiffError(f"{checkpoint}: {name} is {shape}, the recipe's is {needed[name]}; {advice}")


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _read_state(checkpoint: Path) -> dict[str, Any]:
    """Read state.json: the step, and the step and score of the best checkpoint so far."""
    path = checkpoint / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    step = state.get("step") if isinstance(state, dict) else None
    if type(step) is not int or step != step_of(checkpoint):
        raise _damaged(path, f"it is of step {step}")
    best, score = state.get("best_step"), state.get("best_score", "missing")
    if type(best) is not int or not 0 <= best <= step or type(score) not in (int, float, type(None)):
        raise _damaged(path, f"step {best} with score {score!r} cannot be the best so far")
    return dict(state)


def _check(checkpoint: Path) -> None:
    """Compare the files of a checkpoint with its SHA256SUMS. StepDiffError: damage."""
    if not checkpoint.is_dir():
        raise _damaged(checkpoint, "no such folder")
    if not check_sums(checkpoint, _advice(checkpoint)):
        _notice(checkpoint.parent)


@cache
def _notice(run: Path) -> None:
    """Report once that damage of a run's files cannot be detected."""
    say(
        f"{run}: no SHA256SUMS, as in runs of older versions: damaged files go unnoticed, and a resumed training draws "
        "from other random streams than it began with"
    )


def _damaged(path: Path, why: Exception | str) -> StepDiffError:
    return StepDiffError(f"{path}: missing or damaged ({why}); {_advice(path)}")


def _advice(path: Path) -> str:
    checkpoint = path if _NAME.fullmatch(path.name) else path.parent
    return (
        "no other checkpoint is used instead: restore the file from a copy, or remove the folder "
        f"{checkpoint.name} to resume from the checkpoint before it, or train into a new folder"
    )
