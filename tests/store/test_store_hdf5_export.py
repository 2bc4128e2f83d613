"""HDF5 export: complete files only, readable with h5py, errors in one line."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from common.errors import StepDiffError
from store import Feature, View
from store.exchange.hdf5 import export_hdf5
from store.exchange.options import Hdf5ExportOptions as ExportOptions

ROOT = Path(__file__).parents[2]
Make = Callable[..., Any]


def exported(view: View, path: Path, **options: Any) -> Path:
    export_hdf5(ExportOptions(path=str(path), store=str(view.paths.store), view=view.name, **options))
    return path


def test_plain_h5py_reads_an_export(filled: View, tmp_path: Path) -> None:
    rows = np.flatnonzero(filled.status() == 1)
    keys, tokens = filled.catalog.keys(rows), filled.read("tokens", rows)
    with h5py.File(exported(filled, tmp_path / "clips.h5", features=("tokens",))) as file:
        assert sorted(file) == sorted(keys)
        for key, row in zip(keys, tokens, strict=True):
            assert file[key].dtype == np.float16 and (file[key][()] == row).all()
        assert json.loads(file.attrs["provenance"]) == filled.provenance.as_dict()
    with h5py.File(exported(filled, tmp_path / "rows.h5", layout="rows", dtype="float32")) as file:
        assert [key.decode() for key in file["key"][()]] == keys
        assert file["tokens"].dtype == np.float32 and (file["tokens"][()] == tokens.astype(np.float32)).all()
        assert (file["embedding"][()] == filled.read("embedding", rows)).all()


def test_an_export_is_complete_or_absent(filled: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, reads = View.read, []

    def fails_later(view: View, *args: Any) -> np.ndarray:
        reads.append(args)
        if len(reads) == 7:
            raise StepDiffError("damage")
        return read(view, *args)

    monkeypatch.setattr("store.exchange.hdf5._BLOCK_BYTES", 1)
    monkeypatch.setattr(View, "read", fails_later)
    with pytest.raises(StepDiffError, match="damage"):
        exported(filled, tmp_path / "out" / "a.h5")
    assert len(reads) == 7 and not list((tmp_path / "out").iterdir())
    exported(filled, tmp_path / "out" / "a.h5")
    before = (tmp_path / "out" / "a.h5").read_bytes()
    with pytest.raises(StepDiffError, match="exists already"):
        exported(filled, tmp_path / "out" / "a.h5")
    assert (tmp_path / "out" / "a.h5").read_bytes() == before


def test_files_of_a_killed_export_are_removed_by_the_next(filled: View, tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    left = tmp_path / "out" / f".tmp.{socket.gethostname()}.{child.pid}.00ff"
    left.parent.mkdir()
    left.write_bytes(b"half")
    exported(filled, tmp_path / "out" / "a.h5")
    assert [path.name for path in left.parent.iterdir()] == ["a.h5"]


def test_a_full_disk_gives_a_one_line_error_and_leaves_no_file(filled: View, tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; from store.__main__ import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000));"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = ["export", str(tmp_path / "out" / "a.h5"), "--store", str(filled.paths.store), "--view", "net"]
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: no space to write {tmp_path / 'out' / 'a.h5'}")
    assert not list((tmp_path / "out").iterdir())


def test_an_export_of_a_missing_view_is_refused_in_one_line(filled: View, tmp_path: Path) -> None:
    for options, message in (
        ({"features": ("nothing",)}, "no feature 'nothing' in view net of clips: it has embedding, tokens|tokens, emb"),
        ({"raw": True}, "--raw is for int8"),
        ({"raw": True, "dtype": "float16"}, "leave --dtype out"),
    ):
        with pytest.raises(StepDiffError, match=message):
            exported(filled, tmp_path / "a.h5", **options)
    assert not (tmp_path / "a.h5").exists()


def test_float16_is_refused_if_a_value_does_not_fit(make_view: Make, values: Make, tmp_path: Path) -> None:
    view = make_view({"tokens": Feature((3, 5), "float32")})
    given = values(view, np.array([0, 1]))
    given["tokens"][1, 0, 0] = 7e4
    view.write_shard(0, np.array([0, 1]), given, {})
    with pytest.raises(StepDiffError, match="tokens of c1 holds a magnitude past float16"):
        exported(view, tmp_path / "a.h5", dtype="float16")


def test_a_file_that_appears_during_the_export_is_not_replaced(
    filled: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "a.h5", View.read

    def another_is_faster(view: View, *args: Any) -> Any:
        path.write_bytes(b"mine")
        return read(view, *args)

    monkeypatch.setattr(View, "read", another_is_faster)
    with pytest.raises(StepDiffError, match="was made meanwhile"):
        exported(filled, path)
    assert path.read_bytes() == b"mine" and [p.name for p in tmp_path.glob("*.h5")] == ["a.h5"]
