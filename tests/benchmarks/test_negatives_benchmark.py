"""The benchmark of hard negatives at its smallest size runs and prints its result as the last line."""

import json

import pytest

from benchmarks.negatives import main

SMALL = "--pairs 60 --clips 90 --differences 300 --dim 16 --naive 20 --rounds 1"


def test_the_last_line_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SMALL.split()) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["benchmark"] == "negatives" and found["pairs"] == 60
    assert [row["variant"] for row in found["rows"]] == ["V1", "V2", "V3"]
    assert all(row["questions"] > 0 and row["seconds"] > 0 for row in found["rows"])
    assert found["compared_questions"] > 150
