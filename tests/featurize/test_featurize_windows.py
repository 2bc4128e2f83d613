"""Manifests in windows: the same rows in the same order as in one piece, and each shard planned once."""

import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import featurize.manifest_file as manifest_file
from common.errors import StepDiffError
from featurize.manifest import Manifest, parsed, read_manifest
from featurize.plan import Plan, shards_of
from featurize.windows import Windows, read_windows
from store import Feature, Provenance, Store

WINDOW = 7
TIMES = ["0", "1.5", " 2", "-1", "late", None, "9", "3"]


def clips(seed: int, rows: int = 60, videos: int = 9) -> pl.DataFrame:
    """Return clips of which some intervals cannot be used, in any order."""
    draw = random.Random(seed)
    return pl.DataFrame(
        {
            "clip": [f"clip {n}" for n in draw.sample(range(1000), rows)],
            "video": [f" v{draw.randrange(videos)}.mp4" for _ in range(rows)],
            "start": [draw.choice(TIMES) for _ in range(rows)],
            "end": [draw.choice(TIMES) for _ in range(rows)],
            "step": [draw.randrange(5) for _ in range(rows)],
        }
    )


def in_order(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the clips in video order: what a manifest has where nothing is sorted."""
    order = parsed(frame, Path("unused.parquet"), None).rows.with_row_index("n").select("n", clip="key")
    return frame.join(order, on="clip").sort("n").drop("n")


def written(frame: pl.DataFrame, path: Path) -> Path:
    match path.suffix:
        case ".csv":
            frame.write_csv(path)
        case ".jsonl":
            frame.write_ndjson(path)
        case _:
            frame.write_parquet(path, row_group_size=5)
    return path


def check_equal(windows: Windows, whole: Manifest, most: int | None = None) -> int:
    """Check that windows together are the manifest; return how many there are."""
    parts = list(windows)
    assert windows.entity == whole.entity and [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    together = pl.concat([part.rows for part in parts])
    assert together.equals(whole.rows)
    assert {key: why for part in parts for key, why in part.failures.items()} == whole.failures
    assert {video: path for part in parts for video, path in part.paths.items()} == whole.paths
    assert most is None or max(part.rows.height for part in parts) <= most
    assert [part.rows["key"].to_list() for part in windows] == [part.rows["key"].to_list() for part in parts]
    return len(parts)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("seed", range(3))
def test_windows_have_the_rows_of_the_whole_manifest_in_its_order(
    tmp_path: Path, suffix: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(clips(seed), tmp_path / f"clips{suffix}")
    whole = read_manifest(path)
    assert check_equal(read_windows(path, window=100), whole) == 1
    assert check_equal(read_windows(path, window=WINDOW), whole) > 2
    monkeypatch.setattr(manifest_file, "_WHOLE_BYTES", 0)
    assert check_equal(read_windows(path, window=WINDOW), whole) > 2


def test_a_manifest_in_video_order_is_not_sorted_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(in_order(clips(5)), tmp_path / "clips.parquet")
    monkeypatch.setattr("featurize.windows.Buckets", None)
    monkeypatch.setattr("featurize.windows._BATCH", 11)
    assert check_equal(read_windows(path, window=WINDOW), read_manifest(path), WINDOW) == 9
    with pytest.raises(TypeError):  # the same clips in another order
        read_windows(written(clips(5), tmp_path / "others.parquet"), window=WINDOW)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "text",
    ["Clip; VIDEO;start ;end\n ä ; v.mp4; 0; 1\nb;v.mp4;1;2\n", "Clip,Video,start,end\nä,v.mp4,0,1\nb,v.mp4,1,2\n"],
)
def test_a_large_text_file_is_read_as_a_small_one(
    tmp_path: Path, encoding: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clips.csv"
    path.write_text(text, encoding=encoding)
    whole = read_manifest(path)
    assert whole.rows["key"].to_list() == ["ä", "b"]
    monkeypatch.setattr(manifest_file, "_WHOLE_BYTES", 0)
    assert check_equal(read_windows(path, window=1), whole) >= 1


@pytest.mark.parametrize("batch", [3, 100])
def test_a_manifest_in_windows_is_refused_whole(tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurize.windows._BATCH", batch)
    frame = clips(1)
    refused = {
        "twice": (pl.concat([frame, frame[3:4]]), f"clip {frame['clip'][3]!r} is in"),
        "nameless": (frame.with_columns(clip=pl.when(pl.col("clip") != frame["clip"][41]).then("clip")), "row 42 of"),
        "no video": (frame.with_columns(video=pl.lit(" ")), "row 1 of"),
        "column": (frame.drop("end"), "no column end"),
        "own": (frame.with_columns(row=1), "column 'row'"),
        "type": (frame.with_columns(start=pl.Series([[1]] * 60)), "write seconds"),
    }
    for name, (bad, reason) in refused.items():
        path = written(bad, tmp_path / f"{name}.parquet")
        with pytest.raises(StepDiffError) as error:
            read_windows(path, window=WINDOW)
        assert reason in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_equal_hashes_of_different_clips_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Series, "hash", lambda series: series.str.len_chars().cast(pl.UInt64))
    path = written(clips(2), tmp_path / "clips.parquet")
    windows = read_windows(path, window=WINDOW)
    rows = pl.concat([part.rows for part in windows])
    assert sorted(rows["key"]) == sorted(clips(2)["clip"])


def test_a_manifest_that_changes_is_refused(tmp_path: Path) -> None:
    path = written(in_order(clips(1)), tmp_path / "clips.parquet")
    windows = iter(read_windows(path, window=WINDOW))
    next(windows)
    written(in_order(clips(2)), path)
    with pytest.raises(StepDiffError, match="changed while it was read"):
        list(windows)


@pytest.mark.parametrize("batch", [3, 100])
def test_windows_of_texts_are_by_length_and_have_each_text_once(
    tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurize.windows._BATCH", batch)
    draw = random.Random(0)
    texts = [[draw.choice("abcé ") * draw.randrange(9) for _ in range(draw.randrange(4))] for _ in range(80)]
    path = written(pl.DataFrame({"Answers ": texts, "n": 1}), tmp_path / "texts.parquet")
    whole = read_manifest(path, "answers")
    assert whole.failures
    assert check_equal(read_windows(path, "answers", window=WINDOW), whole) > 2
    with pytest.raises(StepDiffError, match="no column text"):
        read_windows(path, window=WINDOW)


ROWS = 230
Planned = list[tuple[int, list[int]]]
"""shards and their rows, in the order in which they are planned"""


def opened(folder: Path, size: int, known: set[int]) -> Store:
    """Return a store with a view of ROWS clips of which the `known` ones are there."""
    store = Store.open(folder, create=True)
    with store.lock():
        store.catalog("clips").append(pl.DataFrame({"key": [f"clip {row}" for row in range(ROWS)]}))
        view = store.create_view(
            "clips", "net", Provenance("net", "0", "l", "f", "c", {}), {"x": Feature((1,), "float32")}, size
        )
        view.resize()
        for shard in {row // size for row in known}:
            rows = np.array(sorted(row for row in known if row // size == shard))
            view.write_shard(shard, rows, {"x": np.ones((len(rows), 1), np.float32)}, {})
    return store


def plan_all(store: Store, windows: list[np.ndarray]) -> tuple[Plan, Planned]:
    """Plan windows of clips."""
    plan, planned = Plan(store.view("clips", "net")), []
    size = plan.view.rows_per_shard
    with store.lock():
        for number, rows in enumerate(windows):
            frame = pl.DataFrame({"key": [f"clip {row}" for row in rows]}, {"key": pl.String})
            frame = frame.with_columns(video=pl.lit("v"), start=0.0, end=1.0)
            window = Manifest("clips", frame, {"v": Path("v")}, {}, number == len(windows) - 1)
            planned += [(shard, part["row"].to_list()) for shard, part in shards_of(plan.add(window), size)]
    for waiting in plan.rest():
        planned += [(shard, part["row"].to_list()) for shard, part in shards_of(waiting, size)]
    return plan, planned


@pytest.mark.parametrize("size", [1, 4, 64])
@pytest.mark.parametrize("seed", range(4))
def test_each_shard_is_planned_once_with_all_its_rows(tmp_path: Path, size: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = np.arange(200) if seed == 0 else draw.permutation(ROWS)[:200]
    known = set() if seed < 2 else set(draw.permutation(ROWS)[:90].tolist())
    windows = np.split(rows, sorted(draw.integers(0, 200, 9).tolist()))
    plan, planned = plan_all(opened(tmp_path / "store", size, known), windows)
    assert len({shard for shard, _ in planned}) == len(planned)
    assert sorted(row for _, part in planned for row in part) == sorted(set(rows.tolist()) - known)
    assert all(part == sorted(part) and {row // size for row in part} == {shard} for shard, part in planned)
    if seed == 0:
        assert [shard for shard, _ in planned] == sorted(shard for shard, _ in planned)
    asked, before = plan.before(ROWS + 5)
    assert np.flatnonzero(asked).tolist() == sorted(rows.tolist())
    assert before[rows].tolist() == [int(row in known) for row in rows.tolist()]


def test_shards_of_a_manifest_that_grew_are_planned_as_windows_complete_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurize.scratch.Buckets.add", None)  # nothing waits on disk
    store = opened(tmp_path / "store", 4, set())
    _, planned = plan_all(store, [np.arange(a, b) for a, b in ((0, 3), (3, 9), (9, 10))])
    assert planned == [(0, [0, 1, 2, 3]), (1, [4, 5, 6, 7]), (2, [8, 9])]
