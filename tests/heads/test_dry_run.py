"""`python -m heads.train --dry-run`: plans of the packaged recipes, refusals, and the figures in docs/scale.md."""

import json
import re
import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest

from common.errors import StepDiffError
from heads import train
from heads.planning.cards import CARDS
from heads.planning.plan import clip_tokens
from heads.training.recipe import TrainOptions, read_recipe
from store.testing import tiny_store
from weights import registry

from .conftest import CHANNELS, TOKENS, recipe

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "heads/recipes"
PUBLISHED = ("vclm", "interleaved", "stepdiff")


@pytest.fixture(autouse=True)
def without_store_and_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> NoReturn:
        raise AssertionError("a plan uses no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def dry_run(name: str, *more: str) -> int:
    return train.main(["--config", str(RECIPES / f"{name}.yaml"), "--dry-run", *more])


def docs_of_scale() -> str:
    return (ROOT / "docs/scale.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_recipes_fit_eight_cards_of_80_gb_and_the_docs_show_their_plans(
    name: str, capsys: pytest.CaptureFixture
) -> None:
    options = read_recipe(RECIPES / f"{name}.yaml")
    assert options.video_lm is not None and options.scaling.workers == 8 and CARDS["h100"].memory < 80 * 2**30
    assert options.video_lm.schedule.accumulate % options.scaling.workers == 0
    assert options.video_lm.batch * options.video_lm.schedule.accumulate == (256 if name == "stepdiff" else 512)
    assert dry_run(name) == 0
    shown = r"sum +([\d.]+) of 84.83.* time +([\d.]+) s per step, ([\d.]+) hours .* ([\d,]+) card"
    figures = re.search(shown, capsys.readouterr().out, re.DOTALL)
    assert figures and f"| `{name}.yaml` | {' | '.join(figures.groups())} |" in docs_of_scale()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_7b_recipes_fit_one_card_and_differ_in_the_language_model_only(
    name: str, capsys: pytest.CaptureFixture
) -> None:
    assert dry_run(f"{name}-7b", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] and plan["workers"] == 1 and plan["card"] == "h100"
    assert plan["frozen_parameters"] == 6_738_415_616  # of the published model
    large, small = (yaml_of(read_recipe(RECIPES / f"{each}.yaml")) for each in (name, f"{name}-7b"))
    for values in (large, small):
        values["video_lm"]["language_model"] = values["video_lm"]["init"] = values["out"] = values["scaling"] = None
    assert large == small


def yaml_of(options: TrainOptions) -> dict:
    from heads.training.recipe import as_yaml

    return as_yaml(options)


def test_a_plan_that_does_not_fit_is_refused_with_settings_that_fit(capsys: pytest.CaptureFixture) -> None:
    one = ("--workers", "1", "--scaling.fsdp", "false")
    assert dry_run("vclm", *one) == 2
    shown = capsys.readouterr()
    assert "sum" in shown.out and shown.err.count("\n") == 1
    assert shown.err.startswith("error: runs/vclm: a process needs ") and "; it fits with --" in shown.err
    assert shown.err in docs_of_scale()
    assert dry_run("vclm", *one, "--json") == 2
    plan = json.loads(capsys.readouterr().out)
    assert not plan["fits"] and len(plan["alternatives"]) >= 2
    for setting in plan["alternatives"]:
        flags, size = re.fullmatch(r"(.*) \(([\d.]+) GB\)", setting).groups()  # type: ignore[union-attr]
        assert dry_run("vclm", "--scaling.workers", "1", "--scaling.fsdp", "false", *flags.split(), "--json") == 0
        found = json.loads(capsys.readouterr().out)
        needed = sum(found["memory"].values()) - found["memory"]["host"]
        assert needed / 1e9 == pytest.approx(float(size), abs=0.06) and found["samples"] == plan["samples"]


@pytest.mark.parametrize(
    ("name", "given", "named"),
    [
        (
            "vclm",
            "--card a100-40gb --workers 2 --scaling.fsdp false --scaling.tensor-parallel 2",
            {
                "--workers 8 --scaling.fsdp true --scaling.tensor-parallel 1",
                "--workers 8 --scaling.tensor-parallel 8",
            },
        ),
        ("kitchen/align", "--card rtx4090 --contrastive.clips 200000", {"--contrastive.clips 1562"}),
        (
            "kitchen/align_pairs",
            "--card rtx4090 --contrastive.clips 4000 --contrastive.pairs.pairs 500",
            {"--workers 4", "--contrastive.clips 1000 --contrastive.pairs.pairs 125"},
        ),
    ],
)
def test_every_setting_that_is_named_fits(
    name: str, given: str, named: set[str], capsys: pytest.CaptureFixture
) -> None:
    assert dry_run(name, *given.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "; it fits with --" in error
    assert dry_run(name, *given.split(), "--json") == 2
    alternatives = json.loads(capsys.readouterr().out)["alternatives"]
    assert {setting.rpartition(" (")[0] for setting in alternatives} == named
    for flags in named:
        assert dry_run(name, *given.split(), *flags.split()) == 0
        assert "sum" in capsys.readouterr().out


def test_a_plan_counts_moves_from_host_memory_and_what_processes_read_together(capsys: pytest.CaptureFixture) -> None:
    def planned(*more: str) -> dict[str, Any]:
        assert dry_run("vclm", *more, "--json") == 0
        return dict(json.loads(capsys.readouterr().out))

    divided, offloaded = planned(), planned("--scaling.cpu-offload", "true")
    assert divided["transfers"]["host"] == 0
    # Of each layer a process moves its own eighth, and receives the other seven.
    assert offloaded["transfers"]["host"] == pytest.approx(offloaded["transfers"]["gathers"] / 7)
    assert dry_run("vclm", "--scaling.cpu-offload", "true") == 0
    assert f"  from host memory  {offloaded['transfers']['host'] / 1e9:,.2f} GB per process" in capsys.readouterr().out
    together = planned("--scaling.fsdp", "false", "--scaling.tensor-parallel", "8")
    assert together["read"] == pytest.approx(8 * divided["read"])  # each of the eight reads every batch
    assert together["transfers"]["reduced"] == 4 * together["trained_parameters"]  # the first one's gradients


def test_a_contrastive_head_that_fits_with_no_batch_says_so(capsys: pytest.CaptureFixture) -> None:
    assert dry_run("kitchen/align", "--card", "rtx4090", "--contrastive.projector.width", "800000") == 2
    assert "no batch and no number of workers up to 64 fits; give a larger --card" in capsys.readouterr().err


def test_a_plan_of_a_store_has_the_shape_of_its_view(
    world: Path, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = recipe(world, tiny_lm, tmp_path / "run")
    assert train.main(["--config", str(path), "--dry-run", "--card", "rtx4090", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["tokens"] == f"{TOKENS} x {CHANNELS} float16: view visual of {world / 'features'}"
    # two batches of three pairs of clips
    assert plan["read"] == 2 * 6 * TOKENS * CHANNELS * 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["stepdiff", "vclm", "interleaved", "align_pairs"])
def test_the_kitchen_recipes_fit_a_small_card(name: str, capsys: pytest.CaptureFixture) -> None:
    if not registry.source("smollm2-135m-instruct").is_complete():
        pytest.skip("smollm2-135m-instruct is not fetched")
    assert dry_run(f"kitchen/{name}", "--card", "rtx4090", "--json") == 0
    assert json.loads(capsys.readouterr().out)["hours"] > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--card", "tpu"], "--card tpu is not known; give one of a100"),
        (["--flops-share", "1.5"], "--flops-share is 1.5; it must be above 0 and at most 1"),
        (["--mean-words", "0"], "--mean-words is 0; it must be above 0"),
        (["--workers", "3"], "does not divide among 3 workers"),
        (["--video-lm.view", "mine"], "no encoder is named mine; give --store"),
        (["--video-lm.language-model", "someone/unknown"], "someone/unknown: neither a folder nor in the hub's cache"),
    ],
)
def test_a_plan_that_cannot_be_computed_is_refused_in_one_line(
    more: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert dry_run("vclm", *more) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and message in shown.err


def test_a_plan_at_a_snapshot_reads_the_shape_of_its_view(tmp_path: Path) -> None:
    store = tiny_store(tmp_path / "features")
    store.tag("v1")
    for path, at in ((f"{store.path}@v1", None), (str(store.path), "v1")):
        tokens, origin = clip_tokens(path, "tiny", at)
        assert tokens.shape == (3, 4) and origin == f"view tiny of {store.path}@v1"
    for path, at in ((f"{store.path}@v2", None), (str(store.path), "v2")):
        with pytest.raises(StepDiffError, match="no snapshot 'v2'"):
            clip_tokens(path, "efficientnet-lite0", at)


def test_a_plan_reads_the_snapshot_of_its_recipe(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    store = tiny_store(tmp_path / "features")
    store.tag("v1")
    shape = ("--video_lm.view", "tiny", "--video_lm.projector.frames", "3")
    assert dry_run("vclm", "--store", str(store.path), "--at", "v1", *shape) == 0
    assert f"view tiny of {store.path}@v1" in capsys.readouterr().out
