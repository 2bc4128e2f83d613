"""Bit flips in a view's files: `python -m retrieval` gives the right answer or a one-line error."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import DamageError
from retrieval.__main__ import main
from retrieval.index.builder import build_index
from store import Store, View

Fill = Callable[..., View]
COUNT = 12


@pytest.fixture
def view(tmp_path: Path, fill: Fill) -> View:
    store = Store.open(tmp_path / "store", create=True)
    vectors = np.random.default_rng(0).normal(size=(COUNT, 8)).astype(np.float32)
    columns = {"video": [f"v{n // 2}" for n in range(COUNT)], "step": [f"s{n % 3}" for n in range(COUNT)]}
    return fill(store, vectors, [f"c{n}" for n in range(COUNT)], columns=columns)


def commands(view: View, out: Path) -> list[list[str]]:
    where = ["--store", str(view.paths.store), "--view", view.name]
    return [
        ["query", *where, "--clip", "c1", "-k", "3"],
        ["build", *where],
        ["neighbours", *where, "--out", str(out)],
        ["duplicates", *where],
    ]


def test_a_bit_flip_in_any_file_of_a_view_is_harmless_or_a_one_line_error(
    view: View, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also in checksum/, status/ and each zarr.json, which used to give tracebacks."""

    def run() -> list[tuple[int, str, list[str]]]:
        found = []
        for command in commands(view, tmp_path / "near.parquet"):
            code = main(command)
            printed = capsys.readouterr()
            lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
            assert "Traceback" not in printed.err
            found.append((code, printed.out if command[0] in ("query", "duplicates") else "", lines))
        return found

    build_index(Store.open(view.paths.store), view)
    whole = run()
    assert all(code == 0 for code, _, _ in whole)
    for path in sorted(path for path in view.paths.group.rglob("*") if path.is_file()):
        data = path.read_bytes()
        for at in range(1, len(data), max(len(data) // 3, 1)):
            changed = bytearray(data)
            changed[at] ^= 1 << at % 8
            path.write_bytes(changed)
            for now, before in zip(run(), whole, strict=True):
                assert now == before or (now[0] == 2 and len(now[2]) == 1 and "python -m store verify" in now[2][0])
        path.write_bytes(data)
    assert run() == whole


@pytest.mark.parametrize("array", ["embedding", "checksum"])
def test_a_damaged_row_is_refused(view: View, monkeypatch: pytest.MonkeyPatch, array: str) -> None:
    """Both in one build and in parts, although the rows were right at an earlier read."""
    view.read("embedding", np.arange(COUNT))
    path: Any = view.paths.checksum(1) if array == "checksum" else view.paths.shard("embedding", 1, 2)
    data = bytearray(path.read_bytes())
    data[5] ^= 4
    path.write_bytes(data)
    named = "the checksums of shard 1" if array == "checksum" else "c8: stored embedding"
    store = Store.open(view.paths.store)
    with pytest.raises(DamageError, match=f"^{named}"):
        build_index(store, view)
    with pytest.raises(DamageError, match=f"^{named}"):
        build_index(store, view, factory="IVF2,SQfp16", workers=1)
    assert not (view.paths.store / "indexes" / "clips" / "tiny.json").exists()
