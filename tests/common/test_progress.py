"""common.progress if standard error is not a terminal: plain lines there, nothing on standard output."""

import os
import pty
import re
import subprocess
import sys

import pytest

from common import progress


def test_a_plain_line_shows_count_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((0.0, 9.0, 12.0, 20.0, 23.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress("clip on clips", 40, "clips") as advance:
        for count in (0, 0, 10, 1):
            advance(count)
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines() == [
        "clip on clips: 0 of 40 clips, 0.0/s, time left unknown",
        "clip on clips: 11 of 40 clips, 0.5/s, 61 s left",
    ]


def test_bytes_are_shown_in_megabytes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter((0.0, 10.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress("downloading", 40_000_000, "bytes") as advance:
        advance(20_000_000)
    assert capsys.readouterr().err == "downloading: 20 of 40 MB, 2.0 MB/s, 10 s left\n"


def test_short_work_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("indexed rows", 8) as advance:
        advance(8)
    assert capsys.readouterr() == ("", "")


def test_a_stage_replaces_the_one_before_on_a_terminal_and_is_a_line_elsewhere() -> None:
    code = "import sys, time; from common.progress import stages\n"
    code += "with stages() as show: show('one [1]'); time.sleep(0.3); show('two [2]'); time.sleep(0.3)"
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (plain.stdout, plain.stderr) == ("", "one [1]\ntwo [2]\n")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert shown.index("one [1]") < shown.index("two [2]")
    assert "\x1b[2K" in shown[shown.index("one [1]") :], "the line is cleared"
    last = shown[shown.rindex("two [2]") + len("two [2]") :]
    assert re.fullmatch(r"(\x1b\[[\d;?]*[a-zA-Z]|\s)*", last) and "\x1b[2K" in last, "nothing is left of it"
