"""`--repair` computes exactly the rows again that are damaged, with the same bits, and keeps all others."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from common.errors import DamageError
from store import Store, View
from store.__main__ import main as store_main
from store.verbs.options import RequantiseOptions
from store.verbs.requantise import requantise
from store.verbs.verify import verify

Run = Callable[..., tuple[int, dict[str, object], str]]
Writer = Callable[..., Path]
CLIPS = 10
FAILED = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, video: Writer, tiny_clip: Path, featurize: Run) -> Path:
    """A folder with videos, a manifest of ten clips and a store with nine of them: c4 failed, c9 is absent."""
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
FAILED_ROW = 0  # of the clip of gone.mp4, the first video in the manifest


@pytest.mark.parametrize("damage", DAMAGE)
def test_exactly_the_damaged_rows_of_the_view_are_computed_with_the_same_bits(
    copy: Path, repair: Run, damage: Callable[[View], set[int]]
) -> None:
    view = view_of(copy)
    before = content(view)
    assert before[0].count(1) == CLIPS - 2 and before[0].count(2) == 1 and before[0][-1] == 0
    catalog = [path.read_bytes() for path in view.catalog.parts()]
    rows = damage(view)
    # last bits depend on the batch size, which a damaged record does not name
    size = ["--batch-size", 3] if damage is damage_status_and_record else []
    status, summary, message = repair(copy, *size)
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


def test_a_store_without_damage_is_left_as_it_is(copy: Path, repair: Run) -> None:
    before = {path: path.read_bytes() for path in (copy / "store").rglob("*") if path.is_file()}
    status, summary, _ = repair(copy)
    assert (status, summary["damaged"], summary["done"], summary["rewritten"]) == (0, 0, 0, [])
    now = {path: path.read_bytes() for path in (copy / "store").rglob("*") if path.is_file()}
    assert {path for path in now if now[path] != before.get(path)} <= {copy / "store" / "lock.json"}


def test_a_clip_whose_file_is_another_one_now_is_refused_before_anything_is_written(copy: Path, repair: Run) -> None:
    view = view_of(copy)
    before = view.status().tolist()
    damage_rows(view)
    (copy / "other.mp4").write_text("no video")
    damaged = {path: path.read_bytes() for path in (copy / "store").rglob("*") if path.is_file()}
    status, _, message = repair(copy)
    assert status == 2 and "was made from another file" in message and "--replace instead of --repair" in message
    now = {path: path.read_bytes() for path in (copy / "store").rglob("*") if path.is_file()}
    assert {path for path in now if now[path] != damaged.get(path)} <= {copy / "store" / "lock.json"}
    assert view_of(copy).status().tolist() == before


def test_a_damaged_row_whose_video_cannot_be_used_any_more_becomes_failed_with_its_reason(
    copy: Path, repair: Run
) -> None:
    damage_rows(view_of(copy))
    (copy / "other.mp4").unlink()
    status, summary, message = repair(copy)
    assert (status, summary["damaged"], summary["done"], summary["failed"]) == (1, 2, 1, 1), message
    ((key, reason),) = [failure.values() for failure in summary["failures"]]  # type: ignore[attr-defined]
    assert key == "c1" and "other.mp4" in reason
    assert verify(Store.open(copy / "store")) == [] and view_of(copy).status().tolist()[5] == 2
    assert repair(copy)[0] == 0, "a failed row is not tried again"


def test_damage_that_featurize_cannot_repair_is_listed_with_what_to_do(copy: Path, repair: Run) -> None:
    store = Store.open(copy / "store")
    requantise(RequantiseOptions(str(store.path), "clip", "small", "int8"))
    rows = damage_rows(view_of(copy))
    flip(store.view("clips", "small").paths.shard("tokens", 0, 3), 3)
    (copy / "store" / "indexes" / "clips").mkdir(parents=True)
    (copy / "store" / "indexes" / "clips" / "clip.json").write_text("{}")
    status, summary, message = repair(copy)
    assert (status, summary["done"]) == (1, len(rows)), message
    remedies = {one["path"]: one["remedy"] for one in summary["not_repaired"]}  # type: ignore[index, attr-defined]
    assert "retrieval build" in remedies.pop("indexes/clips/clip.json")
    ((path, what),) = remedies.items()
    assert path.startswith("arrays.zarr/clips/small/") and what.startswith("delete ") and "status/c/0" in what


def test_a_damaged_catalog_is_refused_before_anything_is_written(copy: Path, repair: Run) -> None:
    view = view_of(copy)
    damage_rows(view)
    part = view.catalog.parts()[0]
    flip(part, 20)
    status, _, message = repair(copy)
    assert status == 2 and part.name in message and "restore it from a copy" in message and message.count("error") == 1
    flip(part, 20)
    assert view_of(copy).status().tolist().count(1) == CLIPS - 2


def test_rows_that_the_command_does_not_name_are_listed(copy: Path, repair: Run) -> None:
    before = content(view_of(copy))
    damage_rows(view_of(copy))
    manifest = pl.read_csv(copy / "clips.csv")
    for name, videos in (("one.csv", "good.mp4"), ("none.csv", "gone.mp4")):
        manifest.filter(pl.col("video") == videos).write_csv(copy / name)
    status, _, message = repair(copy, manifest="none.csv")
    assert status == 2 and "none of the 2 damaged clips" in message
    assert view_of(copy).status().tolist() == before[0]
    status, summary, _ = repair(copy, manifest="one.csv")
    assert (status, summary["done"], summary["left"]) == (1, 1, 1)
    assert verify(Store.open(copy / "store")) == []
    status, summary, _ = repair(copy)
    assert (status, summary["damaged"], summary["done"], summary["left"]) == (0, 1, 1, 0)
    assert content(view_of(copy)) == before


def test_a_repair_makes_the_rows_of_a_snapshot_whole_and_refuses_the_snapshot_itself(
    copy: Path, repair: Run, tiny_clip: Path, featurize: Run
) -> None:
    assert store_main(["tag", str(copy / "store"), "before"]) == 0
    expected = view_of(copy).read("tokens", np.arange(1, 6))
    damage_rows(view_of(copy))
    snapshot = ["--manifest", copy / "clips.csv", "--store", f"{copy / 'store'}@before", "--encoder", "clip"]
    status, _, message = featurize(*snapshot, "--weights", tiny_clip, "--repair")
    assert status == 2 and "without @before" in message
    assert repair(copy)[0] == 0
    then = Store.open(copy / "store", at="before").view("clips", "clip")
    assert (then.read("tokens", np.arange(1, 6)) == expected).all() and verify(Store.open(copy / "store")) == []


def test_another_run_that_holds_the_lock_refuses_a_repair(copy: Path, repair: Run) -> None:
    damage_rows(view_of(copy))
    with Store.open(copy / "store").lock():
        status, _, message = repair(copy)
    assert status == 2 and "is being written by process" in message


@pytest.mark.parametrize("option", ["--replace", "--retry-failed", "--shard-size=8", "--pool=2", "--frames=4"])
def test_options_that_a_repair_cannot_take_are_refused_before_anything_is_written(
    copy: Path, repair: Run, option: str
) -> None:
    view = view_of(copy)
    damage_rows(view)
    status, _, message = repair(copy, option)
    assert status == 2 and message.count("error:") == 1
    assert view_of(copy).status().tolist().count(1) == CLIPS - 2 and not list((copy / "store").rglob("*.parquet.tmp"))


def test_the_error_of_a_damaged_row_names_the_repair(copy: Path) -> None:
    view = view_of(copy)
    damage_rows(view)
    with pytest.raises(DamageError, match="repeat the featurize command that filled the view, with --repair$"):
        view_of(copy).read("tokens", np.array([2]))
    found = verify(Store.open(copy / "store"))
    assert {one.remedy for one in found} == {
        "repeat the featurize command that filled view clip of clips, with --repair"
    }
