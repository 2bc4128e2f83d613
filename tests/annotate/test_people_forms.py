"""Guarantees of annotate.people.long_form and annotate.people.label_studio."""

import csv
import json
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings

from annotate.people.answers import Answer, Difference
from annotate.people.collected import read_collected
from annotate.people.label_studio import answers_of, configuration, tasks_of, video_url, write_label_studio
from annotate.people.long_form import COLUMNS, read_table, write_table
from annotate.people.pairs import Pair
from annotate.people.task import read_task
from common.errors import StepDiffError

from .people_made import CATEGORIES, answer, answers, task, usual

URL = video_url("https://example.org/{clip}.mp4")
HOSTILE = "<img src=x onerror=alert(1)> & \"quoted\", 'single'\n=cmd() | \r\n\t{{7*7}} ${x}"
with_files = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def hostile() -> Answer:
    made = answer(keystep=HOSTILE, annotator=HOSTILE)
    return Answer(**(vars(made) | {"differences": {HOSTILE: Difference(HOSTILE, 2), "Visuals": Difference("", 5)}}))


@with_files
@given(answers())
def test_a_written_table_reads_back_equal_also_if_its_rows_are_sorted_in_another_way(
    tmp_path: Path, made: list[Answer]
) -> None:
    path = tmp_path / "answers.csv"
    write_table(path, made)
    assert read_table(path) == made
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    random.Random(0).shuffle(rows)
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([head, *rows])
    found = read_table(path)
    assert len(found) == len(made) and all(each in found for each in made)


def test_the_table_has_one_row_for_each_pair_annotator_and_category(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    write_table(path, [answer(scores={"Visuals": 2}), answer(annotator="b", rejected="unclear", differences={})])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and tuple(rows[0]) == COLUMNS
    assert (rows[4]["category"], rows[4]["score"], rows[4]["text"]) == ("Visuals", "2", "uses less Visuals")
    assert (rows[5]["category"], rows[5]["score"], rows[5]["rejected"]) == ("", "", "unclear")


def test_nothing_in_a_text_changes_the_form(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", [hostile()])
    assert read_collected(tmp_path / "a.csv") == [hostile()]
    write_label_studio(tmp_path / "a.json", tasks_of([hostile()], URL))
    assert read_collected(tmp_path / "a.json") == [hostile()]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("score", "7"), "row 2: score: expects a whole number from 1 to 5, not 7"),
        (("score", "4.5"), "not 4.5"),
        (("score", "nan"), "not nan"),
        (("score", ""), "not ''"),
        (("seconds", "1e999"), "seconds: expects a number of seconds, not inf"),
        (("seconds", "soon"), "seconds: expects a number of seconds, not 'soon'"),
        (("category", "Ingredients"), "row 2: 'Ingredients' of this answer is in an earlier row"),
    ],
)
def test_an_error_names_the_row(change: tuple[str, str], why: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_table(path, [answer()])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[1][change[0]] = change[1]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(StepDiffError, match=why) as error:
        read_table(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (",".join(COLUMNS) + "\na,b\n", "row 1: has other fields than the 13 columns"),
        (",".join(COLUMNS) + "\n" + ",".join(["x"] * 14), "row 1: has other fields"),
        (",".join(COLUMNS) + '\n"open', "row .*: not CSV"),
        # Python's limit of a field is of the whole process, and readers of narration raise it.
        (",".join(COLUMNS) + "\n" + "x" * 200_000, "not CSV .field larger than field limit|has other fields"),
        ("pair,score\n", "no column 'reference'"),
    ],
)
def test_a_file_that_is_no_table_is_refused(content: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(StepDiffError, match=why):
        read_table(tmp_path / "a.csv")


def test_a_score_may_be_written_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", [answer()])
    text = (tmp_path / "a.csv").read_text()
    (tmp_path / "a.csv").write_text(text.replace(",5,", ",5.0,"))
    assert read_table(tmp_path / "a.csv") == [answer()]


# ---------------------------------------------------------------------------------------------- Label Studio


@with_files
@given(answers())
def test_written_answers_read_back_equal(tmp_path: Path, made: list[Answer]) -> None:
    write_label_studio(tmp_path / "a.json", tasks_of(made, URL))
    found = read_collected(tmp_path / "a.json")
    assert len(found) == len(made) and all(each in found for each in made)


def test_the_left_clip_is_video_1_and_a_pair_without_answers_is_a_task(tmp_path: Path) -> None:
    given = [answer(), answer(annotator="b", left="candidate"), answer(annotator="c")]
    made = tasks_of(given, URL, [Pair("p1", "p1-a", "p1-b"), Pair("n", "x/y", "z ä")], CATEGORIES)
    videos = [(each["data"]["video1"], each["data"]["video2"], len(each["annotations"])) for each in made]
    assert videos == [
        ("https://example.org/p1-a.mp4", "https://example.org/p1-b.mp4", 2),
        ("https://example.org/p1-b.mp4", "https://example.org/p1-a.mp4", 1),
        ("https://example.org/x%2Fy.mp4", "https://example.org/z%20%C3%A4.mp4", 0),
    ]
    assert all("completed_by" not in annotation for each in made for annotation in each["annotations"])
    with pytest.raises(StepDiffError, match="has {clip} where the clip's id belongs"):
        video_url("https://example.org/")


def native(*results: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """An export of a project that people annotated in Label Studio."""
    (made,) = tasks_of([], URL, [Pair("p1", "p1-a", "p1-b")], CATEGORIES)
    annotation = {
        "id": 7,
        "completed_by": 3,
        "result": list(results),
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2026-11-28T09:30:00.123456Z",
        "lead_time": 41.2,
    }
    return [{"id": 1, "project": 2, **made, "annotations": [annotation | more], "predictions": [], "drafts": []}]


def result(name: str, **value: Any) -> dict[str, Any]:
    return {"id": "a1", "from_name": name, "to_name": "video1", "type": "x", "origin": "manual", "value": value}


def test_an_annotation_made_in_label_studio_is_an_answer() -> None:
    given = (
        result("keystep", text=["whisk"]),
        result("text_1", text=["fewer eggs", "more milk"]),
        result("score_1", choices=["3"]),
        result("score_5", rating=4),
    )
    (found,) = answers_of(native(*given), "export")
    assert (found.pair, found.annotator, found.keystep, found.left) == ("p1", "3", "whisk", "reference")
    assert found.differences["Ingredients"] == Difference("fewer eggs\nmore milk", 3)
    assert found.differences["Visuals"] == Difference("", 4) and found.differences["Actions"] == Difference("", 5)
    assert (found.seconds, found.submitted, found.kind) == (41.2, "2026-11-28T09:30:00.123456Z", "work")
    (skipped,) = answers_of(native(was_cancelled=True, completed_by={"id": 3, "email": "a@b.c"}), "export")
    assert (skipped.rejected, skipped.differences, skipped.annotator) == ("skipped", {}, "a@b.c")
    (rejected,) = answers_of(native(result("rejected", choices=["unclear"]), ground_truth=True), "export")
    assert (rejected.rejected, rejected.kind) == ("unclear", "adjudication")


def without(*path: str | int) -> list[Any]:
    made: Any = native()
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return made


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([1], "file: task 1: expects data and annotations"),
        (without(0, "data"), "task 1: expects data and annotations"),
        (without(0, "annotations"), "task 1: expects data and annotations"),
        (without(0, "data", "video2"), "task 1: its data has no video2"),
        (without(0, "data", "categories"), "task 1: its data has no list of categories; make the project with"),
        (without(0, "annotations", 0, "result"), "task 1: annotation 1: has no list of results"),
        (without(0, "annotations", 0, "completed_by"), "annotation 1: has no completed_by"),
        (native({"from_name": "x"}), "annotation 1: a result has from_name and value"),
        (native(result("keystep", labels=["x"])), "a value has text, choices or rating"),
        (native(result("text_2", text=["less"])), "'Tools/Equipment' has a text and no score"),
        (native(result("score_2", choices=["9"])), "score: expects a whole number from 1 to 5, not '9'"),
        (native(result("record", text=["{"])), "the text 'record' has annotator, kind"),
        (native(created_at="once"), "submitted: expects a time in UTC"),
        (native(lead_time="long"), "seconds: expects a number"),
    ],
)
def test_a_field_that_is_missing_gives_one_line_that_names_the_task_and_the_annotation(
    given: list[Any], why: str
) -> None:
    with pytest.raises(StepDiffError, match=why) as error:
        answers_of(json.loads(json.dumps(given)), "file")
    assert "\n" not in str(error.value)


def test_a_foreign_task_without_our_names_takes_its_videos_as_clips() -> None:
    made = native(result("keystep", text=["whisk"]))
    for name in ("pair", "reference", "candidate", "left"):
        del made[0]["data"][name]
    (found,) = answers_of(made, "file")
    assert (found.reference, found.candidate) == ("https://example.org/p1-a.mp4", "https://example.org/p1-b.mp4")


def test_the_configuration_has_a_control_for_every_result_and_nothing_in_a_rubric_is_markup(tmp_path: Path) -> None:
    own = [{"name": "Mess", "title": "Mess <b>&</b>", "rubric": {5: ['"none" <i>']}}]
    path = task(tmp_path)
    path.write_text("pairs: pairs.csv\ncategories:\n  - " + json.dumps(own[0] | {"rubric": {}}) + "\n")
    for made in (usual(), read_task(path)):
        view = ElementTree.fromstring(configuration(made))
        names = {node.attrib["name"] for node in view.iter() if "name" in node.attrib}
        scores = dict.fromkeys(made.names, 3)
        full = answer(scores=scores, rejected="unclear")
        full = Answer(**(vars(full) | {"differences": {name: Difference("x", 3) for name in made.names}}))
        results = [
            r for each in tasks_of([full], URL, (), made.names) for a in each["annotations"] for r in a["result"]
        ]
        assert {each["from_name"] for each in results} | {"video1", "video2"} == names
        assert {node.attrib["toName"] for node in view.iter() if "toName" in node.attrib} == {"video1"}
    assert "Mess <b>&</b>" in "".join(node.attrib.get("value", "") for node in view.iter())
    hints = [node.attrib.get("hint") for node in ElementTree.fromstring(configuration(usual())).iter("Choice")]
    assert "Difference in temperature / level of heat; Difference in method (e.g boiling vs poaching)" in hints
