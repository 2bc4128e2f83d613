"""Guarantees of annotate.people.export and annotate/export.py."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings

from annotate import export as command
from annotate.people.answers import read_answers, read_collected, write_answers
from annotate.people.export import TARGETS, decide, diffcap_rows, diffrank_rows
from annotate.people.form import Answer, Difference
from common.errors import StepDiffError
from store import Store
from tasks.testsets import DiffCap, DiffRank, read_test_set, write_test_set

from .people_made import CATEGORIES, answer, answers, task


def scored(score: int, name: str = "ann", **more: Any) -> Answer:
    return answer(annotator=name, scores={"Visuals": score}, **more)


def test_the_score_is_the_median_over_people_a_half_rounded_down() -> None:
    for scores, expected in (((1, 5, 4), 4), ((4, 5), 4), ((2, 5), 3), ((5,), 5), ((1, 1, 5, 5), 3)):
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


def test_a_pair_that_at_least_half_of_its_people_reject_is_in_no_row() -> None:
    no = [answer(annotator=f"n{i}", rejected="unclear", differences={}) for i in range(2)]
    yes = [scored(2, f"y{i}") for i in range(3)]
    assert decide([*no, *yes[:1]])[1] == decide([*no, *yes[:2]])[1] == decide(no)[1] == ["p1"]
    (pair,), rejected = decide([*no, *yes])
    assert pair.people == 3 and rejected == []
    judge = scored(3, "judge", kind="adjudication")
    assert decide([*no, judge])[0][0].scores["Visuals"] == 3


def test_a_text_keeps_its_direction_also_where_the_candidate_was_on_the_left() -> None:
    given = [scored(2, "a"), scored(2, "b", left="candidate"), scored(3, "c"), scored(5, "d")]
    given[2] = replace(given[2], differences={"Visuals": Difference("  paler ", 3)})
    assert diffcap_rows(decide(given)[0]) == [
        DiffCap("p1-a", "p1-b", "Visuals", ("uses less Visuals", "paler")),
        DiffCap("p1-b", "p1-a", "Visuals", ("uses less Visuals",)),
    ]


def star(*scores: int, category: str = "Visuals") -> list[Answer]:
    """Answers about pairs of the clip `hub` with others."""
    return [
        Answer(f"p{i}", "hub", f"c{i}", "ann", "whisk", {category: Difference("x", score)})
        for i, score in enumerate(scores)
    ]


def test_every_diffrank_row_has_different_scores_and_the_same_seed_gives_the_same_rows() -> None:
    (row,) = diffrank_rows(decide(star(1, 3, 5))[0])
    assert row.reference == "hub" and row.category == "Visuals"
    assert dict(zip(row.targets, row.scores, strict=True)) == {"c0": 1, "c1": 3, "c2": 5}
    assert diffrank_rows(decide(star(3, 3, 3))[0]) == diffrank_rows(decide(star(3))[0]) == []
    many, _ = decide(star(*[1, 2, 3, 4, 5] * 4))
    rows = [diffrank_rows(many, seed=seed) for seed in range(3)]
    assert diffrank_rows(many, seed=1) == rows[1] and rows[0] != rows[1]
    assert all(len(row.targets) == TARGETS == len(set(row.targets)) for found in rows for row in found)


def test_a_category_without_a_score_of_a_target_has_no_row() -> None:
    given = star(1, 3, 5)
    given[0] = replace(given[0], differences={"Actions": Difference("x", 1)})
    assert diffrank_rows(decide(given)[0]) == []


def test_clips_of_another_step_have_score_0_and_fill_a_row() -> None:
    steps = {"hub": "whisk", "c0": "whisk", "c1": "whisk"}
    other = [Answer(f"q{i}", f"d{i}", f"e{i}", "ann", "bake", {"Visuals": Difference("", 5)}) for i in range(5)]
    steps |= {f"{side}{i}": "bake" for side in "de" for i in range(5)} | {"e4": "whisk"}
    decided, _ = decide([*star(1, 3), *other])
    found = [row for row in diffrank_rows(decided, steps) if row.reference == "hub"]
    assert [len(row.targets) for row in found] == [TARGETS]
    scores = dict(zip(found[0].targets, found[0].scores, strict=True))
    assert {clip for clip, score in scores.items() if score == 0} <= {clip for clip in steps if steps[clip] == "bake"}
    assert sum(score == 0 for score in scores.values()) == 2 and scores.get("c0", 1) == 1
    assert "e4" not in scores  # of the same step, but nobody compared it
    strange = diffrank_rows(decided, {clip: step for clip, step in steps.items() if clip != "hub"})
    assert [row.scores for row in strange if row.reference == "hub"] == [
        row.scores for row in diffrank_rows(decided) if row.reference == "hub"
    ]


def test_about_30_per_cent_of_the_targets_are_of_another_step_as_in_the_published_set() -> None:
    given = [
        Answer(f"{a} {b}", f"c{a}", f"c{b}", "ann", "k", {"Visuals": Difference("", 1 + (a * b) % 5)})
        for a in range(60)
        for b in range(a + 2, 60, 2)
    ]
    rows = diffrank_rows(decide(given)[0], {f"c{i}": str(i % 2) for i in range(60)})
    foreign = [score == 0 for row in rows for score in row.scores]
    assert len(rows) > 40 and 0.2 < sum(foreign) / len(foreign) < 0.4


@settings(deadline=None)
@given(answers())
def test_written_rows_read_back_as_test_sets(tmp_path_factory: pytest.TempPathFactory, made: list[Answer]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    decided, _ = decide(made)
    for name, rows in (("diffcap", diffcap_rows(decided)), ("diffrank", diffrank_rows(decided))):
        if rows:
            write_test_set(name, folder / name, rows)
            assert read_test_set(name, folder / name) == rows


# -------------------------------------------------------------------------------------------------- command


@pytest.fixture
def collected(tmp_path: Path) -> Path:
    """Answers of three people about three pairs of one clip."""
    given = [
        Answer(f"p{i}", "hub", f"c{i}", name, "whisk", {n: Difference("x", 1 + (i + k) % 4) for n in CATEGORIES})
        for i in range(3)
        for k, name in enumerate(("ann", "bob", "cy"))
    ]
    write_answers(tmp_path / "answers.jsonl", given)
    return tmp_path


def test_one_command_writes_all_forms(collected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(collected / "features", create=True)
    frame = pl.DataFrame({"key": ["hub", "c0", "c1", "c2"], "step": ["a", "a", "a", None]})
    with store.lock():
        store.catalog("clips").append(frame)
    names = ("diffcap", "diffrank", "answers", "csv", "label-studio", "label-studio-config")
    flags = [part for name in names for part in (f"--{name}", str(collected / f"made/{name}"))]
    assert command.main([str(collected / "answers.jsonl"), *flags, "--store", str(collected / "features")]) == 0
    shown = capsys.readouterr().out
    assert "9 answers about 3 pairs: 0 pairs rejected, 0 adjudicated" in shown and "retrieval negatives" in shown
    made = collected / "made"
    assert len(read_test_set("diffcap", made / "diffcap")) == 15
    ranked: list[DiffRank] = read_test_set("diffrank", made / "diffrank")
    assert {row.reference for row in ranked} == {"hub"} and len(ranked) == 5
    original = read_collected(collected / "answers.jsonl")
    for name in ("answers", "csv", "label-studio"):
        assert read_collected(made / name) == original
    assert (made / "label-studio-config").read_text().startswith("<View>")


def test_answers_converted_to_another_form_and_back_are_equal(collected: Path) -> None:
    files = [str(collected / name) for name in ("answers.jsonl", "b.csv", "c.json", "d.jsonl")]
    for source, target, flag in zip(files, files[1:], ("--csv", "--label-studio", "--answers"), strict=False):
        assert command.main([source, flag, target]) == 0
    assert list(read_answers(files[3])) == list(read_answers(files[0]))


def test_a_task_without_answers_gives_tasks_to_annotate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = "https://example.org/{clip}.webm"
    flags = ["--label-studio", str(tmp_path / "out.json"), "--video-url", url]
    assert command.main(["--task", str(task(tmp_path)), *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == {"label_studio": 2}
    made = json.loads((tmp_path / "out.json").read_text())
    assert [each["data"]["video2"] for each in made] == ["https://example.org/y.webm", "https://example.org/w.webm"]
    assert made[0]["data"]["categories"] == list(CATEGORIES) and made[0]["annotations"] == []


def test_the_steps_of_a_task_are_known_without_a_store(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("reference,candidate,step\nhub,c0,a\nx,y,b\n")
    (tmp_path / "task.yaml").write_text("pairs: pairs.csv\n")
    given = [*star(4), Answer("x y", "x", "y", "ann", "k", {"Visuals": Difference("", 5)})]
    write_answers(tmp_path / "a.jsonl", given)
    out = tmp_path / "r.jsonl"
    assert command.main([str(tmp_path / "a.jsonl"), "--task", str(tmp_path / "task.yaml"), "--diffrank", str(out)]) == 0
    rows = {row.reference: sorted(row.scores) for row in read_test_set("diffrank", out)}
    assert rows["hub"] == [0, 0, 4] and rows["x"] == [0, 0, 5]


@pytest.mark.parametrize(
    "flags",
    [[], ["FILE"], ["--csv", "OUT"], ["FILE", "--label-studio", "OUT", "--video-url", "x"], ["none", "--csv", "OUT"]],
)
def test_an_unusable_command_line_is_one_line_and_exit_status_2(
    flags: list[str], collected: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"FILE": str(collected / "answers.jsonl"), "OUT": str(collected / "out")}
    assert command.main([names.get(flag, flag) for flag in flags]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert not (collected / "out").exists()


def test_a_store_without_steps_is_refused(collected: Path) -> None:
    store = Store.open(collected / "features", create=True)
    with store.lock():
        store.catalog("clips").append(pl.DataFrame({"key": ["hub"]}))
    options = command.ExportOptions(
        str(collected / "answers.jsonl"), diffrank=str(collected / "r"), store=str(collected / "features")
    )
    with pytest.raises(StepDiffError, match="no clip has a step"):
        command.run(options)


def test_counts_of_people_are_those_of_a_naive_count(collected: Path) -> None:
    people = defaultdict(set)
    for each in read_answers(collected / "answers.jsonl"):
        people[each.pair].add(each.annotator)
    decided, _ = decide(read_answers(collected / "answers.jsonl"))
    assert {pair.pair: pair.people for pair in decided} == {pair: len(names) for pair, names in people.items()}
