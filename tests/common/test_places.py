"""Local and remote paths have the same operations."""

import inspect
from pathlib import Path

import pytest

from common.errors import StepDiffError
from common.io.files import Place, listed, local, place, write_pieces, write_text
from common.io.local import LocalPath
from common.io.remote import RemotePath

ONLY_REMOTE = {"url", "exchange", "read_range", "read_tail", "read_versioned"}


@pytest.fixture(params=["local", "remote"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place(tmp_path / "root" if request.param == "local" else f"memory://places/{tmp_path.name}")


def test_local_and_remote_paths_have_the_same_operations() -> None:
    names = {name for name in vars(RemotePath) if not name.startswith("_")} - ONLY_REMOTE
    assert not [name for name in names if not hasattr(LocalPath, name)]
    for name in names & vars(LocalPath).keys() - {"remote", "remove_dead"}:
        here, there = (list(inspect.signature(vars(kind)[name]).parameters) for kind in (LocalPath, RemotePath))
        assert here[: len(there)] == there, name


def test_a_path_is_a_folder_or_a_url(tmp_path: Path) -> None:
    assert place(tmp_path) == tmp_path and place(f"file://{tmp_path}") == tmp_path
    assert isinstance(place(tmp_path) / "a", LocalPath) and isinstance(place(tmp_path).parent, LocalPath)
    assert place("s3:/bucket/a/") == RemotePath("s3://bucket/a") == place(place("s3://bucket/a"))
    with pytest.raises(StepDiffError, match="ftp://x is not a place for a store"):
        place("ftp://x")


def test_local_and_remote_files_are_written_read_and_removed(root: Place) -> None:
    write_text(root / "a" / "one.txt", "1")
    write_pieces(root / "two.txt", (piece for piece in (b"2", b"2")))
    with (root / "three.txt").whole() as temporary:
        temporary.write_bytes(b"333")
    assert not (root / "two.txt").create([b"other"]) and (root / "four.txt").create([b"4444"])
    assert {path.name: size for path, size in root.files().items()} == {
        "one.txt": 1,
        "two.txt": 2,
        "three.txt": 3,
        "four.txt": 4,
    }
    assert [path.name for path in listed(root, "*.txt")] == ["four.txt", "three.txt", "two.txt"]
    assert root.identities()["two.txt"] == (root / "two.txt").identity() and (root / "gone").identity() is None
    assert (root / "three.txt").read_whole(3) == b"333" and (root / "three.txt").tail(2) == b"33"
    with pytest.raises(StepDiffError, match="three.txt has 3 bytes; the most is 2"):
        (root / "three.txt").read_whole(2)
    assert len((root / "two.txt").sha256()) == 64 and list(root.map(len, ["a", "bb"])) == [1, 2]
    with local(root / "two.txt") as copy:
        assert copy.read_bytes() == b"22"
    with root.fetched(["two.txt", "gone"]) as folder:
        assert (folder / "two.txt").exists() and not (folder / "gone").exists()
    assert (root / "a").remove_folder(root) and not (root / "a").remove_folder(root)
    root.remove()
    assert not root.is_dir() and not list(root.files())


def test_a_block_that_raises_changes_no_file(root: Place) -> None:
    write_text(root / "file", "old")
    with pytest.raises(KeyError), (root / "file").whole() as temporary:
        temporary.write_bytes(b"new")
        raise KeyError
    assert (root / "file").read_bytes() == b"old" and [path.name for path in root.iterdir()] == ["file"]
