"""Dequantising int8 features on the device gives the values of the store's kernel."""

import numpy as np
import pytest
import torch

from store.format.quantise import dequantise as on_cpu
from store.format.quantise import quantise
from store.torch import dequantise


@pytest.mark.parametrize("channels", [1, 64, 100, 1280])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_dequantised_values_equal_those_of_the_stores_kernel(channels: int, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    values = np.random.default_rng(0).normal(size=(3, 5, channels)).astype(np.float32)
    values[0, 0, 0] = 65504  # 127 * scale is slightly larger
    levels, scale = quantise(values)
    parts = [torch.from_numpy(part).to(device) for part in (levels, scale)]
    assert (dequantise(*parts).cpu().numpy() == on_cpu(levels, scale)).all()
    half = on_cpu(levels, scale, np.empty(levels.shape, np.float16))
    assert (dequantise(*parts, dtype=torch.float16).cpu().numpy() == half).all()
    assert np.isfinite(half).all()
