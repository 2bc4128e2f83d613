"""The audit page of data with HTML in its values contains only the elements of the page."""

import contextlib
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from annotate import audit
from store import Store

from .test_audit import BLUE, RED, write_video

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
    clips = [f"{text}_{n}_{n + 1}".replace("\0", "") for n, text in enumerate(texts)]  # a key has no NUL
    rows = {"key": clips, "video": videos, "start": [0.0] * len(clips), "end": [1.0] * len(clips)}
    Store.open(folder / "features", create=True).catalog("clips").append(pl.DataFrame(rows))
    questions: list[dict[str, Any]] = [
        {"reference": one, "candidate": clips[n - 1], "type": [1, 2, None][n % 3], "question": f"{texts[n]} ?",
         "answer": texts[n - 2]}
        for n, one in enumerate(clips)
    ]  # fmt: skip
    (folder / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    dropped = {text: 2 for text in texts}
    made = {"pairs": 9, "undescribed": 4, "types": {texts[0]: {"written": 9, "kept": 3, "dropped": dropped}}}
    made |= {"examples": {text: [text] for text in texts}, "provenance": {}}
    (folder / "qa.record.json").write_text(json.dumps(made))
    out = folder / "page.html"
    words = [str(folder / "qa.jsonl"), "--store", str(folder / "features"), "--out", str(out)]
    with contextlib.chdir(folder):  # so that the reason for a missing picture begins with a text of the catalog
        assert audit.main([*words, "--videos", "."]) in (0, 1)
    return Parsed(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Parsed, Parsed]:
    """The page of hostile texts, and a page of harmless texts in the same positions."""
    folder = tmp_path_factory.mktemp("pages")
    plain = [re.sub("[<>\"'&]", "q", text) for text in EVIL]  # the same words give the same rows of every table
    return tuple(
        page(folder / name, texts, ["real.mp4", *(text.replace("\0", "") for text in texts[1:])])  # no NUL in a path
        for name, texts in (("hostile", EVIL), ("plain", plain))
    )  # type: ignore[return-value]


def test_no_element_and_no_attribute_comes_from_the_data(pages: tuple[Parsed, Parsed]) -> None:
    hostile, plain = pages
    assert hostile.elements == plain.elements and not hostile.comments
    assert not any(name.startswith("on") or name in ("href", "srcset", "action") for name, _ in hostile.values)


def test_only_pictures_that_the_page_made_are_embedded(pages: tuple[Parsed, Parsed]) -> None:
    for made in pages:
        sources = [value for name, value in made.values if name == "src"]
        assert len(sources) == 2  # the one clip that can be decoded, as reference and as candidate
        assert all(source.startswith("data:image/jpeg;base64,/9j/") for source in sources)


def test_nothing_of_the_data_is_read_as_html(pages: tuple[Parsed, Parsed]) -> None:
    hostile, _ = pages
    for text in EVIL:
        shown = text.replace("\x00", "\ufffd")
        assert text in hostile.words or shown in hostile.words, text
    assert 'data:x" onerror="alert(1) does not exist' in hostile.words  # the reason contains the path in the catalog


def test_a_question_without_a_type_says_so(pages: tuple[Parsed, Parsed]) -> None:
    assert "no type" in pages[1].words and "None" not in pages[1].words


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
def test_a_record_of_another_form_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    row = {"reference": "a", "candidate": "b", "question": "?", "answer": "!"}
    (tmp_path / "qa.jsonl").write_text(json.dumps(row) + "\n")
    made: dict[str, Any] = {"pairs": 1, "undescribed": 0, "types": {}, "examples": {}, "provenance": {}}
    (tmp_path / "qa.record.json").write_text(json.dumps(made | change))
    assert audit.main([str(tmp_path / "qa.jsonl"), "--out", str(tmp_path / "p.html")]) == 2
    error = capsys.readouterr().err
    assert "not a record of annotate.pairqa" in error and error.count("\n") == 1
