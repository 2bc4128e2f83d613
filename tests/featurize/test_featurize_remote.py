"""A run into a store on an S3 server, compared with one into a folder."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from store import Store
from store.verbs.verify import verify

Run = Callable[..., tuple[int, dict[str, object], str]]


def options(manifest: Path, store: object, weights: Path) -> list[object]:
    return ["--manifest", manifest, "--store", store, "--encoder", "clip", "--weights", weights]


@pytest.mark.slow
def test_a_run_into_an_object_store_writes_the_same_as_one_into_a_folder(
    bucket: str, video: Callable[..., Path], tiny_clip: Path, tmp_path: Path, featurize: Run
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
        status, summary, message = featurize(*options(manifest, store, tiny_clip))
        assert status == 1, message
        assert (summary["done"], summary["failed"], summary["absent"], summary["store"]) == (2, 1, 0, str(store))
        summaries.append(summary)
    assert summaries[0]["failures"] == summaries[1]["failures"]
    remote, local = (Store.open(store).view("clips", "clip") for store in (url, tmp_path / "features"))
    assert remote.provenance == local.provenance and remote.status().tolist() == [1, 1, 2]
    for name in local.features:
        assert np.array_equal(remote.read(name, np.array([1, 0])), local.read(name, np.array([1, 0])))
    assert verify(Store.open(url)) == []
    status, summary, message = featurize(*options(manifest, url, tiny_clip))
    assert (status, summary["done"], summary["already"]) == (1, 0, 2)
    with Store.open(url).lock():
        status, _, message = featurize(*options(manifest, url, tiny_clip))
    assert status == 2 and f"is being written by process {os.getpid()} on host" in message and message.count("\n") == 1


def test_a_url_of_an_unknown_scheme_is_refused(
    tmp_path: Path, tiny_clip: Path, video: Callable[..., Path], featurize: Run
) -> None:
    manifest = tmp_path / "clips.csv"
    manifest.write_text(f"clip,video,start,end\na_0_1,{video('good.mp4', g=10)},0,1\n")
    status, _, message = featurize(*options(manifest, "https://host/features", tiny_clip))
    assert status == 2 and message.startswith("error: https://host/features is not a place for a store")
