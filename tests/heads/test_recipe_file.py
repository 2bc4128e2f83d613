"""Guarantees of heads.training.recipe_file, and the list of commands."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common.errors import StepDiffError
from heads import train
from heads.training.recipe import TrainOptions
from heads.training.recipe_file import build, check_arguments, differences, read_recipe

RECIPE = Path(train.__file__).parent / "recipes/kitchen/stepdiff.yaml"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--video-lm.batch", "abc"], "video_lm.batch is 'abc'; it must be a whole number"),
        (["--video-lm.btach", "3"], "video_lm.btach: no such option; did you mean batch?"),
        (["--video-lm.sources", "[pairs, foo]"], "video_lm.sources[1] is 'foo'; it must be one of clips, sequences, "),
        (["--video-lm.lora.rank=2.5"], "video_lm.lora.rank is '2.5'; it must be a whole number"),
        (["--video-lm.packed", "maybe"], "video_lm.packed is 'maybe'; it must be true or false"),
        (["--seed", "one"], "seed is 'one'; it must be a whole number"),
        (["--contrastive.clips", "3"], "contrastive.schedule is missing; it must be a mapping of options"),
    ],
)
def test_a_recipe_error_names_the_option_and_what_it_expects(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert train.main(["--config", str(RECIPE), *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {message}") and shown.err.count("\n") == 1 and not shown.out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeed": 3}, "seeed: no such option; did you mean seed?"),
        ({"video_lm": 3}, "video_lm is 3; it must be a mapping of options"),
        ({"video_lm": {"schedule": {"steps": 2}}}, "video_lm.validation is missing"),
        ({"hold_out": "a.jsonl"}, "hold_out is 'a.jsonl'; it must be a list"),
        ({"hold_out_by": "day"}, "hold_out_by is 'day'; it must be one of video, clip"),
    ],
)
def test_an_error_in_a_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict, message: str
) -> None:
    values = {"out": "runs/x", "store": "features"} | change
    with pytest.raises(StepDiffError) as error:
        build(TrainOptions, values)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert train.main(["--config", str(tmp_path / "recipe.yaml")]) == 2
    assert message in capsys.readouterr().err


def test_flags_change_a_recipe_and_are_accepted() -> None:
    flags = ["--video-lm.schedule.steps", "2", "--video-lm.schedule.learning-rate=1e-3", "--video-lm.lora", "null"]
    check_arguments(["--config", str(RECIPE), *flags, "--out", "runs/x", "--json", "--hold-out", "a", "b"])
    check_arguments(["--config", str(RECIPE), "--video-lm.help"])


def test_a_differing_recipe_names_each_option_with_both_values() -> None:
    made = read_recipe(RECIPE)
    assert made.video_lm is not None
    schedule = dataclasses.replace(made.video_lm.schedule, save_every=7)
    assert (
        differences(made, dataclasses.replace(made, video_lm=dataclasses.replace(made.video_lm, schedule=schedule)))
        == []
    )
    other = dataclasses.replace(made.video_lm, batch=6, lora=None)
    found = differences(made, dataclasses.replace(made, seed=1, video_lm=other))
    assert {"seed is 0 there and 1 here", "video_lm.batch is 4 there and 6 here"} < set(found)
    assert "video_lm.lora.rank is 16 there and None here" in found


def test_the_room_lists_its_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "heads"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    commands = [line.split()[2] for line in lines[:-1]]
    assert commands == [f"heads.{verb}" for verb in ("ask", "embed", "evaluate", "report", "score", "table", "train")]
    assert all(line.endswith(".") for line in lines)
