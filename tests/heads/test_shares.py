"""What processes that share a model have: the gradients of copies, and where a share is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from heads.models.parallelize import share_of
from heads.training.recipe import Scaling
from heads.workers.group import joined

from .processes import in_processes

pytestmark = pytest.mark.timeout(1000)


def drifting(rank: int, together: int) -> Any:
    """Return the summed gradients of two weights, of which one process has other values and one weight none."""
    with joined(Scaling(tensor_parallel=together), "cpu") as group:
        weights = [nn.Parameter(torch.zeros(3)) for _ in range(3)]
        weights[0].grad = torch.full((3,), 1.0 + (group.rank == rank))
        weights[1].grad = torch.ones(3) if group.rank == 0 else None
        group.sum_gradients(weights)
        return [None if w.grad is None else w.grad.tolist() for w in weights]


def test_processes_that_compute_together_train_with_the_gradients_of_the_first(tmp_path: Path) -> None:
    found = in_processes(drifting, 2, tmp_path / "tensor", 1, 2)
    assert found == [[[1.0] * 3, [1.0] * 3, None]] * 2
    found = in_processes(drifting, 2, tmp_path / "data", 1, 1)
    assert found == [[[3.0] * 3, [1.0] * 3, None]] * 2


def placed() -> list[str]:
    """Return where a share of a weight is that stays in host memory, of a model of two GPUs that are not there."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    mesh = DeviceMesh("cuda", torch.arange(2))
    weight = DTensor.from_local(torch.empty(2, 3, device="meta"), mesh, (Shard(0),), run_check=False)
    made = share_of(weight, torch.ones(2, 3, dtype=torch.bfloat16))
    return [str(tuple(made.shape)), str(made.to_local().device), str(made.dtype), str(made.placements[0])]


def test_a_share_stays_in_host_memory(tmp_path: Path) -> None:
    assert in_processes(placed, 0, tmp_path) == [["(4, 3)", "cpu", "torch.bfloat16", "S(0)"]]
