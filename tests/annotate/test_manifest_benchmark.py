"""Guarantees of annotate/sources/benchmarks.py: manifests of benchmarks, by python -m annotate.manifest --benchmark."""

import json
from pathlib import Path

import polars as pl
import pytest

from annotate import manifest
from annotate.sources.benchmarks import on_disk
from featurize.manifest import read_manifest
from tasks.spec import ClipFile
from tests.annotate.test_audit import write_video
from tests.tasks.viddiff_files import benchmark


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """CrossVid's CC with a question about three videos: of two seconds, missing, and damaged."""
    made = tmp_path / "crossvid"
    (made / "QA").mkdir(parents=True)
    question = {"id": 0, "videos": ["a/whole.mp4", "missing.mp4", "damaged.mp4"], "question": "Which?", "answer": "B"}
    (made / "QA/CC.json").write_text(json.dumps([question | {"options": ["A. One.", "B. Two."]}]))
    return made


def place(folder: Path, name: str) -> Path:
    """Return where the manifest expects a video."""
    path = folder / "videos" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_missing_video_is_listed_and_its_clips_are_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(place(folder, "a/whole.mp4"), [(255, 0, 0), (0, 0, 255)])
    place(folder, "damaged.mp4").write_bytes(b"no video")
    out = folder / "cc.parquet"
    command = ["--benchmark", "crossvid-cc", "--data", str(folder), "--out", str(out)]
    assert manifest.main([*command, "--json"]) == 0
    of = json.loads(capsys.readouterr().out)["benchmark"]
    assert (of["clips"], of["videos"]) == (3, 3)
    assert [Path(video).name for video in of["missing"]] == ["missing.mp4"]
    assert [Path(video).name for video in of["unreadable"]] == ["damaged.mp4"]
    (row,) = pl.read_parquet(out).to_dicts()
    assert (row["clip"], row["start"], row["end"], row["split"]) == ("a/whole", 0.0, 2.0, "test")
    asked = read_manifest(out)
    assert asked.paths[row["video"]].samefile(place(folder, "a/whole.mp4")) and not asked.failures
    assert manifest.main(command) == 0
    printed = capsys.readouterr().out
    assert "crossvid-cc: 1 of 3 videos (33.3%) are on disk" in printed
    assert "missing: 1 videos, e.g. videos/missing.mp4" in printed


def test_a_clip_without_an_end_has_that_of_its_file(folder: Path) -> None:
    write_video(place(folder, "a/whole.mp4"), [(255, 0, 0), (0, 0, 255), (0, 255, 0)])
    clips = [ClipFile("whole", "a/whole.mp4"), ClipFile("part", "a/whole.mp4", 0.5, 1.5)]
    found = on_disk(clips, "videos/{video}", folder)
    assert found.frame.select("clip", "start", "end").rows() == [("whole", 0.0, 3.0), ("part", 0.5, 1.5)]


def test_a_file_that_does_not_open_is_listed_with_the_reason(folder: Path) -> None:
    write_video(place(folder, "a/whole.mp4"), [(255, 0, 0)])
    place(folder, "damaged.mp4").write_bytes(b"no video")
    found = on_disk([ClipFile(name, f"{name}.mp4") for name in ("a/whole", "damaged")], "videos/{video}", folder)
    assert found.frame["clip"].to_list() == ["a/whole"] and not found.missing
    assert list(found.unreadable) == ["damaged.mp4"] and "is not a video" in found.unreadable["damaged.mp4"]


def test_without_any_video_nothing_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "cc.parquet"
    assert manifest.main(["--benchmark", "crossvid-cc", "--data", str(folder), "--out", str(out)]) == 2
    assert "none of the 3 videos of CrossVid CC" in capsys.readouterr().err
    assert not out.exists()


def test_no_published_file_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = benchmark(tmp_path / "viddiff")
    (published,) = data.iterdir()
    before, given = published.read_bytes(), ["--benchmark", "viddiff-closed", "--data", str(data), "--texts"]
    assert manifest.main([*given, "--out", str(published)]) == 2
    assert "would overwrite a file of --data; name another --out" in capsys.readouterr().err
    assert published.read_bytes() == before
    for _ in range(2):
        assert manifest.main([*given, "--out", str(data / "texts.parquet")]) == 0


def test_the_texts_of_a_benchmark_are_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = benchmark(tmp_path / "viddiff"), tmp_path / "texts.parquet"
    assert manifest.main(["--benchmark", "viddiff-closed", "--data", str(data), "--texts", "--out", str(out)]) == 0
    asked = read_manifest(out)
    assert asked.entity == "texts" and "statement 0 of 0" in asked.rows["text"].to_list()
    assert f"{out}: {asked.rows.height} texts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--benchmark", "crossvid-cc"], "--benchmark crossvid-cc needs --data"),
        (["--benchmark", "crossvid"], "no such benchmark; known: "),
        (["--data", "x"], "--data is the folder of a --benchmark"),
        (["--benchmark", "crossvid-cc", "--data", "x", "--taxonomy", "t.csv"], "leave out --taxonomy"),
        (["--benchmark", "crossvid-cc", "--data", "x", "--texts"], "x/QA/CC.json: no such file"),
    ],
)
def test_options_of_another_source_are_refused(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert manifest.main([*given, "--out", str(tmp_path / "m.parquet")]) == 2
    assert said in capsys.readouterr().err
