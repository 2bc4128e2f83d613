"""Paths in an object store, on moto's S3 server and in memory."""

import os
import pickle
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import StepDiffError
from common.io import object_stores
from common.io.files import place
from common.io.remote import RemotePath, ReplacedError
from store import Store
from store.__main__ import main

ROOT = Path(__file__).parents[2]
PART = 16 * 2**20


@pytest.fixture(params=["s3", "memory"])
def root(request: pytest.FixtureRequest) -> RemotePath:
    """An empty remote folder of each kind."""
    url = request.getfixturevalue("bucket") if request.param == "s3" else f"memory://{uuid.uuid4().hex}"
    found = place(f"{url}/features")
    assert isinstance(found, RemotePath)
    return found


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
        urllib.request.urlopen(urllib.request.Request(f"{s3_server}/moto-api/reset-auth", requests, headers)).close()

    refuse_after(b"0")
    yield
    refuse_after(b"inf")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("s3://bucket/a/b/", RemotePath("s3://bucket/a/b")),
        ("s3://bucket", RemotePath("s3://bucket")),
        (Path("s3://bucket/a"), RemotePath("s3://bucket/a")),  # pathlib collapses two slashes
        ("gs://bucket/a", RemotePath("gs://bucket/a")),
        ("memory:///a", RemotePath("memory://a")),
        ("file:///tmp/a", Path("/tmp/a")),
        ("/tmp/s3:/a", Path("/tmp/s3:/a")),
        ("features", Path("features")),
    ],
)
def test_a_url_is_a_remote_path_and_anything_else_a_local_path(given: str | Path, found: Path | RemotePath) -> None:
    assert place(given) == found


def test_a_url_of_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(StepDiffError, match="https://host/a is not a place for a store"):
        place("https://host/a")


names = st.text("abc.-_", min_size=1, max_size=8).filter(lambda name: name.strip(".") != "")


@given(st.lists(names, min_size=1, max_size=4))
def test_a_remote_path_is_split_as_pathlib_does(parts: list[str]) -> None:
    above, pure = RemotePath("s3://bucket"), PurePosixPath("/bucket")
    found, path = above, pure
    for part in parts:
        found, path = found / part, path / part
    assert (found.name, found.stem, found.parent.name) == (path.name, path.stem, path.parent.name)
    assert str(found.relative_to(above)) == str(path.relative_to(pure))
    assert found.with_suffix(".lock").name == path.with_suffix(".lock").name
    assert pickle.loads(pickle.dumps(found)) == found


def test_existing_objects_are_listed_as_pathlib_does(root: RemotePath, tmp_path: Path) -> None:
    for name in ("a/zarr.json", "a/c/0", "b/c/1", "b2/zarr.json", "x.parquet", "12.parquet", "y.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
        (root / name).put([name.encode()])
    for pattern in ("*", "*/zarr.json", "*.parquet", "a/c/*", "a/zarr.json", "a/none", "none/*"):
        seen = sorted(str(path.relative_to(root)) for path in root.glob(pattern))
        assert seen == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob(pattern)), pattern
    for name in ("a", "b2", "a/c/0", "none", "x.parquet", "b2/zar"):
        assert (root / name).is_dir() == (tmp_path / name).is_dir(), name
        assert (root / name).is_file() == (tmp_path / name).is_file(), name
    assert sum(root.files().values()) == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
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
        assert (root / "a").read_bytes() == b"%d" % winner and (root / "a").identity() == etags[winner]
        old = str(etags[winner])
        etags = list(threads.map(lambda n: (root / "a").exchange(b"new%d" % n, old), range(8)))
    (winner,) = [n for n, etag in enumerate(etags) if etag]
    assert (root / "a").read_bytes() == b"new%d" % winner
    assert (root / "b").create([b"x"]) and not (root / "b").create([b"y"])


def test_a_listing_gives_the_same_versions_as_single_requests(root: RemotePath) -> None:
    for name in ("a", "b"):
        (root / name).put([name.encode()])
    assert root.identities() == {name: (root / name).identity() for name in ("a", "b")}


def test_ranges_of_different_versions_are_refused(root: RemotePath) -> None:
    (root / "a").put([bytes(range(100))])
    tail, etag, size = (root / "a").read_tail(10)
    assert (bytes(tail), size) == (bytes(range(90, 100)), 100)
    assert bytes((root / "a").read_tail(1000)[0]) == bytes(range(100))
    assert bytes((root / "a").read_range(5, 8, etag)) == bytes([5, 6, 7])
    (root / "a").put([bytes(100)])
    with pytest.raises(ReplacedError):
        (root / "a").read_range(5, 8, etag)


def test_credentials_are_never_stored(bucket: str) -> None:
    store = Store.open(f"{bucket}/features", create=True)
    store.catalog("clips")
    assert b"secret" not in pickle.dumps(store) and pickle.loads(pickle.dumps(store)).path == store.path
    assert "secret" not in repr(store.path)


def one_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["info", *arguments]) == 2
    out, printed = capsys.readouterr()
    assert not out and printed.startswith("error: ") and printed.count("\n") == 1 and len(printed) < 320, printed
    return printed


def test_a_missing_bucket_is_reported_in_one_line(
    s3_server: str, impatient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such bucket" in one_line(capsys, "s3://no-bucket-here/features")
    with pytest.raises(StepDiffError, match="s3://no-bucket-here/features.*no such bucket"):
        Store.open("s3://no-bucket-here/features", create=True)


def test_a_missing_store_is_reported_in_one_line(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"no feature store in {bucket}/features" in one_line(capsys, f"{bucket}/features")


def test_an_unreachable_endpoint_is_reported_in_one_line(
    impatient: None, s3_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "check network and endpoint" in one_line(capsys, "s3://bucket/features")


def test_refused_credentials_are_reported_in_one_line(
    s3_bucket: str, impatient: None, refusing: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "check the credentials" in one_line(capsys, f"{s3_bucket}/features")


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
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=30)
    assert done.stdout.startswith("cannot use an object store in a forked process") and done.returncode == 0
