"""Progress where stderr is no terminal: plain lines on stderr, nothing on stdout."""

import pytest

from common.progress import progress
from retrieval import progress as progress_module


def test_a_plain_line_tells_count_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", 0.0)
    with progress("indexed rows", 8) as advance:
        advance(2)
        advance(6)
    out, err = capsys.readouterr()
    assert out == ""
    first, last = err.splitlines()
    assert first.startswith("indexed rows: 2/8, ") and "/s, " in first and first.endswith(" s left")
    assert last.startswith("indexed rows: 8/8, ") and last.endswith("/s, 0 s left")


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("indexed rows", 8) as advance:
        advance(8)
    assert capsys.readouterr() == ("", "")
