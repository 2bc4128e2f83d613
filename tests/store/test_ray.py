"""A view as a dataset of Ray Data, on a local Ray of two CPUs and from an object store."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.data
from ray.data.datasource import ReadTask

from stepdiff_core.workers.cluster import local_ray
from store import Store, View
from store.io.reader import OK
from store.ray import ViewDatasource, read_view
from tests.store.test_ray_plan import ABOUT, KEYS, write

pytestmark = [
    pytest.mark.full,
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
    ),
]


@pytest.fixture(scope="module", autouse=True)
def running(s3_server: str) -> Iterator[None]:
    """Ray, whose workers know the object store."""
    with local_ray():
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.target_min_block_size = 1
        yield


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    return write(Store.open(tmp_path_factory.mktemp("ray") / "store", create=True), "net", 4, 0)


def joined(dataset: ray.data.Dataset) -> dict[str, Any]:
    """Return the columns of a dataset."""
    parts = list(dataset.iter_batches(batch_size=7, batch_format="numpy"))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("where", ["folder", "object store"])
def test_batches_are_arrays_of_the_stored_shape_and_dtype(
    view: View, request: pytest.FixtureRequest, where: str
) -> None:
    place: Any = view.paths.store
    if where == "object store":
        place = Store.open(f"{request.getfixturevalue('bucket')}/features", create=True)
        view = write(place, "net", 4, 0)
    done = np.flatnonzero(view.status() == OK)
    arrays = joined(read_view(place, "clips", "net", override_num_blocks=5))
    levels, scale = view.read_quantised("tokens", done)
    expected = {name: view.read(name, done) for name in ("embedding", "half")}
    expected |= {"tokens": levels, "tokens_scale": scale}
    expected |= {name: ABOUT[name].to_numpy()[done] for name in ("key", "step", "name")}
    assert arrays.keys() == expected.keys()
    for name, values in expected.items():
        assert arrays[name].shape == values.shape and (
            name in ("key", "name") or arrays[name].dtype == values.dtype
        ), name
        np.testing.assert_array_equal(arrays[name], values)


def test_each_row_is_read_once_though_a_worker_is_killed(view: View, tmp_path: Path) -> None:
    kills, done = tmp_path, np.flatnonzero(view.status() == OK)

    class Killing(ViewDatasource):
        """Its second and third task end their worker once, after some of their blocks."""

        def get_read_tasks(self, *arguments: Any, **more: Any) -> list[Any]:
            tasks = super().get_read_tasks(*arguments, **more)
            return [
                ReadTask(killing(task, number), task.metadata, task.schema)
                for number, task in enumerate(tasks)
            ]

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

    source = Killing(view, ["embedding"], columns=())
    arrays = joined(ray.data.read_datasource(source, override_num_blocks=4))
    assert sorted(path.name for path in kills.iterdir()) == ["1", "2"]
    assert arrays["key"].tolist() == [KEYS[row] for row in done]
    np.testing.assert_array_equal(arrays["embedding"], view.read("embedding", done))
