"""The pages of the person who collects: progress, disagreements, decisions, files; and the limit of requests."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotate.people.answers import read_answers, read_collected
from annotate.people.form import Answer, Difference
from annotate.people.task import defaults
from app.annotating.collection import results
from app.annotating.service import Limit
from tests.app.annotate_made import EMPTY
from tests.app.conftest import ROOT, Server
from tests.app.test_annotate import begin, link, number, type_keys, wait_for_another
from tests.app.test_annotate_hostile import Place, work

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from starlette.testclient import TestClient

SCHEMES = [("light", 1280, 720), ("dark", 1280, 720), ("light", 390, 844)]


def answer(client: "TestClient", score: int, text: str, rejected: str | None = None) -> None:
    """Submit the next pair."""
    changes = {"keystep": "whisk the eggs", "texts": EMPTY | {"Ingredients": text}, "scores": {"Ingredients": score}}
    body = {"number": 1, "changes": changes, "rejected": rejected, "seconds": 4.0}
    assert client.post(f"/annotate/work/{work(client)['assignment']}/submit", json=body).json()["done"]


def collected(admin: "TestClient", out: Path, form: str = "answers") -> list[Answer]:
    out.write_bytes(admin.get(f"/annotate/admin/export/{form}").content)
    return read_collected(out)


@pytest.fixture
def place(world: Path, tmp_path: Path) -> Place:
    """A task of six pairs for two people each; Ann and Bob submitted three of them."""
    made = Place(world, tmp_path / "one", people=2)
    ann, bob = made.visit("Ann"), made.visit("Bob")
    for client, scores in ((ann, (1, 4, 5)), (bob, (4, 4, 3))):
        for score in scores:
            answer(client, score, f"eggs {score}" if score < 5 else "")
    return made


def test_progress_and_agreement_are_those_of_the_answers(place: Place) -> None:
    work(place.visit("Ann"))
    page = place.visit("admin").get("/annotate/admin").json()
    assert page["totals"] == {"pairs": 6, "complete": 3, "wanted": 12, "submitted": 6, "open": 1, "adjudicated": 0}
    rows = {row["person"]["name"]: row for row in page["people"]}
    assert list(rows) == ["Ann", "Bob"] and rows["Ann"]["progress"]["open"] == 1
    assert [row["progress"]["submitted"] for row in rows.values()] == [3, 3]
    ingredients = page["agreement"]["categories"]["Ingredients"]
    assert (ingredients["items"], ingredients["pairwise"], ingredients["distance"]) == (3, pytest.approx(1 / 3), 2.5)
    assert page["agreement"]["categories"]["Visuals"]["pairwise"] == 1
    pairs = place.visit("admin").get("/annotate/admin/pairs").json()["rows"]
    assert [row["submitted"] for row in pairs] == [["Ann", "Bob"]] * 3 + [[]] * 3
    assert [row["open"] for row in pairs] == [[], [], [], ["Ann"], [], []]


def test_a_disagreement_is_decided_and_the_decision_wins_in_the_files(place: Place, tmp_path: Path) -> None:
    admin = place.visit("admin")
    rows = admin.get("/annotate/admin/disagreements").json()["rows"]
    names = [" ".join(pair) for pair in place.pairs]
    assert [(row["pair"], row["spread"], row["widest"]) for row in rows] == [
        (names[0], 3, "Ingredients"),
        (names[2], 2, "Ingredients"),
    ]
    shown = admin.get("/annotate/admin/pair", params={"id": names[0]}).json()
    assert shown["next"] == names[2] and shown["suggested"]["scores"]["Ingredients"] == 2
    assert shown["suggested"]["texts"] == {"Ingredients": "eggs 1"}
    body = {"pair": names[0], **shown["suggested"], "left": "reference"}
    refused = admin.post("/annotate/admin/adjudicate", json={**body, "texts": {}, "keystep": " "})
    assert refused.status_code == 400 and refused.json()["fields"] == {
        "keystep": "Write the keystep that both clips show, in at most 10 words.",
        "category Ingredients": "Ingredients: describe the difference, or choose score 5 (not different).",
    }
    for text in ("quail eggs", "quail eggs, not hen eggs"):
        assert (
            admin.post("/annotate/admin/adjudicate", json={**body, "texts": {"Ingredients": text}}).status_code == 200
        )
    assert place.count("adjudicated") == 2, "the first decision stays in the history"
    rows = admin.get("/annotate/admin/disagreements").json()["rows"]
    assert [(row["pair"], row["adjudicated"]) for row in rows] == [(names[2], False), (names[0], True)]
    found = collected(admin, tmp_path / "answers.jsonl")
    assert len(found) == 7 and (found[-1].kind, found[-1].annotator) == ("adjudication", "admin")
    diffcap = admin.get("/annotate/admin/export/diffcap").text.splitlines()
    assert {"reference": place.pairs[0][0], "candidate": place.pairs[0][1]}.items() <= json.loads(diffcap[0]).items()
    assert json.loads(diffcap[0])["text"] == ["quail eggs, not hen eggs"]


def test_what_the_page_of_a_pair_offers_can_be_confirmed_as_it_is(place: Place, tmp_path: Path) -> None:
    ann, bob = place.visit("Ann"), place.visit("Bob")
    for client in (ann, bob):  # a pair that all of them reject, and one that half of them do
        answer(client, 5, "", "too short")
    answer(ann, 2, "salt", "unclear")
    answer(bob, 2, "salt")
    admin = place.visit("admin")
    names = [" ".join(pair) for pair in place.pairs]
    for name in names[:5]:
        suggested = admin.get("/annotate/admin/pair", params={"id": name}).json()["suggested"]
        sent = admin.post("/annotate/admin/adjudicate", json={"pair": name, **suggested})
        assert sent.status_code == 200, (suggested, sent.json())
        if suggested["rejected"] is None:
            again = admin.get("/annotate/admin/pair", params={"id": name}).json()["suggested"]
            assert again == suggested
    decided = {own.pair: own for own in collected(admin, tmp_path / "a.jsonl") if own.kind == "adjudication"}
    assert [decided[name].rejected for name in names[:5]] == [None, None, None, "too short", "unclear"]
    assert [decided[name].differences["Ingredients"].text for name in names[:3]] == ["eggs 1", "eggs 4", "eggs 3"]


def test_offered_texts_have_one_direction_or_say_so() -> None:
    task = defaults()

    def suggested(**sides: str) -> dict[str, Any]:
        """Each person wrote about a category of their own, with one of the clips on the left."""
        return results.suggestion(
            [
                answer_made(annotator=side, left=side, scores={category: 3, "Actions": 5})
                for category, side in sides.items()
            ],
            task,
        )

    def answer_made(annotator: str, left: str, scores: dict[str, int]) -> Answer:
        differences = {name: Difference("" if score == 5 else name, score) for name, score in scores.items()}
        return Answer("p", "a", "b", annotator, "whisk", differences, left=left)  # type: ignore[arg-type]

    other = "(Video 1 compared with Video 2) "
    one = suggested(Visuals="reference")
    assert (one["left"], one["texts"]) == ("reference", {"Visuals": "Visuals"})
    two = suggested(Visuals="candidate", Technique="candidate")
    assert (two["left"], two["texts"]) == ("candidate", {"Visuals": "Visuals", "Technique": "Technique"})
    both = suggested(Visuals="reference", Technique="candidate")
    assert (both["left"], both["texts"]) == ("reference", {"Visuals": "Visuals", "Technique": f"{other}Technique"})


def test_files_hold_the_same_answers_and_label_studio_comes_back(place: Place, world: Path, tmp_path: Path) -> None:
    admin = place.visit("admin")
    found = collected(admin, tmp_path / "answers.jsonl")
    assert collected(admin, tmp_path / "answers.csv", "csv") == found
    assert "<View>" in admin.get("/annotate/admin/export/label-studio-config").text
    tasks = json.loads(admin.get("/annotate/admin/export/label-studio").content)
    assert len(tasks) >= 6, "also pairs that nobody answered"
    other = Place(world, tmp_path / "other", people=2)
    receiver = other.visit("admin")
    first = receiver.post("/annotate/admin/import", json={"tasks": tasks}).json()
    assert first == {"done": "6 answers taken", "taken": 6, "left_out": {}, "refused": []}
    before = other.count()
    again = receiver.post("/annotate/admin/import", json={"tasks": tasks}).json()["done"]
    assert again == "0 answers taken; 6 left out: answered by the same person already" and other.count() == before
    copies = collected(receiver, tmp_path / "copies.jsonl")
    assert sorted(map(repr, copies)) == sorted(map(repr, found))
    third = json.loads(json.dumps(tasks).replace('"Ann"', '"Cid"'))
    assert (
        "answered by enough people already"
        in receiver.post("/annotate/admin/import", json={"tasks": third}).json()["done"]
    )
    page = receiver.get("/annotate/admin").json()
    assert page["totals"]["complete"] == 3 and page["people"][0]["person"]["origin"] == "import"


def of_label_studio(admin: "TestClient", keysteps: list[str]) -> list[dict[str, Any]]:
    """Tasks of a pair each with one annotation made in Label Studio: the keystep, and score 5 everywhere."""
    tasks = json.loads(admin.get("/annotate/admin/export/label-studio").content)
    made = []
    for who, (task, keystep) in enumerate(zip(tasks, keysteps, strict=False), 1):
        result = {"from_name": "keystep", "to_name": "video1", "type": "textarea", "value": {"text": [keystep]}}
        annotation = {"completed_by": who, "created_at": "2026-11-28T09:30:00Z", "lead_time": 4.0}
        made.append({"data": task["data"], "annotations": [{**annotation, "result": [result] if keystep else []}]})
    return made


def test_an_import_takes_the_other_answers_and_gives_one_line_for_each_refused_one(world: Path, tmp_path: Path) -> None:
    place = Place(world, tmp_path, people=2)
    admin = place.visit("admin")
    tasks = of_label_studio(admin, ["", "whisk", "w " * 11, "whisk the eggs"])
    found = admin.post("/annotate/admin/import", json={"tasks": tasks, "first": 101}).json()
    assert (found["taken"], found["left_out"], found["done"]) == (2, {}, "2 answers taken; 2 refused")
    assert [line.split(" Correct")[0] for line in found["refused"]] == [
        "the file: task 101: annotation 1: Write the keystep that both clips show, in at most 10 words.",
        "the file: task 103: annotation 1: The keystep has 11 words; write at most 10.",
    ]
    assert [own.annotator for own in collected(admin, tmp_path / "answers.jsonl")] == ["2", "4"]
    tasks[0] = of_label_studio(admin, ["whisk"])[0]
    tasks[0]["annotations"][0]["completed_by"] = {"email": "x" * 101}
    tasks[2]["data"]["pair"] = "another"
    tasks[2]["annotations"] = tasks[1]["annotations"]
    score = {"from_name": "score_1", "type": "choices", "value": {"choices": ["2"]}}
    tasks.append({**tasks[1], "annotations": [{**tasks[1]["annotations"][0], "completed_by": 9}]})
    tasks[4]["data"] = {**tasks[4]["data"], "keystep_words": 99, "categories": ["Mess"]}  # not the rules of the task
    tasks[4]["annotations"][0]["result"] = [
        *tasks[4]["annotations"][0]["result"],
        score,
        {**score, "from_name": "text_1"},
    ]
    again = admin.post("/annotate/admin/import", json={"tasks": tasks}).json()
    name = "the annotator's name does not have 1 to 100 printable characters"
    answered = "answered by the same person already"
    assert again["left_out"] == {name: 1, answered: 2, "not a pair of the task": 1}
    (line,) = again["refused"]
    assert line.startswith("the file: task 5: annotation 1: Ingredients: choose a score from 1 (very different) to 5")
    assert "Mess is not a category of the task. Correct this in Label Studio" in line


def test_an_import_on_the_page_shows_counts_and_refused_annotations(
    serve: Callable[..., Server], browser: "Browser", world: Path, tmp_path: Path
) -> None:
    place = Place(world, tmp_path, people=2)
    file = tmp_path / "export.json"
    tasks = of_label_studio(place.visit("admin"), ["whisk", "", "<b>whisk</b>", "w " * 11])
    tasks[0]["data"]["more"] = "x" * 500_000  # the others are sent in a request of their own
    file.write_text(json.dumps(tasks))
    place.database.close()
    url = serve("--annotate", str(place.task)).url
    with browser.new_context(viewport={"width": 1280, "height": 720}) as context:
        page = context.new_page()
        page.goto(link(place.task, url, "admin")[0])
        page.wait_for_url("**/annotate/admin")
        page.locator("#file").set_input_files(file)
        page.get_by_role("button", name="Import", exact=True).click()
        page.locator("#imported li").first.wait_for()
        assert (
            page.locator("#imported p").inner_text() == "2 answers taken; 2 refused. Reload the page for new figures."
        )
        lines = page.locator("#imported li").all_inner_texts()
        assert [line.split(": annotation")[0] for line in lines] == ["the file: task 2", "the file: task 4"]
        file.write_text(json.dumps([*tasks[:1], {"id": 9}]))
        page.locator("#file").set_input_files(file)
        page.get_by_role("button", name="Import", exact=True).click()
        page.get_by_text("Not imported from task 2 on: the file: task 9: data is missing").first.wait_for()
        assert "1 left out: answered by the same person already." in page.locator("#imported p").inner_text()
        assert page.locator("#imported li").count() == 0


def test_a_file_without_answers_is_refused_in_one_line(world: Path, tmp_path: Path) -> None:
    admin = Place(world, tmp_path).visit("admin")
    for form in ("answers", "csv", "diffcap", "diffrank"):
        response = admin.get(f"/annotate/admin/export/{form}")
        assert response.status_code == 400 and "nothing to export" in response.json()["error"]
    assert admin.get("/annotate/admin/export/label-studio").status_code == 200


def test_a_revoked_person_leaves_open_work_to_others(place: Place) -> None:
    ann, admin = place.visit("Ann"), place.visit("admin")
    work(ann)
    rows = admin.get("/annotate/admin").json()["people"]
    person = next(row["person"]["id"] for row in rows if row["person"]["name"] == "Ann")
    assert admin.post("/annotate/admin/people/revoke", json={"person": person}).status_code == 200
    assert ann.get("/annotate").status_code == 401
    page = admin.get("/annotate/admin").json()
    assert page["totals"]["open"] == 0 and page["totals"]["submitted"] == 6
    made = admin.post("/annotate/admin/people/link", json={"person": person}).json()
    assert ann.get(made["address"].removeprefix("http://127.0.0.1")).status_code == 200
    assert work(ann)["person"] == "Ann", "a new link opens the pages again"


def test_people_are_added_listed_and_revoked_by_command(world: Path, tmp_path: Path) -> None:
    place = Place(world, tmp_path)

    def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
        run = [sys.executable, "-m", "app.people", *arguments, "--annotate", str(place.task)]
        return subprocess.run(run, cwd=ROOT, capture_output=True, text=True)

    made = command("add", "Ann", "Bob", "--url", "https://annotate.example/")
    lines = re.fullmatch(r"Ann: https://annotate\.example(/annotate/as/\S{22})\nBob: \S+\n", made.stdout)
    assert made.returncode == 0 and lines is not None
    assert place.visit().get(lines[1]).status_code == 200
    again = command("add", "Cid", "Ann")
    assert (again.returncode, again.stdout) == (2, "") and "'Ann' is there already" in again.stderr
    assert command("revoke", "Ann").stdout == "Ann: revoked\n"
    assert place.visit().get(lines[1]).status_code == 401
    listed = ["admin: admin", "Ann: revoked", "Bob: annotator"]
    assert command("list").stdout == "".join(f"{line}, 0 pairs submitted\n" for line in listed), "Cid was not added"
    assert command("revoke", "admin").returncode == 2 and command("add").returncode == 2


@given(st.lists(st.floats(0, 3), max_size=40), st.floats(0.5, 20), st.integers(1, 10))
def test_a_limit_passes_at_most_its_burst_and_rate(pauses: list[float], rate: float, burst: int) -> None:
    now, passed = 0.0, 0
    limit = Limit(rate, float(burst), lambda: now)
    for pause in pauses:
        now += pause
        wait = limit.take("one")
        passed += wait == 0
        assert passed <= burst + rate * now + 1e-6
        assert limit.take("another") == 0 or burst <= len(pauses) * 2


def test_the_keys_of_a_limit_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.annotating.limits._KEYS", 3)
    limit = Limit(1.0, 1.0, lambda: 0.0)
    assert [limit.take(str(key)) for key in (0, 1, 2, 0, 3)] == [0, 0, 0, 1, 0]
    assert list(limit._left) == ["2", "0", "3"]


@pytest.mark.slow
def test_the_pages_have_no_serious_finding(
    serve: Callable[..., Server], browser: "Browser", world: Path, tmp_path: Path
) -> None:
    axe: Any = pytest.importorskip("axe_playwright_python.sync_playwright")
    place = Place(world, tmp_path, people=2)
    place.database.close()
    url = serve("--annotate", str(place.task)).url
    found = {}

    def check(page: Any, name: str) -> None:
        page.locator("main").wait_for()
        violations = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        serious = [own for own in violations if own["impact"] in ("serious", "critical")]
        found.update({(name, own["id"]): [node["html"][:160] for node in own["nodes"]] for own in serious})

    for place_of, (scheme, width, height) in enumerate(SCHEMES):
        with browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme) as context:  # type: ignore[arg-type]
            page = context.new_page()
            page.goto(f"{url}/annotate")
            check(page, "enter")
            begin(page, url, f"person {place_of}")
            first = number(page)
            check(page, "work")
            type_keys(page, "Tab", "whisk the eggs", "Tab", "two words", "Control+Enter")  # no score
            check(page, "a problem")
            type_keys(page, str(place_of + 1), *["Tab"] * 7, "Control+Enter")
            wait_for_another(page, first)
            type_keys(page, "r")
            check(page, "reject")
            page.goto(link(place.task, url, "admin")[0])
            page.wait_for_url("**/annotate/admin")
            for name in ("", "/pairs", "/disagreements", f"/pair?id={' '.join(place.pairs[0])}"):
                page.goto(f"{url}/annotate/admin{name}")
                check(page, f"admin{name[:10]}")
    assert found == {}


def test_a_decision_is_made_with_the_keyboard(
    serve: Callable[..., Server], browser: "Browser", place: Place, tmp_path: Path
) -> None:
    place.database.close()
    url = serve("--annotate", str(place.task)).url
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(link(place.task, url, "admin")[0])
        page.wait_for_url("**/annotate/admin")
        page.goto(f"{url}/annotate/admin/disagreements")
        with page.expect_navigation():  # until the page's script hears keys
            page.locator("table a").first.click()
        row = page.locator("[data-category=Ingredients]")
        assert (row.locator("select").input_value(), row.locator("input").input_value()) == ("2", "eggs 1")
        row.locator("[data-take]", has_text="eggs 4").click()  # what a person said
        assert (row.locator("select").input_value(), row.locator("input").input_value()) == ("4", "eggs 4")
        row.locator("input").fill("")
        page.locator("#keystep").fill("")
        page.keyboard.press("Control+Enter")
        page.get_by_text("✗ not decided: see the marked lines").wait_for()
        assert page.evaluate("document.activeElement.id") == "keystep"
        for field in (page.locator("#keystep"), row.locator("input"), row.locator("select")):
            assert field.get_attribute("aria-invalid") == "true"
            note = page.locator(f"#{field.get_attribute('aria-describedby')}").inner_text()
            assert note.startswith(("✗ Write the keystep", "✗ Ingredients: describe the difference"))
        page.locator("[data-take=keystep]").first.click()
        assert page.locator("#keystep").input_value() == "whisk the eggs"
        row.locator("input").fill("quail eggs")
        page.keyboard.press("Control+Enter")
        page.wait_for_url(lambda address: " ".join(place.pairs[2]).replace(" ", "%20") in address)
        page.locator("[data-category=Ingredients] input").fill("more eggs")
        page.keyboard.press("Control+Enter")
        page.wait_for_url("**/disagreements")
        out = tmp_path / "answers.jsonl"
        out.write_bytes(context.request.get(f"{url}/annotate/admin/export/answers").body())
    decided = [own.differences["Ingredients"].text for own in read_answers(out) if own.kind == "adjudication"]
    assert decided == ["quail eggs", "more eggs"]
