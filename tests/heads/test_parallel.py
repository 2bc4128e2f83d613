"""Several processes: a divided training and a divided head are those of one process; launched by
torchrun."""

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from heads import evaluate, train
from heads.data.clips import Features
from heads.methods import stepdiff
from heads.models.video_lm import VideoLM
from heads.planning import needs
from heads.training.contrastive_task import ContrastiveTask
from heads.training.log import read_metrics
from heads.training.recipe import Scaling, read_recipe
from heads.training.run_record import division
from heads.training.video_task import VideoTask
from heads.workers.group import Group, joined
from stepdiff_core.errors import StepDiffError
from store import Store
from tests.refusals import refuses

from . import runs
from .conftest import CLIPS, TOOLS, Capture, contrastive, evaluation, read_rows, recipe, write_rows
from .runs import RUNS, assert_same_weights, command, in_processes, near, weights

pytestmark = pytest.mark.timeout(1000)
LORA = {"lora": {"rank": 2}}
MODES: dict[str, dict[str, Any]] = {
    "projector": {"lora": None},
    "lora": LORA,
    "lora recomputed": LORA | {"gradient_checkpointing": True},
    "full": {"lora": None, "full": True, "gradient_checkpointing": True},
}


def language_model(kind: str, tiny_lm: str, folder: Path) -> str:
    """Write a random model of a few weights; its rows do not divide evenly among two processes."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

    configs = {
        "smollm2": (
            LlamaConfig,
            {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 36},
        ),
        "qwen2": (
            Qwen2Config,
            {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32},
        ),
        "qwen3": (
            Qwen3Config,
            {"num_attention_heads": 4, "num_key_value_heads": 1, "hidden_size": 32, "head_dim": 8},
        ),
    }
    if kind == "llama":
        return tiny_lm
    made, more = configs[kind]
    shutil.copytree(
        tiny_lm, folder / kind, ignore=shutil.ignore_patterns("*.safetensors", "config.json")
    )
    common = json.loads((Path(tiny_lm) / "config.json").read_text())
    torch.manual_seed(1)
    config = made(
        vocab_size=common["vocab_size"],
        intermediate_size=63,
        num_hidden_layers=2,
        initializer_range=0.2,
        eos_token_id=common["eos_token_id"],
        bos_token_id=None,
        tie_word_embeddings=kind != "qwen3",
        **more,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / kind)
    return str(folder / kind)


def step(path: str, group: Group, scaling: Scaling) -> dict[str, Any]:
    """Return loss and summed gradients of the first step of a recipe, and the bytes of the weights
    held here."""
    options = read_recipe(Path(path))
    assert options.video_lm is not None
    task = VideoTask(options.video_lm, Store.open(options.store), 0, "cpu", None, group, scaling)
    task.module.train()
    total = 0.0
    for batch in range(group.rank, options.video_lm.schedule.accumulate, group.size):
        loss = task.loss(batch) / options.video_lm.schedule.accumulate
        loss.backward()
        total += loss.item()
    named = {name: p for name, p in task.module.named_parameters() if p.requires_grad}
    group.sum_gradients(named.values())
    gradients = group.whole({name: p.grad for name, p in named.items() if p.grad is not None})
    norm = group.clip(list(named.values()), 1e9)
    assert all(p.grad is None for p in task.module.parameters() if not p.requires_grad)
    own = sum(
        p.to_local().nbytes if hasattr(p, "to_local") else p.nbytes
        for p in task.module.lm.parameters()
    )
    return {
        "loss": group.sum([total])[0],
        "norm": norm,
        "bytes": own,
        "gradients": {name: value.numpy() for name, value in gradients.items()}
        if group.first
        else {},
        "validated": task.validate(),
    }


def planned(path: str, scaling: Scaling) -> float:
    """Return the bytes of the language model's weights in a process, as --dry-run plans them."""
    recipe = read_recipe(Path(path)).video_lm
    assert recipe is not None
    config, _ = needs.configuration(recipe.language_model)
    with torch.device("meta"):
        memory = needs.weights(
            needs.language_model(config, recipe, torch.float32), nn.Module(), scaling
        ).memory
    return memory.frozen + memory.trained


def steps(paths: list[str], scalings: list[Scaling]) -> list[list[dict[str, Any]]]:
    """Return the result of `step` for each recipe and scaling."""
    with joined(scalings[0], "cpu") as group:
        return [[step(path, group, scaling) for scaling in scalings] for path in paths]


def close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Assert that two results of `step` agree to 1e-5 relative to the largest gradient of each
    weight."""
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert ours["norm"] == pytest.approx(theirs["norm"], rel=1e-5)
    assert ours["gradients"].keys() == theirs["gradients"].keys() != set()
    for name, value in theirs["gradients"].items():
        np.testing.assert_allclose(
            ours["gradients"][name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name
        )


@pytest.mark.full
def test_a_divided_model_has_the_gradients_of_a_whole_one(
    world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    paths = {}
    for kind, modes in {
        "llama": list(MODES),
        "smollm2": ["lora"],
        "qwen2": ["full"],
        "qwen3": ["projector"],
    }.items():
        lm = language_model(kind, tiny_lm, tmp_path)
        for mode in modes:
            out = tmp_path / f"{kind} {mode}" / "recipe"
            out.parent.mkdir()
            paths[out.parent.name] = str(recipe(world, lm, out, precision="float32", **MODES[mode]))
    whole, divided = Scaling(workers=2), Scaling(workers=2, fsdp=True)
    (alone,) = in_processes(steps, 0, tmp_path / "alone", [*paths.values()], [Scaling()])
    first, second = in_processes(steps, 2, tmp_path / "two", [*paths.values()], [whole, divided])
    for name, (one,), (two, shared), (_, other) in zip(paths, alone, first, second, strict=True):
        print(name)
        close(two, one)
        close(shared, one)
        assert two["validated"] == one["validated"]
        assert shared["validated"] == pytest.approx(one["validated"], rel=1e-5)
        assert two["bytes"] == one["bytes"]
        held = (shared["bytes"], other["bytes"])
        assert max(held) == planned(paths[name], divided) and one["bytes"] == planned(
            paths[name], whole
        )
        assert max(held) < one["bytes"] < sum(held), (
            "each holds its share of the layers, and the rest"
        )


def contrastive_step(path: str) -> dict[str, Any]:
    """Return loss and summed gradients of the first batch of a contrastive recipe."""
    options = read_recipe(Path(path))
    assert options.contrastive is not None
    with joined(Scaling(), "cpu") as group:
        task = ContrastiveTask(
            options.contrastive, Store.open(options.store), 0, "cpu", None, group
        )
        torch.manual_seed(3)
        loss = task.loss(0)
        loss.backward()
        named = dict(task.module.named_parameters())
        group.sum_gradients(named.values())
        gradients = {name: p.grad.numpy() for name, p in named.items() if p.grad is not None}
        norm = group.clip(list(named.values()), 1e9)
        return {
            "loss": group.sum([loss.item()])[0],
            "norm": norm,
            "gradients": gradients,
            "figures": task.validate(),
        }


def paired(world: Path, folder: Path) -> dict[str, Any]:
    """Return options of contrastive.pairs whose texts have features."""
    rows = []
    for i in range(11):
        both = {"reference": CLIPS[i], "candidate": CLIPS[i + 1], "question": "What?"}
        for answer in (f"now the {TOOLS[i % 3]} goes around, number {i}", "YES" if i % 2 else "NO"):
            rows.append(both | {"answer": answer})
    path = folder / "pairs.jsonl"
    write_rows(path, rows)
    return {"pairqa": str(path), "pairs": 5}


@pytest.mark.full
def test_gathered_negatives_have_the_gradients_of_one_process(world: Path, tmp_path: Path) -> None:
    more = {
        "clips": 7,
        "leave_out": 0.25,
        "schedule": {"steps": 4, "accumulate": 1, "warmup": 0, "validate_every": 2},
    }
    pairs = paired(world, tmp_path)  # no batch divides evenly among two processes
    path = str(contrastive(str(world / "features"), tmp_path / "recipe", pairs=pairs, **more))
    (one,) = in_processes(contrastive_step, 0, tmp_path / "alone", path)
    first, second = in_processes(contrastive_step, 2, tmp_path / "two", path)
    assert "log_scale" in one["gradients"]
    close(first, one)
    close(second, one)
    assert first["figures"] == pytest.approx(one["figures"], rel=1e-5)


def out_of_memory(path: str) -> int:
    """Run heads.train, in which the second process fails in the third batch."""
    loss = VideoTask.loss

    def failing(task: VideoTask, batch: int, following: int | None = None) -> torch.Tensor:
        if batch == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss(task, batch, following)

    VideoTask.loss = failing  # type: ignore[method-assign]
    return train.main(["--config", path])


@pytest.mark.full
def test_a_worker_out_of_memory_names_the_settings_to_change(
    world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    path = str(recipe(world, tiny_lm, tmp_path / "run", **RUNS))
    assert in_processes(out_of_memory, 2, tmp_path / "logs", path) == [2, 2]
    logs = [(tmp_path / f"logs/rank-{rank}.log").read_text() for rank in (0, 1)]
    assert any("error: worker 1 is out of memory: halve batch and double" in log for log in logs)
    assert not any("Traceback" in log for log in logs)


@pytest.mark.full
def test_any_number_of_processes_trains_the_same_weights(
    world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    def config(name: str) -> str:
        return str(recipe(world, tiny_lm, tmp_path / name, **RUNS))

    assert in_processes(command, 0, tmp_path / "logs/alone", config("alone")) == [0]
    assert in_processes(command, 2, tmp_path / "logs/two", config("two")) == [0, 0]
    near(tmp_path / "two", tmp_path / "alone")
    for rank, batch in ((1, 7), (0, 4)):  # the second batch of step 4, the first of step 3
        name = f"killed {rank}"
        in_processes(
            command, 2, tmp_path / "logs/killed", config(name), (rank, batch), dies=(rank,)
        )
        assert not (tmp_path / name / "checkpoint-000006").exists()
        assert in_processes(command, 2, tmp_path / "logs/resumed", config(name)) == [0, 0]
        assert "resumes from checkpoint-00000" in (tmp_path / "logs/resumed/rank-0.log").read_text()
        assert_same_weights(tmp_path / name, tmp_path / "two")
    in_processes(command, 0, tmp_path / "logs/a", config("changing"), (0, 4), dies=(0,))
    in_processes(command, 2, tmp_path / "logs/b", config("changing"), (1, 9), dies=(1,))
    assert in_processes(command, 0, tmp_path / "logs/c", config("changing")) == [0]
    assert "resumes from checkpoint-000004" in (tmp_path / "logs/c/rank-0.log").read_text()
    near(tmp_path / "changing", tmp_path / "alone")
    # only the first process writes
    assert len(list((tmp_path / "two/tensorboard").iterdir())) == 1
    steps = [
        record["step"]
        for record in read_metrics(tmp_path / "two/metrics.jsonl")
        if "loss" in record
    ]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert "step 6/6" in (tmp_path / "logs/two/rank-0.log").read_text()
    assert "two:" not in (tmp_path / "logs/two/rank-1.log").read_text()


@pytest.mark.full
@pytest.mark.parametrize("full", [True, False])
def test_a_divided_run_is_resumed_by_one_process(
    full: bool, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    shared = ("--scaling.fsdp", "true")

    def config(name: str) -> str:
        more = {"lora": None, "full": full, "precision": "float32"}
        return str(recipe(world, tiny_lm, tmp_path / name, **more, **RUNS))

    assert in_processes(command, 0, tmp_path / "logs/alone", config("alone")) == [0]
    in_processes(command, 2, tmp_path / "logs/killed", config("run"), (1, 9), shared, dies=(1,))
    assert in_processes(
        command, 2, tmp_path / "logs/divided", config("run"), (1, 11), shared, dies=(1,)
    ) != [0, 0]
    assert in_processes(command, 0, tmp_path / "logs/whole", config("run")) == [0]
    assert "resumes from checkpoint-000005" in (tmp_path / "logs/whole/rank-0.log").read_text()
    near(tmp_path / "run", tmp_path / "alone")


def test_an_address_is_refused_under_torchrun(
    world: Path, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    path = str(recipe(world, tiny_lm, tmp_path / "run", **RUNS))
    started = "--address auto starts workers on Ray, and torchrun has started its own"
    refuses(train.main, ["--config", path, "--address", "auto"], capsys, started)
    assert not (tmp_path / "run").exists()


@pytest.mark.full
def test_workers_that_torchrun_does_not_start_are_reported_once(
    world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    path = str(recipe(world, tiny_lm, tmp_path / "run", schedule={"steps": 2, "accumulate": 3}))
    assert in_processes(command, 2, tmp_path / "logs", path, None, ["--scaling.workers", "3"]) == [
        2,
        2,
    ]
    first, second = (
        (tmp_path / f"logs/rank-{rank}.log").read_text().splitlines() for rank in (0, 1)
    )
    refused = (
        "error: video_lm.schedule.accumulate 3, the batches of a step, does not divide among 2 "
        "workers; "
    )
    assert (
        len(first) == 2
        and "scaling.workers 3 is not used: the workers are the 2 processes" in first[0]
    )
    assert first[1].startswith(refused)
    assert len(second) == 1 and second[0].startswith(refused), "the other processes print no notice"


METHODS = {"diffmcq": "video-lm", "diffcap": "video-lm", "diffrank": "stepdiff"}
"""task -> method, by both of its names"""


@pytest.fixture(scope="module")
def full(world: Path, tiny_lm: str) -> Path:
    """A head whose language model was trained in full, in float32; its captions end at one of many
    tokens."""
    out, lm = world / "full", world / "lm"
    shutil.copytree(tiny_lm, lm)
    vocabulary = json.loads((lm / "config.json").read_text())["vocab_size"]
    (lm / "generation_config.json").write_text(
        json.dumps({"eos_token_id": list(range(0, vocabulary, 8))})
    )
    made = recipe(world, str(lm), out, lora=None, full=True, precision="float32")
    assert train.main(["--config", str(made)]) == 0
    return out


def commands(world: Path, head: Path, out: Path) -> list[list[str]]:
    """Return one evaluation for each task."""
    more, captions = ["--head", str(head), "--rows-at-once", "9"], out / "captions.jsonl"
    rows = read_rows(world / "diffmcq_test.jsonl")
    pairs = [*dict.fromkeys((a, b) for row in rows for a, b in row["options"])]
    pairs = pairs[::2] + pairs[1::2]  # of `full`, the second process's captions end early
    asked = [
        {"reference": a, "candidate": b, "category": "Visuals", "text": ["a spoon"]}
        for a, b in pairs
    ]
    write_rows(captions, asked)
    found = [
        evaluation(world, task, method, out / f"{task}.jsonl", *more)
        for task, method in METHODS.items()
    ]
    found[list(METHODS).index("diffcap")].append("--ask-similar")
    return [
        [str(captions) if given.endswith("diffcap_test.jsonl") else given for given in one]
        for one in found
    ]


def evaluated(given: list[str]) -> int:
    return evaluate.main(given)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["frozen", "trained", "full"])
def test_a_divided_head_answers_as_a_whole_one(
    kind: str, world: Path, tmp_path: Path, capsys: Capture, request: pytest.FixtureRequest
) -> None:
    """Only the first process writes."""
    head = request.getfixturevalue(kind)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert [evaluate.main(given) for given in commands(world, head, one)] == [0, 0, 0]
    capsys.readouterr()
    for task, given in zip(METHODS, commands(world, head, two), strict=True):
        assert in_processes(evaluated, 2, tmp_path / task, given) == [0, 0]
        logs = [(tmp_path / task / f"rank-{rank}.log").read_text() for rank in (0, 1)]
        assert "predictions: " in logs[0] and "predictions: " not in logs[1]
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    if kind == "full":
        lengths = {
            len(json.loads(line)["generated_text"])
            for line in (one / "diffcap.jsonl").read_text().splitlines()
        }
        assert len(lengths) > 1
    for task in METHODS:
        rows = [read_rows(folder / f"{task}.jsonl") for folder in (one, two)]
        assert len(rows[0]) == len(rows[1]) > 0
        for whole, divided in zip(*rows, strict=True):
            assert whole.keys() == divided.keys()
            for name, value in whole.items():
                same = (
                    divided[name]
                    if isinstance(value, str)
                    else pytest.approx(divided[name], rel=1e-4, abs=1e-4)
                )
                assert value == same, (task, name)


@pytest.mark.full
def test_what_cannot_be_divided_is_refused(world: Path, trained: Path, tmp_path: Path) -> None:
    (given, *_) = commands(world, trained, tmp_path)
    assert in_processes(evaluated, 2, tmp_path / "workers", [*given, "--workers", "2"]) == [2, 2]
    assert "torchrun divides the language model" in (tmp_path / "workers/rank-1.log").read_text()


def failing(given: list[str], rank: int) -> int:
    """Run a evaluation of which one process fails at its second batch of texts."""
    own, calls = VideoLM.log_likelihoods, [0]

    def fails(self: VideoLM, *more: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2 and int(os.environ["RANK"]) == rank:
            raise StepDiffError("no such luck")
        return own(self, *more)

    with patch.object(VideoLM, "log_likelihoods", fails), patch.object(stepdiff, "ROWS_A_BATCH", 1):
        return evaluate.main(given)


@pytest.mark.full
def test_a_process_that_fails_ends_the_others(world: Path, trained: Path, tmp_path: Path) -> None:
    (given, *_) = commands(world, trained, tmp_path)
    # not after scaling.timeout
    assert in_processes(failing, 2, tmp_path / "logs", given, 1, seconds=500) == [2, 2]
    other, failed = ((tmp_path / f"logs/rank-{rank}.log").read_text() for rank in (0, 1))
    assert "no such luck" in failed and "another worker ended" in other


@pytest.mark.full
def test_a_port_in_use_is_one_line(
    world: Path, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(runs, "free_port", lambda: port)
        path = str(recipe(world, tiny_lm, tmp_path / "run", **RUNS))
        assert in_processes(
            command, 1, tmp_path / "logs", path, None, ["--scaling.fsdp", "true"]
        ) == [2]
    assert (
        f"error: port {port} is in use: start torchrun"
        in (tmp_path / "logs/rank-0.log").read_text()
    )


def test_a_public_head_is_refused_before_processes_meet(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "public")
    made = yaml.safe_load((trained / "recipe.yaml").read_text())
    made["video_lm"]["public"] = True
    (tmp_path / "public/recipe.yaml").write_text(yaml.safe_dump(made))
    (tmp_path / "public/SHA256SUMS").unlink()
    with pytest.raises(
        StepDiffError, match="public: a video_lm.public model is not divided; evaluate it without"
    ):
        division(tmp_path / "public", 2)
    assert division(tmp_path / "public", 1) == Scaling()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_features_on_a_gpu_are_those_on_a_cpu(world: Path) -> None:
    store = Store.open(world / "features")
    features, clips = (
        Features(store, "visual", "tokens"),
        store.catalog("clips").keys(np.arange(24)),
    )
    assert torch.equal(features.read(clips, "cuda").cpu(), features.read(clips))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "mode", [{"lora": None}, {"lora": {"rank": 2}}, {"lora": None, "full": True}]
)
def test_fsdp_in_one_process_trains_as_a_whole_model(
    mode: dict[str, Any], world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    for name in ("false", "true"):
        made = recipe(world, tiny_lm, tmp_path / name, precision="float32", **mode)
        assert train.main(["--config", str(made), "--device", "cuda", "--scaling.fsdp", name]) == 0
    divided = weights(tmp_path / "true")
    for name, value in weights(tmp_path / "false").items():
        np.testing.assert_allclose(
            divided[name], value, rtol=0, atol=1e-3 * np.abs(value).max(), err_msg=name
        )
