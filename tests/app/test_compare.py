"""Methods side by side: files, filters and totals against naive oracles; the pages and their
archive."""

import json
import math
import os
import re
import shlex
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pytest

from heads import report, score, table
from heads.reporting.entries import PredictionEntry
from heads.reporting.figures import compare, measure
from stepdiff.app.compare.files import Answers, Broken, Library
from stepdiff.app.compare.select import Selection, choose
from stepdiff.app.compare.sets import RESAMPLES, RIGHT, SEED, TestSet, Totals, grouped, supported
from stepdiff_core.tasks.scoring import kendall_tau
from stepdiff_core.tasks.testsets import (
    DiffRank,
    Task,
    read_test_set,
    write_predictions,
    write_test_set,
)
from store import Store
from tests.app.conftest import ROOT, Server, read_json
from tests.app.predictions import guesses, random_rows, write

if TYPE_CHECKING:
    from playwright.sync_api import Page

TASKS: tuple[Task, ...] = ("diffcap", "diffmcq", "diffrank")


def read(folder: Path) -> tuple[list[TestSet], list[Broken]]:
    found = Library([folder]).read()
    sets = grouped([each for each in found if isinstance(each, Answers)])
    return sets, [each for each in found if isinstance(each, Broken)]


@pytest.fixture(scope="module", params=TASKS)
def tests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TestSet:
    """A test set of 40 rows with two methods on all rows, and one on every second row, in another
    order."""
    task: Task = request.param
    folder, rows = tmp_path_factory.mktemp(task), random_rows(task, 40)
    write(
        folder, "good", task, rows, guesses(task, rows, 1, 2.0), method="video-lm", head="runs/good"
    )
    write(folder, "poor", task, rows, guesses(task, rows, 2, 0.2))
    half = rows[::-2]
    write(folder, "half", task, half, guesses(task, half, 3), control="blind")
    (found,), broken = read(folder)
    assert broken == []
    return found


def test_rows_of_methods_are_aligned_by_content_not_by_place(tests: TestSet) -> None:
    assert [column.method.name for column in tests.columns] == [
        "good",
        "poor",
        "half, control blind",
    ]
    assert (tests.columns[0].method.regime, tests.columns[0].method.steps) == ("s1", 1290)
    assert len(tests.rows) == 40 and len(set(tests.keys)) == 40
    for column in tests.columns:
        own = column.answers
        for place, row in enumerate(tests.rows):
            if column.answered[place]:
                assert own.of.rows[column.place[place]] == row
                assert column.prediction(place) == own.predictions[column.place[place]]
        assert column.answered.sum() == len(own.of.rows)  # the equal rows too


def test_margins_and_losses_equal_a_loop_over_the_options(tests: TestSet) -> None:
    column = tests.columns[0]
    for place, row in enumerate(tests.rows):
        said = column.prediction(place)
        if tests.task == "diffmcq":
            truth = row.options.index(row.answer)
            others = [score for number, score in enumerate(said) if number != truth]
            assert column.margins[place] == pytest.approx(said[truth] - max(others))
            loss = math.log(sum(math.exp(score) for score in said)) - said[truth]
            assert column.losses[place] == pytest.approx(loss)
            assert (column.verdicts[place] == RIGHT) == (said.index(max(said)) == truth)
        elif tests.task == "diffrank":
            gaps = [
                said[i] - said[j]
                for i in range(len(said))
                for j in range(len(said))
                if row.scores[i] > row.scores[j]
            ]
            assert (
                math.isnan(column.margins[place])
                if not gaps
                else column.margins[place] == min(gaps)
            )
            tau = kendall_tau(np.array([said]), np.array([row.scores], float))[0]
            if len(set(row.scores)) > 1:
                assert column.losses[place] == pytest.approx(1 - (0 if math.isnan(tau) else tau))
        else:
            assert math.isnan(column.margins[place]) and math.isnan(column.losses[place])


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
    chosen = choose(tests, Selection(**given), steps)
    a, b = chosen.a, chosen.b
    assert b is not None and b is not a
    expected = []
    for place, row in enumerate(tests.rows):
        where, mine, other = given.get("where"), a.prediction(place), b.prediction(place)
        value, theirs = a.values(chosen.metric)[place], b.values(chosen.metric)[place]
        keep = {
            None: True,
            "better": value > theirs,
            "worse": value < theirs,
            "right": a.verdicts[place] == 1,
            "wrong": a.verdicts[place] == 0,
            "differ": mine is not None
            and other is not None
            and order(tests.task, mine) != order(tests.task, other),
        }[where]
        if "category" in given:
            keep = keep and row.category == given["category"]
        if "text" in given:
            words = json.dumps(vars(row))
            if tests.task == "diffcap":
                words += json.dumps([column.prediction(place) for column in chosen.shown])
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
def test_rows_with_equal_values_keep_their_order(tests: TestSet, sort: Any) -> None:
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


def test_an_empty_selection_names_its_filters(tests: TestSet) -> None:
    chosen = choose(tests, Selection(text="zebra", category="Actions"))
    assert chosen.order.size == 0
    found = {each["name"]: each for each in chosen.filters("/compare/x")}
    assert found["text"]["rows"] == 0 and found["category"]["rows"] > 0
    assert found["text"]["without"] == "/compare/x?category=Actions"


@pytest.mark.parametrize("first", ["all", "differing", "agreeing"])
def test_methods_that_answer_other_kinds_of_pairs_are_compared(tmp_path: Path, first: str) -> None:
    """heads.evaluate --no-difference adds pairs that agree to the rows of one method; others answer
    none of them."""
    rows = random_rows("diffcap", 40)
    kinds = {
        "all": rows,
        "differing": [r for r in rows if r.text],
        "agreeing": [r for r in rows if not r.text],
    }
    for name, some in kinds.items():
        write(
            tmp_path,
            name,
            "diffcap",
            some,
            guesses("diffcap", some, 1),
            **({"head": "x"} if name == first else {}),
        )
    (tests,), broken = read(tmp_path)
    assert broken == [] and tests.columns[0].method.id == first
    assert {"CIDEr", "declined", "invented"} <= set(tests.metrics)
    everything = Totals(tests, np.ones(len(tests.rows), bool))
    for column in tests.columns:
        total = {one["metric"]: one for one in everything.of(column)["figures"]}
        for metric, name in (
            ("invented", "differing"),
            ("CIDEr", "agreeing"),
            ("declined", "agreeing"),
        ):
            defined = column.method.id != name
            assert (total[metric]["rows"] > 0) == defined and (
                total[metric]["value"] is not None
            ) == defined
            assert np.isfinite(column.values(metric)).any() == defined
            versus = everything.versus(column, tests.columns[0], metric)
            both = name not in (column.method.id, first)
            assert (versus["difference"] is not None) == both or versus["rows"] == 0


@pytest.mark.full
@pytest.mark.parametrize(
    "given", [{}, {"category": "Visuals"}, {"where": "wrong", "a": "poor"}], ids=str
)
def test_totals_equal_the_report_of_the_rows(
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
        write_predictions(tests.task, path, [column.prediction(place) for place in places])
        entries.append(
            PredictionEntry(
                column.method.id, tests.task, str(tmp_path / "selected.jsonl"), str(path)
            )
        )
    measured = measure(entries, RESAMPLES, SEED)
    expected = {(score.method, score.metric): score for score, _ in measured}
    mine = Totals(tests, chosen.mask)
    for column in tests.columns[:2]:
        for total in mine.of(column)["figures"]:
            score = expected.get((column.method.id, total["metric"]))
            if score is None:  # declining, of a selection whose pairs all differ
                assert total["metric"] in ("declined", "invented")
                continue
            assert total["value"] == score.value and total["interval"] == score.interval
            assert (total["rows"], total["videos"]) == (score.rows, score.videos)
    for found in compare(measured, ["poor"], []):
        versus = mine.versus(tests.columns[1], tests.columns[0], found.metric)
        assert (versus["difference"], versus["interval"], versus["p"]) == (
            found.difference,
            found.interval,
            found.p,
        )


def test_an_unusable_file_is_listed_with_its_reason(tmp_path: Path) -> None:
    rows = random_rows("diffmcq", 6)
    said = guesses("diffmcq", rows, 0)
    for name in ("good", "short", "record", "gone", "whole", "large"):
        write(tmp_path, name, "diffmcq", rows, said)
    (tmp_path / "short.jsonl").write_text('{"scores": [1, 2]}\n')
    (tmp_path / "record.scores.json").write_text("{")
    (tmp_path / "gone.jsonl").unlink()
    (tmp_path / "whole.rows.jsonl").unlink()
    targets = tuple(f"clip {number}" for number in range(101))
    write(
        tmp_path,
        "many",
        "diffrank",
        [DiffRank("a", targets, "Visuals", (1, 2) + (3,) * 99)],
        [[1.0] * 101],
    )
    os.truncate(tmp_path / "large.jsonl", 2**27)
    (found,), broken = read(tmp_path)
    assert [column.method.id for column in found.columns] == ["good"]
    reasons = {Path(each.file).stem: each.reason for each in broken}
    for name, reason in {
        "short": "2 scores for a row that needs 4",
        "record": "not a score record",
        "gone": "no such file",
        "whole": "test set test.jsonl of 6 rows is not in a given folder",
        "large": "at most 67,108,864 are read",
        "many": "101 targets; at most 100 are shown",
    }.items():
        assert reason in reasons[name] and "\n" not in reasons[name]


def test_a_whole_test_set_is_found_by_its_name(tmp_path: Path) -> None:
    rows = random_rows("diffmcq", 6)
    (tmp_path / "sets").mkdir()
    (tmp_path / "answers").mkdir()
    write(
        tmp_path / "answers",
        "one",
        "diffmcq",
        rows,
        guesses("diffmcq", rows, 0),
        test_set="/elsewhere/test.jsonl",
    )
    (tmp_path / "answers" / "one.rows.jsonl").unlink()
    write_test_set("diffmcq", tmp_path / "sets" / "test.jsonl", rows)
    library = Library([tmp_path / "answers"], [tmp_path / "sets"])
    (found,) = library.read()
    assert isinstance(found, Answers) and found.of.rows == rows
    write_test_set("diffmcq", tmp_path / "sets" / "test.jsonl", rows[:5])
    (found,) = library.read()
    assert isinstance(found, Broken)


def test_no_file_outside_the_given_folders_is_read(tmp_path: Path) -> None:
    rows = random_rows("diffmcq", 6)
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    write(outside, "one", "diffmcq", rows, guesses("diffmcq", rows, 0))
    for suffix in (".jsonl", ".rows.jsonl", ".scores.json"):
        (inside / f"one{suffix}").symlink_to(outside / f"one{suffix}")
    _, (broken,) = read(inside)
    assert "leads out of the given folders" in broken.reason


def test_test_sets_of_one_name_and_other_rows_are_apart(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        rows = random_rows("diffmcq", 6, seed)
        write(tmp_path, name, "diffmcq", rows, guesses("diffmcq", rows, 0))
    sets, _ = read(tmp_path)
    assert len(sets) == 2 and len({each.id for each in sets}) == 2
    assert all(each.id.startswith("test~") for each in sets)


def test_predictions_without_a_record_are_shown(tmp_path: Path) -> None:
    for task in TASKS:
        rows = random_rows(task, 6)
        write(tmp_path, task, task, rows, guesses(task, rows, 0)).with_suffix(
            ".scores.json"
        ).unlink()
    sets, broken = read(tmp_path)
    assert broken == [] and [each.task for each in sets] == list(TASKS)
    assert [each.columns[0].method.name for each in sets] == list(TASKS)


def test_the_pieces_of_a_caption_are_the_caption() -> None:
    for caption in ("", "a whisk", "The Whisk, not a fork!", "it's in the bowl.  twice"):
        pieces = supported(caption, ["uses a whisk and a bowl", "twice"])
        assert "".join(piece.text for piece in pieces) == caption
    pieces = supported("The Whisk, not a fork, in the bowl", ["uses a whisk in the bowl"])
    assert [piece.text for piece in pieces if piece.supported] == ["Whisk", "bowl"]


@pytest.fixture(scope="session")
def predictions(world: Path) -> Path:
    """A folder with predictions of three methods on 60 rows of each task, and a broken file."""
    folder = world / "predictions"
    folder.mkdir()
    clips = Store.open(world / "features").catalog("clips").frame()["key"].to_list()
    for task in ("diffcap", "diffmcq", "diffrank"):
        rows = random_rows(task, 60, clips=clips)
        write(
            folder,
            f"{task}_good",
            task,
            rows,
            guesses(task, rows, 1, 2.0),
            method="video-lm",
            head="runs/good",
        )
        write(folder, f"{task}_poor", task, rows, guesses(task, rows, 2, 0.2))
        write(
            folder, f"{task}_blind", task, rows[:30], guesses(task, rows[:30], 3), control="blind"
        )
    (folder / "bad.scores.json").write_text("{}")
    (folder / "bad.jsonl").write_text("<script>alert(1)</script>\n")
    return folder


@pytest.fixture
def url(serve: Callable[..., Server], predictions: Path) -> str:
    return serve("--predictions", str(predictions)).url


@pytest.mark.full
def test_all_tools_agree_on_figures_regimes_and_controls(
    serve: Callable[..., Server],
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A method that prefers an option in some row, one that prefers none, and controls: three
    commands and a page."""
    folder, rows = tmp_path_factory.mktemp("tools"), random_rows("diffmcq", 60)
    said = {
        "vlemb": [[1.0, 1.0, 0.0, 0.0]] * 20 + guesses("diffmcq", rows[20:], 1),
        "video-lm": [
            [-2.0] * 4 if number % 2 else [-2.0, -3.0, -2.0, -3.0] for number in range(60)
        ],
        "rarest": guesses("diffmcq", rows, 2),
        "own:Control": guesses("diffmcq", rows, 3),
    }
    stated = {
        "vlemb": ({"view": "clip"}, {"encoder": "clip"}),
        "video-lm": (
            {"head": "r", "control": "blind"},
            {"recipe": {"system": "VCLM", "regime": "s1"}},
        ),
        "rarest": ({}, {}),
        "own:Control": (
            {},
            {"registered": {"title": "mine", "regime": "supervised", "control": True}},
        ),
    }
    files = []
    for name, (options, disclosed) in stated.items():
        path = write(
            folder, name.replace(":", "_"), "diffmcq", rows, said[name], method=name, **options
        )
        record = json.loads(path.with_suffix(".scores.json").read_text()) | {"disclosed": disclosed}
        path.with_suffix(".scores.json").write_text(json.dumps(record))
        files.append((name, path))
    # method -> tool -> figure, interval, regime
    found: dict[str, dict[str, list[Any]]] = {name: {} for name in said}

    for name, path in files:
        given = ["--test-set", str(path.with_suffix(".rows.jsonl")), "--predictions", str(path)]
        assert score.main(["--task", "diffmcq", *given, "--json"]) == 0
        own = json.loads(capsys.readouterr().out)
        method = own["method"]
        found[name]["score"] = [
            own["accuracy"],
            own["intervals"]["accuracy"],
            method["regime"],
            method["control"],
        ]
        assert score.main(["--task", "diffmcq", *given]) == 0
        assert ("undefined" in capsys.readouterr().out) == (name == "video-lm")

    assert (
        table.main([*(str(path.with_suffix(".scores.json")) for _, path in files), "--json"]) == 0
    )
    lines = list(json.loads(capsys.readouterr().out)["systems"].items())[1:]
    for name, (title, line) in zip(said, lines, strict=True):
        figure = line["accuracy"]
        found[name]["table"] = [
            figure["value"],
            figure["interval"],
            line["regime"],
            "control: " in title,
        ]

    sets = {path: str(path.with_suffix(".rows.jsonl")) for _, path in files}
    entries = [
        {"method": name, "task": "diffmcq", "test_set": sets[path], "predictions": str(path)}
        for name, path in files
    ]
    config, out = folder / "report.yaml", folder / "report"
    config.write_text(
        json.dumps({"predictions": entries, "bootstrap": 1000, "ours": ["vlemb"], "out": str(out)})
    )
    assert report.main(["--config", str(config)]) == 0
    assert "undefined" in capsys.readouterr().out
    printed = json.loads((out / "report.json").read_text())
    assert printed["comparisons"] == [], "no baseline is left"
    for line in printed["scores"]:
        method = printed["methods"][line["method"]]
        is_control = line["method"] in printed["controls"]
        found[line["method"]]["report"] = [
            line["value"],
            line["interval"],
            method["regime"],
            is_control,
        ]

    site = serve("--predictions", str(folder)).url
    record = read_json(f"{site}/compare/diffmcq")
    for line in record["methods"]:
        (figure,), own = line["totals"]["figures"], line["method"]
        name = Path(own["file"]).stem.replace("_", ":")
        found[name]["page"] = [figure["value"], figure["interval"], own["regime"], own["control"]]
        chosen = 0 if name == "video-lm" else 60
        assert line["right"]["rows"] + line["wrong"]["rows"] == chosen
        assert name == "video-lm" or line["right"]["rows"] == pytest.approx(figure["value"] * 60)
    with urllib.request.urlopen(f"{site}/compare") as page:
        assert page.read().decode().count('<td class="number">undefined') == 1

    regimes = {"vlemb": "none", "video-lm": "s1", "rarest": "none", "own:Control": "supervised"}
    for name, tools in found.items():
        assert len(tools) == 4 and all(own == tools["score"] for own in tools.values()), tools
        assert tools["score"][2:] == [regimes[name], name != "vlemb"]
        assert (tools["score"][0] is None) == (tools["score"][1] is None) == (name == "video-lm")


@pytest.mark.full
def test_the_list_has_test_sets_methods_and_broken_files(url: str, tab: "Page") -> None:
    record = read_json(f"{url}/compare")
    assert [(each["task"], each["rows"], each["common"]) for each in record["sets"]] == [
        ("diffcap", 60, 30),
        ("diffmcq", 60, 30),
        ("diffrank", 60, 30),
    ]
    tab.goto(f"{url}/compare")
    tab.get_by_role("heading", name="DiffMCQ").wait_for()
    assert tab.get_by_text("bad.jsonl").is_visible()
    tab.get_by_role("link", name="Compare row by row").nth(1).click()
    tab.wait_for_url("**/compare/diffmcq?*")
    tab.wait_for_load_state()
    assert tab.locator("[data-row]").count() == 50


@pytest.mark.full
def test_one_click_shows_where_one_method_is_better(url: str, tab: "Page") -> None:
    tab.goto(f"{url}/compare/diffmcq")
    link = tab.get_by_role("link", name="rows where A is better than C")
    count = int(link.inner_text())
    link.click()
    tab.wait_for_url("**where=better*")
    tab.wait_for_load_state()
    assert count > 0 and tab.locator("[data-row]").count() == min(count, 50)
    for row in tab.locator("[data-row]").all():
        cells = row.locator("td.number:not(.quiet)")
        assert cells.nth(0).get_by_role("img", name="right").count() == 1
        assert cells.nth(2).get_by_role("img", name="wrong").count() == 1
    record = read_json(tab.url)
    a = next(method for method in record["methods"] if method["letter"] == "A")
    assert record["selected"] == count and a["totals"]["figures"][0]["value"] == 1.0


@pytest.mark.full
@pytest.mark.parametrize(
    ("task", "query"),
    [
        ("diffcap", "category=Visuals"),
        ("diffmcq", "where=better&category=Visuals"),
        ("diffrank", "text=1_"),
    ],
)
def test_an_export_scores_as_the_page_shows_it(
    url: str,
    predictions: Path,
    tab: "Page",
    tmp_path: Path,
    task: Task,
    query: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tab.goto(f"{url}/compare/{task}?{query}")
    record = read_json(tab.url)
    with tab.expect_download() as download:
        tab.get_by_role("link", name="with predictions").click()
    with zipfile.ZipFile(download.value.path()) as packed:
        packed.extractall(tmp_path)
    folder = tmp_path / download.value.suggested_filename.removesuffix(".zip")
    readme = (folder / "README.txt").read_text()
    assert f"{record['selected']} of 60 rows" in readme and f"Page: /compare/{task}?" in readme
    for own in record["filters"]:
        assert own["words"] in readme.splitlines()[1]
    rows = read_test_set(task, folder / "rows.jsonl")
    assert len(rows) == record["selected"] > 0
    commands = [line for line in readme.splitlines() if line.startswith("python -m heads.score ")]
    assert len(commands) == 3
    monkeypatch.chdir(folder)
    for line, command in zip(record["methods"], commands, strict=True):
        assert score.main([*shlex.split(command)[3:], "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["rows"] == line["totals"]["figures"][0]["rows"] or task == "diffcap"
        for figure in line["totals"]["figures"]:
            name = figure["metric"]
            if found["videos"] == figure["videos"]:
                assert [found[name], found["intervals"][name]] == [
                    figure["value"],
                    figure["interval"],
                ], name
            assert found[name] == figure["value"], name
    figure = record["methods"][0]["totals"]["figures"][0]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(commands[0], shell=True, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and f"{figure['value']:.4f}" in done.stdout, done.stderr
    with pytest.raises(urllib.error.HTTPError, match="400"):
        read_json(f"{url}/compare/{task}/export?text=zebra")


@pytest.mark.full
@pytest.mark.parametrize("task", ["diffcap", "diffmcq", "diffrank"])
def test_keys_move_between_rows_and_a_row_opens_with_its_clips(
    url: str, tab: "Page", task: str
) -> None:
    tab.goto(f"{url}/compare/{task}")
    tab.keyboard.press("j")
    tab.keyboard.press("j")
    tab.keyboard.press("k")
    tab.keyboard.press("j")
    tab.keyboard.press("Enter")
    drawer = tab.locator("#drawer")
    drawer.wait_for()
    second = tab.locator("[data-row]").nth(1)
    drawer.get_by_text("Row 2 ·").wait_for()
    frame = drawer.locator("iframe").content_frame
    frame.locator("[data-player]").first.wait_for()
    assert f"row={second.get_attribute('data-row')}" in tab.url
    address = tab.url
    tab.keyboard.press("j")
    drawer.get_by_text("Row 3 ·").wait_for()
    tab.keyboard.press("Escape")
    drawer.wait_for(state="hidden")
    tab.wait_for_url(lambda address: "row=" not in address)
    tab.goto(address)
    drawer.get_by_text("Row 2 ·").wait_for()
    strips = drawer.locator("img.strip").all()
    assert len(strips) >= 2
    for strip in strips[:2]:
        strip.evaluate("(image) => image.decode()")
        assert re.fullmatch(r"Clip \S+\.mp4, \S+ to \S+", strip.get_attribute("alt") or "")
    frame.locator("html.framed [data-do]").first.focus()
    tab.keyboard.press("Escape")
    drawer.wait_for(state="hidden")


@pytest.mark.full
def test_filters_apply_at_once_and_are_in_the_address(url: str, tab: "Page") -> None:
    tab.goto(f"{url}/compare/diffrank")
    tab.get_by_label("Category").select_option("Actions")
    tab.wait_for_url("**category=Actions*")
    tab.get_by_label("Order").select_option("margin")
    tab.wait_for_url("**sort=margin*")
    assert "category=Actions" in tab.url and "show=" not in tab.url
    tab.get_by_label("Show poor").or_(tab.get_by_label("Show diffrank_poor")).uncheck()
    tab.wait_for_url("**show=*")
    tab.wait_for_load_state()
    assert tab.locator("[data-row]").first.locator("td.number:not(.quiet)").count() == 2
    tab.goto(f"{url}/compare/diffrank?text=zebra&category=Actions")
    assert tab.get_by_text("“text zebra” leaves 0").is_visible()
    tab.get_by_role("link", name="remove it").nth(1).click()
    tab.wait_for_url("**category=Actions*")
    assert "zebra" not in tab.url
    tab.get_by_role("link", name="Clear").click()
    tab.wait_for_url("**/compare/diffrank*")
    assert "category" not in tab.url and tab.locator("[data-row]").count() > 0


@pytest.mark.full
def test_new_predictions_are_shown_without_a_restart(url: str, predictions: Path) -> None:
    rows = read_test_set("diffmcq", predictions / "diffmcq_good.rows.jsonl")
    path = write(predictions, "diffmcq_new", "diffmcq", rows, guesses("diffmcq", rows, 9))
    names = [method["method"]["id"] for method in read_json(f"{url}/compare/diffmcq")["methods"]]
    assert "diffmcq_new" in names
    for suffix in (".jsonl", ".rows.jsonl", ".scores.json"):
        path.with_suffix(suffix).unlink()
    names = [method["method"]["id"] for method in read_json(f"{url}/compare/diffmcq")["methods"]]
    assert "diffmcq_new" not in names


@pytest.mark.full
def test_an_unknown_name_is_an_error_of_one_line(url: str) -> None:
    for name in ("set", "a", "show", "metric"):
        with pytest.raises(urllib.error.HTTPError) as error:
            read_json(f"{url}/compare/diffmcq?{name}=none")
        assert error.value.code == 404 and "none" in json.load(error.value)["error"]


@pytest.mark.full
def test_text_of_files_is_escaped_and_unknown_clips_are_named(
    serve: Callable[..., Server], tab: "Page", tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("strange")
    attack = '"><img src=x onerror=alert(1)><script>alert(1)</script>'
    rows = [replace(row, category=attack, text=(attack,)) for row in random_rows("diffcap", 6)]
    write(folder, "one", "diffcap", rows, [attack] * 6, method=attack, test_set=f"{attack}.jsonl")
    more = random_rows("diffmcq", 6)
    for number in range(12):
        write(
            folder,
            f"m{number}",
            "diffmcq",
            more,
            guesses("diffmcq", more, number),
            method=f"{attack}{number}",
        )
    url = serve("--predictions", str(folder)).url
    for address in (
        "/compare",
        "/compare/diffcap?strips=1",
        f"/compare/diffcap?text={quote(attack)}",
        "/compare/diffmcq",
    ):
        tab.goto(url + address)
        assert tab.get_by_text("<script>alert(1)</script>").count() > 0
        assert tab.locator("main script, main img").count() == 0
    assert tab.get_by_text("not shown").count() == 2  # ten methods of twelve
    tab.keyboard.press("j")
    tab.keyboard.press("Enter")
    assert tab.locator("#drawer").get_by_text("no pictures").count() == 8
    assert tab.locator("#drawer iframe").is_hidden()
    for methods in (11, 12):
        tab.locator("[name=show]:not(:checked)").first.click()
        tab.wait_for_url(lambda address, methods=methods: address.count("show=") == methods)
        tab.wait_for_load_state()
    assert tab.get_by_text("not shown").count() == 0
