"""Pages, help texts, messages and comments are in plain English: words of an old private dialect do not return."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepdiff import PACKAGES

ROOT = Path(__file__).parents[1]
DIALECT = re.compile(r"\b(told|anew|beside|whoever|mend(?:s|ed|ing)?|stands(?! for)|of like)\b", re.IGNORECASE)
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
SETTINGS = [ROOT / name for name in ("Makefile", "reproduce.mk", "pyproject.toml")]
SETTINGS += sorted(ROOT.glob("ray_cluster*.yaml"))
SETTINGS += sorted(ROOT.glob("heads/recipes/**/*.yaml"))
ROOMS = (*PACKAGES, "benchmarks", "tests")
DATA = ("stepdiff/kitchen/files/testsets.py", "tests/test_dialect.py")  # words of the sample world, and those above


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of a page, without code."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^( *)```.*?^\1```", lambda code: "\n" * code[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
    for number, line in enumerate(text.splitlines(), 1):
        yield number, re.sub(r"`[^`]*`", "", line)


def settings_comments(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each comment of a YAML, TOML or make file."""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if comment := re.search(r"(?:^|\s)#.*", line):
            yield number, comment[0]


def words(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each comment and each string of words in a module, without code in backticks."""
    text = file.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, re.sub(r"`[^`]*`", "", node.value)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], re.sub(r"`[^`]*`", "", token.string)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_are_in_plain_english(page: Path) -> None:
    assert [(number, line) for number, line in prose(page) if DIALECT.search(line)] == []


@pytest.mark.parametrize("file", SETTINGS, ids=name)
def test_comments_of_settings_are_in_plain_english(file: Path) -> None:
    assert [(number, line) for number, line in settings_comments(file) if DIALECT.search(line)] == []


@pytest.mark.parametrize("room", ROOMS)
def test_strings_and_comments_of_a_room_are_in_plain_english(room: str) -> None:
    files = [file for file in (ROOT / room).rglob("*.py") if not name(file).startswith(DATA)]
    found = {f"{name(file)}:{line}": text for file in files for line, text in words(file)}
    assert {place: text for place, text in found.items() if DIALECT.search(text)} == {}
