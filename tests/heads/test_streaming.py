"""Answers that arrive word by word, from a small random head."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from heads import ask
from heads.methods.stepdiff import StepDiff
from heads.models.language_model import autocast
from heads.models.streaming import HELD, Words
from heads.training.lineage import load_video_lm
from store import Store
from tasks.prompts import PRESETS
from tasks.testsets import DiffCap


@pytest.fixture(scope="module")
def head(trained: Path, world: Path) -> Iterator[StepDiff]:
    model, features, recipe = load_video_lm(trained, Store.open(world / "features"))
    with autocast("cpu", recipe.precision):
        yield StepDiff(model, features)


CLIPS = ("video-_18_0.0_19.5", "video-_19_0.0_20.5")


@pytest.mark.parametrize("question", PRESETS.values())
def test_the_words_that_were_passed_on_joined_are_the_answer_to_the_byte(head: StepDiff, question: str) -> None:
    said: list[str] = []
    answer = head.ask(*CLIPS, question, 48, said.append)
    assert "".join(said) == answer == head.ask(*CLIPS, question, 48)


def test_the_answer_of_the_command_is_the_same(
    head: StepDiff, trained: Path, world: Path, capsys: pytest.CaptureFixture
) -> None:
    where = ["--head", str(trained), "--store", str(world / "features"), "--device", "cpu"]
    capsys.readouterr()
    assert ask.main(["--reference", CLIPS[0], "--candidate", CLIPS[1], *where, "--preset", "mistake"]) == 0
    said: list[str] = []
    head.ask(*CLIPS, PRESETS["mistake"], 64, said.append)
    assert capsys.readouterr().out.endswith(f"A: {''.join(said)}\n")


def test_a_word_is_passed_on_when_the_next_one_begins() -> None:
    pieces = [" It", " is ", "sal", "ted\n", "caf", "\ufffd", " now", ". "]
    said: list[str] = []
    words = Words(lambda ids: "".join(pieces[i] for i in ids).strip(), said.append)
    words.put(torch.zeros(1, 3, dtype=torch.long))  # the prompt
    for place in range(len(pieces)):
        words.put(torch.tensor([place]))
    words.end()
    assert said == ["", "It", " is", "", " salted", "", "\ncaf\ufffd", "", " now."]


def test_a_text_without_spaces_arrives_in_parts() -> None:
    said: list[str] = []
    words = Words(lambda ids: "水" * len(ids), said.append)
    for _ in range(HELD + 6):
        words.put(torch.tensor([0]))
    words.end()
    assert said == [""] * HELD + ["水"] * 6 + ["水" * HELD]


class EnoughError(Exception):
    pass


def stop_at(token: int) -> tuple[list[int], Callable[..., None]]:
    """Return a list that counts tokens, and a function that raises at one of them."""
    seen: list[int] = []

    def say(*_: str) -> None:
        seen.append(len(seen))
        if len(seen) == token:
            raise EnoughError

    return seen, say


def test_what_the_caller_raises_ends_the_generation_before_the_next_token(
    head: StepDiff, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    forward = head.model.lm.model.forward
    monkeypatch.setattr(head.model.lm.model, "forward", lambda *a, **k: steps.append(1) or forward(*a, **k))
    seen, say = stop_at(3)
    with pytest.raises(EnoughError):
        head.ask(*CLIPS, "What differs?", 48, say)
    assert len(seen) == len(steps) == 3
    seen, say = stop_at(2)
    steps.clear()
    with pytest.raises(EnoughError):
        head.caption([DiffCap(*CLIPS, category, ()) for category in ("Visuals", "Actions")], say)
    assert len(seen) == len(steps) == 2


def test_captions_are_the_same_with_a_function_for_each_token(head: StepDiff) -> None:
    rows = [DiffCap(*CLIPS, category, ()) for category in ("Visuals", "Actions")]
    assert head.caption(rows, lambda: None) == head.caption(rows)
