"""docs/reproduce.md tells what the predictions beside it say."""

from pathlib import Path

import pytest

from heads import report

ROOT = Path(__file__).parents[2]


def test_the_tables_told_are_those_of_the_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert report.main(["--config", "docs/reproduce/report.yaml", "--out", str(tmp_path)]) == 0
    tables = (tmp_path / "report.md").read_text().strip()
    assert tables.count("## ") == 8 and tables in Path("docs/reproduce.md").read_text()
