"""Answers of people: tasks, rules, files that are written and read back, decisions, and Label
Studio."""

import csv
import json
import random
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

from stepdiff.annotate import agreement, export, statistics
from stepdiff.annotate import export as command
from stepdiff.annotate.export import decide, diffcap_rows, diffrank_rows
from stepdiff.annotate.forms.answers import (
    COLUMNS,
    latest,
    read_answers,
    read_collected,
    read_table,
    write_answers,
    write_table,
)
from stepdiff.annotate.forms.form import (
    REJECT_REASONS,
    Answer,
    Judgement,
    Pair,
    defaults,
    read_pairs,
    read_task,
)
from stepdiff.annotate.forms.label_studio import configuration, placed_answers, tasks_of
from stepdiff.annotate.qa.pair_choice import SCHEMA
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.jsonl import object_line
from stepdiff_core.tasks.testsets import TARGETS, DiffCap, DiffRank, read_test_set
from store import Store
from tests.refusals import refuses

from .people_answers import CATEGORIES, answer, answers, task, usual

SUPPLEMENT = Path(__file__).parents[3] / "shared/seeds"


def test_the_default_rubric_is_that_of_the_supplement() -> None:
    if not SUPPLEMENT.is_dir():
        pytest.skip("the paper's supplement is not here")
    (file,) = SUPPLEMENT.glob("*.txt")
    text = file.read_text(encoding="utf-8")
    matrix = text[text.index("\t5\t4\t3\t2\t1") : text.index("Figure S3.")]
    form = defaults()
    assert form.instructions in text
    rows = [line.split("\t") for line in matrix.strip().splitlines()[1:]]
    assert len(rows) == len(form.categories)
    for (title, *cells), category in zip(
        [[c for c in row if c] for row in rows], form.categories, strict=True
    ):
        assert category.title == re.sub("</?b>", "", title)
        for score, cell in zip((5, 4, 3, 2, 1), cells, strict=True):
            items = re.findall(r"<li>(.*?)</li>", cell) or [cell]
            assert list(category.rubric[score]) == [item for item in items if item != "-"]


def test_a_task_of_one_key_has_the_settings_of_the_supplement(tmp_path: Path) -> None:
    made = read_task(task(tmp_path))
    assert made.pairs == (Pair("x y", "x", "y"), Pair("z w", "z", "w")) and made.names == CATEGORIES
    assert (made.people, made.keystep_words, made.reject_reasons) == (3, 9, REJECT_REASONS)
    assert made.gold.rows == made.training.rows == () and (
        made.gold_rate,
        made.timeout_minutes,
    ) == (0.1, 30)


def test_a_task_of_all_keys(tmp_path: Path) -> None:
    gold = {"reference": "g", "candidate": "h", "scores": {"Visuals": 2}}
    (tmp_path / "gold.jsonl").write_text(json.dumps(gold) + "\n")
    learn = {
        "id": "t",
        "reference": "i",
        "candidate": "j",
        "scores": {"Mess": 5},
        "feedback": "<b>Equal</b>",
    }
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
    assert (
        made.categories[0] == defaults().categories[4] and made.categories[1].title == "How messy"
    )
    assert made.categories[1].rubric == dict.fromkeys((5, 4, 3, 2, 1), ())
    assert made.gold.by_id["g h"].scores == {"Visuals": 2} and not made.gold.agrees(2, 3)
    assert made.training.by_id["t"].feedback == "<b>Equal</b>" and made.training.agrees(5, 4)
    assert set(made.by_id) == {"x y", "z w", "g h", "t"} and made.gold_rate == 1
    assert (made.people, made.keystep_words, made.timeout_minutes, made.instructions) == (
        2,
        4,
        1.5,
        "Look.",
    )


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"peple": 3}, "task.yaml: peple is no key"),
        ({"people": 0}, "people should be"),
        ({"pairs": "none.csv"}, "none.csv: cannot be read"),
        ({"categories": []}, "categories should have at least 1"),
        ({"categories": ["Visuals"]}, "categories: 0 should be an object, not 'Visuals'"),
        ({"categories": [{"title": "x"}]}, "categories: 0: name is missing"),
        ({"categories": [{"name": "a"}, {"name": "a"}]}, "categories has 'a' twice"),
        ({"categories": [{"name": "a", "rubric": {"6": []}}]}, "rubric: 6 should be less"),
        ({"reject_reasons": ["a", "a"]}, "reject_reasons has 'a' twice"),
        ({"reject_reasons": ["a\x00"]}, "reject_reasons: 0 should be a text"),
        ({"gold_rate": 1.1}, "gold_rate should be"),
        ({"gold_rate": float("nan")}, "gold_rate should be"),
        ({"timeout_minutes": 0}, "timeout_minutes should be greater than 0"),
        ({"gold": {"tolerance": 1}}, "gold: file is missing"),
        ({"gold": {"file": "pairs.csv"}}, "pairs.csv:1: not a JSON object"),
        ({"gold": ["a"]}, "gold should be an object"),
    ],
)
def test_an_error_names_the_file_and_the_key(
    keys: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(StepDiffError, match=re.escape(named)) as error:
        read_task(task(tmp_path, **keys))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"reference": "a", "candidate": "b", "scores": {}}', "scores should have at least 1"),
        (
            '{"reference": "a", "candidate": "b", "scores": {"Taste": 3}}',
            "scores: 'Taste' is no category",
        ),
        (
            '{"reference": "a", "candidate": "b", "scores": {"Visuals": NaN}}',
            "scores: Visuals should be",
        ),
        ('{"reference": "a", "candidate": "a", "scores": {"Visuals": 1}}', "pairs 'a' with itself"),
        (
            '{"reference": "x", "candidate": "y", "scores": {"Visuals": 1}}',
            "gold: 'x' and 'y' are in pairs already",
        ),
        (
            '{"reference": "a", "candidate": "b", "feedback": 1, "scores": {"Visuals": 1}}',
            "feedback should be",
        ),
        (
            '{"reference": "\\ud800", "candidate": "b", "scores": {"Visuals": 1}}',
            "reference should be",
        ),
        (
            '{"id": "x y", "reference": "a", "candidate": "b", "scores": {"Visuals": 1}}',
            "the id 'x y' is in pairs",
        ),
        ("", "an empty line"),
    ],
)
def test_an_error_names_the_file_of_gold_pairs(line: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "gold.jsonl").write_text(line + "\n")
    with pytest.raises(StepDiffError, match=re.escape(named)):
        read_task(task(tmp_path, gold="gold.jsonl"))


@pytest.mark.parametrize("rows", ["x,y\ny,x\n", "x,y\nx,y\n"])
def test_a_pair_is_annotated_once(rows: str, tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match="are in pairs already; keep one, in any order"):
        read_task(task(tmp_path, rows))


def test_a_file_of_annotate_pairs_gives_pairs_of_one_step(tmp_path: Path) -> None:
    rows = [(0, "a", "b", "whisk", "whisk", True), (1, "a", "c", "whisk", "bake", False)]
    path = tmp_path / "pairs.parquet"
    pl.DataFrame(rows, schema=SCHEMA, orient="row").write_parquet(path)
    assert read_pairs(path) == (Pair("a b", "a", "b", "whisk"),)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.csv", b"", "cannot be read"),
        ("b.csv", b"reference,candidate\n", "has 0 pairs"),
        ("c.csv", b"one,two\na,b\n", "no column 'reference'; it has one, two"),
        ("d.csv", b"reference,candidate\na,\n", "pair 1: candidate is missing"),
        ("e.csv", b"reference,candidate\na,b,c\n", "cannot be read"),
        ("f.parquet", b"PAR1 no PAR1", "cannot be read"),
        ("g.txt", b"reference,candidate\na,b\n", "neither .csv nor .parquet"),
        ("h.csv", b"reference,candidate\n" + b"a" * 2000 + b",b\n", "should have at most 1024"),
    ],
)
def test_a_file_that_has_no_pairs_is_refused(
    tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StepDiffError, match=why) as error:
        read_pairs(tmp_path / name)
    assert "\n" not in str(error.value)


TASK = replace(usual(), pairs=(Pair("p1", "p1-a", "p1-b"),))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pair": " "}, "pair should not be empty"),
        ({"candidate": "p1-a"}, "pairs 'p1-a' with itself"),
        ({"annotator": ""}, "annotator should have at least 1"),
        ({"keystep": None}, "keystep should be a valid string, not None"),
        ({"keystep": "x" * 10_001}, "keystep should have at most 10000"),
        ({"keystep": "\ud800"}, "keystep should be a valid string"),
        ({"differences": []}, "differences should be"),
        (
            {"differences": {str(i): {"text": "", "score": 5} for i in range(101)}},
            "should have at most 100",
        ),
        ({"differences": {"Visuals": 5}}, "differences: Visuals should be an object, not 5"),
        (
            {"differences": {"Visuals": {"text": "", "score": 6}}},
            "Visuals: score should be less than or equal to 5",
        ),
        ({"differences": {"Visuals": {"text": "", "score": "5"}}}, "not '5'"),
        ({"differences": {"Visuals": {"text": "", "score": 5, "x": 1}}}, "Visuals: x is no key"),
        ({"rejected": ""}, "rejected should have at least 1"),
        ({"left": "top"}, "left should be 'reference' or 'candidate', not 'top'"),
        ({"seconds": float("nan")}, "seconds should be"),
        ({"seconds": -1}, "seconds should be"),
        ({"submitted": "yesterday"}, "submitted should be a time in UTC such as"),
        ({"submitted": "2026-11-28T09:30:00+02:00"}, "submitted should be a time in UTC"),
        ({"kind": "play"}, "kind should be 'work', 'gold'"),
        ({"extra": 1}, "extra is no key"),
    ],
)
def test_an_error_names_the_file_and_the_line(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    line = object_line(asdict(answer()))
    path = tmp_path / "answers.jsonl"
    path.write_text(line + json.dumps(json.loads(line) | change) + "\n")
    with pytest.raises(StepDiffError, match="answers.jsonl:2: .*" + re.escape(named)) as error:
        list(read_answers(path))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def changed(name: str, text: str, score: int) -> Answer:
    made = answer()
    return replace(made, differences={**made.differences, name: Judgement(text, score)})


@pytest.mark.parametrize(
    ("given", "sentences"),
    [
        (answer(), []),
        (answer(scores={"Visuals": 1}), []),
        (changed("Tools/Equipment", "a blue bowl", 5), []),
        (answer(keystep=" "), ["Write the keystep that both clips show, in at most 9 words."]),
        (answer(keystep="a " * 10), ["The keystep has 10 words; write at most 9."]),
        (answer(keystep="a " * 9), []),
        (
            changed("Tools/Equipment", " ", 4),
            ["Tools / Equipment: describe the difference, or choose score 5 (not different)."],
        ),
        (
            replace(
                answer(),
                differences={n: d for n, d in answer().differences.items() if n != "Technique"},
            ),
            ["Techniques: choose a score from 1 (very different) to 5 (not different)."],
        ),
        (changed("Taste", "", 5), ["Taste is not a category of the task."]),
        (answer("p2"), ["The pair p2 with these two clips is not part of the task."]),
        (answer(candidate="c"), ["The pair p1 with these two clips is not part of the task."]),
        (answer(rejected="too short", keystep="", differences={}), []),
        (
            answer(rejected="dull"),
            [
                "Choose one of the reasons to reject a pair: different steps, unclear, too short, "
                "other."
            ],
        ),
    ],
)
def test_each_broken_rule_of_the_form_gives_a_sentence(given: Answer, sentences: list[str]) -> None:
    assert TASK.problems(given) == sentences


def test_the_last_answer_of_a_person_about_a_pair_counts() -> None:
    first, second = (
        answer(submitted="2026-11-28T09:30:00Z"),
        answer(submitted="2026-11-28T09:31:00+00:00", seconds=9.0),
    )
    other, gold = answer(annotator="bob"), answer(kind="gold")
    assert latest([second, first, other, gold]) == [second, other, gold]
    unknown = answer(submitted=None)
    assert latest([unknown, replace(unknown, seconds=1.0)]) == [replace(unknown, seconds=1.0)]
    assert latest([first, unknown]) == [first]


def test_a_text_says_how_the_right_video_differs() -> None:
    assert answer(left="candidate").shown == ("p1-b", "p1-a")
    assert answer(left=None).shown == answer().shown == ("p1-a", "p1-b")


URL = "https://example.org/{clip}.mp4"


def answers_of(
    tasks: list[Any], where: str, refused: Callable[[str], None] | None = None
) -> list[Answer]:
    return [own for _, own in placed_answers(tasks, where, refused)]


HOSTILE = "<img src=x onerror=alert(1)> & \"quoted\", 'single'\n=cmd() | \r\n\t{{7*7}}${x}"
with_files = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def hostile() -> Answer:
    made = answer(keystep=HOSTILE, annotator=HOSTILE)
    return Answer(
        **(
            vars(made)
            | {"differences": {HOSTILE: Judgement(HOSTILE, 2), "Visuals": Judgement("", 5)}}
        )
    )


@with_files
@given(answers())
def test_a_written_table_reads_back_equal_in_any_order(tmp_path: Path, made: list[Answer]) -> None:
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


def test_nothing_in_a_text_changes_the_form(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", [hostile()])
    assert read_collected(tmp_path / "a.csv") == [hostile()]
    (tmp_path / "a.json").write_text(json.dumps(tasks_of([hostile()], URL)))
    assert read_collected(tmp_path / "a.json") == [hostile()]


@pytest.mark.full
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("score", "7"), "row 2: score should be .*, not 7"),
        (("score", "4.5"), "not 4.5"),
        (("score", ""), "not ''"),
        (("seconds", "1e999"), "seconds should be a finite number"),
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


@pytest.mark.full
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (",".join(COLUMNS) + "\na,b\n", "row 1: has other fields than the 13 columns"),
        (",".join(COLUMNS) + "\n" + ",".join(["x"] * 14), "row 1: has other fields"),
        (",".join(COLUMNS) + '\n"open', "row .*: not CSV"),
        # Python's limit of a field is of the whole process, and readers of narration raise it.
        (
            ",".join(COLUMNS) + "\n" + "x" * 200_000,
            "not CSV .field larger than field limit|has other fields",
        ),
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
        Answer(
            "=pair",
            "@clip",
            "-x1",
            f"{text}ann {place}",
            text,
            {"=category": Judgement(text, 2)},
            seconds=1e-7,
        )
        for place, text in enumerate(texts)
    ]
    write_table(path, made)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert row.pop("candidate") == "-x1", "an id computes nothing"
        assert not [
            value
            for value in row.values()
            if value.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
        ]
        assert (row["score"], row["seconds"]) == ("2", "1e-07"), "numbers are numbers"
    assert [row["text"] for row in rows][: len(FORMULAS)] == [f"'{text}" for text in FORMULAS]
    assert rows[-4]["text"] == "'tis salt" and read_table(path) == made


def scored(score: int, name: str = "ann", **more: Any) -> Answer:
    return answer(annotator=name, scores={"Visuals": score}, **more)


def test_the_score_is_the_median_over_people_a_half_rounded_down() -> None:
    for scores, expected in (
        ((1, 5, 4), 4),
        ((4, 5), 4),
        ((2, 5), 3),
        ((5,), 5),
        ((1, 1, 5, 5), 3),
    ):
        (pair,), rejected = decide(scored(score, str(i)) for i, score in enumerate(scores))
        assert (pair.scores["Visuals"], pair.people, rejected) == (expected, len(scores), [])
        assert pair.scores["Actions"] == 5


def test_only_work_counts_and_an_adjudication_wins_over_it() -> None:
    work = [scored(2, "a"), scored(2, "b"), scored(1, "a", submitted="2026-11-28T09:00:00Z")]
    (pair,), _ = decide([*work, scored(5, "g", kind="gold"), scored(5, "t", kind="training")])
    assert (pair.scores["Visuals"], pair.people, pair.adjudicated) == (2, 2, False)
    early = scored(4, "judge", kind="adjudication")
    late = scored(3, "second judge", kind="adjudication", submitted="2026-11-28T11:00:00Z")
    for collection in ([early, *work, late], [late, early, *work]):
        (pair,), _ = decide(collection)
        assert (pair.scores["Visuals"], pair.people, pair.adjudicated) == (3, 1, True)
    equal = scored(5, "judge", kind="adjudication")
    assert diffcap_rows(decide([*work, equal])[0]) == []
    refusing = answer(annotator="judge", kind="adjudication", rejected="unclear", differences={})
    assert decide([*work, refusing]) == ([], ["p1"])


def test_a_pair_that_half_of_its_people_reject_is_in_no_row() -> None:
    no = [answer(annotator=f"n{i}", rejected="unclear", differences={}) for i in range(2)]
    yes = [scored(2, f"y{i}") for i in range(3)]
    assert decide([*no, *yes[:1]])[1] == decide([*no, *yes[:2]])[1] == decide(no)[1] == ["p1"]
    (pair,), rejected = decide([*no, *yes])
    assert pair.people == 3 and rejected == []
    judge = scored(3, "judge", kind="adjudication")
    assert decide([*no, judge])[0][0].scores["Visuals"] == 3


def test_a_text_keeps_its_direction() -> None:
    given = [scored(2, "a"), scored(2, "b", left="candidate"), scored(3, "c"), scored(5, "d")]
    given[2] = replace(given[2], differences={"Visuals": Judgement("  paler ", 3)})
    assert diffcap_rows(decide(given)[0]) == [
        DiffCap("p1-a", "p1-b", "Visuals", ("uses less Visuals", "paler")),
        DiffCap("p1-b", "p1-a", "Visuals", ("uses less Visuals",)),
    ]


def star(*scores: int, category: str = "Visuals") -> list[Answer]:
    """Answers about pairs of the clip `hub` with others."""
    return [
        Answer(f"p{i}", "hub", f"c{i}", "ann", "whisk", {category: Judgement("x", score)})
        for i, score in enumerate(scores)
    ]


def test_diffrank_rows_have_different_scores_and_follow_the_seed() -> None:
    (row,) = diffrank_rows(decide(star(1, 3, 5))[0])
    assert row.reference == "hub" and row.category == "Visuals"
    assert dict(zip(row.targets, row.scores, strict=True)) == {"c0": 1, "c1": 3, "c2": 5}
    assert diffrank_rows(decide(star(3, 3, 3))[0]) == diffrank_rows(decide(star(3))[0]) == []
    many, _ = decide(star(*[1, 2, 3, 4, 5] * 4))
    rows = [diffrank_rows(many, seed=seed) for seed in range(3)]
    assert diffrank_rows(many, seed=1) == rows[1] and rows[0] != rows[1]
    assert all(
        len(row.targets) == TARGETS == len(set(row.targets)) for found in rows for row in found
    )


def test_clips_of_another_step_have_score_0_and_fill_a_row() -> None:
    steps = {"hub": "whisk", "c0": "whisk", "c1": "whisk"}
    other = [
        Answer(f"q{i}", f"d{i}", f"e{i}", "ann", "bake", {"Visuals": Judgement("", 5)})
        for i in range(5)
    ]
    steps |= {f"{side}{i}": "bake" for side in "de" for i in range(5)} | {"e4": "whisk"}
    decided, _ = decide([*star(1, 3), *other])
    found = [row for row in diffrank_rows(decided, steps) if row.reference == "hub"]
    assert [len(row.targets) for row in found] == [TARGETS]
    scores = dict(zip(found[0].targets, found[0].scores, strict=True))
    assert {clip for clip, score in scores.items() if score == 0} <= {
        clip for clip in steps if steps[clip] == "bake"
    }
    assert sum(score == 0 for score in scores.values()) == 2 and scores.get("c0", 1) == 1
    assert "e4" not in scores  # of the same step, but nobody compared it
    strange = diffrank_rows(decided, {clip: step for clip, step in steps.items() if clip != "hub"})
    assert [row.scores for row in strange if row.reference == "hub"] == [
        row.scores for row in diffrank_rows(decided) if row.reference == "hub"
    ]


@pytest.fixture
def collected(tmp_path: Path) -> Path:
    """Answers of three people about three pairs of one clip."""
    given = [
        Answer(
            f"p{i}",
            "hub",
            f"c{i}",
            name,
            "whisk",
            {n: Judgement("x", 1 + (i + k) % 4) for n in CATEGORIES},
        )
        for i in range(3)
        for k, name in enumerate(("ann", "bob", "cy"))
    ]
    write_answers(tmp_path / "answers.jsonl", given)
    return tmp_path


def test_one_command_writes_all_forms(collected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(collected / "features", create=True)
    frame = pl.DataFrame({"key": ["hub", "c0", "c1", "c2"], "step": ["a", "a", "a", None]})
    store.catalog("clips").append(frame)
    names = ("diffcap", "diffrank", "answers", "csv", "label-studio", "label-studio-config")
    flags = [part for name in names for part in (f"--{name}", str(collected / f"made/{name}"))]
    assert (
        command.main(
            [str(collected / "answers.jsonl"), *flags, "--store", str(collected / "features")]
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert (
        "9 answers about 3 pairs: 0 pairs rejected, 0 adjudicated" in shown
        and "retrieval negatives" in shown
    )
    made = collected / "made"
    assert len(read_test_set("diffcap", made / "diffcap")) == 15
    ranked: list[DiffRank] = read_test_set("diffrank", made / "diffrank")
    assert {row.reference for row in ranked} == {"hub"} and len(ranked) == 5
    original = read_collected(collected / "answers.jsonl")
    for name in ("answers", "csv", "label-studio"):
        assert read_collected(made / name) == original
    assert (made / "label-studio-config").read_text().startswith("<View>")


def test_answers_without_a_text_are_no_diffcap_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_answers(
        tmp_path / "a.jsonl", [Answer("p", "x", "y", "ann", "k", {"Visuals": Judgement("", 2)})]
    )
    assert (
        command.main([str(tmp_path / "a.jsonl"), "--diffcap", str(tmp_path / "diffcap.jsonl")]) == 0
    )
    shown = capsys.readouterr().out
    assert "DiffCap: no answer has a text" in shown and "negatives" not in shown


def test_a_task_without_answers_gives_tasks_to_annotate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "https://example.org/{clip}.webm"
    flags = ["--label-studio", str(tmp_path / "out.json"), "--video-url", url]
    assert command.main(["--task", str(task(tmp_path)), *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == {"label_studio": 2}
    made = json.loads((tmp_path / "out.json").read_text())
    assert [each["data"]["video2"] for each in made] == [
        "https://example.org/y.webm",
        "https://example.org/w.webm",
    ]
    assert made[0]["data"]["categories"] == list(CATEGORIES) and made[0]["annotations"] == []


def test_the_steps_of_a_task_are_known_without_a_store(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("reference,candidate,step\nhub,c0,a\nx,y,b\n")
    (tmp_path / "task.yaml").write_text("pairs: pairs.csv\n")
    given = [*star(4), Answer("x y", "x", "y", "ann", "k", {"Visuals": Judgement("", 5)})]
    write_answers(tmp_path / "a.jsonl", given)
    out = tmp_path / "r.jsonl"
    assert (
        command.main(
            [
                str(tmp_path / "a.jsonl"),
                "--task",
                str(tmp_path / "task.yaml"),
                "--diffrank",
                str(out),
            ]
        )
        == 0
    )
    rows = {row.reference: sorted(row.scores) for row in read_test_set("diffrank", out)}
    assert rows["hub"] == [0, 0, 4] and rows["x"] == [0, 0, 5]


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["FILE"],
        ["--csv", "OUT"],
        ["FILE", "--label-studio", "OUT", "--video-url", "x"],
        ["none", "--csv", "OUT"],
    ],
)
def test_an_unusable_command_is_one_line(
    flags: list[str], collected: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"FILE": str(collected / "answers.jsonl"), "OUT": str(collected / "out")}
    refuses(command.main, [names.get(flag, flag) for flag in flags], capsys)
    assert not (collected / "out").exists()


EXPORT = Path(__file__).parent / "label_studio_1.23.2.json"


def whole(own: Answer) -> Answer:
    """An answer that keeps the rules of the form, with the texts of one that may not."""
    found = list(own.differences.values())
    text = own.keystep.strip() or "x"
    given = {
        name: found[place] if place < len(found) else Judgement(text, 3)
        for place, name in enumerate(CATEGORIES)
    }
    texts = {
        name: Judgement(each.text.replace("\0", ""), each.score) for name, each in given.items()
    }
    differences = {
        name: each if each.text.strip() else Judgement("", 5) for name, each in texts.items()
    }
    return replace(
        own,
        keystep=" ".join(own.keystep.replace("\0", "").split()[:9]) or "x",
        differences=differences,
    )


@given(answers())
def test_written_answers_read_back_equal(made: list[Answer]) -> None:
    made = [whole(answer) for answer in made]
    found = answers_of(json.loads(json.dumps(tasks_of(made, URL))), "a.json")
    assert len(found) == len(made) and all(each in found for each in made)


def test_the_left_clip_is_video_1_and_an_open_pair_is_a_task(tmp_path: Path) -> None:
    given = [answer(), answer(annotator="b", left="candidate"), answer(annotator="c")]
    made = tasks_of(
        given, URL, replace(usual(), pairs=(Pair("p1", "p1-a", "p1-b"), Pair("n", "x/y", "z ä")))
    )
    videos = [
        (each["data"]["video1"], each["data"]["video2"], len(each["annotations"])) for each in made
    ]
    assert videos == [
        ("https://example.org/p1-a.mp4", "https://example.org/p1-b.mp4", 2),
        ("https://example.org/p1-b.mp4", "https://example.org/p1-a.mp4", 1),
        ("https://example.org/x%2Fy.mp4", "https://example.org/z%20%C3%A4.mp4", 0),
    ]
    assert all(
        "completed_by" not in annotation for each in made for annotation in each["annotations"]
    )
    with pytest.raises(StepDiffError, match="has {clip} where the clip's id belongs"):
        tasks_of([answer()], "https://example.org/")


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
    return [
        {
            "id": 1,
            "project": 2,
            **made,
            "annotations": [annotation | more],
            "predictions": [],
            "drafts": [],
        }
    ]


def result(name: str, **value: Any) -> dict[str, Any]:
    return {
        "id": "a1",
        "from_name": name,
        "to_name": "video1",
        "type": "x",
        "origin": "manual",
        "value": value,
    }


def test_an_annotation_made_in_label_studio_is_an_answer() -> None:
    given = (
        result("keystep", text=[" whisk  eggs"]),
        result("text_1", text=["fewer eggs", "more milk "]),
        result("score_1", choices=["3"]),
        result("text_5", text=["paler"]),
        result("score_5", rating=4),
    )
    (found,) = answers_of(native(*given), "export")
    assert (found.pair, found.annotator, found.keystep, found.left) == (
        "p1",
        "3",
        "whisk eggs",
        "reference",
    )
    assert found.differences["Ingredients"] == Judgement("fewer eggs\nmore milk", 3)
    assert found.differences["Visuals"] == Judgement("paler", 4) and found.differences[
        "Actions"
    ] == Judgement("", 5)
    assert (found.seconds, found.submitted, found.kind) == (
        41.2,
        "2026-11-28T09:30:00.123456Z",
        "work",
    )
    (skipped,) = answers_of(
        native(was_cancelled=True, completed_by={"id": 3, "email": "a@b.c"}), "export"
    )
    assert (skipped.rejected, skipped.differences, skipped.annotator) == ("skipped", {}, "a@b.c")
    (rejected,) = answers_of(
        native(result("rejected", choices=["unclear"]), ground_truth=True), "export"
    )
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
        (without(0, "data", "video2"), "task 1: data: video2 is missing"),
        (native_with(keystep_words="10"), "task 1: data: keystep_words should be"),
        (without(0, "annotations", 0, "completed_by"), "annotation 7: has no completed_by"),
        (native({"from_name": "x"}), "annotation 7: result: 0: value is missing"),
        (native(result("keystep", labels=["x"])), "a value has text, choices or rating"),
        (native(result("score_2", choices=["9"])), "score should be .*, not '9'"),
        (
            native_with(answers=[{"annotator": "bob"}]),
            "task 1: data: answers: 0 should be an object of annot",
        ),
        (native(created_at="once"), "submitted should be a time in UTC"),
    ],
)
def test_a_fault_names_task_and_annotation_by_their_ids(given: list[Any], why: str) -> None:
    with pytest.raises(StepDiffError, match=why) as error:
        answers_of(json.loads(json.dumps(given)), "file")
    assert "\n" not in str(error.value)


def test_the_configuration_has_a_control_for_every_result(tmp_path: Path) -> None:
    own = [{"name": "Mess", "title": "Mess <b>&</b>", "rubric": {5: ['"none" <i>']}}]
    path = task(tmp_path)
    path.write_text(
        "pairs: pairs.csv\ncategories:\n  - " + json.dumps(own[0] | {"rubric": {}}) + "\n"
    )
    for made in (usual(), read_task(path)):
        view = ElementTree.fromstring(configuration(made))
        names = {node.attrib["name"] for node in view.iter() if "name" in node.attrib}
        scores = dict.fromkeys(made.names, 3)
        full = answer(scores=scores, rejected="unclear")
        full = Answer(
            **(vars(full) | {"differences": {name: Judgement("x", 3) for name in made.names}})
        )
        results = [
            r
            for each in tasks_of([full], URL, made)
            for a in each["annotations"]
            for r in a["result"]
        ]
        assert {each["from_name"] for each in results} | {"video1", "video2"} == names
        assert {node.attrib["toName"] for node in view.iter() if "toName" in node.attrib} == {
            "video1"
        }
    assert "Mess <b>&</b>" in "".join(node.attrib.get("value", "") for node in view.iter())
    hints = [
        node.attrib.get("hint")
        for node in ElementTree.fromstring(configuration(usual())).iter("Choice")
    ]
    assert (
        "Difference in temperature / level of heat; Difference in method (e.g boiling vs poaching)"
        in hints
    )


def sent() -> dict[str, Answer]:
    """The answers that were imported into Label Studio, by pair and annotator."""

    def of(pair: str, clips: tuple[str, str], name: str, keystep: str, **more: Any) -> Answer:
        differences = {category: Judgement("", 5) for category in CATEGORIES} | more.pop(
            "differences", {}
        )
        made = Answer(
            pair,
            *clips,
            name,
            keystep,
            {} if more.get("rejected") else differences,
            left="reference",
        )
        return replace(made, submitted="2026-11-28T09:30:00.125Z", **more)

    pancake, pools = ("flip", "pool1"), ("pool1", "pool2")
    tools, light = (
        Judgement("line one\nline two ü 🍳", 1),
        'has a darker colour & <b>more</b> "light"',
    )
    ann = {"Tools/Equipment": tools, "Visuals": Judgement(light, 3)}
    shakes = {"Actions": Judgement("shakes the pan", 2)}
    judged: dict[str, Any] = {
        "differences": {"Visuals": Judgement("darker", 2)},
        "kind": "adjudication",
    }
    convis = Answer("p3", "flip", "pool2", "cy", "", {"Visuals": Judgement("", 2)})
    judge = of("p1", pancake, "judge", "flip a pancake", **judged)
    made = [
        of("p1", pancake, "ann", "flip a pancake", differences=ann, seconds=41.5),
        replace(
            of("p1", pancake, "bob", "flip it", differences=shakes, seconds=12.0), left="candidate"
        ),
        replace(judge, submitted="2026-11-28T10:30:00Z"),
        replace(
            of("p2", pools, "ann", "clean the pool", rejected="different steps", seconds=5.0),
            left="candidate",
        ),
        of("p2", pools, "bob", "clean the pool", seconds=7.25),
        convis,
    ]
    return {f"{each.pair} {each.annotator}": each for each in made}


def test_an_export_has_what_was_imported_changed_and_annotated() -> None:
    refused: list[str] = []
    found = read_collected(EXPORT, refused.append)
    for name in ("p1 judge", "p2 ann", "p2 bob"):
        assert sent()[name] in found, "nobody changed it"
    before = sent()["p1 ann"]
    visuals = replace(before.differences["Visuals"], score=4)
    changed = replace(before, differences={**before.differences, "Visuals": visuals})
    assert replace(changed, submitted="2026-11-28T17:33:44.447115Z") in found, (
        "its annotator, and the time of the change"
    )
    by_pair = {each.pair: each for each in found}
    assert by_pair["p4"].rejected == "skipped" and by_pair["p4"].candidate == "a b/ä&c=d?"
    own = by_pair["p5"]
    assert (own.keystep, own.annotator, own.seconds, own.left) == (
        "clean",
        "1",
        11.469,
        "reference",
    )
    assert (
        own.differences["Ingredients"] == Judgement("less salt", 2)
        and own.differences["Actions"].score == 5
    )
    assert len(found) == 6
    places = ("task 16: annotation 18: ", "task 18: annotation 23: ", "task 19: annotation 21: ")
    for line, place in zip(refused, places, strict=True):
        assert line.startswith(f"{EXPORT}: {place}") and "Correct this in Label Studio" in line
    with pytest.raises(StepDiffError) as error:
        read_collected(EXPORT)
    assert str(error.value) == refused[0]


@pytest.mark.parametrize(
    ("results", "words", "why"),
    [
        ([result("keystep", text=["a b c"])], 2, "The keystep has 3 words; write at most 2."),
        (
            [result("text_5", text=["less"])],
            10,
            "in at most 10 words. Visuals: choose a score from 1",
        ),
        (
            [result("keystep", text=["a"]), result("score_4", choices=["0"])],
            10,
            "score should be a valid integer, not",
        ),
    ],
)
def test_annotations_of_label_studio_keep_the_rules(
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
        answers_of(
            [{"data": changed["data"] | {"keystep_words": words}, "annotations": [own]}],
            "f",
            refused.append,
        )
        == []
    )
    assert why in refused[0]


def test_a_copy_of_an_annotation_is_of_the_person_who_changed_it() -> None:
    (given,) = tasks_of([answer()], URL)
    own = {
        "completed_by": 3,
        "created_at": "2026-11-28T10:00:00Z",
        "updated_by": 3,
        "parent_annotation": 1,
    }
    given["annotations"][0] |= own
    (found,) = answers_of([given], "file")
    assert found == replace(answer(), annotator="3", submitted="2026-11-28T10:00:00Z")


def exported(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The export of a project in which tasks were imported: Label Studio gives ids, and names who
    imported them."""
    made = json.loads(json.dumps(made))
    for number, annotation in enumerate((own for each in made for own in each["annotations"]), 70):
        annotation |= {
            "import_id": annotation["id"],
            "id": number,
            "completed_by": 1,
            "updated_by": None,
        }
        annotation |= {"parent_annotation": None, "created_at": "2026-11-29T08:00:00Z"}
    return made


RECORD = json.dumps(
    {"annotator": "ann", "kind": "adjudication", "submitted": None, "seconds": None}
)


def test_no_text_of_an_annotation_says_who_answered() -> None:
    """A hidden text names another person, and calls the answer an adjudication: the account of
    Label Studio counts."""
    forged = (result("keystep", text=["whisk"]), result("record", text=[RECORD]))
    (found,) = answers_of(native(*forged, updated_by=3), "file")
    assert (found.annotator, found.kind) == ("3", "work")
    made = exported(tasks_of([answer(), answer(annotator="bob")], URL))
    assert answers_of(made, "file") == [answer(), answer(annotator="bob")]
    eve = {
        **made[0]["annotations"][0],
        "id": 99,
        "import_id": None,
        "completed_by": 5,
        "updated_by": 5,
    }
    # the number of an answer that is there
    again = {**eve, "id": 100, "import_id": 1, "completed_by": 6}
    made[0]["annotations"] += [{**eve, "result": [*eve["result"], forged[1]]}, again]
    assert [own.annotator for own in answers_of(made, "file")] == ["ann", "bob", "5", "6"]


def test_refused_answers_give_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
