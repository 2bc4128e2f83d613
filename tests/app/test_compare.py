"""Guarantees of app/compare: files, alignment, filters and totals, against naive oracles and the reports of heads."""

import json
import math
import os
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.compare import files, totals
from app.compare.files import Answers, Broken, Library
from app.compare.rows import highest_tau
from app.compare.select import ROWS_AT_ONCE, Selection, choose
from app.compare.sets import NEITHER, RIGHT, TestSet, grouped
from app.compare.totals import Totals
from app.compare.words import frequent, supported
from app.site import UnknownError
from heads import evaluate
from heads.reporting.entries import Entry
from heads.reporting.figures import compare, measure
from tasks.scoring import kendall_tau
from tasks.testsets import DiffRank, Task, write_predictions, write_test_set
from tests.app.compare_made import guesses, made, write
from tests.tasks.viddiff_files import benchmark

TASKS: tuple[Task, ...] = ("diffcap", "diffmcq", "diffrank")


def read(folder: Path) -> tuple[list[TestSet], list[Broken]]:
    found = Library([folder]).read()
    sets = grouped([each for each in found if isinstance(each, Answers)])
    return sets, [each for each in found if isinstance(each, Broken)]


@pytest.fixture(params=TASKS)
def tests(request: pytest.FixtureRequest, tmp_path: Path) -> TestSet:
    """A test set of 40 rows with two methods on all rows, and one on every second row, in another order."""
    task: Task = request.param
    rows = made(task, 40)
    write(tmp_path, "good", task, rows, guesses(task, rows, 1, 2.0), method="video-lm", head="runs/good")
    write(tmp_path, "poor", task, rows, guesses(task, rows, 2, 0.2))
    half = rows[::-2]
    write(tmp_path, "half", task, half, guesses(task, half, 3), control="blind")
    (found,), broken = read(tmp_path)
    assert broken == []
    return found


def test_rows_of_methods_are_aligned_by_content_not_by_place(tests: TestSet) -> None:
    assert [column.method.name for column in tests.columns] == ["good", "poor", "half, control blind"]
    assert (tests.columns[0].method.regime, tests.columns[0].method.steps) == ("s1", 1290)
    assert len(tests.rows) == 40 and len(set(tests.keys)) == 40
    for column in tests.columns:
        own = column.answers
        for place, row in enumerate(tests.rows):
            if column.answered[place]:
                assert own.of.rows[column.place[place]] == row
                assert column.said(place) == own.said[column.place[place]]
        assert column.answered.sum() == len(own.of.rows)  # the equal rows too


def test_margins_and_losses_equal_a_loop_over_the_options(tests: TestSet) -> None:
    column = tests.columns[0]
    for place, row in enumerate(tests.rows):
        said = column.said(place)
        if tests.task == "diffmcq":
            truth = row.options.index(row.answer)
            others = [score for number, score in enumerate(said) if number != truth]
            assert column.margins[place] == pytest.approx(said[truth] - max(others))
            loss = math.log(sum(math.exp(score) for score in said)) - said[truth]
            assert column.losses[place] == pytest.approx(loss)
            assert (column.verdicts[place] == RIGHT) == (said.index(max(said)) == truth)
        elif tests.task == "diffrank":
            gaps = [
                said[i] - said[j] for i in range(len(said)) for j in range(len(said)) if row.scores[i] > row.scores[j]
            ]
            assert math.isnan(column.margins[place]) if not gaps else column.margins[place] == min(gaps)
            tau = kendall_tau(np.array([said]), np.array([row.scores], float))[0]
            if len(set(row.scores)) > 1:
                assert column.losses[place] == pytest.approx(1 - (0 if math.isnan(tau) else tau))
        else:
            assert math.isnan(column.margins[place]) and math.isnan(column.losses[place])


def test_a_right_order_of_diffrank_is_one_with_a_margin_above_0(tmp_path: Path) -> None:
    rows = made("diffrank", 30)
    write(tmp_path, "one", "diffrank", rows, [list(map(float, row.scores)) for row in rows])
    (found,), _ = read(tmp_path)
    ordered = np.array([len(set(row.scores)) > 1 for row in found.rows])
    assert (found.columns[0].verdicts[ordered] == RIGHT).all()
    assert (found.columns[0].verdicts[~ordered] == NEITHER).all()


FILTERS: list[dict[str, Any]] = [
    {},
    {"where": "better", "category": "Visuals"},
    {"where": "worse"},
    {"where": "right", "a": "poor"},
    {"where": "wrong", "b": "half"},
    {"where": "differ", "b": "half"},
    {"text": "WHISK", "common": True},
    {"step": "whisk the eggs", "show": ["good", "half"]},
]


@pytest.mark.parametrize("given", FILTERS, ids=str)
def test_filters_equal_a_loop_over_the_rows(tests: TestSet, given: dict[str, Any]) -> None:
    steps = ["whisk the eggs" if place % 3 else None for place in range(40)]
    chosen = choose(tests, Selection(**given), lambda _: steps)
    a, b = chosen.a, chosen.b
    assert b is not None and b is not a
    expected = []
    for place, row in enumerate(tests.rows):
        where, mine, other = given.get("where"), a.said(place), b.said(place)
        value, theirs = a.values(chosen.metric)[place], b.values(chosen.metric)[place]
        keep = {
            None: True,
            "better": value > theirs,
            "worse": value < theirs,
            "right": a.verdicts[place] == 1,
            "wrong": a.verdicts[place] == 0,
            "differ": mine is not None and other is not None and order(tests.task, mine) != order(tests.task, other),
        }[where]
        if "category" in given:
            keep = keep and row.category == given["category"]
        if "text" in given:
            words = json.dumps(vars(row))
            if tests.task == "diffcap":
                words += json.dumps([column.said(place) for column in chosen.shown])
            keep = keep and given["text"].lower() in words.lower()
        if "step" in given:
            keep = keep and steps[place] == given["step"]
        if "common" in given:
            keep = keep and all(column.answered[place] for column in tests.columns)
        if keep:
            expected.append(place)
    assert chosen.order.tolist() == expected


def order(task: Task, said: Any) -> Any:
    """Return what two answers must share to be the same answer."""
    if task == "diffcap":
        return said
    if task == "diffmcq":
        return said.index(max(said))
    return [[(one > other) - (one < other) for other in said] for one in said]


@pytest.mark.parametrize("sort", ["margin", "-margin", "loss", "value", "gap"])
def test_the_order_of_rows_with_equal_values_is_that_of_the_test_set(tests: TestSet, sort: Any) -> None:
    chosen = choose(tests, Selection(sort=sort))
    assert chosen.b is not None
    mine, other = chosen.a.values(chosen.metric), chosen.b.values(chosen.metric)
    keys = {
        "margin": chosen.a.margins,
        "-margin": -chosen.a.margins,
        "loss": -chosen.a.losses,
        "value": mine,
        "gap": other - mine,
    }[sort]
    places = range(len(tests.rows))
    assert chosen.order.tolist() == sorted(
        places, key=lambda place: (math.inf if math.isnan(keys[place]) else keys[place], place)
    )


def test_an_address_that_a_page_gives_leads_to_the_same_selection() -> None:
    from urllib.parse import parse_qs, urlsplit

    selection = Selection(show=["a/b", "c&d"], where="better", text="a+b ü", common=True, metric="CIDEr", page=3)
    query = parse_qs(urlsplit(selection.address("/compare/diffcap", page=3)).query)
    assert Selection(**{name: value if name == "show" else value[0] for name, value in query.items()}) == selection
    assert Selection().address("/compare/diffcap") == "/compare/diffcap"
    assert "page" not in selection.address("/compare/diffcap")


def test_a_selection_without_rows_says_which_of_its_filters_excludes_them(tests: TestSet) -> None:
    chosen = choose(tests, Selection(text="zebra", category="Actions"))
    assert chosen.order.size == 0
    found = {each.name: each for each in chosen.filters("/compare/x")}
    assert found["text"].rows == 0 and found["category"].rows > 0
    assert found["text"].without == "/compare/x?category=Actions"


def test_unknown_methods_and_figures_are_refused(tests: TestSet) -> None:
    for wrong in ({"a": "nobody"}, {"b": "nobody"}, {"show": ["nobody"]}, {"metric": "nothing"}):
        with pytest.raises(UnknownError, match="no"):
            choose(tests, Selection(**wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [{}, {"category": "Visuals"}, {"where": "wrong", "a": "poor"}], ids=str)
def test_totals_equal_the_report_of_a_test_set_with_the_selected_rows(
    tests: TestSet, given: dict[str, Any], tmp_path: Path
) -> None:
    chosen = choose(tests, Selection(**{"show": ["good", "poor"], **given}))
    places = [place for place in range(40) if chosen.mask[place]]
    if not places:
        pytest.skip("no captions are wrong in this way")
    entries = []
    write_test_set(tests.task, tmp_path / "selected.jsonl", [tests.rows[place] for place in places])
    for column in tests.columns[:2]:
        path = tmp_path / f"{column.method.id}_selected.jsonl"
        write_predictions(tests.task, path, [column.said(place) for place in places])
        entries.append(Entry(column.method.id, tests.task, str(tmp_path / "selected.jsonl"), str(path)))
    measured = measure(entries, totals.RESAMPLES, totals.SEED)
    expected = {(score.method, score.metric): score for score, _ in measured}
    mine = Totals(tests, chosen.mask)
    for column in tests.columns[:2]:
        for total in mine.of(column).figures:
            score = expected.get((column.method.id, total.metric))
            if score is None:  # declining, of a selection whose pairs all differ
                assert total.metric in ("declined", "invented")
                continue
            assert total.value == score.value and total.interval == score.interval
            assert (total.rows, total.videos) == (score.rows, score.videos)
    for found in compare(measured, ["poor"], []):
        versus = mine.versus(tests.columns[1], tests.columns[0], found.metric)
        assert (versus.difference, versus.interval, versus.p) == (found.difference, found.interval, found.p)


def test_no_interval_of_fewer_than_two_videos(tests: TestSet) -> None:
    mask = np.zeros(40, bool)
    mask[2] = True
    found = Totals(tests, mask)
    assert all(total.interval is None for total in found.of(tests.columns[0]).figures)
    versus = found.versus(tests.columns[1], tests.columns[0], tests.metrics[0])
    assert versus.interval is None and versus.p is None
    empty = Totals(tests, np.zeros(40, bool)).of(tests.columns[0])
    assert all(total.value is None and total.rows == 0 for total in empty.figures)


def test_predictions_for_a_benchmark_are_listed_as_not_shown(tmp_path: Path) -> None:
    folder, out = benchmark(tmp_path / "viddiff"), tmp_path / "answers" / "chance.jsonl"
    given = ["--task", "viddiff-closed", "--data", str(folder), "--method", "random", "--bootstrap", "0"]
    assert evaluate.main([*given, "--out", str(out)]) == 0
    rows = made("diffmcq", 6)
    write(out.parent, "good", "diffmcq", rows, guesses("diffmcq", rows, 0))
    write_test_set("diffmcq", out.with_suffix(".rows.jsonl"), rows)  # of an earlier evaluation
    (found,), (broken,) = read(out.parent)
    assert [column.method.id for column in found.columns] == ["good"]
    said = "answers the benchmark viddiff-closed, which has tables of python -m heads.report"
    assert (broken.file, broken.reason) == (str(out), said)


def test_a_file_that_cannot_be_used_is_listed_with_its_reason_and_the_others_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = made("diffmcq", 6)
    said = guesses("diffmcq", rows, 0)
    for name in ("good", "short", "record", "gone", "whole", "large"):
        write(tmp_path, name, "diffmcq", rows, said)
    (tmp_path / "short.jsonl").write_text('{"scores": [1, 2]}\n')
    (tmp_path / "record.scores.json").write_text("{")
    (tmp_path / "gone.jsonl").unlink()
    (tmp_path / "whole.rows.jsonl").unlink()
    ranked = [DiffRank("a", tuple("bcdef"), "Visuals", (1, 2, 3, 4, 5))]
    write(tmp_path, "many", "diffrank", ranked, [[1.0, 2.0, 3.0, 4.0, 5.0]])
    monkeypatch.setattr(files, "MOST_TARGETS", 4)
    monkeypatch.setattr(files, "MOST_BYTES", 10_000)
    with (tmp_path / "large.jsonl").open("a") as file:
        file.write(" " * 10_000)
    (found,), broken = read(tmp_path)
    assert [column.method.id for column in found.columns] == ["good"]
    reasons = {Path(each.file).stem: each.reason for each in broken}
    assert "2 scores for a row that needs 4" in reasons["short"]
    assert "not a score record" in reasons["record"]
    assert "no such file" in reasons["gone"]
    assert "test set test.jsonl of 6 rows is not in a given folder" in reasons["whole"]
    assert "at most 10,000 are read" in reasons["large"]
    assert "5 targets; at most 4 are shown" in reasons["many"]
    assert all("\n" not in reason for reason in reasons.values())


def test_rows_of_a_whole_test_set_are_found_by_its_name_in_the_given_folders(tmp_path: Path) -> None:
    rows = made("diffmcq", 6)
    (tmp_path / "sets").mkdir()
    (tmp_path / "answers").mkdir()
    write(tmp_path / "answers", "one", "diffmcq", rows, guesses("diffmcq", rows, 0), test_set="/elsewhere/test.jsonl")
    (tmp_path / "answers" / "one.rows.jsonl").unlink()
    write_test_set("diffmcq", tmp_path / "sets" / "test.jsonl", rows)
    library = Library([tmp_path / "answers"], [tmp_path / "sets"])
    (found,) = library.read()
    assert isinstance(found, Answers) and found.of.rows == rows
    write_test_set("diffmcq", tmp_path / "sets" / "test.jsonl", rows[:5])
    (found,) = library.read()
    assert isinstance(found, Broken)


def test_no_file_outside_the_given_folders_is_read(tmp_path: Path) -> None:
    rows = made("diffmcq", 6)
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    write(outside, "one", "diffmcq", rows, guesses("diffmcq", rows, 0))
    for suffix in (".jsonl", ".rows.jsonl", ".scores.json"):
        (inside / f"one{suffix}").symlink_to(outside / f"one{suffix}")
    _, (broken,) = read(inside)
    assert "leads out of the given folders" in broken.reason


def test_a_file_that_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    rows = made("diffmcq", 6)
    write(tmp_path, "one", "diffmcq", rows, guesses("diffmcq", rows, 0))
    path = write(tmp_path, "two", "diffmcq", rows, guesses("diffmcq", rows, 1))
    library = Library([tmp_path])
    before = library.read()
    assert library.read() == before
    write_predictions("diffmcq", path, guesses("diffmcq", rows, 4))
    os.utime(path, ns=(1, 1))
    after = library.read()
    assert after[0] is before[0] and after[1] is not before[1]
    assert isinstance(after[1], Answers) and after[1].said == guesses("diffmcq", rows, 4)
    assert after[1].method.notes and "its record states accuracy" in after[1].method.notes[0]


def test_rows_of_equal_files_are_kept_once(tmp_path: Path) -> None:
    rows = made("diffrank", 6)
    for seed in range(3):
        write(tmp_path, f"m{seed}", "diffrank", rows, guesses("diffrank", rows, seed))
    found = [each for each in Library([tmp_path]).read() if isinstance(each, Answers)]
    assert len({id(each.of) for each in found}) == 1


def test_test_sets_of_one_name_and_other_rows_are_apart(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        rows = made("diffmcq", 6, seed)
        write(tmp_path, name, "diffmcq", rows, guesses("diffmcq", rows, 0))
    sets, _ = read(tmp_path)
    assert len(sets) == 2 and len({each.id for each in sets}) == 2
    assert all(each.id.startswith("test~") for each in sets)


def test_predictions_without_a_record_are_shown(tmp_path: Path) -> None:
    for task in TASKS:
        rows = made(task, 6)
        write(tmp_path, task, task, rows, guesses(task, rows, 0)).with_suffix(".scores.json").unlink()
    sets, broken = read(tmp_path)
    assert broken == [] and [each.task for each in sets] == list(TASKS)
    assert [each.columns[0].method.name for each in sets] == list(TASKS)


def test_methods_of_one_name_also_have_that_of_their_file(tmp_path: Path) -> None:
    rows = made("diffmcq", 6)
    for name in ("one", "two"):
        write(tmp_path, name, "diffmcq", rows, guesses("diffmcq", rows, 0), head="runs/x", method="stepdiff")
    (found,), _ = read(tmp_path)
    assert [column.method.name for column in found.columns] == ["x (one)", "x (two)"]


def test_the_pieces_of_a_caption_are_the_caption() -> None:
    for caption in ("", "a whisk", "The Whisk, not a fork!", "it's in the bowl.  twice"):
        pieces = supported(caption, ["uses a whisk and a bowl", "twice"])
        assert "".join(piece.text for piece in pieces) == caption
    pieces = supported("The Whisk, not a fork, in the bowl", ["uses a whisk in the bowl"])
    assert [piece.text for piece in pieces if piece.supported] == ["Whisk", "bowl"]


def test_words_of_grammar_and_frequent_words_are_never_marked() -> None:
    text = "is in the of a with their not"
    assert not any(piece.supported for piece in supported(text, [text]))
    tools = ["whisk", "fork", "bowl", "egg", "sugar", "pan", "knife", "spoon", "ladle", "pot"]
    rows = [[f"the person uses a {tool} instead of it", f"this cook takes the {tool}"] for tool in tools]
    common = frequent([*rows, []])
    assert {"person", "cook", "uses", "instead"} <= common and common.isdisjoint(tools)
    pieces = supported("The person, not the cook, uses a whisk", rows[0], common)
    assert [piece.text for piece in pieces if piece.supported] == ["whisk"]
    assert frequent([["whisk"], ["whisk"], ["fork"]]) == set(), "few rows say nothing about frequency"


@pytest.mark.parametrize(
    ("scores", "said", "most"),
    [
        ((3, 3, 3, 0), [4.0, 3.0, 2.0, 1.0], "0.71"),
        ((3, 3, 3, 0), [1.0, 2.0, 3.0, 4.0], "0.71"),
        ((3, 3, 3, 0), [2.0, 2.0, 2.0, 1.0], ""),
        ((3, 2, 1, 0), [1.0, 2.0, 3.0, 4.0], ""),
        ((3, 3, 3, 0), [1.0, 1.0, 1.0, 1.0], ""),
    ],
)
def test_tau_says_how_high_ties_of_the_truth_let_it_be(scores: Any, said: list[float], most: str) -> None:
    row = DiffRank("a", tuple("bcde"), "Visuals", scores)
    assert highest_tau(row, said, "ktau_all_rows") == most
    taus = [kendall_tau(np.array([order]), np.array([scores], float))[0] for order in permutations(said)]
    assert most in ("", f"{max(taus):.2f}")
    assert highest_tau(row, said, "ktau_within_step_all_rows") == "", "their targets all tie, or none do"


def test_a_page_has_at_most_50_rows_and_the_list_shows_the_figures_of_the_record(tests: TestSet) -> None:
    from app.compare.pages import set_line

    line = set_line(tests, "/compare/x")
    assert line.common == 20 and ROWS_AT_ONCE == 50
    for method, column in zip(line.methods, tests.columns, strict=True):
        path = Path(column.method.file).with_suffix(".scores.json")
        recorded = json.loads(path.read_text())["scores"]
        for total in method.totals.figures:
            assert total.value == pytest.approx(recorded[total.metric], abs=1e-12)
    assert replace(line, methods=[]).rows == 40
