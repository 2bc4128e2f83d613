"""The scale benchmark measures every kind of work, and its lines go through the measured points."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale
from benchmarks.harness.memory import GIB, Measured, Peak, apart
from benchmarks.scale import MOST_GIB, Options, fit, run
from common.errors import StepDiffError


def here(work: Callable[..., dict[str, float]], *arguments: Any) -> Measured:
    """Measure `work` in this process."""
    return Measured(1.0, Peak(2 * GIB, 3 * GIB, GIB), work(*arguments))


def test_every_work_is_measured_fitted_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "apart", here)
    record = run(Options(clips=(20_000, 30_000), to=60_000, clips_per_second=2.0, workers=3, folder=str(tmp_path)))
    names = {row["work"] for row in record["rows"]}
    assert names == {*MOST_GIB, "build", "query"} == {row["work"] for row in record["fit"]}
    assert all(abs(row["bytes per clip"]) < 1 and row["GiB"] == 2.0 for row in record["fit"])
    assert all(one["met"] for one in record["lines"]) and len(record["lines"]) == 6
    assert json.loads(json.dumps(record)) == record
    with pytest.raises(StepDiffError, match="a line needs two sizes"):
        run(Options(clips=(3000,)))
    assert {row["dtype"]: row["hours"] for row in record["plan"]}["int8"] == round(60_000 / 2 / 3600 / 3, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_fit_goes_through_the_points() -> None:
    taken = [Measured(n / 1e6 + 5, Peak(n * 10 + GIB)) for n in (10**6, 10**7)]
    found = fit("one", [10**6, 10**7], taken, 136e6)
    assert (found["bytes per clip"], found["base GiB"], found["base s"]) == (10.0, 1.0, 5.0)
    assert found["GiB"] == round(1 + 1.36e9 / GIB, 2) and found["seconds"] == 141


def held() -> dict[str, float]:
    """Hold 64 MiB for a while."""
    block = bytearray(b"x" * 2**26)
    time.sleep(0.2)  # the memory is looked at every 20 ms
    return {"bytes": len(block)}


def test_the_memory_of_a_work_is_watched() -> None:
    # In a new process: the heap of this one may have 64 MiB to spare, which its memory already counts.
    taken = apart(held)
    assert taken.times == {"bytes": 2**26}
    assert 2**26 < taken.peak.private - taken.peak.before < 2**28
    assert taken.peak.resident >= taken.peak.private
