"""A head that torchrun's processes divide answers as a whole one (heads.evaluation.answerers)."""

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
import yaml

from common.errors import StepDiffError
from heads import evaluate, train
from heads.evaluation.evaluation import Evaluation
from heads.methods import stepdiff
from heads.models.video_lm import VideoLM
from heads.training import video_task
from heads.training.lineage import division
from heads.training.recipe import Scaling

from .conftest import recipe
from .processes import in_processes
from .test_evaluation_workers import command

pytestmark = pytest.mark.timeout(600)
METHODS = {"diffmcq": "video-lm", "diffcap": "video-lm", "diffrank": "stepdiff"}
"""task -> method, by both of its names"""
DIVISIONS = ("load_divided", "load_tensor_parallel")


@pytest.fixture(scope="module")
def frozen(world: Path, tiny_lm: str) -> Path:
    """A head whose language model is frozen, in float32."""
    out = world / "frozen"
    made = recipe(world, tiny_lm, out, lora=None, precision="float32")
    assert train.main(["--config", str(made)]) == 0
    return out


@pytest.fixture(scope="module")
def full(world: Path, tiny_lm: str) -> Path:
    """A head whose language model was trained in full, in float32; its captions end at one of many tokens."""
    out, lm = world / "full", world / "lm"
    shutil.copytree(tiny_lm, lm)
    vocabulary = json.loads((lm / "config.json").read_text())["vocab_size"]
    (lm / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(0, vocabulary, 8))}))
    made = recipe(world, str(lm), out, lora=None, full=True, precision="float32")
    assert train.main(["--config", str(made)]) == 0
    return out


def commands(world: Path, head: Path, out: Path) -> list[list[str]]:
    """Return one command for each task."""
    more, captions = ["--head", str(head), "--rows-at-once", "9"], out / "captions.jsonl"
    rows = [json.loads(line) for line in (world / "diffmcq_test.jsonl").read_text().splitlines()]
    pairs = [*dict.fromkeys((a, b) for row in rows for a, b in row["options"])]
    pairs = pairs[::2] + pairs[1::2]  # of `full`, the second process's captions end early
    asked = [{"reference": a, "candidate": b, "category": "Visuals", "text": ["a spoon"]} for a, b in pairs]
    captions.write_text("".join(json.dumps(row) + "\n" for row in asked))
    found = [
        command(world, task, method, *more, "--out", str(out / f"{task}.jsonl")) for task, method in METHODS.items()
    ]
    found[list(METHODS).index("diffcap")].append("--ask-similar")
    return [[str(captions) if given.endswith("diffcap_test.jsonl") else given for given in one] for one in found]


def evaluated(given: list[str]) -> tuple[int, int, list[str]]:
    """Run a command; return its exit status, how many records this process wrote, and how it divided the model."""
    divided = [Mock(wraps=getattr(video_task, name), name=name) for name in DIVISIONS]
    with (
        patch.multiple(video_task, **dict(zip(DIVISIONS, divided, strict=True))),
        patch.object(Evaluation, "write", autospec=True, side_effect=Evaluation.write) as write,
    ):
        status = evaluate.main(given)
    return status, write.call_count, [name for name, used in zip(DIVISIONS, divided, strict=True) if used.called]


@pytest.mark.parametrize(
    ("kind", "division"), [("frozen", "load_tensor_parallel"), ("trained", "load_divided"), ("full", "load_divided")]
)
def test_a_divided_head_answers_as_a_whole_one(
    kind: str,
    division: str,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """Only the first process writes. trained: with LoRA."""
    head = request.getfixturevalue(kind)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert [evaluate.main(given) for given in commands(world, head, one)] == [0, 0, 0]
    capsys.readouterr()
    for task, given in zip(METHODS, commands(world, head, two), strict=True):
        assert in_processes(evaluated, 2, tmp_path / task, given) == [(0, 1, [division]), (0, 0, [division])]
        logs = [(tmp_path / task / f"rank-{rank}.log").read_text() for rank in (0, 1)]
        assert "predictions: " in logs[0] and "predictions: " not in logs[1]
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    if kind == "full":
        lengths = {len(json.loads(line)["generated_text"]) for line in (one / "diffcap.jsonl").read_text().splitlines()}
        assert len(lengths) > 1
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


def test_what_cannot_be_divided_is_refused(world: Path, trained: Path, tmp_path: Path) -> None:
    (given, *_) = commands(world, trained, tmp_path)
    assert in_processes(evaluated, 2, tmp_path / "workers", [*given, "--workers", "2"]) == [(2, 0, []), (2, 0, [])]
    assert "torchrun divides the language model" in (tmp_path / "workers/rank-1.log").read_text()


def failing(given: list[str], rank: int) -> int:
    """Run a command of which one process fails at its second batch of texts."""
    own, calls = VideoLM.log_likelihoods, [0]

    def fails(self: VideoLM, *more: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2 and int(os.environ["RANK"]) == rank:
            raise StepDiffError("no such luck")
        return own(self, *more)

    with patch.object(VideoLM, "log_likelihoods", fails), patch.object(stepdiff, "ROWS_A_BATCH", 1):
        return evaluate.main(given)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_fails_ends_the_others(rank: int, world: Path, trained: Path, tmp_path: Path) -> None:
    (given, *_) = commands(world, trained, tmp_path)
    assert in_processes(failing, 2, tmp_path / "logs", given, rank, seconds=500) == [2, 2]  # not after scaling.timeout
    logs = [(tmp_path / f"logs/rank-{one}.log").read_text() for one in (rank, 1 - rank)]
    assert "no such luck" in logs[0] and "another worker ended" in logs[1]


def test_a_head_of_a_public_model_is_refused_before_processes_meet(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "public")
    made = yaml.safe_load((trained / "recipe.yaml").read_text())
    made["video_lm"]["public"] = True
    (tmp_path / "public/recipe.yaml").write_text(yaml.safe_dump(made))
    (tmp_path / "public/SHA256SUMS").unlink()
    with pytest.raises(StepDiffError, match="public: a video_lm.public model is not divided; evaluate it without"):
        division(tmp_path / "public", 2)
    assert division(tmp_path / "public", 1) == Scaling()
