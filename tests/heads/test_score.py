"""Messages of heads.score for predictions that do not fit their test set."""

import json
from pathlib import Path

import pytest

from heads import score

ROWS = [
    {"reference": "a_0_1", "targets": ["b_0_1", "c_0_1"], "category": category, "scores": [5, 0]}
    for category in ("Visuals", "Serving / Presentation", "Never seen before")
]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    given = ["--task", "diffrank", "--test-set", str(tmp_path / "set.jsonl"), "--bootstrap", "0"]
    return [*given, "--predictions", str(tmp_path / "said.jsonl"), "--json"]


def test_an_unknown_category_is_scored_like_any_other(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "said.jsonl").write_text('{"scores": [1, 0]}\n' * 3)
    assert score.main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ktau"] == 1 and {name: own["rows"] for name, own in found["per_category"].items()} == {
        "Never seen before": 1, "Serving / Presentation": 1, "Visuals": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (['{"scores": [1, 0]}'] * 2, ":3: no such line: 2 predictions for 3 rows of the test set"),
        (['{"scores": [1, 0]}'] * 4, ":4: the test set ends before this line, after 3 rows"),
        (['{"scores": [1, 0]}', '{"score": [1, 0]}'], ":2: the row has no 'scores', only 'score'"),
        (['{"scores": [1, 0]}', '{"scores": [1]}'], ":2: 1 scores for a row that needs 2"),
    ],
)
def test_an_error_in_predictions_is_one_line_with_its_position(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], predictions: list[str], message: str
) -> None:
    (tmp_path / "said.jsonl").write_text("".join(line + "\n" for line in predictions))
    assert score.main(command) == 2
    shown = capsys.readouterr()
    assert shown.err == f"error: {tmp_path / 'said.jsonl'}{message}\n" and not shown.out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--parse", "true"], "--parse is for diffcap, and diffrank does not read it; leave it out"),
        (["--similarity", "true"], "--similarity is for diffcap, viddiff-open, and diffrank does not read it"),
        (["--store", "features"], "--store is read only with --similarity"),
    ],
)
def test_an_option_that_would_not_be_read_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    (tmp_path / "said.jsonl").write_text('{"scores": [1, 0]}\n' * 3)
    assert score.main([*command, *more]) == 2
    assert message in capsys.readouterr().err
