"""Writers of a store in an object store: interrupted at any request, concurrent, and read by the store's commands."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from common.io import object_stores
from common.io.files import place
from common.io.remote import RemotePath
from store import Feature, Provenance, Store
from store.__main__ import main
from store.verbs.compact import compact
from store.verbs.options import CompactOptions
from store.verbs.verify import verify

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("STORE_REMOTE_KILLS", "3"))
PATIENCE = object_stores.RETRY
CUTS = int(os.environ.get("STORE_REMOTE_CUTS", "3"))  # 1000: after every request
FEATURES = {"tokens": Feature((6, 130), "int8"), "embedding": Feature((32,), "float32")}


def run(url: str) -> None:
    """Append rows and write the absent ones, in two rounds so that some shards are completed later."""
    store = Store.open(url, create=True)
    with store.lock():
        for count in (11, 20):
            store.catalog("clips").append(pl.DataFrame({"key": [f"c{n}" for n in range(count)]}))
            view = store.create_view("clips", "net", Provenance("net", "0", "l", "f", "c", {}), FEATURES, 8)
            view.resize()
            absent = np.flatnonzero(view.status() == 0)
            for shard in np.unique(absent // 8).tolist():
                rows = absent[absent // 8 == shard]
                good = rows[rows % 7 > 0]
                bad = {row: f"bad {row}" for row in rows[rows % 7 == 0].tolist()}
                view.write_shard(shard, good, values(good), bad, {"torch": "1"})


def values(rows: np.ndarray) -> dict[str, np.ndarray]:
    return {
        name: np.array(
            [np.random.default_rng([row, len(name)]).normal(size=f.shape) for row in rows.tolist()], np.float32
        ).reshape(len(rows), *f.shape)
        for name, f in FEATURES.items()
    }


def contents(url: str, indexes: bool = False) -> dict[str, bytes]:
    """Return all objects except locks, with key indexes only on request: an interruption may leave a merged one."""
    root = place(url)
    assert isinstance(root, RemotePath)
    found, folders = {}, [root]
    while folders:
        for path in folders.pop().iterdir():
            if not path.is_file():
                folders.append(path)
            elif path.name != "lock.json" and not path.name.endswith((".lock", *(() if indexes else (".keys",)))):
                found[str(path.relative_to(root))] = path.read_bytes()
    return found


class Gate:
    """A proxy of the server that closes after n requests."""

    def __init__(self, server: str) -> None:
        host, port = server.removeprefix("http://").split(":")
        self.server = host, int(port)
        self.left = 10**9
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:  # closed: the test has ended
                return
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


def test_a_run_cut_off_after_any_request_and_resumed_gives_the_same_objects(s3_bucket: str, gate: Gate) -> None:
    run(f"{s3_bucket}/whole")
    expected = contents(f"{s3_bucket}/whole")
    assert len(expected) == 31 and verify(Store.open(f"{s3_bucket}/whole")) == []
    gate.left = before = 10**9
    run(f"{s3_bucket}/counted")
    requests = before - gate.left
    assert contents(f"{s3_bucket}/counted") == expected
    anywhere = range(requests - 2)  # the last two requests release locks, which would expire anyway
    for cut in random.sample(anywhere, min(CUTS, len(anywhere))):
        url = f"{s3_bucket}/cut{cut}"
        gate.left = cut
        with pytest.raises(StepDiffError) as caught:
            run(url)
        assert "\n" not in str(caught.value)
        gate.left = before
        root = place(url)
        assert isinstance(root, RemotePath)
        if (root / "store.json").exists():
            whatever_status_says_is_true(url)
        lock_is_left(root)
        run(url)
        assert contents(url) == expected, f"cut after {cut} requests"


def test_a_drop_cut_off_after_any_request_leaves_the_whole_view_or_none(
    s3_bucket: str, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{s3_bucket}/features"
    drop = ["drop", url, "--view", "net", "--yes"]
    root = place(url)
    assert isinstance(root, RemotePath)
    run(url)
    expected = contents(url)
    gate.left = before = 10**9
    assert main(drop) == 0
    requests = before - gate.left
    assert not any("/net/" in name for name in contents(url))
    run(url)
    assert contents(url) == expected
    for cut in random.sample(range(requests - 2), min(CUTS, requests - 2)):
        gate.left = cut
        assert main(drop) == 2
        gate.left = before
        assert capsys.readouterr().err.count("\n") == 1
        lock_is_left(root)
        there = Store.open(url).views("clips") == ["net"]
        damaged = [damage.path for damage in verify(Store.open(url))]
        assert damaged == [] or not there and damaged == ["arrays.zarr/clips/net/zarr.json"]
        if not there and cut % 2:  # either the rest is dropped, or a new view of that name starts empty
            assert main(drop) == 0
            assert not any("/net/" in name for name in contents(url))
        run(url)
        assert contents(url) == expected, f"cut after {cut} requests"


def test_compaction_gives_the_same_content_as_in_a_folder_even_after_a_cut(
    s3_bucket: str, gate: Gate, tmp_path: Path
) -> None:
    def used(url: str) -> Store:
        """Make two parts of the catalog, failures of two shards, and a shard that is not committed."""
        run(url)
        (place(url) / "arrays.zarr/clips/net/status/c/2").unlink()
        return Store.open(url)

    folder = used(str(tmp_path / "features"))
    other = {"store": "", "locks": 0}  # an object store has no lock files
    done = asdict(compact(CompactOptions(str(folder.path)))) | other
    assert done["catalog_parts"] == 2 and done["failure_files"] == 2 and done["orphans"] > 3
    files = {str(path.relative_to(folder.path)): path for path in folder.path.rglob("*") if path.is_file()}
    suffixes = (".lock", ".keys", "lock.json")
    expected = {name: path.read_bytes() for name, path in files.items() if not name.endswith(suffixes)}

    whole = used(f"{s3_bucket}/whole")
    reader = whole.view("clips", "net")
    ok = np.flatnonzero(reader.status() == 1)
    gate.left = before = 10**9
    assert asdict(compact(CompactOptions(str(whole.path)))) | other == done
    requests = before - gate.left
    assert contents(str(whole.path)) == expected and verify(whole) == []
    assert np.array_equal(reader.read("embedding", ok), values(ok)["embedding"])
    assert reader.catalog.rows(["c3", "c19"]).tolist() == [3, 19] and len(reader.failures()) == 3
    for cut in random.sample(range(requests - 2), min(CUTS, requests - 2)):
        url = f"{s3_bucket}/cut{cut}"
        used(url)
        gate.left = cut
        with pytest.raises(StepDiffError):
            compact(CompactOptions(url))
        gate.left = before
        root = place(url)
        assert isinstance(root, RemotePath) and verify(Store.open(url)) == []
        whatever_status_says_is_true(url)
        lock_is_left(root)
        compact(CompactOptions(url))
        assert contents(url) == expected, f"cut after {cut} requests"


def lock_is_left(root: RemotePath) -> None:
    """Release the lock that this process could not release without a network."""
    for path in [root / "lock.json", *(root / "shards" / "clips" / "net").glob("*.lock")]:
        with contextlib.suppress(FileNotFoundError):
            holder = json.loads(path.read_bytes())
            path.put([json.dumps({**holder, "pid": 2**22 + 1}).encode()])


def whatever_status_says_is_true(url: str) -> None:
    store = Store.open(url)
    assert verify(store) == []
    if "net" in store.views("clips"):
        view = store.view("clips", "net")
        ok = np.flatnonzero(view.status() == 1)
        assert np.array_equal(view.read("embedding", ok), values(ok)["embedding"])
        assert set(view.failures()["reason"]) == {f"bad {row}" for row in np.flatnonzero(view.status() == 2)}


def test_a_short_network_failure_does_not_stop_a_run(
    s3_bucket: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_stores, "RETRY", PATIENCE)
    object_stores.objects.cache_clear()
    store = Store.open(f"{s3_bucket}/features", create=True)
    gate.left = 0
    threading.Timer(0.3, lambda: setattr(gate, "left", 10**9)).start()
    store.catalog("clips").append(pl.DataFrame({"key": ["a"]}))
    assert len(store.catalog("clips")) == 1


PROCESS = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("runs", sys.argv[1])
runs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runs)
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        runs.run(line.strip())
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture
def runs(s3_server: str) -> Iterator[Callable[[str, float | None], int]]:
    """Return a function that runs a writer in a process, kills it after n seconds and returns its exit status."""
    command = [sys.executable, "-W", "ignore:.*use of fork:DeprecationWarning", "-c", PROCESS, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:

        def start(url: str, kill_after: float | None = None) -> int:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(f"{url}\n")
            process.stdin.flush()
            pid = int(process.stdout.readline())
            if kill_after is not None:
                time.sleep(kill_after)
                with contextlib.suppress(ProcessLookupError):  # it has ended already
                    os.kill(pid, signal.SIGKILL)
            return int(process.stdout.readline())

        yield start


def test_a_run_killed_at_any_moment_and_resumed_gives_the_same_objects(
    bucket: str, runs: Callable[[str, float | None], int]
) -> None:
    begin = time.monotonic()
    assert runs(f"{bucket}/whole", None) == 0
    seconds = time.monotonic() - begin
    expected = contents(f"{bucket}/whole")
    stores, killed = 0, 0
    while killed < KILLS:
        url = f"{bucket}/store{stores}"
        if runs(url, random.uniform(0, seconds)) == 0:
            assert contents(url) == expected
            stores, seconds = stores + 1, seconds * 0.9
            continue
        killed, seconds = killed + 1, seconds * 1.05
        root = place(url)
        if (root / "store.json").exists():
            whatever_status_says_is_true(url)
    assert runs(url, None) == 0
    assert contents(url) == expected


APPEND = """
import sys, polars as pl
from store import Store
catalog = Store.open(sys.argv[1]).catalog("clips")
who = sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for n in range(10):
    catalog.append(pl.DataFrame({"key": [f"shared{n}", f"{who}{n}"], "who": [who, who]}))
"""


def test_concurrent_appends_never_assign_a_row_twice(bucket: str) -> None:
    catalog = Store.open(f"{bucket}/features", create=True).catalog("clips")
    command = [sys.executable, "-c", APPEND, f"{bucket}/features"]
    writers = [
        subprocess.Popen([*command, who], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for who in "xyz"
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("go\n", timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    found = catalog.frame()
    assert found["row"].to_list() == list(range(10 * 4))
    assert sorted(found["key"]) == sorted(f"{who}{n}" for n in range(10) for who in ("shared", "x", "y", "z"))


def test_an_incomplete_view_is_not_a_view(bucket: str) -> None:
    url = f"{bucket}/features"
    run(url)
    root = place(url)
    group = root / "arrays.zarr" / "clips" / "half"
    for array in ("tokens", "status"):
        whole = root / "arrays.zarr" / "clips" / "net" / array / "zarr.json"
        assert isinstance(group, RemotePath)
        (group / array / "zarr.json").put([whole.read_bytes()])
    store = Store.open(url)
    assert store.views("clips") == ["net"] and verify(store) == []
    with store.lock():
        store.create_view("clips", "half", Provenance("half", "0", "l", "f", "c", {}), FEATURES)
    assert store.views("clips") == ["half", "net"] and verify(store) == []


def test_verify_finds_a_flipped_byte_in_any_object() -> None:
    url = "memory://flipped"
    run(url)
    root = place(url)
    dice = random.Random(0)
    for name, data in contents(url, indexes=True).items():
        at = dice.randrange(len(data))
        path = root / name
        assert isinstance(path, RemotePath)
        path.put([data[:at], bytes([data[at] ^ 1 << dice.randrange(8)]), data[at + 1 :]])
        try:
            assert name in [damage.path for damage in verify(Store.open(url))]
        except StepDiffError:
            assert name == "store.json"
        path.put([data])
    assert verify(Store.open(url)) == []


def test_the_commands_accept_a_url(bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{bucket}/features"
    run(url)
    assert main(["info", url, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    (view,) = figures["views"]
    sizes = {name: len(data) for name, data in contents(url).items() if name.startswith("arrays.zarr/clips/net/")}
    assert (figures["path"], view["ok"], view["failed"], view["bytes"]) == (url, 17, 3, sum(sizes.values()))
    assert main(["requantise", url, "--view", "net", "--to", "small", "--dtype", "float16"]) == 0
    assert main(["export", str(tmp_path / "clips.parquet"), "--store", url, "--view", "small"]) == 0
    assert main(["compact", url]) == 0
    assert "2 catalog parts and 2 files of failures and 3 records of writers merged" in capsys.readouterr().out
    assert main(["drop", url, "--view", "small", "--yes"]) == 0
    assert "dropped view small" in capsys.readouterr().out and not any("/small/" in name for name in contents(url))
    assert main(["verify", url]) == 0
    assert capsys.readouterr().out.startswith(f"{url} is whole\nnot covered: ")
    root = place(url)
    assert isinstance(root, RemotePath)
    (root / "arrays.zarr/clips/net/embedding/c/0/0").put([b"x"])
    assert main(["verify", url]) == 1
    assert "arrays.zarr/clips/net/embedding/c/0/0 has a damaged index: c1, c2" in capsys.readouterr().out
