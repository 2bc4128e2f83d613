"""Writing: order of commits, shards completed later, failures, full disks, locks, and what is
refused."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from stepdiff_core.errors import HeldError, StepDiffError
from stepdiff_core.io.direct_io import LEAST
from stepdiff_core.io.local import temporary
from store import Feature, Provenance, Store, View
from store.io.writer import CommitGroup
from store.verbs.verify import verify
from store.view import OK
from tests.store.conftest import ROOT, opened

Make = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def test_completing_a_shard_keeps_the_bytes_of_its_ok_rows(
    make_view: Make, fill: Make, values: Make
) -> None:
    view = make_view()
    early = np.array([5, 7])
    fill(view, early)
    before = {name: view.read(name, early).tobytes() for name in view.features}
    sums = view.paths.checksum(1).read_bytes()[8:16]
    every = np.arange(4, 8)
    view.write_shard(1, every, values(view, every, seed=1), {})  # other values for rows 5 and 7 too
    assert {name: view.read(name, early).tobytes() for name in view.features} == before
    assert view.paths.checksum(1).read_bytes()[8:16] == sums
    late = np.array([4, 6])
    assert (view.read("embedding", late) == values(view, late, seed=1)["embedding"]).all()
    assert view.status()[4:8].tolist() == [1, 1, 1, 1]


def test_rows_added_to_the_catalog_complete_the_last_shard(make_view: Make, fill: Make) -> None:
    view = make_view()
    fill(view)
    reader = opened(view)  # stays open meanwhile
    assert len(reader.status()) == 11
    before = view.read("tokens", np.arange(11)).tobytes()
    store = Store.open(view.paths.store)
    store.catalog("clips").append(pl.DataFrame({"key": [f"d{i}" for i in range(4)]}))
    assert reader.status().tolist() == [1] * 11 + [0] * 4, (
        "an array shorter than the catalog reads as absent"
    )
    with pytest.raises(StepDiffError, match="d0 is absent"):
        reader.read("tokens", np.array([11]))
    with pytest.raises(StepDiffError, match=r"takes rows 8 to 10, got 11 to 11: call resize\(\)"):
        fill(view, np.array([11]))
    with store.lock():
        view.resize()
    fill(view, np.arange(11, 15))
    assert view.read("tokens", np.arange(11)).tobytes() == before
    assert reader.status().tolist() == [1] * 15, "an open view sees rows that others add"
    assert reader.read("tokens", np.arange(15)).any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    ("bad", "dtype", "reason"),
    [
        (-np.inf, "float32", "tokens holds infinity"),
        # rounds to infinity
        (65520, "float16", "tokens holds 6.552e+04, a magnitude past float16"),
        (7e4, "int8", "tokens holds 7e+04, a magnitude past float16"),
        (np.nan, "int8", "tokens holds NaN"),
    ],
)
def test_only_the_row_that_does_not_fit_fails(
    make_view: Make, values: Make, bad: float, dtype: str, reason: str
) -> None:
    view = make_view({"tokens": Feature((3, 5), dtype), "embedding": Feature((7,), "float32")})
    rows = np.arange(4, 8)
    arrays = values(view, rows)
    arrays["tokens"][2, 1, 3] = bad
    view.write_shard(1, rows, arrays, {})
    assert view.status()[4:8].tolist() == [1, 1, 2, 1]
    assert view.failures().rows() == [("c6", reason)]
    assert (view.read("embedding", np.array([4, 7])) == arrays["embedding"][[0, 3]]).all()


def test_writing_the_same_rows_again_changes_no_file(make_view: Make, fill: Make) -> None:
    view = make_view()
    fill(view)
    files = {
        p: p.stat().st_mtime_ns
        for p in view.paths.store.rglob("*")
        if p.is_file() and p.suffix != ".lock"
    }
    fill(view, seed=1)
    assert files == {p: p.stat().st_mtime_ns for p in files}


def test_a_view_refuses_another_provenance(
    make_view: Make, provenance: Provenance, features: dict[str, Feature]
) -> None:
    view = make_view()
    store = Store.open(view.paths.store)
    other = Provenance(**{**provenance.as_dict(), "weights": "1" * 64, "layer": "first"})
    with store.lock():
        assert store.create_view("clips", "net", provenance, features).rows_per_shard == 4
        with pytest.raises(
            StepDiffError,
            match=f"weights '{'0' * 64}' against '{'1' * 64}', layer 'last' against 'first'",
        ):
            store.create_view("clips", "net", other, features)
        with pytest.raises(StepDiffError, match="was made differently: features"):
            store.create_view("clips", "net", provenance, {"tokens": Feature((3, 6), "float16")})
        assert store.create_view("clips", "net2", other, features).provenance == other


def test_a_folder_that_is_not_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match="no feature store in"):
        Store.open(tmp_path / "absent")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(StepDiffError, match="holds other files"):
        Store.open(tmp_path / "photos", create=True)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StepDiffError, match="is a file"):
        Store.open(tmp_path / "file", create=True)
    store = Store.open(tmp_path / "store", create=True)
    for text, message in (
        (
            '{"format": "stepdiff-store", "version": 99}',
            "has format version 99, this program reads up to 1",
        ),
        ('{"format": "other"}', "is no feature store"),
        ("{", "is damaged"),
        ("[]", "is not as it was written"),
    ):
        (store.path / "store.json").write_text(text)
        with pytest.raises(StepDiffError, match=message):
            Store.open(store.path)


FORMS = {"tokens": Feature((3, 5), "float16")}


@pytest.mark.parametrize(
    ("rows", "changed", "failures", "message"),
    [
        ([3], {}, {}, "takes rows 4 to 7, got 3 to 3"),
        ([4, 4], {}, {}, "a row is given twice"),
        ([4], {}, {4: "x"}, "a row is given twice, or both"),
        ([4], {"tokens": None}, {}, r"takes \['embedding', 'tokens'\], got \['embedding'\]"),
        (
            [4],
            {"tokens": np.ones((1, 3, 4), np.float32)},
            {},
            r"tokens is \(1, 3, 4\), needs \(1, 3, 5\)",
        ),
    ],
)
def test_rows_that_do_not_fit_the_view_are_refused(
    make_view: Make,
    values: Make,
    rows: list[int],
    changed: Any,
    failures: dict[int, str],
    message: str,
) -> None:
    view = make_view()
    arrays = {
        name: array
        for name, array in (values(view, np.array(rows)) | changed).items()
        if array is not None
    }
    with pytest.raises(StepDiffError, match=message):
        view.write_shard(1, np.array(rows), arrays, failures)
    assert not view.status().any()


def test_what_others_rely_on_changes_only_under_the_lock(
    filled: View, provenance: Provenance
) -> None:
    store = Store.open(filled.paths.store)
    for change in (
        filled.resize,
        lambda: filled.withdraw(np.array([0])),
        lambda: verify(store, withdraw=True),
        lambda: store.create_view("clips", "other", provenance, filled.features),
    ):
        with pytest.raises(StepDiffError, match="only under the store's lock"):
            change()
    assert filled.status()[0] == 1 and store.views("clips") == ["net"]


def test_unusable_names_and_impossible_sizes_are_refused(
    filled: View, provenance: Provenance
) -> None:
    store, int8 = Store.open(filled.paths.store), Feature((3,), "int8")
    one = {"tokens": Feature((3,), "float16")}
    with store.lock():
        for name in ("a/b", "..", "a.b", "", "-a", "__a", "é", "a b", "x" * 101):
            for view, features in ((name, one), ("fine", {name: one["tokens"]})):
                with pytest.raises(StepDiffError, match="is refused"):
                    store.create_view("clips", view, provenance, features)
            for ask in (store.catalog, store.views):
                with pytest.raises(StepDiffError, match="no entity"):
                    ask(name)
        for features in ({}, {"scale": Feature((3,), "float16")}, dict.fromkeys("ab", int8)):
            with pytest.raises(StepDiffError):
                store.create_view("clips", "fine", provenance, features)
        with pytest.raises(StepDiffError, match="power of two"):
            store.create_view("clips", "fine", provenance, {"a": int8}, rows_per_shard=3)
    with pytest.raises(StepDiffError, match="no view 'clip' of clips in .*: there is net"):
        store.view("clips", "clip")
    for shape, dtype in (((), "float16"), ((0, 3), "float16"), ((3,), "float64")):
        with pytest.raises(StepDiffError):
            Feature(shape, dtype)
    assert store.views("clips") == ["net"]


def numbered(count: int, first: int = 0) -> np.ndarray:
    return np.arange(first * 15, (first + count) * 15, dtype=np.float32).reshape(count, 3, 5)


def test_a_script_writes_a_view(store: Store, provenance: Provenance) -> None:
    frame = pl.DataFrame(
        {"key": [f"c{row}" for row in range(21)], "step": ["pour", "cut", "stir"] * 7}
    )
    with store.writer(
        "clips", "net", provenance, FORMS, info={"by": "a test"}, rows_per_shard=8
    ) as writer:
        assert writer.missing(["c1", "c0"]) == ["c1", "c0"]
        buffer = torch.empty((5, 3, 5))
        for start in range(0, 21, 5):
            part = frame[start : start + 5]
            # the caller reuses its memory
            buffer[: part.height] = torch.from_numpy(numbered(part.height, start))
            writer.write(part, {"tokens": buffer[: part.height]}, {f"bad{start}": "no video"})
    view = store.view("clips", "net")
    assert (view.read("tokens", keys=frame["key"]) == numbered(21).astype(np.float16)).all()
    assert view.failures().rows() == [(f"bad{start}", "no video") for start in range(0, 21, 5)]
    assert view.catalog.frame(["key", "step"]).drop_nulls().equals(frame) and verify(store) == []


def test_a_script_that_runs_again_writes_only_missing_rows(
    store: Store, provenance: Provenance
) -> None:
    for keys in (["a", "b"], ["b", "c"]):
        with store.writer("clips", "net", provenance, FORMS) as writer:
            todo = writer.missing(keys)
            writer.write(todo, {"tokens": numbered(len(todo))})
            writer.write(keys[0], {"tokens": numbered(1) + 9})  # ok already: it keeps its bytes
    view = store.view("clips", "net")
    assert len(view.catalog) == 3 and (view.status() == OK).all()
    assert (
        view.read("tokens", keys=["a", "b", "c"]) == np.concatenate([numbered(2), numbered(1)])
    ).all()


def test_a_writer_takes_the_lock_or_uses_that_of_the_caller(
    store: Store, provenance: Provenance
) -> None:
    with store.writer("clips", "net", provenance, FORMS):
        with pytest.raises(HeldError), Store.open(store.path).lock():
            pass
    with store.lock(), store.writer("clips", "net", provenance, FORMS) as writer:
        writer.write(["a"], {"tokens": numbered(1)})
    with (
        Store.open(store.path).lock(),
        pytest.raises(HeldError),
        store.writer("clips", "net", provenance, FORMS),
    ):
        pass


def test_invalid_rows_are_refused_when_they_are_added(store: Store, provenance: Provenance) -> None:
    with store.writer("clips", "net", provenance, FORMS) as writer:
        for wrong in ({"tokens": numbered(3)}, {"other": numbered(2)}, {}):
            with pytest.raises(
                StepDiffError, match="view net of clips takes .*'tokens': .2, 3, 5.*, got"
            ):
                writer.write(["a", "b"], wrong)
    assert not len(store.catalog("clips"))


def test_complete_shards_before_an_error_are_committed(
    store: Store, provenance: Provenance
) -> None:
    with pytest.raises(ZeroDivisionError):
        with store.writer("clips", "net", provenance, FORMS, rows_per_shard=2) as writer:
            writer.write(["a", "b"], {"tokens": numbered(2)})
            writer.write(["c"], {"tokens": numbered(1)})
            raise ZeroDivisionError
    view = store.view("clips", "net")
    assert view.status().tolist() == [OK, OK] and store.catalog("clips").rows(["c"]).tolist() == [
        -1
    ]


def test_no_file_is_renamed_before_all_are_complete_and_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(fd: int) -> None:
        fsync(fd)
        events.append("fsync")

    def watched_replace(source: Path, target: Path) -> None:
        events.append(f"name {target.name} {source.stat().st_size}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    with CommitGroup() as files:
        files.replace(tmp_path / "deep" / "er" / "one", [b"1" * 10, b"2" * 5], 15)
        files.replace(tmp_path / "two", [b"3"], 1)
    named = [place for place, event in enumerate(events) if event.startswith("name")]
    assert [events[place] for place in named] == ["name one 15", "name two 1"]
    assert events[: named[0]] == ["fsync", "fsync"], (
        "both files are durable before the first is renamed"
    )
    assert len(events) - named[-1] - 1 == 3, "then the folders: the root, deep and er"
    assert (tmp_path / "deep" / "er" / "one").read_bytes() == b"1" * 10 + b"2" * 5


def files(store: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in store.rglob("*") if p.is_file() and p.suffix != ".lock"}


def test_temporary_files_of_dead_writers_are_removed(make_view: Make, fill: Make) -> None:
    view = make_view()
    fill(view)
    folder = view.paths.shard("tokens", 0, 3).parent
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = temporary(folder)
    dead_file = mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{dead.pid}."))
    other_host = mine.with_name(mine.name.replace(socket.gethostname(), "another-host"))
    old = other_host.with_name(other_host.name[:-12] + "0" * 12)
    odd = folder / ".tmp.odd"
    for path in (mine, dead_file, other_host, old, odd):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    view_left = view.paths.store / dead_file.name
    view_left.mkdir()
    with Store.open(view.paths.store).lock():
        assert not dead_file.exists() and not old.exists() and not view_left.exists()
        assert mine.exists() and other_host.exists() and odd.exists(), (
            "those of live writers are kept"
        )


# A limit on the size of a file acts like a full disk without root rights: EFBIG instead of ENOSPC.
LIMITED = """
import resource, signal, sys
import numpy as np
from store import Store, StepDiffError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
view = Store.open(sys.argv[1]).view("clips", "net")
rows = np.array([5, 6])
try:
    features = {n: np.ones((2, *f.shape), np.float32) for n, f in view.features.items()}
    view.write_shard(1, rows, features, {})
except StepDiffError as error:
    print(error)
    sys.exit(7)
"""
ROOM = {"small": ((3, 5), 150), "past the page cache": ((2, LEAST), 9 * LEAST)}
"""shape of a row in float16, and bytes that a file may have: less than four rows need"""


@pytest.mark.parametrize(
    "size", ["small", pytest.param("past the page cache", marks=pytest.mark.full)]
)
def test_a_full_disk_loses_no_committed_data(make_view: Make, fill: Make, size: str) -> None:
    shape, limit = ROOM[size]
    view = make_view({"tokens": Feature(shape, "float16"), "embedding": Feature((7,), "float32")})
    fill(view, np.array([0, 1, 4, 7]))
    before = files(view.paths.store)
    command = [sys.executable, "-c", LIMITED, str(view.paths.store)]
    done = subprocess.run([*command, str(limit)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 7, done.stderr
    largest = view.paths.shard("tokens", 1, 3)  # is written first
    assert done.stdout.startswith(f"no space to write {largest}") and done.stdout.count("\n") == 1
    assert files(view.paths.store) == before, "no file changed, no temporary file is left"
    done = subprocess.run([*command, str(2**30)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert view.status()[4:8].tolist() == [1, 1, 1, 1]
