"""A whole run whose store lies on an S3 server, beside one into a folder."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from store import Store
from store.verify import verify

ROOT = Path(__file__).parents[2]
NICENESS = "RAY_worker_niceness"  # as tests/conftest.py wants it


def featurize(manifest: Path, store: object, weights: Path) -> tuple[int, dict[str, object], str]:
    """Exit status, summary and what was said."""
    arguments = ["--manifest", manifest, "--store", store, "--encoder", "clip", "--weights", weights, "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") or name == NICENESS}
    command = [sys.executable, "-m", "featurize", *map(str, arguments)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in run.stderr, run.stderr
    return run.returncode, json.loads(run.stdout) if run.stdout else {}, run.stderr


@pytest.mark.slow
def test_a_run_into_an_object_store_writes_what_one_into_a_folder_does(
    bucket: str, video: Callable[..., Path], tiny_clip: Path, tmp_path: Path
) -> None:
    path = video("good.mp4", g=10)
    manifest = tmp_path / "clips.csv"
    rows = [("good_0_1", path, 0, 1), ("good_1_2", path, 1, 2), ("gone_0_1", tmp_path / "gone.mp4", 0, 1)]
    pl.DataFrame(
        [(clip, str(video), start, end) for clip, video, start, end in rows],
        ["clip", "video", "start", "end"],
        orient="row",
    ).write_csv(manifest)
    url = f"{bucket}/features"
    summaries = []
    for store in (url, tmp_path / "features"):
        status, summary, said = featurize(manifest, store, tiny_clip)
        assert status == 1, said
        assert (summary["done"], summary["failed"], summary["absent"], summary["store"]) == (2, 1, 0, str(store))
        summaries.append(summary)
    assert summaries[0]["failures"] == summaries[1]["failures"]
    remote, local = (Store.open(store).view("clips", "clip") for store in (url, tmp_path / "features"))
    assert remote.provenance == local.provenance and remote.status().tolist() == [1, 1, 2]
    for name in local.features:
        assert np.array_equal(remote.read(name, np.array([1, 0])), local.read(name, np.array([1, 0])))
    assert verify(Store.open(url)) == []
    status, summary, said = featurize(manifest, url, tiny_clip)
    assert (status, summary["done"], summary["already"]) == (1, 0, 2)
    with Store.open(url).lock():
        status, _, said = featurize(manifest, url, tiny_clip)
    assert status == 1 and f"is being written by process {os.getpid()} on host" in said and said.count("\n") == 1


def test_a_url_of_no_object_store_is_refused(tmp_path: Path, tiny_clip: Path, video: Callable[..., Path]) -> None:
    manifest = tmp_path / "clips.csv"
    manifest.write_text(f"clip,video,start,end\na_0_1,{video('good.mp4', g=10)},0,1\n")
    status, _, said = featurize(manifest, "https://host/features", tiny_clip)
    assert status == 2 and said.startswith("error: https://host/features is no place for a store")
