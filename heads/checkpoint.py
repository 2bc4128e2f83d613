"""A training run's folder: checkpoints that appear whole, the best one named, and what exact resume needs.

    RUN/recipe.yaml                 what was asked
    RUN/checkpoint-000100/          head.safetensors, optimizer.safetensors, state.json
    RUN/best.json                   the checkpoint with the best validation score
    RUN/metrics.jsonl               one JSON object a record

Guarantees
- a checkpoint is there whole or not at all
- weights and optimiser come back bit for bit, without pickle
- what was logged after the checkpoint that a run resumes from is logged once
- a damaged file is named in one line; best.json names a checkpoint of its own folder or is refused
"""

import json
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from heads.errors import HeadsError
from heads.files import write_text

_NAME = re.compile(r"checkpoint-\d+")


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


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


class Run:
    """One folder, one training run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def checkpoints(self) -> list[Path]:
        """The run's own, by step; what others keep beside them (checkpoint-000100-mine) is none."""
        found = [path for path in self.folder.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=step_of)

    def latest(self) -> Path | None:
        return next(reversed(self.checkpoints()), None)

    def reached(self) -> int:
        """The step of the latest checkpoint, 0 where there is none."""
        latest = self.latest()
        return 0 if latest is None else step_of(latest)

    def best(self) -> Path:
        """The checkpoint that validation chose; HeadsError where there is none."""
        path = self.folder / "best.json"
        if not path.exists():
            raise HeadsError(
                f"{self.folder}: no finished training here; run python -m heads.train --config RECIPE.yaml"
            )
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise HeadsError(f"{path}: damaged ({error}); train into a new folder") from error
        name = record.get("checkpoint") if isinstance(record, dict) else None
        if not _NAME.fullmatch(str(name)):
            raise HeadsError(f"{path}: names no checkpoint of this folder, but {name!r}; train into a new folder")
        return self.folder / str(name)

    def save(
        self, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> Path:
        """HeadsError: it cannot be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"checkpoint-{step:06d}"
        temporary = self.folder / f".checkpoint.{uuid.uuid4().hex}"
        try:
            temporary.mkdir()
            save_file({k: v.contiguous() for k, v in trainable(module).items()}, temporary / "head.safetensors")
            save_file(optimizer_tensors(optimizer), temporary / "optimizer.safetensors")
            write_text(temporary / "state.json", json.dumps({"step": step} | state, indent=1))
            for file in temporary.iterdir():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
            if target.exists():
                shutil.rmtree(target)
            os.replace(temporary, target)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise HeadsError(
                f"{target}: cannot be written ({error}); make room, and run again: it goes on from the last checkpoint"
            ) from error
        return target

    def load(
        self, checkpoint: Path, module: nn.Module, optimizer: torch.optim.Optimizer | None = None
    ) -> dict[str, Any]:
        wanted = trainable(module)
        found = _read_tensors(checkpoint / "head.safetensors")
        if wanted.keys() != found.keys():
            odd = sorted(wanted.keys() ^ found.keys())
            raise HeadsError(
                f"{checkpoint}: made by another recipe ({len(odd)} weights differ, e.g. {odd[0]}); "
                "train into a new folder"
            )
        _check_shapes(_shapes(found), wanted, checkpoint, "train into a new folder")
        _copy(found, wanted)
        if optimizer is not None:
            restore_optimizer(optimizer, _read_tensors(checkpoint / "optimizer.safetensors"))
        return _read_json(checkpoint / "state.json")

    def check_start(self, module: nn.Module) -> Path:
        """The best checkpoint, whose weights the module can start from; no weights are read.

        HeadsError where it holds weights that the module does not train, or of another shape.
        """
        checkpoint, wanted = self.best(), trainable(module)
        found = _read_shapes(checkpoint / "head.safetensors")
        odd = sorted(found.keys() - wanted.keys())
        if odd:
            raise HeadsError(
                f"{checkpoint}: holds {len(odd)} weights that this recipe does not train, e.g. {odd[0]}; give it the "
                "lora, full and projector of that run"
            )
        _check_shapes(found, wanted, checkpoint, "give the recipe the projector and lora of that run")
        return checkpoint

    def start(self, module: nn.Module) -> Path:
        """Give the module the weights of the best checkpoint; those that it has beyond them stay as they are.

        Returns the checkpoint. HeadsError as check_start has it.
        """
        checkpoint = self.check_start(module)
        _copy(_read_tensors(checkpoint / "head.safetensors"), trainable(module))
        return checkpoint

    def name_best(self, checkpoint: Path, step: int, score: float) -> None:
        record = {"checkpoint": checkpoint.name, "step": step, "score": score}
        write_text(self.folder / "best.json", json.dumps(record, indent=1))

    def prune(self) -> None:
        """Keep the best and the latest checkpoint, and no half of one that a killed run left."""
        keep = {self.latest()}
        if (self.folder / "best.json").exists():
            keep.add(self.best())
        for checkpoint in self.checkpoints():
            if checkpoint not in keep:
                shutil.rmtree(checkpoint)
        for rest in self.folder.glob(".checkpoint.*"):
            shutil.rmtree(rest)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _check_shapes(
    found: dict[str, tuple[int, ...]], wanted: dict[str, Tensor], checkpoint: Path, advice: str
) -> None:
    """HeadsError: what was found has not the shape of what is wanted under its name."""
    needed = _shapes(wanted)
    for name, shape in found.items():
        if needed[name] != shape:
            raise HeadsError(f"{checkpoint}: {name} is {shape}, the recipe's is {needed[name]}; {advice}")


def _copy(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Copy every tensor that was found into the one that is wanted under its name."""
    with torch.no_grad():
        for name, value in found.items():
            wanted[name].copy_(value)


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


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> HeadsError:
    return HeadsError(
        f"{path}: missing or damaged ({error}); remove its checkpoint folder to resume from another, or train anew"
    )


class MetricsLog:
    """RUN/metrics.jsonl and TensorBoard events, cut back to the step that a run resumes from."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        kept = [r for r in read_metrics(self.path) if r["step"] <= step]
        write_text(self.path, "".join(json.dumps(r) + "\n" for r in kept))
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, **values: float | None) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | values) + "\n")
        for name, value in ((n, v) for n, v in values.items() if v is not None):
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Whole lines only: a killed run may leave half a line."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]
