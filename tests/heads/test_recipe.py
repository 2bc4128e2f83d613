"""Recipes, the registry of methods, and a user's own method."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from heads import train
from heads.evaluation.loading import CLASSES, method_class
from heads.evaluation.options import EvaluateOptions, check
from heads.methods.registry import REGISTRY, stated
from heads.training.recipe import check_recipe, differences, read_recipe
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.testsets import read_predictions, read_test_set
from store import Store

from .conftest import SYSTEMS, Capture

RECIPES = Path(train.__file__).parent / "recipes"


@pytest.mark.parametrize(
    ("name", "system", "batch", "steps"),
    [
        ("vclm", "VCLM", 512, 50_000),
        ("interleaved", "Interleaved", 512, 50_000),
        ("stepdiff", "StepDiff", 256, 20_000),
    ],
)
def test_the_recipes_have_the_published_figures(
    name: str, system: str, batch: int, steps: int
) -> None:
    options = read_recipe(RECIPES / f"{name}.yaml").video_lm
    assert options is not None
    check_recipe(options)
    assert (options.system, options.sources) == (system, SYSTEMS[system])
    assert (options.batch * options.schedule.accumulate, options.schedule.steps) == (batch, steps)
    assert options.schedule.learning_rate == 1e-4 and (
        options.projector.layers,
        options.projector.outputs,
    ) == (2, 32)
    assert (
        options.view == "internvideo-mm-l14"
        and options.language_model == "meta-llama/Llama-2-70b-chat-hf"
    )
    assert not options.full and options.lora is None
    assert options.init == ("runs/interleaved" if system == "StepDiff" else None)


def test_every_recipe_holds_out_its_test_sets() -> None:
    """Those of the kitchen do not name DiffMCQ, which is made from DiffCap and has its clips."""
    paths = [path for path in RECIPES.rglob("*.yaml") if path.name != "report.yaml"]
    assert len(paths) == 14
    for path in paths:
        made, folder = (
            read_recipe(path),
            "data/kitchen" if path.parent.name == "kitchen" else "data",
        )
        tasks = (
            ("diffcap", "diffrank")
            if folder == "data/kitchen"
            else ("diffcap", "diffmcq", "diffrank")
        )
        assert made.hold_out == tuple(f"{folder}/{task}_test.jsonl" for task in tasks), path
        assert made.hold_out_by == "video"
        options = made.video_lm or (made.contrastive and made.contrastive.pairs)
        if options and options.pairqa:
            assert Path(options.pairqa).parent == Path(folder)


RECIPE = Path(train.__file__).parent / "recipes/kitchen/stepdiff.yaml"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": "abc"}, "--video-lm.batch expects a whole number, not abc"),
        ({"btach": 3}, "no option --video-lm.btach"),
        (
            {"sources": ["pairs", "foo"]},
            "--video-lm.sources expects a list of one of clips, sequences, images, pairs",
        ),
        ({"lora": {"rank": 2.5}}, "--video-lm.lora.rank expects a whole number"),
        ({"packed": "maybe"}, "--video-lm.packed expects true or false"),
        ({"schedule": {}}, "--video-lm.schedule.steps must be given"),
    ],
)
def test_a_recipe_error_names_the_option_and_what_it_expects(
    tmp_path: Path, capsys: Capture, change: dict, message: str
) -> None:
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["video_lm"] |= change
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(StepDiffError) as error:
        read_recipe(path)
    assert str(error.value).startswith(f"{path}: damaged, or of another version ({message}")
    with pytest.raises(SystemExit) as ended:
        train.main(["--config", str(path)])
    shown = capsys.readouterr()
    assert ended.value.code == 2 and message in shown.err
    assert "\n" not in str(error.value) and shown.err.count("\n") == 1 and not shown.out


def test_a_differing_recipe_names_each_option_with_both_values() -> None:
    made = read_recipe(RECIPE)
    assert made.video_lm is not None
    schedule = dataclasses.replace(made.video_lm.schedule, save_every=7)
    often = dataclasses.replace(
        made, video_lm=dataclasses.replace(made.video_lm, schedule=schedule)
    )
    assert differences(made, often) == []
    other = dataclasses.replace(made.video_lm, batch=6, lora=None)
    found = differences(made, dataclasses.replace(made, seed=1, video_lm=other))
    assert {"seed is 0 there and 1 here", "video_lm.batch is 3 there and 6 here"} < set(found)
    assert "video_lm.lora.rank is 16 there and None here" in found


def test_every_method_has_a_class_and_reads_options_that_exist() -> None:
    assert CLASSES.keys() == REGISTRY.keys()
    for name, method in REGISTRY.items():
        assert set(method.options) <= set(EvaluateOptions.__dataclass_fields__)
        assert (
            name in (EvaluateOptions.__doc__ or "")
            or name in (RECIPES.parent / "evaluation/options.py").read_text()
        )


@pytest.mark.parametrize(
    "wrong", [{"title": 3}, {"regime": "S1"}, {"control": "yes"}, {"regime": ["s1"]}], ids=str
)
def test_a_wrong_attribute_is_refused_in_one_line(wrong: dict[str, object]) -> None:
    with pytest.raises(
        StepDiffError, match="--method own:Kind: its class states .* regime None or one of none, s1"
    ) as error:
        stated(type("Kind", (), wrong), "own:Kind")
    assert "\n" not in str(error.value)


METHOD = '''
"""Cosine of the mean tokens of two clips."""

from torch.nn.functional import normalize

from heads import Features
from heads.methods import Method


class MeanTokens(Method):
    def __init__(self, store, view, device):
        self.features, self.device = Features(store, view, "tokens"), device

    def embed(self, clips):
        return normalize(self.features.read(clips, self.device).mean(dim=1), dim=-1)

    def rank(self, rows):
        scores = []
        for row in rows:
            reference, *targets = self.embed([row.reference, *row.targets])
            scores.append([float(reference @ target) for target in targets])
        return scores
'''

TASK = """
import json

import numpy as np

from stepdiff_core.tasks.benchmarks.figures import score_choices
from stepdiff_core.tasks.benchmarks.rows import Choice
from stepdiff_core.tasks.bootstrap import Resamples
from stepdiff_core.tasks.registry import TaskData, Published, TaskSpec


def read(folder):
    lines = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    options = ("Video 1", "Video 2")
    rows = [Choice(f"{n}", tuple(line["clips"]), "Which one is faster?", options, "fast")
            for n, line in enumerate(lines)]
    return TaskData(rows, {f"{n}": line["faster"] for n, line in enumerate(lines)}, ("a test",))


def score(rows, predictions, truth, bootstrap, seed):
    answers, groups = [truth[row.key] for row in rows], [row.clips[0] for row in rows]
    return score_choices("faster", rows, predictions, answers, Resamples(groups, bootstrap, seed))


SPEC = TaskSpec(name="faster", title="Which is faster", figures={"accuracy": "accuracy"},
                read=read, score=score,
                published=(Published("people", {"accuracy": 0.9}, "a paper"),))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "own_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "methods.py").write_text(METHOD)
    (folder / "tasks.py").write_text(TASK)
    installed = tmp_path / "own-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        "[stepdiff.methods]\nmean-tokens = own_package.methods:MeanTokens\n"
        "[stepdiff.tasks]\nfaster = own_package.tasks:SPEC\n"
    )
    return tmp_path


def run(package: Path, room: str, *options: str) -> subprocess.CompletedProcess:
    """Run a command in a process that finds the user's package."""
    environment = os.environ | {"PYTHONPATH": f"{package}{os.pathsep}{Path(__file__).parents[2]}"}
    command = [sys.executable, "-m", room, *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=package)


@pytest.mark.full
def test_a_users_class_is_evaluated(package: Path, world: Path) -> None:
    given = [
        "--view",
        "visual",
        "--store",
        str(world / "features"),
        "--bootstrap",
        "0",
        "--test-set",
    ]
    found = []
    for name in ("own_package.methods:MeanTokens", "mean-tokens"):
        out = package / "p.jsonl"
        asked = ["--task", "diffrank", "--method", name, "--out", str(out)]
        done = run(package, "heads.evaluate", *asked, *given, str(world / "diffrank_test.jsonl"))
        assert done.returncode == 0, done.stderr
        rows = read_test_set("diffrank", world / "diffrank_test.jsonl")
        found.append(read_predictions("diffrank", out, rows))
        record = json.loads(out.with_suffix(".scores.json").read_text())
        assert record["disclosed"]["method"] == "own_package.methods:MeanTokens"
        assert (
            record["disclosed"]["encoder"] == "visual" and len(record["disclosed"]["source"]) == 64
        )
    assert found[0] == found[1] and all(-1 <= score <= 1.001 for row in found[0] for score in row)
    assert found[0][0][1] < found[0][0][2], "the third target has the reference's tool"
    asked = ["--task", "diffcap", "--method", "mean-tokens", "--out", str(package / "q.jsonl")]
    done = run(package, "heads.evaluate", *asked, *given, str(world / "diffcap_test.jsonl"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert (
        "--method mean-tokens does not answer diffcap: its class has no function caption"
        in done.stderr
    )


def test_a_wrong_method_lists_what_is_known_in_one_line(
    monkeypatch: pytest.MonkeyPatch, package: Path
) -> None:
    monkeypatch.syspath_prepend(str(package))
    with pytest.raises(StepDiffError) as error:
        check(EvaluateOptions("diffrank", "vlemm", "p.jsonl", "set", store="features"))
    assert all(
        name in str(error.value) for name in (*REGISTRY, "mean-tokens", "package.module:Class")
    )
    for name, message in (
        ("no_such_package.methods:X", "no module no_such_package"),
        ("own_package.methods:Mean", "own_package.methods has no class Mean; it has MeanTokens"),
    ):
        with pytest.raises(StepDiffError, match=message):
            method_class(name)


@pytest.mark.full
def test_a_users_benchmark_is_evaluated_scored_and_reported(package: Path, world: Path) -> None:
    clips = Store.open(world / "features").catalog("clips").frame()["key"].to_list()
    folder, out, scored = package / "data", package / "p.jsonl", []
    folder.mkdir()
    pairs = [{"clips": clips[n : n + 2], "faster": n % 2} for n in range(6)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))

    for name in ("own_package.tasks:SPEC", "faster"):
        given = ("--task", name, "--data", str(folder))
        random = ("--method", "random", "--out", str(out))
        done = run(package, "heads.evaluate", *given, *random, "--store", str(world / "features"))
        assert done.returncode == 0, done.stderr
        done = run(package, "heads.score", *given, "--predictions", str(out), "--json")
        scored.append(json.loads(done.stdout)["accuracy"])
    right = [
        max(line["scores"]) == line["scores"][n % 2]
        for n, line in enumerate(map(json.loads, out.read_text().splitlines()))
    ]
    assert scored == [sum(right) / 6] * 2
    config = package / "report.yaml"
    config.write_text(f"benchmarks: [{{method: ours, predictions: {out}}}]")
    done = run(package, "heads.report", "--config", str(config))
    assert done.returncode == 0, done.stderr
    assert "Which is faster" in done.stdout and "people" in done.stdout
    done = run(
        package,
        "heads.evaluate",
        *given[:1],
        "quicker",
        *given[2:],
        "--method",
        "random",
        "--out",
        str(out),
    )
    assert done.returncode == 2 and "vidic, faster, or package.module:SPEC" in done.stderr
