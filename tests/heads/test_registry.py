"""The registry of methods: it agrees with classes, docs and options, and classes of others register the same way."""

import re
from pathlib import Path

import pytest

from common.errors import StepDiffError
from heads.evaluation.loading import ANSWERS
from heads.evaluation.options import EvaluateOptions
from heads.methods import captions_cosine, controls, stepdiff, vlemb, word_evidence
from heads.methods.registry import (
    REGISTRY,
    Registered,
    is_control,
    regime_of,
    regime_words,
    registered,
    stated,
    title_of,
)
from heads.reporting.entries import TASKS
from kitchen.controls import MostDifferences
from tasks.testsets import ROWS

ROOT = Path(__file__).parents[2]
CLASSES = {
    **dict.fromkeys(("video-lm", "stepdiff", "llava", "idefics", "vlm", "socratic"), stepdiff.StepDiff),
    "word-evidence": word_evidence.WordEvidence,
    "vlemb": vlemb.VLEmb,
    "captions-cosine": captions_cosine.CaptionsCosine,
    "random": controls.Chance,
    "step-oracle": controls.StepOracle,
    "rarest": controls.Rarest,
    "medoid": controls.Medoid,
    "shuffled-captions": controls.ShuffledCaptions,
}


def answered(kind: type) -> tuple[str, ...]:
    return tuple(task for task in TASKS if hasattr(kind, ANSWERS[ROWS[task]]))


def test_every_method_answers_its_tasks_and_no_other() -> None:
    assert CLASSES.keys() == REGISTRY.keys()
    for name, method in REGISTRY.items():
        assert method.name == name and method.tasks == answered(CLASSES[name]), name
        assert set(method.options) <= set(EvaluateOptions.__dataclass_fields__)
        assert name in (EvaluateOptions.__doc__ or "") or name in (ROOT / "heads/evaluation/options.py").read_text()


def test_the_docs_have_a_row_for_every_method_and_control() -> None:
    plugin = "kitchen.controls:MostDifferences"
    known = REGISTRY | {plugin: Registered(plugin, tasks=answered(MostDifferences), **stated(MostDifferences, plugin))}
    text = (ROOT / "docs/guides/evaluation.md").read_text()
    parts = [part.split("\n## ")[0] for part in text.split("\n## Methods\n")[1].split("\n## Controls\n")]
    found = []
    for control, part in zip((False, True), parts, strict=True):
        for line in re.findall(r"^\| `(?!--).*", part, re.MULTILINE):
            names, tasks, regime, _ = (cell.strip() for cell in re.split(r" \| ", line.strip("| ")))
            for name in re.findall(r"`([^`]+)`", names):
                method = known[name]
                assert method.control == control, name
                assert regime == (regime_words(method.regime) or "as trained"), name
                assert method.tasks == tuple(t for t, title in TASKS.items() if tasks == "all" or title in tasks), name
                found.append(name)
    assert sorted(found) == sorted(known)


class Mine:
    """A class of a user that states nothing."""


class Control(Mine):
    title, regime, control = "nearest colour", "none", True


def test_a_class_of_a_user_registers_by_its_attributes() -> None:
    for kind, title, regime, control in (
        (Mine, "own:Kind", None, False),
        (Control, "control: nearest colour", "none", True),
    ):
        options, disclosed = {"method": "own:Kind", "view": None}, {"registered": stated(kind, "own:Kind")}
        assert title_of(options, disclosed) == title
        assert (regime_of(options, disclosed), is_control(options, disclosed)) == (regime, control)


@pytest.mark.parametrize("wrong", [{"title": 3}, {"regime": "S1"}, {"control": "yes"}, {"regime": ["s1"]}], ids=str)
def test_a_wrong_attribute_is_refused_in_one_line(wrong: dict[str, object]) -> None:
    with pytest.raises(
        StepDiffError, match="--method own:Kind: its class states .* regime None or one of none, s1"
    ) as error:
        stated(type("Kind", (), wrong), "own:Kind")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("disclosed", [{}, {"registered": 1}, {"registered": {"title": 1, "regime": [], "control": 1}}])
def test_a_record_that_states_nothing_of_a_method_leaves_it_unknown(disclosed: dict[str, object]) -> None:
    assert registered({"method": "own:Kind"}, disclosed) == Registered("own:Kind")
    assert registered({}, disclosed) == Registered("") and regime_of({}, {"recipe": {"regime": "best"}}) is None
