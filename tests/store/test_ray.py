"""A view as a dataset of Ray Data, on a local Ray of two CPUs and from an object store."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import ray.data
from ray.data.datasource import ReadTask

from stepdiff.common.errors import StepDiffError
from stepdiff.common.workers.cluster import local_ray
from store import Feature, Provenance, Store, View
from store.ray import ViewDatasource, read_view
from store.verbs.drop import drop
from store.verbs.options import DropOptions

pytestmark = [
    pytest.mark.full,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]
FORMS = {"tokens": Feature((3, 70), "int8"), "embedding": Feature((7,), "float32"), "half": Feature((2, 4), "float16")}
COUNT = 50
OK = [row for row in range(COUNT) if row % 11]
TABLE = pl.DataFrame({"key": [f"c{row}" for row in range(COUNT)], "step": [row % 5 for row in range(COUNT)]})


@pytest.fixture(scope="module", autouse=True)
def running(s3_server: str) -> Iterator[None]:
    """Ray, whose workers know the object store."""
    with local_ray():
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.target_min_block_size = 1
        yield


def write(place: str) -> View:
    """Write a view in shards of four rows, of which every eleventh row has failed."""
    store = Store.open(place, create=True)
    provenance = Provenance("net", "0" * 64, "last", "8 evenly", "centre 224", {"tokens": "int8"})
    rng = np.random.default_rng(0)
    store.catalog("clips").append(TABLE)
    with store.writer("clips", "net", provenance, FORMS, rows_per_shard=4) as writer:
        good = TABLE[OK]
        writer.write(good, {n: rng.normal(size=(len(OK), *f.shape)).astype(np.float32) for n, f in FORMS.items()})
        writer.write([], {}, {f"c{row}": "no video" for row in range(0, COUNT, 11)})
    return store.view("clips", "net")


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    return write(str(tmp_path_factory.mktemp("ray") / "store"))


def joined(dataset: ray.data.Dataset) -> dict[str, Any]:
    """Return the columns of a dataset."""
    parts = list(dataset.iter_batches(batch_size=7, batch_format="numpy"))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_batches_are_arrays_of_the_stored_shape_and_dtype(view: View) -> None:
    arrays = joined(read_view(view.paths.store, "clips", "net", override_num_blocks=5))
    levels, scale = view.read_quantised("tokens", np.array(OK))
    expected = {name: view.read(name, OK) for name in ("embedding", "half")}
    expected |= {"tokens": levels, "tokens_scale": scale, "key": TABLE["key"].to_numpy()[OK]}
    expected |= {"step": TABLE["step"].to_numpy()[OK]}
    assert arrays.keys() == expected.keys()
    for name, values in expected.items():
        assert arrays[name].shape == values.shape and (name == "key" or arrays[name].dtype == values.dtype), name
        np.testing.assert_array_equal(arrays[name], values)


def test_a_dataset_can_be_sorted_shuffled_and_written(view: View, tmp_path: Path) -> None:
    whole = read_view(view.paths.store, "clips", "net", ["embedding", "half"], override_num_blocks=2)
    assert whole.count() == len(OK) and whole.schema().names == ["key", "step", "embedding", "half"]
    ordered = joined(whole.sort("key", descending=True))
    rows = sorted(OK, key=lambda row: f"c{row}", reverse=True)
    np.testing.assert_array_equal(ordered["half"], view.read("half", rows))
    shuffled = joined(whole.random_shuffle(seed=0))
    assert sorted(shuffled["key"]) == sorted(ordered["key"])
    np.testing.assert_array_equal(shuffled["embedding"], view.read("embedding", keys=shuffled["key"].tolist()))
    whole.write_parquet(str(tmp_path / "parquet"))
    again = ray.data.read_parquet(str(tmp_path / "parquet")).sort("key", descending=True)
    np.testing.assert_array_equal(joined(again)["half"], ordered["half"])
    assert read_view(view.paths.store, "clips", "net", rows=[]).schema().names == [*TABLE.columns, *whole_names()]


def whole_names() -> list[str]:
    return ["tokens", "tokens_scale", "embedding", "half"]


def test_each_finished_row_is_read_once_also_when_a_worker_is_killed_in_the_middle(view: View, tmp_path: Path) -> None:
    store, kills = Store.open(view.paths.store), tmp_path

    class Killing(ViewDatasource):
        """Its second and third task end their worker once, after some of their blocks."""

        def get_read_tasks(self, *given: Any, **more: Any) -> list[Any]:
            tasks = super().get_read_tasks(*given, **more)
            return [ReadTask(killing(task, number), task.metadata, task.schema) for number, task in enumerate(tasks)]

    def killing(task: Any, number: int) -> Any:
        def read_view() -> Iterator[Any]:
            for count, block in enumerate(task()):
                if count == 1 and number in (1, 2):
                    try:
                        (kills / str(number)).touch(exist_ok=False)
                        os.kill(os.getpid(), signal.SIGKILL)
                    except FileExistsError:
                        pass
                yield block

        return read_view

    source = Killing(store, "clips", "net", ["embedding"], None, (), None, None, "first")
    arrays = joined(ray.data.read_datasource(source, override_num_blocks=4))
    assert sorted(path.name for path in kills.iterdir()) == ["1", "2"]
    assert arrays["key"].tolist() == [f"c{row}" for row in OK]
    np.testing.assert_array_equal(arrays["embedding"], view.read("embedding", OK))


def test_errors_of_tasks_reach_the_driver(tmp_path: Path) -> None:
    view = write(str(tmp_path / "store"))
    shard = Path(str(view.paths.shard("embedding", 2, 2)))
    data = shard.read_bytes()
    at = data.index(view.read("embedding", [9]).tobytes())
    shard.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    dataset = read_view(view.paths.store, "clips", "net", "embedding")
    with pytest.raises(StepDiffError, match=r"c9: stored embedding of view net of clips \(shard 2\) is not as it was"):
        dataset.materialize()
    assert read_view(view.paths.store, "clips", "net", "half").count() == len(OK)
    drop(DropOptions(str(tmp_path / "store"), "net", yes=True))
    with pytest.raises(StepDiffError, match="does not see the view: no view 'net' of clips"):
        dataset.materialize()


def test_a_view_in_an_object_store_is_read(bucket: str) -> None:
    url = f"{bucket}/features"
    view = write(url)
    for given in (url, Store.open(url)):
        arrays = joined(
            read_view(given, "clips", "net", ["half", "tokens"], filter=pl.col("step") != 2, dtype="float32")
        )
        rows = [row for row in OK if row % 5 != 2]
        assert arrays["key"].tolist() == [f"c{row}" for row in rows]
        np.testing.assert_array_equal(arrays["tokens"], view.read("tokens", rows, dtype="float32"))
        np.testing.assert_array_equal(arrays["half"], view.read("half", rows).astype(np.float32))
