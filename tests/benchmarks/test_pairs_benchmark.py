"""The benchmark of choosing pairs at its smallest size runs and prints its result as the last line."""

import json

import pytest

from benchmarks.pairs import main


def test_the_last_line_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--clips", "6000", "--steps", "300", "--cap", "5"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["benchmark"] == "pairs" and found["lines"] == []
    (row,) = found["rows"]
    assert row["clips"] == 6000 and row["seconds"] > 0 < row["peak GiB"]
    assert row["held out"] == 600 * 2 and 300 * 4 < row["pairs"] <= 300 * 5
