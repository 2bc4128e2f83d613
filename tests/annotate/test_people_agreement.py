"""Guarantees of annotate.people: ratings, agreement and collected; and of annotate/agreement.py."""

import itertools
import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotate import agreement as command
from annotate import export
from annotate.people import agreement as measures
from annotate.people.agreement import Ratings, agreement, figures, from_others, two_of_three
from annotate.people.answers import read_collected, write_answers
from annotate.people.form import Answer, Difference
from annotate.people.task import read_task
from common.errors import StepDiffError

from .people_made import answer, task

PUBLISHED = Path(__file__).parents[3] / "shared/data/convis/user_inputs.json"
LEVELS = 5
# who gave which item which score, each person once an item
rated = st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 4)), st.integers(0, LEVELS - 1), min_size=1)


def ratings(given: dict[tuple[int, int], int]) -> Ratings:
    item, person = np.array(list(given), np.int64).T
    return Ratings(item, person, np.array(list(given.values()), np.int64), LEVELS)


def by_item(given: dict[tuple[int, int], int]) -> list[list[int]]:
    items = defaultdict(list)
    for (item, _), score in given.items():
        items[item].append(score)
    return [scores for scores in items.values() if len(scores) > 1]


def counts(given: dict[tuple[int, int], int]) -> np.ndarray:
    made = [np.bincount(scores, minlength=LEVELS) for scores in by_item(given)]
    return np.array(made, np.int64).reshape(-1, LEVELS)


@settings(deadline=None)
@given(rated)
def test_kappa_is_that_of_scikit_learn_for_two_people(given: dict[tuple[int, int], int]) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    kappas, shared = [], []
    for one, two in itertools.combinations(range(5), 2):
        items = [item for item in range(6) if (item, one) in given and (item, two) in given]
        first, second = ([given[item, person] for item in items] for person in (one, two))
        if items and not len(set(first)) == len(set(second)) == len({*first, *second}) == 1:
            kappas.append(metrics.cohen_kappa_score(first, second, labels=range(LEVELS)))
            shared.append(len(items))
    found = figures(ratings(given))
    assert found.kappa_pairs == len(kappas)
    assert found.kappa == (pytest.approx(fmean(kappas)) if kappas else None)
    assert found.kappa_weighted == (pytest.approx(np.average(kappas, weights=shared)) if kappas else None)


@settings(deadline=None)
@given(rated)
def test_two_of_three_is_the_share_of_threes_of_people_in_which_at_least_two_give_the_same_score(
    given: dict[tuple[int, int], int],
) -> None:
    threes = [three for scores in by_item(given) for three in itertools.combinations(scores, 3)]
    expected = fmean(len(set(three)) < 3 for three in threes) if threes else None
    assert two_of_three(counts(given)) == pytest.approx(expected)
    twos = [two for scores in by_item(given) for two in itertools.combinations(scores, 2)]
    apart = [abs(one - two) for one, two in twos if one != two]
    found = figures(ratings(given))
    assert found.pairwise == (pytest.approx(fmean(one == two for one, two in twos)) if twos else None)
    assert found.distance == (pytest.approx(fmean(apart)) if apart else None)
    assert (found.items, found.ratings) == (len(by_item(given)), sum(map(len, by_item(given))))


@settings(deadline=None)
@given(rated)
def test_a_rating_is_compared_with_the_median_of_the_others(given: dict[tuple[int, int], int]) -> None:
    for (item, person), score, distance in zip(given, given.values(), from_others(ratings(given)), strict=True):
        others = [value for (i, p), value in given.items() if i == item and p != person]
        expected = abs(score - median(others)) if others else float("nan")
        assert distance == pytest.approx(expected, nan_ok=True)


def test_a_figure_that_is_not_defined_is_none() -> None:
    alone = figures(ratings({(0, 0): 3}))
    assert alone == figures(ratings({(0, 0): 3, (1, 1): 2}))
    assert (alone.items, alone.ratings, alone.two_of_three, alone.kappa, alone.ordinal) == (0, 0, None, None, None)
    same = figures(ratings({(0, 0): 3, (0, 1): 3}))
    assert (same.pairwise, same.kappa, same.kappa_weighted, same.nominal, same.distance) == (1, None, None, None, None)


def test_too_many_couples_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "COUPLES", 5)
    with pytest.raises(StepDiffError, match="6 pairs of ratings of one item, more than 5"):
        figures(ratings({(0, person): 1 for person in range(4)}))


# ---------------------------------------------------------------------------------------------- collections


def test_the_figures_of_convis_bench_are_those_of_its_published_answers(capsys: pytest.CaptureFixture[str]) -> None:
    if not PUBLISHED.is_file():
        pytest.skip("the answers of ConViS-Bench are not here")
    assert command.main([str(PUBLISHED), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    alphas = {
        name: [figure[level] for level in ("nominal", "ordinal", "interval")]
        for name, figure in found["categories"].items()
    }
    assert {name: [round(value, 3) for value in values] for name, values in alphas.items()} == {
        "MainAction": [0.101, 0.322, 0.344],
        "MainSubjects": [0.087, 0.244, 0.248],
        "MainObjects": [0.096, 0.288, 0.311],
        "Location": [0.140, 0.361, 0.386],
        "OrderofActions": [0.087, 0.319, 0.331],
    }
    assert [found[name] for name in ("pairs", "people", "answers", "replaced")] == [610, 147, 3805, 3]


def test_only_the_last_answers_of_work_that_do_not_reject_count() -> None:
    given = [
        answer(annotator="a", scores={"Visuals": 1}),
        answer(annotator="a", scores={"Visuals": 3}, submitted="2026-11-28T10:00:00Z"),
        answer(annotator="b", scores={"Visuals": 3}),
        answer(annotator="c", rejected="unclear", differences={}),
        answer(annotator="a", kind="gold"),
        answer(annotator="d", kind="training"),
        answer(annotator="e", kind="adjudication"),
    ]
    found = agreement(given)
    assert (found.pairs, found.people, found.answers, found.rejected, found.replaced) == (1, 3, 3, 1, 1)
    assert found.overall.pairwise == 1 and found.overall.items == 5 and found.overall.ratings == 10
    assert found.rejections.ratings == 3 and found.rejections.pairwise == pytest.approx(1 / 3)
    assert "5 = not different" in found.scores


def test_a_category_that_one_person_left_out_counts_where_others_have_it() -> None:
    short = replace(answer(annotator="a"), differences={"Visuals": Difference("", 5)})
    found = agreement([short, answer(annotator="b"), answer(annotator="c")])
    assert found.categories["Visuals"].ratings == 3 and found.categories["Actions"].ratings == 2


def test_a_person_is_compared_with_the_median_of_the_others_not_with_the_own_answers() -> None:
    scores = {"a": 1, "b": 3, "c": 5}
    only = [
        replace(answer(annotator=name, seconds=score * 10.0), differences={"Visuals": Difference("x", score)})
        for name, score in scores.items()
    ]
    people = {person.annotator: person for person in agreement(only).annotators}
    assert {name: person.distance for name, person in people.items()} == {"a": 3, "b": 0, "c": 3}
    assert {name: person.seconds for name, person in people.items()} == {"a": 10, "b": 30, "c": 50}
    alone = agreement([answer(seconds=None)]).annotators[0]
    assert (alone.distance, alone.seconds, alone.gold, alone.gold_scores) == (None, None, None, 0)


def test_agreement_on_gold_pairs_is_the_share_of_scores_within_the_tolerance_of_the_known_ones(tmp_path: Path) -> None:
    gold = {"id": "g", "reference": "g-a", "candidate": "g-b", "scores": {"Visuals": 3, "Actions": 5}}
    (tmp_path / "gold.jsonl").write_text(json.dumps(gold))
    made = read_task(task(tmp_path, gold="gold.jsonl"))
    given = [
        answer("g", "good", {"Visuals": 2}, kind="gold"),
        answer("g", "far", {"Visuals": 1}, kind="gold"),
        answer("g", "none", differences={}, rejected="unclear", kind="gold"),
        answer("p1", "good"),
    ]
    people = {person.annotator: (person.gold_scores, person.gold) for person in agreement(given, made).annotators}
    assert people == {"good": (2, 1.0), "far": (2, 0.5), "none": (2, 0.0)}
    assert agreement(given).annotators[0].gold is None


def test_no_answers_have_no_figures() -> None:
    found = agreement([])
    assert (found.pairs, found.answers, found.annotators, found.overall.ordinal) == (0, 0, [], None)


# -------------------------------------------------------------------------------------------------- command


def collection() -> list[Answer]:
    people = itertools.product(range(6), ("ann", "bob & <b>co</b> | x", "cy"))
    return [answer(f"p{i}", name, {"Visuals": 1 + (i + len(name)) % 5}, seconds=10.0 + i) for i, name in people]


def test_a_file_is_recognised_by_its_content_not_by_its_name(tmp_path: Path) -> None:
    write_answers(tmp_path / "answers.csv", collection())
    assert read_collected(tmp_path / "answers.csv") == collection()


def test_two_answers_that_give_one_pair_different_clips_are_refused(tmp_path: Path) -> None:
    write_answers(tmp_path / "a.jsonl", [answer(), answer(annotator="b", candidate="other")])
    with pytest.raises(StepDiffError, match="the pair 'p1' has other clips in another answer"):
        read_collected(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "no column 'pair'; a table of answers has"),
        ("[]", "has no answers; give JSON lines or CSV"),
        ("[1]", "Label Studio|ConViS"),
        ("[" * 10_000, "not JSON"),
        ("[{", "not JSON"),
        ("a,b\n1,2\n", "no column|columns"),
        ('[{"user_id": "u", "video_pair_id": "a-b", "user_inputs": {"x": "1"}}]', "answer 1: expects video_pair_id"),
        ('[{"user_id": "u", "video_pair_id": "a.mp4-b.mp4", "user_inputs": {"x": "9"}}]', "score should be .*, not 9"),
        ('[{"user_id": 7, "video_pair_id": "a.mp4-b.mp4", "user_inputs": {"x": "9"}}]', "answer 1"),
    ],
)
def test_a_file_of_no_known_form_gives_one_line_that_lists_the_forms(content: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(StepDiffError, match=why) as error:
        read_collected(tmp_path / "file")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_each_form_of_a_collection_gives_the_same_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [*collection(), answer("p9", "cy", left="candidate", rejected="unclear", differences={})]
    write_answers(tmp_path / "a.jsonl", given)
    forms = {"--csv": "a.csv", "--label-studio": "a.json", "--answers": "b.jsonl"}
    assert export.main([str(tmp_path / "a.jsonl"), *(x for k, v in forms.items() for x in (k, str(tmp_path / v)))]) == 0
    capsys.readouterr()
    found = []
    for name in ("a.jsonl", *forms.values()):
        assert command.main([str(tmp_path / name), "--json"]) == 0
        found.append({**json.loads(capsys.readouterr().out), "file": None})
    assert found[1:] == found[:1] * 3 and found[0]["rejected"] == 1


def test_a_figure_that_is_not_defined_is_a_dash_and_null_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_answers(tmp_path / "a.jsonl", [answer()])
    assert command.main([str(tmp_path / "a.jsonl"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["overall"]["kappa"] is None and found["annotators"][0]["gold"] is None
    assert command.main([str(tmp_path / "a.jsonl")]) == 0
    assert "–" in capsys.readouterr().out


def test_the_tables_show_every_figure_and_no_name_is_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "a.jsonl", tmp_path / "made/agreement.md"
    write_answers(file, [*collection(), answer("p9", "cy", rejected="unclear", differences={})])
    assert command.main([str(file), "--task", str(task(tmp_path)), "--out", str(out)]) == 0
    shown, page = capsys.readouterr().out, out.read_text()
    assert "19 answers of 3 people about 7 pairs, 1 of them rejections." in shown
    for words in ("5 = not different, 1 = very different", "rejecting the pair", "all categories"):
        assert words in shown and words in page
    assert "bob & <b>co</b> | x" in shown and "<b>" not in page.replace("\\<b\\>", "")
    assert Counter(line.split(" | ")[0] for line in page.splitlines())["| cy"] == 1


def test_an_unusable_file_is_one_line_and_exit_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(tmp_path / "none")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
