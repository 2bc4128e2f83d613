"""A repair that is killed, of texts, and in an object store."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from common.io.files import place
from store import Store
from store.damage.withdrawal import unfinished
from store.verbs.verify import verify

Run = Callable[..., tuple[int, dict[str, object], str]]
ROOT = Path(__file__).parents[2]
TEXTS = 300


def flip(path: object, at: int) -> None:
    data = bytearray(path.read_bytes())  # type: ignore[attr-defined]
    data[at] ^= 8
    path.put([bytes(data)])  # type: ignore[attr-defined]


def stored(path: object, entity: str) -> tuple[list[int], bytes]:
    view = Store.open(path).view(entity, "clip")  # type: ignore[arg-type]
    ok = np.flatnonzero(view.status() == 1)
    return view.status().tolist(), view.read("embedding", ok, check="always").tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["folder", "object store"])
def test_texts_are_repaired_with_the_same_bits(
    where: str, request: pytest.FixtureRequest, tmp_path: Path, tiny_clip: Path, featurize: Run
) -> None:
    url = tmp_path / "store" if where == "folder" else f"{request.getfixturevalue('bucket')}/features"
    pl.DataFrame({"text": [f"whisk {n} eggs" + " slowly" * (n % 3) for n in range(TEXTS)]}).write_csv(
        tmp_path / "texts.csv"
    )
    options = ["--manifest", tmp_path / "texts.csv", "--store", url, "--encoder", "clip", "--weights", tiny_clip]
    assert featurize(*options, "--batch-size", 7)[0] == 0
    before = stored(url, "texts")
    view = Store.open(url).view("texts", "clip")
    for row in (0, 8, 299):
        flip(view.paths.shard("embedding", 0, 2), row * view.stored["embedding"].row_bytes)
    status, summary, message = featurize(*options, "--repair")
    assert (status, summary["damaged"], summary["done"]) == (0, 3, 3), message
    assert stored(url, "texts") == before and verify(Store.open(url)) == []
    place(str(view.paths.checksum(0))).unlink()
    flip(view.paths.status(0), 3)
    status, summary, message = featurize(*options, "--repair")
    assert (status, summary["done"]) == (0, TEXTS), message
    assert stored(url, "texts") == before and verify(Store.open(url)) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_repair_is_completed_by_the_same_command(
    video: Callable[..., Path], tiny_clip: Path, tmp_path: Path, featurize: Run
) -> None:
    path = video("good.mp4", g=10)
    rows = [(f"c{n}", str(path), n * 0.01, n * 0.01 + 0.9) for n in range(40)]
    pl.DataFrame(rows, ["clip", "video", "start", "end"], orient="row").write_csv(tmp_path / "clips.csv")
    pl.DataFrame(rows[:39], ["clip", "video", "start", "end"], orient="row").write_csv(tmp_path / "first.csv")
    options = ["--store", tmp_path / "store", "--encoder", "clip", "--weights", tiny_clip]
    assert featurize("--manifest", tmp_path / "first.csv", *options)[0] == 0
    before = stored(tmp_path / "store", "clips")
    view = Store.open(tmp_path / "store").view("clips", "clip")
    shutil.rmtree(Path(str(view.paths.group)) / "tokens" / "c")
    command = [sys.executable, "-m", "featurize", *map(str, ["--manifest", tmp_path / "clips.csv", *options])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen([*command, "--repair"], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while len(unfinished(Store.open(tmp_path / "store").view("clips", "clip"))) < 39 and time.monotonic() < end:
        assert process.poll() is None, "the repair ended before it could be killed"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)  # a worker that is left over may still finish its shard
    assert verify(Store.open(tmp_path / "store")) == [], "after a kill no damaged row is ok"
    status, summary, message = featurize("--manifest", tmp_path / "clips.csv", *options, "--wait", "--repair")
    assert status == 0, message
    assert stored(tmp_path / "store", "clips") == (before[0], before[1])
    assert verify(Store.open(tmp_path / "store")) == []
