"""Stores in an object store, on moto's S3 server and in memory: paths, shards, commands and
refusals."""

import os
import pickle
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import remote as object_stores
from stepdiff_core.io.files import place
from stepdiff_core.io.remote import RemotePath
from store import Store, View
from store.format.shard import index_bytes
from store.verbs.verify import verify
from tests.store.conftest import ROOT, Run
from tests.store.test_store_killed import FEATURES, PROVENANCE, contents, write_in_rounds

PART = 16 * 2**20
pytestmark = pytest.mark.full


@pytest.fixture(params=["s3", "memory"])
def root(request: pytest.FixtureRequest) -> RemotePath:
    """An empty remote folder of each kind."""
    url = (
        request.getfixturevalue("bucket")
        if request.param == "s3"
        else f"memory://{uuid.uuid4().hex}"
    )
    folder = place(f"{url}/features")
    assert isinstance(folder, RemotePath)
    return folder


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Disable retries of requests."""
    monkeypatch.setattr(object_stores, "RETRY", {"max_retries": 0})
    object_stores.objects.cache_clear()
    yield
    object_stores.objects.cache_clear()


@pytest.fixture
def refusing(s3_server: str) -> Iterator[None]:
    """A server that refuses all credentials."""

    def refuse_after(requests: bytes) -> None:
        headers = {"Content-Type": "text/plain"}
        urllib.request.urlopen(
            urllib.request.Request(f"{s3_server}/moto-api/reset-auth", requests, headers)
        ).close()

    refuse_after(b"0")
    yield
    refuse_after(b"inf")


def test_existing_objects_are_listed_as_pathlib_does(root: RemotePath, tmp_path: Path) -> None:
    for name in (
        "a/zarr.json",
        "a/c/0",
        "b/c/1",
        "b2/zarr.json",
        "x.parquet",
        "12.parquet",
        "y.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
        (root / name).put([name.encode()])
    for pattern in ("*", "*/zarr.json", "*.parquet", "a/c/*", "a/zarr.json", "a/none", "none/*"):
        seen = sorted(str(path.relative_to(root)) for path in root.glob(pattern))
        assert seen == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob(pattern)), (
            pattern
        )
    for name in ("a", "b2", "a/c/0", "none", "x.parquet", "b2/zar"):
        assert (root / name).is_dir() == (tmp_path / name).is_dir(), name
        assert (root / name).is_file() == (tmp_path / name).is_file(), name
    assert sum(root.files().values()) == sum(
        path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()
    )
    assert (root / "a/c/0").read_bytes() == b"a/c/0"
    with pytest.raises(FileNotFoundError):
        (root / "none").read_bytes()
    (root / "a/c/0").unlink()
    (root / "a/c/0").unlink(missing_ok=True)
    assert not (root / "a/c").is_dir()


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 2 * PART + 12345])
def test_an_object_is_complete(root: RemotePath, size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    cut = size // 3
    (root / "a").put(iter([data[:cut], data[cut : 2 * cut].tobytes(), memoryview(data[2 * cut :])]))
    assert (root / "a").read_bytes() == data.tobytes()


def test_an_interrupted_put_leaves_the_old_object(root: RemotePath) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield np.zeros(2 * PART, np.uint8)
        raise StepDiffError("no more rows")

    (root / "a").put([b"old"])
    with pytest.raises(StepDiffError, match="no more rows"):
        (root / "a").put(broken())
    assert (root / "a").read_bytes() == b"old"


def test_an_object_is_created_or_replaced_by_one_writer_only(root: RemotePath) -> None:
    with ThreadPoolExecutor(8) as threads:
        etags = list(threads.map(lambda n: (root / "a").exchange(b"%d" % n, None), range(8)))
        (winner,) = [n for n, etag in enumerate(etags) if etag]
        assert (root / "a").read_bytes() == b"%d" % winner and (root / "a").identity() == etags[
            winner
        ]
        old = str(etags[winner])
        etags = list(threads.map(lambda n: (root / "a").exchange(b"new%d" % n, old), range(8)))
    (winner,) = [n for n, etag in enumerate(etags) if etag]
    assert (root / "a").read_bytes() == b"new%d" % winner
    assert (root / "b").create([b"x"]) and not (root / "b").create([b"y"])


def test_credentials_are_never_stored(bucket: str) -> None:
    store = Store.open(f"{bucket}/features", create=True)
    store.catalog("clips")
    assert (
        b"secret" not in pickle.dumps(store)
        and pickle.loads(pickle.dumps(store)).path == store.path
    )
    assert "secret" not in repr(store.path)


FORK = """
import os, sys
from store import Store, StepDiffError
store = Store.open(sys.argv[1], create=True)
if not os.fork():
    try:
        Store.open(sys.argv[1])
    except StepDiffError as error:
        print(error)
    os._exit(0)
os.wait()
"""


def test_a_forked_process_gets_an_error_about_the_fork(bucket: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK, f"{bucket}/features"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=30
    )
    assert (
        done.stdout.startswith("cannot use an object store in a forked process")
        and done.returncode == 0
    )


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://no-bucket-here/features", "no such bucket"),
        ("BUCKET/features", "no feature store in BUCKET/features"),
        ("unreachable", "check network and endpoint"),
        ("refused", "check the credentials"),
    ],
)
def test_a_store_that_cannot_be_reached_is_reported_in_one_line(
    s3_server: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, run: Run,
    impatient: None, request: pytest.FixtureRequest, url: str, why: str,
) -> None:  # fmt: skip
    if url == "unreachable":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    elif url == "refused":
        request.getfixturevalue("refusing")
    url = (
        url.replace("BUCKET", s3_bucket)
        if "://" in url or "BUCKET" in url
        else f"{s3_bucket}/features"
    )
    status, out, errors = run("info", url)
    assert (
        status == 2
        and not out
        and errors.startswith("error: ")
        and why.replace("BUCKET", s3_bucket) in errors
    )
    assert errors.count("\n") == 1 and len(errors) < 320, errors


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "past the end"])
def test_a_damaged_index_is_refused_in_one_line(
    root: RemotePath, make_view: Callable[..., View], fill: Callable[..., None], damage: str
) -> None:
    fill(view := make_view(rows=16, shard=16, place=str(root)))
    path = view.paths.shard("tokens", 0, 3)
    assert isinstance(path, RemotePath)
    data = bytearray(path.read_bytes())
    if damage == "past the end":
        data = bytearray(index_bytes(np.ones(16, bool), 30))
    elif damage == "flipped":
        data[-20] ^= 1
    path.put([bytes(data[: {"empty": 0, "cut": 100}.get(damage, len(data))])])
    with pytest.raises(StepDiffError, match="run python -m store verify"):
        view.read("tokens", np.array([15]))


@pytest.fixture
def written(bucket: str) -> str:
    """The URL of a store of 20 clips, three of which failed."""
    write_in_rounds(f"{bucket}/features")
    return f"{bucket}/features"


def test_an_incomplete_view_is_not_a_view(written: str) -> None:
    root = place(written)
    group = root / "arrays.zarr" / "clips" / "half"
    for array in ("tokens", "status"):
        whole = root / "arrays.zarr" / "clips" / "net" / array / "zarr.json"
        assert isinstance(group, RemotePath)
        (group / array / "zarr.json").put([whole.read_bytes()])
    store = Store.open(written)
    assert store.views("clips") == ["net"] and verify(store) == []
    with store.lock():
        store.create_view("clips", "half", PROVENANCE, FEATURES)
    assert store.views("clips") == ["half", "net"] and verify(store) == []


def test_the_commands_accept_a_url(written: str, tmp_path: Path, run: Run) -> None:
    url = written
    figures = run("info", url, "--json").json
    (view,) = figures["views"]
    sizes = {
        name: len(data)
        for name, data in contents(url).items()
        if name.startswith("arrays.zarr/clips/net/")
    }
    assert (figures["path"], view["ok"], view["failed"], view["bytes"]) == (
        url,
        17,
        3,
        sum(sizes.values()),
    )
    assert (
        run("requantise", url, "--view", "net", "--to", "small", "--dtype", "float16").status == 0
    )
    assert run("export", tmp_path / "clips.parquet", "--store", url, "--view", "small").status == 0
    assert "2 catalog parts and 2 files of failures and 3 records" in run("compact", url).out
    assert "dropped view small" in run("drop", url, "--view", "small", "--yes").out
    assert not any("/small/" in name for name in contents(url))
    assert run("verify", url).out.startswith(f"{url} is whole\nnot covered: ")
    root = place(url)
    assert isinstance(root, RemotePath)
    (root / "arrays.zarr/clips/net/embedding/c/0/0").put([b"x"])
    assert (
        "arrays.zarr/clips/net/embedding/c/0/0 has a damaged index: c1, c2"
        in run("verify", url).out
    )
