"""docs/reproduce.md and the README contain the figures of the predictions in docs/reproduce."""

import re
from pathlib import Path

import pytest

from heads import report

ROOT = Path(__file__).parents[2]
FIGURE = re.compile(r"−?\d\.\d{3,4}")
ROWS = re.compile(r"\d+ rows of \d+ videos")
CONTROL = "StepDiff, another clip's video"  # of whose difference from StepDiff the page speaks too


def sections(text: str, level: str) -> dict[str, str]:
    """Return the text below each heading of a level."""
    parts = re.split(rf"^{level} (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> str:
    """Return the lines of tables."""
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


PAGE = sections((ROOT / "docs/reproduce.md").read_text(), "##")


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The report, and one that compares StepDiff with a control."""
    against = ["--ours", "[StepDiff]", "--controls", "[]", "--baselines", f'["{CONTROL}"]']
    texts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for options in ([], against):
            out = tmp_path_factory.mktemp("report")
            assert (
                report.main(["--config", "docs/reproduce/report.yaml", *options, "--out", str(out)])
                == 0
            )
            texts.append((out / "report.md").read_text())
    return texts


@pytest.mark.full
def test_the_tables_of_the_page_are_those_of_the_predictions(reported: list[str]) -> None:
    shown, tables = sections(PAGE["All methods"], "###"), sections(reported[0], "##")
    assert len(shown) >= 3
    for title, text in shown.items():
        assert rows(text) == rows(tables[title]), title


@pytest.mark.full
@pytest.mark.parametrize("section", ["All methods", "The paper's claims", "Limits"])
def test_figures_in_the_text_are_those_of_the_predictions(
    section: str, reported: list[str]
) -> None:
    for pattern in (FIGURE, ROWS):
        known = {figure for text in reported for figure in pattern.findall(text)}
        assert [figure for figure in pattern.findall(PAGE[section]) if figure not in known] == []


def test_the_figures_of_the_readme_are_those_of_the_demo() -> None:
    """Which a run printed: its predictions are of a world that the demo renders."""
    table = sections((ROOT / "README.md").read_text(), "##")["Results"]
    figures = re.findall(r"-?\d\.\d{3}(?: \[-?\d\.\d\d, -?\d\.\d\d\])?", table)
    assert (
        len(figures) >= 15
        and [figure for figure in figures if figure not in PAGE["The demo"]] == []
    )
