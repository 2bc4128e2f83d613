"""Speech of videos: a Whisper model hears what the sample world says, subtitles are read, and what
has no speech fails alone."""

import json
import re
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from featurize.video.cut import cut
from stepdiff.annotate import transcribe
from stepdiff.annotate.sources import speech
from stepdiff.annotate.sources.speech import RATE, Subtitles, read_subtitles, sounds
from stepdiff.kitchen import __main__ as kitchen
from stepdiff.kitchen.drawing import voice
from stepdiff_core.errors import StepDiffError
from tests.conftest import fetched
from tests.refusals import refuses

SRT = "1\n00:00:01,000 --> 00:00:02,500\nadd the <i>flour</i>\n\n2\n00:00:03,000 --> 00:00:04,000\n"
VTT = """WEBVTT

00:00:00.000 --> 00:00:02.000
so now we

00:00:02.000 --> 00:00:02.010
so now we

00:00:02.010 --> 00:00:04.000
so now we
add<00:00:02.500><c> the</c><00:00:03.000><c> flour &amp; salt</c>

00:00:09.000 --> 00:00:10.000
so now we
"""


def record(*arguments: str, capsys: pytest.CaptureFixture[str], status: int = 0) -> dict[str, Any]:
    assert transcribe.main([*arguments, "--json"]) == status
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def video(path: Path, samples: np.ndarray | None, shift: float = 0.0) -> Path:
    """Write a video of one second of black, with a sound track that begins `shift` seconds late."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        if samples is not None:
            track = container.add_stream("aac", rate=voice.RATE, layout="mono")
            for frame in voice.frames(samples.astype(np.float32)):
                frame.pts += round(shift * voice.RATE)
                container.mux(track.encode(frame))
            container.mux(track.encode(None))
        for _ in range(4):
            picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def tone(seconds: float) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * voice.RATE)) / voice.RATE)


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z' ]", " ", text.lower()).split()


def edits(one: list[str], two: list[str]) -> int:
    """Levenshtein distance, row by row."""
    row = list(range(len(two) + 1))
    for i, word in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(two, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    out = tmp_path_factory.mktemp("world")
    options = f"--out {out} --videos 2 --seconds 28 --fps 4 --speech --noise 20"
    assert kitchen.main(options.split()) == 0
    return out


@pytest.mark.full
def test_whisper_hears_what_the_sample_world_says(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched("whisper-base")
    truth = json.loads((world / "narration.json").read_text())
    first, second = sorted((world / "videos").glob("*.mp4"))
    out = tmp_path / "narration.json"
    capsys.readouterr()
    one = record(str(first), "--out", str(out), capsys=capsys)
    assert (one["with_speech"], one["already"], one["languages"]) == (1, 0, {"en": 1})
    begun = out.read_bytes()
    both = record(str(world / "videos"), "--out", str(out), capsys=capsys)
    assert (both["with_speech"], both["already"]) == (2, 1)
    assert out.read_bytes().startswith(begun.removesuffix(b"\n}\n"))
    result = json.loads(out.read_text())
    errors = count = 0
    for uid, pieces in truth.items():
        said = words(" ".join(pieces["text"]))
        errors += edits(said, words(" ".join(result[uid]["text"])))
        count += len(said)
    assert errors / count < 0.25  # measured: 0.15
    for uid, pieces in truth.items():  # a rare word is heard where it is spoken, or later
        spoken = {
            word: (start, end)
            for start, end, text in zip(*(pieces[k] for k in ("start", "end", "text")), strict=True)
            for word in words(text)
            if words(" ".join(pieces["text"])).count(word) == 1
        }
        places = [
            (word, start)
            for sentence in result[uid]["words"]
            for start, _, text in sentence
            for word in words(text)
            if word in spoken
        ]
        inside = [spoken[w][0] - 0.5 <= start <= spoken[w][1] + 3 for w, start in places]
        assert len(inside) > 20 and np.mean(inside) > 0.9


@pytest.mark.full
@pytest.mark.slow
def test_two_workers_on_ray_write_what_one_does(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched("whisper-base")
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for workers, out in enumerate(files, 1):
        record(
            str(world / "videos"), "--out", str(out), "--workers", str(workers), capsys=capsys
        )
    one, two = (json.loads(path.read_text()) for path in files)
    assert one.keys() == two.keys()
    for uid in one:  # sums of several threads differ in their last bits, which may change a word
        assert edits(words(" ".join(one[uid]["text"])), words(" ".join(two[uid]["text"]))) <= 5


def test_what_has_no_speech_fails_alone_and_is_tried_again_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched("whisper-base")
    folder, out = tmp_path / "videos", tmp_path / "n.json"
    folder.mkdir()
    video(folder / "silent.mp4", None)
    video(folder / "tone.mp4", tone(3))
    video(folder / "titled.mp4", None)
    (folder / "titled.en.srt").write_text(SRT)
    (folder / "broken.mp4").write_bytes(b"no video")
    result = record(str(folder), "--out", str(out), capsys=capsys, status=1)
    reasons = {each["video"]: each["reason"] for each in result["failures"]}
    assert "no sound track" in reasons["silent"] and "no speech is heard" in reasons["tone"]
    assert "cannot be decoded" in reasons["broken"] and len(reasons) == result["failed"] == 3
    assert list(json.loads(out.read_text())) == ["titled"] and result["with_subtitles"] == 1
    assert record(str(folder), "--out", str(out), capsys=capsys, status=1)["already"] == 4
    (folder / "silent.srt").write_text(SRT)  # another source: made again without being asked
    again = record(str(folder), "--out", str(out), capsys=capsys, status=1)
    assert (again["already"], again["with_speech"]) == (3, 2)
    tried = record(str(folder), "--out", str(out), "--retry-failed", capsys=capsys, status=1)
    assert (tried["already"], tried["failed"]) == (2, 2)
    assert record(str(folder), "--out", str(out), "--allow-failed", capsys=capsys)["failed"] == 2
    unread = record(str(folder), "--out", str(out), "--no-subtitles", capsys=capsys, status=1)
    assert unread["failed"] == 4 and json.loads(out.read_text()) == {}


def test_unusable_input_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched("whisper-base")
    one, out = video(tmp_path / "a.mp4", None), ["--out", str(tmp_path / "n.json")]
    other = tmp_path / "b"
    other.mkdir()
    video(other / "a.mkv", None)
    main = transcribe.main
    refuses(main, [str(tmp_path / "none.mp4"), *out], capsys, "no video", "correct its path")
    refuses(main, [str(one), str(other), *out], capsys, "same stem", "rename one")
    refuses(main, [str(one), *out, "--language", "klingon"], capsys, "'klingon'", "as en, de or zh")
    refuses(main, [str(one), *out, "--model", "nobody"], capsys, "no weights at 'nobody'")
    refuses(main, [str(one), "--out", str(one)], capsys, "would overwrite it")


def test_a_folder_that_is_no_whisper_model_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video(tmp_path / "a.mp4", tone(1))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    folder, out = str(tmp_path / "model"), str(tmp_path / "n.json")
    result = record(
        str(tmp_path / "a.mp4"), "--out", out, "--model", folder, capsys=capsys, status=1
    )
    assert result["absent"] == 1 and "no Whisper model in CTranslate2" in result["errors"][0]


def test_subtitles_are_read_without_tags_and_repeated_lines(tmp_path: Path) -> None:
    srt, vtt = tmp_path / "a.srt", tmp_path / "a.de-CH.vtt"
    srt.write_text(SRT)
    vtt.write_text(VTT)
    assert [s[:3] for s in read_subtitles(srt).sentences] == [(1.0, 2.5, "add the flour")]
    result = read_subtitles(vtt)
    assert result.language == "de"
    assert [s[:3] for s in result.sentences] == [
        (0.0, 2.0, "so now we"),
        (2.01, 4.0, "add the flour & salt"),
        (9.0, 10.0, "so now we"),
    ]
    for text, reason in (("", "no cue"), (SRT[:2], "no cue"), ("\0" * 99, "no cue")):
        srt.write_text(text)
        with pytest.raises(StepDiffError, match=reason):
            read_subtitles(srt)


def test_the_subtitles_of_a_video_are_those_of_its_name_and_language(tmp_path: Path) -> None:
    a = tmp_path / "a.mp4"
    names = ("a.b.srt", "ab.srt", "a.txt", "a.long.words.srt")
    for name in names:
        (tmp_path / name).touch()
    assert Subtitles().of(a, None) is None
    for name in ("a.de.vtt", "a.en-US.srt"):
        (tmp_path / name).touch()
    assert Subtitles().of(a, None) == tmp_path / "a.de.vtt"
    assert Subtitles().of(a, "fr") is None and Subtitles().of(a, "de") == tmp_path / "a.de.vtt"
    (tmp_path / "a.srt").touch()
    assert Subtitles().of(a, "fr") == tmp_path / "a.srt"


def test_sound_comes_in_blocks_that_are_cut_where_it_is_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = tone(20)
    samples[int(7.5 * voice.RATE) : int(8.0 * voice.RATE)] = 0
    path = video(tmp_path / "a.mp4", samples)
    (whole,) = sounds(path)
    assert len(whole.samples) == pytest.approx(20 * RATE, abs=0.2 * RATE)
    monkeypatch.setattr(speech, "BLOCK", 10.0)
    monkeypatch.setattr(speech, "_SEARCH", 5.0)
    blocks = list(sounds(path))
    assert np.array_equal(np.concatenate([block.samples for block in blocks]), whole.samples)
    assert 7.5 <= blocks[1].start <= 8.0 and all(len(b.samples) <= 10.2 * RATE for b in blocks)
    ends = [block.start + len(block.samples) / RATE for block in blocks]
    assert [block.start for block in blocks[1:]] == pytest.approx(ends[:-1])


def test_sound_that_begins_late_or_has_a_gap_keeps_its_time(tmp_path: Path) -> None:
    (late,) = sounds(video(tmp_path / "late.mkv", tone(2), shift=3.0))
    assert late.start == pytest.approx(3.0, abs=0.1)
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as container:
        track = container.add_stream("pcm_s16le", rate=voice.RATE, layout="mono")
        for at in (0.0, 30.0):
            data = np.full((1, voice.RATE), 1000, np.int16)
            frame = av.AudioFrame.from_ndarray(data, format="s16", layout="mono")
            frame.sample_rate, frame.time_base = voice.RATE, Fraction(1, voice.RATE)
            frame.pts = round(at * voice.RATE)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    assert [block.start for block in sounds(path)] == pytest.approx([0.0, 30.0], abs=0.1)


def test_a_video_whose_sound_comes_first_is_cut(tmp_path: Path) -> None:
    out = tmp_path / "cut.mp4"
    cut(video(tmp_path / "a.mp4", tone(1)), 0.0, 1.0, out)
    with av.open(str(out)) as container:
        assert len(list(container.decode(video=0))) == 4
    with av.open(str(out)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) > 0.9 * voice.RATE


def test_the_sample_world_says_what_a_sound_track_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--out", str(tmp_path / "w"), "--videos", "1"]
    refuses(kitchen.main, [*out, "--noise", "9"], capsys, "give --speech too")
    refuses(kitchen.main, [*out, "--speech"], capsys, "--seconds 3.5", "give 20 or more")
    monkeypatch.setenv("PATH", "")
    refuses(kitchen.main, [*out, "--speech", "--seconds", "20"], capsys, "install it")
