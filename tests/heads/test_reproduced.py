"""docs/reproduce.md and the README contain the figures of the predictions in docs/reproduce."""

import json
import re
from pathlib import Path

import pytest
from pytest import MonkeyPatch

from heads import report
from heads.reporting.grid import number

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert report.main(["--config", "docs/reproduce/report.yaml", "--out", str(out)]) == 0
    return out


def test_the_tables_in_the_docs_are_those_of_the_predictions(reported: Path) -> None:
    tables = (reported / "report.md").read_text().strip()
    assert tables.count("## ") == 10 and tables in (ROOT / "docs/reproduce.md").read_text()


def test_the_figures_of_the_readme_are_those_of_the_demo() -> None:
    """Which a run printed: its predictions are of a world that the demo renders."""
    table = (ROOT / "README.md").read_text().split("## Results")[1].split("\n## ")[0]
    demo = (ROOT / "docs/reproduce.md").read_text().split("## The demo")[1].split("\n## ")[0]
    figures = re.findall(r"-?\d\.\d{3}(?: \[-?\d\.\d\d, -?\d\.\d\d\])?", table)
    assert len(figures) >= 15 and [figure for figure in figures if figure not in demo] == []


def test_the_text_contains_the_differences_from_another_clips_video(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    given = ["--ours", "[StepDiff]", "--controls", "[]", "--baselines", '["StepDiff, another clip\'s video"]']
    assert report.main(["--config", "docs/reproduce/report.yaml", *given, "--out", str(tmp_path)]) == 0
    compared = {each["metric"]: each for each in json.loads((tmp_path / "report.json").read_text())["comparisons"]}
    text = (ROOT / "docs/reproduce.md").read_text().split("## Limits")[0]
    for metric in ("accuracy", "ktau_within_step_all_rows"):
        low, high = (number(end, ".3f") for end in compared[metric]["interval"])
        assert f"{number(compared[metric]['difference'], '.3f')} \\[{low}, {high}\\]" in text, metric
    assert f"p {compared['accuracy']['p']:.3f} before any correction" in text
