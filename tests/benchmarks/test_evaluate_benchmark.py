"""The evaluate benchmark at its smallest size runs and prints its result as the last line."""

import json

import pytest

from benchmarks.evaluate import asked, main


def test_each_text_is_scored_once_for_each_pair() -> None:
    pairs = asked(3, 23)
    assert len({own.pair for own in pairs}) == 3
    assert len({text for own in pairs for text in own.texts}) == 3 * 23
    assert len({category for category, _ in pairs[0].texts}) == 5


def test_the_last_line_is_json(tiny_lm: str, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--language_model", tiny_lm, "--pairs", "1", "--texts", "[2, 8]", "--rounds", "1"]
    assert main(small) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["benchmark"] == "evaluate" and 0 < found["scores_apart"] <= 1e-4
    assert [row["texts a pair"] for row in found["rows"]] == [2] * 3 + [8] * 3
    assert {row["way"] for row in found["rows"]} == {"one by one", "in batches of 8", "pair by pair, ours"}
    assert [line["line"] for line in found["lines"]][::3] == [">= 1.0 of one by one", ">= 3.0 of one by one"]
