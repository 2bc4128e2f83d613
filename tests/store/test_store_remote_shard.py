"""Rows of shards in an object store equal those of a folder."""

import threading
import uuid
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
import tensorstore
import zarr

from common.errors import StepDiffError
from common.io.remote import RemotePath
from store import Feature, Provenance, Store, View
from store.format.shard import index_bytes
from store.io.remote import RemoteReader

ROWS, SHARD = 50, 16


@pytest.fixture(params=["s3", "memory"])
def view(request: pytest.FixtureRequest, provenance: Provenance, features: dict[str, Feature]) -> View:
    """An empty view in an object store of each kind."""
    url = request.getfixturevalue("bucket") if request.param == "s3" else f"memory://{uuid.uuid4().hex}"
    store = Store.open(f"{url}/features", create=True)
    store.catalog("clips").append(pl.DataFrame({"key": [f"c{i}" for i in range(ROWS)]}))
    with store.lock():
        return store.create_view("clips", "net", provenance, features, SHARD)


def remote(view: View, name: str, shard: int) -> RemotePath:
    path = view.paths.shard(name, shard, 1 + len(view.features[name].shape))
    assert isinstance(path, RemotePath)
    return path


def test_rows_are_returned_in_the_order_of_the_request(
    view: View, fill: Callable[..., None], values: Callable[..., dict]
) -> None:
    fill(view)
    expected = values(view, np.arange(ROWS))
    dice = np.random.default_rng(0)
    for rows in (np.arange(ROWS), np.arange(ROWS)[::-1], dice.integers(0, ROWS, 200), np.array([3]), np.array([], int)):
        for name, feature in view.features.items():
            assert np.array_equal(view.read(name, rows), expected[name][rows].astype(feature.dtype))
    out = np.empty((2, 7), np.float32)
    assert view.read("embedding", np.array([40, 1]), out) is out and np.array_equal(out, expected["embedding"][[40, 1]])


def test_distant_rows_are_separate_requests(view: View, fill: Callable[..., None]) -> None:
    fill(view)
    reader = view._readers["tokens"]
    assert isinstance(reader, RemoteReader)
    shard = reader._shard(0)
    target = np.zeros((5, 30), np.uint8)
    assert shard is not None
    near = list(reader._requests(shard, np.arange(5), np.array([9, 3, 3, 0, 15]), target))
    assert [(r.start, r.end, sorted(r.places.tolist())) for r in near] == [(0, 480, [0, 1, 2, 3, 4])]
    shard.offsets = shard.offsets.astype(np.uint64) * 10**6  # as if rows were large
    shard.nbytes = 10**9
    far = list(reader._requests(shard, np.arange(5), np.array([9, 3, 3, 0, 15]), target))
    assert [(r.start, r.end - r.start) for r in far] == [(n * 30 * 10**6, 30) for n in (0, 3, 9, 15)]


def test_reads_are_correct_while_a_writer_replaces_the_shard(
    view: View, fill: Callable[..., None], values: Callable[..., dict]
) -> None:
    expected = values(view, np.arange(SHARD))["tokens"].astype(np.float16)
    fill(view, np.arange(7, 8))
    assert np.array_equal(view.read("tokens", np.array([7])), expected[[7]])  # the index is cached now
    wrong: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            if not np.array_equal(view.read("tokens", np.array([7, 7])), expected[[7, 7]]):
                wrong.append(1)

    reader = threading.Thread(target=look)
    reader.start()
    for row in (0, 1, 2, 9, 15):  # row 7 moves within the object each time
        fill(view, np.array([row]))
    done.set()
    reader.join()
    assert not wrong
    rows = np.array([0, 1, 2, 7, 9, 15])
    assert np.array_equal(view.read("tokens", rows), expected[rows])


def test_a_missing_shard_reads_as_the_fill_value_or_raises(view: View, fill: Callable[..., None]) -> None:
    fill(view, np.arange(8))
    path = remote(view, "tokens", 0)
    present = np.zeros(SHARD, bool)
    present[3] = True
    row = np.arange(15, dtype=np.float16)
    path.put([row, index_bytes(present, 30)])
    found = view.read("tokens", np.array([2, 3]), check="never")
    assert not found[0].any() and np.array_equal(found[1].ravel(), row)
    with pytest.raises(StepDiffError, match="^c2 and 1 more: stored tokens"):
        view.read("tokens", np.array([2, 3]))
    with pytest.raises(StepDiffError, match="c9 is absent"):
        view.read("tokens", np.array([9]))


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "past the end"])
def test_a_damaged_index_is_refused_in_one_line(view: View, fill: Callable[..., None], damage: str) -> None:
    fill(view, np.arange(SHARD))
    path = remote(view, "tokens", 0)
    data = bytearray(path.read_bytes())
    if damage == "past the end":
        data = bytearray(index_bytes(np.ones(SHARD, bool), 30))
    elif damage == "flipped":
        data[-20] ^= 1
    path.put([bytes(data[: {"empty": 0, "cut": 100}.get(damage, len(data))])])
    with pytest.raises(StepDiffError, match="run python -m store verify"):
        view.read("tokens", np.array([15]))


def test_zarr_python_reads_the_array(s3_bucket: str, s3_server: str, values: Callable[..., dict]) -> None:
    store = Store.open(f"{s3_bucket}/deep/features", create=True)
    store.catalog("clips").append(pl.DataFrame({"key": [f"c{i}" for i in range(11)]}))
    features = {"tokens": Feature((3, 130), "int8"), "embedding": Feature((7,), "float32")}
    with store.lock():
        view = store.create_view("clips", "net", Provenance("net", "0", "l", "f", "c", {}), features, 4)
    for shard in range(3):
        rows = np.arange(shard * 4, min(shard * 4 + 4, 11))
        view.write_shard(shard, rows, values(view, rows), {})
    ours = dict(zip(view.stored, view._read(np.arange(11), dict.fromkeys(view.stored)), strict=True))
    group = zarr.open_group(view.paths.group.zarr(), mode="r")
    assert sorted(group.array_keys()) == ["checksum", "embedding", "scale", "status", "tokens"]
    for name, expected in ours.items():
        assert np.array_equal(group[name][:], expected)
        base = {"driver": "s3", "bucket": s3_bucket.removeprefix("s3://"), "endpoint": s3_server}
        spec = {
            "driver": "zarr3",
            "kvstore": {**base, "aws_region": "us-east-1", "path": f"deep/features/arrays.zarr/clips/net/{name}/"},
        }
        assert np.array_equal(tensorstore.open(spec, open=True).result().read().result(), expected)
    assert group["status"][:].tolist() == [1] * 11
