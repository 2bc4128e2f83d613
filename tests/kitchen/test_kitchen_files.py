"""The files of a small world, made with the command line."""

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from PIL import Image

from kitchen.__main__ import main
from kitchen.attributes import Attributes
from kitchen.world import FPS, make_world

VIDEOS = 3
FILES = {
    "clips.csv", "images.csv", "texts.csv", "taxonomy.csv", "attributes.jsonl", "annotations.json",
    "video_splits.json", "narration.json", "pairqa_train.jsonl",
    "pairqa_supervised.jsonl", "world.json",
    *(f"diff{task}_{split}.jsonl" for task in ("cap", "rank") for split in ("val", "test")),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("kitchen") / "tiny"
    assert main(["--out", str(out), "--videos", str(VIDEOS), "--seconds", "2", "--processes", "1"]) == 0
    yield out


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_all_files_exist(made: Path) -> None:
    assert {p.name for p in made.iterdir() if p.is_file()} == FILES
    assert len(list((made / "videos").iterdir())) == VIDEOS
    assert {p.suffix for p in (made / "videos").iterdir()} == {".mp4"}


def test_clips_csv_agrees_with_the_videos(made: Path) -> None:
    clips = rows(made / "clips.csv")
    assert list(clips[0]) == ["clip", "video", "start", "end", "step", "activity", "split", "narration"]
    for clip in clips:
        uid, start, end = clip["clip"].rsplit("_", 2)
        assert (start, end) == (clip["start"], clip["end"])
        assert clip["video"] == f"videos/{uid}.mp4" and (made / clip["video"]).is_file()
        assert clip["split"] in ("train", "val", "test")
    with av.open(str(made / clips[0]["video"])) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.width >= 320 and stream.height >= 240
        times = [float(f.pts * f.time_base) for f in container.decode(stream) if f.pts is not None]
    planned = make_world(VIDEOS, 0, 2.0)[0]
    assert len(times) == round(planned.duration * FPS)
    first = planned.clips[0]
    inside = [t for t in times if first.start <= t < first.end]
    assert len(inside) == round((first.end - first.start) * FPS)


def test_ground_truth_is_read_back(made: Path) -> None:
    truths = [clip.truth for video in make_world(VIDEOS, 0, 2.0) for clip in video.clips]
    assert [Attributes.from_dict(row) for row in lines(made / "attributes.jsonl")] == truths


def test_stills_are_of_training_clips(made: Path) -> None:
    images = rows(made / "images.csv")
    assert list(images[0]) == ["clip", "video", "start", "end", "split", "caption"]
    trained = {c["video"] for c in rows(made / "clips.csv") if c["split"] == "train"}
    for row in images:
        name = Path(row["video"]).stem
        assert row["clip"] == f"{name}_0_1" and (row["start"], row["end"]) == ("0", "1")
        assert row["split"] == "train"
        assert f"videos/{name.rsplit('-', 1)[0]}.mp4" in trained
        with Image.open(made / row["video"]) as image:
            assert image.format == "JPEG" and image.size == (384, 288)


def test_htstep_files_agree_with_the_clips(made: Path) -> None:
    taxonomy = rows(made / "taxonomy.csv")
    assert list(taxonomy[0]) == [
        "global_step_index", "activity", "step_index", "variation", "variation_index", "headline",
        "paragraph",
    ]  # fmt: skip
    headlines = {int(r["global_step_index"]): (r["activity"], r["headline"]) for r in taxonomy}
    assert list(headlines) == list(range(len(taxonomy)))
    notes = json.loads((made / "annotations.json").read_text())
    splits = json.loads((made / "video_splits.json").read_text())
    assert set(splits) == {"train", "val_seen", "val_unseen", "test_seen", "test_unseen"}
    steps = {c["clip"]: c["step"] for c in rows(made / "clips.csv")}
    for uid, note in notes.items():
        assert uid in splits[note["subset"]]
        for one in note["annotations"]:
            start, end = one["segment"]
            activity, headline = headlines[one["id"]]
            assert activity == note["activity"]
            assert headline == f"{steps[f'{uid}_{start:.2f}_{end:.2f}'].capitalize()}."


def test_narration_has_the_format_of_raw_captions(made: Path) -> None:
    speech = json.loads((made / "narration.json").read_text())
    for clip in rows(made / "clips.csv"):
        spoken = speech[Path(clip["video"]).stem]
        heard = [
            text
            for start, end, text in zip(spoken["start"], spoken["end"], spoken["text"], strict=True)
            if start < float(clip["end"]) and end > float(clip["start"])
        ]
        assert clip["narration"] == " ".join(heard)


def test_texts_csv_contains_every_text_that_an_evaluation_embeds(made: Path) -> None:
    texts = [row["text"] for row in rows(made / "texts.csv")]
    assert len(texts) == len(set(texts)) and "" not in texts
    wanted = {clip["narration"] for clip in rows(made / "clips.csv")} - {""}
    for path in made.glob("diff*.jsonl"):
        for row in lines(path):
            wanted |= set(row.get("text", ())) | ({row["difference"]} if "difference" in row else set())
    assert set(texts) == wanted


def test_two_processes_write_the_same_bytes(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert main(["--out", str(out), "--videos", str(VIDEOS), "--seconds", "2", "--processes", "2"]) == 0
    assert digests(out) == digests(made)


def test_complete_videos_are_kept(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(made)
    victim, kept = sorted((made / "videos").iterdir())[:2]
    stamp = kept.stat().st_mtime_ns
    victim.unlink()
    assert main(["--out", str(made), "--videos", str(VIDEOS), "--seconds", "2", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["rendered"] == 1 and summary["videos"] == VIDEOS
    assert kept.stat().st_mtime_ns == stamp
    assert digests(made) == before


def test_another_world_in_the_same_folder_is_refused(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(made)
    assert main(["--out", str(made), "--videos", str(VIDEOS), "--seed", "7", "--seconds", "2"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert "seed 0 not 7" in message and str(made) in message
    assert digests(made) == before


def test_foreign_videos_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "mine.mp4").write_bytes(b"mine")
    assert main(["--out", str(tmp_path), "--videos", "1"]) == 2
    assert "no world.json" in capsys.readouterr().err
    (tmp_path / "videos" / "mine.mp4").rename(tmp_path / "clips.csv")  # a manifest of videos elsewhere
    assert main(["--out", str(tmp_path), "--videos", "1"]) == 2
    assert (tmp_path / "clips.csv").read_bytes() == b"mine" and "no world.json" in capsys.readouterr().err
    (tmp_path / "world.json").write_text("{")
    assert main(["--out", str(tmp_path), "--videos", "1"]) == 2
    assert "not readable as JSON" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--videos", "0"], ["--seconds", "1"], ["--processes", "-1"]])
def test_invalid_arguments_are_refused(wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "none"), *wrong]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "none").exists()
