"""The featurize benchmark at its smallest size runs and prints its result as the last line."""

import json
import os
from pathlib import Path

import pytest

from benchmarks.featurize import main
from benchmarks.harness.footage import kitchen, long_video
from common.errors import StepDiffError
from featurize.video.timeline import from_packets
from weights import resolve


def test_the_long_video_has_its_keyframes_at_the_documented_times(tmp_path: Path) -> None:
    footage = long_video(tmp_path, 3, 50)
    timeline = from_packets(Path(footage.videos[0]))
    assert timeline.keyframes.nonzero()[0].tolist() == list(range(0, 288, 50))
    assert footage.clips[-1].end == pytest.approx(timeline.end)
    assert len(kitchen(tmp_path, 3).clips) == 3


def test_the_last_line_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        resolve("efficientnet-lite0")
    except StepDiffError as problem:
        pytest.skip(str(problem))
    cores = os.sched_getaffinity(0)
    try:
        assert main(["--clips", "3", "--rounds", "1", "--gop", "50", "--folder", str(tmp_path)]) == 0
    finally:
        os.sched_setaffinity(0, cores)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["benchmark"] == "featurize" and found["encoder"] == "efficientnet-lite0"
    ways = {row["way"] for row in found["rows"]}
    assert {"featurize", "bare forward", "bare decode", "featurize's decoding", "seek a clip, PyAV"} <= ways
    assert all(row["ms a clip"] > 0 and row["CPU ms a clip"] > 0 for row in found["rows"])
    assert {line["case"].split(",")[0] for line in found["lines"]} >= {"featurize", "speed of decoding"}
