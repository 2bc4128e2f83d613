"""Guarantees of heads.evaluation.together."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest

from heads import evaluate, train
from heads.evaluation import answers

from .conftest import recipe
from .processes import in_processes
from .test_evaluation_workers import command

pytestmark = pytest.mark.timeout(600)
METHODS = {"diffmcq": "video-lm", "diffcap": "video-lm", "diffrank": "stepdiff"}
"""task -> method, by both of its names"""


@pytest.fixture(scope="module")
def frozen(world: Path, tiny_lm: str) -> Path:
    """A head whose language model is frozen, in float32."""
    out = world / "frozen"
    made = recipe(world, tiny_lm, out, lora=None, precision="float32")
    assert train.main(["--config", str(made)]) == 0
    return out


def commands(world: Path, head: Path, out: Path) -> list[list[str]]:
    """Return one command for each task."""
    more = ["--head", str(head), "--rows-at-once", "3"]
    return [
        command(world, task, method, *more, "--out", str(out / f"{task}.jsonl")) for task, method in METHODS.items()
    ]


def evaluated(given: list[str]) -> tuple[int, int]:
    """Run a command; return its exit status, and how many records this process wrote."""
    with patch.object(answers, "write", wraps=answers.write) as write:
        return evaluate.main(given), write.call_count


def test_a_divided_head_answers_as_a_whole_one(
    world: Path, frozen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the first process writes."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert [evaluate.main(given) for given in commands(world, frozen, one)] == [0, 0, 0]
    capsys.readouterr()
    for task, given in zip(METHODS, commands(world, frozen, two), strict=True):
        assert in_processes(evaluated, 2, tmp_path / task, given) == [(0, 1), (0, 0)]
        logs = [(tmp_path / task / f"rank-{rank}.log").read_text() for rank in (0, 1)]
        assert "predictions: " in logs[0] and "predictions: " not in logs[1]
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    for task in METHODS:
        rows = [
            [json.loads(line) for line in (folder / f"{task}.jsonl").read_text().splitlines()] for folder in (one, two)
        ]
        assert len(rows[0]) == len(rows[1]) > 0
        for whole, divided in zip(*rows, strict=True):
            assert whole.keys() == divided.keys()
            for name, value in whole.items():
                same = divided[name] if isinstance(value, str) else pytest.approx(divided[name], rel=1e-4, abs=1e-4)
                assert value == same, (task, name)


def test_a_head_that_cannot_be_divided_is_refused(world: Path, trained: Path, tmp_path: Path) -> None:
    (given, *_) = commands(world, trained, tmp_path)
    assert in_processes(evaluated, 2, tmp_path / "trained", given) == [(2, 0), (2, 0)]
    assert "its language model was trained (video_lm.lora or full)" in (tmp_path / "trained/rank-0.log").read_text()
    assert in_processes(evaluated, 2, tmp_path / "workers", [*given, "--workers", "2"]) == [(2, 0), (2, 0)]
    assert "torchrun divides the language model" in (tmp_path / "workers/rank-1.log").read_text()
