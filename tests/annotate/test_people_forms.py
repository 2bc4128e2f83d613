"""Guarantees of annotate.people.answers about CSV."""

import csv
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from annotate.people.answers import COLUMNS, read_collected, read_table, write_table
from annotate.people.form import Answer, Difference
from annotate.people.label_studio import tasks_of, video_url, write_label_studio
from common.errors import StepDiffError

from .people_made import answer, answers

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
        (("score", "7"), "row 2: score should be .*, not 7"),
        (("score", "4.5"), "not 4.5"),
        (("score", "nan"), "not nan"),
        (("score", ""), "not ''"),
        (("seconds", "1e999"), "seconds should be a finite number"),
        (("seconds", "soon"), "seconds should be .*, not 'soon'"),
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


FORMULAS = ("=HYPERLINK(1)", "+1", "-1+2", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1+1")


def test_no_text_is_a_formula_of_a_spreadsheet(tmp_path: Path) -> None:
    path, texts = tmp_path / "a.csv", [*FORMULAS, "'=1", "''@x", "'tis salt", "less -1", "5", ""]
    made = [
        Answer("=pair", "@clip", "-x1", f"{text}ann {place}", text, {"=category": Difference(text, 2)}, seconds=1e-7)
        for place, text in enumerate(texts)
    ]
    write_table(path, made)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert row.pop("candidate") == "-x1", "an id computes nothing"
        assert not [value for value in row.values() if value.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))]
        assert (row["score"], row["seconds"]) == ("2", "1e-07"), "numbers are numbers"
    assert [row["text"] for row in rows][: len(FORMULAS)] == [f"'{text}" for text in FORMULAS]
    assert rows[-4]["text"] == "'tis salt" and read_table(path) == made
