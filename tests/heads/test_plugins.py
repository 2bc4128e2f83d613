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


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "own_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "methods.py").write_text(METHOD)
    installed = tmp_path / "own-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[stepdiff.methods]\nmean-tokens = own_package.methods:MeanTokens\n")
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


def test_a_wrong_method_lists_what_is_known_in_one_line(monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
    monkeypatch.syspath_prepend(str(package))
    controls = "random, step-oracle, rarest, medoid, shuffled-captions, token-regression"
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
