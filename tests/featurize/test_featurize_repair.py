"""`--repair` computes exactly the rows again that are damaged, with the same bits, and keeps all others."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from store import Store, View
from store.verbs.verify import verify

Run = Callable[..., tuple[int, dict[str, object], str]]
Writer = Callable[..., Path]
CLIPS = 10
FAILED, ABSENT = 4, 9


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, video: Writer, tiny_clip: Path, featurize: Run) -> Path:
    """A folder with videos, a manifest of ten clips and a store with nine of them: row 4 failed, row 9 is absent."""
    folder = tmp_path_factory.mktemp("world")
    for name, options in (("good.mp4", {"g": 10}), ("other.mp4", {"codec": "mpeg4"})):
        shutil.copy(video(name, **options), folder / name)
    rows = [(f"c{n}", ("good.mp4", "other.mp4")[n % 2], n * 0.1, n * 0.1 + 0.9) for n in range(CLIPS)]
    rows[FAILED] = (f"c{FAILED}", "gone.mp4", 0, 1)
    manifest = pl.DataFrame(rows, ["clip", "video", "start", "end"], orient="row")
    # rows are in video order: one file a video keeps the order of the list
    manifest = manifest.sort("video", maintain_order=True)
    manifest.head(CLIPS - 1).write_csv(folder / "first.csv")
    manifest.write_csv(folder / "clips.csv")
    status, summary, message = featurize(*options_of(folder, "first.csv", tiny_clip), "--batch-size", 3)
    assert (status, summary["done"], summary["failed"]) == (1, CLIPS - 2, 1), message
    store = Store.open(folder / "store")
    with store.lock():
        store.catalog("clips").append(pl.DataFrame({"key": ["never asked for"]}))
        store.view("clips", "clip").resize()
    return folder


def options_of(folder: Path, manifest: str, weights: Path) -> list[object]:
    files = ["--manifest", folder / manifest, "--store", folder / "store"]
    return [*files, "--encoder", "clip", "--weights", weights, "--shard-size", 1]


@pytest.fixture
def copy(world: Path, tmp_path: Path) -> Path:
    shutil.copytree(world, tmp_path / "world")
    return tmp_path / "world"


@pytest.fixture
def repair(tiny_clip: Path, featurize: Run) -> Run:
    def run(folder: Path, *more: object, manifest: str = "clips.csv") -> tuple[int, dict[str, object], str]:
        return featurize(*options_of(folder, manifest, tiny_clip)[:-2], "--repair", *more)

    return run


def view_of(folder: Path) -> View:
    return Store.open(folder / "store").view("clips", "clip")


def content(view: View) -> tuple[list[int], dict[str, bytes], list[tuple[str, str]]]:
    """Return status, the stored bytes of all finished rows, and failures."""
    ok = np.flatnonzero(view.status() == 1)
    stored = {name: view.read(name, ok, check="always").tobytes() for name in view.features}
    return view.status().tolist(), stored, view.failures().rows()


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 8
    path.write_bytes(data)


def row_bytes(view: View, row: int) -> tuple[Path, int]:
    """Return the file of a row's tokens and the place of the row in it."""
    size = view.stored["tokens"].row_bytes
    before = np.count_nonzero(view.status()[:row] == 1)
    return Path(str(view.paths.shard("tokens", 0, 3))), size * before


def damage_rows(view: View) -> set[int]:
    for row in (2, 5):
        path, at = row_bytes(view, row)
        flip(path, at + 7)
    return {2, 5}


def damage_index(view: View) -> set[int]:
    flip(Path(str(view.paths.shard("embedding", 0, 2))), -3)
    return set(np.flatnonzero(view.status() == 1).tolist())


def damage_checksums(view: View) -> set[int]:
    flip(view.paths.checksum(0), 5)
    return set(np.flatnonzero(view.status() == 1).tolist())


def lose_checksums(view: View) -> set[int]:
    view.paths.checksum(0).unlink()
    return set(np.flatnonzero(view.status() == 1).tolist())


def lose_shard_file(view: View) -> set[int]:
    Path(str(view.paths.shard("tokens", 0, 3))).unlink()
    return set(np.flatnonzero(view.status() == 1).tolist())


def damage_status(view: View) -> set[int]:
    flip(view.paths.status(0), 1)
    return set()


def damage_status_and_row(view: View) -> set[int]:
    path, at = row_bytes(view, 3)
    flip(path, at)
    view.paths.status(0).write_bytes(b"")
    return {3}


def damage_status_and_record(view: View) -> set[int]:
    view.paths.status(0).write_bytes(bytes(view.rows_per_shard + 4)[:-1] + b"!")
    flip(view.paths.info(0), 40)
    return set(range(CLIPS - 1)) - {FAILED_ROW}


DAMAGE = [
    damage_rows, damage_index, damage_checksums, lose_checksums, lose_shard_file, damage_status, damage_status_and_row,
    damage_status_and_record,
]  # fmt: skip
FAILED_ROW = 4  # "gone.mp4" sorts between good and other: see the fixture


@pytest.mark.parametrize("damage", DAMAGE)
def test_exactly_the_damaged_rows_of_the_view_are_computed_with_the_same_bits(
    copy: Path, repair: Run, damage: Callable[[View], set[int]]
) -> None:
    view = view_of(copy)
    before = content(view)
    assert before[0].count(1) == CLIPS - 2 and before[0].count(2) == 1 and before[0][-1] == 0
    catalog = [path.read_bytes() for path in view.catalog.parts()]
    rows = damage(view)
    status, summary, message = repair(copy)
    assert (status, summary["damaged"], summary["done"]) == (0, len(rows), len(rows)), message
    assert content(view_of(copy)) == before
    assert verify(Store.open(copy / "store")) == []
    assert [path.read_bytes() for path in view.catalog.parts()] == catalog
    status, summary, message = repair(copy)
    assert (status, summary["damaged"], summary["done"], summary["rewritten"]) == (0, 0, 0, [])


def test_whole_rows_keep_their_bytes_on_disk_and_their_record(copy: Path, repair: Run) -> None:
    view = view_of(copy)
    damage_rows(view)
    writes = view.paths.info(0).read_text()
    assert repair(copy)[0] == 0
    now = view.paths.info(0).read_text()
    assert '"batch_size": 3' in writes and now.count('"batch_size": 3') == now.count('"batch_size"')
    assert '"damaged"' not in now
