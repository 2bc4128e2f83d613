"""A training reads a snapshot of the store, and records it."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from heads import train
from heads.training.checkpoint import Run
from store import Store
from store.__main__ import main

from .ends import assert_same_weights
from .test_training import recipe


def test_a_training_at_a_snapshot_ends_with_the_weights_of_then_and_records_it(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world / "features", tmp_path / "features")
    store = Store.open(tmp_path / "features")
    assert main(["tag", str(store.path), "v1"]) == 0
    clips = store.catalog("clips").frame(["key", "split"]).filter(pl.col("split") == "train")["key"].to_list()
    with store.lock():  # two clips leave the training, one changes its split and all their narrations change
        store.view("clips", "visual").withdraw(store.catalog("clips").rows(clips[:2]))
        store.catalog("clips").update(pl.DataFrame({"key": clips, "narration": ["other words"] * len(clips)}))
    given = ["--config", str(recipe(world, tiny_lm, tmp_path / "run")), "--store", str(store.path)]
    assert train.main([*given, "--at", "v1"]) == 0
    for step in (6, int(Run(trained).best().name.partition("-")[2])):
        assert_same_weights(tmp_path / "run", trained, step)
    record = json.loads((tmp_path / "run" / "lineage.json").read_text())["store"]
    commit = Store.open(store.path, at="v1").then.views["clips"]["visual"].commit
    assert (record["path"], record["at"], list(record["commits"].values())) == (str(store.path), "v1", [commit])
    capsys.readouterr()
    assert main(["lineage", str(store.path), str(tmp_path / "run")]) == 0
    assert f"snapshot v1; commit clips/visual {commit}" in capsys.readouterr().out
    assert train.main(given) == 2
    assert "holds a run of another recipe (at is v1 there and None here)" in capsys.readouterr().err
    assert train.main([*given, "--at", "v2", "--out", str(tmp_path / "new")]) == 2
    assert "no snapshot 'v2'" in capsys.readouterr().err
