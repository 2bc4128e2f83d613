"""YAML files written by users, and `--config`."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import yaml

from common.cli.parser import add_config
from common.io import yaml_file
from common.io.yaml_file import YamlError

ROOT = Path(__file__).parents[2]
BOMB = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 10)}]\n" for n in range(10))
REFUSED = {
    "an alias bomb": (BOMB, "anchors and aliases"),
    "an anchor": ("a: &x 1", "anchors and aliases"),
    "a tag": ("a: !!python/object/apply:os.system ['true']", "tags are not accepted"),
    "a plain tag": ("a: !!str 1", "tags are not accepted"),
    "a duplicate key": ("a: 1\nb: 2\na: 3", "line 3, column 1: key 'a' is given twice"),
    "a duplicate key below": ("a: {b: 1, c: 2, b: 3}", "key 'b' is given twice"),
    "deep nesting": ("a: " + "[" * 100, "more than 32 levels"),
    "very deep nesting": ("a: " + "[" * 20000, "exceeded maximum nesting depth"),
    "a merge key": ("a:\n  <<: {b: 1}", "merge keys"),
    "a list as a key": ("? [a]\n: 1", "a key is a list"),
    "two documents": ("a: 1\n---\nb: 2", "a second document"),
    "a syntax error": ("a: [1,\nb: 2", "expected ',' or ']'"),
    "a control character": ("a: \x01", "control characters are not allowed"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_expensive_or_ambiguous_yaml_is_refused(what: str, tmp_path: Path) -> None:
    text, why = REFUSED[what]
    path = tmp_path / "options.yaml"
    path.write_text(text)
    with pytest.raises(YamlError) as error:
        yaml_file.read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and why in message and "\n" not in message


def unusable(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Write unusable files; return path and expected message by name."""
    names = ("text", "folder", "absent", "fifo", "huge")
    paths = {name: tmp_path / name for name in names}
    paths["text"].write_bytes(b"out: \xff\xfe\n")
    paths["folder"].mkdir()
    os.mkfifo(paths["fifo"])
    paths["huge"].write_text("a: 1\n" * 10**6)
    messages = ("is not UTF-8 (byte 5)", "Is a directory", "No such file", "is not a regular file", "is larger than")
    kinds = {name: (paths[name], why) for name, why in zip(names, messages, strict=True)}
    return {**kinds, "device": (Path("/dev/zero"), "is not a regular file")}


@pytest.mark.parametrize("kind", ["text", "folder", "absent", "fifo", "huge", "device"])
def test_an_unusable_file_gives_one_line_that_names_the_file(kind: str, tmp_path: Path) -> None:
    path, why = unusable(tmp_path)[kind]
    with pytest.raises(YamlError) as error:
        yaml_file.read(path)
    assert str(error.value).startswith(f"{path}: ") and why in str(error.value) and "\n" not in str(error.value)


def test_a_plain_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    for file in ROOT.glob("heads/recipes/**/*.yaml"):
        assert yaml_file.read(file) == yaml.safe_load(file.read_text())
    path.write_bytes("\ufeffa: é\nb: [1, 2.5, null, yes, 'x']\n".encode())
    assert yaml_file.read(path) == {"a": "é", "b": [1, 2.5, None, True, "x"]}


def parsed(*arguments: str) -> tuple[object, str]:
    """Parse the arguments with a small command line; return the options or the exit status, and the message."""
    import jsonargparse

    parser = jsonargparse.ArgumentParser(prog="test")
    add_config(parser)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--words", type=list[str], default=[])
    errors = io.StringIO()
    with redirect_stderr(errors):
        try:
            given = parser.parse_args(list(arguments))
        except SystemExit as ending:
            return ending.code, errors.getvalue()
    return (given.number, given.words), errors.getvalue()


def test_an_unusable_config_gives_one_line_and_status_2(tmp_path: Path) -> None:
    for path, why in unusable(tmp_path).values():
        status, message = parsed("--config", str(path))
        assert status == 2 and message.startswith(f"error: {path}: ") and why in message and message.count("\n") == 1
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text(BOMB)
    status, message = parsed("--config", str(bomb))
    assert status == 2 and message.startswith(f"error: {bomb}: line 1, column 5: anchors") and message.count("\n") == 1


def test_flags_after_a_config_override_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("number: 3\nwords: [a, b]\n")
    assert parsed("--config", str(path)) == ((3, ["a", "b"]), "")
    assert parsed("--config", str(path), "--number", "4") == ((4, ["a", "b"]), "")
    # a file whose name equals the text of the config is not read instead of it
    monkeypatch.chdir(tmp_path)
    path.write_text("number: 5")
    Path("number: 5").write_text("number: 6")
    assert parsed("--config", str(path)) == ((5, []), "")


def test_a_value_on_the_command_line_is_checked_like_one_in_a_file() -> None:
    assert parsed("--words", "[a, b]") == ((0, ["a", "b"]), "")
    status, message = parsed("--words", "[&a x, *a]")
    assert status == 2 and "Traceback" not in message


def test_every_command_reads_its_config_with_yaml_file() -> None:
    """No other code of the project defines `--config` or reads YAML."""
    for file in ROOT.glob("[a-z]*/**/*.py"):
        text = file.read_text(encoding="utf-8")
        if file.is_relative_to(ROOT / "common") or file.is_relative_to(ROOT / "tests"):
            continue
        for other in ('action="config"', "auto_cli", "yaml.load", "yaml.safe_load", "parse_path", "jsonargparse.CLI"):
            assert other not in text, f"{file} has {other}"


def test_an_alias_bomb_is_refused_by_a_real_command_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMB)
    done = subprocess.run(
        [sys.executable, "-m", "kitchen", "--config", str(path)], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2 and done.stderr.startswith(f"error: {path}: ") and done.stderr.count("\n") == 1
