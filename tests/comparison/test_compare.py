"""`stepdiff compare` on real small videos, with a small random video language model from pixels to
words."""

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stepdiff
from heads import ask
from heads.llm.model import CutOff
from heads.methods.stepdiff import StepDiff
from heads.models.public.cached import load_for_pairs, view_of
from stepdiff.comparison.__main__ import main
from stepdiff.comparison.clips import FileClip, notes, read_clip
from stepdiff.comparison.comparing import Comparison
from stepdiff.comparison.models import Difference
from stepdiff.comparison.report import write_report
from stepdiff_core.tasks.declining import verdict
from stepdiff_core.tasks.testsets import DiffCap
from store import Store
from tests.refusals import refuses

from ..featurize.conftest import write_audio, write_video
from ..heads.public.vlms import save

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 2 s at 20 frames/s, and a model."""
    folder = tmp_path_factory.mktemp("compare")
    for name, size in (("a", (96, 64)), ("b", (64, 64)), ("c", (64, 96))):
        write_video(folder / f"{name}.mp4", size=size)
    save("qwen3_vl", folder / "model")
    return folder


@pytest.fixture
def compare(folder: Path, capsys: Capture) -> Callable[..., Any]:
    """Return a function that runs the command and returns what it prints; JSON if it was asked
    for."""

    def run(*arguments: object) -> Any:
        flags = [
            "--model",
            str(folder / "model"),
            "--store",
            str(folder / "store"),
            "--max-tokens",
            "4",
        ]
        assert main([*flags, *map(str, arguments)]) == 0
        printed = capsys.readouterr().out
        return json.loads(printed) if "--json" in arguments else printed

    return run


def test_two_files_one_command(folder: Path, compare: Callable[..., Any], capsys: Capture) -> None:
    a, b = folder / "a.mp4", f"{folder / 'b.mp4'}@0.5-1.5"
    record = compare(a, b, "--ask", "What differs?", "--json")
    first, second = record["clips"]
    assert (first["start"], first["end"], second["start"], second["end"]) == (0.0, 2.0, 0.5, 1.5)
    assert [each["category"] for each in record["differences"]] == list(stepdiff_categories())
    # The same features and model by the commands that compare replaces: the same words.
    where = [
        "--store",
        str(folder / "store"),
        "--model",
        str(folder / "model"),
        "--max-tokens",
        "4",
        "--json",
    ]
    assert (
        ask.main(
            ["--reference", first["clip"], "--candidate", second["clip"], *where, "What differs?"]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["answer"] == record["answer"]
    assert [each["title"] for each in record["clips"]] == [
        "a.mp4, 0:00 to 0:02",
        "b.mp4, 0:00.5 to 0:01.5",
    ]
    printed = compare(a, b, "--ask", "What differs?")
    for each in record["differences"]:
        assert each["verdict"] == verdict(each["alike"]) and re.search(
            rf"{each['category']} +{each['verdict']}", printed
        )
    assert max(map(len, printed.splitlines())) <= 80, "wider than a terminal"
    assert printed.startswith(f"Q: What differs?\nA: {record['answer']}".rstrip())
    assert record["cut"] and "(cut off at the longest answer: raise --max-tokens)" in printed
    weights, store = str(folder / "model"), Store.open(folder / "store")
    method = StepDiff(*load_for_pairs(weights, store, view_of(weights, store), "cpu")[:2])
    captions = method.caption(
        [DiffCap(first["clip"], second["clip"], each, ()) for each in stepdiff_categories()]
    )
    doubts = [each["doubt"] for each in record["differences"]]
    assert [isinstance(text, CutOff) for text in captions] == [
        "cut off at the longest caption" in each for each in doubts
    ]
    assert any(isinstance(text, CutOff) for text in captions)
    assert "cut off at the longest caption" in " ".join(printed.split())
    comparison = stepdiff.compare(  # type: ignore[attr-defined]
        a, b, model=str(folder / "model"), store=folder / "store", ask="What differs?", max_tokens=4
    )
    assert comparison.answer == record["answer"] and comparison.moments == []
    assert comparison.alike == {each["category"]: each["alike"] for each in record["differences"]}


def stepdiff_categories() -> tuple[str, ...]:
    from stepdiff_core.tasks.testsets import CATEGORIES

    return CATEGORIES


def test_a_file_is_encoded_once_also_after_it_moved(
    folder: Path, compare: Callable[..., Any]
) -> None:
    a, c = folder / "a.mp4", folder / "c.mp4"
    before = compare(a, c, "--json")
    moved = shutil.copy(c, folder / "moved.mp4")
    commits = sorted(path.name for path in (folder / "store").rglob("*") if "commit" in str(path))
    after = compare(a, moved, "--json")
    assert after["differences"] == before["differences"]
    assert commits == sorted(
        path.name for path in (folder / "store").rglob("*") if "commit" in str(path)
    )


def test_a_report_is_one_file(folder: Path, compare: Callable[..., Any]) -> None:
    report = folder / "report.html"
    compare(folder / "a.mp4", folder / "b.mp4", "--ask", "<b>What?</b>", "--html", report)
    page = report.read_text(encoding="utf-8")
    assert page.count("data:video/mp4;base64,") == 2
    # frames on the screen, and one of each clip on paper
    assert page.count("data:image/jpeg;base64,") == 4
    assert "<code>a.mp4, 0:00 to 0:02</code>" in page
    assert "&lt;b&gt;What?&lt;/b&gt;" in page and "<b>What?" not in page
    assert not re.search(r"(src|href)=['\"](?!data:)|url\(|@import|https?://", page)
    assert "cut off at the longest answer" in page


def test_a_comparison_is_printed_also_where_its_page_cannot_be_written(
    folder: Path, compare: Callable[..., Any], capsys: Capture, tmp_path: Path
) -> None:
    videos, store = [str(folder / "a.mp4"), str(folder / "b.mp4")], f"memory://{uuid.uuid4().hex}"
    flags = [
        *videos,
        "--html",
        str(tmp_path),
        "--model",
        str(folder / "model"),
        "--store",
        store,
        "--json",
    ]
    assert main([*flags, "--max-tokens", "4"]) == 2
    printed = capsys.readouterr()
    assert f"cannot write {tmp_path}" in printed.err
    assert json.loads(printed.out)["differences"] == compare(*videos, "--json")["differences"]


def test_a_word_of_a_report_leads_to_its_moment_in_each_clip(folder: Path, tmp_path: Path) -> None:
    one, two = read_clip(folder / "a.mp4"), read_clip(f"{folder / 'b.mp4'}@0.5-1.5")
    words = Difference("Tools/Equipment", "In Video 2, a <Red  pan>.", -1.0, "")
    clearest = {"red pan": (0.5, 1.25), "fork": (None, 1.0)}
    answer = "A fork."
    comparison = Comparison(
        (one, two), "words", [words], [], 0.5, clearest, question="?", answer=answer
    )
    write_report(tmp_path / "report.html", comparison)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    title = "red pan: 0:00.5 in video 1, 0:01.2 in video 2"
    link = f"<a href='#' data-seconds='0.500 0.750' title='{title}'>Red  pan</a>"
    assert (
        f"<td>different</td><td>In Video 2, a &lt;{link}&gt;.</td>" in page
        and page.count("data-seconds='0") == 2
    )
    alone = "<a href='#' data-video='1' data-seconds='0.500' title='fork: 0:01 in video 2'>fork</a>"
    assert f"<p class='answer'>A {alone}.</p>" in page, "a clip without evidence is moved"


def test_which_is_most_like_the_first(folder: Path, compare: Callable[..., Any]) -> None:
    videos = [folder / f"{name}.mp4" for name in "aba"]
    record, printed = compare(*videos, "--rank", "--json"), compare(*videos, "--rank")
    assert record["cosines"][1] == 1.0 > record["cosines"][0] and record["overall"] == [3, 2]
    assert "Most like Video 1 by the features of the whole clips: Video 3\n" in printed
    for category, (one, two) in record["alike"].items():
        assert record["order"][category] == ([2, 3] if one >= two else [3, 2])
        first = "Video 2 and Video 3" if one == two else f"Video {record['order'][category][0]}"
        assert re.search(rf"{category} +{verdict(one)} +{verdict(two)} +{first} *\n", printed)


def test_unusable_input_is_one_line(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    a, b = folder / "a.mp4", folder / "b.mp4"
    sound, text = write_audio(tmp_path / "sound.m4a"), tmp_path / "text.mp4"
    text.write_text("no video " * 100)
    long = write_video(tmp_path / "long.mp4", frames=2, milliseconds=[0, 700_000])
    for flags, expected in (
        ([a], "give two videos"),
        ([a, b, a], "three with --rank"),
        ([a, b, "--rank"], "give 3 videos"),
        ([a, tmp_path / "gone.mp4"], "no video"),
        ([a, sound], "no pictures"),
        ([a, text], "not a video"),
        ([a, f"{b}@1-9"], "is outside it"),
        ([a, f"{b}@1.5-1"], "ends before it starts"),
        ([a, f"{b}@x-1"], "'x' is not a time"),
        ([a, b, a, "--rank", "--ask", "why?"], "leave --ask and --html out"),
        ([a, b, "--device", "tpu9"], "no such device"),
        ([long, b, "--html", tmp_path / "page.html"], "at most 600 s: give a part, FILE@START-END"),
        ([a, b, "--html", tmp_path / "gone" / "page.html"], "its folder does not exist"),
        ([a, b, "--ask", "why?", "--max-tokens", "0"], "--max-tokens 0 is too small"),
        ([a, b, "--store", text], "is a file"),
        ([a, b, "--store", "https://a/b"], "is not a place for a store"),
    ):
        where = ["--model", str(folder / "model"), "--store", str(folder / "store")]
        refuses(main, [*where, *map(str, flags)], capsys, expected)


@pytest.mark.parametrize("flags", [["a.mp4", "gone.mp4"], ["a.mp4", "a.mp4", "--model", "."]])
def test_what_is_not_there_is_refused_before_torch(folder: Path, flags: list[str]) -> None:
    code = (
        "import sys; from stepdiff.comparison.__main__ import main; print(main(), 'torch' in "
        "sys.modules)"
    )
    root = {"PYTHONPATH": str(Path(stepdiff.__path__[0]).parent)}
    refused = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=folder, env=os.environ | root, capture_output=True
    )
    assert refused.stdout == b"2 False\n" and refused.stderr.count(b"\n") == 1


def test_a_model_that_cannot_compare_is_one_line(
    folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blip2").mkdir()
    (tmp_path / "blip2/config.json").write_text('{"model_type": "blip-2"}')
    videos = [str(folder / "a.mp4"), str(folder / "b.mp4")]
    for flags, expected in (
        ([], "no model is named, and none is in runs/stepdiff or runs/words: make demo"),
        (["--model", "."], "holds no head, no head of words and no model"),
        (["--model", "blip2"], "reads one picture, not two videos"),
        (["--model", "word-evidence"], "runs/words holds no head, no head of words"),
        (["--model", "runs/stepdiff"], "runs/stepdiff holds no head"),
    ):
        refuses(main, [*videos, *flags], capsys, expected)


def test_notes_say_what_makes_a_comparison_doubtful(folder: Path) -> None:
    clip = read_clip(folder / "a.mp4")
    long = FileClip(clip.path, 0.0, 80.0, 5.0, clip.identity)
    assert notes([clip, clip], 8) == []
    lines = notes([clip, long], 8)
    assert [line.split(" ")[0] for line in lines] == ["Video", "Video", "the"]
    assert "lasts 2 s, Video 2 80 s" in lines[0] and "20 frames/s, Video 2 5 frames/s" in lines[1]
    assert "8 frames of Video 2, one every 10 s" in lines[2]


def test_a_file_whose_name_ends_like_a_span_is_that_file(folder: Path) -> None:
    named = shutil.copy(folder / "a.mp4", folder / "a.mp4@0-1")
    clip = read_clip(named)
    assert clip.path.name == "a.mp4@0-1" and clip.end == 2.0
    part = read_clip(f"{named}@0:00.5-0:01")
    assert (part.start, part.end) == (0.5, 1.0) and part.key.endswith("_0.500_1.000")
