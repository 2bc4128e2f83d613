"""heads.train --dry-run: plans of the recipes, refusals, and figures against real models and
torch's counters."""

import json
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from heads import train
from heads.data.packing import Chat, Packer, Turn
from heads.models.language_model import LanguageModel
from heads.models.packed_attention import PackedLayout
from heads.models.video_lm import Projector
from heads.planning import needs
from heads.planning.needs import BatchShape
from heads.planning.plan import CARDS
from heads.training.recipe import (
    EvidenceOptions,
    Lora,
    ProjectorOptions,
    Scaling,
    Schedule,
    VideoLMRecipe,
    read_recipe,
)
from heads.training.sources import Sequences
from stepdiff_core.tasks.prompts import DIFFERENCE_QUESTION, NARRATION_QUESTION, PAIR_SYSTEM, SYSTEM
from stepdiff_core.weights import registry, resolve
from store.testing import tiny_store
from tests.refusals import refuses

from .conftest import CHANNELS, TOKENS, Capture, recipe

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "heads/recipes"
DOCS = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
PUBLISHED = ("vclm", "interleaved", "stepdiff")


@pytest.fixture(autouse=True)
def without_store_and_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> NoReturn:
        raise AssertionError("a plan uses no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def dry_run(name: str, *more: str) -> int:
    return train.main(["--config", str(RECIPES / f"{name}.yaml"), "--dry-run", *more])


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_recipes_fit_eight_cards_of_80_gb(name: str, capsys: Capture) -> None:
    options = read_recipe(RECIPES / f"{name}.yaml")
    assert (
        options.video_lm is not None
        and options.scaling.workers == 8
        and CARDS["h100"].memory < 80 * 2**30
    )
    assert options.video_lm.schedule.accumulate % options.scaling.workers == 0
    assert options.video_lm.batch * options.video_lm.schedule.accumulate == (
        256 if name == "stepdiff" else 512
    )
    assert dry_run(name) == 0
    shown = r"sum +([\d.]+) of 84.83.* time +([\d.]+) s per step, ([\d.]+) hours .* ([\d,]+) card"
    figures = re.search(shown, capsys.readouterr().out, re.DOTALL)
    assert figures and f"| `{name}.yaml` | {' | '.join(figures.groups())} |" in DOCS


def test_a_plan_that_does_not_fit_is_refused(capsys: Capture) -> None:
    assert dry_run("vclm", "--workers", "1", "--scaling.fsdp", "false") == 2
    shown = capsys.readouterr()
    assert "sum" in shown.out and shown.err.count("\n") == 1 and shown.err in DOCS


def test_a_plan_of_a_store_has_the_shape_of_its_view(
    world: Path, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    path = recipe(world, tiny_lm, tmp_path / "run")
    assert train.main(["--config", str(path), "--dry-run", "--card", "rtx4090", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["tokens"] == f"{TOKENS} x {CHANNELS} float16: view visual of {world / 'features'}"
    # two batches of three pairs of clips
    assert plan["read"] == 2 * 6 * TOKENS * CHANNELS * 2
    assert not (tmp_path / "run").exists()


@pytest.mark.full
@pytest.mark.parametrize("name", ["stepdiff", "vclm", "interleaved"])
def test_the_kitchen_recipes_fit_a_small_card(name: str, capsys: Capture) -> None:
    if not registry.source("smollm2-135m-instruct").is_complete():
        pytest.skip("smollm2-135m-instruct is not fetched")
    assert dry_run(f"kitchen/{name}", "--card", "rtx4090", "--json") == 0
    assert json.loads(capsys.readouterr().out)["hours"] > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--card", "tpu"], "--card tpu is not known; give one of a100"),
        (["--flops-share", "1.5"], "--flops-share is 1.5; it must be above 0 and at most 1"),
        (["--workers", "3"], "does not divide among 3 workers"),
        (["--video-lm.view", "mine"], "no encoder is named mine; give --store"),
        (
            ["--video-lm.language-model", "someone/unknown"],
            "someone/unknown: neither a folder nor in the hub's cache",
        ),
        (
            ["--video-lm.language-model", "{folder}"],
            "no language model of transformers (Unrecognized model in",
        ),
    ],
)
def test_a_plan_that_cannot_be_computed_is_refused(
    more: list[str], message: str, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "config.json").write_text("{}")  # as of a model of timm
    assert dry_run("vclm", *(each.format(folder=tmp_path) for each in more)) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and message in shown.err


def test_a_contrastive_head_is_not_planned(capsys: Capture) -> None:
    refuses(train.main, ["--config", "kitchen/align", "--dry-run"], capsys, "plans language models")


def test_a_plan_reads_the_snapshot_of_its_recipe(tmp_path: Path, capsys: Capture) -> None:
    store = tiny_store(tmp_path / "features")
    store.tag("v1")
    shape = ("--video_lm.view", "tiny", "--video_lm.projector.frames", "3")
    assert dry_run("vclm", "--store", str(store.path), "--at", "v1", *shape) == 0
    assert f"view tiny of {store.path}@v1" in capsys.readouterr().out


CLIP = (16, 24)
PERCEIVER = ProjectorOptions(width=16, heads=2, outputs=4)
SMALL = VideoLMRecipe(Schedule(1), projector=PERCEIVER, pairqa="pairs")
MODES: dict[str, dict[str, Any]] = {
    "projector": {},
    "lora": {"lora": Lora(4, targets=("q_proj", "v_proj", "down_proj"))},
    "full": {"full": True},
}
ASKED = BatchShape(rows=3, clips=6, prefix=40, questions=4, question=24, answer=10, samples=3)


@pytest.fixture(params=["tiny", "smollm2-135m-instruct"])
def language_model(request: pytest.FixtureRequest, tiny_lm: str) -> str:
    name = request.param
    if name != "tiny" and not registry.source(name).is_complete():
        pytest.skip(f"{name} is not fetched; run stepdiff weights fetch {name}")
    return tiny_lm if name == "tiny" else name


def real(recipe: VideoLMRecipe) -> tuple[LanguageModel, nn.Module]:
    """Return the recipe's language model with its weights, and what trains next to it."""
    lm = LanguageModel.load(recipe.language_model)
    lm.train_as(recipe, 0)
    return lm, Projector(recipe.projector, *CLIP, lm.width, 1.0)


def planned(recipe: VideoLMRecipe) -> needs.Weights:
    config, _ = needs.configuration(recipe.language_model)
    with torch.device("meta"):
        lm = needs.language_model(config, recipe, torch.float32)
        return needs.weights(lm, Projector(recipe.projector, *CLIP, lm.width, 1.0), Scaling())


@pytest.mark.full
@pytest.mark.parametrize("mode", MODES)
def test_a_planned_model_has_the_parameters_of_the_loaded_one(
    language_model: str, mode: str
) -> None:
    recipe = replace(SMALL, language_model=language_model, **MODES[mode])
    lm, head = real(recipe)
    weights = [*lm.parameters(), *head.parameters()]
    plan = planned(recipe)
    assert plan.trained == sum(w.numel() for w in weights if w.requires_grad) > 0
    assert plan.frozen == sum(w.numel() for w in weights if not w.requires_grad)
    assert plan.memory.trained == 4 * plan.trained and plan.memory.frozen == 4 * plan.frozen


def raw(count: Callable[..., int]) -> Callable[..., int]:
    """Return a count of operations that FlopCounterMode calls with tensors, as it calls its own."""
    wrapped = partial(count)
    wrapped._get_raw = True  # type: ignore[attr-defined]
    return wrapped


def small_llama(recipe: VideoLMRecipe) -> LanguageModel:
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
    )
    return needs.language_model(config, recipe, torch.float32)


@pytest.mark.full
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_planned_step_takes_what_a_real_one_does(mode: str, recompute: bool) -> None:
    recipe = replace(SMALL, gradient_checkpointing=recompute, **MODES[mode])
    with torch.device("meta"):
        lm = small_llama(recipe)
        projector = Projector(PERCEIVER, *CLIP, lm.width, 1.0)
    planned = needs.steps(lm, projector, [ASKED], CLIP, torch.float32)[ASKED]
    lm = small_llama(recipe)
    projector, tokens = Projector(PERCEIVER, *CLIP, lm.width, 1.0), torch.randn(ASKED.clips, *CLIP)
    parts = [0] * ASKED.prefix + [
        q + 1 for q in range(ASKED.questions) for _ in range(ASKED.question)
    ]
    segment = torch.tensor([parts] * ASKED.rows)
    lm.train()

    def loss() -> Tensor:
        clips = projector(tokens).flatten(0, 1)
        filled = (
            lm.embed(torch.zeros_like(segment))
            .flatten(0, 1)
            .index_copy(0, torch.arange(len(clips)), clips)
        )
        layout = replace(PackedLayout.of(segment), fused=True)
        hidden = lm.hidden_of(filled.view(*segment.shape, -1), torch.zeros_like(segment), layout)
        answers = torch.arange(ASKED.targets)
        return cross_entropy(lm.logits(hidden.flatten(0, 1)[answers]), torch.zeros_like(answers))

    loss().backward()  # the gradients are there
    weights = [*lm.parameters(), *projector.parameters()]
    with needs.Meter(
        [*weights, *(w.grad for w in weights if w.grad is not None), tokens, segment]
    ) as meter:
        loss().backward()
    assert planned.activations == pytest.approx(meter.most, rel=0.05)
    attention = {op: raw(count) for op, count in needs.PRODUCTS.items() if "_for_cpu" in str(op)}
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        loss().backward()
    assert planned.operations == meter.operations == counter.get_total_flops()


def text_of(words: int) -> str:
    """Return an English text of so many words."""
    text = (
        "then we carefully pour about half a cup of warm milk over the flour and whisk it until "
        "there are no lumps left because otherwise the batter will not become smooth and the "
        "pancakes stick to the hot pan"
    ).split()
    return " ".join((text * (words // len(text) + 1))[:words])


@pytest.mark.full
def test_counted_rows_are_close_to_those_of_a_tokenizer() -> None:
    from transformers import AutoTokenizer

    if not registry.source("smollm2-135m-instruct").is_complete():
        pytest.skip("smollm2-135m-instruct is not fetched")
    chat, words = Chat(AutoTokenizer.from_pretrained(resolve("smollm2-135m-instruct"))), 40
    recipe = replace(SMALL, batch=2, questions=3)
    narration, pair = (
        Turn(NARRATION_QUESTION, text_of(words)),
        Turn(DIFFERENCE_QUESTION, text_of(words)),
    )
    run = [("a", text_of(words)), ("b", text_of(words)), ("c", text_of(words))]
    packed = {
        "clips": Packer(chat, 4, SYSTEM).pack([[narration]] * 2),
        "pairs": Packer(chat, 4, PAIR_SYSTEM).pack([[pair] * 3] * 2),
        "sequences": Sequences([run, run], chat, 4, 2, 0).of([run, run]).rows,
    }
    for name, batch in packed.items():
        counted = needs.batch(recipe, name, words)
        assert counted.tokens == pytest.approx(int((batch.segment >= 0).sum()), rel=0.2), name
        assert counted.targets == pytest.approx(int((batch.targets >= 0).sum()), rel=0.3), name
        assert counted.rows == len(batch.ids)
    terms = "copper pan, wooden spoon, oil, chopped red onion"
    asked = replace(pair, question=f"Video 1: {terms}. Video 2: {terms}. {DIFFERENCE_QUESTION}")
    evidence = needs.batch(replace(recipe, evidence=EvidenceOptions()), "pairs", words)
    tokens = int((Packer(chat, 4, PAIR_SYSTEM).pack([[asked] * 3] * 2).segment >= 0).sum())
    assert evidence.tokens == pytest.approx(tokens, rel=0.2)
    silent = needs.batch(replace(recipe, evidence=EvidenceOptions(asked=False)), "pairs", words)
    assert silent.tokens < evidence.tokens
