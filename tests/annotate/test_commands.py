"""`python -m annotate` lists exactly the commands of the room."""

import re
from pathlib import Path

import pytest

import annotate
from annotate.__main__ import VERBS, main


def test_every_command_is_listed_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    files = Path(annotate.__file__).parent.glob("*.py")
    runnable = {
        file.stem for file in files if re.search("^if __name__", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert runnable - {"__main__"} == set(VERBS)
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(sum(line.startswith(f"  {verb} ") for line in lines) == 1 for verb in VERBS)


def test_every_public_name_is_imported_when_it_is_used() -> None:
    assert all(getattr(annotate, name) is not None for name in annotate.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        annotate.nothing  # noqa: B018
