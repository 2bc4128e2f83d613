"""Guarantees of heads.table."""

import json
from pathlib import Path

import pytest

from heads import table


def record(path: Path, task: str, **scores: float) -> str:
    options = {"task": task, "method": "vlemb", "view": "aligned", "head": None}
    found = {"options": options, "disclosed": {}, "scores": {**scores, "intervals": {}, "rows": 9}}
    path.write_text(json.dumps(found))
    return str(path)


def test_each_cell_has_one_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tasks of one method share a row; a second test set of a task does not silently replace the first."""
    rank = record(tmp_path / "r.scores.json", "diffrank", ktau_all_rows=0.25, ktau_within_step_all_rows=0.125)
    first = record(tmp_path / "v1.scores.json", "diffmcq", accuracy=0.4)
    other = record(tmp_path / "v2.scores.json", "diffmcq", accuracy=0.3)
    assert table.main([first, rank, "--json"]) == 0
    (row,) = [row for name, row in json.loads(capsys.readouterr().out)["systems"].items() if name != "chance"]
    assert (row["accuracy"]["value"], row["ktau_all_rows"]["value"]) == (0.4, 0.25)
    assert table.main([first, rank, other]) == 2
    printed = capsys.readouterr().err
    assert "v2.scores.json: a second diffmcq of VLEmb (aligned)" in printed and printed.count("\n") == 1


def test_a_record_of_another_version_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main([record(tmp_path / "r.scores.json", "diffrank", ktau_defined=0.25)]) == 2
    printed = capsys.readouterr().err
    assert "r.scores.json: not a score record of this version of heads.evaluate ('ktau_all_rows')" in printed
    assert "evaluate again" in printed and printed.count("\n") == 1


def test_a_name_is_not_read_as_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path / "r.scores.json", "diffrank", ktau_all_rows=0.25, ktau_within_step_all_rows=0.125)
    Path(path).write_text(Path(path).read_text().replace("aligned", "a[v2][/b]"))
    assert table.main([path]) == 0
    assert "VLEmb (a[v2][/b])" in capsys.readouterr().out


def test_the_training_is_described_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A head and its controls have one training, described below the table once."""
    recipe = {"system": "StepDiff", "sources": ["sequences", "pairs"], "lora": True, "full": False, "init": None}
    paths = []
    for control in ("none", "blind", "shuffled"):
        options = {"task": "diffmcq", "method": "stepdiff", "head": "runs/stepdiff", "control": control}
        scores = {"accuracy": 0.4, "intervals": {}, "rows": 9}
        paths.append(tmp_path / f"{control}.scores.json")
        paths[-1].write_text(json.dumps({"options": options, "disclosed": {"recipe": recipe}, "scores": scores}))
    assert table.main([str(path) for path in paths]) == 0
    printed = capsys.readouterr().out
    assert printed.count("system StepDiff") == 1
    facts = "system StepDiff, sources sequences and pairs, lora yes, full no, init none"
    assert printed.splitlines()[-1] == f"StepDiff (runs/stepdiff): {facts}"
