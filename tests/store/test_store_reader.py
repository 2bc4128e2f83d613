"""The reader compared with zarr-python, and with a concurrent writer."""

import os
import pickle
import resource
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import StepDiffError
from store import Feature, Store
from store.batches import Batches
from store.format.quantise import Quantised, dequantise
from store.io import reader as reading

Make = Callable[..., Any]
BIG = {"tokens": Feature((9, 4096), "float16"), "embedding": Feature((7,), "float32")}  # 72 KiB rows are mapped


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.integers(0, 36), max_size=60),
    name=st.sampled_from(["tokens", "embedding"]),
    reuse=st.booleans(),
)
def test_rows_are_returned_in_the_order_of_the_request(
    make_view: Make, fill: Make, rows: list[int], name: str, reuse: bool
) -> None:
    view = make_view(BIG, rows=37, shard=8)
    if not view.status().all():
        fill(view)
    whole = zarr.open_array(view.paths.group / name, mode="r")[:]
    wanted = np.array(rows, np.int64)
    out = np.full((len(rows), *view.features[name].shape), 9, view.features[name].dtype) if reuse else None
    got = view.read(name, wanted, out)
    assert got.dtype == whole.dtype and (got == whole[wanted]).all()
    assert out is None or got is out
    assert (view.read(name, wanted, dtype="float32") == whole[wanted].astype(np.float32)).all()


@pytest.mark.parametrize("nowait", [reading._NOWAIT, 0])
def test_memory_and_disk_give_the_same_rows(
    make_view: Make, fill: Make, monkeypatch: pytest.MonkeyPatch, nowait: int
) -> None:
    monkeypatch.setattr(reading, "_NOWAIT", nowait)
    view = make_view(BIG, rows=37, shard=8)
    fill(view)
    for path in view.paths.group.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    rows = np.random.default_rng(0).permutation(37)
    for _ in range(2):  # from the disk, then from memory
        got = view.read("tokens", rows)
        assert (got == zarr.open_array(view.paths.group / "tokens", mode="r")[:][rows]).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, 36), max_size=9) | st.builds(range, st.integers(0, 36), st.integers(0, 37)))
def test_in_place_rows_equal_rows_that_are_read(make_view: Make, fill: Make, rows: Sequence[int]) -> None:
    view = make_view(BIG, rows=37, shard=8)
    if not view.status().all():
        fill(view)
    wanted = np.array(rows, np.int64)
    lying = view.in_place("tokens", wanted)
    assert (lying is not None) == (len(rows) > 0 and set(np.diff(rows)) <= {1} and rows[0] // 8 == rows[-1] // 8)
    if lying is not None:
        given = view.read("tokens", wanted)
        assert lying.dtype == given.dtype and not lying.flags.writeable and np.array_equal(lying, given)


def test_in_place_rows_skip_a_failed_row_and_survive_a_replaced_shard(make_view: Make) -> None:
    view = make_view({"embedding": Feature((7,), "float32")}, rows=8, shard=8)
    rows = np.arange(0, 8, 2)
    values = np.arange(28, dtype=np.float32).reshape(4, 7)
    view.write_shard(0, rows, {"embedding": values}, {1: "no video"})
    lying = view.in_place("embedding", rows)
    view.write_shard(0, np.array([3]), {"embedding": values[:1]}, {})
    assert np.array_equal(lying, values)
    assert view.in_place("embedding", rows) is None  # another row is between them now
    assert np.array_equal(view.in_place("embedding", np.array([2, 3])), values[[1, 0]])
    with pytest.raises(StepDiffError, match="absent"):
        view.in_place("embedding", np.array([0, 5]))


def test_rows_outside_the_page_cache_are_not_in_place(make_view: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    view = make_view({"embedding": Feature((7,), "float32")}, rows=8, shard=8)
    view.write_shard(0, np.arange(8), {"embedding": np.ones((8, 7), np.float32)}, {})
    monkeypatch.setattr(reading, "_is_resident", lambda run: False)
    assert view.in_place("embedding", np.arange(8)) is None
    (batch,) = Batches(view, "embedding", batch_size=8, shuffle=False, in_place=True)
    assert (batch.arrays["embedding"] == 1).all()


@pytest.mark.parametrize("wrong", ["shape", "dtype", "stride"])
def test_an_out_that_does_not_fit_is_refused(make_view: Make, fill: Make, wrong: str) -> None:
    view = make_view()
    fill(view)
    out = {
        "shape": np.empty((2, 3, 4), np.float16),
        "dtype": np.empty((2, 3, 5), np.float32),
        "stride": np.empty((4, 3, 5), np.float16)[::2],
    }[wrong]
    with pytest.raises(StepDiffError, match="tokens needs C-contiguous float16"):
        view.read("tokens", np.array([0, 1]), out)


def test_int8_is_read_as_stored(make_view: Make, fill: Make) -> None:
    view = make_view({"tokens": Feature((3, 70), "int8"), "embedding": Feature((7,), "float32")}, rows=11)
    fill(view)
    rows = np.array([9, 0, 9, 4])
    levels, scale = view.read_quantised("tokens", rows)
    for got, name in ((levels, "tokens"), (scale, "scale")):
        whole = zarr.open_array(view.paths.group / name, mode="r")[:]
        assert got.dtype == whole.dtype and (got == whole[rows]).all()
    assert (view.read("tokens", rows, dtype="float32") == dequantise(levels, scale)).all()
    out = Quantised(np.empty_like(levels), np.empty_like(scale))
    again = view.read_quantised("tokens", rows, out)
    assert again.levels is out.levels and again.scale is out.scale
    assert (out.levels == levels).all() and (out.scale == scale).all()
    with pytest.raises(StepDiffError, match="embedding of view net is float32, not int8"):
        view.read_quantised("embedding", rows)


@pytest.mark.parametrize("big", [False, True])
def test_reads_are_correct_while_a_writer_replaces_the_shard(
    make_view: Make, fill: Make, values: Make, big: bool
) -> None:
    view = make_view(*([BIG] if big else []), rows=32, shard=32)
    first = np.arange(0, 32, 5)
    fill(view, first)
    expected = view.read("tokens", first)
    rest = np.setdiff1d(np.arange(32), first)
    errors: list[str] = []
    done = threading.Event()

    def write() -> None:
        for row in rest.tolist():
            fill(view, np.array([row]))
        done.set()

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not done.is_set():
            order = rng.permutation(len(first))
            if not (view.read("tokens", first[order]) == expected[order]).all():
                errors.append("a row changed")
            ready = np.flatnonzero(view.status() == 1)
            got = view.read("embedding", ready)
            if not (got == values(view, ready)["embedding"]).all():
                errors.append("a new row is wrong")

    threads = [threading.Thread(target=write), *(threading.Thread(target=read, args=(n,)) for n in range(2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done.is_set() and not errors and view.status().all()


def test_more_shards_can_be_read_than_files_can_be_open(
    make_view: Make, fill: Make, values: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "OPEN_FILES", 2)
    view = make_view(rows=40, shard=4)
    fill(view)
    before = len(os.listdir("/proc/self/fd"))
    rows = np.random.default_rng(0).integers(0, 40, 200)
    assert (view.read("embedding", rows) == values(view, rows)["embedding"]).all()
    assert len(os.listdir("/proc/self/fd")) <= before + 2, "files evicted from the cache are closed"


@pytest.mark.parametrize("more", range(36, 46))  # at some, a file of checksums is the one too many
def test_a_process_at_its_limit_of_open_files_closes_some(make_view: Make, fill: Make, values: Make, more: int) -> None:
    view = make_view(rows=400, shard=4)
    fill(view)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    rows = np.arange(400)
    there = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (there + more, hard))
    try:
        for some in np.split(rows, 20):
            assert (view.read("embedding", some) == values(view, some)["embedding"]).all()
        with pytest.raises(StepDiffError, match="raise ulimit -n"):
            view.read("embedding", rows)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_view_can_be_pickled_and_forked(make_view: Make, fill: Make, values: Make) -> None:
    view = make_view()
    fill(view)
    expected = values(view, np.arange(11))["embedding"]
    again = pickle.loads(pickle.dumps(view))
    assert (again.read("embedding", np.arange(11)) == expected).all()
    assert forked(lambda: (view.read("embedding", np.arange(11)) == expected).all())


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_reader_never_hangs(make_view: Make, fill: Make) -> None:
    view = make_view()
    fill(view, np.array([0, 1]))
    assert view.catalog.rows(["c1"]).tolist() == [1]
    view.catalog.frame().sort("key")  # polars has its threads now, which a forked child does not have

    def says(part: str, ask: Callable[[], object]) -> bool:
        with pytest.raises(StepDiffError, match=part):
            ask()
        return True

    absent = np.array([1, 7])
    unread = Store.open(view.paths.store)
    assert forked(lambda: view.catalog.rows(["c7", "x"]).tolist() == [7, -1])
    assert forked(lambda: says("^c7 is absent", lambda: view.read("tokens", absent)))
    assert forked(lambda: says("^c7 is absent", lambda: unread.view("clips", "net").read("tokens", absent)))
    assert forked(lambda: unread.catalog("clips").rows(["c1"]).tolist() == [1])
    for index in view.catalog.folder.glob("*.keys"):
        index.unlink()  # rebuilding it needs polars
    assert forked(lambda: says("^row 7 is absent", lambda: unread.view("clips", "net").read("tokens", absent)))
    assert forked(lambda: says("in a forked process", lambda: unread.catalog("clips").rows(["c1"])))
    assert forked(lambda: says("in a forked process", lambda: view.failures()))
    assert forked(lambda: says("in a forked process", lambda: view.catalog.append(pl.DataFrame({"key": ["new"]}))))


def forked(ask: Callable[[], object]) -> bool:
    """Return whether `ask` is true in a forked child within 20 seconds."""
    pid = os.fork()
    if pid == 0:  # the test runner must not continue in the child
        signal.alarm(20)
        try:
            os._exit(0 if ask() else 1)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0
