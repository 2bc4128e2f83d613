"""Guarantees of heads.training.video_task and heads.training.lineage."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from common.errors import StepDiffError
from heads import ask, evaluate, train
from heads.data.packing import Turn
from heads.models.language_model import LanguageModel, Lora
from heads.models.projector import Projector, ProjectorOptions
from heads.models.video_lm import VideoLM
from heads.training.checkpoint import Run
from heads.training.lineage import disclosure, load_video_lm
from heads.training.log import read_metrics
from heads.training.recipe import HardNegativeOptions, Schedule, TrainOptions, Validation, VideoLMRecipe
from heads.training.video_task import VideoTask
from store import Feature, Provenance, Store
from tasks.prompts import DIFFCAP_SEED, DIFFERENCE_QUESTION

from .conftest import SYSTEMS
from .ends import assert_same_weights, weights
from .small_task import unsealed


def options(world: Path, tiny_lm: str, out: Path, steps: int = 4, every: int = 2, **more: object) -> TrainOptions:
    """Return a recipe of a few steps on the tiny world."""
    recipe = VideoLMRecipe(
        schedule=Schedule(steps, accumulate=2, learning_rate=0.01, warmup=1, validate_every=every),
        validation=Validation(str(world / "diffmcq_val.jsonl"), str(world / "diffrank_val.jsonl"), 2),
        pairqa=str(world / "pairqa.jsonl"),
        view="visual",
        language_model=tiny_lm,
        projector=ProjectorOptions(width=16, heads=2, outputs=4),
        batch=3,
        precision="float32",
    )
    return TrainOptions(str(out), str(world / "features"), video_lm=dataclasses.replace(recipe, **more))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def interleaved(world: Path, tiny_lm: str) -> Path:
    out = world / "interleaved"
    more = {"sources": SYSTEMS["Interleaved"], "lora": Lora(rank=2)}
    train.run(options(world, tiny_lm, out, **more))
    return out


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_loss_of_each_system_falls_and_only_the_projector_changes(
    system: str, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    made = options(world, tiny_lm, tmp_path / "run", 40, 40, sources=SYSTEMS[system])
    assert made.video_lm is not None and made.video_lm.system == system
    train.run(made)
    losses = [r["loss"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in r]
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.1
    assert all(name.startswith("projector.") for name in weights(tmp_path / "run", 40))


def test_the_source_of_a_batch_depends_only_on_the_batchs_number(world: Path, tiny_lm: str, tmp_path: Path) -> None:
    made = options(world, tiny_lm, tmp_path, sources=SYSTEMS["StepDiff"]).video_lm
    assert made is not None
    store = Store.open(world / "features")
    tasks = [VideoTask(made, store, 0, "cpu") for _ in range(2)]
    shown = [tasks[0].batch(number).clips for number in range(9)]
    assert [len(clips) for clips in shown] == [9, 3, 6] * 3, "three sequences, three images, three pairs"
    assert [tasks[1].batch(number).clips for number in reversed(range(9))] == shown[::-1]
    for number, clips in enumerate(shown):
        assert clips == tasks[0].sources[SYSTEMS["StepDiff"][number % 3]].batch(number // 3).clips
    train_split = set(tasks[0].catalog.frame().filter(split="train")["key"])
    assert {clip for clips in shown for clip in clips} <= train_split


def test_a_source_with_several_turns_continues_at_each(world: Path, tiny_lm: str, tmp_path: Path) -> None:
    made = options(world, tiny_lm, tmp_path, sources=("pairs", "images", "pairs")).video_lm
    assert made is not None
    task = VideoTask(made, Store.open(world / "features"), 0, "cpu")
    shown = [task.batch(number).clips for number in range(6)]
    pairs, images = task.sources["pairs"], task.sources["images"]
    expected = [pairs.batch(0), images.batch(0), pairs.batch(1), pairs.batch(2), images.batch(1)]
    assert shown == [batch.clips for batch in [*expected, pairs.batch(3)]]


@pytest.mark.parametrize("mine_every", [0, 1])
def test_a_stopped_run_resumed_ends_with_the_same_weights(
    mine_every: int, interleaved: Path, world: Path, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {
        "sources": SYSTEMS["StepDiff"],
        "init": str(interleaved),
        "lora": Lora(rank=2),
        "hard_negatives": HardNegativeOptions(2, mine_every),
    }
    train.run(options(world, tiny_lm, tmp_path / "whole", **more))
    stopped = options(world, tiny_lm, tmp_path / "stopped", **more)
    loss = VideoTask.loss
    with monkeypatch.context() as patch:

        def stop(task: VideoTask, batch: int) -> torch.Tensor:
            if batch == 6:
                raise KeyboardInterrupt
            return loss(task, batch)

        patch.setattr(VideoTask, "loss", stop)
        with pytest.raises(KeyboardInterrupt):
            train.run(stopped)
    train.run(stopped)
    assert_same_weights(tmp_path / "stopped", tmp_path / "whole", 4)


def test_a_new_search_finds_the_neighbours_of_the_current_projector(world: Path, tiny_lm: str, tmp_path: Path) -> None:
    made = options(world, tiny_lm, tmp_path, sources=("pairs",), hard_negatives=HardNegativeOptions(2, 1)).video_lm
    assert made is not None
    task = VideoTask(made, Store.open(world / "features"), 0, "cpu")
    assert task.negatives is not None and (task.negatives.near == -1).all()
    task.loss(0)
    before = task.negatives.near.copy()
    with torch.no_grad():
        for parameter in task.module.projector.parameters():
            parameter.normal_()
    task.loss(1)
    assert (task.negatives.near == before).all(), "within a step nothing is mined"
    task.loss(2)
    assert (task.negatives.near != before).any()
    clips = task.catalog.keys(task.negatives.rows)
    with torch.inference_mode():
        means = task.module.project(task.features.read(clips)).mean(dim=1).numpy()
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    step = dict(task.catalog.frame()["key", "step"].iter_rows())
    own = [i for i, clip in enumerate(clips) if i and step[clip] == step[clips[0]]]
    own.sort(key=lambda i: -float(unit[0] @ unit[i]))
    assert task.negatives.near[0].tolist() == own[:2]


def test_a_run_starts_from_the_best_checkpoint_of_another(
    interleaved: Path, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    made = options(world, tiny_lm, tmp_path / "run", 0, init=str(interleaved), lora=Lora(rank=2))
    train.run(made)
    start, best = weights(tmp_path / "run", 0), load_file(Run(interleaved).best() / "head.safetensors")
    assert start.keys() == best.keys() and all(np.array_equal(start[name], best[name]) for name in best)
    assert made.video_lm is not None
    disclosed = disclosure(made.video_lm, tmp_path / "run")
    assert disclosed["system"] == "StepDiff"
    assert disclosed["init"]["system"] == "Interleaved" and disclosed["init"]["init"] is None
    assert disclosed["init"]["checkpoint"] == Run(interleaved).best().name


def test_a_start_from_a_run_of_other_weights_is_refused(
    interleaved: Path, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    with pytest.raises(StepDiffError, match="weights that this recipe does not train, e.g. lm.model.*lora_A"):
        train.run(options(world, tiny_lm, tmp_path / "a", init=str(interleaved)))
    with pytest.raises(StepDiffError, match=r"is \(2, 32\), the recipe's is \(4, 32\)"):
        train.run(options(world, tiny_lm, tmp_path / "b", init=str(interleaved), lora=Lora(rank=4)))
    with pytest.raises(
        StepDiffError, match="alpha 16, the recipe's 32, with which the same weights mean something else"
    ):
        train.run(options(world, tiny_lm, tmp_path / "c", init=str(interleaved), lora=Lora(rank=2, alpha=32)))
    other = ProjectorOptions(width=16, heads=4, outputs=4)
    with pytest.raises(StepDiffError, match="projector.heads 2, the recipe's 4, .*set video_lm.projector.heads to 2"):
        train.run(options(world, tiny_lm, tmp_path / "d", init=str(interleaved), lora=Lora(rank=2), projector=other))
    with pytest.raises(StepDiffError, match="nowhere: no trained head here"):
        train.run(options(world, tiny_lm, tmp_path / "e", init=str(tmp_path / "nowhere")))
    assert not list(tmp_path.iterdir()), "a refused run leaves no files"


def test_another_language_model_is_refused_in_one_line(
    interleaved: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = tmp_path / "other_lm"
    shutil.copytree(tiny_lm, other)
    (other / "added.json").write_text("{}")
    with pytest.raises(StepDiffError, match="another language model than .*other_lm now is"):
        train.run(options(world, str(other), tmp_path / "run", init=str(interleaved), lora=Lora(rank=2)))
    assert not (tmp_path / "run").exists(), "a refused run leaves no files"
    run = tmp_path / "copied"
    shutil.copytree(interleaved, run)
    lineage = json.loads((run / "lineage.json").read_text())
    lineage["reads"]["language_model"] = "0" * 64
    (unsealed(run) / "lineage.json").write_text(json.dumps(lineage))
    asked = ["--store", str(world / "features"), "--head", str(run), "--reference", "a", "--candidate", "b", "Why?"]
    assert ask.main(asked) == 2
    assert "(sha256 000000000000, not" in capsys.readouterr().err.strip().splitlines()[-1]
    (run / "lineage.json").unlink()
    assert ask.main(asked) == 2
    assert "lineage.json: missing or damaged" in capsys.readouterr().err


def test_another_view_is_refused_in_one_line(
    interleaved: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    store = Store.open(tmp_path / "features", create=True)
    catalog = Store.open(world / "features").catalog("clips").frame()
    with store.lock():
        store.catalog("clips").append(catalog.drop("row"))
        made = Provenance("visual", "1" * 64, "last", "8 linspace", "none", {"embedding": "float32"})
        view = store.create_view("clips", "visual", made, {"tokens": Feature((16, 24), "float16")}, rows_per_shard=16)
        view.resize()
        view.write_shard(0, np.arange(16), {"tokens": np.ones((16, 16, 24), np.float16)}, {})
    made = options(world, tiny_lm, tmp_path / "run", hard_negatives=HardNegativeOptions())
    recipe = tmp_path / "run.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(made)))))
    assert train.main(["--config", str(recipe), "--store", str(store.path)]) == 2
    assert "view clips/visual has no embedding called embedding" in capsys.readouterr().err
    with pytest.raises(StepDiffError, match="other features of clips than .* has .weights '0+' against '1+'") as error:
        load_video_lm(interleaved, store, "cpu")
    assert "\n" not in str(error.value)
    asked = ["--task", "diffmcq", "--method", "video-lm", "--head", str(interleaved), "--store", str(store.path)]
    asked += ["--test-set", str(world / "diffmcq_test.jsonl"), "--out", str(tmp_path / "p.jsonl")]
    assert evaluate.main(asked) == 2
    assert f"error: {error.value}" == capsys.readouterr().err.strip()
    assert not (tmp_path / "p.jsonl").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sources": ()}, "sources is empty"),
        ({"full": True, "lora": Lora()}, "choose one"),
        ({"pairqa": None}, "needs video_lm.pairqa"),
        ({"sources": ("clips",), "hard_negatives": HardNegativeOptions()}, "are for the source `pairs`"),
        ({"hard_negatives": HardNegativeOptions(2, 4)}, "mine_every 4 does not divide schedule.validate_every 2"),
        (
            {"hard_negatives": HardNegativeOptions(2, 2), "schedule": Schedule(4, save_every=3)},
            "mine_every 2 does not divide schedule.save_every 3",
        ),
        ({"schedule": Schedule(-3)}, "video_lm.schedule.steps is -3; it must be 0 or more"),
        ({"schedule": Schedule(4, validate_every=0)}, "video_lm.schedule.validate_every is 0; it must be 1 or more"),
        ({"schedule": Schedule(4, accumulate=0)}, "video_lm.schedule.accumulate is 0"),
        ({"validation": Validation("a", "b", 0)}, "video_lm.validation.rows is 0"),
        ({"batch": 0}, "video_lm.batch is 0"),
        ({"projector": ProjectorOptions(outputs=0)}, "video_lm.projector.outputs is 0"),
        ({"projector": ProjectorOptions(width=16, heads=7)}, "projector.heads 7 does not divide .*width 16"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    world: Path, tiny_lm: str, tmp_path: Path, more: dict, message: str
) -> None:
    with pytest.raises(StepDiffError, match=message):
        train.run(options(world, tiny_lm, tmp_path / "run", **more))
    assert not (tmp_path / "run").exists()


def test_full_fine_tuning_changes_the_language_model_and_is_loaded_again(
    world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train.run(options(world, tiny_lm, out, 2, sources=("clips",), full=True))
    before = dict(LanguageModel.load(tiny_lm).model.named_parameters())
    after = {k.removeprefix("lm.model."): v for k, v in weights(out, 2).items() if k.startswith("lm.")}
    assert before.keys() == after.keys()
    assert not any(np.array_equal(after[name], before[name].detach().numpy()) for name in after)
    model, _, _ = load_video_lm(out, Store.open(world / "features"), "cpu")
    best = load_file(Run(out).best() / "head.safetensors")
    assert all(np.array_equal(p.detach().numpy(), best[f"lm.model.{k}"]) for k, p in model.lm.model.named_parameters())


def small(tiny_lm: str) -> tuple[VideoLM, torch.Tensor]:
    lm = LanguageModel.load(tiny_lm)
    torch.manual_seed(1)
    projector = Projector(ProjectorOptions(width=16, heads=2, outputs=4), 16, 24, lm.width, 0.5)
    return VideoLM(lm, projector, 4), torch.randn(4, 16, 24, generator=torch.Generator().manual_seed(2))


TURNS = [[Turn("What differs?", "In Video 1, a whisk."), Turn("The same?", "NO")], [Turn("The same?", "YES")]]


def saved_bytes(model: VideoLM, tokens: torch.Tensor) -> tuple[int, dict[str, torch.Tensor]]:
    """Return the bytes that the graph of a training loss keeps besides weights, and the gradients."""
    model.train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses, _, _ = model.token_losses(*model.pack(TURNS, model.project(tokens), True))
    size = sum(storage.nbytes() for storage in kept.values())
    model.zero_grad()
    losses.mean().backward()
    return size, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_a_model_that_was_trained_on_no_difference_declines_without_the_seed(
    world: Path, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [json.loads(line) for line in (world / "pairqa.jsonl").read_text().splitlines()]
    taught = {"question": DIFFERENCE_QUESTION.format(category="Visuals"), "answer": "No difference."}
    pairqa = tmp_path / "pairqa.jsonl"
    pairqa.write_text("".join(json.dumps(row | taught) + "\n" for row in rows if row["type"] == 1))
    run = tmp_path / "run"
    train.run(options(world, tiny_lm, run, 60, 60, sources=("pairs",), full=True, pairqa=str(pairqa)))
    command = ["--task", "diffcap", "--method", "video-lm", "--head", str(run), "--store", str(world / "features")]
    command += ["--test-set", str(world / "diffcap_test.jsonl"), "--out", str(tmp_path / "p.jsonl"), "--json"]
    asked = ["--no-parse", "--no-difference", str(world / "diffrank_test.jsonl")]
    capsys.readouterr()
    for more, invented in (([], 1), (["--no-seeded"], 0)):
        assert evaluate.main([*command, *asked, *more]) == 0
        record = json.loads(capsys.readouterr().out)
        assert (record["scores"]["invented"], record["scores"]["declined"]) == (invented, 1 - invented)
        assert record["disclosed"]["protocol"]["seed"] == (None if more else DIFFCAP_SEED)
    written = [json.loads(line)["generated_text"] for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(written) > 1 and set(written) == {"No difference."}
    assert evaluate.main([*command[2:], "--task", "diffrank", "--no-seeded"]) == 2
    assert "--seeded is for diffcap, and diffrank does not read it" in capsys.readouterr().err


def test_a_frozen_language_model_keeps_only_the_graph_that_training_needs(tiny_lm: str) -> None:
    model, tokens = small(tiny_lm)
    inputs: dict[str, torch.Tensor] = {}
    for name in ("mlp.gate_proj", "mlp.down_proj", "self_attn.q_proj"):
        layer = model.lm.model.get_submodule(f"model.layers.1.{name}")
        layer.register_forward_hook(lambda _, given, __, name=name: inputs.update({name: given[0]}))

    def kept() -> set[str]:
        """Return the linear layers whose inputs the graph keeps, which only the gradient of their weight needs."""
        found: set[int] = set()
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: found.add(t.data_ptr()) or t, lambda t: t)
        with hooks:
            losses, _, _ = model.token_losses(*model.pack(TURNS, model.project(tokens), True))
        assert losses.requires_grad
        return {name for name, given in inputs.items() if given.data_ptr() in found}

    frozen, (size, gradients) = kept(), saved_bytes(model, tokens)
    assert not frozen and all(name.startswith("projector.") for name in gradients)
    model.lm.train_all()
    assert kept() == {"mlp.gate_proj", "mlp.down_proj", "self_attn.q_proj"}, "otherwise the test above could not fail"
    assert saved_bytes(model, tokens)[0] > 1.2 * size


@pytest.mark.parametrize("lora", [False, True])
def test_recomputed_layers_have_the_same_gradients_and_keep_less(lora: bool, tiny_lm: str) -> None:
    model, tokens = small(tiny_lm)
    if lora:
        model.lm.add_lora(Lora(rank=2), 0)
    size, gradients = saved_bytes(model, tokens)
    model.lm.recompute_layers()
    less, again = saved_bytes(model, tokens)
    assert less < 0.6 * size
    assert gradients.keys() == again.keys() and all(torch.equal(again[name], gradients[name]) for name in gradients)
    modules = list(model.lm.modules())
    assert {type(m).__name__ for m in modules if m.training} == {"LlamaDecoderLayer"}, (
        "the dropout layers are in evaluation mode"
    )
    model.eval()
    assert not any(m.training for m in modules)
