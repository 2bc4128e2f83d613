"""The train_step benchmark at its smallest size trains on the same data in each way and prints its result last."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.train_step import World, main
from common.errors import StepDiffError
from heads.data.clips import Features
from weights import resolve


@pytest.fixture(autouse=True)
def weights() -> None:
    try:
        resolve("efficientnet-lite0")
    except StepDiffError as problem:
        pytest.skip(str(problem))


def test_raw_video_gives_the_tokens_of_the_store_and_the_last_line_is_json(
    tmp_path: Path, tiny_lm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--videos", "4", "--steps", "1", "--rounds", "1", "--folder", str(tmp_path), "--language_model", tiny_lm]
    assert main(small) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["benchmark"] == "train_step"
    assert [row["step"] for row in found["rows"]] == [
        "batch in memory", "from the store", "from raw video", "loader alone",
    ]  # fmt: skip
    assert all(row["ms a step"] > 0 for row in found["rows"])
    assert len(found["lines"]) == 4
    world = World(tmp_path, 4, "cpu")
    keys = list(world.raw.clips)[:5]
    cached, raw = Features(world.store, "efficientnet-lite0", "tokens").read(keys), world.raw.read(keys)
    torch.testing.assert_close(cached, raw, rtol=1e-3, atol=1e-3 * float(raw.abs().max()))
