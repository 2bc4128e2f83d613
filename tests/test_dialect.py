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
PLACES = {
    "pages": ("*.md", "docs/**/*.md"),
    "settings": ("Makefile", "reproduce.mk", "pyproject.toml", "ray_cluster*.yaml", "heads/recipes/**/*.yaml"),
    **{room: (f"{room}/**/*.py",) for room in (*PACKAGES, "benchmarks", "tests")},
}
DATA = ("stepdiff/kitchen/files/testsets.py", "tests/test_dialect.py")  # words of the sample world, and those above


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each line of a page, string of words of a module, and comment of another file."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        blank = re.compile(r"^( *)```.*?^\1```", flags=re.DOTALL | re.MULTILINE)
        yield from enumerate(blank.sub(lambda code: "\n" * code[0].count("\n"), text).splitlines(), 1)
    elif file.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield node.lineno, node.value
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
    else:
        for number, line in enumerate(text.splitlines(), 1):
            yield number, "".join(re.findall(r"(?:^|\s)#.*", line))


@pytest.mark.parametrize("place", PLACES)
def test_everything_is_in_plain_english(place: str) -> None:
    files = {file.relative_to(ROOT).as_posix(): file for pattern in PLACES[place] for file in ROOT.glob(pattern)}
    assert files
    found = {
        f"{name}:{line}": text
        for name, file in files.items()
        if name not in DATA
        for line, text in texts(file)
        if DIALECT.search(re.sub(r"`[^`]*`", "", text))
    }
    assert found == {}
