"""heads.report: figures, comparisons and tables."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.errors import StepDiffError
from heads import report
from heads.reporting import figures
from heads.reporting.entries import Entry, Setting, check_entries
from heads.reporting.figures import Score, compare, measure
from heads.reporting.grid import Cell
from heads.reporting.picture import draw
from heads.reporting.tables import Report, grids
from tasks.bootstrap import interval
from tasks.postprocess import parse
from tasks.scoring import score
from tasks.testsets import read_predictions, read_test_set, write_predictions, write_test_set

from .conftest import SKILL, config, reported


def test_figures_and_intervals_are_those_of_heads_score(made: list[Entry]) -> None:
    found = {(s.method, s.setting, s.metric): s for s, _ in measure(made, 200, seed=0)}
    for entry in made:
        rows = read_test_set(entry.task, entry.test_set)
        predicted = read_predictions(entry.task, entry.predictions, rows)
        for setting, predictions in (
            (entry.setting, predicted),
            *([] if entry.parsed else [(Setting("diffcap"), [parse(caption) for caption in predicted])]),
        ):
            expected = score(entry.task, rows, predictions, 200, 0)
            for metric in figures.METRICS[entry.task] + figures.ADDITIONAL[entry.task]:
                if metric.startswith(("declined", "invented")):
                    continue  # every pair of these rows differs
                own = found.pop((entry.method, setting, metric))
                assert own.value == expected[metric]
                assert own.interval == tuple(expected["intervals"][metric])
                assert (own.rows, own.videos) == (80, expected["videos"])
    assert not found


def test_ours_are_compared_with_the_highest_baseline_on_the_same_resamples(made: list[Entry]) -> None:
    measured = measure(made, 200, seed=0)
    values = {(s.method, s.setting, s.metric): (s, v) for s, v in measured}
    found = compare(measured, ["StepDiff"], ["no video"])
    assert len(found) == 9  # raw and parsed captions of three figures, V1, both ranks; V3 has no baseline
    for comparison in found:
        assert comparison.method == "StepDiff"
        place = (comparison.setting, comparison.metric)
        others = {name: values[name, *place][0].value for name in SKILL if (name, *place) in values}
        assert comparison.baseline == max(["VLEmb", "weak | $x_1$"], key=lambda name: others.get(name) or -1.0)
        assert comparison.difference == others["StepDiff"] - others[comparison.baseline]
        differences = values["StepDiff", *place][1] - values[comparison.baseline, *place][1]
        assert comparison.interval == interval(differences, 12)
        assert comparison.corrected_p >= comparison.p
    choice = next(c for c in found if c.setting == Setting("diffmcq"))
    assert choice.baseline == "VLEmb" and choice.difference > 0


def test_only_figures_on_the_same_rows_are_compared(made: list[Entry], tmp_path: Path) -> None:
    entry = next(e for e in made if (e.method, e.task, e.pair) == ("VLEmb", "diffmcq", "average"))
    rows = read_test_set("diffmcq", entry.test_set)
    write_test_set("diffmcq", tmp_path / "copy.jsonl", rows)
    write_test_set("diffmcq", tmp_path / "fewer.jsonl", rows[:50])
    predicted = read_predictions("diffmcq", entry.predictions, rows)
    write_predictions("diffmcq", tmp_path / "said.jsonl", predicted[:50])

    def baseline(test_set: str, predictions: str) -> tuple[str, list[str]]:
        other = Entry("VLEmb", "diffmcq", str(tmp_path / test_set), predictions)
        report = reported([other if e is entry else e for e in made])
        grid = next(g for g in grids(report) if "S3" in g.title)
        return next(c.baseline for c in report.comparisons if c.setting == Setting("diffmcq")), grid.notes

    assert baseline("copy.jsonl", entry.predictions)[0] == "VLEmb", "the same rows in another file"
    name, notes = baseline("fewer.jsonl", str(tmp_path / "said.jsonl"))
    assert name == "weak | $x_1$"
    assert any(re.search(r"DiffMCQ V1: .*80 rows of 12 videos for StepDiff.*; 50 rows .* for VLEmb", n) for n in notes)


def test_given_parsed_captions_replace_those_parsed_here(made: list[Entry], tmp_path: Path) -> None:
    raw = next(entry for entry in made if entry.task == "diffcap")
    write_predictions("diffcap", tmp_path / "other.jsonl", ["something else"] * 80)
    brought = Entry(raw.method, "diffcap", raw.test_set, str(tmp_path / "other.jsonl"))
    found = [s for s, _ in measure([raw, brought], 0, 0) if s.metric == "BLEU"]
    assert [s.setting.parsed for s in found] == [False, True]
    assert found[1].value is not None and found[1].value < 1e-9
    assert all(s.interval is None for s in found), "no resamples, no intervals"


def test_a_method_of_several_seeds_has_the_mean_of_its_figures(made: list[Entry], tmp_path: Path) -> None:
    own = next(e for e in made if (e.task, e.method, e.variant) == ("diffmcq", "StepDiff", "V1"))
    weak = next(e for e in made if e.task == "diffmcq" and e.method.startswith("weak"))
    trainings = [replace(own, seed=0), replace(weak, method="StepDiff", seed=1)]
    apart = [measure([entry], 200, 0)[0] for entry in trainings]
    ((score, values),) = measure(trainings, 200, 0)
    assert score.seeds == tuple(found.value for found, _ in apart)
    assert score.value == sum(score.seeds) / 2
    mean = (apart[0][1] + apart[1][1]) / 2
    assert np.allclose(values, mean, rtol=0, atol=1e-15) and score.interval == interval(values, score.videos)
    grid, differing = grids(Report([score], [], [], 200, False))[-2:]
    assert "Mean over trainings that differ only in their seed: StepDiff 2 (table of trainings)." in grid.notes
    ((name, (cell,)),) = differing.blocks[0].rows
    assert (differing.columns, name) == ([("", "StepDiff")], "DiffMCQ V1 accuracy") and cell is not None
    alone = replace(score, setting=replace(score.setting, pair="reference"))
    (row,) = grids(Report([alone], [], [], 200, False))[-1].blocks[0].rows
    assert row[0] == "DiffMCQ V1 accuracy, V_r only"
    assert cell.main == f"{np.mean(score.seeds):.3f} ± {np.std(score.seeds, ddof=1):.3f}"
    assert len(grids(Report([apart[0][0]], [], [], 200, False))) == len(grids(Report([score], [], [], 200, False))) - 1
    rows = read_test_set("diffmcq", weak.test_set)
    predicted = read_predictions("diffmcq", weak.predictions, rows)
    write_test_set("diffmcq", tmp_path / "fewer.jsonl", rows[:50])
    write_predictions("diffmcq", tmp_path / "said.jsonl", predicted[:50])
    other = Entry("StepDiff", "diffmcq", str(tmp_path / "fewer.jsonl"), str(tmp_path / "said.jsonl"), seed=1)
    with pytest.raises(StepDiffError, match="seeds on different rows"):
        measure([trainings[0], other], 20, 0)
    with pytest.raises(StepDiffError, match="some entries have a seed and one has none"):
        measure([own, trainings[0]], 20, 0)


def test_a_figure_that_rounds_to_zero_has_no_sign_and_is_equally_bold() -> None:
    def tau(method: str, value: float) -> Score:
        return Score(method, Setting("diffrank"), "ktau_all_rows", value, None, 9, 9, 0, "set")

    (grid,) = [g for g in grids(Report([tau("a", 0.0), tau("b", -0.0002)], [], [], 0, False)) if "S3" in g.title]
    cells = [cell for _, row in grid.blocks[0].rows for cell in row if cell is not None]
    assert [(cell.main, cell.bold) for cell in cells] == [("0.000", True)] * 2


def test_seed_in_the_name_of_predictions_is_replaced_by_each_training(made: list[Entry], tmp_path: Path) -> None:
    entry = next(e for e in made if (e.task, e.method, e.variant) == ("diffmcq", "StepDiff", "V1"))
    for seed in range(2):
        shutil.copy(entry.predictions, tmp_path / f"said_{seed}.jsonl")
    named = replace(entry, predictions=str(tmp_path / "said_{seed}.jsonl"))
    assert [Path(e.predictions).name for e in named.trainings(2)] == ["said_0.jsonl", "said_1.jsonl"]
    assert [e.seed for e in named.trainings(2)] == [0, 1]
    assert entry.trainings(2) == [entry]
    path = config([named], tmp_path / "report.yaml", controls=[])
    assert report.main(["--config", path, "--seeds", "2", "--bootstrap", "20", "--json"]) == 0
    assert report.main(["--config", path, "--seeds", "0"]) == 2


REFUSED = [
    ([Entry("a", "diffrank", "t", "p", variant="V2")], "entry 1 (a, p): variant and pair are for diffmcq"),
    ([Entry("a", "diffmcq", "t", "p", parsed=False)], "entry 1 (a, p): only captions of diffcap can be raw or parsed"),
    ([Entry("a", "diffmcq", "t", "p"), Entry("a", "diffmcq", "t", "q")], "entry 2 (a, q): entry 1 has the same place"),
    ([], "no predictions to report on"),
    ([Entry("b", "diffmcq", "t", "p")], "'a' is not among the methods: b"),
]


@pytest.mark.parametrize(("entries", "message"), REFUSED)
def test_an_invalid_entry_is_refused(entries: list[Entry], message: str) -> None:
    with pytest.raises(StepDiffError, match=f"^{re.escape(message)}"):
        check_entries(entries, ["a"], [])


def test_a_control_is_never_the_best_of_a_column(made: list[Entry]) -> None:
    def bold(controls: list[str]) -> list[bool]:
        report = replace(reported(made), controls=controls)
        (grid,) = [grid for grid in grids(report) if grid.title.startswith("Table S2")]
        return [cell.bold for _, cells in grid.blocks[0].rows for cell in cells if cell is not None]

    assert any(bold([])) and not any(bold(["VLEmb"]))


def test_a_figure_that_was_not_measured_is_a_dash_and_the_best_is_bold(made: list[Entry]) -> None:
    tables = {grid.title.split(":")[0]: grid for grid in grids(reported(made, resamples=10_000))}
    assert list(tables) == [
        "Table S1",
        "DiffCap, captions parsed to the form of the annotations",
        "Table S2",
        "Table S3",
        "Table S4",
        "DiffRank",
        "Against the best baseline",
    ]
    first, controls = tables["Table S3"].blocks
    rows = dict(first.rows)
    assert [cell is None for cell in rows["VLEmb"]] == [True, True, True, False, False]
    assert all(cell is not None and cell.bold and cell.mark == "*" for cell in rows["StepDiff"][3:])
    assert "95 % intervals from 10000 resamples of the reference videos" in tables["Table S3"].notes[-1]
    ((name, cells),) = controls.rows
    assert name == "no video" and not any(cell is not None and cell.bold for cell in cells)
    assert "VLEmb" not in dict(tables["Table S1"].blocks[0].rows), "a row with only dashes is left out"
    assert [cells[0] is None for _, cells in tables["Table S2"].blocks[0].rows] == [False, True, False]
    assert [heading for _, heading in tables["Table S4"].columns] == ["accuracy"] * 3
    (note,) = tables["Against the best baseline"].notes
    assert "corrected for 9 comparisons (Holm)" in note


def test_the_table_says_so_if_the_resamples_are_too_few(made: list[Entry]) -> None:
    grid = grids(reported(made, resamples=200))[-1]
    assert "200 resamples of 12 videos are too few for a mark among 9" in grid.notes[-1]
    assert not any(cell is not None and cell.mark for _, cells in grid.blocks[0].rows for cell in cells)


def test_a_figure_that_is_undefined_says_so(made: list[Entry], tmp_path: Path) -> None:
    entry = next(e for e in made if e.task == "diffrank")
    for name, predicted in (("all", [[1.0] * 4] * 80), ("one", [[1.0] * 4] + [[1.0, 2.0, 3.0, 4.0]] * 79)):
        write_predictions("diffrank", tmp_path / f"{name}.jsonl", predicted)
    methods = [Entry(name, "diffrank", entry.test_set, str(tmp_path / f"{name}.jsonl")) for name in ("all", "one")]
    measured = measure(methods, 50, 0)
    grid, within = grids(Report([s for s, _ in measured], compare(measured, ["all"], []), [], 50, False))
    assert dict(within.blocks[0].rows)["all"] == [Cell("undefined")] * 2
    rows = dict(grid.blocks[0].rows)
    assert rows["all"][-1] == Cell("undefined")
    assert rows["one"][-1].main == "−0.988"  # -1 in 79 of 80 rows, and 0 in the row without an order
    assert "DiffRank: τ counts as 0 in rows to which a method gives no order: all 80, one 1." in grid.notes


def test_tau_within_the_step_of_a_method_that_knows_only_the_step_is_undefined(
    made: list[Entry], tmp_path: Path
) -> None:
    entry = next(e for e in made if (e.task, e.method) == ("diffrank", "StepDiff"))
    ranks = read_test_set("diffrank", entry.test_set)
    write_predictions("diffrank", tmp_path / "step.jsonl", [[float(s > 0) for s in row.scores] for row in ranks])
    step = Entry("knowing the step", "diffrank", entry.test_set, str(tmp_path / "step.jsonl"))
    measured = measure([entry, step], 50, 0)
    comparisons = compare(measured, ["StepDiff"], [])
    assert [c.metric for c in comparisons] == ["ktau_all_rows"], "an undefined figure is not compared"
    grid = next(g for g in grids(Report([s for s, _ in measured], comparisons, [], 50, False)) if "own step" in g.title)
    assert grid.columns == [("DiffRank", "τ"), ("DiffRank within the step", "τ")]
    rows = dict(grid.blocks[0].rows)
    assert rows["knowing the step"][0] != Cell("undefined") and rows["knowing the step"][1] == Cell("undefined")
    predicted = read_predictions("diffrank", entry.predictions, ranks)
    expected = score("diffrank", ranks, predicted, 0)["ktau_within_step"]
    assert rows["StepDiff"][1].main == f"{expected:.3f}" and rows["StepDiff"][1].bold


def test_captions_of_pairs_that_agree_have_no_bleu(made: list[Entry], tmp_path: Path) -> None:
    entry = next(e for e in made if (e.task, e.method) == ("diffcap", "StepDiff"))
    caps = read_test_set("diffcap", entry.test_set)
    predicted = read_predictions("diffcap", entry.predictions, caps)
    both, none = [*caps, *(replace(row, text=()) for row in caps[:20])], "There is no difference."
    write_test_set("diffcap", tmp_path / "both.jsonl", both)
    write_predictions("diffcap", tmp_path / "said.jsonl", [none, *predicted[1:], none, *predicted[1:20]])
    other = Entry("StepDiff", "diffcap", str(tmp_path / "both.jsonl"), str(tmp_path / "said.jsonl"), parsed=False)
    measured = measure([other], 50, 0)
    found = {(s.setting.parsed, s.metric): s for s, _ in measured}
    plain = score("diffcap", caps, [none, *predicted[1:]], 0)
    assert (found[False, "BLEU"].value, found[False, "BLEU"].rows) == (plain["BLEU"], 80)
    assert (found[True, "invented"].value, found[True, "invented"].rows) == (19 / 20, 20)
    assert (found[True, "declined"].value, found[True, "declined"].rows) == (1 / 80, 80)
    assert (False, "invented") not in found
    table = grids(Report([s for s, _ in measured], [], [], 50, False))[-1]
    assert table.columns == [
        ("DiffCap, pairs that agree", "invented a difference, as written"),
        ("DiffCap, pairs that differ", "declined, as written"),
    ]
    assert not any(cell.bold for _, cells in table.blocks[0].rows for cell in cells if cell is not None)
    assert "Bold" not in table.notes[-1] and any("pairs that agree: 20 rows of" in note for note in table.notes)


def test_captions_with_similar_are_measured_as_written_and_as_if_the_method_had_been_asked_first(
    made: list[Entry], tmp_path: Path
) -> None:
    entry = next(e for e in made if (e.task, e.method) == ("diffcap", "StepDiff"))
    caps = read_test_set("diffcap", entry.test_set)
    predicted = read_predictions("diffcap", entry.predictions, caps)
    write_test_set("diffcap", tmp_path / "both.jsonl", [*caps, *(replace(row, text=()) for row in caps[:20])])
    similar = [-0.5] * 78 + [0.0, 0.1] + [0.3] * 15 + [-0.1] * 5
    said = [*predicted, "There is no difference.", *predicted[1:20]]
    write_predictions("diffcap", tmp_path / "said.jsonl", said, similar)
    other = Entry("StepDiff", "diffcap", str(tmp_path / "both.jsonl"), str(tmp_path / "said.jsonl"), parsed=False)
    plain = replace(other, method="VCLM", predictions=str(tmp_path / "plain.jsonl"))
    write_predictions("diffcap", tmp_path / "plain.jsonl", said)
    scores = [s for s, _ in measure([other, plain], 50, 0)]
    found = {(s.method, s.metric): s.value for s in scores if s.setting.parsed}
    assert (found["StepDiff", "invented"], found["StepDiff", "invented_asked"]) == (19 / 20, 5 / 20)
    assert (found["StepDiff", "declined"], found["StepDiff", "declined_asked"]) == (0, 1 / 80)
    table = grids(Report(scores, [], [], 50, False))[-1]
    assert [name.split(", ")[1] for _, name in table.columns] == ["as written", "asked first"] * 2
    assert [cell and cell.main for cell in dict(table.blocks[0].rows)["VCLM"]] == ["0.950", None, "0.000", None]
    assert any(note.startswith("Asked first:") for note in table.notes)
    table = grids(Report([s for s in scores if s.method == "VCLM"], [], [], 50, False))[-1]
    assert len(table.columns) == 2 and not any(note.startswith("Asked first:") for note in table.notes)


def test_rows_of_diffmcq_with_a_shared_highest_score_are_counted(made: list[Entry], tmp_path: Path) -> None:
    entry = next(e for e in made if e.task == "diffmcq")
    scores = [[1.0, 1.0, 0.0, 0.0] if n < 3 else [1.0, 0.5, 0.0, 0.0] for n in range(80)]
    write_predictions("diffmcq", tmp_path / "ties.jsonl", scores)
    ties = Entry("ties", "diffmcq", entry.test_set, str(tmp_path / "ties.jsonl"))
    notes = [note for grid in grids(reported([entry, ties])) for note in grid.notes]
    assert any(note.startswith("DiffMCQ V1: the first option counts") and note.endswith(": ties 3.") for note in notes)


def test_the_accuracy_of_a_method_that_never_prefers_an_option_is_undefined(made: list[Entry], tmp_path: Path) -> None:
    """Without video every pair has the same prompt; the first option would be right by chance."""
    entry = next(e for e in made if e.task == "diffmcq")
    for name, rows in (("blind", 80), ("once", 79)):
        scores = [[-2.0] * 4 if n < rows else [1.0, 0.5, 0.0, 0.0] for n in range(80)]
        write_predictions("diffmcq", tmp_path / f"{name}.jsonl", scores)
    methods = [Entry(name, "diffmcq", entry.test_set, str(tmp_path / f"{name}.jsonl")) for name in ("blind", "once")]
    measured = measure(methods, 50, 0)
    assert [score.value is None for score, _ in measured] == [True, False]
    assert compare(measured, ["blind"], []) == []
    assert draw(Report([score for score, _ in measured], [], [], 50, False)) is not None


def test_a_method_gains_nothing_from_ties(made: list[Entry], tmp_path: Path) -> None:
    entry = next(e for e in made if e.task == "diffrank")
    ranks = read_test_set("diffrank", entry.test_set)
    predicted = {
        "StepDiff": [[float(s) + (place == 0) * 9 for place, s in enumerate(row.scores)] for row in ranks],
        "ties": [list(map(float, row.scores)) if n < 4 else [0.0] * len(row.scores) for n, row in enumerate(ranks)],
    }
    methods = []
    for name, scores in predicted.items():
        write_predictions("diffrank", tmp_path / f"{name}.jsonl", scores)
        methods.append(Entry(name, "diffrank", entry.test_set, str(tmp_path / f"{name}.jsonl")))
    comparison, within = compare(measure(methods, 200, 0), ["StepDiff"], [])
    assert (comparison.metric, within.metric) == ("ktau_all_rows", "ktau_within_step_all_rows")
    assert comparison.difference > 0 and comparison.p < 0.05
