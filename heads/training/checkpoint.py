"""A training run's folder: checkpoints that appear whole, the best one named, and the state for
exact resume.

    RUN/recipe.yaml                 the options of the training
    RUN/lineage.json                what it was trained on (heads.training.run_record)
    RUN/SHA256SUMS                  digests of these two
    RUN/checkpoint-000100/          head.safetensors, optimizer.safetensors, state.json, and their
                                    SHA256SUMS
    RUN/best.json                   the checkpoint with the best validation score

SHA256SUMS has the format of coreutils: `sha256sum --check SHA256SUMS`. A checkpoint holds whole
tensors, also of weights that are divided among processes: any number of processes reads it.

Guarantees
- a checkpoint exists completely or not at all; weights and optimiser are restored bit for bit,
  without pickle
- nothing is read from a checkpoint whose files differ from its SHA256SUMS
- best.json names a checkpoint of its own folder, with that checkpoint's step and score, or is
  refused
"""

import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from heads.workers.group import ALONE, Group
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import place, whole, write_text
from stepdiff_core.io.local import TEMPORARY, LocalPath

SUMS = "SHA256SUMS"
_SUM = re.compile(r"^([0-9a-f]{64})  ([^/\\\n]+)$", re.MULTILINE)
_NAME = re.compile(r"checkpoint-\d+")
_MOST_BYTES = 2**20  # of best.json, state.json and SHA256SUMS
MADE_BY = ("recipe.yaml", "lineage.json")
"""the files in the SHA256SUMS of a run's folder"""


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


def trainable(module: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def optimized(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return the optimiser's weights, in the order of their numbers."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


class Run:
    """One folder, one training run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def checkpoints(self) -> list[Path]:
        """Return the run's checkpoints by step; other folders (checkpoint-000100-mine) are
        ignored."""
        folders = [
            path
            for path in self.folder.glob("checkpoint-*")
            if _NAME.fullmatch(path.name) and path.is_dir()
        ]
        return sorted(folders, key=step_of)

    def latest(self) -> Path | None:
        return next(reversed(self.checkpoints()), None)

    def reached(self) -> int:
        """Return the step of the latest checkpoint, 0 without one."""
        return max(map(step_of, self.checkpoints()), default=0)

    def check_made_by(self) -> None:
        """Compare recipe.yaml and lineage.json with SHA256SUMS. StepDiffError: one of them was
        changed."""
        if (self.folder / SUMS).exists():
            advice = (
                "the weights were made with its earlier content: restore it from a copy, or train "
                "into a new folder"
            )
            check_sums(self.folder, advice, MADE_BY)

    def write_made_by(self, recipe: str) -> None:
        """Write recipe.yaml, its digest and lineage.json's. A kill leaves no SHA256SUMS, never a
        wrong one."""
        path = self.folder / MADE_BY[0]
        if not path.exists() or path.read_text(encoding="utf-8") != recipe:
            self.forget_made_by()
            write_text(path, recipe)
        write_sums(self.folder, MADE_BY)

    def forget_made_by(self) -> None:
        """Remove the digests, before their files are written again."""
        (self.folder / SUMS).unlink(missing_ok=True)

    def best(self) -> Path:
        """Return the checkpoint that validation chose. StepDiffError: no finished training, or
        best.json contradicts the checkpoint."""
        checkpoint, record = self._named_best()
        state = _read_state(checkpoint)
        step, score = state.get("best_step"), state.get("best_score")
        if (record["step"], record["score"]) != (step, score):
            _check(checkpoint)  # names the checkpoint's file if that is the one that changed
            raise StepDiffError(
                f"{self.folder / 'best.json'}: step {record['step']} and score {record['score']}, "
                f"but {checkpoint.name}/state.json has step {step} and score {score}; restore it "
                "from a copy, or train into a new folder"
            )
        return checkpoint

    def _named_best(self) -> tuple[Path, dict[str, Any]]:
        """Return the checkpoint that best.json names, and its record."""
        path = self.folder / "best.json"
        if not path.exists():
            raise StepDiffError(
                f"{self.folder}: no finished training here; run python -m heads.train --config "
                "RECIPE.yaml"
            )
        try:
            record = json.loads(place(path).read_whole(_MOST_BYTES))
            name, step, _ = record["checkpoint"], record["step"], record["score"]
            if name != f"checkpoint-{step:06d}":
                raise ValueError(f"{name} is not the checkpoint of step {step}")
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
            raise StepDiffError(f"{path}: damaged ({error}); train into a new folder") from error
        return self.folder / name, record

    def save(
        self,
        step: int,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: dict[str, Any],
        group: Group = ALONE,
    ) -> Path:
        """Write a checkpoint, in the first process of the group. StepDiffError: it cannot be
        written."""
        state_of = optimizer.state_dict()["state"]
        every = {
            f"{index}.{name}": value for index, of in state_of.items() for name, value in of.items()
        }
        weights, moments = group.whole(trainable(module)), group.whole(every)
        return group.from_first(lambda: self._write(step, weights, moments, state))

    def _write(
        self,
        step: int,
        weights: dict[str, Tensor],
        moments: dict[str, Tensor],
        state: dict[str, Any],
    ) -> Path:
        target = LocalPath(self.folder / f"checkpoint-{step:06d}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with target.whole_folder(self.folder) as temporary:
                temporary.mkdir()
                for name, tensors in (("head", weights), ("optimizer", moments)):
                    with whole(temporary / f"{name}.safetensors") as file:
                        save_file({key: value.contiguous() for key, value in tensors.items()}, file)
                write_text(temporary / "state.json", json.dumps({"step": step} | state, indent=1))
                write_sums(temporary, os.listdir(temporary))
                target.remove()
        except (OSError, SafetensorError, StepDiffError) as error:
            raise StepDiffError(
                f"{target}: cannot be written ({error}); make room and run again: it resumes from "
                "the last checkpoint"
            ) from error
        return Path(target)

    def load(
        self,
        checkpoint: Path,
        module: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        group: Group = ALONE,
    ) -> dict[str, Any]:
        """Read a checkpoint into the module and the optimiser; return its state. The group's first
        process reads. StepDiffError: a damaged file, or the weights of another recipe."""
        weights = trainable(module)
        stored: dict[str, Tensor] = {}
        moments: dict[str, Tensor] = {}

        def read() -> tuple[dict[str, Any], list[str]]:
            _check(checkpoint)
            stored.update(_read_tensors(checkpoint / "head.safetensors"))
            if odd := sorted(weights.keys() ^ stored.keys()):
                raise StepDiffError(
                    f"{checkpoint}: made by another recipe ({len(odd)} weights differ, e.g. "
                    f"{odd[0]}); train into a new folder"
                )
            _check_shapes(stored, weights, checkpoint, "train into a new folder")
            if optimizer is not None:
                moments.update(_read_tensors(checkpoint / "optimizer.safetensors"))
            return _read_state(checkpoint), sorted(moments)

        state, names = group.from_first(read)
        for name in sorted(weights):
            group.fill(weights[name], stored.get(name))
        if optimizer is not None:
            order, restored = optimized(optimizer), defaultdict[int, dict[str, Tensor]](dict)
            for name in names:
                number, _, kind = name.partition(".")
                value = torch.zeros(()) if kind == "step" else torch.zeros_like(order[int(number)])
                group.fill(value, moments.get(name))
                restored[int(number)][kind] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": restored, "param_groups": groups})
        return state

    def start(self, module: nn.Module) -> Path:
        """Copy the weights of the best checkpoint into the module and return it. StepDiffError: a
        damaged file, weights that the module does not train, or weights of another shape."""
        self.check_made_by()
        checkpoint, weights = self.best(), trainable(module)
        _check(checkpoint)
        stored = _read_tensors(checkpoint / "head.safetensors")
        if odd := sorted(stored.keys() - weights.keys()):
            raise StepDiffError(
                f"{checkpoint}: holds {len(odd)} weights that this recipe does not train, e.g. "
                f"{odd[0]}; give it the lora, full and projector of that run"
            )
        _check_shapes(
            stored, weights, checkpoint, "give the recipe the projector and lora of that run"
        )
        for name, value in stored.items():
            ALONE.fill(weights[name], value)
        return checkpoint

    def name_best(self, checkpoint: Path, step: int, score: float | None) -> None:
        """Record the best checkpoint. A file that says so already is not touched: make would score
        the head again."""
        path = self.folder / "best.json"
        record = json.dumps({"checkpoint": checkpoint.name, "step": step, "score": score}, indent=1)
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
        for rest in self.folder.glob(f"{TEMPORARY}*"):
            if rest.is_dir():  # a file may be that of another driver, which waits for the lock
                shutil.rmtree(rest)


def _check_shapes(
    stored: dict[str, Tensor], weights: dict[str, Tensor], checkpoint: Path, advice: str
) -> None:
    """Raise StepDiffError if a tensor has a non-finite number, or not the shape of the weight of
    its name."""
    for name, value in stored.items():
        shape, expected = tuple(value.shape), tuple(weights[name].shape)
        if shape != expected:
            raise StepDiffError(
                f"{checkpoint}: {name} is {shape}, the recipe's is {expected}; {advice}"
            )
        if not value.isfinite().all():
            raise StepDiffError(
                f"{checkpoint}: {name} has numbers that are not finite; train into a new folder"
            )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _read_state(checkpoint: Path) -> dict[str, Any]:
    """Read state.json: the step, and the step and score of the best checkpoint so far."""
    path = checkpoint / "state.json"
    try:
        state = json.loads(place(path).read_whole(_MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(state, dict) or state.get("step") != step_of(checkpoint):
        raise _damaged(path, "it is of another step")
    return state


def _check(checkpoint: Path) -> None:
    """Compare the files of a checkpoint with its SHA256SUMS. StepDiffError: damage."""
    if not checkpoint.is_dir():
        raise _damaged(checkpoint, "no such folder")
    check_sums(checkpoint, _advice(checkpoint))


def _damaged(path: Path, why: Exception | str) -> StepDiffError:
    return StepDiffError(f"{path}: missing or damaged ({why}); {_advice(path)}")


def _advice(path: Path) -> str:
    checkpoint = path if _NAME.fullmatch(path.name) else path.parent
    return (
        "no other checkpoint is used instead: restore the file from a copy, or remove the folder "
        f"{checkpoint.name} to resume from the checkpoint before it, or train into a new folder"
    )


def write_sums(folder: Path, names: Collection[str]) -> None:
    """Write SHA256SUMS over the files `names` of the folder."""
    write_text(
        folder / SUMS,
        "".join(f"{LocalPath(folder / name).sha256()}  {name}\n" for name in sorted(names)),
    )


def check_sums(folder: Path, advice: str, names: Collection[str] | None = None) -> None:
    """Compare every file that SHA256SUMS lists with its digest.

    advice: action for a damaged file; names: that must be listed, None for all files in the folder.
    StepDiffError names a file that is damaged, missing, or not listed.
    """
    path = folder / SUMS
    try:
        text = place(path).read_whole(_MOST_BYTES).decode("ascii")
    except (OSError, ValueError) as error:
        raise StepDiffError(f"{path}: missing or damaged ({error}); {advice}") from error
    sums = _SUM.findall(text)
    if "".join(f"{digest}  {name}\n" for digest, name in sums) != text:
        raise StepDiffError(
            f"{path}: damaged, its lines are not each a sha256 and a file name; {advice}"
        )
    listed = {name: digest for digest, name in sums}
    present = {entry.name for entry in folder.iterdir()} - {SUMS} if names is None else set(names)
    if odd := sorted(present - listed.keys()):
        raise StepDiffError(
            f"{folder / odd[0]}: not listed in {SUMS}, so it is not part of what was saved; "
            f"{advice}"
        )
    for name, expected in listed.items():
        try:
            digest = LocalPath(folder / name).sha256()
        except OSError as error:
            why = f"listed in {SUMS}, but cannot be read ({error.strerror or 'no regular file'})"
            raise StepDiffError(f"{folder / name}: {why}; {advice}") from error
        if digest != expected:
            raise StepDiffError(
                f"{folder / name}: damaged, its sha256 is not the one in {SUMS}; {advice}"
            )
