"""Videos that changed and stores that were damaged: refused, replaced, withdrawn and filled again;
kills."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featurize.changes import compare
from featurize.manifest import read_manifest
from featurize.video.media_file import identity
from stepdiff_core.errors import DamageError
from stepdiff_core.io import sealed as table
from stepdiff_core.io.files import place
from store import Feature, Provenance, Store, View
from store.__main__ import main as store_main
from store.io.records import writes_of_shard
from store.verbs.derive import requantise
from store.verbs.options import RequantiseOptions
from store.verbs.verify import verify
from tests.store.conftest import flip
from tests.store.forks import Forks

from .conftest import Run, Writer, write_clips


@pytest.fixture
def videos(tmp_path: Path, video: Writer) -> Path:
    """Two folders with different videos of the same name and length."""
    for folder, name, options in (
        ("a", "good.mp4", {"g": 10}),
        ("b", "other.mp4", {"codec": "mpeg4"}),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "clip.mp4").write_bytes(video(name, **options).read_bytes())
    return tmp_path


@pytest.fixture
def run(tmp_path: Path, tiny_clip: Path, featurize: Run) -> Run:
    """Return a function that runs featurize with the tiny CLIP into one store."""

    def one(*arguments: object) -> tuple[int, dict[str, object], str]:
        return featurize(
            *arguments,
            "--store",
            tmp_path / "features",
            "--encoder",
            "clip",
            "--weights",
            tiny_clip,
        )

    return one


def manifest(path: Path, *rows: tuple[str, str, float, float]) -> Path:
    return write_clips(path, rows)


def view_of(videos: Path, name: str = "clip") -> View:
    return Store.open(videos / "features").view("clips", name)


def tokens(videos: Path, *keys: str, view: str = "clip") -> np.ndarray:
    result = view_of(videos, view)
    return result.read("tokens", result.catalog.rows(list(keys)))


def known(videos: Path, key: str) -> dict[str, object]:
    return (
        Store.open(videos / "features").catalog("clips").frame().filter(key=key).row(0, named=True)
    )


@pytest.mark.full
def test_another_file_of_one_name_and_length_is_refused(videos: Path, run: Run) -> None:
    first, second = videos / "a" / "clip.mp4", videos / "b" / "clip.mp4"
    assert run(first)[0] == 0
    before = tokens(videos, "clip_0_2.000")
    for view in ("clip", "again"):  # a finished run, and a new store
        status, _, message = run(second, "--view", view)
        assert status == 2 and message.count("\n") == 1, message
        assert (
            f"'clip_0_2.000' was made from another file: {first}" in message
            and f"{second} (" in message
        )
        assert "--id-from path" in message and "--replace" in message
    assert Store.open(videos / "features").views("clips") == ["clip"]
    assert known(videos, "clip_0_2.000")["video"] == str(first)
    np.testing.assert_array_equal(tokens(videos, "clip_0_2.000"), before)

    status, summary, _ = run(first, second, "--id-from", "path")
    assert status == 0 and summary["done"] == 2
    both = tokens(videos, f"{first}_0_2.000", f"{second}_0_2.000")
    np.testing.assert_array_equal(both[:1], before)
    assert (both[0] != both[1]).any()


@pytest.mark.full
def test_a_manifest_whose_video_is_another_file_now_is_refused(videos: Path, run: Run) -> None:
    path = manifest(videos / "clips.csv", ("one", "a/clip.mp4", 0, 1), ("two", "a/clip.mp4", 1, 2))
    assert run("--manifest", path)[0] == 0
    before = tokens(videos, "one", "two")
    manifest(path, ("one", "a/clip.mp4", 0, 1), ("two", "b/clip.mp4", 1, 2))
    status, _, message = run("--manifest", path)
    assert (
        status == 2
        and "clip 'two' was made from another file: a/clip.mp4" in message
        and "b/clip.mp4 (" in message
    )
    manifest(path, ("one", "a/clip.mp4", 0, 1), ("two", "a/clip.mp4", 1, 2))
    (videos / "a" / "clip.mp4").write_bytes((videos / "b" / "clip.mp4").read_bytes())
    status, _, message = run("--manifest", path)
    assert (
        status == 2
        and "clip 'one' was made from another file" in message
        and "(and 1 more clips differ)" in message
    )
    np.testing.assert_array_equal(tokens(videos, "one", "two"), before)


@pytest.mark.full
def test_the_same_content_at_another_path_is_accepted(videos: Path, run: Run) -> None:
    assert run(videos / "a" / "clip.mp4")[0] == 0
    (videos / "b" / "clip.mp4").write_bytes((videos / "a" / "clip.mp4").read_bytes())
    status, summary, message = run(videos / "b" / "clip.mp4")
    assert status == 0 and summary["already"] == 1 and "metadata of 1 clips" in message
    assert known(videos, "clip_0_2.000")["video"] == str(videos / "b" / "clip.mp4")


@pytest.mark.full
def test_replace_makes_rows_absent_in_every_view_and_recomputes_them(
    videos: Path, run: Run
) -> None:
    path = manifest(videos / "clips.csv", ("one", "a/clip.mp4", 0, 1), ("two", "a/clip.mp4", 1, 2))
    other = ("three", "kept.mp4", 0, 1)
    (videos / "kept.mp4").write_bytes((videos / "a" / "clip.mp4").read_bytes())
    for view in ("clip", "second"):
        assert run("--manifest", path, "--view", view)[0] == 0
    assert run("--manifest", manifest(videos / "more.csv", other))[0] == 0
    before = tokens(videos, "one", "three")
    captions = videos / "features" / "annotations" / "captions" / "0123"
    captions.mkdir(parents=True)
    for n, keys in enumerate((["one", "three"], ["1 three two", "1 three three"])):
        (captions / f"{n:06d}.parquet").write_bytes(table.encode(pl.DataFrame({"key": keys})))
    (videos / "features" / "indexes" / "clips").mkdir(parents=True)
    (videos / "features" / "indexes" / "clips" / "second.json").write_text("{}")

    (videos / "a" / "clip.mp4").write_bytes((videos / "b" / "clip.mp4").read_bytes())
    requested = manifest(videos / "one.csv", ("one", "a/clip.mp4", 0, 1))
    status, summary, message = run("--manifest", requested, "--replace")
    assert (status, summary["done"]) == (0, 1), message
    assert (
        "1 clips are replaced; rows that are absent now: 1 of view clip, 1 of view second"
        in message
    )
    assert "1 answers about replaced clips in annotations/captions/0123" in message
    assert "the index of view second" in message and "the index of view clip" not in message
    assert "1 more clips of the replaced files are not in this manifest" in message
    assert view_of(videos, "second").status().tolist() == [0, 1, 0]
    assert view_of(videos).status().tolist() == [1, 1, 1]
    after = tokens(videos, "one", "three")
    assert (after[0] != before[0]).any()
    np.testing.assert_array_equal(after[1], before[1])
    expected = run(videos / "b" / "clip.mp4", "--view", "whole")[0]
    for made_by_hand in ("annotations", "indexes"):  # without damage that `store verify` finds
        shutil.rmtree(videos / "features" / made_by_hand)
    assert expected == 0 and verify(Store.open(videos / "features")) == []
    status, _, message = run("--manifest", requested, "--replace")
    assert status == 0 and "replaced" not in message


@pytest.mark.full
def test_a_changed_interval_is_refused_and_can_be_replaced(videos: Path, run: Run) -> None:
    path = manifest(videos / "clips.csv", ("one", "a/clip.mp4", 0, 1), ("two", "a/clip.mp4", 1, 2))
    assert run("--manifest", path)[0] == 0
    manifest(path, ("one", "a/clip.mp4", 1, 2))
    status, _, message = run("--manifest", path)
    assert (
        status == 2
        and "is 0 to 1 s in the store and 1 to 2 s now" in message
        and "--replace" in message
    )
    status, _, message = run("--manifest", path, "--replace")
    assert status == 0, message
    np.testing.assert_array_equal(*np.split(tokens(videos, "one", "two"), 2))
    assert (known(videos, "one")["start"], known(videos, "one")["end"]) == (1.0, 2.0)


@pytest.mark.full
def test_rows_that_cannot_be_computed_are_not_replaced(videos: Path, run: Run) -> None:
    path = manifest(videos / "clips.csv", ("one", "a/clip.mp4", 0, 1), ("two", "b/clip.mp4", 0, 1))
    assert run("--manifest", path)[0] == 0
    before = tokens(videos, "one", "two")
    (videos / "a" / "clip.mp4").write_text("no video")
    status, _, message = run("--manifest", path, "--replace")
    assert status == 2 and "clip 'one' cannot be replaced, its features are kept" in message
    np.testing.assert_array_equal(tokens(videos, "one", "two"), before)


@pytest.mark.full
def test_a_failed_clip_is_retried_with_the_manifests_new_interval_or_file(
    videos: Path, run: Run
) -> None:
    (videos / "cut.mp4").write_bytes((videos / "a" / "clip.mp4").read_bytes()[:3000])
    rows = [("good", "a/clip.mp4", 0, 1), ("late", "a/clip.mp4", 7, 8), ("cut", "cut.mp4", 0, 1)]
    path = manifest(videos / "clips.csv", *rows, ("backwards", "a/clip.mp4", 2, 1))
    status, summary, _ = run("--manifest", path)
    assert (status, summary["done"], summary["failed"]) == (1, 1, 3)
    assert run("--manifest", path)[1]["failed"] == 3
    manifest(
        path, rows[0], ("late", "a/clip.mp4", 1, 2), rows[2], ("backwards", "a/clip.mp4", 1, 2)
    )
    (videos / "cut.mp4").write_bytes((videos / "a" / "clip.mp4").read_bytes())
    status, summary, message = run("--manifest", path)
    assert (status, summary["done"], summary["failed"]) == (0, 3, 0), message
    assert "3 clips without features take their new file or interval" in message
    np.testing.assert_array_equal(tokens(videos, "late"), tokens(videos, "backwards"))
    assert (known(videos, "late")["start"], known(videos, "backwards")["start"]) == (1.0, 1.0)


CLIPS = 10
FAILED = 4


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, video: Writer, tiny_clip: Path, featurize: Run
) -> Path:
    """A folder with videos, a manifest of ten clips and a store with nine of them: c4 failed, c9 is
    absent."""
    folder = tmp_path_factory.mktemp("world")
    for name, options in (("good.mp4", {"g": 10}), ("other.mp4", {"codec": "mpeg4"})):
        shutil.copy(video(name, **options), folder / name)
    rows = [
        (f"c{n}", ("good.mp4", "other.mp4")[n % 2], n * 0.1, n * 0.1 + 0.9) for n in range(CLIPS)
    ]
    rows[FAILED] = (f"c{FAILED}", "gone.mp4", 0, 1)
    rows.sort(key=lambda row: row[1])  # rows are in video order
    write_clips(folder / "first.csv", rows[:-1])
    write_clips(folder / "clips.csv", rows)
    status, summary, message = featurize(
        *options_of(folder, "first.csv", tiny_clip), "--batch-size", 3
    )
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
def refill(tiny_clip: Path, featurize: Run) -> Run:
    """Return a function that repeats the command that filled a copy of `world`."""

    def run(
        folder: Path, *more: object, manifest: str = "first.csv"
    ) -> tuple[int, dict[str, object], str]:
        return featurize(*options_of(folder, manifest, tiny_clip)[:-2], *more)

    return run


def withdraw(path: object) -> int:
    """Run `store verify --withdraw`; return the exit status."""
    return store_main(["verify", str(path), "--withdraw"])


def view_in(folder: Path) -> View:
    return Store.open(folder / "store").view("clips", "clip")


def content(view: View) -> tuple[list[int], dict[str, bytes], list[str]]:
    """Return status, the stored bytes of all finished rows, and what failed."""
    ok = np.flatnonzero(view.status() == 1)
    stored = {name: view.read(name, ok, check="always").tobytes() for name in view.features}
    return view.status().tolist(), stored, view.failures()["key"].to_list()


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
    return set(range(CLIPS - 1))


def damage_status_and_record(view: View) -> set[int]:
    view.paths.status(0).write_bytes(bytes(view.rows_per_shard + 4)[:-1] + b"!")
    flip(view.paths.info(0), 40)
    return set(range(CLIPS - 1))


def damage_reasons(view: View) -> set[int]:
    flip(view.paths.failures(0), 30)
    return {FAILED_ROW}


DAMAGE = [
    damage_index,
    damage_checksums,
    lose_checksums,
    lose_shard_file,
    damage_status,
    damage_status_and_record,
    damage_reasons,
]
FAILED_ROW = 0  # of the clip of gone.mp4, the first video in the manifest


@pytest.mark.parametrize(
    "damage", [damage_rows, *(pytest.param(one, marks=pytest.mark.full) for one in DAMAGE)]
)
def test_damaged_rows_are_withdrawn_and_filled_again(
    copy: Path, refill: Run, damage: Callable[[View], set[int]]
) -> None:
    view = view_in(copy)
    before = content(view)
    assert before[0].count(1) == CLIPS - 2 and before[0].count(2) == 1 and before[0][-1] == 0
    catalog = [path.read_bytes() for path in view.catalog.parts()]
    rows = damage(view)
    assert withdraw(copy / "store") == 0
    assert [row for row, state in enumerate(view_in(copy).status()[:-1]) if not state] == sorted(
        rows
    )
    # last bits depend on the batch size, which a damaged record does not name
    size = ["--batch-size", 3] if damage is damage_status_and_record else []
    status, summary, message = refill(copy, *size)
    done = len(rows - {FAILED_ROW})
    assert (status, summary["done"], summary["failed"], summary["absent"]) == (1, done, 1, 0), (
        message
    )
    assert content(view_in(copy)) == before
    assert verify(Store.open(copy / "store")) == []
    assert [path.read_bytes() for path in view.catalog.parts()] == catalog
    assert refill(copy)[1]["done"] == 0


@pytest.mark.full
def test_new_rows_next_to_absent_ones_have_the_batches_of_the_run(copy: Path, refill: Run) -> None:
    expected = content(view_in(copy))[0]
    damage_rows(view_in(copy))
    assert withdraw(copy / "store") == 0 and refill(copy, manifest="clips.csv")[1]["done"] == 3
    view = view_in(copy)
    sizes = {
        row: write.info["batch_size"]
        for write in writes_of_shard(view.paths, 0, 2**20)
        for row in write.rows
    }
    new = view.catalog.rows(["c9"])[0]
    assert (sizes[2], sizes[5], sizes[new]) == (3, 3, 4) and view.status().tolist()[
        :new
    ] == expected[:new]


@pytest.mark.full
def test_absent_rows_that_cannot_be_computed_are_failed_or_refused(copy: Path, refill: Run) -> None:
    damage_rows(view_in(copy))
    (copy / "other.mp4").write_text("no video")
    assert withdraw(copy / "store") == 0
    status, _, message = refill(copy)
    assert status == 2 and "was made from another file" in message, (
        "other rows of that file are finished"
    )
    (copy / "other.mp4").unlink()
    status, summary, message = refill(copy)
    assert (status, summary["done"], summary["failed"]) == (1, 1, 2), message
    assert {"c1", "c4"} == {failure["key"] for failure in summary["failures"]}  # type: ignore[attr-defined]
    assert verify(Store.open(copy / "store")) == []


@pytest.mark.full
def test_snapshots_and_derived_views_after_damage(
    copy: Path, refill: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.open(copy / "store")
    make = RequantiseOptions(str(store.path), "clip", "small", "int8")
    requantise(make)
    before = [
        view.read("tokens", np.arange(1, 6))
        for view in map(lambda n: store.view("clips", n), ("clip", "small"))
    ]
    flip(store.view("clips", "small").paths.shard("tokens", 0, 3), 3)
    store.tag("then")
    path, at = row_bytes(view_in(copy), 2)
    with open(path, "r+b") as file:  # in place, under all names of the file
        file.seek(at)
        file.write(b"damaged")
    with pytest.raises(
        DamageError,
        match=f"run python -m store verify {store.path} --withdraw, then repeat the comm",
    ):
        view_in(copy).read("tokens", [2])
    assert withdraw(store.path) == 1
    assert (
        f"delete the snapshot with python -m store tag {store.path} then --delete"
        in capsys.readouterr().out
    )
    assert refill(copy)[1]["done"] == 1
    requantise(make)
    now = [
        view.read("tokens", np.arange(1, 6))
        for view in map(lambda n: store.view("clips", n), ("clip", "small"))
    ]
    for old, new in zip(before, now, strict=True):
        np.testing.assert_array_equal(old, new)
    then = Store.open(copy / "store", at="then").view("clips", "clip")
    np.testing.assert_array_equal(then.read("tokens", [1, 3]), before[0][[0, 2]])
    with pytest.raises(
        DamageError,
        match=f"or delete the snapshot with python -m store tag {store.path} then --del",
    ):
        then.read("tokens", [2])
    store_main(["tag", str(store.path), "then", "--delete"])
    assert verify(store) == []


@pytest.mark.full
def test_texts_in_an_object_store_are_filled_again_with_the_same_bits(
    bucket: str, tmp_path: Path, tiny_clip: Path, featurize: Run
) -> None:
    url, count = f"{bucket}/features", 300
    texts = [f"whisk {n} eggs" + " slowly" * (n % 3) for n in range(count)]
    pl.DataFrame({"text": texts}).write_csv(tmp_path / "texts.csv")
    options = [
        "--manifest",
        tmp_path / "texts.csv",
        "--store",
        url,
        "--encoder",
        "clip",
        "--weights",
        tiny_clip,
    ]
    assert featurize(*options, "--batch-size", 7)[0] == 0

    def stored() -> tuple[list[int], bytes]:
        view = Store.open(url).view("texts", "clip")
        return view.status().tolist(), view.read(
            "embedding", np.arange(count), check="always"
        ).tobytes()

    before, view = stored(), Store.open(url).view("texts", "clip")
    for row in (0, 8, 299):
        flip(view.paths.shard("embedding", 0, 2), row * view.stored["embedding"].row_bytes)
    assert withdraw(url) == 0
    status, summary, message = featurize(*options)
    assert (status, summary["done"]) == (0, 3), message
    assert stored() == before and verify(Store.open(url)) == []
    place(str(view.paths.checksum(0))).unlink()
    flip(view.paths.status(0), 3)
    assert withdraw(url) == 0
    status, summary, message = featurize(*options)
    assert (status, summary["done"]) == (0, count), message
    assert stored() == before and verify(Store.open(url)) == []


VIEWS = ("clip", "second")


def replace_changed(store: str, manifest: str) -> None:
    """Withdraw the rows of changed clips and update the catalog, as `featurize --replace` does."""
    opened = Store.open(store)
    with opened.lock():
        changes = compare(opened, read_manifest(Path(manifest)))
        changes.refuse(replace=True)
        changes.write(opened)


def fill(store: Store, value: float) -> None:
    """Write `value` as the features of all absent clips in each view."""
    for name in VIEWS:
        provenance = Provenance(name, "0", "l", "f", "c", {})
        view = store.create_view("clips", name, provenance, {"tokens": Feature((2,), "float32")}, 2)
        view.resize()
        for row in np.flatnonzero(view.status() == 0).tolist():
            view.write_shard(
                row // 2, np.array([row]), {"tokens": np.full((1, 2), value, np.float32)}, {}
            )


def states(path: Path, values: dict[object, float]) -> dict[str, list[int]]:
    """Return the status of each view and check that ok rows have the features of the catalog's
    file."""
    store = Store.open(path)
    assert verify(store) == []
    catalog = store.catalog("clips").frame()
    result = {}
    for name in VIEWS:
        view = store.view("clips", name)
        status = view.status()
        ok = np.flatnonzero(status == 1)
        expected = [values[digest] for digest in catalog["video_digest"].gather(ok)]
        assert view.read("tokens", ok)[:, 0].tolist() == expected, (
            "features of another video than the catalog's"
        )
        result[name] = status.tolist()
    return result


@pytest.fixture
def forks() -> Iterator[Forks]:
    process = Forks(__name__)
    yield process
    process.end()


@pytest.mark.full
def test_no_kill_leaves_old_features(tmp_path: Path, video: Writer, forks: Forks) -> None:
    old, new = video("good.mp4", g=10), video("other.mp4", codec="mpeg4")
    file = tmp_path / "clip.mp4"
    file.write_bytes(old.read_bytes())
    rows = [("one", str(file), 0, 1), ("two", str(file), 1, 2), ("three", str(old), 0, 1)]
    write_clips(tmp_path / "clips.csv", rows)
    requested = read_manifest(tmp_path / "clips.csv")
    store = Store.open(tmp_path / "store", create=True)
    with store.lock():
        compare(store, requested).write(store)
        fill(store, 1.0)
    file.write_bytes(new.read_bytes())
    rows[1] = ("two", str(file), 0.5, 2)
    write_clips(tmp_path / "clips.csv", rows)
    identities = identity(old), identity(new)
    assert identities[0] is not None and identities[1] is not None
    values: dict[object, float] = {identities[0].digest: 1.0, identities[1].digest: 2.0}
    absent = {name: [0, 0, 1] for name in VIEWS}

    seen = []
    for kill_at in range(1, 100):
        killed = tmp_path / f"killed{kill_at}"
        shutil.copytree(tmp_path / "store", killed)
        call = replace_changed, str(killed), str(tmp_path / "clips.csv")
        ended = forks.run(*call, kill_at=kill_at, operations=("replace", "link"))
        seen.append(states(killed, values))
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        assert forks.run(*call) == 0
        assert states(killed, values) == absent
        with Store.open(killed).lock():
            fill(Store.open(killed), 2.0)
        assert states(killed, values) == {name: [1, 1, 1] for name in VIEWS}
        catalog = Store.open(killed).catalog("clips").frame()
        assert catalog["start"].to_list() == [0.0, 0.5, 0.0]
    assert ended == 0 and kill_at > 4, "fewer writes than views and parts of the catalog"
    assert seen[0] == {name: [1, 1, 1] for name in VIEWS} and seen[-1] == absent
    assert {"clip": [0, 0, 1], "second": [1, 1, 1]} in seen
