"""heads.report and heads.table: figures, comparisons, tables, and the files for readers."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from heads import report, table
from heads.methods.registry import Regime
from heads.reporting.entries import MethodTraining, PredictionEntry, Setting, comparable, trainings
from heads.reporting.figures import BaselineComparison, Measured, compare, measure
from heads.reporting.grid import Block, Cell, Grid, escape_latex, to_latex, to_markdown
from heads.reporting.tables import Report, grids
from heads.training.recipe import read_recipe
from heads.training.run_record import disclosure, regime
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.bootstrap import interval
from stepdiff_core.tasks.postprocess import parse
from stepdiff_core.tasks.prompts import SIMILAR_QUESTION
from stepdiff_core.tasks.registry import published
from stepdiff_core.tasks.scoring import PUBLISHED, score
from stepdiff_core.tasks.testsets import (
    read_predictions,
    read_test_set,
    write_predictions,
    write_test_set,
)
from store.lineage.answers import write_record
from tests.refusals import refuses

from .conftest import SKILL, Capture, config


def reported(measured: Measured) -> Report:
    scores = [score for score, _ in measured]
    return Report(scores, compare(measured, ["StepDiff"], ["no video"]), ["no video"], 200, True)


def test_figures_and_intervals_are_those_of_heads_score(
    entries: list[PredictionEntry], measured: Measured
) -> None:
    by_place = {(s.method, s.setting, s.metric): s for s, _ in measured}
    for entry in entries:
        rows = read_test_set(entry.task, entry.test_set)
        predicted = read_predictions(entry.task, entry.predictions, rows)
        for setting, predictions in (
            (entry.setting, predicted),
            *(
                []
                if entry.parsed
                else [(Setting("diffcap"), [parse(caption) for caption in predicted])]
            ),
        ):
            expected = score(entry.task, rows, predictions, 200, 0)
            for metric in (*PUBLISHED[entry.task].figures, *PUBLISHED[entry.task].further):
                if metric.startswith(("declined", "invented")):
                    continue  # every pair of these rows differs
                own = by_place.pop((entry.method, setting, metric))
                assert own.value == expected[metric]
                assert own.interval == tuple(expected["intervals"][metric])
                assert (own.rows, own.videos) == (80, expected["videos"])
    assert not by_place


def test_ours_are_compared_with_the_highest_baseline(measured: Measured) -> None:
    values = {(s.method, s.setting, s.metric): (s, v) for s, v in measured}
    comparisons = compare(measured, ["StepDiff"], ["no video"])
    # raw and parsed captions of three figures, V1, both ranks; V3 has no baseline
    assert len(comparisons) == 9
    for comparison in comparisons:
        assert comparison.method == "StepDiff"
        place = (comparison.setting, comparison.metric)
        others = {name: values[name, *place][0].value for name in SKILL if (name, *place) in values}
        assert comparison.baseline == max(
            ["VLEmb", "weak | $x_1$"], key=lambda name: others.get(name) or -1.0
        )
        assert comparison.difference == others["StepDiff"] - others[comparison.baseline]
        differences = values["StepDiff", *place][1] - values[comparison.baseline, *place][1]
        assert comparison.interval == interval(differences, 12)
        assert comparison.corrected_p >= comparison.p
    choice = next(c for c in comparisons if c.setting == Setting("diffmcq"))
    assert choice.baseline == "VLEmb" and choice.difference > 0


@pytest.mark.full
def test_only_figures_on_the_same_rows_are_compared(
    entries: list[PredictionEntry], tmp_path: Path
) -> None:
    entry = next(
        e for e in entries if (e.method, e.task, e.pair) == ("VLEmb", "diffmcq", "average")
    )
    rows = read_test_set("diffmcq", entry.test_set)
    write_test_set("diffmcq", tmp_path / "copy.jsonl", rows)
    write_test_set("diffmcq", tmp_path / "fewer.jsonl", rows[:50])
    predicted = read_predictions("diffmcq", entry.predictions, rows)
    write_predictions("diffmcq", tmp_path / "said.jsonl", predicted[:50])

    def baseline(test_set: str, predictions: str) -> tuple[str, list[str]]:
        other = PredictionEntry("VLEmb", "diffmcq", str(tmp_path / test_set), predictions)
        report = reported(measure([other if e is entry else e for e in entries], 200, seed=0))
        grid = next(g for g in grids(report) if "S3" in g.title)
        return next(
            c.baseline for c in report.comparisons if c.setting == Setting("diffmcq")
        ), grid.notes

    assert baseline("copy.jsonl", entry.predictions)[0] == "VLEmb", "the same rows in another file"
    name, notes = baseline("fewer.jsonl", str(tmp_path / "said.jsonl"))
    assert name == "weak | $x_1$"
    assert any(
        re.search(r"DiffMCQ V1: .*80 rows of 12 videos for StepDiff.*; 50 rows .* for VLEmb", n)
        for n in notes
    )


@pytest.mark.full
def test_a_method_of_several_seeds_has_the_mean_of_its_figures(
    entries: list[PredictionEntry], tmp_path: Path
) -> None:
    own = next(e for e in entries if (e.task, e.method, e.variant) == ("diffmcq", "StepDiff", "V1"))
    weak = next(e for e in entries if e.task == "diffmcq" and e.method.startswith("weak"))
    trainings = [replace(own, seed=0), replace(weak, method="StepDiff", seed=1)]
    apart = [measure([entry], 200, 0)[0] for entry in trainings]
    ((score, values),) = measure(trainings, 200, 0)
    assert score.seeds == tuple(results.value for results, _ in apart)
    assert score.value == sum(score.seeds) / 2
    mean = (apart[0][1] + apart[1][1]) / 2
    assert np.allclose(values, mean, rtol=0, atol=1e-15) and score.interval == interval(
        values, score.videos
    )
    grid, differing = grids(Report([score], [], [], 200, False))[-2:]
    assert (
        "Mean over trainings that differ only in their seed: StepDiff 2 (table of trainings)."
        in grid.notes
    )
    ((name, (cell,)),) = differing.blocks[0].rows
    assert (differing.columns, name) == (
        [("", "StepDiff")],
        "DiffMCQ V1 accuracy",
    ) and cell is not None
    alone = replace(score, setting=replace(score.setting, pair="reference"))
    (row,) = grids(Report([alone], [], [], 200, False))[-1].blocks[0].rows
    assert row[0] == "DiffMCQ V1 accuracy, V_r only"
    assert cell.main == f"{np.mean(score.seeds):.3f} ± {np.std(score.seeds, ddof=1):.3f}"
    assert (
        len(grids(Report([apart[0][0]], [], [], 200, False)))
        == len(grids(Report([score], [], [], 200, False))) - 1
    )
    rows = read_test_set("diffmcq", weak.test_set)
    predicted = read_predictions("diffmcq", weak.predictions, rows)
    write_test_set("diffmcq", tmp_path / "fewer.jsonl", rows[:50])
    write_predictions("diffmcq", tmp_path / "said.jsonl", predicted[:50])
    other = PredictionEntry(
        "StepDiff", "diffmcq", str(tmp_path / "fewer.jsonl"), str(tmp_path / "said.jsonl"), seed=1
    )
    with pytest.raises(StepDiffError, match="seeds on different rows"):
        measure([trainings[0], other], 20, 0)
    with pytest.raises(StepDiffError, match="some entries have a seed and one has none"):
        measure([own, trainings[0]], 20, 0)


def test_seed_in_a_file_name_is_replaced_by_each_training(
    entries: list[PredictionEntry], tmp_path: Path
) -> None:
    entry = next(
        e for e in entries if (e.task, e.method, e.variant) == ("diffmcq", "StepDiff", "V1")
    )
    for seed in range(2):
        shutil.copy(entry.predictions, tmp_path / f"said_{seed}.jsonl")
    named = replace(entry, predictions=str(tmp_path / "said_{seed}.jsonl"))
    assert [Path(e.predictions).name for e in named.trainings(2)] == [
        "said_0.jsonl",
        "said_1.jsonl",
    ]
    assert [e.seed for e in named.trainings(2)] == [0, 1]
    assert entry.trainings(2) == [entry]
    path = config([named], tmp_path / "report.yaml", controls=[])
    assert report.main(["--config", path, "--seeds", "2", "--bootstrap", "20", "--json"]) == 0
    assert report.main(["--config", path, "--seeds", "0"]) == 2


def test_an_invalid_entry_is_refused(
    entries: list[PredictionEntry], tmp_path: Path, capsys: Capture
) -> None:
    choice = next(e for e in entries if e.task == "diffmcq")
    short, path = tmp_path / "said.jsonl", tmp_path / "report.yaml"
    short.write_text("\n".join(Path(choice.predictions).read_text().splitlines()[:7]) + "\n")
    ours = PredictionEntry("StepDiff", "diffmcq", "t", "p")
    for arguments, more, message in (
        (
            [replace(ours, task="diffrank", variant="V2")],
            {},
            "entry 1 (StepDiff, p): variant and pair are for diffmcq",
        ),
        ([replace(ours, parsed=False)], {}, "entry 1 (StepDiff, p): only captions of diffcap"),
        (
            [ours, replace(ours, predictions="q")],
            {},
            "entry 2 (StepDiff, q): entry 1 has the same place",
        ),
        ([], {}, "no predictions to report on"),
        ([replace(ours, method="b")], {}, "'StepDiff' is not among the methods: b"),
        (
            [replace(choice, method="StepDiff", predictions=str(short))],
            {},
            "said.jsonl:8: no such line",
        ),
        (
            entries,
            {"controls": ["no video"], "baselines": ["StepDiff"]},
            "listed as ours and as a baseline",
        ),
    ):
        refuses(
            report.main,
            ["--config", config(arguments, path, **{"controls": []} | more)],
            capsys,
            message,
        )


def test_a_figure_that_is_undefined_says_so(entries: list[PredictionEntry], tmp_path: Path) -> None:
    entry = next(e for e in entries if e.task == "diffrank")
    for name, predicted in (
        ("all", [[1.0] * 4] * 80),
        ("one", [[1.0] * 4] + [[1.0, 2.0, 3.0, 4.0]] * 79),
    ):
        write_predictions("diffrank", tmp_path / f"{name}.jsonl", predicted)
    methods = [
        PredictionEntry(name, "diffrank", entry.test_set, str(tmp_path / f"{name}.jsonl"))
        for name in ("all", "one")
    ]
    measured = measure(methods, 50, 0)
    grid, within = grids(
        Report([s for s, _ in measured], compare(measured, ["all"], []), [], 50, False)
    )
    assert dict(within.blocks[0].rows)["all"] == [Cell("undefined")] * 2
    rows = dict(grid.blocks[0].rows)
    assert rows["all"][-1] == Cell("undefined")
    # -1 in 79 of 80 rows, and 0 in the row without an order
    assert rows["one"][-1].main == "−0.988"
    assert (
        "DiffRank: τ counts as 0 in rows to which a method gives no order: all 80, one 1."
        in grid.notes
    )


def test_captions_of_pairs_that_agree_have_no_bleu(
    entries: list[PredictionEntry], tmp_path: Path
) -> None:
    entry = next(e for e in entries if (e.task, e.method) == ("diffcap", "StepDiff"))
    caps = read_test_set("diffcap", entry.test_set)
    predicted = read_predictions("diffcap", entry.predictions, caps)
    both, none = [*caps, *(replace(row, text=()) for row in caps[:20])], "There is no difference."
    write_test_set("diffcap", tmp_path / "both.jsonl", both)
    write_predictions(
        "diffcap", tmp_path / "said.jsonl", [none, *predicted[1:], none, *predicted[1:20]]
    )
    other = PredictionEntry(
        "StepDiff",
        "diffcap",
        str(tmp_path / "both.jsonl"),
        str(tmp_path / "said.jsonl"),
        parsed=False,
    )
    measured = measure([other], 50, 0)
    by_place = {(s.setting.parsed, s.metric): s for s, _ in measured}
    plain = score("diffcap", caps, [none, *predicted[1:]], 0)
    assert (by_place[False, "BLEU"].value, by_place[False, "BLEU"].rows) == (plain["BLEU"], 80)
    assert (by_place[True, "invented"].value, by_place[True, "invented"].rows) == (19 / 20, 20)
    assert (by_place[True, "declined"].value, by_place[True, "declined"].rows) == (1 / 80, 80)
    assert (False, "invented") not in by_place
    table = grids(Report([s for s, _ in measured], [], [], 50, False))[-1]
    assert table.columns == [
        ("DiffCap, pairs that agree", "invented a difference, as written"),
        ("DiffCap, pairs that differ", "declined, as written"),
    ]
    assert not any(
        cell.bold for _, cells in table.blocks[0].rows for cell in cells if cell is not None
    )
    assert "Bold" not in table.notes[-1] and any(
        "pairs that agree: 20 rows of" in note for note in table.notes
    )


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
    for name in blocks:
        ours, results = {row.method: tuple(row.figures.values()) for row in published(name)}, {}
        for line in blocks[name].strip().splitlines():
            method, *values = re.sub(r"</?b>|<b>", "", line).split("\t")
            method = names.get(method, re.sub(r" \[\d+\]$", "", method))
            if name != "S2" or method in names.values():
                results[method.replace("Step desc.", "step desc.")] = tuple(map(float, values))
        assert results == ours and list(results) == list(ours)


ODD = r"a|b_*c* [d]\e <f> ~^ & % $x_1$ # {g} --- $\tau$ `h` \\ é ~~x~~ &amp; ``y'' ?`"
GRID = Grid(
    ODD,
    "method",
    [("DiffCap", "BLEU"), ("DiffCap", "τ"), ("", "p")],
    [
        Block(
            "",
            [
                (ODD, [Cell("0.1", "[−0.2, 0.3]", True, "*"), None, Cell("†")]),
                ("*", [Cell("[x]"), None, None]),
            ],
        ),
        Block(ODD, [("x", [None, None, None])]),
    ],
    [ODD],
)


@pytest.mark.parametrize(
    "name",
    [ODD, "a|b", "x\n| y | z |\n\n# t", "<script>alert(1)</script>", "[l](http://x.y) ![i](z)"],
)
def test_a_markdown_parser_reads_each_name_as_one_text(name: str) -> None:
    """In an independent Markdown parser the columns are those of the grid and each name is one
    text."""
    from markdown_it import MarkdownIt

    cells = [Cell(name), Cell(name), None]
    tokens = (
        MarkdownIt("commonmark")
        .enable(["table", "strikethrough"])
        .parse(
            to_markdown(Grid(name, name, [("", name)] * 3, [Block(name, [(name, cells)])], [name]))
        )
    )
    kinds = {child.type for token in tokens for child in token.children or []}
    assert kinds <= {"text", "text_special", "em_open", "em_close"} and not any(
        "html" in t.type for t in tokens
    )
    seen = [
        "".join(child.content for child in token.children or [])
        for token in tokens
        if token.type == "inline"
    ]
    shown = " ".join(name.splitlines())
    assert [text for text in seen if text] == [*[shown] * 9, "\u2013", shown]
    assert sum(token.type == "tr_open" for token in tokens) == 3


@pytest.mark.full
def test_latex_renders_a_name_unchanged(measured: Measured, tmp_path: Path) -> None:
    assert escape_latex("a\n\nb") == "a  b" and escape_latex("``y'' ?`") == "`{}`y'{}' ?{}`"
    document = to_latex([GRID, *grids(reported(measured))])
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


def test_the_command_writes_every_form(
    entries: list[PredictionEntry], tmp_path: Path, capsys: Capture
) -> None:
    command = ["--config", config(entries, tmp_path / "report.yaml"), "--bootstrap", "50"]
    assert report.main(command) == 0
    printed = capsys.readouterr().out
    for piece in (
        "Table S1",
        "Table S4",
        "weak | $x_1$",
        "–",
        "Against the best baseline",
        "80 rows of 12 videos",
    ):
        assert piece in printed
    out = tmp_path / "out"
    assert report.main([*command, "--json", "--out", str(out), "--paper", "true"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert json.loads((out / "report.json").read_text()) == record
    assert {path.name for path in out.iterdir()} == {
        "report.json",
        "report.md",
        "report.png",
        "report.tex",
    }
    assert len(record["comparisons"]) == 9
    assert record["scores"][0]["setting"] == {
        "task": "diffcap",
        "variant": "V1",
        "parsed": False,
        "pair": "average",
    }
    assert (out / "report.md").read_text().count("## ") == 7


KNOWN = [
    MethodTraining("StepDiff", "s1", "paired QA", 1990),
    MethodTraining("VLEmb", "supervised", "paired QA with DiffRank's question"),
    MethodTraining("no video", "none"),
]


def test_baselines_had_no_more_supervision(
    entries: list[PredictionEntry], measured: Measured
) -> None:
    def compared(methods: list[MethodTraining]) -> list[BaselineComparison]:
        return compare(measured, ["StepDiff"], ["no video"], trainings(methods, entries))

    def baseline(ours: Regime, theirs: Regime) -> str:
        methods = [MethodTraining("StepDiff", ours), MethodTraining("VLEmb", theirs)]
        return next(c.baseline for c in compared(methods) if c.metric == "accuracy")

    assert (
        baseline("supervised", "supervised")
        == baseline("supervised", "s1")
        == baseline("s1", "none")
        == "VLEmb"
    )
    assert baseline("s1", "supervised") == baseline("none", "s1") == "weak | $x_1$", (
        "VLEmb is the best"
    )
    assert comparable("a", "b", {"b": MethodTraining("b", "supervised")}), (
        "unknown regimes are compared"
    )
    scores, expected = [score for score, _ in measured], trainings(KNOWN, entries)
    note = " ".join(
        grids(Report(scores, compared(KNOWN), ["no video"], 200, True, expected))[-1].notes
    )
    assert "A baseline with more supervision than ours is not compared" in note


def test_steps_or_a_regime_against_the_record_are_refused(
    entries: list[PredictionEntry], tmp_path: Path
) -> None:
    entry = next(
        e for e in entries if (e.method, e.task, e.variant) == ("StepDiff", "diffmcq", "V1")
    )
    texts, record = tmp_path / "said.jsonl", tmp_path / "said.scores.json"
    texts.write_bytes(Path(entry.predictions).read_bytes())
    arguments = [replace(entry, predictions=str(texts))]
    record.write_text(json.dumps({"disclosed": {"recipe": {"optimiser_steps": 1990}}}))
    assert trainings([], arguments) == {"StepDiff": MethodTraining("StepDiff", steps=1990)}, (
        "from the record"
    )
    assert trainings(KNOWN[:1], arguments) == {"StepDiff": KNOWN[0]}
    supervised = {"disclosed": {"recipe": {"regime": "supervised"}}}
    for recorded, methods, message in (
        (
            None,
            [MethodTraining("StepDiff", "s1", steps=340)],
            "StepDiff has steps 340, but the score record of .* 1990",
        ),
        (supervised, KNOWN[:1], "StepDiff has regime s1, but the score record of .* supervised"),
        (None, [MethodTraining("x")], "'x' has no predictions"),
        (None, [KNOWN[0], KNOWN[0]], "'StepDiff' is listed twice"),
    ):
        if recorded:
            record.write_text(json.dumps(recorded))
        with pytest.raises(StepDiffError, match=message):
            trainings(methods, arguments)


def test_the_disclosure_counts_the_steps_of_earlier_runs(trained: Path) -> None:
    recipe = read_recipe(trained / "recipe.yaml").video_lm
    assert recipe is not None
    disclosed = disclosure(recipe, trained)
    assert disclosed["optimiser_steps"] == 6
    lineage = trained / "lineage.json"
    before = lineage.read_text()
    try:
        for earlier, expected in ((1500, 1506), (None, None)):
            write_record(trained, json.loads(before) | {"init": {"optimiser_steps": earlier}})
            assert disclosure(recipe, trained)["optimiser_steps"] == expected
        write_record(trained, json.loads(before) | {"init": {"trained": 150}})
        assert disclosure(recipe, trained)["optimiser_steps"] is None, (
            "written by an earlier version"
        )
    finally:
        lineage.write_text(before)


def test_a_training_with_diffranks_question_is_supervised(trained: Path, tmp_path: Path) -> None:
    recipe = read_recipe(trained / "recipe.yaml").video_lm
    assert recipe is not None
    path = tmp_path / "pairqa.jsonl"

    def of(category: str, init: dict | None = None, sources: tuple = ("pairs",)) -> str | None:
        path.write_text(json.dumps({"question": SIMILAR_QUESTION.format(category=category)}) + "\n")
        return regime(replace(recipe, pairqa=str(path), sources=sources), init)

    assert of("Visuals") == "supervised" and of("main action") == "s1", (
        "S1 asks about the main action"
    )
    assert of("Visuals", None, ("clips",)) == "s1"
    assert of("main action", {"regime": "supervised"}) == "supervised"
    assert of("main action", {}) is None and of("Visuals", {}) == "supervised"


def written(path: Path, options: dict, disclosed: dict, scores: dict) -> str:
    arguments = {
        "task": "diffmcq",
        "view": None,
        "head": None,
        "control": "none",
        "test_set": "diffmcq_test.jsonl",
    }
    record = {
        "options": arguments | options,
        "disclosed": disclosed,
        "scores": {**scores, "intervals": {}, "rows": 9},
    }
    path.write_text(json.dumps(record))
    return str(path)


def test_each_cell_has_one_figure(tmp_path: Path, capsys: Capture) -> None:
    """Tasks of one method share a row; a second test set of a task does not silently replace the
    first."""
    method, taus = (
        {"method": "vlemb", "view": "aligned"},
        {"ktau_all_rows": 0.25, "ktau_within_step_all_rows": 0.125},
    )
    rank = written(tmp_path / "r.scores.json", method | {"task": "diffrank"}, {}, taus)
    first = written(tmp_path / "v1.scores.json", method, {}, {"accuracy": 0.4})
    other = written(tmp_path / "v2.scores.json", method, {}, {"accuracy": 0.3})
    assert table.main([first, rank, "--json"]) == 0
    (row,) = [
        row
        for name, row in json.loads(capsys.readouterr().out)["systems"].items()
        if name != "chance"
    ]
    assert (row["accuracy"]["value"], row["ktau_all_rows"]["value"]) == (0.4, 0.25)
    refuses(
        table.main,
        [first, rank, other],
        capsys,
        "v2.scores.json: a second diffmcq of VLEmb (aligned)",
    )


def test_the_name_of_a_test_sets_file_gives_its_variant(tmp_path: Path, capsys: Capture) -> None:
    paths = [
        written(
            tmp_path / f"{number}.scores.json",
            {"method": "random", "test_set": name},
            {},
            {"accuracy": value},
        )
        for number, (name, value) in enumerate(
            [("x/diffmcq_test.jsonl", 0.1), ("V3/diffmcq_V2.jsonl", 0.2), ("a_V3_b.jsonl", 0.3)]
        )
    ]
    assert table.main([*paths, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["systems"]["control: random scores"]
    assert [row[f"accuracy{form}"]["value"] for form in ("", "_V2", "_V3")] == [0.1, 0.2, 0.3]
    assert row["rows"] == {"diffmcq": 9, "diffmcq_V2": 9, "diffmcq_V3": 9}
    assert table.main(paths[:2]) == 0
    heading = capsys.readouterr().out
    assert "V2" in heading and "V3" not in heading, "a column without figures is left out"
