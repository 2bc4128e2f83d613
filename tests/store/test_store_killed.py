"""Writers that are killed or cut off at any moment: what is committed stays, and the same command
does the rest.

STORE_CUTS=1000 pytest tests/store/test_store_killed.py -k any_request
    a cut after every request to an object store
"""

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import remote as object_stores
from stepdiff_core.io.files import place
from store import Feature, Provenance, Store, View
from store.__main__ import main
from store.verbs.compact import compact
from store.verbs.options import CompactOptions
from store.verbs.verify import verify
from tests.store.conftest import flip
from tests.store.forks import Forks

CUTS = int(os.environ.get("STORE_CUTS", "3"))
RETRY = object_stores.RETRY
FEATURES = {"tokens": Feature((6, 130), "int8"), "embedding": Feature((32,), "float32")}
PROVENANCE = Provenance("net", "0" * 64, "last", "8 evenly", "centre", {})


def computed(view: View, rows: Any) -> dict[str, np.ndarray]:
    """Return features of rows, which depend on the row only."""
    return {
        name: np.array(
            [np.random.default_rng([row, len(name)]).normal(size=f.shape) for row in rows],
            np.float32,
        ).reshape(len(rows), *f.shape)
        for name, f in view.features.items()
    }


def write_in_rounds(path: str) -> None:
    """Append rows and write the absent ones, in rounds, so that some shards are completed later."""
    store = Store.open(path, create=True)
    with store.lock():
        for count in (11, 20):
            store.catalog("clips").append(pl.DataFrame({"key": [f"c{n}" for n in range(count)]}))
            view = store.create_view("clips", "net", PROVENANCE, FEATURES, 8)
            view.resize()
            for chosen in (lambda row: row % 3 == 0, lambda row: True):
                absent = [row for row in np.flatnonzero(view.status() == 0).tolist() if chosen(row)]
                for shard in sorted({row // 8 for row in absent}):
                    rows = [row for row in absent if row // 8 == shard]
                    good = [row for row in rows if row % 7]
                    if "://" not in path:
                        with open(f"{path}.encoded", "a") as log:
                            log.write("".join(f"{row}\n" for row in good))
                    bad = {row: f"bad {row}" for row in rows if not row % 7}
                    view.write_shard(
                        shard, np.array(good, np.int64), computed(view, good), bad, {"torch": "1"}
                    )


@pytest.fixture(scope="module")
def execute() -> Iterator[Callable[..., int]]:
    """Return a function that runs a command, kills it at a step or after some seconds, and returns
    its exit status."""
    forks = Forks(__name__)

    def run(*words: str, **kill: Any) -> int:
        if words[0] == "rounds":
            return forks.run(write_in_rounds, *words[1:], **kill)
        return forks.run(main, words, **kill)

    yield run
    forks.end()


# -- every writer, killed before a renaming or deletion of a file
# ------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 20 clips in two parts of the catalog and two views, in which c0, c7 and c14 failed
    and c9 is absent.

    Next to it an export of view `net`.
    """
    path = tmp_path_factory.mktemp("template") / "store"
    write_in_rounds(str(path))
    store = Store.open(path)
    with store.lock():
        store.view("clips", "net").withdraw(np.array([9]))
    assert (
        main(["requantise", str(path), "--view", "net", "--to", "half", "--dtype", "float16"]) == 0
    )
    assert (
        main(["export", str(path.parent / "net.parquet"), "--store", str(path), "--view", "net"])
        == 0
    )
    return path


def content(path: Path) -> dict[Any, Any]:
    """Return what a newly opened store says of each clip: its metadata, and its state and values in
    each view."""
    store = Store.open(path)
    rows = store.catalog("clips").frame()
    states: dict[Any, Any] = {("catalog", row[0]): row for row in rows.rows()}
    states |= {("snapshot", name): True for name in store.snapshots()}
    for name in store.views("clips"):
        view = store.view("clips", name, check="always")
        with contextlib.suppress(StepDiffError):  # the file of the reasons is damaged
            states |= {("reason", name, key): reason for key, reason in view.failures().rows()}
        for row, key in enumerate(rows["key"]):
            try:
                state = int(view.status(np.array([row]))[0])
                values = (
                    view.read("tokens", [row]).tobytes() + view.read("embedding", [row]).tobytes()
                    if state == 1
                    else b""
                )
            except StepDiffError:
                state, values = -1, b""
            states[name, key] = state, values
    return states


def damage(path: Path) -> None:
    """Damage rows 1 and 17, rows 8 to 15, the reason of row 7 and the status of rows 16 to 19."""
    paths = Store.open(path).view("clips", "net").paths
    flip(paths.shard("tokens", 0, 3), 0)
    flip(paths.shard("embedding", 1, 2), -1)
    flip(paths.failures(0), 30)
    flip(paths.status(2), 0)
    flip(paths.shard("tokens", 2, 3), 6 * 130)


QUICK = {"rounds": 30, "compact": 5}
"""commands of the quick test, and the step before which it kills each"""
KILLED = {
    "rounds": ["rounds", "{}"],
    "requantise": ["requantise", "{}", "--view", "net", "--to", "small", "--dtype", "float32"],
    "import": ["import", "{}/../net.parquet", "--store", "{}", "--view", "copy"],
    "withdraw": ["verify", "{}", "--withdraw"],
    "forget": ["forget", "{}", "c2", "c4"],
    "drop": ["drop", "{}", "--view", "half", "--yes"],
    "compact": ["compact", "{}"],
    "tag": ["tag", "{}", "v1"],
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "steps"),
    [
        *((name, "one") for name in QUICK),
        *(pytest.param(name, "all", marks=pytest.mark.full) for name in KILLED),
    ],
)
def test_after_a_kill_before_any_step_the_same_command_goes_on(
    template: Path, execute: Callable[..., int], tmp_path: Path, name: str, steps: str
) -> None:
    words = KILLED[name]
    start, whole = tmp_path / "start", tmp_path / "whole"
    shutil.copytree(template.parent / "net.parquet", tmp_path / "net.parquet")
    if name == "rounds":
        Store.open(start, create=True)
    else:
        shutil.copytree(template, start)
    if name == "withdraw":
        damage(start)
    before = content(start)
    shutil.copytree(start, whole)
    assert execute(*(word.format(whole) for word in words)) == 0
    after = content(whole)
    assert (before == after) == (name == "compact") and verify(Store.open(whole)) == []
    stride = 5 if name == "rounds" else 1  # each of its twelve shards is written in the same steps
    for kill_at in [QUICK[name]] if steps == "one" else itertools.count(1, stride):
        path = tmp_path / f"killed{kill_at}"
        shutil.copytree(start, path)
        command = [word.format(path) for word in words]
        ended = execute(*command, kill_at=kill_at)
        if ended == 0 and steps == "all":
            break
        assert ended == -signal.SIGKILL
        now = content(path)
        for item in now.keys() | (before.keys() & after.keys()):
            new_view = item not in before and now.get(item) == (0, b"")
            unread = name == "withdraw" and item[0] == "reason"  # its file is damaged
            assert now.get(item) in (before.get(item), after.get(item)) or new_view or unread, (
                kill_at
            )
        assert verify(Store.open(path)) == [] or name == "withdraw", kill_at
        encoded(path)
        assert execute(*command) == 0 or (name in ("drop", "tag") and content(path) == after)
        assert content(path) == after and verify(Store.open(path)) == [], kill_at
        if name == "rounds":
            committed = {
                int(item[1][1:])
                for item, state in now.items()
                if item[0] == "net" and state[0] == 1
            }
            assert not committed & encoded(path), (
                f"a row is computed twice after a kill at {kill_at}"
            )
            with Store.open(path).lock():  # removes the temporary files of dead writers
                assert contents(str(path)) == contents(str(whole)), kill_at
        shutil.rmtree(path)
    assert steps == "one" or kill_at > QUICK.get(name, 2)


def contents(path: str) -> dict[str, bytes]:
    """Return all files or objects except locks and key indexes: an interruption may leave a merged
    one."""
    root = place(path)
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in root.files()
        if not file.name.endswith((".lock", ".keys", "lock.json"))
    }


def whatever_status_says_is_true(path: str) -> None:
    """Check the finished rows of a store, if there is one."""
    if not (place(path) / "store.json").is_file():
        return
    store = Store.open(path)
    assert verify(store) == []
    catalog = store.catalog("clips")
    assert catalog.rows([f"c{n}" for n in range(len(catalog))]).tolist() == list(
        range(len(catalog))
    )
    if "net" not in store.views("clips"):
        return
    view = store.view("clips", "net")
    ok = np.flatnonzero(view.status() == 1)
    assert np.array_equal(view.read("embedding", ok), computed(view, ok)["embedding"])
    assert set(view.failures()["reason"]) == {
        f"bad {row}" for row in np.flatnonzero(view.status() == 2)
    }


def encoded(path: Path) -> set[int]:
    """Return the rows that the last run computed."""
    log = Path(f"{path}.encoded")
    rows = {int(row) for row in log.read_text().splitlines()} if log.exists() else set()
    log.unlink(missing_ok=True)
    return rows


# -- writers of an object store that are cut off after any request
# -----------------------------------------------------


class Gate:
    """A proxy of the server that closes after n requests."""

    def __init__(self, server: str) -> None:
        host, port = server.removeprefix("http://").split(":")
        self.server = host, int(port)
        self.left = 10**9
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def requests(self, do: Callable[[], Any]) -> int:
        """Return how many requests a call makes; the last two release locks, which would expire
        anyway."""
        self.left = before = 10**9
        do()
        return before - self.left - 2

    def cuts(self, requests: int) -> Iterator[int]:
        """Yield numbers of requests, after each of which the next block is cut off."""
        for cut in random.sample(range(requests), min(CUTS, requests)):
            self.left = cut
            yield cut

    def open(self) -> None:
        self.left = 10**9

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the test has ended
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Forward the requests and responses of one connection."""
        with client, socket.create_connection(self.server) as server:
            threading.Thread(target=self._answer, args=[server, client], daemon=True).start()
            with contextlib.suppress(OSError):
                while data := client.recv(2**16):
                    if data.split(b" ", 1)[0] in (b"GET", b"PUT", b"HEAD", b"POST", b"DELETE"):
                        self.left -= 1
                    if self.left < 0:
                        return
                    server.sendall(data)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(2**16):
                client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def gate(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Set the environment so that requests pass the gate and are not retried."""
    gate = Gate(s3_server)
    monkeypatch.setattr(object_stores, "RETRY", {"max_retries": 0})
    monkeypatch.setenv("AWS_ENDPOINT_URL", gate.url)
    object_stores.objects.cache_clear()
    yield gate
    gate.listener.close()
    object_stores.objects.cache_clear()


def lock_is_left(url: str) -> None:
    """Release the locks that this process could not release without a network."""
    root = place(url)
    for path in [root / "lock.json", *(root / "shards" / "clips" / "net").glob("*.lock")]:
        with contextlib.suppress(FileNotFoundError):
            path.put([json.dumps({**json.loads(path.read_bytes()), "pid": 2**22 + 1}).encode()])


@pytest.mark.full
def test_a_run_cut_off_after_any_request_gives_the_same_objects(s3_bucket: str, gate: Gate) -> None:
    write_in_rounds(f"{s3_bucket}/whole")
    expected = contents(f"{s3_bucket}/whole")
    requests = gate.requests(partial(write_in_rounds, f"{s3_bucket}/counted"))
    for cut in gate.cuts(requests):
        url = f"{s3_bucket}/cut{cut}"
        with pytest.raises(StepDiffError) as caught:
            write_in_rounds(url)
        gate.open()
        assert "\n" not in str(caught.value)
        whatever_status_says_is_true(url)
        lock_is_left(url)
        write_in_rounds(url)
        assert contents(url) == expected, f"cut after {cut} requests"


@pytest.mark.full
def test_a_drop_cut_off_after_any_request_is_whole_or_not(
    s3_bucket: str, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{s3_bucket}/features"
    drop = ["drop", url, "--view", "net", "--yes"]
    write_in_rounds(url)
    expected = contents(url)
    requests = gate.requests(lambda: main(drop))
    assert not any("/net/" in name for name in contents(url))
    write_in_rounds(url)
    for cut in gate.cuts(requests):
        capsys.readouterr()
        assert main(drop) == 2
        gate.open()
        assert capsys.readouterr().err.count("\n") == 1
        lock_is_left(url)
        there = Store.open(url).views("clips") == ["net"]
        damaged = [damage.path for damage in verify(Store.open(url))]
        assert damaged == [] or not there and damaged == ["arrays.zarr/clips/net/zarr.json"]
        # either the rest is dropped, or a new view of that name starts empty
        if not there and cut % 2:
            assert main(drop) == 0
            assert not any("/net/" in name for name in contents(url))
        write_in_rounds(url)
        assert contents(url) == expected, f"cut after {cut} requests"


@pytest.mark.full
def test_compaction_cut_off_after_any_request_goes_on(
    s3_bucket: str, gate: Gate, tmp_path: Path
) -> None:
    def used(url: str) -> Store:
        """Make two parts of the catalog, failures of two shards, and a shard that is not
        committed."""
        write_in_rounds(url)
        (place(url) / "arrays.zarr/clips/net/status/c/2").unlink()
        return Store.open(url)

    folder = used(str(tmp_path / "features"))
    other = {"store": "", "locks": 0}  # an object store has no lock files
    done = compact(CompactOptions(str(folder.path))) | other
    assert done["catalog_parts"] == 2 and done["failure_files"] == 2 and done["orphans"] > 3
    expected, whole = contents(str(folder.path)), used(f"{s3_bucket}/whole")
    reader = whole.view("clips", "net")
    ok = np.flatnonzero(reader.status() == 1)
    requests = gate.requests(lambda: compact(CompactOptions(str(whole.path))))
    assert contents(str(whole.path)) == expected and verify(whole) == []
    assert np.array_equal(reader.read("embedding", ok), computed(reader, ok)["embedding"])
    assert reader.catalog.rows(["c3", "c19"]).tolist() == [3, 19] and len(reader.failures()) == 3
    for cut in gate.cuts(requests):
        gate.open()
        url = f"{s3_bucket}/cut{cut}"
        used(url)
        gate.left = cut
        with pytest.raises(StepDiffError):
            compact(CompactOptions(url))
        gate.open()
        whatever_status_says_is_true(url)
        lock_is_left(url)
        compact(CompactOptions(url))
        assert contents(url) == expected, f"cut after {cut} requests"


@pytest.mark.full
def test_a_short_network_failure_does_not_stop_a_run(
    s3_bucket: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_stores, "RETRY", RETRY)
    object_stores.objects.cache_clear()
    store = Store.open(f"{s3_bucket}/features", create=True)
    gate.left = 0
    threading.Timer(0.3, gate.open).start()
    store.catalog("clips").append(pl.DataFrame({"key": ["a"]}))
    assert len(store.catalog("clips")) == 1
