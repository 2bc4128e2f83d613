"""The pages of methods side by side, in a real browser, and the same pages as JSON and as an archive."""

import json
import os
import shlex
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from heads import report, score, table
from store import Store
from tasks.testsets import Task, read_test_set
from tests.app.compare_made import guesses, made, write
from tests.app.conftest import ROOT, Server

if TYPE_CHECKING:
    from playwright.sync_api import Page

PUBLISHED = Path(__file__).parents[3] / "shared/data/stepdiff/diffrank_dataset.jsonl"


@pytest.fixture(scope="session")
def predictions(world: Path) -> Path:
    """A folder with predictions of three methods on 60 rows of each task, and a broken file."""
    folder = world / "predictions"
    folder.mkdir()
    clips = Store.open(world / "features").catalog("clips").frame()["key"].to_list()
    for task in ("diffcap", "diffmcq", "diffrank"):
        rows = made(task, 60, clips=clips)
        write(folder, f"{task}_good", task, rows, guesses(task, rows, 1, 2.0), method="video-lm", head="runs/good")
        write(folder, f"{task}_poor", task, rows, guesses(task, rows, 2, 0.2))
        write(folder, f"{task}_blind", task, rows[:30], guesses(task, rows[:30], 3), control="blind")
    (folder / "bad.scores.json").write_text("{}")
    (folder / "bad.jsonl").write_text("<script>alert(1)</script>\n")
    return folder


@pytest.fixture
def url(serve: Callable[..., Server], predictions: Path) -> str:
    return serve("--predictions", str(predictions)).url


def fetched(address: str) -> Any:
    request = urllib.request.Request(address, headers={"Accept": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def test_all_tools_agree_on_figures_regimes_and_controls(
    serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method that prefers an option in some row, one that prefers none, and controls: three commands and a page."""
    folder, rows = tmp_path_factory.mktemp("tools"), made("diffmcq", 60)
    said = {
        "vlemb": [[1.0, 1.0, 0.0, 0.0]] * 20 + guesses("diffmcq", rows[20:], 1),
        "video-lm": [[-2.0] * 4 if number % 2 else [-2.0, -3.0, -2.0, -3.0] for number in range(60)],
        "rarest": guesses("diffmcq", rows, 2),
        "own:Control": guesses("diffmcq", rows, 3),
    }
    stated = {
        "vlemb": ({"view": "clip"}, {"encoder": "clip"}),
        "video-lm": ({"head": "r", "control": "blind"}, {"recipe": {"system": "VCLM", "regime": "s1"}}),
        "rarest": ({}, {}),
        "own:Control": ({}, {"registered": {"title": "mine", "regime": "supervised", "control": True}}),
    }
    files = []
    for name, (options, disclosed) in stated.items():
        path = write(folder, name.replace(":", "_"), "diffmcq", rows, said[name], method=name, **options)
        record = json.loads(path.with_suffix(".scores.json").read_text()) | {"disclosed": disclosed}
        path.with_suffix(".scores.json").write_text(json.dumps(record))
        files.append((name, path))
    found: dict[str, dict[str, list[Any]]] = {name: {} for name in said}  # method -> tool -> figure, interval, regime

    for name, path in files:
        given = ["--test-set", str(path.with_suffix(".rows.jsonl")), "--predictions", str(path)]
        assert score.main(["--task", "diffmcq", *given, "--json"]) == 0
        own = json.loads(capsys.readouterr().out)
        method = own["method"]
        found[name]["score"] = [own["accuracy"], own["intervals"]["accuracy"], method["regime"], method["control"]]
        assert score.main(["--task", "diffmcq", *given]) == 0
        assert ("undefined" in capsys.readouterr().out) == (name == "video-lm")

    assert table.main([*(str(path.with_suffix(".scores.json")) for _, path in files), "--json"]) == 0
    lines = list(json.loads(capsys.readouterr().out)["systems"].items())[1:]
    for name, (title, line) in zip(said, lines, strict=True):
        figure = line["accuracy"]
        found[name]["table"] = [figure["value"], figure["interval"], line["regime"], "control: " in title]

    entries = [
        {
            "method": name,
            "task": "diffmcq",
            "test_set": str(path.with_suffix(".rows.jsonl")),
            "predictions": str(path),
        }
        for name, path in files
    ]
    config, out = folder / "report.yaml", folder / "report"
    config.write_text(json.dumps({"predictions": entries, "bootstrap": 1000, "ours": ["vlemb"], "out": str(out)}))
    assert report.main(["--config", str(config)]) == 0
    assert "undefined" in capsys.readouterr().out
    printed = json.loads((out / "report.json").read_text())
    assert printed["comparisons"] == [], "no baseline is left"
    for line in printed["scores"]:
        method = printed["methods"][line["method"]]
        is_control = line["method"] in printed["controls"]
        found[line["method"]]["report"] = [line["value"], line["interval"], method["regime"], is_control]

    site = serve("--predictions", str(folder)).url
    record = fetched(f"{site}/compare/diffmcq")
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


def test_the_list_has_the_test_sets_their_methods_and_what_is_broken(url: str, tab: "Page") -> None:
    record = fetched(f"{url}/compare")
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
    assert tab.locator("[data-row]").count() == 50


def test_one_click_shows_where_one_method_is_right_and_the_other_wrong(url: str, tab: "Page") -> None:
    tab.goto(f"{url}/compare/diffmcq")
    link = tab.get_by_role("link", name="rows where A is better than C")
    count = int(link.inner_text())
    link.click()
    tab.wait_for_url("**where=better*")
    assert count > 0 and tab.locator("[data-row]").count() == min(count, 50)
    for row in tab.locator("[data-row]").all():
        cells = row.locator("td.number:not(.quiet)")
        assert cells.nth(0).get_by_role("img", name="right").count() == 1
        assert cells.nth(2).get_by_role("img", name="wrong").count() == 1
    record = fetched(tab.url)
    a = next(method for method in record["methods"] if method["letter"] == "A")
    assert record["selected"] == count and a["totals"]["figures"][0]["value"] == 1.0


@pytest.mark.parametrize(
    ("task", "query"),
    [("diffcap", "category=Visuals"), ("diffmcq", "where=better&category=Visuals"), ("diffrank", "text=1_")],
)
def test_an_export_scores_by_its_own_commands_as_the_page_shows_it(
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
    record = fetched(tab.url)
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
                assert [found[name], found["intervals"][name]] == [figure["value"], figure["interval"]], name
            assert found[name] == figure["value"], name
    figure = record["methods"][0]["totals"]["figures"][0]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(commands[0], shell=True, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and f"{figure['value']:.4f}" in done.stdout, done.stderr
    with pytest.raises(urllib.error.HTTPError, match="400"):
        fetched(f"{url}/compare/{task}/export?text=zebra")


@pytest.mark.parametrize("task", ["diffcap", "diffmcq", "diffrank"])
def test_keys_move_between_rows_and_a_row_opens_with_its_clips(url: str, tab: "Page", task: str) -> None:
    tab.goto(f"{url}/compare/{task}")
    tab.keyboard.press("j")
    tab.keyboard.press("j")
    tab.keyboard.press("k")
    tab.keyboard.press("j")
    tab.keyboard.press("Enter")
    drawer = tab.locator("#drawer")
    drawer.wait_for()
    second = tab.locator("[data-row]").nth(1)
    assert drawer.get_by_text("Row 2 ·").is_visible()
    frame = drawer.locator("iframe").content_frame
    frame.locator("[data-player]").first.wait_for()
    assert f"row={second.get_attribute('data-row')}" in tab.url
    address = tab.url
    tab.keyboard.press("j")
    assert drawer.get_by_text("Row 3 ·").is_visible()
    tab.keyboard.press("Escape")
    assert drawer.is_hidden() and "row=" not in tab.url
    tab.goto(address)
    assert drawer.get_by_text("Row 2 ·").is_visible()
    strips = drawer.locator("img.strip").all()
    assert len(strips) >= 2
    for strip in strips[:2]:
        strip.evaluate("(image) => image.decode()")


def test_filters_apply_at_once_and_are_in_the_address(url: str, tab: "Page") -> None:
    tab.goto(f"{url}/compare/diffrank")
    tab.get_by_label("Category").select_option("Actions")
    tab.wait_for_url("**category=Actions*")
    tab.get_by_label("Order").select_option("margin")
    tab.wait_for_url("**sort=margin*")
    assert "category=Actions" in tab.url and "show=" not in tab.url
    tab.get_by_label("Show poor").or_(tab.get_by_label("Show diffrank_poor")).uncheck()
    tab.wait_for_url("**show=*")
    assert tab.locator("[data-row]").first.locator("td.number:not(.quiet)").count() == 2
    tab.goto(f"{url}/compare/diffrank?text=zebra&category=Actions")
    assert tab.get_by_text("“text zebra” leaves 0").is_visible()
    tab.get_by_role("link", name="remove it").nth(1).click()
    tab.wait_for_url("**category=Actions*")
    assert "zebra" not in tab.url


def test_truth_and_choice_are_marked_by_more_than_colour(url: str, tab: "Page") -> None:
    tab.goto(f"{url}/compare/diffmcq?strips=1")
    detail = tab.locator("[data-detail]").first
    assert detail.get_by_text("✓ answer").count() == 1
    assert detail.get_by_role("img", name="choice of A").count() == 1
    tab.goto(f"{url}/compare/diffcap?strips=1")
    assert tab.locator("[data-detail] u").count() > 0
    assert tab.get_by_text("words of content that a reference has too").first.is_visible()


def test_new_predictions_are_shown_without_a_restart(url: str, predictions: Path) -> None:
    rows = read_test_set("diffmcq", predictions / "diffmcq_good.rows.jsonl")
    path = write(predictions, "diffmcq_new", "diffmcq", rows, guesses("diffmcq", rows, 9))
    names = [method["method"]["id"] for method in fetched(f"{url}/compare/diffmcq")["methods"]]
    assert "diffmcq_new" in names
    for suffix in (".jsonl", ".rows.jsonl", ".scores.json"):
        path.with_suffix(suffix).unlink()
    names = [method["method"]["id"] for method in fetched(f"{url}/compare/diffmcq")["methods"]]
    assert "diffmcq_new" not in names


@pytest.mark.parametrize("query", ["set=none", "a=none", "show=none", "metric=none"])
def test_an_unknown_name_is_an_error_of_one_line(url: str, query: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        fetched(f"{url}/compare/diffmcq?{query}")
    assert error.value.code == 404 and "none" in json.load(error.value)["error"]


def test_text_from_files_is_escaped_and_clips_that_the_store_lacks_have_no_pictures(
    serve: Callable[..., Server], tab: "Page", tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("strange")
    attack = '"><img src=x onerror=alert(1)><script>alert(1)</script>'
    rows = [replace(row, category=attack, text=(attack,)) for row in made("diffcap", 6)]
    write(folder, "one", "diffcap", rows, [attack] * 6, method=attack, test_set=f"{attack}.jsonl")
    more = made("diffmcq", 6)
    for number in range(12):
        write(folder, f"m{number}", "diffmcq", more, guesses("diffmcq", more, number), method=f"{attack}{number}")
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


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published DiffRank set is not on this machine")
def test_ten_methods_on_the_published_diffrank_set_are_fast(
    serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("published")
    rows = read_test_set("diffrank", PUBLISHED)
    for number in range(10):
        write(folder, f"m{number}", "diffrank", rows, guesses("diffrank", rows, number, number / 5))
    url = serve("--predictions", str(folder)).url
    taken = {}
    for name, query in {"first": "", "category": "?category=Visuals", "pair": "?where=better&sort=gap"}.items():
        start = time.perf_counter()
        record = fetched(f"{url}/compare/diffrank{query}")
        taken[name] = time.perf_counter() - start
        assert len(record["rows"]) == 50
    assert record["all_rows"] == 4080
    assert taken["first"] < 15 and taken["category"] < 3 and taken["pair"] < 3, taken  # a busy machine: 1.5, 0.2, 0.2
