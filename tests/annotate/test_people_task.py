"""Guarantees of annotate.people.task and files, with real files."""

import json
import os
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from annotate.people import files
from annotate.people.task import REJECT_REASONS, Pair, defaults, read_pairs, read_task
from annotate.qa.pair_choice import SCHEMA
from common.errors import StepDiffError

from .people_made import CATEGORIES, task

SUPPLEMENT = Path(__file__).parents[3] / "shared/seeds"


def test_the_default_rubric_is_that_of_the_supplement_to_the_letter() -> None:
    if not SUPPLEMENT.is_dir():
        pytest.skip("the paper's supplement is not here")
    (file,) = SUPPLEMENT.glob("*.txt")
    text = file.read_text(encoding="utf-8")
    matrix = text[text.index("\t5\t4\t3\t2\t1") : text.index("Figure S3.")]
    form = defaults()
    assert form.instructions in text
    rows = [line.split("\t") for line in matrix.strip().splitlines()[1:]]
    assert len(rows) == len(form.categories)
    for (title, *cells), category in zip([[c for c in row if c] for row in rows], form.categories, strict=True):
        assert category.title == re.sub("</?b>", "", title)
        for score, cell in zip((5, 4, 3, 2, 1), cells, strict=True):
            items = re.findall(r"<li>(.*?)</li>", cell) or [cell]
            assert list(category.rubric[score]) == [item for item in items if item != "-"]


def test_a_task_of_one_key_has_the_settings_of_the_supplement(tmp_path: Path) -> None:
    made = read_task(task(tmp_path))
    assert made.pairs == (Pair("x y", "x", "y"), Pair("z w", "z", "w")) and made.names == CATEGORIES
    assert (made.people, made.keystep_words, made.reject_reasons) == (3, 10, REJECT_REASONS)
    assert made.gold.rows == made.training.rows == () and (made.gold_rate, made.timeout_minutes) == (0.1, 30)


def test_a_task_of_all_keys(tmp_path: Path) -> None:
    gold = {"reference": "g", "candidate": "h", "scores": {"Visuals": 2}}
    (tmp_path / "gold.jsonl").write_text(json.dumps(gold) + "\n")
    learn = {"id": "t", "reference": "i", "candidate": "j", "scores": {"Mess": 5}, "feedback": "<b>Equal</b>"}
    (tmp_path / "training.jsonl").write_text(json.dumps(learn))
    own = {"name": "Mess", "title": "How messy", "rubric": {"5": ["none"]}}
    path = task(
        tmp_path,
        people=2,
        categories=[{"name": "Visuals"}, own | {"rubric": {}}],
        gold={"file": "gold.jsonl", "tolerance": 0},
        gold_rate=1,
        training="training.jsonl",
        keystep_words=4,
        reject_reasons=["dark"],
        timeout_minutes=1.5,
        instructions="Look.",
    )
    made = read_task(path)
    assert made.categories[0] == defaults().categories[4] and made.categories[1].title == "How messy"
    assert made.categories[1].rubric == dict.fromkeys((5, 4, 3, 2, 1), ())
    assert made.gold.by_id["g h"].scores == {"Visuals": 2} and not made.gold.agrees(2, 3)
    assert made.training.by_id["t"].feedback == "<b>Equal</b>" and made.training.agrees(5, 4)
    assert set(made.by_id) == {"x y", "z w", "g h", "t"} and made.gold_rate == 1
    assert (made.people, made.keystep_words, made.timeout_minutes, made.instructions) == (2, 4, 1.5, "Look.")


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"peple": 3}, "task.yaml: peple is no key"),
        ({"people": 0}, "people should be"),
        ({"people": True}, "people should be"),
        ({"people": 2.5}, "people should be"),
        ({"pairs": 3}, "pairs should be a valid string, not 3"),
        ({"pairs": "none.csv"}, "none.csv: cannot be read"),
        ({"categories": []}, "categories should have at least 1"),
        ({"categories": ["Visuals"]}, "categories: 0 should be an object, not 'Visuals'"),
        ({"categories": [{"title": "x"}]}, "categories: 0: name is missing"),
        ({"categories": [{"name": "a"}, {"name": "a"}]}, "categories has 'a' twice"),
        ({"categories": [{"name": "a", "rubric": [1]}]}, "rubric should be"),
        ({"categories": [{"name": "a", "rubric": {"6": []}}]}, "rubric: 6 should be less"),
        ({"reject_reasons": ["a", "a"]}, "reject_reasons has 'a' twice"),
        ({"reject_reasons": ["a\x00"]}, "reject_reasons: 0 should be a text"),
        ({"reject_reasons": "a"}, "reject_reasons should be"),
        ({"gold_rate": 1.1}, "gold_rate should be"),
        ({"gold_rate": -0.1}, "gold_rate should be"),
        ({"gold_rate": True}, "gold_rate should be"),
        ({"gold_rate": float("nan")}, "gold_rate should be"),
        ({"timeout_minutes": 0}, "timeout_minutes should be greater than 0"),
        ({"gold": {"tolerance": 1}}, "gold: file is missing"),
        ({"gold": {"file": "pairs.csv"}}, "pairs.csv:1: not a JSON object"),
        ({"gold": ["a"]}, "gold should be an object"),
    ],
)
def test_an_error_names_the_file_and_the_key(keys: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match=re.escape(named)) as error:
        read_task(task(tmp_path, **keys))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"reference": "a", "candidate": "b", "scores": {}}', "scores should have at least 1"),
        ('{"reference": "a", "candidate": "b", "scores": {"Taste": 3}}', "scores: 'Taste' is no category"),
        ('{"reference": "a", "candidate": "b", "scores": {"Visuals": NaN}}', "scores: Visuals should be"),
        ('{"reference": "a", "candidate": "a", "scores": {"Visuals": 1}}', "pairs 'a' with itself"),
        ('{"reference": "x", "candidate": "y", "scores": {"Visuals": 1}}', "gold: 'x' and 'y' are in pairs already"),
        ('{"reference": "a", "candidate": "b", "feedback": 1, "scores": {"Visuals": 1}}', "feedback should be"),
        ('{"reference": "\\ud800", "candidate": "b", "scores": {"Visuals": 1}}', "reference should be"),
        ('{"id": "x y", "reference": "a", "candidate": "b", "scores": {"Visuals": 1}}', "the id 'x y' is in pairs"),
        ("", "an empty line"),
    ],
)
def test_an_error_names_the_file_and_the_line(line: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "gold.jsonl").write_text(line + "\n")
    with pytest.raises(StepDiffError, match=re.escape(named)):
        read_task(task(tmp_path, gold="gold.jsonl"))


@pytest.mark.parametrize("rows", ["x,y\ny,x\n", "x,y\nx,y\n"])
def test_a_pair_is_annotated_once(rows: str, tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match="are in pairs already; keep one, in any order"):
        read_task(task(tmp_path, rows))


def test_a_file_of_annotate_pairs_is_a_tasks_pairs_without_those_of_different_steps(tmp_path: Path) -> None:
    rows = [(0, "a", "b", "whisk", "whisk", True), (1, "a", "c", "whisk", "bake", False)]
    path = tmp_path / "pairs.parquet"
    pl.DataFrame(rows, schema=SCHEMA, orient="row").write_parquet(path)
    assert read_pairs(path) == (Pair("a b", "a", "b", "whisk"),)


def test_only_csv_and_parquet_files_of_a_plausible_size_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(name: str, content: bytes, why: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StepDiffError, match=why) as error:
            read_pairs(tmp_path / name)
        assert "\n" not in str(error.value)

    refused("a.csv", b"", "cannot be read")
    refused("b.csv", b"reference,candidate\n", "has 0 pairs")
    refused("c.csv", b"one,two\na,b\n", "no column 'reference'; it has one, two")
    refused("d.csv", b"reference,candidate\na,\n", "pair 1: candidate is missing")
    refused("e.csv", b"reference,candidate\na,b,c\n", "cannot be read")
    refused("f.parquet", b"PAR1 no PAR1", "cannot be read")
    refused("g.txt", b"reference,candidate\na,b\n", "neither .csv nor .parquet")
    refused("h.csv", b"reference,candidate\n" + b"a" * 2000 + b",b\n", "should have at most 1024")
    monkeypatch.setattr("annotate.people.task.PAIRS", 1)
    refused("i.csv", b"reference,candidate\na,b\nc,d\n", "has 2 pairs to annotate; give 1 to 1")


def test_a_file_that_is_absent_too_large_or_no_regular_file_gives_one_line_that_names_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"12345")
    (tmp_path / "latin").write_bytes(b"\xe9")
    for path, why in (
        ("none", "cannot be read"),
        ("fifo", "is not a regular file"),
        (".", "cannot|not a regular"),
    ):
        with pytest.raises(StepDiffError, match=why):
            files.read_whole(tmp_path / path)
    with pytest.raises(StepDiffError, match="larger than 4 bytes"):
        files.read_whole(tmp_path / "large", 4)
    with pytest.raises(StepDiffError, match="not UTF-8"):
        files.read_text(tmp_path / "latin")
    with pytest.raises(StepDiffError, match="NUL|null"):
        files.read_whole("a\0b")


def test_a_line_is_read_by_itself_and_one_that_is_too_long_is_refused_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"one\n\nthree")
    assert list(files.read_lines(tmp_path / "lines")) == [(1, b"one"), (2, b""), (3, b"three")]
    (tmp_path / "long").write_bytes(b"one\n" + b"x" * 50)
    with pytest.raises(StepDiffError, match="long:2: a line of more than 20 bytes"):
        list(files.read_lines(tmp_path / "long", 20))
