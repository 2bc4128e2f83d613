"""Reads: equal to those of other Zarr readers, from memory, from the disk and next to a writer."""

import errno
import fcntl
import gc
import itertools
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepdiff_core.errors import DamageError, StepDiffError
from stepdiff_core.io.direct_io import LEAST, PAGE, aligned_empty
from stepdiff_core.io.sealed import BLANK
from store import Feature, Store, View
from store.format.layout import array_metadata
from store.io.writer import CommitGroup
from store.verbs.verify import verify
from tests.store.conftest import ROOT, flip, opened

Make = Callable[..., Any]
FULL = pytest.mark.full


def with_zarr(view: View, array: str) -> np.ndarray:
    return zarr.open_array(view.paths.group / array, mode="r")[:]


def test_the_metadata_of_arrays_is_what_zarr_python_writes() -> None:
    stored = {
        "tokens": Feature((3, 70), "int8"),
        "scale": Feature((3, 2), "float16"),
        "mean": Feature((7,), "float32"),
    }
    axes = {
        "checksum": ["feature"],
        "status": [],
        "tokens": ["token", "channel"],
        "scale": ["token", "block"],
    }
    axes["mean"] = ["mean_channel"]  # of another length than those of tokens
    cases: dict[str, tuple[tuple[int, ...], str, Any]] = {
        "checksum": ((3,), "uint32", zarr.codecs.Crc32cCodec()),
        "status": ((), "uint8", zarr.codecs.Crc32cCodec()),
        **{name: (feature.shape, feature.dtype, None) for name, feature in stored.items()},
    }
    for array, (shape, dtype, codec) in cases.items():
        chunks = (
            {"chunks": (4, *shape)} if codec else {"chunks": (1, *shape), "shards": (4, *shape)}
        )
        files: dict[str, Any] = {}
        zarr.create_array(
            zarr.storage.MemoryStore(store_dict=files),
            shape=(11, *shape),
            dtype=dtype,
            compressors=codec,
            filters=None,
            fill_value=0,
            attributes={"seal": BLANK},
            dimension_names=["text", *axes[array]],
            **chunks,
        )
        written = json.dumps(array_metadata("texts", array, 11, stored, 4), indent=2)
        assert written == files["zarr.json"].to_bytes().decode(), array


def test_the_zarr_hierarchy_contains_no_other_files(make_view: Make, fill: Make) -> None:
    view = make_view()
    fill(view)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # zarr warns about unknown files
        members = dict(
            zarr.open_group(view.paths.store / "arrays.zarr", mode="r").members(max_depth=None)
        )
    arrays = {name for name, member in members.items() if isinstance(member, zarr.Array)}
    assert arrays == {f"clips/net/{name}" for name in ("tokens", "embedding", "checksum", "status")}
    assert members["clips/net"].attrs["provenance"]["encoder"] == "net"


def rewrite(view: View, array: str, content: np.ndarray) -> None:
    """Write the array with zarr-python, which leaves out rows equal to the fill value."""
    zarr.open_array(view.paths.group / array, mode="r+")[:] = content


def test_a_missing_index_entry_of_an_ok_row_is_the_fill_value(
    make_view: Make, values: Make
) -> None:
    view = make_view()
    for shard in range(3):
        rows = np.arange(shard * 4, min(shard * 4 + 4, 11))
        features = values(view, rows)
        features["tokens"][np.isin(rows, [2, 4, 5, 6, 7])] = 0
        view.write_shard(shard, rows, features, {})
    tokens = with_zarr(view, "tokens")
    rewrite(view, "tokens", tokens)
    shard_bytes = view.paths.shard("tokens", 0, 3).stat().st_size
    assert shard_bytes == 3 * 30 + 4 * 16 + 4, "zarr-python left out the row of zeros"
    assert (view.read("tokens", np.arange(11)) == tokens).all()
    assert not view.paths.shard("tokens", 1, 3).exists(), "zarr-python left out the shard of zeros"
    view.paths.shard("tokens", 2, 3).unlink()
    with pytest.raises(StepDiffError, match="^c8 and 2 more: stored tokens of view net"):
        view.read("tokens", np.arange(8, 11))


MASKS = """
import sys
import numpy as np
from stepdiff_core.errors import DamageError, StepDiffError
from store import Batches, Store
from store.exchange.arrow import record_batches
view = Store.open(sys.argv[1]).view("clips", "net")
for rows in (np.array([False, False, True, True]), np.array([1.7]), np.array([[0, 1]])):
    for read in (
        lambda: view.read("tokens", rows),
        lambda: view.in_place("tokens", rows),
        lambda: view.read_quantised("q", rows),
        lambda: Batches(view, "tokens", rows, batch_size=1),
        lambda: list(record_batches(view, "tokens", rows)),
    ):
        try:
            print("read", len(read()))
        except StepDiffError as error:
            print(error)
"""


def test_row_numbers_are_never_cast_from_a_mask_or_floats(make_view: Make, values: Make) -> None:
    """In a process whose calls are not checked by jaxtyping."""
    view = make_view({"tokens": Feature((3, 5), "float16"), "q": Feature((4,), "int8")})
    view.write_shard(0, np.arange(4), values(view, np.arange(4)), {})
    command = [sys.executable, "-c", MASKS, str(view.paths.store)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wrong = [
        "rows are bool of shape [4]: ",
        "rows are float64 of shape [1]: ",
        "rows are int64 of shape [1, 2]: ",
    ]
    assert [line.split("give")[0] for line in done.stdout.splitlines()] == [
        text for text in wrong for _ in range(5)
    ]


def test_rows_are_read_by_keys_or_numbers_of_any_kind(filled: View) -> None:
    expected = filled.read("tokens", np.array([3, 0]))
    for keys in (["c3", "c0"], ("c3", "c0"), np.array(["c3", "c0"]), pl.Series(["c3", "c0"])):
        assert (filled.read("tokens", keys=keys) == expected).all()
    for rows in ([3, 0], (3, 0), np.array([3, 0], np.int32), pl.Series([3, 0], dtype=pl.UInt32)):
        assert (filled.read("tokens", rows) == expected).all()
    assert (filled.read("tokens", keys="c0", dtype="float32") == expected[1:]).all()
    for nothing in ({"keys": []}, {"rows": []}, {"rows": pl.Series([], dtype=pl.Null)}):
        assert filled.read("tokens", **nothing).shape == (0, 3, 5)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"keys": ["c0", "z"]}, "no key 'z' among the 11 clips"),
        ({}, "by rows or by keys"),
        ({"keys": ["c0"], "rows": [0]}, "by rows or by keys"),
        ({"keys": ["c0"], "dtype": "int8"}, "tokens .* is float16: it cannot be read as int8"),
        ({"rows": [0, -1]}, "no row -1"),
        ({"rows": [0, 11]}, "row 11 is absent"),
        ({"rows": [4000]}, "row 4000 is absent"),
        ({"rows": [0, 6]}, "c6 is failed in view net of clips"),
        ({"rows": [0, 9]}, "c9 is absent in view net of clips"),
        ({"rows": [0, 1], "out": np.empty((2, 3, 4), np.float16)}, "needs C-contiguous float16"),
        ({"rows": [0, 1], "out": np.empty((2, 3, 5), np.float32)}, "needs C-contiguous float16"),
        (
            {"rows": [0, 1], "out": np.empty((4, 3, 5), np.float16)[::2]},
            "needs C-contiguous float16",
        ),
    ],
)
def test_impossible_reads_are_refused(filled: View, wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(StepDiffError, match=why):
        filled.read("tokens", **wrong)
    with pytest.raises(StepDiffError, match="no feature 'scale' .*: it has tokens, embedding"):
        filled.read("scale", np.array([0]))


# 72 KiB rows are mapped
BIG = {"tokens": Feature((9, 4096), "float16"), "embedding": Feature((7,), "float32")}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.integers(0, 36), max_size=60)
    | st.builds(range, st.integers(0, 36), st.integers(0, 37)),
    name=st.sampled_from(["tokens", "embedding"]),
    reuse=st.booleans(),
)
def test_rows_are_returned_in_the_order_of_the_request(
    make_view: Make, fill: Make, rows: Sequence[int], name: str, reuse: bool
) -> None:
    view = make_view(BIG, rows=37, shard=8)
    if not view.status().all():
        fill(view)
    whole = zarr.open_array(view.paths.group / name, mode="r")[:]
    numbers = np.array(rows, np.int64)
    out = (
        np.full((len(rows), *view.features[name].shape), 9, view.features[name].dtype)
        if reuse
        else None
    )
    got = view.read(name, numbers, out)
    assert got.dtype == whole.dtype and (got == whole[numbers]).all()
    assert out is None or got is out
    assert (view.read(name, numbers, dtype="float32") == whole[numbers].astype(np.float32)).all()
    lying = view.in_place(name, numbers)
    assert (lying is not None) == (
        len(rows) > 0 and set(np.diff(rows)) <= {1} and rows[0] // 8 == rows[-1] // 8
    )
    if lying is not None:
        assert (
            lying.dtype == whole.dtype
            and not lying.flags.writeable
            and (lying == whole[numbers]).all()
        )


def test_in_place_rows_survive_a_replaced_shard(make_view: Make) -> None:
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


@pytest.mark.parametrize(
    "where", ["small rows", "mapped rows", *(pytest.param(w, marks=FULL) for w in ("s3", "memory"))]
)
def test_reads_are_correct_while_a_writer_replaces_the_shard(
    make_view: Make, fill: Make, values: Make, request: pytest.FixtureRequest, where: str
) -> None:
    urls = {
        "s3": lambda: request.getfixturevalue("bucket"),
        "memory": lambda: f"memory://{request.node.name}",
    }
    more = (
        {"features": BIG}
        if where == "mapped rows"
        else {"place": urls[where]()}
        if where in urls
        else {}
    )
    view = make_view(rows=32, shard=32, **more)
    first = np.arange(0, 32, 5)
    fill(view, first)
    expected = view.read("tokens", first)
    rest = np.setdiff1d(np.arange(32), first)
    errors: list[str] = []
    done = threading.Event()

    def write() -> None:
        for row in rest[::3].tolist():
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
            if damage := verify(Store.open(view.paths.store)):
                errors.append(f"verify reports damage: {damage}")

    threads = [
        threading.Thread(target=write),
        *(threading.Thread(target=read, args=(n,)) for n in range(2)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done.is_set() and not errors


# at some limits, a file of checksums is the one too many
@pytest.mark.parametrize("limits", [(36,), pytest.param(range(37, 46), marks=FULL)])
def test_a_process_at_its_limit_of_open_files_closes_some(
    make_view: Make, fill: Make, values: Make, limits: Sequence[int]
) -> None:
    fill(make_view(rows=200, shard=4))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    rows = np.arange(200)
    for more in limits:
        view = make_view(rows=200, shard=4)
        gc.collect()  # else files of an earlier view, held by a refusal, could close in between
        # the limit is one of numbers, and files of other tests may have high ones
        numbers = {int(name) for name in os.listdir("/proc/self/fd")}
        free = (number for number in itertools.count() if number not in numbers)
        limit = next(itertools.islice(free, more, None))
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            for some in np.split(rows, 20):
                assert (view.read("embedding", some) == values(view, some)["embedding"]).all()
            with pytest.raises(StepDiffError, match="raise ulimit -n"):
                view.read("embedding", rows)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        del view  # closes its files


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_reader_reads_and_never_hangs(make_view: Make, fill: Make) -> None:
    view = make_view()
    fill(view, np.array([0, 1]))
    expected = view.read("embedding", [1, 0])
    for reader in (view, pickle.loads(pickle.dumps(view))):
        assert forked(lambda reader=reader: (reader.read("embedding", [1, 0]) == expected).all())
    assert view.catalog.rows(["c1"]).tolist() == [1]
    # polars has its threads now, which a forked child does not have
    view.catalog.frame().sort("key")

    def says(part: str, ask: Callable[[], object]) -> bool:
        with pytest.raises(StepDiffError, match=part):
            ask()
        return True

    absent = np.array([1, 7])
    unread = Store.open(view.paths.store)
    assert forked(lambda: view.catalog.rows(["c7", "x"]).tolist() == [7, -1])
    assert forked(lambda: says("^c7 is absent", lambda: view.read("tokens", absent)))
    assert forked(
        lambda: says("^c7 is absent", lambda: unread.view("clips", "net").read("tokens", absent))
    )
    assert forked(lambda: unread.catalog("clips").rows(["c1"]).tolist() == [1])
    for index in view.catalog.folder.glob("*.keys"):
        index.unlink()  # rebuilding it needs polars
    assert forked(
        lambda: says("^row 7 is absent", lambda: unread.view("clips", "net").read("tokens", absent))
    )
    assert forked(lambda: says("in a forked process", lambda: unread.catalog("clips").rows(["c1"])))
    assert forked(lambda: says("in a forked process", lambda: view.failures()))
    assert forked(
        lambda: says(
            "in a forked process", lambda: view.catalog.append(pl.DataFrame({"key": ["new"]}))
        )
    )


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


# float16: 4, 2.5 MiB, 300 bytes
SHAPES = {"whole pages": (2, LEAST), "between pages": (3, 433_000), "small": (3, 50)}


def drop_from_memory(folder: Path) -> None:
    """Drop all files below `folder` from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture(
    params=["can", pytest.param("refuses the flag", marks=FULL), "refuses the read or write"]
)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems with direct I/O, and systems that refuse it at different calls."""

    def refused(flags: int) -> None:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")

    def open_refused(path: str, flags: int, *mode: int, call: Callable[..., int] = os.open) -> int:
        refused(flags)
        return call(path, flags, *mode)

    def refusing(call: Callable[..., int]) -> Callable[..., int]:
        def refused_call(fd: int, *rest: Any) -> int:
            refused(fcntl.fcntl(fd, fcntl.F_GETFL))
            return call(fd, *rest)

        return refused_call

    if request.param == "refuses the flag":
        monkeypatch.setattr(os, "open", open_refused)
    elif request.param == "refuses the read or write":
        monkeypatch.setattr(os, "preadv", refusing(os.preadv))
        monkeypatch.setattr(os, "pwrite", refusing(os.pwrite))


@pytest.mark.parametrize(
    "shape", ["whole pages", *(pytest.param(name, marks=FULL) for name in list(SHAPES)[1:])]
)
def test_a_read_gives_the_same_bytes(make_view: Make, fill: Make, system: None, shape: str) -> None:
    view = make_view(
        {"tokens": Feature(SHAPES[shape], "float16"), "embedding": Feature((7,), "float32")}, rows=7
    )
    fill(view)
    whole = zarr.open_array(view.paths.group / "tokens", mode="r")[:]
    # the last row is followed only by the index; two rows are adjacent
    rows = np.array([6, 2, 3, 0, 3, 5])
    for out in (None, np.empty((6, *SHAPES[shape]), np.float16), unaligned((6, *SHAPES[shape]))):
        drop_from_memory(view.paths.group)
        got = view.read("tokens", rows, out, direct=True)
        assert (got == whole[rows]).all() and (out is None or got is out)
    flip(view.paths.shard("tokens", 0, 3), 5)
    with pytest.raises(DamageError, match="^c0: "):
        opened(view).read("tokens", [0], direct=True)


@FULL
@pytest.mark.parametrize("more_bytes", [0, 1, PAGE + 5])
def test_a_truncated_file_is_named(make_view: Make, fill: Make, more_bytes: int) -> None:
    view = make_view(
        {"tokens": Feature((2, LEAST), "float16"), "embedding": Feature((7,), "float32")}
    )
    fill(view)
    drop_from_memory(view.paths.group)
    view.read("tokens", np.array([0]), direct=True)  # the file is open and its index is read
    path = view.paths.shard("tokens", 0, 3)
    times = path.stat()
    os.truncate(path, 4 * LEAST + more_bytes)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(
        StepDiffError, match="it ends too early|index of .* run python -m store verify"
    ):
        view.read("tokens", np.array([0, 1]), direct=True)


@pytest.mark.parametrize("first", [5, *(pytest.param(first, marks=FULL) for first in (0, PAGE))])
@pytest.mark.parametrize(
    "size", [2 * LEAST + 7, *(pytest.param(size, marks=FULL) for size in (2 * LEAST, 100))]
)
def test_a_write_gives_the_same_bytes(tmp_path: Path, system: None, first: int, size: int) -> None:
    rng = np.random.default_rng(0)
    pieces = [rng.integers(0, 256, n, np.uint8) for n in (first, 0, 0, 9)]
    for place in (1, 2):
        pieces[place] = aligned_empty((size,), np.uint8)
        pieces[place][:] = rng.integers(0, 256, size, np.uint8)
    with CommitGroup() as files:
        files.replace(tmp_path / "file", pieces, sum(map(len, pieces)))
    assert (tmp_path / "file").read_bytes() == b"".join(piece.tobytes() for piece in pieces)


def unaligned(shape: tuple[int, ...]) -> np.ndarray:
    """Return a float16 array that begins two bytes after the start of a page."""
    size = int(np.prod(shape))
    return aligned_empty((size + 1,), np.float16)[1:].reshape(shape)
