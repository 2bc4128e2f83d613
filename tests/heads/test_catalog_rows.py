"""A training reads the rows and columns of the catalog that it needs, never all rows at once."""

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from heads.data.catalog_rows import blocks, knows_splits, need_columns, of_keys, of_rows, united
from heads.data.clips import Features, split_texts
from heads.data.hold_out import HoldOut, drawn_clips, held_out, read_test_clips
from heads.data.runs import Runs
from heads.training.contrastive_task import ContrastiveTask
from heads.training.recipe import read_recipe
from heads.training.video_task import VideoTask
from store import Catalog, Store, View

from .conftest import SYSTEMS, recipe
from .test_contrastive import recipe as contrastive_recipe

DTYPES = {"key": pl.String, "start": pl.Float64, "no": pl.String}


@pytest.fixture
def catalog(world: Path) -> Catalog:
    return Store.open(world / "features").catalog("clips")


@pytest.fixture
def no_whole_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse to read the whole catalog or the status of a whole view."""
    status = View.status

    def some(self: View, rows: np.ndarray | None = None) -> np.ndarray:
        assert rows is not None, "the status of every row is read"
        return status(self, rows)

    def frame(*_: Any) -> pl.DataFrame:
        raise AssertionError("the whole catalog is read")

    monkeypatch.setattr(View, "status", some)
    monkeypatch.setattr(Catalog, "frame", frame)


def test_a_table_and_a_catalog_are_read_alike(catalog: Catalog) -> None:
    table = catalog.frame()
    (from_table,) = blocks(table, DTYPES)
    (from_catalog,) = blocks(catalog, DTYPES)
    assert from_catalog.drop("row").equals(from_table) and from_table["no"].null_count() == table.height
    keys = table["key"][5:2:-1].to_list() + ["unknown"]
    assert of_keys(catalog, keys, DTYPES).equals(of_keys(table, keys, DTYPES))
    assert of_keys(catalog, keys, DTYPES)["key"].to_list() == table["key"][3:6].to_list()
    assert pl.concat(of_rows(catalog, np.array([4, 4, 1], np.uint32), DTYPES))["row"].to_list() == [1, 4]
    assert of_keys(catalog, [], DTYPES).is_empty()
    for clips in (table, catalog):
        assert knows_splits(clips)
        with pytest.raises(StepDiffError, match="no column no; featurize"):
            need_columns(clips, "key", "no")


def test_a_catalog_is_held_out_as_a_table_is(world: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.catalog.catalog.MOST_ROWS", 5)
    table, parts = catalog.frame(), Store.open(world.parent / f"{world.name}-parts", create=True).catalog("clips")
    parts.append(table.drop("row"))
    assert len(parts.parts()) > 3
    test = read_test_clips([world / "diffcap_test.jsonl"])
    for by in ("video", "clip"):
        assert held_out(parts, test, by).sort("key").equals(held_out(table, test, by).sort("key"))
        assert drawn_clips(parts, 0.4, by, 1).to_list() == drawn_clips(table, 0.4, by, 1).to_list()
    apart = HoldOut([str(world / "diffcap_test.jsonl")])
    apart.look_up(parts, drawn_clips(parts, 0.4, "video", 1))
    whole = apart.keep(table, "clips")
    counted = dict(apart.sources["clips"])
    assert pl.concat(apart.kept(table.iter_slices(3), "clips")).equals(whole) and apart.sources["clips"] == counted


@pytest.mark.parametrize("validation", [None, {"share": 0.4, "rows": 4}])
def test_a_training_reads_no_whole_catalog_and_no_whole_status(
    world: Path, tiny_lm: str, tmp_path: Path, no_whole_reads: None, validation: dict[str, Any] | None
) -> None:
    options = read_recipe(
        recipe(
            world,
            tiny_lm,
            tmp_path / "run",
            sources=[*SYSTEMS["StepDiff"], "clips"],
            validation=validation,
            hard_negatives={"neighbours": 2},
        )
    )
    assert options.video_lm is not None
    hold_out = HoldOut([str(world / "diffcap_test.jsonl")])
    task = VideoTask(options.video_lm, Store.open(world / "features"), 1, "cpu", hold_out)
    assert all(task.batch(number).clips for number in range(len(options.video_lm.sources)))
    assert len(task.trained_on().arrays["clips"])


def test_a_contrastive_training_reads_no_whole_catalog_either(
    world: Path, tmp_path: Path, no_whole_reads: None
) -> None:
    options = read_recipe(contrastive_recipe(str(world / "features"), tmp_path / "run"))
    assert options.contrastive is not None
    task = ContrastiveTask(options.contrastive, Store.open(world / "features"), 0, "cpu")
    assert len(task.trained_on().arrays["clips"]) == len(task.train)


def test_one_block_after_another_is_held(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a block is needed for keeps no block: memory does not grow with the catalog."""
    table = Store.open(world / "features").catalog("clips").frame()
    parts = Store.open(tmp_path / "parts", create=True).catalog("clips")
    parts.append(table.drop("row"))
    monkeypatch.setattr("store.catalog.catalog.BLOCK", 2)
    read, most = Catalog.blocks, 0

    def watched(self: Catalog, like: pl.DataFrame) -> Iterator[pl.DataFrame]:
        nonlocal most
        alive: list[weakref.ref[pl.DataFrame]] = []
        for block in read(self, like):
            alive = [one for one in alive if one() is not None]
            most = max(most, len(alive))
            alive.append(weakref.ref(block))
            yield block

    monkeypatch.setattr(Catalog, "blocks", watched)
    assert len(list(parts.blocks(pl.DataFrame(schema={"key": pl.String})))) > 10 and most > 10
    most = 0
    hold_out = HoldOut([str(world / "diffcap_test.jsonl")])
    hold_out.look_up(parts, drawn_clips(parts, 0.4, "video", 1))
    features = Features(Store.open(world / "features"), "visual", "tokens")
    assert len(Runs(hold_out.kept(split_texts(parts, "narration", features, "train"), "sequences"), 3))
    assert knows_splits(parts) and most <= 2


def test_rows_of_all_parts_are_united(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heads.data.catalog_rows._AT_ONCE", 4)
    parts = [np.array([9, 2, -1]), np.array([], np.int64), np.array([2, 3, 17], np.uint32)]
    assert [block.tolist() for block in united(parts)] == [[2, 3], [], [9], [], [17]]
    assert list(united([])) == []
