"""The audit of PairQA: counts, leaks, contact sheets, and a page that hostile data cannot
change."""

import contextlib
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import numpy as np
import polars as pl
import pytest
from PIL import Image

from heads.data.hold_out import BY_ID, BY_OVERLAP, BY_VIDEO, HoldOut
from stepdiff import annotate
from stepdiff.annotate import audit
from stepdiff.annotate.__main__ import VERBS, main
from stepdiff.annotate.qa.auditing import FRAMES, SIDE, contact_sheets, figures, leaks, overlap
from stepdiff.annotate.qa.questions import Question, read_questions
from store import Store
from tests.refusals import refuses

RED, BLUE = (220, 30, 30), (30, 30, 220)
SIMILAR = "Do the two videos share a similar main action? Answer with a single word: YES or NO."
ROWS = [
    (
        "red_0_1",
        "blue_0_1",
        1,
        "How do the bowls differ <b>here</b>?",
        "In Video 1 it is red, in Video 2 it is blue.",
    ),
    ("red_0_1", "blue_0_1", 2, "Which video is red?", "Video 1"),
    ("red_0_1", "blue_0_1", 3, SIMILAR, "YES"),
    ("blue_0_1", "red_0_1", 2, "Which video is red?", "Video 2"),
    ("red_1_2", "gone_0_1", 2, "Which video is red & round?", "The first video"),
    ("red_1_2", "gone_0_1", 3, SIMILAR, "NO"),
    ("red_1_2", "gone_0_1", 1, "How so?", "In Video 2 it is darker."),
]


def write_video(path: Path, colours: list[tuple[int, int, int]]) -> None:
    """Write a second of each colour, with 8 frames each."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for colour in colours:
            for _ in range(8):
                picture = np.full((64, 96, 3), colour, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PairQA file, a store with its clips, and their videos, of which one is missing."""
    made = tmp_path_factory.mktemp("audit")
    (made / "videos").mkdir()
    write_video(made / "videos/red.mp4", [RED, BLUE])
    write_video(made / "videos/blue.mp4", [BLUE])
    clips = [
        ("red", 0, "train"),
        ("red", 1, "train"),
        ("blue", 0, "train"),
        ("gone", 0, "train"),
        ("late", 0, "val"),
    ]
    rows = [
        {
            "key": f"{v}_{s}_{s + 1}",
            "video": f"videos/{v}.mp4",
            "start": float(s),
            "end": s + 1.0,
            "split": split,
        }
        for v, s, split in clips
    ]
    Store.open(made / "features", create=True).catalog("clips").append(pl.DataFrame(rows))
    write_rows(made / "pairqa.jsonl", ROWS)
    return made


def write_rows(path: Path, rows: list[tuple[str, str, int, str, str]]) -> None:
    names = ("reference", "candidate", "type", "question", "answer")
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))


def audited(
    folder: Path, capsys: pytest.CaptureFixture[str], *more: str, status: int = 0
) -> dict[str, Any]:
    assert audit.main([str(folder / "pairqa.jsonl"), "--json", *more]) == status
    return json.loads(capsys.readouterr().out)


def test_figures_count_unordered_pairs_and_written_words(folder: Path) -> None:
    found = figures(read_questions(folder / "pairqa.jsonl"))
    counts = [found[name] for name in ("questions", "pairs", "in_both_orders", "clips")]
    assert counts == [7, 2, 1, 4] and found["types"] == {"1": 2, "2": 3, "3": 2}
    assert found["answers"] == {"Video 1": 2, "Video 2": 1, "YES": 1, "NO": 1, "other": 2}
    assert found["words"]["questions"]["counts"] == {"2": 1, "4": 2, "6": 2}
    assert found["words"]["answers"]["median"] == 3 and found["words"]["answers"]["most"] == 12
    assert found["n_grams"]["questions"]["3"][:2] == [("video is red", 3), ("which video is", 3)]
    assert found["n_grams"]["answers"]["2"][0] == ("video 2", 3)
    assert found["different"] == {"questions": 4, "answers": 5}
    only = figures([Question("a", "b", SIMILAR, "YES", 3)])
    assert only["words"]["questions"]["most"] == 0 and only["n_grams"]["answers"]["2"] == []


def test_the_overlap_counts_every_run_of_words_of_the_test_texts(tmp_path: Path) -> None:
    said = [("They use a whisk.", 1), ("Video 2", 2), ("They use less salt", 1)]
    rows = [Question("a", "b", "?", answer, kind) for answer, kind in said]
    cap = {
        "reference": "a",
        "candidate": "b",
        "category": "Visuals",
        "text": ["they use a spoon", "Video 2"],
    }
    mcq = {
        "difference": "use a whisk",
        "category": "Visuals",
        "options": [["a", "b"]] * 4,
        "answer": ["a", "b"],
    }
    files = [tmp_path / "cap.jsonl", tmp_path / "mcq.jsonl"]
    for file, row in zip(files, (cap, mcq), strict=True):
        file.write_text(json.dumps(row))
    # 1: they use a, use a whisk of 9 words; 2: they use, use a, use a, a whisk of 6; 3: they use a,
    # use a whisk of 3
    assert overlap(rows, list(map(str, files))) == {"1": 0.667, "2": 0.667, "3": 0.667, "4": 0.0}
    assert overlap(rows, []) == {}


def test_a_clip_that_should_not_train_is_found(folder: Path, tmp_path: Path) -> None:
    rows = [
        Question(one, two, "?", "!", 1)
        for one, two in (("red_0_1", "late_0_1"), ("red_1_2", "new_0_1"))
    ]
    catalog = Store.open(folder / "features").catalog("clips").frame()
    test_set = {
        "reference": "red_0_1",
        "candidate": "red_1.5_9",
        "category": "Visuals",
        "text": ["x"],
    }
    (tmp_path / "t.jsonl").write_text(json.dumps(test_set))
    assert leaks(rows, catalog, HoldOut([str(tmp_path / "t.jsonl")])) == {
        "not in the store": ["new_0_1"],
        "of another split than train": ["late_0_1"],
        BY_ID: ["red_0_1"],
        BY_OVERLAP: ["red_1_2"],
        BY_VIDEO: [],
    }
    none = HoldOut()
    assert not any(leaks(read_questions(folder / "pairqa.jsonl"), catalog, none).values())
    reason = "of another split than train"
    early = catalog.with_columns(split=pl.when(pl.col("key") != "red_0_1").then("split"))
    assert leaks(rows, early, none)[reason] == ["late_0_1", "red_0_1"]
    assert reason not in leaks(rows, catalog.with_columns(split=pl.lit(None, pl.String)), none)


def test_a_leak_gives_status_1_and_a_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(
        tmp_path / "pairqa.jsonl", [("red_0_1", "late_0_1", 2, "Which video is red?", "Video 1")]
    )
    more = ("--store", str(folder / "features"), "--out", str(tmp_path / "audit.html"))
    assert audited(tmp_path, capsys, *more, status=1)["failed"] == 1
    assert "late_0_1" in (tmp_path / "audit.html").read_text()
    assert audit.main([str(tmp_path / "pairqa.jsonl"), *more]) == 1
    assert "1 clips should not train" in capsys.readouterr().out


def picture(jpeg: bytes | str) -> np.ndarray:
    assert isinstance(jpeg, bytes), jpeg
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def test_a_contact_sheet_shows_frames_or_a_reason(folder: Path) -> None:
    clips = (
        Store.open(folder / "features").catalog("clips").frame().filter(pl.col("split") == "train")
    )
    sheets = contact_sheets(clips, folder)
    for key, colour in (("red_0_1", RED), ("red_1_2", BLUE), ("blue_0_1", BLUE)):
        pixels = picture(sheets[key])
        assert pixels.shape == (SIDE, FRAMES * SIDE, 3)
        assert np.abs(pixels.astype(int) - colour).max() < 25
    assert str(sheets["gone_0_1"]).endswith(
        "gone.mp4 does not exist: put it there or correct its path"
    )


def test_an_unreadable_file_is_reported_in_its_own_contact_sheet(
    folder: Path, tmp_path: Path
) -> None:
    Image.new("1", (2_000_000, 1)).save(tmp_path / "narrow.png")
    (tmp_path / "red.mp4").symlink_to(folder / "videos/red.mp4")
    videos = ["nul\0.mp4", "narrow.png", "red.mp4"]
    sheets = contact_sheets(
        pl.DataFrame({"key": ["a", "b", "c"], "video": videos, "start": 0.0, "end": 0.5}), tmp_path
    )
    assert "nul\\x00.mp4' cannot name a file (embedded null byte)" in sheets["a"]
    assert (
        "narrow.png cannot be decoded (ValueError: a picture of 2000000 x 1 is too narrow"
        in sheets["b"]
    )
    assert isinstance(sheets["c"], bytes) and sheets["c"].startswith(b"\xff\xd8\xff")  # a JPEG


def test_the_page_is_one_file_without_markup(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = (
        "--store",
        str(folder / "features"),
        "--videos",
        str(folder),
        "--out",
        str(tmp_path / "audit.html"),
    )
    audited(folder, capsys, *more)
    page = Parsed((tmp_path / "audit.html").read_text())
    sources = [value for name, value in page.values if name in ("src", "href")]
    assert len(sources) == 3 and all(
        source.startswith("data:image/jpeg;base64,") for source in sources
    )
    assert not {"script", "link"} & {tag for tag, _ in page.elements}
    for row in ROWS[4:]:
        assert row[3] in page.words and row[4] in page.words
    assert ROWS[0][3] in page.words or ROWS[3][3] in page.words  # one of the two orders
    assert "gone.mp4 does not exist" in page.words
    style = re.search(
        r"<style>(.*)</style>", (tmp_path / "audit.html").read_text(encoding="utf-8"), re.DOTALL
    )
    assert style is not None and "url(" not in style[1]


def test_dropped_questions_are_shown(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "pairqa.jsonl", ROWS)
    types = {"2": {"written": 9, "kept": 3, "dropped": {"refusal": 6}}}
    made = {
        "pairs": 9,
        "undescribed": 4,
        "types": types,
        "examples": {"refusal": ["I <i>cannot</i>"]},
    }
    made["provenance"] = {}
    (tmp_path / "pairqa.record.json").write_text(json.dumps(made))
    assert audited(tmp_path, capsys, "--out", str(tmp_path / "p.html"))["made"] == made
    words = Parsed((tmp_path / "p.html").read_text()).words
    assert "4 left out because they lack a description" in words and "I <i>cannot</i>" in words
    assert audit.main([str(tmp_path / "pairqa.jsonl")]) == 0
    assert "6 dropped: refusal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no questions in it"),
        ('{"reference": "a"}\n', ":1: not a PairQA row: candidate is missing"),
        (
            '{"reference": "a", "candidate": "b", "question": 1, "answer": "c"}\n',
            ":1: not a PairQA row: question should be",
        ),
        ("[]\n", ":1: not a JSON object"),
    ],
)
def test_a_file_without_pairqa(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "pairqa.jsonl").write_text(text)
    refuses(audit.main, [str(tmp_path / "pairqa.jsonl")], capsys, message)


# Texts of an attacker, for every value that the page shows.
EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    'data:x" onerror="alert(1)',
    "data:text/html;base64,PHNjcmlwdD4=",
    "javascript:alert(1)",
    "http://attacker.example/x.png",
    "</style></table></main><iframe src=//attacker.example>",
    "<!-- --!> <b>\x00\x0b</b> ]]> &lt;i&gt; &#x3c;u&#x3e;",
    "[red]markup[/] {braces} %s \x1b[31m",
]


class Parsed(HTMLParser):
    """The elements, attributes and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.values: list[tuple[str, str]] = []
        self.words = ""
        self.comments: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag, tuple(sorted(name for name, _ in attrs))] += 1
        self.values += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


def page(folder: Path, texts: list[str], videos: list[str]) -> Parsed:
    """Return the page of questions about clips of these videos; every text is one of `texts`."""
    folder.mkdir()
    write_video(folder / "real.mp4", [RED, BLUE])
    # a key has no NUL
    clips = [f"{text}_{n}_{n + 1}".replace("\0", "") for n, text in enumerate(texts)]
    rows = {"key": clips, "video": videos, "start": [0.0] * len(clips), "end": [1.0] * len(clips)}
    Store.open(folder / "features", create=True).catalog("clips").append(pl.DataFrame(rows))
    questions: list[dict[str, Any]] = [
        {
            "reference": one,
            "candidate": clips[n - 1],
            "type": [1, 2, None][n % 3],
            "question": f"{texts[n]} ?",
            "answer": texts[n - 2],
        }
        for n, one in enumerate(clips)
    ]
    (folder / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    dropped = {text: 2 for text in texts}
    made = {
        "pairs": 9,
        "undescribed": 4,
        "types": {texts[0]: {"written": 9, "kept": 3, "dropped": dropped}},
    }
    made |= {"examples": {text: [text] for text in texts}, "provenance": {}}
    (folder / "qa.record.json").write_text(json.dumps(made))
    out = folder / "page.html"
    words = [str(folder / "qa.jsonl"), "--store", str(folder / "features"), "--out", str(out)]
    # so that the reason for a missing picture begins with a text of the catalog
    with contextlib.chdir(folder):
        assert audit.main([*words, "--videos", "."]) in (0, 1)
    return Parsed(out.read_text(encoding="utf-8"))


@pytest.mark.full
def test_nothing_of_the_data_is_read_as_html(tmp_path: Path) -> None:
    """The page of hostile texts has the elements of a page of harmless texts in the same
    positions."""
    # the same words give the same rows of every table
    plain = [re.sub("[<>\"'&]", "q", text) for text in EVIL]
    hostile, harmless = (
        # no NUL in a path
        page(tmp_path / name, texts, ["real.mp4", *(text.replace("\0", "") for text in texts[1:])])
        for name, texts in (("hostile", EVIL), ("plain", plain))
    )
    assert hostile.elements == harmless.elements and not hostile.comments
    assert not any(
        name.startswith("on") or name in ("href", "srcset", "action") for name, _ in hostile.values
    )
    for made in (hostile, harmless):
        sources = [value for name, value in made.values if name == "src"]
        assert len(sources) == 2  # the one clip that can be decoded, as reference and as candidate
        assert all(source.startswith("data:image/jpeg;base64,/9j/") for source in sources)
    for text in EVIL:
        shown = text.replace("\x00", "\ufffd")
        assert text in hostile.words or shown in hostile.words, text
    # the reason contains the path in the catalog
    assert 'data:x" onerror="alert(1) does not exist' in hostile.words


@pytest.mark.full
@pytest.mark.parametrize(
    "change",
    [
        {"pairs": "<b>9</b>"},
        {"types": {"1": {"written": 1, "kept": "x", "dropped": {}}}},
        {"types": {"1": {"written": 1, "kept": 2, "dropped": {"reason": None}}}},
        {"types": [1]},
        {"examples": {"reason": [7]}},
        {"examples": None},
    ],
)
def test_a_wrong_record_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    row = {"reference": "a", "candidate": "b", "question": "?", "answer": "!"}
    (tmp_path / "qa.jsonl").write_text(json.dumps(row) + "\n")
    made: dict[str, Any] = {
        "pairs": 1,
        "undescribed": 0,
        "types": {},
        "examples": {},
        "provenance": {},
    }
    (tmp_path / "qa.record.json").write_text(json.dumps(made | change))
    command = [str(tmp_path / "qa.jsonl"), "--out", str(tmp_path / "p.html")]
    refuses(audit.main, command, capsys, "not a record of stepdiff annotate pairqa")


def test_every_command_is_listed_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    files = Path(annotate.__file__).parent.glob("*.py")
    runnable = {
        file.stem
        for file in files
        if re.search("^if __name__", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert runnable - {"__main__"} == set(VERBS)
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(sum(line.startswith(f"  {verb} ") for line in lines) == 1 for verb in VERBS)


def test_fewer_than_no_samples_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuses(
        audit.main,
        [str(tmp_path / "qa.jsonl"), "--samples", "-1"],
        capsys,
        "--samples -1 is too small",
    )
