"""docs/reproduce.md and the README contain the figures of the predictions in docs/reproduce."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pytest import MonkeyPatch

from heads import report
from heads.reporting.grid import number

ROOT = Path(__file__).parents[2]
IN_SHORT = [  # columns of the README's table: variant, metric, whether with its interval
    ("V1", "accuracy", True),
    ("V2", "accuracy", False),
    ("V3", "accuracy", False),
    ("V1", "ktau_all_rows", True),
    ("V1", "ktau_within_step_all_rows", False),
    ("V1", "BLEU", False),
    ("V1", "CIDEr", False),
    ("V1", "ROUGE-L", False),
]


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


def shown(score: dict[str, Any] | None, with_interval: bool) -> str:
    if score is None:
        return ""
    if score["value"] is None:
        return "undefined"
    between = " [{}, {}]".format(*(number(end, ".2f") for end in score["interval"])) if with_interval else ""
    return (number(score["value"], ".3f") + between).replace("−", "-")


def test_the_readme_contains_the_main_figures(reported: Path) -> None:
    record = json.loads((reported / "report.json").read_text())
    regimes = {method["method"]: method["regime"].replace("none", "–") for method in record["methods"].values()}
    scores = {
        (score["method"], score["setting"]["variant"], score["metric"]): score
        for score in record["scores"]
        if score["setting"]["parsed"] and score["setting"]["pair"] == "average"
    }
    section = re.sub("[*_]", "", (ROOT / "README.md").read_text().split("## Results")[1].split("\n## ")[0])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    rows = [row for row in rows[2:] if row[0] != "chance"]
    assert {row[0] for row in rows} == {method for method, *_ in scores}
    for method, regime, *cells in rows:
        assert regime == regimes[method], method
        assert cells == [shown(scores.get((method, *place)), between) for *place, between in IN_SHORT], method


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
