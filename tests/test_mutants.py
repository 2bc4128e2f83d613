"""The search for changes that no test notices."""

from pathlib import Path

import pytest

from tests.mutants import changes, survivors


@pytest.mark.full
def test_a_hole_of_the_tests_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The comparison is tested at its bound, and the bound only from one side."""
    for folder in ("room", "tests/room"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "room/bound.py").write_text("def above(n):\n    return n > 2\n")
    test = (
        "from room.bound import above\n\n\ndef test_above():\n    assert above(5) and not "
        "above(2)\n"
    )
    (tmp_path / "tests/room/test_bound.py").write_text(test)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = full\n")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.py")}
    assert survivors(tmp_path, "room", 0, 100) == [
        "room/bound.py:2: return n > 2  ->  return n > 3"
    ]
    assert capsys.readouterr().out.endswith(
        "\n1 of 2 changes were noticed, 0 of them by the time limit; 1 were not\n"
    )
    assert {file: file.read_bytes() for file in before} == before


def test_each_kind_of_change(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text('y = "é" if (a) + b not in c and True else f"{1 + 1}" * 2\n')
    assert [change.applied().decode().strip() for change in changes(file)] == [
        'y = "é" if (not ((a) + b not in c and True)) else f"{1 + 1}" * 2',
        'y = "é" if (a) + b not in c or True else f"{1 + 1}" * 2',
        'y = "é" if (a) + b not in c and True else f"{1 + 1}" / 2',
        'y = "é" if (a) + b in c and True else f"{1 + 1}" * 2',
        'y = "é" if (a) + b not in c and False else f"{1 + 1}" * 2',
        'y = "é" if (a) + b not in c and True else f"{1 + 1}" * 3',
        'y = "é" if (a) - b not in c and True else f"{1 + 1}" * 2',
    ]
