"""Commands that cannot compute anything are refused before Ray starts and before anything is written."""

import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from featurize.__main__ import main
from store import Store

Writer = Callable[..., Path]


@pytest.fixture
def bad(tmp_path: Path, audio: Path) -> Path:
    """A folder without videos."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.mp4").write_text("a recipe\n" * 100)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "sound.mp4").write_bytes(audio.read_bytes())
    return tmp_path


def manifest(path: Path, *rows: tuple[str, str, object, object]) -> Path:
    pl.DataFrame(rows, ["clip", "video", "start", "end"], orient="row", strict=False).write_csv(path)
    return path


def refused(capsys: pytest.CaptureFixture[str], store: Path, weights: Path, *arguments: object) -> str:
    """Run a command that is refused in one line without Ray; return the message."""
    loaded = set(sys.modules)
    given = [*arguments, "--store", store, "--encoder", "clip", "--weights", weights]
    assert main([str(one) for one in given]) in (1, 2)
    assert not any(name.startswith("ray.") for name in set(sys.modules) - loaded)
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1, message
    return message


def test_a_folder_a_missing_path_and_a_manifest_without_videos_are_refused_before_anything_is_written(
    bad: Path, video: Writer, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, good = bad / "features", video("good.mp4", g=10)
    rows = [("a", "gone.mp4", 0, 1), ("b", "text.mp4", 0, 1), ("c", "folder", 0, 1), ("d", "empty.mp4", 0, 1)]
    intervals = [("a", str(good), 2, 1), ("b", str(good), "0:01", "0:02")]
    cases: dict[str, list[object]] = {
        "folder is a folder: give the video files in it": [good, bad / "folder"],
        "no video": [good, bad / "absent.mp4"],
        "text.mp4 is not a video": [bad / "text.mp4"],
        "none of 3 clips can be computed; the first: ": [bad / name for name in ("text.mp4", "empty.mp4", "sound.mp4")],
        "gone.mp4 does not exist": ["--manifest", manifest(bad / "gone.csv", *rows)],
        "is not after start 2": ["--manifest", manifest(bad / "intervals.csv", *intervals)],
    }
    for reason, arguments in cases.items():
        assert reason in refused(capsys, new, tiny_clip, *arguments)
        assert not new.exists()


def test_a_refused_command_does_not_change_the_store(
    bad: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.open(bad / "features", create=True)
    store.catalog("clips").append(pl.DataFrame({"key": ["a"], "video": ["a.mp4"], "start": [0.0], "end": [1.0]}))
    before = store.catalog("clips").frame()
    for rows in ([("a", "gone.mp4", 0, 2)], [("b", "gone.mp4", 0, 2), ("c", "text.mp4", 0, 1)]):
        refused(capsys, bad / "features", tiny_clip, "--manifest", manifest(bad / "clips.csv", *rows))
        assert store.catalog("clips").frame().equals(before) and store.views("clips") == []


def test_ids_from_paths_and_replace_are_refused_if_they_have_no_meaning(
    bad: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest(bad / "clips.csv", ("a", "a.mp4", 0, 1))
    message = refused(capsys, bad / "features", tiny_clip, "--manifest", path, "--id-from", "path")
    assert "--id-from is for video files" in message
    (bad / "texts.csv").write_text("text\nwhisk\n")
    message = refused(capsys, bad / "features", tiny_clip, "--manifest", bad / "texts.csv", "--replace")
    assert "--replace is for clips" in message
