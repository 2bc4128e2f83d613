"""Clips that were forgotten are not computed, in any view, until they are recalled."""

import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from featurize.__main__ import main
from store import Store
from store.__main__ import main as store_main

Run = Callable[..., tuple[int, dict[str, object], str]]
Writer = Callable[..., Path]


def test_a_forgotten_clip_is_not_computed_until_it_is_recalled(
    tmp_path: Path, video: Writer, tiny_clip: Path, featurize: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    source, store = video("good.mp4", g=10), tmp_path / "features"
    rows = [(f"clip_{n}", str(source), n / 2, n / 2 + 0.5) for n in range(3)]
    pl.DataFrame(rows, ["clip", "video", "start", "end"], orient="row").write_csv(tmp_path / "clips.csv")
    given = ["--manifest", tmp_path / "clips.csv", "--store", store, "--encoder", "clip", "--weights", tiny_clip]
    assert featurize(*given)[0] == 0
    before = Store.open(store).view("clips", "clip").read("tokens", keys=["clip_0", "clip_1", "clip_2"])
    assert store_main(["forget", str(store), "clip_1"]) == 0
    capsys.readouterr()

    loaded = set(sys.modules)
    assert main(list(map(str, given))) == 0
    assert "1 clips were forgotten and left out" in capsys.readouterr().out
    assert not any(name.startswith("ray.") for name in set(sys.modules) - loaded)
    status, summary, _ = featurize(*given, "--view", "other", "--frames", 2, "--retry-failed")
    counts = {name: summary[name] for name in ("asked", "done", "absent", "failed", "forgotten")}
    assert status == 0 and counts == {"asked": 3, "done": 2, "absent": 0, "failed": 0, "forgotten": 1}
    assert Store.open(store).view("clips", "other").status().tolist() == [1, 0, 1]

    assert store_main(["forget", str(store), "clip_1", "--undo"]) == 0
    status, summary, _ = featurize(*given)
    assert (status, summary["done"], summary["already"], summary["forgotten"]) == (0, 1, 2, 0)
    after = Store.open(store).view("clips", "clip").read("tokens", keys=["clip_0", "clip_1", "clip_2"])
    assert after.tobytes() == before.tobytes()


def test_a_run_of_forgotten_clips_alone_has_nothing_to_do(
    tmp_path: Path, video: Writer, tiny_clip: Path, featurize: Run
) -> None:
    store, given = tmp_path / "features", ["--encoder", "clip", "--weights", tiny_clip]
    assert featurize(video("good.mp4", g=10), "--store", store, *given)[0] == 0
    (key,) = Store.open(store).catalog("clips").frame()["key"]
    assert store_main(["forget", str(store), key]) == 0
    status, summary, _ = featurize(video("good.mp4", g=10), "--store", store, *given)
    assert (status, summary["done"], summary["already"], summary["forgotten"]) == (0, 0, 0, 1)
