"""Messages of heads.score for predictions that do not fit their test set, and the truth score in every tool."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from heads import evaluate, report, score, table
from kitchen.files.testsets import diffcap
from kitchen.world import make_world

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
        (["--truth", "attributes.jsonl"], "--truth is for diffcap, and diffrank does not read it; leave it out"),
        (["--store", "features"], "--store is read only with --similarity"),
    ],
)
def test_an_option_that_would_not_be_read_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    (tmp_path / "said.jsonl").write_text('{"scores": [1, 0]}\n' * 3)
    assert score.main([*command, *more]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """The test set and attributes of a world; predictions that are true, or of the other video in every second row."""
    clips = [clip for video in make_world(60, 5) for clip in video.clips]
    rows = diffcap([clip for clip in clips if clip.split == "test"], 8, 0, "test")
    texts = [("In Video 1, " if at % 2 else "In Video 2, ") + row.text[0] for at, row in enumerate(rows)]
    for name, lines in (
        ("attributes", [{"clip": clip.id, **clip.truth.as_dict()} for clip in clips]),
        ("set", [asdict(row) for row in rows]),
        ("said", [{"generated_text": text} for text in texts]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_the_truth_score_is_the_same_in_scores_tables_and_reports(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, given = str(world / "attributes.jsonl"), (str(world / "set.jsonl"), str(world / "said.jsonl"))
    command = ["--task", "diffcap", "--test-set", given[0], "--predictions", given[1], "--truth", truth]
    assert score.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0.2 < found["truth_precision"] < 0.8
    assert found["truth_swapped"] == pytest.approx(1 - found["truth_precision"]) and found["truth_invented"] == 0
    assert score.main(command) == 0
    assert "truth_precision" in (printed := capsys.readouterr().out) and "truth swapped" in printed

    scores = {"options": {"task": "diffcap", "method": "medoid", "texts": "q"}, "disclosed": {}, "scores": found}
    (world / "said.scores.json").write_text(json.dumps(scores))
    assert table.main([str(world / "said.scores.json"), "--out", str(world / "table.json")]) == 0
    assert "details that captions name" in (printed := capsys.readouterr().out)
    assert f"{found['truth_recall']:.3f} [{found['intervals']['truth_recall'][0]:.2f}" in printed
    assert json.loads((world / "table.json").read_text())["systems"]["control: one caption a category (q)"][
        "truth_precision"
    ] == {"value": found["truth_precision"], "interval": found["intervals"]["truth_precision"]}

    (world / "said.scores.json").unlink()
    entry = {"method": "ours", "task": "diffcap", "test_set": given[0], "predictions": given[1]}
    config = world / "report.yaml"
    config.write_text(json.dumps({"predictions": [entry], "truth": truth}))
    assert report.main(["--config", str(config), "--json", "--bootstrap", "1000"]) == 0
    reported = {score["metric"]: score for score in json.loads(capsys.readouterr().out)["scores"]}
    for name in ("precision", "recall", "swapped", "shared", "invented"):
        assert reported[f"truth_{name}"]["value"] == found[f"truth_{name}"]
        assert reported[f"truth_{name}"]["interval"] == found["intervals"][f"truth_{name}"]


def test_rows_of_another_world_are_refused_before_anything_is_predicted(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (world / "attributes.jsonl").read_text().splitlines(keepends=True)
    (world / "attributes.jsonl").write_text("".join(lines[:9]))
    command = ["--task", "diffcap", "--test-set", str(world / "set.jsonl"), "--truth", str(world / "attributes.jsonl")]
    more = ["--method", "medoid", "--texts", "none.jsonl", "--store", str(world), "--out", str(world / "p.jsonl")]
    assert evaluate.main([*command, *more]) == 2
    error = capsys.readouterr().err
    assert "attributes.jsonl; name the attributes.jsonl of the test set's world" in error and error.count("\n") == 1
    assert not list(world.glob("p.*"))
