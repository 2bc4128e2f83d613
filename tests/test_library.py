"""The training script of the guide learns, saves and resumes."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from store import Feature
from tests.stores import write_view

GUIDE = Path(__file__).parents[1] / "docs/guides/library.md"


@pytest.mark.full
def test_the_training_script_learns_and_resumes(tmp_path: Path) -> None:
    keys, steps = [f"c{row}" for row in range(96)], [f"step {row % 3}" for row in range(96)]
    frame = pl.DataFrame({"key": keys, "step": steps, "split": ["train"] * 90 + ["test"] * 6})
    vectors = np.eye(3, 16, dtype=np.float32)[np.arange(96) % 3] + np.random.default_rng(0).normal(
        0, 0.1, (96, 16)
    )
    write_view(
        tmp_path / "store", frame, {"embedding": Feature((16,), "float16")}, {"embedding": vectors}
    )

    (shown,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
        if "AdamW" in block
    )

    def lines(checkpoint: str, epochs: int) -> list[str]:
        script = f"import torch\ntorch.manual_seed(0)\n{shown}"
        for words, ours in (
            ('"data/features"', repr(str(tmp_path / "store"))),
            ('"efficientnet-lite0"', '"net"'),
            ('"data/probe.pt"', repr(str(tmp_path / checkpoint))),
            ('["epoch"], 3)', f'["epoch"], {epochs})'),
        ):
            assert script.count(words) == 1
            script = script.replace(words, ours)
        command = [sys.executable, "-c", script]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.splitlines()

    whole = lines("whole.pt", 6)
    assert [line.partition(":")[0] for line in whole] == [f"epoch {epoch}" for epoch in range(6)]
    first, last = (float(re.findall(r"loss (\S+)", line)[0]) for line in (whole[0], whole[-1]))
    assert last < first
    assert lines("parts.pt", 2) + lines("parts.pt", 6) == whole
