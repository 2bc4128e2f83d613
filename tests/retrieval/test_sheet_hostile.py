"""The contact sheet of a catalog with HTML in its values contains only the elements of the page."""

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from retrieval.queries.sheet import Tile, tile, write_sheet

PICTURE = np.full((1, 192, 192, 3), 90, np.uint8)
EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "data:x\" onerror='alert(1)",
    "</title></style></div><iframe src=attacker>",
    "<!-- javascript:alert(1) &lt;b&gt; &#x3c;u&#x3e;",
]


class Parsed(HTMLParser):
    """The elements with attributes, the addresses and the words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.sources: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag, tuple(name for name, _ in attrs)] += 1
        self.sources += [value or "" for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        self.words += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def page(path: Path, text: str) -> Parsed:
    """Return a sheet in which every text is `text`, with one picture and one clip whose video is missing."""
    known = {"video": text, "start": 0.0, "end": 1.0, "step": text, "activity": text, "split": text, "narration": text}
    gone = tile(text, known, Path(), 1, 0.5)
    assert isinstance(gone.pictures, str) and text in gone.pictures
    shown = Tile(text, PICTURE, [text], text, 2, 0.4)
    write_sheet(path, text, text, [Tile(text, text)], [gone, shown])
    return Parsed(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", EVIL)
def test_no_element_and_no_attribute_comes_from_the_catalog(tmp_path: Path, text: str) -> None:
    hostile, plain = page(tmp_path / "hostile.html", text), page(tmp_path / "plain.html", "harmless")
    assert hostile.elements == plain.elements
    assert len(hostile.sources) == 1 and hostile.sources[0].startswith("data:image/jpeg;base64,/9j/")
    assert hostile.words.count(text) == plain.words.count("harmless")
