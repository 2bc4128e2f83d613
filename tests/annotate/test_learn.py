"""A head of words from a folder of videos and what is said in them."""

import json
from pathlib import Path

import pytest

from stepdiff.annotate.learning import __main__ as learn
from stepdiff.annotate.learning.__main__ import held_out, spoken_clips
from stepdiff.annotate.learning.understanding import wilson
from stepdiff.annotate.sources.narration import SpeechPiece
from stepdiff.comparison import __main__ as compare
from stepdiff.kitchen import __main__ as kitchen
from tests.conftest import fetched
from tests.refusals import refuses


def test_clips_end_at_a_pause_or_when_they_are_long_enough() -> None:
    pieces = [
        SpeechPiece(0.0, 1.0, "a"),
        SpeechPiece(1.2, 4.0, "b"),
        SpeechPiece(6.0, 6.5, "c"),  # after a pause; shorter than a clip
        SpeechPiece(9.0, 14.0, "d"),
        SpeechPiece(14.0, 18.0, "e"),
        SpeechPiece(18.0, 60.0, "f"),  # longer than a clip
    ]
    clips = spoken_clips("v", pieces)
    assert [clip[1:] for clip in clips] == [
        (0.0, 4.0, "a b"),
        (6.0, 8.0, "c"),
        (9.0, 18.0, "d e"),
        (18.0, 48.0, "f"),
    ]
    assert clips[0].key == "v_0.00_4.00"


def test_one_video_in_five_is_held_out() -> None:
    names = [f"v{number}" for number in range(20)]
    assert len(held_out(names)) == 4 and held_out(names) < set(names)
    assert len(held_out(names[:3])) == 1


def test_intervals_are_those_of_wilson() -> None:
    scipy = pytest.importorskip("scipy.stats")
    for right, count in ((0, 5), (3, 7), (40, 40)):
        interval = scipy.binomtest(right, count).proportion_ci(method="wilson")
        assert wilson(right / count, count) == pytest.approx(tuple(interval), abs=2e-4)
    assert wilson(0.0, 0) == (0.0, 1.0)


@pytest.mark.full
def test_a_folder_of_spoken_videos_becomes_a_head_that_compares_two_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("whisper-base", "efficientnet-lite0"):
        fetched(name)
    world, out = tmp_path / "world", tmp_path / "mine"
    kitchen.main(f"--out {world} --videos 30 --steps 3 --fps 4".split())
    videos = sorted((world / "videos").glob("*.mp4"))
    for uid, speech in json.loads((world / "narration.json").read_text()).items():
        cues = zip(speech["start"], speech["end"], speech["text"], strict=True)
        lines = [
            f"{number}\n00:00:{start:06.3f} --> 00:00:{end:06.3f}\n{text}\n".replace(".", ",")
            for number, (start, end, text) in enumerate(cues, 1)
        ]
        (world / "videos" / f"{uid}.srt").write_text("\n".join(lines))
    (world / "videos/broken.mp4").write_bytes(b"no video")
    arguments = [str(world / "videos"), "--out", str(out), "--json"]
    capsys.readouterr()
    assert learn.main(arguments) == 1
    first = json.loads(capsys.readouterr().out)
    assert [each["video"] for each in first["failures"]] == ["broken"]
    assert first["terms"] >= 5 and len(first["held_out"]) == 6 and first["compared"] >= 8
    assert first["right"] > 0.5 and first["interval"][0] < first["right"] < first["interval"][1]
    page = (out / "learned.html").read_text()
    assert page.count("<figure><img src='data:image/jpeg") == 20
    assert learn.main(arguments) == 1  # nothing is computed again
    output = capsys.readouterr()
    assert {**json.loads(output.out), "seconds": 0} == {**first, "seconds": 0}
    assert f"nothing to do: {first['clips']} clips" in output.err
    two = [str(path) for path in videos[:2]]
    html = tmp_path / "two.html"
    assert compare.main([*two, "--model", str(out), "--json", "--html", str(html)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["differences"] == [] and html.stat().st_size > 10_000
    few = [str(path) for path in videos[:2]]
    refuses(learn.main, [*few, "--out", str(tmp_path / "few")], capsys, "2 of 2", "give 3 or more")
