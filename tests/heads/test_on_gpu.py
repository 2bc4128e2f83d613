"""What only a GPU computes: features from pinned memory, and models that are divided or kept in host memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heads import train
from heads.data.clips import Features
from store import Store

from .conftest import recipe
from .ends import weights

pytestmark = [
    pytest.mark.timeout(1000),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
SCALINGS: dict[str, list[str]] = {
    "one process": [],
    "divided": ["--scaling.fsdp", "true"],
    "in host memory": ["--scaling.fsdp", "true", "--scaling.cpu-offload", "true"],
}


def test_features_on_a_gpu_are_those_on_a_cpu(world: Path) -> None:
    store = Store.open(world / "features")
    features, clips = Features(store, "visual", "tokens"), store.catalog("clips").keys(np.arange(24))
    assert torch.equal(features.read(clips, "cuda").cpu(), features.read(clips))


@pytest.mark.parametrize("mode", [{"lora": None}, {"lora": {"rank": 2}}, {"lora": None, "full": True}])
def test_fsdp_in_one_process_and_shares_in_host_memory_train_as_a_whole_model(
    mode: dict[str, Any], world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    ends = []
    for name, more in SCALINGS.items():
        made = recipe(world, tiny_lm, tmp_path / name, precision="float32", **mode)
        assert train.main(["--config", str(made), "--device", "cuda", *more]) == 0
        ends.append(weights(tmp_path / name))
    for other in ends[1:]:
        for name, value in ends[0].items():
            np.testing.assert_allclose(other[name], value, rtol=0, atol=1e-3 * np.abs(value).max(), err_msg=name)
