"""Imports between rooms: no import runs upward, and no head can reach a video."""

import ast
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

import pytest

from stepdiff_core import BELOW, PACKAGES

ROOT = Path(__file__).parents[1]
# A query may be a file or words: featurize is imported when such a query is made.
EXCEPT = {
    ("retrieval/queries/footage.py", "featurize"),
    ("retrieval/queries/live.py", "featurize"),
}


@cache
def imports(file: Path) -> list[str]:
    """Return the modules that a file imports, at any level."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names += [node.module or "", *(f"{node.module}.{name.name}" for name in node.names)]
    return names


@pytest.mark.parametrize("room", BELOW)
def test_no_import_runs_upward(room: str) -> None:
    for file in (ROOT / room.replace(".", "/")).rglob("*.py"):
        name = file.relative_to(ROOT).as_posix()
        if (
            max(
                (other for other in BELOW if f"{module_name(file)}.".startswith(f"{other}.")),
                key=len,
            )
            != room
        ):
            continue  # of a room inside this one
        allowed = {room, *BELOW[room]} | {to for at, to in EXCEPT if at == name}
        for module in imports(file):
            others = {other for other in BELOW if f"{module}.".startswith(f"{other}.")}
            assert others <= allowed, f"{name} imports {module}"


def test_what_every_room_imports_first_imports_no_room() -> None:
    assert not {
        module.split(".")[0] for module in imports(ROOT / "stepdiff_core/__init__.py")
    } & set(PACKAGES)
    for file in (ROOT / "stepdiff").glob("*.py"):
        assert file.name in ("__init__.py", "__main__.py"), f"{file} is in no room"


def test_only_the_query_verb_reaches_footage() -> None:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    reaching = {
        file.relative_to(ROOT).as_posix()
        for file in files
        if "retrieval.queries.footage" in imports(file)
    }
    assert reaching == {"retrieval/verbs/query.py"}


def test_no_circle_between_files() -> None:
    """Module-level imports of all rooms, including those for type checkers, have no circle."""
    files = {
        module_name(file): file for package in PACKAGES for file in (ROOT / package).rglob("*.py")
    }
    uses = {name: set(top_level_imports(file, files)) for name, file in files.items()}
    while free := {
        name
        for name in uses
        if not uses[name] & uses.keys() or not any(name in u for u in uses.values())
    }:
        uses = {name: others for name, others in uses.items() if name not in free}
    assert not uses, f"circles among {sorted(uses)}"


def module_name(file: Path) -> str:
    """Return the name that a file is imported by."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def top_level_imports(file: Path, known: Collection[str]) -> Iterator[str]:
    """Yield those of the `known` modules that a file imports outside functions."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    for node in [
        inner for outer in body for inner in (outer.body if isinstance(outer, ast.If) else [outer])
    ]:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in known)
        elif isinstance(node, ast.ImportFrom):
            taken = [f"{node.module}.{name.name}" for name in node.names]
            yield from (name if name in known else node.module or "" for name in taken)
