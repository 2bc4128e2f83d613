"""Guarantees of annotate.people.label_studio.

`label_studio_1.23.2.json` is an export of Label Studio 1.23.2: the answers of `sent` were imported there; then pairs
were annotated and skipped, and annotations changed and copied, in its pages and through its API.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings

from annotate import agreement, export, statistics
from annotate.people.answers import read_answers, read_collected
from annotate.people.form import Answer, Difference
from annotate.people.label_studio import answers_of, configuration, tasks_of, video_url, write_label_studio
from annotate.people.task import Pair, read_task
from common.errors import StepDiffError

from .people_made import CATEGORIES, answer, answers, task, usual

URL = video_url("https://example.org/{clip}.mp4")
EXPORT = Path(__file__).parent / "label_studio_1.23.2.json"
with_files = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def whole(own: Answer) -> Answer:
    """An answer that keeps the rules of the form, with the texts of one that may not."""
    found = list(own.differences.values())
    text = own.keystep.strip() or "x"
    given = {name: found[place] if place < len(found) else Difference(text, 3) for place, name in enumerate(CATEGORIES)}
    texts = {name: Difference(each.text.replace("\0", ""), each.score) for name, each in given.items()}
    differences = {name: each if each.text.strip() else Difference("", 5) for name, each in texts.items()}
    return replace(own, keystep=" ".join(own.keystep.replace("\0", "").split()[:10]) or "x", differences=differences)


@with_files
@given(answers())
def test_written_answers_read_back_equal(tmp_path: Path, made: list[Answer]) -> None:
    made = [whole(answer) for answer in made]
    write_label_studio(tmp_path / "a.json", tasks_of(made, URL))
    found = answers_of(json.loads((tmp_path / "a.json").read_text()), "a.json")
    assert len(found) == len(made) and all(each in found for each in made)


def test_the_left_clip_is_video_1_and_a_pair_without_answers_is_a_task(tmp_path: Path) -> None:
    given = [answer(), answer(annotator="b", left="candidate"), answer(annotator="c")]
    made = tasks_of(given, URL, replace(usual(), pairs=(Pair("p1", "p1-a", "p1-b"), Pair("n", "x/y", "z ä"))))
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
    (made,) = tasks_of([], URL, replace(usual(), pairs=(Pair("p1", "p1-a", "p1-b"),)))
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
        result("keystep", text=[" whisk  eggs"]),
        result("text_1", text=["fewer eggs", "more milk "]),
        result("score_1", choices=["3"]),
        result("text_5", text=["paler"]),
        result("score_5", rating=4),
    )
    (found,) = answers_of(native(*given), "export")
    assert (found.pair, found.annotator, found.keystep, found.left) == ("p1", "3", "whisk eggs", "reference")
    assert found.differences["Ingredients"] == Difference("fewer eggs\nmore milk", 3)
    assert found.differences["Visuals"] == Difference("paler", 4) and found.differences["Actions"] == Difference("", 5)
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


def native_with(**data: Any) -> list[dict[str, Any]]:
    made = native(result("keystep", text=["whisk"]))
    made[0]["data"] |= data
    return made


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([1], "file: task 1: should be an object"),
        (without(0, "data"), "task 1: data is missing; make the project with"),
        (without(0, "annotations"), "task 1: annotations is missing"),
        (without(0, "data", "video2"), "task 1: data: video2 is missing"),
        (native_with(keystep_words="10"), "task 1: data: keystep_words should be"),
        (without(0, "data", "categories"), "task 1: data: categories is missing; make the project with"),
        (without(0, "annotations", 0, "result"), "task 1: annotation 7: result is missing"),
        (without(0, "annotations", 0, "completed_by"), "annotation 7: has no completed_by"),
        (native({"from_name": "x"}), "annotation 7: result: 0: value is missing"),
        (native(result("keystep", labels=["x"])), "a value has text, choices or rating"),
        (native(result("score_2", choices=["9"])), "score should be .*, not '9'"),
        (
            native_with(answers=[{"annotator": "bob"}]),
            "task 1: data: answers: 0 should be an object of annot",
        ),
        (native(result("record", text=["{"])), "only its text 'record' names who answered, which anybody may change"),
        (native(created_at="once"), "submitted should be a time in UTC"),
        (native(lead_time="long"), "seconds should be"),
    ],
)
def test_a_line_about_a_fault_names_the_task_and_the_annotation_by_their_ids(given: list[Any], why: str) -> None:
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
        results = [r for each in tasks_of([full], URL, made) for a in each["annotations"] for r in a["result"]]
        assert {each["from_name"] for each in results} | {"video1", "video2"} == names
        assert {node.attrib["toName"] for node in view.iter() if "toName" in node.attrib} == {"video1"}
    assert "Mess <b>&</b>" in "".join(node.attrib.get("value", "") for node in view.iter())
    hints = [node.attrib.get("hint") for node in ElementTree.fromstring(configuration(usual())).iter("Choice")]
    assert "Difference in temperature / level of heat; Difference in method (e.g boiling vs poaching)" in hints


# ------------------------------------------------------------------------------- an export of Label Studio itself


def sent() -> dict[str, Answer]:
    """The answers that were imported into Label Studio, by pair and annotator."""

    def of(pair: str, clips: tuple[str, str], name: str, keystep: str, **more: Any) -> Answer:
        differences = {category: Difference("", 5) for category in CATEGORIES} | more.pop("differences", {})
        made = Answer(pair, *clips, name, keystep, {} if more.get("rejected") else differences, left="reference")
        return replace(made, submitted="2026-11-28T09:30:00.125Z", **more)

    pancake, pools = ("flip", "pool1"), ("pool1", "pool2")
    tools, light = Difference("line one\nline two ü 🍳", 1), 'has a darker colour & <b>more</b> "light"'
    ann = {"Tools/Equipment": tools, "Visuals": Difference(light, 3)}
    shakes = {"Actions": Difference("shakes the pan", 2)}
    judged: dict[str, Any] = {"differences": {"Visuals": Difference("darker", 2)}, "kind": "adjudication"}
    convis = Answer("p3", "flip", "pool2", "cy", "", {"Visuals": Difference("", 2)})
    judge = of("p1", pancake, "judge", "flip a pancake", **judged)
    made = [
        of("p1", pancake, "ann", "flip a pancake", differences=ann, seconds=41.5),
        replace(of("p1", pancake, "bob", "flip it", differences=shakes, seconds=12.0), left="candidate"),
        replace(judge, submitted="2026-11-28T10:30:00Z"),
        replace(of("p2", pools, "ann", "clean the pool", rejected="different steps", seconds=5.0), left="candidate"),
        of("p2", pools, "bob", "clean the pool", seconds=7.25),
        convis,
    ]
    return {f"{each.pair} {each.annotator}": each for each in made}


def test_what_label_studio_imported_and_nobody_changed_is_exported_equal() -> None:
    refused: list[str] = []
    found = read_collected(EXPORT, refused.append)
    for name in ("p1 judge", "p2 ann", "p2 bob"):
        assert sent()[name] in found
    assert len(found) + len(refused) == 6 + 3, "three were added there"


def test_a_changed_annotation_keeps_its_annotator_and_has_the_time_of_the_change() -> None:
    own = next(each for each in read_collected(EXPORT, lambda line: None) if each.annotator == "ann")
    before = sent()["p1 ann"]
    visuals = replace(before.differences["Visuals"], score=4)
    changed = replace(before, differences={**before.differences, "Visuals": visuals})
    assert own == replace(changed, submitted="2026-11-28T17:33:44.447115Z")


def test_pairs_annotated_and_skipped_in_label_studio_are_answers() -> None:
    found = {each.pair: each for each in read_collected(EXPORT, lambda line: None)}
    assert found["p4"].rejected == "skipped" and found["p4"].candidate == "a b/ä&c=d?"
    own = found["p5"]
    assert (own.keystep, own.annotator, own.seconds, own.left) == ("clean", "1", 11.469, "reference")
    assert own.differences["Ingredients"] == Difference("less salt", 2) and own.differences["Actions"].score == 5


REFUSED = [
    "task 16: annotation 18: Write the keystep that both clips show, in at most 10 words. Correct this in Label Studio",
    "task 18: annotation 23: Visuals: describe the difference, or choose score 5 (not different). Correct this in",
    "task 19: annotation 21: Write the keystep that both clips show, in at most 10 words. Ingredients: choose a score",
]


def test_an_annotation_that_breaks_a_rule_of_the_form_is_refused_in_one_line_and_the_others_are_read() -> None:
    refused: list[str] = []
    assert len(read_collected(EXPORT, refused.append)) == 6
    assert [line.startswith(f"{EXPORT}: {start}") for line, start in zip(refused, REFUSED, strict=True)] == [True] * 3
    with pytest.raises(StepDiffError, match="task 16: annotation 18: Write the keystep") as error:
        read_collected(EXPORT)
    assert str(error.value) == refused[0]


@pytest.mark.parametrize(
    ("results", "words", "why"),
    [
        ([], 10, "Write the keystep that both clips show, in at most 10 words."),
        ([result("keystep", text=["a b c"])], 2, "The keystep has 3 words; write at most 2."),
        ([result("text_5", text=["less"])], 10, "in at most 10 words. Visuals: choose a score from 1"),
        ([result("keystep", text=["a"]), result("score_4", choices=["4"])], 10, "Actions: describe the difference"),
        (
            [result("keystep", text=["a"]), result("score_4", choices=["0"])],
            10,
            "score should be a valid integer, not",
        ),
    ],
)
def test_an_annotation_made_or_changed_in_label_studio_keeps_the_rules_of_the_form(
    results: list[Any], words: int, why: str
) -> None:
    good = native(result("keystep", text=["whisk"]))[0]
    bad = native(*results)[0]
    bad["data"]["keystep_words"] = words
    refused: list[str] = []
    assert len(answers_of([bad, good], "file", refused.append)) == 1
    (line,) = refused
    assert why in line and "\n" not in line
    (changed,) = tasks_of([answer()], URL)
    own = changed["annotations"][0] | {"updated_by": 3, "updated_at": "2026-11-28T10:00:00Z"}
    own["result"] = results
    refused.clear()
    assert (
        answers_of([{"data": changed["data"] | {"keystep_words": words}, "annotations": [own]}], "f", refused.append)
        == []
    )
    assert why in refused[0]


def test_a_copy_of_an_annotation_is_of_the_person_who_changed_it() -> None:
    (given,) = tasks_of([answer()], URL)
    own = {"completed_by": 3, "created_at": "2026-11-28T10:00:00Z", "updated_by": 3, "parent_annotation": 1}
    given["annotations"][0] |= own
    (found,) = answers_of([given], "file")
    assert found == replace(answer(), annotator="3", submitted="2026-11-28T10:00:00Z")


def exported(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The export of a project in which tasks were imported: Label Studio gives ids, and names who imported them."""
    made = json.loads(json.dumps(made))
    for number, annotation in enumerate((own for each in made for own in each["annotations"]), 70):
        annotation |= {"import_id": annotation["id"], "id": number, "completed_by": 1, "updated_by": None}
        annotation |= {"parent_annotation": None, "created_at": "2026-11-29T08:00:00Z"}
    return made


RECORD = json.dumps({"annotator": "ann", "kind": "adjudication", "submitted": None, "seconds": None})


def test_no_text_of_an_annotation_says_who_answered() -> None:
    """A hidden text names another person, and calls the answer an adjudication: the account of Label Studio counts."""
    forged = (result("keystep", text=["whisk"]), result("record", text=[RECORD]))
    (found,) = answers_of(native(*forged, updated_by=3), "file")
    assert (found.annotator, found.kind) == ("3", "work")
    made = exported(tasks_of([answer(), answer(annotator="bob")], URL))
    assert answers_of(made, "file") == [answer(), answer(annotator="bob")]
    eve = {**made[0]["annotations"][0], "id": 99, "import_id": None, "completed_by": 5, "updated_by": 5}
    again = {**eve, "id": 100, "import_id": 1, "completed_by": 6}  # the number of an answer that is there
    made[0]["annotations"] += [{**eve, "result": [*eve["result"], forged[1]]}, again]
    assert [own.annotator for own in answers_of(made, "file")] == ["ann", "bob", "5", "6"]
    refused: list[str] = []
    old = exported(tasks_of([answer()], URL))
    del old[0]["data"]["answers"]
    old[0]["annotations"][0]["result"].append(forged[1])
    assert answers_of(old, "file", refused.append) == []
    assert refused == [
        "file: task 1: annotation 70: only its text 'record' names who answered, which anybody may change: export the "
        "tasks again"
    ]


def test_commands_end_with_status_1_where_answers_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answers.jsonl"
    commands = {
        export.main: ["--answers", str(out)],
        agreement.main: [],
        statistics.main: ["--out", str(tmp_path / "statistics")],
    }
    for main, flags in commands.items():
        assert main([str(EXPORT), *flags]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert [line.startswith(f"refused: {EXPORT}: task 1") for line in lines] == [True] * 3
        assert main([str(EXPORT), *flags, "--json"]) == 1
        assert len(json.loads(capsys.readouterr().out)["failed"]) == 3
    assert list(read_answers(out)) == read_collected(EXPORT, lambda line: None)
    assert export.main([str(out), "--csv", str(tmp_path / "a.csv")]) == 0


def test_a_file_whose_answers_are_all_refused_is_unusable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_label_studio(tmp_path / "a.json", native())
    assert export.main([str(tmp_path / "a.json"), "--csv", str(tmp_path / "a.csv")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "all its answers are refused (1); the first: " in error
    assert not (tmp_path / "a.csv").exists()


def test_the_limit_of_the_keystep_travels_with_the_tasks(tmp_path: Path) -> None:
    path = task(tmp_path, keystep_words=3)
    flags = ["--label-studio", str(tmp_path / "a.json")]
    assert export.main(["--task", str(path), *flags]) == 0
    assert {each["data"]["keystep_words"] for each in json.loads((tmp_path / "a.json").read_text())} == {3}
