"""`stepdiff report --sheet`: which pairs a sheet shows, what is next to them, and refusals."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from stepdiff.__main__ import main
from stepdiff.comparison.sheet import RIGHT, WRONG, _lines, draw
from stepdiff.kitchen.steps import STEPS
from stepdiff.kitchen.world import make_world
from stepdiff_core.tasks.testsets import DiffCap, write_predictions, write_test_set
from store import Store
from tests.refusals import refuses

from ..featurize.conftest import write_video

ROWS = [
    DiffCap("a", "b", category, ("a fork instead of a whisk",))
    for category in ("Visuals", "Actions")
]
ROWS += [DiffCap("b", "a", "Actions", ())]


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Options of a sheet of two clips of one video."""
    write_video(tmp_path / "v.mp4", size=(96, 64))
    store = Store.open(tmp_path / "features", create=True)
    clips = {"key": ["a", "b"], "video": ["v.mp4", "v.mp4"], "start": [0.0, 1.0], "end": [1.0, 2.0]}
    with store.lock():
        store.catalog("clips").append(pl.DataFrame(clips))
    write_test_set("diffcap", tmp_path / "cap.jsonl", ROWS)
    write_predictions(
        "diffcap", tmp_path / "said.jsonl", ["the cook uses a fork", "a spoon", "no difference"]
    )
    return [
        "report",
        "--store",
        str(store.path),
        "--videos",
        str(tmp_path),
        "--sheet",
        str(tmp_path / "sheet.png"),
    ]


@pytest.mark.parametrize("methods", [0, 2])
def test_a_sheet_is_a_picture_of_pairs_with_answers(
    arguments: list[str], tmp_path: Path, methods: int, capsys: pytest.CaptureFixture[str]
) -> None:
    about = f"task: diffcap, test_set: {tmp_path}/cap.jsonl, predictions: {tmp_path}/said.jsonl"
    lines = [f"- {{method: m{number}, {about}}}" for number in range(methods)]
    (tmp_path / "report.yaml").write_text(
        "\n".join(["predictions:", *lines]) if lines else "pairs: 5"
    )
    more = ["--config", str(tmp_path / "report.yaml"), "--test-set", str(tmp_path / "cap.jsonl")]
    assert main([*arguments, *more]) == 0
    assert "2 pairs, " + ("m0, m1" if methods else "without answers") in capsys.readouterr().out
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 1000 and picture.height > 200


def test_pairs_are_drawn_by_seed_and_categories_in_turn() -> None:
    keys = [(category, str(number), "x") for category in ("A", "B", "C") for number in range(5)]
    drawn = [draw(keys, 6, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 6
    assert [category for category, *_ in drawn[0]] == ["A", "B", "C", "A", "B", "C"]


def test_details_that_an_answer_names_are_marked() -> None:
    truth = make_world(1, 0, 3.5, 3)[0].clips[0].truth
    one, two, neither = STEPS[truth.step].options("tool")[:3]
    world = {"a": replace(truth, tool=one), "b": replace(truth, tool=two)}
    answers = {
        "right": f"uses a {two} instead of a {one}",
        "wrong": f"uses a {neither}",
        "silent": "looks different",
    }
    lines = _lines(replace(ROWS[0], category="Tools/Equipment"), answers, world)
    marks = [
        (text.strip(), colour) for line in lines for text, colour in line.parts if text[0] in "✓✗"
    ]
    assert sorted(marks[:2]) == sorted(
        [(f"✓ {two} in Video 2", RIGHT), (f"✓ {one} in Video 1", RIGHT)]
    )
    assert marks[2:] == [
        (f"✗ {neither} in Video 2 (invented)", WRONG),
        ("✗ names none of 2 details", WRONG),
    ]


def test_a_sheet_that_cannot_be_made_is_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = str(tmp_path / "cap.jsonl")
    refuses(main, arguments, capsys, "--sheet shows pairs of DiffCap: give --test-set")
    refuses(
        main,
        [*arguments, "--test-set", rows, "--sheet", str(tmp_path / "x.txt")],
        capsys,
        "x.txt: a picture is",
        "png",
    )
    write_test_set("diffcap", tmp_path / "other.jsonl", [DiffCap("a", "z", "Visuals", ("more",))])
    refuses(
        main,
        [*arguments, "--test-set", str(tmp_path / "other.jsonl")],
        capsys,
        "no video, start and end of clip z",
    )
    assert not (tmp_path / "x.txt").exists()
