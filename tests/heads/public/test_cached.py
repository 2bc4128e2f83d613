"""Video language models on cached tokens, and their LoRA, compared with whole models that read
pixels."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
import yaml
from torch.nn import functional
from transformers.models.qwen3_vl import video_processing_qwen3_vl

from featurize.encoders import load
from heads import evaluate, train
from heads.data.packing import Chat, Turn
from heads.models.language_model import LanguageModel
from heads.models.public.cached import PROVEN, CachedClips, CachedLM, headless, load_cached
from heads.training.recipe import (
    EvidenceOptions,
    HardNegativeOptions,
    Lora,
    Schedule,
    VideoLMRecipe,
    check_recipe,
)
from heads.training.video_task import VideoTask
from stepdiff_core.errors import StepDiffError
from store import Feature, Provenance, Store
from tests.refusals import refuses

from .vlm_models import MODELS
from .vlms import CLIPS, SECONDS, Small, fill, frames_of, mean_log_likelihood

# MiniCPM-V's processor
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
Get = Callable[[str], Small]
QUICK_FIRST = [
    case if case == "qwen3_vl" else pytest.param(case, marks=pytest.mark.full) for case in MODELS
]
GRIDS = ["qwen2_5_vl", "glm4v"]
"""families whose tokens follow the size of the frames, besides qwen3_vl"""
QUESTION = "What differs?"
TURN = Turn(QUESTION, "a fork.", "In Video 2,", ends=False)


def loaded(made: Small, view: str = "float32") -> tuple[CachedLM, CachedClips]:
    model, clips, _ = load_cached(str(made.folder), made.store, view)
    return model, clips


def logits(model: CachedLM, clips: CachedClips, shown: list[int]) -> tuple[list[int], torch.Tensor]:
    with torch.inference_mode():
        tokens = model.project(clips.read([CLIPS[clip] for clip in shown]))
        batch, tokens = model.pack([[TURN]], tokens, True, count=len(shown))
        return batch.ids[0].tolist(), model.lm.logits(model.hidden(batch, tokens))[0]


@pytest.mark.parametrize("case", QUICK_FIRST)
def test_clips_of_a_batch_have_the_features_of_clips_one_by_one(small: Get, case: str) -> None:
    """As a GPU encodes them: clips of one shape at once, here the first and the second."""
    encoder = load("vlm", str(small(case).folder), "cpu", frames=len(SECONDS))
    clips = [(frames_of(clip), np.array(SECONDS)) for clip in (0, 3, 1)]
    alone = encoder.encode_wholes(clips)
    encoder.whole_batches = True
    for one, together in zip(alone, encoder.encode_wholes(clips), strict=True):
        assert isinstance(one, dict) and isinstance(together, dict)
        np.testing.assert_array_equal(together["layout"], one["layout"])
        most = np.abs(one["tokens"]).max()
        np.testing.assert_allclose(together["tokens"], one["tokens"], rtol=0, atol=1e-5 * most)
        assert most > 0


def test_transformers_warns_of_no_cap_of_pixels(
    small: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(video_processing_qwen3_vl.logger, "warning_once", warned.append)
    made = small("qwen3_vl")
    load("vlm", str(made.folder), "cpu", frames=4).encode_whole(frames_of(0), np.array(SECONDS))
    logits(*loaded(made), [0, 1])
    assert not warned


@pytest.mark.parametrize("case", QUICK_FIRST)
def test_logits_and_text_from_the_store_are_those_from_pixels(small: Get, case: str) -> None:
    """The clips of a prompt have different shapes."""
    made = small(case)
    model, clips = loaded(made)
    whole, inputs = made.whole(), made.inputs([0, 1], QUESTION, "In Video 2, a fork.")
    with torch.inference_mode():
        expected = whole(**inputs).logits[0]
    ids, got = logits(model, clips, [0, 1])
    assert ids == inputs["input_ids"][0].tolist()
    assert ids.count(model.lm.chat.tokenizer.convert_tokens_to_ids("<bos>")) == (
        case in ("gemma3", "llava_next_video")
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    for shown in ([2, 1], [0, 2]):
        _, other = logits(model, clips, shown)
        assert (other[-5:] - got[-5:]).abs().max() > 100 * 1e-4, f"clips {shown} look like [0, 1]"
    inputs = made.inputs([0, 1], QUESTION)
    with torch.inference_mode():
        written = whole.generate(**inputs, max_new_tokens=8, do_sample=False)[
            0, inputs["input_ids"].shape[1] :
        ]
    text = model.lm.chat.tokenizer.decode(written, skip_special_tokens=True).strip()
    turn, tokens = Turn(QUESTION, "", ends=False), clips.read([CLIPS[0], CLIPS[1]])
    assert model.generate([turn], tokens, 8) == [text]
    other = Turn("Which is slower, and why?", "", ends=False)
    alone = model.generate([other], tokens, 8)
    assert model.generate([turn, other, turn], tokens.repeat(3, 1, 1), 8) == [text, *alone, text]
    swapped = tokens.flip(0)
    apart = [text, *model.generate([turn], swapped, 8)]
    assert model.generate([turn, turn], torch.cat([tokens, swapped]), 8) == apart
    assert case in PROVEN


@pytest.mark.parametrize(
    "case", ["qwen3_vl", *(pytest.param(case, marks=pytest.mark.full) for case in GRIDS)]
)
def test_pooled_tokens_are_answered_as_averaged_vision_outputs(small: Get, case: str) -> None:
    """The whole model gets frames of the smaller grid, and the means of what it makes of the larger
    frames."""
    made, shown = small(case), [0, 2]
    encoder = load("vlm", str(made.folder), "cpu", frames=4)
    encoder.pool = 2
    fill(made.store, "pooled", encoder)
    model, clips = loaded(made, "pooled")
    ids, got = logits(model, clips, shown)
    whole, large = made.whole(), made.inputs(shown, QUESTION, "In Video 2, a fork.")
    grids = [(int(t), int(h) // 2, int(w) // 2) for t, h, w in large["video_grid_thw"]]
    with torch.inference_mode():
        output = whole.model.get_video_features(
            large["pixel_values_videos"], large["video_grid_thw"], return_dict=True
        )
        output.pooler_output = [
            naive_means(*each) for each in zip(output.pooler_output, grids, strict=True)
        ]
        if levels := getattr(output, "deepstack_features", None):
            means = [
                [naive_means(*each) for each in zip(level, grids, strict=True)] for level in levels
            ]
            output.deepstack_features = [tuple(level) for level in means]
        whole.model.get_video_features = lambda *_, **__: output
        sizes = [(16 * ((h + 1) // 2), 16 * ((w + 1) // 2)) for _, h, w in grids]
        expected = whole(**made.inputs(shown, QUESTION, "In Video 2, a fork.", sizes)).logits[0]
    assert len(ids) == len(expected) < len(large["input_ids"][0])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert model.clips.layouts(CLIPS[:1])[0].tokens == grids[0][0] * ((grids[0][1] + 1) // 2) * (
        (grids[0][2] + 1) // 2
    )


def naive_means(tokens: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Return the means of squares of 2 x 2 tokens, at the edges of fewer."""
    steps, rows, columns = grid
    cells = tokens.view(steps, rows, columns, -1)
    squares = [
        (t, y, x) for t in range(steps) for y in range(0, rows, 2) for x in range(0, columns, 2)
    ]
    return torch.stack(
        [cells[t, y : y + 2, x : x + 2].flatten(0, 1).mean(0) for t, y, x in squares]
    )


@pytest.mark.full
@pytest.mark.parametrize(
    ("case", "message"), [("internvl", "follow the size"), ("qwen3_vl", "smaller --pool")]
)
def test_pooling_that_a_model_cannot_have_is_refused(
    small: Get, tmp_path: Path, case: str, message: str
) -> None:
    """Of the second, the processor enlarges small frames."""
    folder = shutil.copytree(small(case).folder, tmp_path / case)
    for file in folder.glob("*processor_config.json"):
        file.write_text(file.read_text().replace('"shortest_edge": 256', '"shortest_edge": 16384'))
    encoder = load("vlm", str(folder), "cpu", frames=4)
    encoder.pool = 4
    with pytest.raises(StepDiffError, match=message):
        encoder.features("clips")


@pytest.mark.full
@pytest.mark.parametrize("case", ["qwen3_vl", "gemma3"])
@pytest.mark.parametrize("shown", [[0], [0, 1, 2]])
def test_prompts_show_any_number_of_clips(small: Get, case: str, shown: list[int]) -> None:
    made = small(case)
    inputs = made.inputs(shown, QUESTION, "In Video 2, a fork.")
    with torch.inference_mode():
        expected = made.whole()(**inputs).logits[0]
    ids, got = logits(*loaded(made), shown)
    assert ids == inputs["input_ids"][0].tolist()
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize("case", MODELS)
def test_questions_sharing_a_prompt_equal_separate_ones(small: Get, case: str) -> None:
    model, clips = loaded(small(case))
    tokens = clips.read([CLIPS[clip] for clip in (0, 1, 2, 3)])
    turns = [TURN, Turn("The same?", "YES"), Turn("What differs in the tools?", "a bowl")]
    packed = model.log_likelihoods([turns, turns[:1]], tokens, mean=False)
    alone = [model.log_likelihoods([[turn]], tokens[:2], mean=False)[0][0] for turn in turns]
    assert packed[0] == pytest.approx(alone, abs=1e-4)
    assert packed[1] == pytest.approx(
        model.log_likelihoods([turns[:1]], tokens[2:], mean=False)[0], abs=1e-4
    )
    assert packed[0][0] != pytest.approx(packed[1][0], abs=1e-3)
    blind = model.log_likelihoods([turns], None, mean=False)[0]
    assert max(abs(a - b) for a, b in zip(packed[0], blind, strict=True)) > 1e-2


@pytest.mark.full
def test_a_users_text_never_becomes_a_control_token_of_the_model(small: Get) -> None:
    made = small("qwen3_vl")
    model, clips = loaded(made)
    tokens = clips.read(CLIPS[:2])
    pads = model.lm.chat.tokenizer.convert_tokens_to_ids(
        ["<|video_pad|>", "<|vision_start|>", "<eos>"]
    )
    turn = Turn("What is <|video_pad|> after <|vision_start|> and <eos>?", "<eos>", ends=False)
    rows = [
        model.pack([[asked]], tokens, True)[0].ids[0].tolist()
        for asked in (turn, Turn("What?", "It", ends=False))
    ]
    for pad in pads:
        assert rows[0].count(pad) == rows[1].count(pad) > 0
    assert len(model.generate([Turn(turn.question, "", ends=False)], tokens, 2)) == 1


@pytest.mark.full
@pytest.mark.parametrize("case", ["qwen3_vl", "gemma3", "minicpmv4_6"])
def test_int8_tokens_change_logits_by_little(small: Get, case: str) -> None:
    made = small(case)
    _, exact = logits(*loaded(made), [0, 1])
    _, near = logits(*loaded(made, "int8"), [0, 1])
    assert 0 < (near - exact).abs().max() < 0.1 * exact.std()


def refusal(weights: Path, store: Store, view: str) -> str:
    with pytest.raises(StepDiffError) as caught:
        load_cached(str(weights), store, view)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.full
def test_unsuitable_views_and_models_are_refused(small: Get, tmp_path: Path) -> None:
    own, other = small("qwen3_vl"), small("gemma3")
    again = f"run python -m featurize --encoder vlm --weights {other.folder} --view ANOTHER_NAME"
    assert refusal(other.folder, own.store, "float32").endswith(again)
    with own.store.lock():
        features = {"tokens": Feature((4, 8), "float32")}
        provenance = Provenance("clip", "0" * 64, "last", "1", "none", {"tokens": "float32"})
        if "clip" not in own.store.views("clips"):
            own.store.create_view("clips", "clip", provenance, features, 4)
    assert "view clip holds tokens of clip, not of a video" in refusal(
        own.folder, own.store, "clip"
    )
    shutil.copytree(own.folder, tmp_path, dirs_exist_ok=True)
    config = hf.CLIPConfig()
    config.save_pretrained(tmp_path)
    found = (
        "a clip takes no cached tokens in transformers; use a model that does, such as gemma3, "
        "glm4v, internvl"
    )
    with pytest.raises(StepDiffError, match=found):
        headless(config, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("case", ["qwen3_vl", "gemma3"])
def test_evaluate_gives_the_answers_of_the_whole_model(
    small: Get, tmp_path: Path, case: str
) -> None:
    made, whole = small(case), small(case).whole()
    pairs = [(0, 1), (1, 2), (2, 3), (3, 0)]
    options = [[CLIPS[a], CLIPS[b]] for a, b in pairs]
    rows = {
        "diffmcq": {
            "difference": "a fork.",
            "category": "Tools",
            "options": options,
            "answer": options[1],
        },
        "diffrank": {
            "reference": CLIPS[0],
            "targets": CLIPS[1:],
            "category": "Tools",
            "scores": [1, 2, 0],
        },
        "diffcap": {
            "reference": CLIPS[0],
            "candidate": CLIPS[1],
            "category": "Tools",
            "text": ["a fork"],
        },
    }
    command = [
        "--method",
        "vlm",
        "--weights",
        str(made.folder),
        "--view",
        "float32",
        "--device",
        "cpu",
    ]
    command += ["--store", str(made.store.path), "--no-parse", "--no-seeded"]
    found = {}
    for task, row in rows.items():
        (tmp_path / f"{task}.jsonl").write_text(json.dumps(row) + "\n")
        own = command if task == "diffcap" else command[:-2]
        files = [
            "--test_set",
            str(tmp_path / f"{task}.jsonl"),
            "--out",
            str(tmp_path / f"{task}-out.jsonl"),
        ]
        assert evaluate.main(["--task", task, *own, *files]) == 0
        found[task] = json.loads((tmp_path / f"{task}-out.jsonl").read_text())
    asked, expected = 'What is the main difference in "Tools" between these videos?', []
    for pair in pairs:
        given, inputs = (
            made.inputs(list(pair), asked, answer)
            for answer in ("In Video 2,", "In Video 2, a fork.")
        )
        expected.append(mean_log_likelihood(whole, given, inputs))
    assert found["diffmcq"]["scores"] == pytest.approx(expected, abs=1e-4)
    assert len(set(found["diffrank"]["scores"])) == 3
    inputs = made.inputs([0, 1], asked)
    with torch.inference_mode():
        written = whole.generate(**inputs, max_new_tokens=48, do_sample=False)[
            0, inputs["input_ids"].shape[1] :
        ]
    text = loaded(made)[0].lm.chat.tokenizer.decode(written, skip_special_tokens=True).strip()
    assert found["diffcap"]["generated_text"] == text
    record = json.loads((tmp_path / "diffmcq-out.scores.json").read_text())
    assert record["disclosed"]["provenance"]["encoder"] == "vlm"
    # no weights
    assert evaluate.main(["--task", "diffmcq", *command[:2], *command[6:-2], *files]) == 2


PAIRS = [(0, 1), (1, 2), (2, 3)]
TAUGHT = {"What differs?": "a fork.", "The same tools?": "NO"}
LORA = Lora(rank=2, alpha=4)


def pairqa(path: Path) -> Path:
    rows = [
        {"reference": CLIPS[a], "candidate": CLIPS[b], "question": question, "answer": answer}
        for a, b in PAIRS
        for question, answer in TAUGHT.items()
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def options(made: Small, path: Path, **more: Any) -> VideoLMRecipe:
    given = {
        "language_model": str(made.folder),
        "view": "float32",
        "pairqa": str(path),
        "batch": 3,
    } | more
    return VideoLMRecipe(
        Schedule(1, warmup=0), public=True, precision="float32", **{"lora": LORA} | given
    )


@pytest.mark.full
@pytest.mark.parametrize("case", ["qwen3_vl", "gemma3"])
def test_a_step_from_cached_tokens_is_the_step_from_pixels(
    small: Get, tmp_path: Path, case: str
) -> None:
    made = small(case)
    task = VideoTask(
        options(made, pairqa(tmp_path / "pairs.jsonl")), made.store, seed=0, device="cpu"
    )
    model, tokenizer = task.module.lm.model, task.module.lm.chat.tokenizer
    whole = made.whole()
    LanguageModel(whole, Chat(tokenizer)).add_lora(LORA, seed=0)
    own = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    theirs = {name: weight for name, weight in whole.named_parameters() if name in own}
    # A and B of four layers of two blocks
    assert theirs.keys() == own.keys() and len(own) == 2 * 4 * 2
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
        for question, answer in TAUGHT.items():
            given = made.inputs(list(pair), question)
            inputs = made.inputs(list(pair), question, answer)
            start = given["input_ids"].shape[1]
            ids = torch.cat([inputs["input_ids"], torch.tensor([end])], dim=1)
            more = {
                name: pad(value, ids.shape) for name, value in inputs.items() if name != "input_ids"
            }
            logits = whole(input_ids=ids, **more).logits[0, start - 1 : -1]
            losses += functional.cross_entropy(logits, ids[0, start:], reduction="none")
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)
    for value, optimizer in zip((loss, expected), optimizers, strict=True):
        value.backward()
        optimizer.step()
    for name, weight in own.items():
        assert (
            weight.grad is not None
            and theirs[name].grad is not None
            and weight.grad.abs().max() > 1e-6
        )
        torch.testing.assert_close(weight.grad, theirs[name].grad, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-5)
    assert not [
        name
        for name, weight in task.module.named_parameters()
        if weight.requires_grad and "lora" not in name
    ]


def pad(value: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return what the processor gives for each token, with one more token."""
    if value.ndim != 2 or value.shape[1] != shape[1] - 1:
        return value
    # attention masks are ones
    return functional.pad(value, (0, 1), value=int(value.min() == value.max() == 1))


@pytest.mark.full
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
    config.write_text(
        yaml.safe_dump({"store": str(made.store.path), "out": str(out), "video_lm": recipe})
    )
    assert train.main(["--config", str(config), "--device", "cpu"]) == 0
    row = {"reference": CLIPS[0], "targets": CLIPS[1:], "category": "Tools", "scores": [1, 2, 0]}
    (tmp_path / "rank.jsonl").write_text(json.dumps(row) + "\n")
    command = [
        "--task",
        "diffrank",
        "--test_set",
        str(tmp_path / "rank.jsonl"),
        "--store",
        str(made.store.path),
    ]
    command += ["--device", "cpu", "--allow-seen"]
    found = []
    for place, method in enumerate(
        (
            ["video-lm", "--head", str(out)],
            ["vlm", "--view", "float32", "--weights", str(made.folder)],
        )
    ):
        own = command if place == 0 else command[:-1]
        assert (
            evaluate.main([*own, "--method", *method, "--out", str(tmp_path / f"{place}.jsonl")])
            == 0
        )
        found.append(json.loads((tmp_path / f"{place}.jsonl").read_text())["scores"])
    assert found[0] != pytest.approx(found[1], abs=1e-6)  # LoRA has changed them


def test_what_a_public_model_does_not_have_is_refused(
    small: Get, tmp_path: Path, capsys: Any
) -> None:
    path = pairqa(tmp_path / "pairs.jsonl")
    with pytest.raises(StepDiffError, match="leave sequences out of sources"):
        check_recipe(options(small("qwen3_vl"), path, sources=("sequences", "pairs")))
    with pytest.raises(
        StepDiffError, match="has its own projector and prompts: leave out hard_negatives"
    ):
        check_recipe(options(small("qwen3_vl"), path, hard_negatives=HardNegativeOptions()))
    with pytest.raises(StepDiffError, match="video_lm.evidence is for a projector"):
        check_recipe(options(small("qwen3_vl"), path, evidence=EvidenceOptions()))
    with pytest.raises(
        StepDiffError, match="trains nothing without video_lm.lora or video_lm.full"
    ):
        check_recipe(options(small("qwen3_vl"), path, lora=None))
    refuses(
        train.main,
        ["--config", "qwen3-vl", "--dry-run"],
        capsys,
        "does not estimate a video_lm.public model",
    )
