"""Guarantees of modules: a test of the room has the name of each."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("annotate", "app")  # in which every guarantee has its test


def guarantees(doc: str) -> Iterator[str]:
    """Yield the lines of the list `Guarantees` in a docstring, each with its continuations."""
    _, _, after = doc.partition("\nGuarantees")
    for item in re.findall(r"^- (.*(?:\n  .*)*)", after, re.MULTILINE):
        yield " ".join(item.split())


def names(guarantee: str) -> Iterator[str]:
    """Yield the names that its test may have: the words of the guarantee, or those before a punctuation mark."""
    ends = [found.start() for found in re.finditer(r"[:;,] ", guarantee)]
    for words in (guarantee, *(guarantee[:end] for end in ends)):
        yield "test_" + re.sub(r"[^a-z0-9]+", "_", words.lower().replace("'", "")).strip("_")


def names_of_tests(room: str) -> Iterator[str]:
    """Yield the names of the tests of a room."""
    for file in (ROOT / "tests" / room).rglob("test_*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                yield node.name
            elif isinstance(node, ast.Assign):  # a state machine of hypothesis
                yield from (target.id for target in node.targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("room", ROOMS)
def test_a_guarantee_has_a_test_of_the_same_name(room: str) -> None:
    known = set(names_of_tests(room))
    found = {
        (file.relative_to(ROOT).as_posix(), guarantee)
        for file in (ROOT / room).rglob("*.py")
        for guarantee in guarantees(ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "")
    }
    assert len(found) > 40, "the lists of the room are read"
    assert [own for own in sorted(found) if known.isdisjoint(names(own[1]))] == []


def test_a_guarantee_may_go_on_after_a_punctuation_mark() -> None:
    doc = "Title.\n\nGuarantees\n- a clip's row is read once: by\n  one worker\n- x_y_z: more\n\nText\n"
    first, second = guarantees(doc)
    assert "test_a_clips_row_is_read_once" in set(names(first)) and "test_a_clips_row_is_read_once_by" not in names(
        first
    )
    assert "test_x_y_z" in names(second)
