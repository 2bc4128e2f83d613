"""The processes that train one model together, over torch.distributed: gloo on CPUs, NCCL on GPUs.

A step's batches are divided among the processes, and their gradients are summed. `ALONE` is a group
of one process, in which nothing is sent and nothing changes a bit.

Guarantees
- a group of one sends nothing
- an error of the first process is raised on all
- every process computes equally often
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heads.training.recipe import Scaling
from stepdiff_core.errors import StepDiffError

Given = TypeVar("Given")
Made = TypeVar("Made")
BACKEND = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""torch.distributed's backend by type of device"""


@dataclass(frozen=True)
class Group:
    """The processes of a training."""

    rank: int = 0
    """number of this process"""
    size: int = 1
    """processes"""
    mesh: Any = None
    """torch's DeviceMesh of one axis; None: no process group"""

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return the rows of this process, of `count` rows of a batch."""
        first, end = (count * place // self.size for place in (self.rank, self.rank + 1))
        return slice(first, end)

    def sum(self, values: Sequence[int | float]) -> list[int | float]:
        """Return the sums of some numbers over the processes."""
        if self.size == 1:
            return list(values)
        table = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(table)
        return [float(value) for value in table]

    @torch.no_grad()
    def sum_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of weights that each process has whole, in one piece."""
        if self.size == 1:
            return
        copies = [weight for weight in weights if not _divided(weight)]
        if not copies:
            return
        # AdamW leaves a weight without gradient as it is, but decays one whose gradient is zero.
        used = torch.tensor([float(w.grad is not None) for w in copies], device=copies[0].device)
        parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in copies]
        flat = torch.cat([used, *(part.flatten().float() for part in parts)])
        torch.distributed.all_reduce(flat)
        place = len(copies)
        for weight, there in zip(copies, flat[:place].tolist(), strict=True):
            part, place = flat[place : place + weight.numel()], place + weight.numel()
            weight.grad = part.view_as(weight).to(weight.dtype) if there else None

    @torch.no_grad()
    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Copy the first process's values of whole tensors to all processes."""
        for tensor in tensors if self.size > 1 else ():
            if not _divided(tensor):
                torch.distributed.broadcast(tensor, 0)

    @torch.no_grad()
    def fill(self, target: Tensor, value: Tensor | None) -> None:
        """Copy a whole tensor of the first process into `target`, whole or divided, on every
        process.

        value: Read by the first process only; ALONE reads it in every process and sends nothing.
        """
        if _divided(target):
            from torch.distributed.tensor import distribute_tensor

            mesh = target.device_mesh  # type: ignore[attr-defined]
            source = torch.empty(target.shape, dtype=target.dtype) if value is None else value
            part = distribute_tensor(
                source.to(mesh.device_type, target.dtype),
                mesh,
                target.placements,  # type: ignore[attr-defined]
                src_data_rank=0 if self.size > 1 else None,
            )
            target.to_local().copy_(part.to_local())  # type: ignore[attr-defined]
            return
        if value is not None:
            target.copy_(value)
        if self.size > 1:
            torch.distributed.broadcast(target, 0)

    @torch.no_grad()
    def whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors with divided ones put together, which only the first process then
        has."""
        whole = {}
        for name, tensor in tensors.items():
            if _divided(tensor):
                together = tensor.full_tensor()  # type: ignore[attr-defined]
                tensor = together.cpu() if self.first else together.new_empty(0)
            whole[name] = tensor
        return whole

    @torch.no_grad()
    def clip(self, weights: Sequence[nn.Parameter], most: float) -> float:
        """Scale the gradients down to a norm of at most `most`; return their norm before."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if not any(_divided(gradient) for gradient in gradients):
            return float(nn.utils.clip_grad_norm_(weights, most))
        parts = [g.to_local() if _divided(g) else g for g in gradients]  # type: ignore[attr-defined]
        squares = [float(part.float().square().sum(dtype=torch.float64)) for part in parts]
        shared = [square for square, g in zip(squares, gradients, strict=True) if _divided(g)]
        norm = (sum(squares) - sum(shared) + self.sum([sum(shared)])[0]) ** 0.5
        for part in parts:
            part.mul_(min(1.0, most / (norm + 1e-6)))
        return norm

    def from_first(self, do: Callable[[], Made]) -> Made:
        """Return the result of the first process's `do`. StepDiffError: its own, raised on every
        process."""
        if self.size == 1:
            return do()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer = [do(), None]
            except StepDiffError as error:
                answer = [None, str(error)]
        torch.distributed.broadcast_object_list(answer, 0)
        if answer[1] is not None:
            raise StepDiffError(answer[1])
        return answer[0]

    def spread(self, do: Callable[[Given], Made], items: Sequence[Given]) -> list[Made]:
        """Return `do` of each item, in order, computed by the processes in turn.

        Every process calls `do` equally often, because a divided model needs all of them: one with
        fewer items repeats the last one.
        """
        if self.size == 1:
            return [do(item) for item in items]
        rounds = range(-(-len(items) // self.size))
        results = [do(items[min(turn * self.size + self.rank, len(items) - 1)]) for turn in rounds]
        gathered: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(gathered, results)
        return [gathered[place % self.size][place // self.size] for place in range(len(items))]

    def gather(self, rows_here: Float[Tensor, "S D"], count: int) -> Float[Tensor, "C D"]:
        """Return all rows of a batch; rows_here: this process's share, to which their gradients
        flow."""
        return rows_here if self.size == 1 else _Gather.apply(rows_here, self.share(count), count)


ALONE = Group()
GONE = "another worker ended, see its message"


def _divided(tensor: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


class _Gather(torch.autograd.Function):
    """Rows of all processes; backwards, the gradient of this process's rows, summed over the
    processes."""

    @staticmethod
    def forward(context: Any, rows_here: Tensor, rows: slice, count: int) -> Tensor:
        context.rows = rows
        table = rows_here.new_zeros(count, rows_here.shape[1])
        table[rows] = rows_here
        torch.distributed.all_reduce(table)  # shares differ in length by a row, so no all_gather
        return table

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(gradient)
        return gradient[context.rows], None, None


def launched() -> bool:
    """Return whether torchrun, or another program that sets its variables, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def world_size() -> int:
    """Return the number of processes that torchrun started."""
    return int(os.environ["WORLD_SIZE"])


def own_device(device: str) -> str:
    """Return this process's device: of a machine's GPUs the one of its local rank."""
    if not device.startswith("cuda") or ":" in device:
        return device
    local = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    torch.cuda.set_device(local)
    return local


@contextmanager
def joined(scaling: Scaling, device: str) -> Iterator[Group]:
    """Yield the group of this training's processes, which ends with this block. device: of this
    process."""
    kind = torch.device(device).type
    size = world_size() if launched() else 1
    if size == 1 and not scaling.fsdp:
        yield ALONE
        return
    import torch.distributed as dist

    ours = not dist.is_initialized()
    with in_one_line(scaling):
        if ours:
            start: dict[str, Any] = (
                {} if launched() else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
            )
            dist.init_process_group(
                BACKEND[kind], timeout=timedelta(seconds=scaling.timeout), **start
            )
        try:
            yield Group(dist.get_rank(), size, dist.init_device_mesh(kind, (size,)))
        finally:
            if ours:
                dist.destroy_process_group()


@contextmanager
def in_one_line(scaling: Scaling) -> Iterator[None]:
    """Raise a failure of torch.distributed within this block as a StepDiffError."""
    from torch.distributed import DistError

    try:
        yield
    except (DistError, RuntimeError) as error:
        text = str(error)
        if "EADDRINUSE" in text:
            port = os.environ.get("MASTER_PORT")
            raise StepDiffError(
                f"port {port} is in use: start torchrun with another --master-port"
            ) from error
        late = "imed out" in text or "imeout" in text
        gone = isinstance(error, DistError) or "Connection" in text or "/gloo/transport/" in text
        if isinstance(error, torch.OutOfMemoryError) or not (late or gone):
            raise
        what = (
            f"a worker did not answer for {scaling.timeout} s: raise scaling.timeout if a step or "
            "a validation takes longer, or see that worker's log"
            if late
            else GONE
        )
        raise StepDiffError(
            f"{what}; the last checkpoint is kept, run the same command again"
        ) from error
