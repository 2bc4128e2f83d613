"""What the methods of a report were trained on, and which are compared."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from common.errors import StepDiffError
from heads import report
from heads.methods.registry import Regime
from heads.reporting.entries import Entry, Training, comparable, trainings
from heads.reporting.figures import compare, measure
from heads.reporting.grid import Cell
from heads.reporting.tables import CHOSEN, LEGEND, Report, grids
from heads.training.lineage import disclosure, regime
from heads.training.recipe import read_recipe
from tasks.prompts import SIMILAR_QUESTION

from .conftest import config

KNOWN = [
    Training("StepDiff", "s1", "paired QA", 1990),
    Training("VLEmb", "supervised", "paired QA with DiffRank's question"),
    Training("no video", "none"),
]


def with_methods(made: list[Entry], methods: list[Training], baselines: tuple[str, ...] = ()) -> Report:
    known = trainings(methods, made)
    measured = measure(made, 200, 0)
    scores = [score for score, _ in measured]
    found = compare(measured, ["StepDiff"], ["no video"], known, baselines)
    return Report(scores, found, ["no video"], 200, True, known, baselines)


def test_a_method_is_compared_only_with_baselines_that_had_no_more_supervision(made: list[Entry]) -> None:
    def baseline(ours: Regime, theirs: Regime) -> str:
        report = with_methods(made, [Training("StepDiff", ours), Training("VLEmb", theirs)])
        return next(c.baseline for c in report.comparisons if c.metric == "accuracy")

    assert baseline("supervised", "supervised") == baseline("supervised", "s1") == baseline("s1", "none") == "VLEmb"
    assert baseline("s1", "supervised") == baseline("none", "s1") == "weak | $x_1$", "VLEmb is the best"
    assert comparable("a", "b", {"b": Training("b", "supervised")}), "unknown regimes are compared"
    note = " ".join(grids(with_methods(made, KNOWN))[-1].notes)
    assert "A baseline with more supervision than ours is not compared" in note


def test_the_config_may_name_the_baselines(made: list[Entry], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    report_ = with_methods(made, [], ("weak | $x_1$",))
    assert {c.baseline for c in report_.comparisons} == {"weak | $x_1$"}
    assert "among weak | $x_1$." in grids(report_)[-1].notes[0]
    for baselines, message in ((["StepDiff"], "listed as ours and as a baseline"), (["x"], "'x' is not among")):
        path = config(made, tmp_path / "report.yaml", baselines=baselines)
        assert report.main(["--config", path]) == 2
        assert message in capsys.readouterr().err


def test_every_table_shows_the_regime_of_its_methods(made: list[Entry]) -> None:
    first, *others = grids(with_methods(made, KNOWN))
    assert first.title == "Methods" and first.notes == [LEGEND]
    rows = dict(row for block in first.blocks for row in block.rows)
    assert rows["StepDiff"] == [Cell("s1"), Cell("paired QA"), Cell("1,990")]
    assert rows["no video"][0] == Cell("–") and first.blocks[1].title == "controls"
    assert rows["weak | $x_1$"] == [Cell("")] * 3, "a method without an entry"
    assert len(others) == 7
    for grid in others:
        assert all(len(cells) == len(grid.columns) for block in grid.blocks for _, cells in block.rows), grid.title
        rows = dict(grid.blocks[0].rows)
        if grid.first == "method":
            assert grid.columns[0] == ("", "regime") and rows["StepDiff"][0] == Cell("s1")
        elif grid.first == "pair":
            assert grid.blocks[0].rows[0][0] == "regime"
        else:
            assert [name for _, name in grid.columns].count("regime") == 2
    plain = grids(with_methods(made, []))
    assert [grid.title for grid in plain] == [grid.title for grid in others], "no methods, no regimes"
    assert not any("regime" in str(grid.columns) for grid in plain)


def test_a_number_of_steps_or_a_regime_that_a_score_record_contradicts_is_refused_in_one_line(
    made: list[Entry], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    entry = next(e for e in made if (e.method, e.task, e.variant) == ("StepDiff", "diffmcq", "V1"))
    said = tmp_path / "said.jsonl"
    said.write_bytes(Path(entry.predictions).read_bytes())
    record = {"disclosed": {"recipe": {"optimiser_steps": 1990}}}
    said.with_suffix(".scores.json").write_text(json.dumps(record))
    own = [replace(entry, predictions=str(said))]
    assert trainings([], own) == {"StepDiff": Training("StepDiff", steps=1990)}, "from the record"
    assert trainings(KNOWN[:1], own) == {"StepDiff": KNOWN[0]}
    methods = [{"method": "StepDiff", "regime": "s1", "steps": 340}]
    path = config(own, tmp_path / "report.yaml", controls=[], methods=methods)
    assert report.main(["--config", path]) == 2
    error = capsys.readouterr().err.strip()
    assert "methods: StepDiff has steps 340, but the score record of" in error and "has 1990; correct" in error
    assert "\n" not in error
    said.with_suffix(".scores.json").write_text(json.dumps({"disclosed": {"recipe": {"regime": "supervised"}}}))
    with pytest.raises(StepDiffError, match="methods: StepDiff has regime s1, but the score record of .* supervised"):
        trainings(KNOWN[:1], own)
    said.with_suffix(".scores.json").write_text(json.dumps({"disclosed": {"recipe": {"optimiser_steps": None}}}))
    assert report.main(["--config", path, "--bootstrap", "20"]) == 0
    for methods, message in (
        ([Training("x")], "methods: 'x' has no predictions; it is not StepDiff"),
        ([KNOWN[0], KNOWN[0]], "methods: 'StepDiff' is listed twice"),
    ):
        with pytest.raises(StepDiffError, match=message):
            trainings(methods, own)
    settings = yaml.safe_load(Path(path).read_text()) | {"methods": [{"method": "StepDiff", "regime": "S1"}]}
    Path(path).write_text(yaml.safe_dump(settings))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        report.main(["--config", path])
    assert capsys.readouterr().err.count("\n") == 1


def test_the_steps_before_the_checkpoint_that_validation_chose_are_shown_where_it_is_not_the_last(
    made: list[Entry], tmp_path: Path
) -> None:
    entry = next(e for e in made if (e.method, e.task, e.variant) == ("StepDiff", "diffmcq", "V1"))
    own = []
    for seed, checkpoint in enumerate(("checkpoint-000120", "checkpoint-000060")):
        said = tmp_path / f"said_{seed}.jsonl"
        said.write_bytes(Path(entry.predictions).read_bytes())
        recipe = {"optimiser_steps": 1680, "trained": 120, "checkpoint": checkpoint}
        said.with_suffix(".scores.json").write_text(json.dumps({"disclosed": {"recipe": recipe}}))
        own.append(replace(entry, predictions=str(said), seed=seed))
    found = trainings([], own)
    assert found["StepDiff"] == Training("StepDiff", steps=1680, chosen=(1680, 1620))
    (grid,) = grids(Report([], [], [], 0, False, found))
    assert grid.blocks[0].rows[0][1][-1] == Cell("1,680 (1,680 / 1,620)") and CHOSEN in grid.notes
    assert trainings([], own[:1])["StepDiff"] == Training("StepDiff", steps=1680), "it chose the last"


def test_the_disclosure_counts_the_steps_of_earlier_runs(trained: Path, tmp_path: Path) -> None:
    recipe = read_recipe(trained / "recipe.yaml").video_lm
    assert recipe is not None
    found = disclosure(recipe, trained)
    assert found["optimiser_steps"] == 6
    lineage = trained / "lineage.json"
    before = lineage.read_text()
    try:
        for earlier, expected in ((1500, 1506), (None, None)):
            lineage.write_text(json.dumps(json.loads(before) | {"init": {"optimiser_steps": earlier}}))
            assert disclosure(recipe, trained)["optimiser_steps"] == expected
        lineage.write_text(json.dumps(json.loads(before) | {"init": {"trained": 150}}))
        assert disclosure(recipe, trained)["optimiser_steps"] is None, "written by an earlier version"
    finally:
        lineage.write_text(before)


def test_a_training_is_supervised_if_it_or_an_earlier_one_asks_diffranks_question(
    trained: Path, tmp_path: Path
) -> None:
    recipe = read_recipe(trained / "recipe.yaml").video_lm
    assert recipe is not None
    path = tmp_path / "pairqa.jsonl"

    def of(category: str, init: dict | None = None, sources: tuple = ("pairs",)) -> str | None:
        path.write_text(json.dumps({"question": SIMILAR_QUESTION.format(category=category)}) + "\n")
        return regime(replace(recipe, pairqa=str(path), sources=sources), init)

    assert of("Visuals") == "supervised" and of("main action") == "s1", "S1 asks about the main action"
    assert of("Visuals", None, ("clips",)) == "s1"
    assert of("main action", {"regime": "supervised"}) == "supervised"
    assert of("main action", {}) is None and of("Visuals", {}) == "supervised"


def test_a_run_records_its_regime_when_it_begins(trained: Path) -> None:
    """The paired QA, which may be large and elsewhere later, is not read again for each score."""
    recipe = read_recipe(trained / "recipe.yaml").video_lm
    assert recipe is not None and recipe.pairqa is not None
    lineage, found = json.loads((trained / "lineage.json").read_text()), disclosure(recipe, trained)
    assert found["regime"] == lineage["regime"] == regime(recipe, lineage["init"]) is not None
    assert disclosure(replace(recipe, pairqa="nowhere.jsonl"), trained) == found
