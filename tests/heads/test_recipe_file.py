"""Guarantees of heads.training.recipe, and the list of commands."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common.errors import StepDiffError
from heads import train
from heads.training.recipe import differences, read_recipe

RECIPE = Path(train.__file__).parent / "recipes/kitchen/stepdiff.yaml"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": "abc"}, "--video-lm.batch expects a whole number, not abc"),
        ({"btach": 3}, "no option --video-lm.btach"),
        ({"sources": ["pairs", "foo"]}, "--video-lm.sources expects a list of one of clips, sequences, images, pairs"),
        ({"lora": {"rank": 2.5}}, "--video-lm.lora.rank expects a whole number"),
        ({"packed": "maybe"}, "--video-lm.packed expects true or false"),
        ({"schedule": {}}, "--video-lm.schedule.steps must be given"),
    ],
)
def test_a_recipe_error_names_the_option_and_what_it_expects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict, message: str
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
    often = dataclasses.replace(made, video_lm=dataclasses.replace(made.video_lm, schedule=schedule))
    assert differences(made, often) == []
    other = dataclasses.replace(made.video_lm, batch=6, lora=None)
    found = differences(made, dataclasses.replace(made, seed=1, video_lm=other))
    assert {"seed is 0 there and 1 here", "video_lm.batch is 3 there and 6 here"} < set(found)
    assert "video_lm.lora.rank is 16 there and None here" in found


def test_python_m_heads_lists_its_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "heads", "--help"], capture_output=True, text=True, check=True)
    for verb in ("ask", "embed", "evaluate", "report", "score", "table", "train"):
        assert f"\n  {verb} " in done.stdout
