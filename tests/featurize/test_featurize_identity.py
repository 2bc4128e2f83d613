"""A clip whose video file or interval changed: refused, replaced, or updated if it has no features."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from common.io import sealed as table
from common.io.files import write_bytes
from featurize.video.media_file import END_BYTES, identities, identity
from store import Store, View
from store.verbs.verify import verify

Writer = Callable[..., Path]
Run = Callable[..., tuple[int, dict[str, object], str]]


@pytest.fixture
def videos(tmp_path: Path, video: Writer) -> Path:
    """Two folders with different videos of the same name and length."""
    for folder, name, options in (("a", "good.mp4", {"g": 10}), ("b", "other.mp4", {"codec": "mpeg4"})):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "clip.mp4").write_bytes(video(name, **options).read_bytes())
    return tmp_path


@pytest.fixture
def run(tmp_path: Path, tiny_clip: Path, featurize: Run) -> Run:
    """Return a function that runs featurize with the tiny CLIP into one store."""

    def one(*arguments: object) -> tuple[int, dict[str, object], str]:
        return featurize(*arguments, "--store", tmp_path / "features", "--encoder", "clip", "--weights", tiny_clip)

    return one


def manifest(path: Path, *rows: tuple[str, str, float, float]) -> Path:
    pl.DataFrame(rows, ["clip", "video", "start", "end"], orient="row").write_csv(path)
    return path


def view_of(videos: Path, name: str = "clip") -> View:
    return Store.open(videos / "features").view("clips", name)


def tokens(videos: Path, *keys: str, view: str = "clip") -> np.ndarray:
    found = view_of(videos, view)
    return found.read("tokens", found.catalog.rows(list(keys)))


def known(videos: Path, key: str) -> dict[str, object]:
    return Store.open(videos / "features").catalog("clips").frame().filter(key=key).row(0, named=True)


def test_another_file_with_the_stem_and_length_of_a_stored_clip_is_refused_naming_both_files(
    videos: Path, run: Run
) -> None:
    first, second = videos / "a" / "clip.mp4", videos / "b" / "clip.mp4"
    assert run(first)[0] == 0
    before = tokens(videos, "clip_0_2.000")
    for view in ("clip", "again"):  # a finished run, and a new store
        status, _, message = run(second, "--view", view)
        assert status == 2 and message.count("\n") == 1, message
        assert f"'clip_0_2.000' was made from another file: {first}" in message and f"{second} (" in message
        assert "--id-from path" in message and "--replace" in message
    assert Store.open(videos / "features").views("clips") == ["clip"]
    assert known(videos, "clip_0_2.000")["video"] == str(first)
    np.testing.assert_array_equal(tokens(videos, "clip_0_2.000"), before)

    status, summary, _ = run(first, second, "--id-from", "path")
    assert status == 0 and summary["done"] == 2
    both = tokens(videos, f"{first}_0_2.000", f"{second}_0_2.000")
    np.testing.assert_array_equal(both[:1], before)
    assert (both[0] != both[1]).any()


def test_a_manifest_whose_video_is_another_file_now_is_refused(videos: Path, run: Run) -> None:
    path = manifest(videos / "clips.csv", ("one", "a/clip.mp4", 0, 1), ("two", "a/clip.mp4", 1, 2))
    assert run("--manifest", path)[0] == 0
    before = tokens(videos, "one", "two")
    manifest(path, ("one", "a/clip.mp4", 0, 1), ("two", "b/clip.mp4", 1, 2))
    status, _, message = run("--manifest", path)
    assert status == 2 and "clip 'two' was made from another file: a/clip.mp4" in message and "b/clip.mp4 (" in message
    manifest(path, ("one", "a/clip.mp4", 0, 1), ("two", "a/clip.mp4", 1, 2))
    (videos / "a" / "clip.mp4").write_bytes((videos / "b" / "clip.mp4").read_bytes())
    status, _, message = run("--manifest", path)
    assert status == 2 and "clip 'one' was made from another file" in message and "(and 1 more clips differ)" in message
    np.testing.assert_array_equal(tokens(videos, "one", "two"), before)


def test_the_same_content_at_another_path_is_accepted(videos: Path, run: Run) -> None:
    assert run(videos / "a" / "clip.mp4")[0] == 0
    (videos / "b" / "clip.mp4").write_bytes((videos / "a" / "clip.mp4").read_bytes())
    status, summary, message = run(videos / "b" / "clip.mp4")
    assert status == 0 and summary["already"] == 1 and "metadata of 1 clips" in message
    assert known(videos, "clip_0_2.000")["video"] == str(videos / "b" / "clip.mp4")


def test_a_missing_file_of_finished_rows_is_no_error_and_not_reported_as_compared(videos: Path, run: Run) -> None:
    path = manifest(videos / "clips.csv", ("one", "a/clip.mp4", 0, 1))
    assert run("--manifest", path)[0] == 0
    manifest(path, ("one", "c/clip.mp4", 0, 1))
    status, _, message = run("--manifest", path)
    assert status == 0 and "1 clips keep their path in the catalog" in message
    assert known(videos, "one")["video"] == "a/clip.mp4"
    (videos / "b").rename(videos / "c")
    status, _, message = run("--manifest", path)
    assert status == 2 and "was made from another file" in message


def test_clips_of_an_older_store_are_recorded_without_being_compared(videos: Path, run: Run) -> None:
    path = manifest(videos / "clips.csv", ("one", "a/clip.mp4", 0, 1), ("two", "a/clip.mp4", 1, 2))
    assert run("--manifest", path)[0] == 0
    (part,) = Store.open(videos / "features").catalog("clips").parts()
    data = table.encode(table.read(part).drop("video_bytes", "video_digest"))
    write_bytes(part, data)
    assert "video_bytes" not in known(videos, "one")
    status, _, message = run("--manifest", path)
    assert status == 0 and message.count("2 clips had no record of their video file") == 1, message
    assert known(videos, "one")["video_bytes"] == (videos / "a" / "clip.mp4").stat().st_size
    assert "had no record" not in run("--manifest", path)[2]
    (videos / "a" / "clip.mp4").write_bytes((videos / "b" / "clip.mp4").read_bytes())
    assert run("--manifest", path)[0] == 2


def test_replace_makes_rows_absent_in_every_view_and_recomputes_them(videos: Path, run: Run) -> None:
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
    asked = manifest(videos / "one.csv", ("one", "a/clip.mp4", 0, 1))
    status, summary, message = run("--manifest", asked, "--replace")
    assert (status, summary["done"]) == (0, 1), message
    assert "1 clips are replaced; rows that are absent now: 1 of view clip, 1 of view second" in message
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
    status, _, message = run("--manifest", asked, "--replace")
    assert status == 0 and "replaced" not in message


def test_a_changed_interval_is_refused_and_can_be_replaced(videos: Path, run: Run) -> None:
    path = manifest(videos / "clips.csv", ("one", "a/clip.mp4", 0, 1), ("two", "a/clip.mp4", 1, 2))
    assert run("--manifest", path)[0] == 0
    manifest(path, ("one", "a/clip.mp4", 1, 2))
    status, _, message = run("--manifest", path)
    assert status == 2 and "is 0 to 1 s in the store and 1 to 2 s now" in message and "--replace" in message
    status, _, message = run("--manifest", path, "--replace")
    assert status == 0, message
    np.testing.assert_array_equal(*np.split(tokens(videos, "one", "two"), 2))
    assert (known(videos, "one")["start"], known(videos, "one")["end"]) == (1.0, 2.0)


def test_rows_that_cannot_be_computed_are_not_replaced(videos: Path, run: Run) -> None:
    path = manifest(videos / "clips.csv", ("one", "a/clip.mp4", 0, 1), ("two", "b/clip.mp4", 0, 1))
    assert run("--manifest", path)[0] == 0
    before = tokens(videos, "one", "two")
    (videos / "a" / "clip.mp4").write_text("no video")
    status, _, message = run("--manifest", path, "--replace")
    assert status == 2 and "clip 'one' cannot be replaced, its features are kept" in message
    np.testing.assert_array_equal(tokens(videos, "one", "two"), before)


def test_a_failed_clip_is_retried_with_the_manifests_new_interval_or_file(videos: Path, run: Run) -> None:
    (videos / "cut.mp4").write_bytes((videos / "a" / "clip.mp4").read_bytes()[:3000])
    rows = [("good", "a/clip.mp4", 0, 1), ("late", "a/clip.mp4", 7, 8), ("cut", "cut.mp4", 0, 1)]
    path = manifest(videos / "clips.csv", *rows, ("backwards", "a/clip.mp4", 2, 1))
    status, summary, _ = run("--manifest", path)
    assert (status, summary["done"], summary["failed"]) == (1, 1, 3)
    assert run("--manifest", path)[1]["failed"] == 3
    manifest(path, rows[0], ("late", "a/clip.mp4", 1, 2), rows[2], ("backwards", "a/clip.mp4", 1, 2))
    (videos / "cut.mp4").write_bytes((videos / "a" / "clip.mp4").read_bytes())
    status, summary, message = run("--manifest", path)
    assert (status, summary["done"], summary["failed"]) == (0, 3, 0), message
    assert "3 clips without features take their new file or interval" in message
    np.testing.assert_array_equal(tokens(videos, "late"), tokens(videos, "backwards"))
    assert (known(videos, "late")["start"], known(videos, "backwards")["start"]) == (1.0, 1.0)


def test_a_missing_file_among_good_ones_stays_a_recorded_failure(videos: Path, run: Run) -> None:
    path = manifest(videos / "clips.csv", ("one", "a/clip.mp4", 0, 1), ("gone", "gone.mp4", 0, 1))
    status, summary, _ = run("--manifest", path)
    assert (status, summary["done"], summary["failed"]) == (1, 1, 1)
    (failure,) = summary["failures"]  # type: ignore[misc]
    assert "gone.mp4 does not exist" in failure["reason"]


def test_a_file_is_read_once_and_one_that_cannot_be_read_has_no_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\1" * (3 * END_BYTES))
    os.mkfifo(tmp_path / "pipe.mp4")
    opened: list[object] = []
    real = io.FileIO

    def spy(file: object, *more: Any, **how: Any) -> object:
        opened.append(file)
        return real(file, *more, **how)  # type: ignore[call-overload]

    monkeypatch.setattr("featurize.video.media_file.io.FileIO", spy)
    names = {"a.mp4": path, "./a.mp4": path, "pipe": tmp_path / "pipe.mp4", "gone": tmp_path / "gone", "dir": tmp_path}
    found = identities(names)
    assert sorted(opened, key=str) == [tmp_path, path]
    assert found["a.mp4"] == found["./a.mp4"] and found["a.mp4"] is not None
    assert [found[name] for name in ("pipe", "gone", "dir")] == [None] * 3


@pytest.mark.parametrize("nbytes", [0, 1, END_BYTES, END_BYTES + 1, 2 * END_BYTES + 1, 4 * END_BYTES])
def test_both_ends_of_a_file_distinguish_it_from_another_of_the_same_size(tmp_path: Path, nbytes: int) -> None:
    path = tmp_path / "a.mp4"

    def of(data: bytes) -> object:
        path.write_bytes(data)
        return identity(path)

    data = bytes(nbytes)
    whole = of(data)
    for place in {0, nbytes // 8, nbytes - nbytes // 8 - 1, nbytes - 1} if nbytes else ():
        assert of(data[:place] + b"\1" + data[place + 1 :]) != whole, place
    assert of(data + b"\0") != whole
