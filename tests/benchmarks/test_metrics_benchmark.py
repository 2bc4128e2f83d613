"""The metrics benchmark at its smallest size runs and prints its result as the last line."""

import json

import pytest

from benchmarks.metrics import main


def test_the_last_line_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", "40", "--references", "2", "--rankings", "30", "--rounds", "2"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["benchmark"] == "metrics" and found["captions"] == 40
    assert found["relative_difference"].keys() == {"BLEU", "CIDEr", "ROUGE-L", "tau"}
    assert all(value <= 1e-12 for value in found["relative_difference"].values())
    assert all(row["seconds"] > 0 for row in found["rows"])
    assert {line["case"] for line in found["lines"]} == {"scoring", "the same by CPU time"}
