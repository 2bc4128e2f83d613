"""Guarantees of heads.workers.group, heads.models.parallelize, heads.training.loop for several processes."""

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from common.errors import StepDiffError
from heads import train
from heads.planning import architecture
from heads.planning.memory import weights as weights_of
from heads.training.contrastive_task import ContrastiveTask
from heads.training.log import read_metrics
from heads.training.recipe import Scaling, read_recipe
from heads.training.video_task import VideoTask
from heads.workers.group import ALONE, Group, joined
from store import Store

from .conftest import TOOLS, recipe
from .ends import assert_same_weights, weights
from .processes import in_processes
from .small_task import trained as small_run

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
        "smollm2": (LlamaConfig, {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 36}),
        "qwen2": (Qwen2Config, {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32}),
        "qwen3": (Qwen3Config, {"num_attention_heads": 4, "num_key_value_heads": 1, "hidden_size": 32, "head_dim": 8}),
    }
    if kind == "llama":
        return tiny_lm
    made, more = configs[kind]
    shutil.copytree(tiny_lm, folder / kind, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    common = json.loads((Path(tiny_lm) / "config.json").read_text())
    torch.manual_seed(1)
    config = made(
        vocab_size=common["vocab_size"], intermediate_size=63, num_hidden_layers=2, initializer_range=0.2,
        eos_token_id=common["eos_token_id"], bos_token_id=None, tie_word_embeddings=kind != "qwen3", **more
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / kind)
    return str(folder / kind)


def step(path: str, group: Group, scaling: Scaling) -> dict[str, Any]:
    """Return loss and summed gradients of the first step of a recipe, and the bytes of the weights held here."""
    options = read_recipe(Path(path))
    assert options.video_lm is not None
    task = VideoTask(options.video_lm, Store.open(options.store), 0, "cpu", None, group, scaling)
    task.module.train()
    total = 0.0
    for batch in group.own(range(options.video_lm.schedule.accumulate)):
        loss = task.loss(batch) / options.video_lm.schedule.accumulate
        loss.backward()
        total += loss.item()
    named = {name: p for name, p in task.module.named_parameters() if p.requires_grad}
    group.sum_gradients(named.values())
    gradients = group.whole({name: p.grad for name, p in named.items() if p.grad is not None})
    norm = group.clip(list(named.values()), 1e9)
    assert all(p.grad is None for p in task.module.parameters() if not p.requires_grad)
    own = sum(p.to_local().nbytes if hasattr(p, "to_local") else p.nbytes for p in task.module.lm.parameters())
    return {
        "loss": group.sum([total])[0],
        "norm": norm,
        "bytes": own,
        "gradients": {name: value.numpy() for name, value in gradients.items()} if group.first else {},
        "validated": task.validate(),
    }


def planned(path: str, scaling: Scaling) -> float:
    """Return the bytes of the language model's weights in a process, as --dry-run plans them."""
    recipe = read_recipe(Path(path)).video_lm
    assert recipe is not None
    config, _ = architecture.configuration(recipe.language_model)
    memory = weights_of(architecture.language_model(config, recipe, torch.float32), nn.Module(), scaling).memory
    return memory.frozen + memory.trained


def steps(paths: list[str], scalings: list[Scaling]) -> list[list[dict[str, Any]]]:
    """Return the result of `step` for each recipe and scaling."""
    with joined(scalings[0], "cpu") as group:
        return [[step(path, group, scaling) for scaling in scalings] for path in paths]


def close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Assert that two results of `step` agree to 1e-5 relative to the largest gradient of each weight."""
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert ours["norm"] == pytest.approx(theirs["norm"], rel=1e-5)
    assert ours["gradients"].keys() == theirs["gradients"].keys() != set()
    for name, value in theirs["gradients"].items():
        np.testing.assert_allclose(
            ours["gradients"][name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name
        )


def test_a_divided_model_has_the_losses_and_gradients_of_a_whole_one(world: Path, tiny_lm: str, tmp_path: Path) -> None:
    paths = {}
    for kind, modes in {"llama": list(MODES), "smollm2": ["lora"], "qwen2": ["full"], "qwen3": ["projector"]}.items():
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
        assert max(held) == planned(paths[name], divided) and one["bytes"] == planned(paths[name], whole)
        assert max(held) < one["bytes"] < sum(held), "each holds its share of the layers, and the rest"


def test_tensor_parallel_layers_have_the_losses_and_gradients_of_whole_ones(
    world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    paths = []
    for kind in ("llama", "qwen2", "qwen3"):
        lm, out = language_model(kind, tiny_lm, tmp_path), tmp_path / f"{kind} recipe" / "recipe"
        out.parent.mkdir()
        paths.append(str(recipe(world, lm, out, precision="float32", lora=None)))
    (alone,) = in_processes(steps, 0, tmp_path / "alone", paths[:2], [Scaling()])
    together = Scaling(workers=2, tensor_parallel=2)
    first, second = in_processes(steps, 2, tmp_path / "two", paths[:2], [together])
    for path, (one,), (two,), (other,) in zip(paths[:2], alone, first, second, strict=True):
        close(two, one)
        assert max(two["bytes"], other["bytes"]) == planned(path, together)
        assert two["validated"] == pytest.approx(one["validated"], rel=1e-5)
        assert max(two["bytes"], other["bytes"]) < 0.8 * one["bytes"]
    for error in in_processes(refused, 2, tmp_path / "refused", paths[2]):
        assert "2 processes cannot compute it together" in error and "\n" not in error


def refused(path: str) -> str:
    """Return the error of a language model whose one key head two processes cannot divide."""
    with pytest.raises(StepDiffError) as error:
        steps([path], [Scaling(workers=2, tensor_parallel=2)])
    return str(error.value)


def contrastive(world: Path, out: Path, **more: Any) -> Path:
    """Write a recipe of a contrastive head; its batches do not divide evenly among two processes."""
    options = {
        "view": "visual",
        "text_view": "words",
        "projector": {"width": 16, "heads": 2, "outputs": 1},
        "width": 8,
        "clips": 7,
        "leave_out": 0.25,
        "schedule": {"steps": 4, "accumulate": 1, "warmup": 0, "validate_every": 2},
    }
    path = out.with_suffix(".yaml")
    options |= more
    path.write_text(yaml.safe_dump({"store": str(world / "features"), "out": str(out), "contrastive": options}))
    return path


def contrastive_step(path: str) -> dict[str, Any]:
    """Return loss and summed gradients of the first batch of a contrastive recipe."""
    options = read_recipe(Path(path))
    assert options.contrastive is not None
    with joined(Scaling(), "cpu") as group:
        task = ContrastiveTask(options.contrastive, Store.open(options.store), 0, "cpu", None, group)
        torch.manual_seed(3)
        loss = task.loss(0)
        loss.backward()
        named = dict(task.module.named_parameters())
        group.sum_gradients(named.values())
        gradients = {name: p.grad.numpy() for name, p in named.items() if p.grad is not None}
        norm = group.clip(list(named.values()), 1e9)
        return {"loss": group.sum([loss.item()])[0], "norm": norm, "gradients": gradients, "figures": task.validate()}


def paired(world: Path, folder: Path) -> dict[str, Any]:
    """Return options of contrastive.pairs whose texts have features."""
    clips = [f"video-_{i}_0.0_{i + 1}.5" for i in range(12)]
    rows = []
    for i in range(11):
        both = {"reference": clips[i], "candidate": clips[i + 1], "question": "What?"}
        for answer in (f"now the {TOOLS[i % 3]} goes around, number {i}", "YES" if i % 2 else "NO"):
            rows.append(both | {"answer": answer})
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"pairqa": str(path), "pairs": 5}


def test_negatives_are_gathered_from_all_processes_with_the_gradients_of_one(world: Path, tmp_path: Path) -> None:
    path = str(contrastive(world, tmp_path / "recipe", pairs=paired(world, tmp_path)))
    (one,) = in_processes(contrastive_step, 0, tmp_path / "alone", path)
    first, second = in_processes(contrastive_step, 2, tmp_path / "two", path)
    assert "log_scale" in one["gradients"]
    close(first, one)
    close(second, one)
    assert first["figures"] == pytest.approx(one["figures"], rel=1e-5)


def command(path: str, dies: tuple[int, int] | None = None, more: Sequence[str] = ()) -> int:
    """Run heads.train; dies: the process of that rank is killed at that batch."""
    if dies is not None and int(os.environ.get("RANK", "0")) == dies[0]:
        loss = VideoTask.loss

        def killed(task: VideoTask, batch: int) -> torch.Tensor:
            if batch >= dies[1]:
                os.kill(os.getpid(), signal.SIGKILL)
            return loss(task, batch)

        VideoTask.loss = killed  # type: ignore[method-assign]
    return train.main(["--config", path, *more])


def test_a_contrastive_head_of_two_processes_is_that_of_one(world: Path, tmp_path: Path) -> None:
    for count, name in ((0, "one"), (2, "two")):
        schedule = {"steps": 6, "accumulate": 1, "warmup": 0, "validate_every": 2}
        path = str(contrastive(world, tmp_path / name, pairs=paired(world, tmp_path), schedule=schedule))
        assert set(in_processes(command, count, tmp_path / "logs" / name, path)) == {0}
    near(tmp_path / "two", tmp_path / "one")


def fails(path: str, late: bool) -> int:
    """Run heads.train, in which the second process fails in the third batch: late, or out of memory."""
    loss = VideoTask.loss

    def failing(task: VideoTask, batch: int) -> torch.Tensor:
        if batch == 3:
            if not late:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            time.sleep(40)
        return loss(task, batch)

    VideoTask.loss = failing  # type: ignore[method-assign]
    return train.main(["--config", path, "--scaling.timeout", "15" if late else "1800"])


@pytest.mark.parametrize(
    ("late", "message"),
    [
        (False, "error: worker 1 is out of memory: halve batch and double schedule.accumulate, set video_lm.gradient"),
        (True, "error: a worker did not answer for 15 s: raise scaling.timeout if a step or a validation takes longer"),
    ],
)
def test_a_worker_out_of_memory_names_the_settings_to_change(
    late: bool, message: str, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    path = str(recipe(world, tiny_lm, tmp_path / "run", **RUNS))
    assert in_processes(fails, 2, tmp_path / "logs", path, late) == [2, 2]
    logs = [(tmp_path / f"logs/rank-{rank}.log").read_text() for rank in (0, 1)]
    assert any(message in log for log in logs) and not any("Traceback" in log for log in logs)


def near(ours: Path, theirs: Path) -> None:
    """Assert that two runs end with the same weights to 1e-4, relative to the largest of each.

    Sums in another order differ in last bits, and AdamW divides a gradient near zero by its own size.
    """
    one, two = weights(ours), weights(theirs)
    assert one.keys() == two.keys()
    for name, value in two.items():
        np.testing.assert_allclose(one[name], value, rtol=0, atol=1e-4 * np.abs(value).max(), err_msg=name)


RUNS = {"schedule": {"steps": 6, "accumulate": 2, "warmup": 2, "validate_every": 3, "save_every": 1}}


def test_any_number_of_processes_that_divides_the_batches_of_a_step_trains_the_same_weights(
    world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    def config(name: str) -> str:
        return str(recipe(world, tiny_lm, tmp_path / name, **RUNS))

    assert in_processes(command, 0, tmp_path / "logs/alone", config("alone")) == [0]
    assert in_processes(command, 2, tmp_path / "logs/two", config("two")) == [0, 0]
    near(tmp_path / "two", tmp_path / "alone")
    for rank, batch in ((1, 7), (0, 4)):  # the second batch of step 4, the first of step 3
        name = f"killed {rank}"
        in_processes(command, 2, tmp_path / "logs/killed", config(name), (rank, batch), dies=(rank,))
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
    steps = [record["step"] for record in read_metrics(tmp_path / "two/metrics.jsonl") if "loss" in record]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert "step 6/6" in (tmp_path / "logs/two/rank-0.log").read_text()
    assert "two:" not in (tmp_path / "logs/two/rank-1.log").read_text()


@pytest.mark.parametrize(
    ("full", "shared"), [(True, ("--scaling.fsdp", "true")), (False, ("--scaling.tensor-parallel", "2"))]
)
def test_a_divided_run_is_resumed_by_one_process(
    full: bool, shared: tuple[str, ...], world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    def config(name: str) -> str:
        more = {"lora": None, "full": full, "precision": "float32"}
        return str(recipe(world, tiny_lm, tmp_path / name, **more, **RUNS))

    assert in_processes(command, 0, tmp_path / "logs/alone", config("alone")) == [0]
    in_processes(command, 2, tmp_path / "logs/killed", config("run"), (1, 9), shared, dies=(1,))
    assert in_processes(command, 2, tmp_path / "logs/divided", config("run"), (1, 11), shared, dies=(1,)) != [0, 0]
    assert in_processes(command, 0, tmp_path / "logs/whole", config("run")) == [0]
    assert "resumes from checkpoint-000005" in (tmp_path / "logs/whole/rank-0.log").read_text()
    near(tmp_path / "run", tmp_path / "alone")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--workers", "4"], "accumulate 6, the batches of a step, does not divide among 4 workers; give 1 or 2 or 3"),
        (["--workers", "4"], "or set accumulate to a multiple of 4 and reduce batch by the same factor"),
        (["--workers", "2", "--scaling.tensor_parallel", "2"], "needs a frozen language model"),
        (["--workers", "3", "--scaling.tensor_parallel", "2"], "tensor_parallel 2 does not divide scaling.workers 3"),
        (["--scaling.frozen", "bfloat16", "--video_lm.precision", "float32"], "set video_lm.precision to bfloat16"),
    ],
)
def test_a_number_of_workers_that_does_not_divide_a_step_is_refused_with_those_that_do(
    more: list[str], message: str, world: Path, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    schedule = {"steps": 2, "accumulate": 6}
    path = str(recipe(world, tiny_lm, tmp_path / "run", schedule=schedule))
    assert train.main(["--config", path, *more]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not (tmp_path / "run").exists()


def test_a_group_of_one_sends_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.distributed, "init_process_group", None)
    with joined(Scaling(), "cpu") as group:
        assert group is ALONE and group.sum([0.1, 2]) == [0.1, 2] and group.spread(str, [1, 2]) == ["1", "2"]
        small_run(tmp_path / "run")
    assert not torch.distributed.is_initialized()


def errors() -> list[str]:
    """Return the errors that a process sees when the first one fails, and the gradients that nobody has."""

    def fails() -> None:
        raise StepDiffError("no space")

    with joined(Scaling(), "cpu") as group:
        found = []
        try:
            group.from_first(fails)
        except StepDiffError as error:
            found.append(str(error))
        weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
        weights[0].grad = torch.ones(2)
        if group.first:
            weights[1].grad = torch.full((2,), 3.0)
        group.sum_gradients(weights)
        return found + [str(None if weight.grad is None else weight.grad.tolist()) for weight in weights]


def test_an_error_of_the_first_process_is_raised_on_all(tmp_path: Path) -> None:
    for found in in_processes(errors, 2, tmp_path):
        assert found == ["no space", "[2.0, 2.0]", "[3.0, 3.0]", "None"]
