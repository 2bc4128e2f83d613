"""Guarantees of heads.report: the files for readers, and the command that writes them."""

import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from common.errors import StepDiffError
from heads import report
from heads.reporting import picture, tables
from heads.reporting.entries import Entry
from heads.reporting.figures import measure
from heads.reporting.grid import Block, Cell, Grid, escape_latex, to_latex, to_markdown
from heads.reporting.tables import Report, grids

from .conftest import config, reported

SUPPLEMENT = Path(__file__).parents[3] / "shared/seeds"


@pytest.mark.skipif(not SUPPLEMENT.exists(), reason="the paper's supplement is not here")
def test_every_published_number_is_that_of_the_supplement() -> None:
    text = "".join(path.read_text() for path in SUPPLEMENT.glob("*.txt")).replace("VLEmbd", "VLEmb")
    blocks = {
        name: text.split(f"\n{before}\n", 1)[1].split("\nTable " + name, 1)[0]
        for name, before in {
            "S1": "\tBLEU\tCIDER\tROGUE-L",
            "S2": "\tCLIP [40]\tInternVideo [55]",
            "S3": "\tBLEU\tCIDER\tROGUE-L\tAcc %\t$\\tau$",
            "S4": "\tV1\tV2\tV3",
        }.items()
    }
    names = {"$V_r$ only": "reference", "$V_c$ only": "candidate", "$avg(V_r, V_c)$": "average"}
    for name, ours in (
        ("S1", tables.TABLE_S1),
        ("S3", tables.TABLE_S3),
        ("S4", tables.TABLE_S4),
        ("S2", tables.TABLE_S2),
    ):
        found = {}
        for line in blocks[name].strip().splitlines():
            method, *values = re.sub(r"</?b>|<b>", "", line).split("\t")
            method = names.get(method, re.sub(r" \[\d+\]$", "", method))
            if name != "S2" or method in names.values():
                found[method.replace("Step desc.", "step desc.")] = tuple(map(float, values))
        assert found == ours and list(found) == list(ours)


def test_the_supplements_figures_are_shown_next_to_ours_as_an_option(made: list[Entry]) -> None:
    tables = {grid.title.split(":")[0]: grid for grid in grids(reported(made, paper=True))}
    *_, block = tables["Table S1"].blocks
    assert block.title == "supplement, S1"
    bold = [(name, i) for name, cells in block.rows for i, cell in enumerate(cells) if cell and cell.bold]
    assert bold == [("VCLM (AnyMAL)", 1), ("StepDiff", 0), ("StepDiff", 2)], "as printed in the supplement"
    assert tables["Table S2"].columns[-1] == ("supplement, S2", "InternVideo")
    assert [cells[-1].main for _, cells in tables["Table S2"].blocks[0].rows if cells[-1]] == [
        "0.424",
        "0.413",
        "0.451",
    ]


ODD = r"a|b_*c* [d]\e <f> ~^ & % $x_1$ # {g} --- $\tau$ `h` \\ é ~~x~~ &amp; ``y'' ?`"
GRID = Grid(
    ODD,
    "method",
    [("DiffCap", "BLEU"), ("DiffCap", "τ"), ("", "p")],
    [
        Block("", [(ODD, [Cell("0.1", "[−0.2, 0.3]", True, "*"), None, Cell("†")]), ("*", [Cell("[x]"), None, None])]),
        Block(ODD, [("x", [None, None, None])]),
    ],
    [ODD],
)


@pytest.mark.parametrize(
    "name", [ODD, "a|b", "x\n| y | z |\n\n# t", "<script>alert(1)</script>", "[l](http://x.y) ![i](z)"]
)
def test_a_markdown_parser_reads_each_name_as_one_text(name: str) -> None:
    """In an independent Markdown parser the columns are those of the grid and each name is one text."""
    from markdown_it import MarkdownIt

    cells = [Cell(name), Cell(name), None]
    tokens = (
        MarkdownIt("commonmark")
        .enable(["table", "strikethrough"])
        .parse(to_markdown(Grid(name, name, [("", name)] * 3, [Block(name, [(name, cells)])], [name])))
    )
    kinds = {child.type for token in tokens for child in token.children or []}
    assert kinds <= {"text", "text_special", "em_open", "em_close"} and not any("html" in t.type for t in tokens)
    seen = ["".join(child.content for child in token.children or []) for token in tokens if token.type == "inline"]
    shown = " ".join(name.splitlines())
    assert [text for text in seen if text] == [*[shown] * 9, "\u2013", shown]
    assert sum(token.type == "tr_open" for token in tokens) == 3


def test_latex_renders_a_name_unchanged(made: list[Entry], tmp_path: Path) -> None:
    assert escape_latex("a\n\nb") == "a  b" and escape_latex("``y'' ?`") == "`{}`y'{}' ?{}`"
    document = to_latex([GRID, *grids(reported(made, paper=True))])
    for line in document.splitlines():
        if line.endswith(r" \\") and "multicolumn" not in line:
            plain = re.sub(r"\\[&%$#_{}]", "", line)
            assert not re.search(r"[%#_~^|<>]", plain.replace(r"\textasciitilde{}", "")), line
    assert document.count(r"\begin{tabular}") == document.count(r"\bottomrule") == 8
    compiler = shutil.which("pdflatex")
    if compiler is None:
        pytest.skip("no pdflatex on this machine to compile it")
    (tmp_path / "report.tex").write_text(document)
    command = [compiler, "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "report.pdf").stat().st_size > 10_000


def test_the_picture_has_one_panel_per_task(made: list[Entry]) -> None:
    def size(report: Report) -> tuple[int, int]:
        drawn = picture.draw(report)
        assert drawn is not None
        return Image.open(io.BytesIO(drawn)).size

    widths = []
    for tasks in (["diffrank"], ["diffmcq", "diffrank"], ["diffcap", "diffmcq", "diffrank"]):
        chosen = [entry for entry in made if entry.task in tasks and entry.pair == "average"]
        report = Report([s for s, _ in measure(chosen, 50, 0)], [], ["no video"], 50, False)
        widths.append(size(report)[0])
    assert widths[0] < widths[1] < widths[2]
    assert size(reported(made, paper=True, resamples=50))[1] > size(reported(made, resamples=50))[1]
    assert picture.draw(Report([], [], [], 50, False)) is None


def test_the_command_writes_every_form(made: list[Entry], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["--config", config(made, tmp_path / "report.yaml"), "--bootstrap", "50"]
    assert report.main(command) == 0
    printed = capsys.readouterr().out
    for piece in ("Table S1", "Table S4", "weak | $x_1$", "–", "Against the best baseline", "80 rows of 12 videos"):
        assert piece in printed
    out = tmp_path / "out"
    assert report.main([*command, "--json", "--out", str(out), "--paper", "true"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert json.loads((out / "report.json").read_text()) == record
    assert {path.name for path in out.iterdir()} == {"report.json", "report.md", "report.png", "report.tex"}
    assert len(record["comparisons"]) == 9
    assert record["scores"][0]["setting"] == {"task": "diffcap", "variant": "V1", "parsed": False, "pair": "average"}
    assert (out / "report.md").read_text().count("## ") == 7


def test_a_prediction_file_that_does_not_fit_is_refused_with_its_line(
    made: list[Entry], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    entry = next(e for e in made if e.task == "diffmcq")
    path = tmp_path / "said.jsonl"
    path.write_text("\n".join(Path(entry.predictions).read_text().splitlines()[:7]) + "\n")
    bad = Entry("StepDiff", "diffmcq", entry.test_set, str(path))
    assert report.main(["--config", config([bad], tmp_path / "report.yaml", controls=[])]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "said.jsonl:8: no such line: 7 predictions for 80 rows of the test set" in error
    with pytest.raises(StepDiffError, match="nowhere: no such file"):
        measure([Entry("a", "diffmcq", str(tmp_path / "nowhere"), str(path))], 0, 0)


def test_reports_contain_no_table_without_figures(made: list[Entry]) -> None:
    only = [entry for entry in made if entry.task == "diffrank"]
    found = grids(reported(only, paper=True))
    assert [grid.title.split(":")[0] for grid in found] == ["Table S3", "DiffRank", "Against the best baseline"]
