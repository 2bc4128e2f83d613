"""The self-join compared with a float64 comparison of all pairs of a step; killed runs and refusals."""

import json
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import StepDiffError
from retrieval.__main__ import main
from retrieval.mining import neighbours as join_module
from retrieval.mining.neighbours import join, pieces
from store import Store, View

Fill = Callable[..., View]
STEPS = ["chop"] * 40 + ["whisk"] * 7 + ["alone"] + [None] * 3 + ["fry"] * 21


@pytest.fixture
def steps(store: Store, fill: Fill) -> View:
    """A view of 72 clips of four steps in mixed order: two failed, three without step, eight without video."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(72, 12)).astype(np.float32)
    vectors[10] = vectors[11]
    step = [STEPS[at] for at in rng.permutation(72)]
    columns = {"step": step, "video": [None if at % 9 == 8 else f"v{at % 5}.mp4" for at in range(72)]}
    return fill(store, vectors, [f"video_{at}_0_1" for at in range(72)], failed=(4, 30), columns=columns)


def naive(store: Store, view: View, k: int, other_videos: bool = False) -> dict[str, list[tuple[str, float]]]:
    """Return clip -> neighbours and cosines, from comparing it with every other clip."""
    frame, status = store.catalog("clips").frame(), view.status()
    unit = {}
    for key, row in zip(frame["key"], frame["row"], strict=True):
        if status[row] == 1:
            vector = view.read("embedding", np.array([row]), dtype="float32")[0].astype(np.float64)
            unit[key] = vector / np.sqrt(np.sum(vector * vector))
    known = {row["key"]: row for row in frame.iter_rows(named=True) if row["key"] in unit and row["step"]}
    found = {}
    for one, mine in known.items():
        others = [
            (float(np.sum(unit[one] * unit[other])), theirs["row"], other)
            for other, theirs in known.items()
            if other != one and mine["step"] == theirs["step"]
            if not (other_videos and mine["video"] is not None and mine["video"] == theirs["video"])
        ]
        others.sort(key=lambda at: (-at[0], at[1]))
        found[one] = [(other, cosine) for cosine, _, other in others[:k]]
    return found


def check(out: Path, expected: dict[str, list[tuple[str, float]]]) -> None:
    frame = pl.read_parquet(out)
    assert frame["clip"].is_unique().all() and set(frame["clip"]) == set(expected)
    assert frame["step"].to_list() == sorted(frame["step"].to_list())
    for row in frame.iter_rows(named=True):
        assert row["neighbours"] == [clip for clip, _ in expected[row["clip"]]]
        np.testing.assert_allclose(row["similarities"], [cosine for _, cosine in expected[row["clip"]]], atol=1e-6)


@pytest.mark.parametrize("piece", [5, 30, 1000])
@pytest.mark.parametrize("other_videos", [False, True])
def test_neighbours_equal_those_of_a_naive_join(
    monkeypatch: pytest.MonkeyPatch, store: Store, steps: View, tmp_path: Path, piece: int, other_videos: bool
) -> None:
    """Pieces of a few rows, of a whole step and of all steps; blocks of a few rows."""
    monkeypatch.setattr(join_module, "PIECE", piece)
    monkeypatch.setattr(join_module, "BLOCK", 4)
    monkeypatch.setattr("retrieval.vectors.BLOCK", 4)
    out = tmp_path / "neighbours.parquet"
    assert join(store, store.view("clips", "tiny"), out, k=9, other_videos=other_videos) == 67
    check(out, naive(store, steps, 9, other_videos))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["features", "neighbours.parquet"]


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20), most=st.integers(1, 40))
def test_pieces_contain_every_row_once_and_split_only_steps_that_do_not_fit(sizes: list[int], most: int) -> None:
    bounds = np.append(0, np.cumsum(sizes))
    found = list(pieces(bounds, most))
    assert [place for piece in found for place in range(piece.start, piece.stop)] == list(range(sum(sizes)))
    for piece in found:
        assert piece.stop - piece.start <= most
        for start, end in pairwise(bounds.tolist()):
            if start < piece.start < end or start < piece.stop < end:
                assert end - start > most
    whole_groups = [piece for piece in found if {piece.start, piece.stop} <= set(bounds.tolist())]
    assert all(after.stop - one.start > most for one, after in pairwise(whole_groups) if one.stop == after.start)


def test_a_killed_run_resumes_with_the_same_file(
    monkeypatch: pytest.MonkeyPatch, store: Store, steps: View, tmp_path: Path
) -> None:
    """Killed between two pieces, the next run computes only the missing pieces and writes the same file."""
    words = ["neighbours", "--store", str(store.path), "--view", "tiny", "--out", str(tmp_path / "killed.parquet")]
    code = (
        "import os, signal, sys; from retrieval.mining import neighbours as join; from retrieval.__main__ import main\n"
        "join.PIECE, made, count = 6, join._join_piece, []\n"
        "def piece(*given):\n"
        "    count.append(1)\n"
        "    if len(count) == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return made(*given)\n"
        "join._join_piece = piece\n"
        "main(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    parts = tmp_path / "killed.parquet.parts"
    assert not (tmp_path / "killed.parquet").exists() and len(list(parts.glob("0*.parquet"))) == 3

    monkeypatch.setattr(join_module, "PIECE", 6)
    computed = []
    made = join_module._join_piece
    monkeypatch.setattr(join_module, "_join_piece", lambda *given: computed.append(given[-1]) or made(*given))
    with pytest.raises(StepDiffError, match=r"killed.parquet.parts holds pieces of another join \(k differ\): delete"):
        join(store, store.view("clips", "tiny"), tmp_path / "killed.parquet", k=5)
    join(store, store.view("clips", "tiny"), tmp_path / "killed.parquet")
    resumed = len(computed)
    join(store, store.view("clips", "tiny"), tmp_path / "whole.parquet")
    assert resumed == len(computed) - resumed - 3
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not parts.exists()


def test_neighbours_from_the_command_line(
    store: Store, steps: View, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["neighbours", "--store", str(store.path), "--view", "tiny", "--out", str(tmp_path / "n.parquet")]
    assert main([*start, "-k", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 67
    check(tmp_path / "n.parquet", naive(store, steps, 3))
    refused = {
        ("--within", "stop"): "clips have no column 'stop': the catalog has key, row, step, video",
        ("--out", str(tmp_path / "no" / "n.parquet")): "cannot write",
        ("--feature", "tokens"): "has no embedding called tokens",
    }
    for words, why in refused.items():
        assert main([*start, *words]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and why in err


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, store: Store, fill: Fill, tmp_path: Path) -> None:
    """The vectors of one step are four times the limit: memory is that of a piece and a block."""
    monkeypatch.setattr(join_module, "PIECE", 1024)
    monkeypatch.setattr(join_module, "BLOCK", 256)
    monkeypatch.setattr("retrieval.vectors.BLOCK", 256)
    monkeypatch.setattr("retrieval.exact.QUERIES", 256)
    vectors = np.random.default_rng(0).normal(size=(12_000, 256)).astype(np.float32)
    fill(store, vectors, [f"c{at}" for at in range(12_000)], columns={"step": ["chop"] * 12_000}, shard=4096)
    options = store.view("clips", "tiny"), tmp_path / "n.parquet", "step", 2
    monkeypatch.setattr(join_module, "pieces", lambda *_: [slice(0, 1024)])
    join(store, *options)  # modules and caches are loaded now
    tracemalloc.start()
    join(store, *options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < vectors.nbytes / 2


def test_a_damaged_piece_of_a_killed_run_is_refused_in_one_line(
    store: Store, steps: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = store.view("clips", "tiny"), tmp_path / "n.parquet", "step", 3
    monkeypatch.setattr(join_module, "PIECE", 16)
    with monkeypatch.context() as patched:
        patched.setattr(pl, "scan_parquet", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            join(store, *options)
    folder = tmp_path / "n.parquet.parts"
    piece = sorted(folder.glob("*.parquet"))[0]
    whole = piece.read_bytes()
    pl.read_parquet(piece)[:-1].write_parquet(tmp_path / "shorter.parquet")
    for content in (b"", whole[:-9], b"PAR1" * 9, (tmp_path / "shorter.parquet").read_bytes()):
        piece.write_bytes(content)
        with pytest.raises(StepDiffError, match=f"a piece in {folder} is damaged .*: delete that folder") as refused:
            join(store, *options)
        assert "\n" not in str(refused.value) and not options[1].exists()
    piece.write_bytes(whole)
    for content in ("[]", "7", "[" * 100_000, "{"):
        (folder / "join.json").write_text(content)
        with pytest.raises(StepDiffError, match="holds pieces of another join"):
            join(store, *options)
