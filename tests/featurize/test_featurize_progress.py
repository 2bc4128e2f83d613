"""featurize.progress: the plain lines of a run whose standard error is no terminal."""

import pytest

from featurize import progress


def test_a_run_without_a_terminal_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.progress("clip on clips", "clips", 40) as show:
        for now, done in ((9.0, 0), (12.0, 0), (20.0, 10), (23.0, 11)):
            show(done)
    assert capsys.readouterr().err.splitlines() == [
        "clip on clips: none of 40 clips yet, 12 s",
        "clip on clips: 11/40 clips, 0.5 clips/s, 61 s left",
    ]
