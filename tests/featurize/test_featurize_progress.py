"""common.progress: the plain lines of a run whose standard error is no terminal."""

import pytest

from common import progress


def test_a_run_without_a_terminal_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((0.0, 9.0, 12.0, 20.0, 23.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress("clip on clips", "clips", 40) as show:
        for done in (0, 0, 10, 11):
            show(done)
    assert capsys.readouterr().err.splitlines() == [
        "clip on clips: none of 40 clips yet, 12 s",
        "clip on clips: 11/40 clips, 0.5 clips/s, 61 s left",
    ]
