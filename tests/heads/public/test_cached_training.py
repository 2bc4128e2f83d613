"""LoRA of video language models on cached tokens, compared with a training of the whole model on pixels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional

from common.errors import StepDiffError
from heads import evaluate, train
from heads.data.packing import Chat
from heads.models.language_model import LanguageModel
from heads.training.recipe import EvidenceOptions, HardNegativeOptions, Lora, Schedule, VideoLMRecipe
from heads.training.video_task import VideoTask

from .vlms import CLIPS, Small

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
Get = Callable[[str], Small]
PAIRS = [(0, 1), (1, 2), (2, 3)]
QUESTIONS = {"What differs?": "a fork.", "The same tools?": "NO"}
LORA = Lora(rank=2, alpha=4)


def pairqa(path: Path) -> Path:
    rows = [
        {"reference": CLIPS[a], "candidate": CLIPS[b], "question": question, "answer": answer}
        for a, b in PAIRS
        for question, answer in QUESTIONS.items()
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def options(made: Small, path: Path, **more: Any) -> VideoLMRecipe:
    given = {"language_model": str(made.folder), "view": "float32", "pairqa": str(path), "batch": 3} | more
    return VideoLMRecipe(Schedule(1, warmup=0), public=True, precision="float32", **{"lora": LORA} | given)


@pytest.mark.parametrize("case", ["qwen3_vl", "gemma3"])
def test_a_step_from_cached_tokens_is_the_step_from_pixels(small: Get, tmp_path: Path, case: str) -> None:
    made = small(case)
    task = VideoTask(options(made, pairqa(tmp_path / "pairs.jsonl")), made.store, seed=0, device="cpu")
    model, tokenizer = task.module.lm.model, task.module.lm.chat.tokenizer
    whole = made.whole()
    LanguageModel(whole, Chat(tokenizer)).add_lora(LORA, seed=0)
    own = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    theirs = {name: weight for name, weight in whole.named_parameters() if name in own}
    assert theirs.keys() == own.keys() and len(own) == 2 * 4 * 2  # A and B of four layers of two blocks
    with torch.no_grad():
        for name, weight in own.items():
            if "lora_B" in name:  # zeros at first, so that A would have no gradient
                torch.nn.init.normal_(weight, std=0.1)
            theirs[name].copy_(weight)
    optimizers = [torch.optim.AdamW(list(weights.values()), lr=1e-3) for weights in (own, theirs)]
    loss = task.loss(0)
    losses: list[torch.Tensor] = []
    end = task.module.packer.pieces.end
    for pair in PAIRS:
        for question, answer in QUESTIONS.items():
            given = made.inputs(list(pair), question)
            inputs = made.inputs(list(pair), question, answer)
            start = given["input_ids"].shape[1]
            ids = torch.cat([inputs["input_ids"], torch.tensor([end])], dim=1)
            more = {name: pad(value, ids.shape) for name, value in inputs.items() if name != "input_ids"}
            logits = whole(input_ids=ids, **more).logits[0, start - 1 : -1]
            losses += functional.cross_entropy(logits, ids[0, start:], reduction="none")
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)
    for value, optimizer in zip((loss, expected), optimizers, strict=True):
        value.backward()
        optimizer.step()
    for name, weight in own.items():
        assert weight.grad is not None and theirs[name].grad is not None and weight.grad.abs().max() > 1e-6
        torch.testing.assert_close(weight.grad, theirs[name].grad, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-5)
    assert not [name for name, weight in task.module.named_parameters() if weight.requires_grad and "lora" not in name]


def pad(value: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return what the processor gives for each token, with one more token."""
    if value.ndim != 2 or value.shape[1] != shape[1] - 1:
        return value
    return functional.pad(value, (0, 1), value=int(value.min() == value.max() == 1))  # attention masks are ones


def test_a_run_trains_and_answers(small: Get, tmp_path: Path) -> None:
    made, out = small("qwen3_vl"), tmp_path / "run"
    recipe = {
        "public": True,
        "language_model": str(made.folder),
        "view": "float32",
        "pairqa": str(pairqa(tmp_path / "pairs.jsonl")),
        "batch": 2,
        "precision": "float32",
        "lora": {"rank": 2},
        "schedule": {"steps": 2, "accumulate": 2, "warmup": 1, "validate_every": 1},
    }
    config = tmp_path / "recipe.yaml"
    config.write_text(yaml.safe_dump({"store": str(made.store.path), "out": str(out), "video_lm": recipe}))
    assert train.main(["--config", str(config), "--device", "cpu"]) == 0
    row = {"reference": CLIPS[0], "targets": CLIPS[1:], "category": "Tools", "scores": [1, 2, 0]}
    (tmp_path / "rank.jsonl").write_text(json.dumps(row) + "\n")
    command = ["--task", "diffrank", "--test_set", str(tmp_path / "rank.jsonl"), "--store", str(made.store.path)]
    command += ["--device", "cpu", "--allow-seen"]
    found = []
    for place, method in enumerate(
        (["video-lm", "--head", str(out)], ["vlm", "--view", "float32", "--weights", str(made.folder)])
    ):
        own = command if place == 0 else command[:-1]
        assert evaluate.main([*own, "--method", *method, "--out", str(tmp_path / f"{place}.jsonl")]) == 0
        found.append(json.loads((tmp_path / f"{place}.jsonl").read_text())["scores"])
    assert found[0] != pytest.approx(found[1], abs=1e-6)  # LoRA has changed them


def test_what_a_public_model_does_not_have_is_refused(small: Get, tmp_path: Path, capsys: Any) -> None:
    path = pairqa(tmp_path / "pairs.jsonl")
    with pytest.raises(StepDiffError, match="leave sequences out of sources"):
        options(small("qwen3_vl"), path, sources=("sequences", "pairs")).check()
    with pytest.raises(StepDiffError, match="has its own projector and prompts: leave out hard_negatives"):
        options(small("qwen3_vl"), path, hard_negatives=HardNegativeOptions()).check()
    with pytest.raises(StepDiffError, match="video_lm.evidence is for a projector"):
        options(small("qwen3_vl"), path, evidence=EvidenceOptions()).check()
    with pytest.raises(StepDiffError, match="trains nothing without video_lm.lora or video_lm.full"):
        options(small("qwen3_vl"), path, lora=None).check()
    assert train.main(["--config", "qwen3-vl", "--dry-run"]) == 2
    assert "--dry-run does not estimate a video_lm.public model" in capsys.readouterr().err
