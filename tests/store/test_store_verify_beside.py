"""verify covers files with a checksum next to the arrays, and lists those without."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from common.io import sealed as table
from common.io.sealed import BLANK
from store import Store, View
from store.__main__ import main
from store.format.layout import write_json
from store.verbs.verify import NOT_COVERED, verify

Make = Callable[..., Any]


@pytest.fixture
def view(make_view: Make, fill: Make) -> View:
    """A view, a version of an annotation stage, and an index card with its two files."""
    view = make_view()
    fill(view)
    version = view.paths.store / "annotations" / "captions" / "abc"
    write_json(version / "provenance.json", {"provenance": {"model": "m", "prompt": "p"}, "seal": BLANK})
    (version / "000000.parquet").write_bytes(table.encode(pl.DataFrame({"key": ["c0"], "text": ["stir"]})))
    folder = view.paths.store / "indexes" / "clips"
    folder.mkdir(parents=True)
    files = {"net.0123abcd.faiss": b"index", "net.0123abcd.sample.npz": b"sample"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    write_card(folder / "net.json", {n: {"bytes": len(d), "sha256": sha256(d)} for n, d in files.items()})
    return view


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_card(path: Path, files: dict[str, Any]) -> None:
    """Write a card with a checksum, as retrieval does."""
    card = {"version": 2, "feature": "embedding", "files": files}
    seal = sha256(json.dumps(card, sort_keys=True).encode())
    path.write_text(json.dumps({**card, "seal": seal}, indent=2) + "\n")


def damaged(view: View) -> dict[str, str]:
    return {found.path: found.what for found in verify(Store.open(view.paths.store))}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_a_flipped_byte_below_annotations_or_indexes_is_found(view: View) -> None:
    store = view.paths.store
    files = [path for room in ("annotations", "indexes") for path in (store / room).rglob("*") if path.is_file()]
    assert len(files) == 5 and damaged(view) == {}
    for path in files:
        good = path.read_bytes()
        for at in {0, len(good) // 2, len(good) // 3, len(good) - 2}:
            flip(path, at)
            assert str(path.relative_to(store)) in damaged(view), f"byte {at} of {path}"
            path.write_bytes(good)


def test_a_missing_annotation_or_index_file_is_found(view: View) -> None:
    store = view.paths.store
    for path in ("annotations/captions/abc/provenance.json", "indexes/clips/net.0123abcd.faiss"):
        good = (store / path).read_bytes()
        (store / path).unlink()
        assert damaged(view) == {path: "is missing"}
        (store / path).write_bytes(good)


def test_a_card_cannot_name_a_file_in_another_folder(view: View) -> None:
    card = view.paths.store / "indexes" / "clips" / "net.json"
    (view.paths.store.parent / "x.faiss").write_bytes(b"secret")
    for name in ("../../../x.faiss", "/etc/hostname", "a/b.faiss", "..", "a\nb"):
        write_card(card, {name: {"bytes": 6, "sha256": sha256(b"secret")}})
        assert damaged(view)["indexes/clips/net.json"] == f"names a file {name!r} that is not in its folder"
    write_card(card, {"net.0123abcd.faiss": 3})
    assert "sha256" in damaged(view)["indexes/clips/net.0123abcd.faiss"]
    os.mkfifo(card.parent / "fifo.faiss")  # no code writes here
    write_card(card, {"fifo.faiss": {"bytes": 6, "sha256": sha256(b"secret")}})
    assert damaged(view) == {"indexes/clips/fifo.faiss": "is missing"}


def test_uncovered_files_are_listed(view: View, capsys: pytest.CaptureFixture[str]) -> None:
    store = view.paths.store
    (store / "indexes" / "clips" / "old.faiss").write_bytes(b"no card names it")
    (store / "annotations" / "captions" / "abc" / "lock.json").write_text("{}")
    (store / "annotations" / "notes.txt").write_text("none")
    assert main(["verify", str(store)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    left = {"indexes/clips/old.faiss", "annotations/captions/abc/lock.json", "annotations/notes.txt"}
    assert line.startswith("not covered: 3 files without a checksum (") and all(path in line for path in left)
    assert all(text in line for text in NOT_COVERED) and "videos" in line
    assert main(["verify", str(store), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["not_covered"]
    assert set(record["files"]) == left and record["never"] == list(NOT_COVERED)
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    assert "Does not cover lock files" in " ".join(capsys.readouterr().out.split())
