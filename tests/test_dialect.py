"""Pages, help texts and messages are written in plain English: words of an old private dialect do not come back."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DIALECT = re.compile(r"\b(told|anew|whoever|mend(?:s|ed|ing)?|stands(?! for)|of like)\b", re.IGNORECASE)
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
ROOMS: tuple[str, ...] = ("annotate", "heads")  # rooms whose strings are plain; add a room once it is
DATA = ("kitchen/phrases",)  # words that people of the sample world say


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of a page, without code."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^( *)```.*?^\1```", lambda code: "\n" * code[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
    for number, line in enumerate(text.splitlines(), 1):
        yield number, re.sub(r"`[^`]*`", "", line)


def strings(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each string of a module that is made of words: help, messages and docstrings."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_are_in_plain_english(page: Path) -> None:
    assert [(number, line) for number, line in prose(page) if DIALECT.search(line)] == []


@pytest.mark.parametrize("room", ROOMS)
def test_strings_of_a_room_are_in_plain_english(room: str) -> None:
    files = [file for file in (ROOT / room).rglob("*.py") if not file.relative_to(ROOT).as_posix().startswith(DATA)]
    found = {f"{file.relative_to(ROOT)}:{line}": text for file in files for line, text in strings(file)}
    assert {place: text for place, text in found.items() if DIALECT.search(text)} == {}
