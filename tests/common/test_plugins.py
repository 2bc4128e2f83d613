"""Guarantees of common.plugins."""

from pathlib import Path

import pytest

from common import plugins
from common.errors import StepDiffError

GROUP = "stepdiff.tests"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_class_is_named_by_its_place_or_by_an_entry_point(folder: Path) -> None:
    (folder / "one_plugin.py").write_text("class Own: ...\n")
    installed = folder / "one-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: one\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[{GROUP}]\nshort = one_plugin:Own\n")
    assert plugins.installed(GROUP) == ["short"]
    for name in ("short", "one_plugin:Own"):
        place, found = plugins.load(name, GROUP, "method")
        assert place == "one_plugin:Own" and found.__name__ == "Own"
    assert plugins.load("one_plugin:Other", GROUP, "method") == ("one_plugin:Other", None)


@pytest.mark.parametrize("name", ["absent_plugin:A", "absent_plugin.inner:A"])
def test_a_module_that_does_not_exist_is_one_line(name: str) -> None:
    message = f"method {name} cannot be imported here: no module absent_plugin; install it, or name its folder in "
    with pytest.raises(StepDiffError) as error:
        plugins.load(name, GROUP, "method", "; or ask")
    assert str(error.value) == f"{message}PYTHONPATH; or ask"


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("import json\n\nimport absent_library\n", 3, "ModuleNotFoundError: No module named 'absent_library'"),
        ("from json import absent\n", 1, "ImportError: cannot import name 'absent' from 'json'"),
        ("def half():\n    return 1 / 0\n\n\nhalf()\n", 2, "ZeroDivisionError: division by zero"),
        ("raise ValueError('two\\nlines')\n", 1, "ValueError: two lines"),
        ("x = 1\ndef broken(:\n", 2, "SyntaxError: invalid syntax"),
    ],
)
def test_an_error_inside_a_module_is_one_line_with_its_file_line_and_message(
    folder: Path, source: str, line: int, message: str
) -> None:
    name = f"failing_{abs(hash(source))}"
    (folder / f"{name}.py").write_text(source)
    with pytest.raises(StepDiffError) as error:
        plugins.load(f"{name}:A", GROUP, "encoder")
    assert f"encoder {name}:A cannot be imported here: {folder / name}.py:{line}: {message}" in str(error.value)
    assert "\n" not in str(error.value)
