"""No command replaces a file that another of its options names: all options of all commands."""

import dataclasses
import importlib
import os
import re
import typing
from collections.abc import Iterator
from dataclasses import MISSING, Field
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import capture_parser

from heads.reporting.entries import PredictionEntry
from heads.training.recipe import Schedule, VideoLMRecipe
from stepdiff.__main__ import GROUPS
from stepdiff_core.cli.options import flag, refuse_overwriting
from stepdiff_core.cli.parser import Parser
from stepdiff_core.errors import StepDiffError

COMMANDS = {
    " ".join(filter(None, (name, verb))): (module, [verb] if verb else [])
    for group in GROUPS.values()
    for name, (module, _) in group.items()
    for verb in getattr(importlib.import_module(module), "VERBS", {"": ()})
}
OUTPUT = re.compile(r"\bto write\b|\bto create\b|\bto keep\b")
NAMES = {"out", "html", "export", "csv"}
NO_FILES = {
    ("embed", "view"),  # of a store
    ("store requantise", "to"),
    ("store pool", "to"),
    ("compare", "store"),  # which is added to
}


def main_of(name: str) -> Any:
    return importlib.import_module(COMMANDS[name][0]).main


def is_text(kind: Any) -> bool:
    """Whether values of a field are texts or paths, or lists of them."""
    if typing.get_origin(kind) is typing.Literal:
        return False
    return kind in (str, Path) or any(map(is_text, typing.get_args(kind)))


def texts(parser: Parser) -> Iterator[tuple[Field[Any], Any]]:
    assert parser.options is not None
    hints = typing.get_type_hints(parser.options)
    for field in dataclasses.fields(parser.options):
        if is_text(hints[field.name]):
            yield field, hints[field.name]


PARSERS: dict[str, Any] = {
    name: capture_parser(main_of(name), command) for name, (_, command) in COMMANDS.items()
}
WRITERS = [
    name
    for name, parser in PARSERS.items()
    if any("written" in field.metadata for field, _ in texts(parser))
]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_that_names_an_output_says_so(name: str) -> None:
    parser = PARSERS[name]
    helps = {action.dest: action.help or "" for action in parser._actions}
    for field, _ in texts(parser):
        is_output = field.name in NAMES or OUTPUT.search(helps[field.name]) is not None
        is_output &= (name, field.name) not in NO_FILES
        assert is_output == ("written" in field.metadata), (
            f"{name} {flag(field.name)}: {helps[field.name]}"
        )


def value(kind: Any, text: str) -> Any:
    """Return a value of an option: the text where it can hold one."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return (value(arguments[0], text),)
    if origin is typing.Literal or not is_text(kind):
        return arguments[0] if arguments else 1
    return Path(text) if Path in (kind, *arguments) else text


def needed(parser: Parser) -> dict[str, Any]:
    """Return values of the options that must be given."""
    hints = typing.get_type_hints(parser.options)
    required = (
        f for f in dataclasses.fields(parser.options) if f.default is f.default_factory is MISSING
    )  # type: ignore[arg-type]
    return {field.name: value(hints[field.name], "x") for field in required}


def shown(parser: Parser, name: str) -> str:
    return name.upper() if name in parser.positional else flag(name)


@pytest.fixture
def spellings(tmp_path: Path) -> list[tuple[str, str]]:
    """Pairs of paths of one file."""
    file, links = tmp_path / "theirs.jsonl", tmp_path / "links"
    file.write_text("theirs\n")
    links.mkdir()
    (links / "to").symlink_to(tmp_path)
    (links / "symbolic").symlink_to(file)
    os.link(file, links / "hard")
    others = [
        f"{tmp_path}/./{file.name}",
        links / "to" / file.name,
        links / "symbolic",
        links / "hard",
        f"{file}@0:05-10",
    ]
    pairs = [(file, other) for other in (file, *others)] + [(links / "symbolic", links / "hard")]
    return [(str(one), str(two)) for one, two in pairs] + [
        ("s3://bucket/a.jsonl", "s3://bucket/a.jsonl")
    ]


@pytest.mark.parametrize("name", WRITERS)
def test_an_output_that_is_another_option_is_refused(
    name: str, spellings: list[tuple[str, str]]
) -> None:
    parser = PARSERS[name]
    assert parser.options is not None
    for out, other in permutations(texts(parser), 2):
        for one, two in spellings if "written" in out[0].metadata else ():
            given = {
                field.name: value(kind, text) for (field, kind), text in ((out, one), (other, two))
            }
            with pytest.raises(StepDiffError, match="would overwrite it; name another") as refused:
                refuse_overwriting(parser.options(**needed(parser) | given), parser.positional)
            assert all(shown(parser, field.name) in str(refused.value) for field, _ in (out, other))
        if "written" in out[0].metadata and "written" in other[0].metadata:  # neither exists yet
            given = {field.name: value(kind, "new") for field, kind in (out, other)}
            with pytest.raises(StepDiffError, match="would overwrite it"):
                refuse_overwriting(parser.options(**needed(parser) | given), parser.positional)


@pytest.mark.parametrize("name", WRITERS)
def test_a_command_refuses_before_it_starts(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser, file = PARSERS[name], tmp_path / "options.yaml"
    out = next(field.name for field, _ in texts(parser) if "written" in field.metadata)
    given = {**needed(parser), out: str(file)}
    positional = [key for key in parser.positional if key in given]
    flags = [
        f"{flag(key)}={content}" for key, content in given.items() if key not in parser.positional
    ]
    file.write_text("json: true\n")
    values = [given[key][0] if isinstance(given[key], tuple) else given[key] for key in positional]
    assert main_of(name)([*COMMANDS[name][1], "--config", str(file), *flags, *values]) == 2
    line = (
        f"error: --config {file}: {shown(parser, out)} {file} would overwrite it; name another "
        f"{shown(parser, out)}"
    )
    assert capsys.readouterr().err == f"{line}\n" and file.read_text() == "json: true\n"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("evaluate", {"out": "new.jsonl", "subset": "new.rows.jsonl"}),
        ("annotate pairqa", {"out": "new.jsonl", "texts": "new.record.json"}),
        ("annotate statistics", {"out": ".", "files": ("new.jsonl", "statistics.json")}),
        ("train", {"out": "new.jsonl", "video_lm": VideoLMRecipe(Schedule(1), pairqa="new.jsonl")}),
        (
            "report",
            {
                "out": ".",
                "predictions": (PredictionEntry("a", "diffcap", "new.jsonl", "report.json"),),
            },
        ),
    ],
)
def test_files_next_to_an_output_and_nested_options_count(
    name: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parser = PARSERS[name]
    assert parser.options is not None
    given = parser.options(**needed(parser) | options)
    refuse_overwriting(given, parser.positional)
    for file in (
        "new.jsonl",
        "new.rows.jsonl",
        "new.record.json",
        "statistics.json",
        "report.json",
    ):
        Path(file).touch()
    with pytest.raises(StepDiffError, match="would overwrite it"):
        refuse_overwriting(given, parser.positional)


def test_folders_names_and_new_files_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/net").mkdir(parents=True)
    Path("runs/net/recipe.yaml").touch()
    Path("net").symlink_to("runs/net")
    words, query = PARSERS["words"].options, PARSERS["query"].options
    assert words is not None and query is not None
    refuse_overwriting(words(store="runs", view="net", pairqa="pairqa.jsonl", out="net"))
    refuse_overwriting(
        words(store="s", view="v", pairqa="p", out="runs/net"), configs=["runs/net/recipe.yaml"]
    )
    refuse_overwriting(query(Path("runs"), "net", text="a b: c", out=Path("runs/net/new.csv")))
