"""The command-line parser and the choice of sub-commands."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from jsonargparse.typing import PositiveInt

from common.cli.command import choose
from common.cli.options import parse
from common.errors import StepDiffError


@dataclass(frozen=True)
class Inner:
    """Nested options."""

    rate: float
    """rate"""
    names: tuple[Literal["a", "b"], ...] = ("a",)
    """names"""


@dataclass(frozen=True)
class Options:
    """The options of a test command."""

    path: Path
    """positional"""
    test_set: str = "set"
    """a text"""
    number: int | None = None
    """a number"""
    k: int = field(default=8, metadata={"type": PositiveInt})
    """limited"""
    keys: tuple[str, ...] = ()
    """a list"""
    skip_it: bool = True
    """a switch"""
    kind: Literal["x", "y"] = "x"
    """a choice"""
    inner: Inner | None = None
    """nested"""


def run(options: Options) -> dict[str, Any]:
    if options.test_set == "none":
        raise StepDiffError("none: no such test set; give another")
    return {"options": repr(options), "failed": int(options.test_set == "half")}


def call(*argv: str) -> int:
    about = {"positional": ("path",), "status": lambda record: record["failed"], "renamed": {"--old-set": "--test-set"}}
    return parse(Options, list(argv), "room.verb", "Text.\n\n    a command to copy", run, "{options}", **about)


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the one-line error of a refused command line."""
    with pytest.raises(SystemExit) as end:
        call(*argv)
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.endswith("; see python -m room.verb --help\n") and line.count("\n") == 1
    return line.removeprefix("error: ").removesuffix("; see python -m room.verb --help\n")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("", "PATH must be given"),
        ("p --number x", "--number expects a whole number, not x"),
        ("p --kind z", "--kind expects one of x, y, not z"),
        ("p -k 0", "--k expects a whole number with value >0"),
        ("p --test-set", "--test-set expects a value"),
        ("p --other 3", "no option or argument --other 3"),
        ("p --inner.rate x", "--inner.rate expects a number, not x"),
        ("p --inner.what 3", "no option --inner.what"),
        ("p --inner.names [a]", "--inner.rate must be given"),
        ("p --inner.rate 1 --inner.names [c]", "--inner.names expects a list of one of a, b, not c"),
        ("p --config FILE", "no option --bogus"),
    ],
)
def test_invalid_options_give_one_line_that_names_the_option_and_the_expected_value(
    argv: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("bogus: 1\n")
    assert refusal(capsys, *argv.replace("FILE", str(tmp_path / "c.yaml")).split()) == line


def test_flags_have_dashes_booleans_have_a_negation_and_lists_collect_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "p --test-set a-b --keys c_d e --keys f --no-skip-it -k 3 --kind=y --inner.rate 2".split()
    assert call(*words) == 0
    expected = Options(Path("p"), "a-b", None, 3, ("c_d", "e", "f"), False, "y", Inner(2.0))
    assert capsys.readouterr().out == f"{expected!r}\n"
    assert call("p", "--skip-it", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"options": repr(Options(Path("p"))), "failed": 0}
    assert call("--", "--odd_name") == 0
    assert "--odd_name" in capsys.readouterr().out


def test_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("p", "--test-set", "half") == 1
    assert call("p", "--test-set", "none") == 2
    assert capsys.readouterr().err == "error: none: no such test set; give another\n"


def test_a_renamed_flag_works_with_a_one_line_notice(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("p", "--old-set=half") == 1
    assert (
        capsys.readouterr().err == "notice: --old-set is now --test-set; the next version does not accept --old-set\n"
    )


def test_help_keeps_line_breaks_and_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        call("--help")
    text = capsys.readouterr().out
    assert end.value.code == 0 and "\n    a command to copy\n" in text
    assert "--skip-it/--no-skip-it" in text and "default: set" in text and "usage: python -m room.verb PATH" in text


def test_only_the_chosen_sub_command_is_imported(capsys: pytest.CaptureFixture[str]) -> None:
    verbs = {"one": ("no.such.module", "first"), "two": (f"{__name__}:second", "second")}
    assert choose("room", "About.", verbs, ["two", "a"]) == 7
    assert choose("room", "About.", verbs, ["zwei"], aliases={"zwei": "two"}) == 7
    assert choose("room", "About.", verbs, ["--help"]) == 0
    assert "two  second" in capsys.readouterr().out
    assert choose("room", "About.", verbs, []) == 2
    assert choose("room", "About.", verbs, ["twp"]) == 2
    assert capsys.readouterr().err.endswith("error: python -m room has no command twp: did you mean two?\n")


def second(argv: list[str]) -> int:
    return 7
