"""A user's own method, end to end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import StepDiffError
from heads.evaluation.loading import method_class
from heads.evaluation.options import EvaluateOptions, check
from store import Store
from tasks.testsets import read_predictions, read_test_set

METHOD = '''
"""Cosine of the mean tokens of two clips."""

from torch.nn.functional import normalize

from heads import Features


class MeanTokens:
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

from tasks.benchmarks.choosing import score_choices
from tasks.benchmarks.rows import Choice
from tasks.spec import Asked, Published, TaskSpec


def read(folder):
    lines = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    rows = [Choice(f"{n}", tuple(line["clips"]), "Which one is faster?", ("Video 1", "Video 2"), "fast")
            for n, line in enumerate(lines)]
    return Asked(rows, {f"{n}": line["faster"] for n, line in enumerate(lines)}, ("a test",))


def score(rows, predictions, truth, bootstrap, seed):
    answers, groups = [truth[row.key] for row in rows], [row.clips[0] for row in rows]
    return score_choices("faster", rows, predictions, answers, groups, {}, {}, bootstrap, seed)


SPEC = TaskSpec(name="faster", title="Which is faster", figures={"accuracy": "accuracy"}, read=read, score=score,
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


def evaluate(package: Path, world: Path, method: str, task: str, out: Path) -> subprocess.CompletedProcess:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "heads.evaluate", "--task", task, "--method", method, "--view", "visual"]
    command += ["--store", str(world / "features"), "--test-set", str(world / f"{task}_test.jsonl"), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": f"{package}{os.pathsep}{root}"}
    return subprocess.run([*command, "--bootstrap", "0"], env=environment, capture_output=True, text=True, cwd=package)


def test_a_users_class_is_evaluated(package: Path, world: Path) -> None:
    found = []
    for name in ("own_package.methods:MeanTokens", "mean-tokens"):
        out = package / "p.jsonl"
        done = evaluate(package, world, name, "diffrank", out)
        assert done.returncode == 0, done.stderr
        rows = read_test_set("diffrank", world / "diffrank_test.jsonl")
        found.append(read_predictions("diffrank", out, rows))
        record = json.loads(out.with_suffix(".scores.json").read_text())
        assert record["disclosed"]["method"] == "own_package.methods:MeanTokens"
        assert record["disclosed"]["encoder"] == "visual" and len(record["disclosed"]["source"]) == 64
    assert found[0] == found[1] and all(-1 <= score <= 1.001 for row in found[0] for score in row)
    assert found[0][0][1] < found[0][0][2], "the third target has the reference's tool"
    done = evaluate(package, world, "mean-tokens", "diffcap", package / "q.jsonl")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "--method mean-tokens does not answer diffcap: its class has no function caption" in done.stderr


def test_a_users_benchmark_is_evaluated_scored_and_reported(package: Path, world: Path) -> None:
    clips = Store.open(world / "features").catalog("clips").frame()["key"].to_list()
    folder, out, scored = package / "data", package / "p.jsonl", []
    folder.mkdir()
    pairs = [{"clips": clips[n : n + 2], "faster": n % 2} for n in range(6)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))

    def run(room: str, *options: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHONPATH": f"{package}{os.pathsep}{Path(__file__).parents[2]}"}
        command = [sys.executable, "-m", room, *options]
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=package)

    for name in ("own_package.tasks:SPEC", "faster"):
        given = ("--task", name, "--data", str(folder))
        done = run(
            "heads.evaluate", *given, "--method", "random", "--store", str(world / "features"), "--out", str(out)
        )
        assert done.returncode == 0, done.stderr
        done = run("heads.score", *given, "--predictions", str(out), "--json")
        scored.append(json.loads(done.stdout)["accuracy"])
    right = [max(line["scores"]) == line["scores"][n % 2] for n, line in enumerate(read_lines(out))]
    assert scored == [sum(right) / 6] * 2
    config = package / "report.yaml"
    config.write_text(f"benchmarks: [{{method: ours, predictions: {out}}}]")
    done = run("heads.report", "--config", str(config))
    assert done.returncode == 0, done.stderr
    assert "Which is faster" in done.stdout and "people" in done.stdout
    done = run("heads.evaluate", *given[:1], "quicker", *given[2:], "--method", "random", "--out", str(out))
    assert done.returncode == 2 and "vidic, faster, or package.module:SPEC" in done.stderr


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_wrong_method_lists_what_is_known_in_one_line(monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
    monkeypatch.syspath_prepend(str(package))
    controls = "random, step-oracle, rarest, medoid, shuffled-captions"
    own = "video-lm, stepdiff, word-evidence, vlemb, llava, idefics, vlm, socratic, captions-cosine"
    known = f"{own}, {controls}, mean-tokens, or package.module:Class"
    with pytest.raises(StepDiffError) as error:
        check(EvaluateOptions("diffrank", "vlemm", "p.jsonl", "set", store="features"))
    assert str(error.value) == f"--method vlemm: no such method; give {known}"
    for name, message in (
        ("no_such_package.methods:X", "no module no_such_package; install it, or name its folder in PYTHONPATH"),
        ("own_package.methods:Mean", "own_package.methods has no class Mean; it has MeanTokens"),
    ):
        with pytest.raises(StepDiffError, match=message):
            method_class(name)
