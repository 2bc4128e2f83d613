"""Agreement and statistics of a collection, compared with scikit-learn and naive counts; their
tables and pictures."""

import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stepdiff.annotate import agreement as command
from stepdiff.annotate import statistics as statistics_command
from stepdiff.annotate.agreement import (
    PersonFigures,
    Ratings,
    agreement,
    figures,
    flags,
    from_others,
    two_of_three,
)
from stepdiff.annotate.forms.answers import latest, read_collected, write_answers
from stepdiff.annotate.forms.form import Answer, Judgement, read_task
from stepdiff.annotate.statistics import (
    BINS,
    Collection,
    aggregates,
    read_files,
    statistics_of,
    terms,
)
from stepdiff.annotate.statistics_pictures import clouds_figure, scores_figure
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.testsets import DiffCap, DiffRank, write_test_set
from tests.refusals import refuses

from .people_answers import answer, answers, task

PUBLISHED = Path(__file__).parents[3] / "shared/data/convis/user_inputs.json"
LEVELS = 5
# who gave which item which score, each person once an item
rated = st.dictionaries(
    st.tuples(st.integers(0, 5), st.integers(0, 4)), st.integers(0, LEVELS - 1), min_size=1
)


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
    assert found.kappa_weighted == (
        pytest.approx(np.average(kappas, weights=shared)) if kappas else None
    )


@given(rated)
def test_two_of_three_is_a_share_of_triples_of_people(given: dict[tuple[int, int], int]) -> None:
    threes = [three for scores in by_item(given) for three in itertools.combinations(scores, 3)]
    expected = fmean(len(set(three)) < 3 for three in threes) if threes else None
    assert two_of_three(counts(given)) == pytest.approx(expected)
    twos = [two for scores in by_item(given) for two in itertools.combinations(scores, 2)]
    apart = [abs(one - two) for one, two in twos if one != two]
    found = figures(ratings(given))
    assert found.pairwise == (
        pytest.approx(fmean(one == two for one, two in twos)) if twos else None
    )
    assert found.distance == (pytest.approx(fmean(apart)) if apart else None)
    assert (found.items, found.ratings) == (len(by_item(given)), sum(map(len, by_item(given))))


@given(rated)
def test_a_rating_is_compared_with_the_median_of_the_others(
    given: dict[tuple[int, int], int],
) -> None:
    for (item, person), score, distance in zip(
        given, given.values(), from_others(ratings(given)), strict=True
    ):
        others = [value for (i, p), value in given.items() if i == item and p != person]
        expected = abs(score - median(others)) if others else float("nan")
        assert distance == pytest.approx(expected, nan_ok=True)


def test_the_figures_of_convis_bench_are_the_published_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
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
    assert [found[name] for name in ("pairs", "people", "answers", "replaced")] == [
        610,
        147,
        3805,
        3,
    ]


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
    assert (found.pairs, found.people, found.answers, found.rejected, found.replaced) == (
        1,
        3,
        3,
        1,
        1,
    )
    assert found.overall.pairwise == 1 and found.overall.items == 5 and found.overall.ratings == 10
    assert found.rejections.ratings == 3 and found.rejections.pairwise == pytest.approx(1 / 3)
    assert "5 = not different" in found.scores


def test_agreement_on_gold_is_a_share_within_the_tolerance(tmp_path: Path) -> None:
    gold = {
        "id": "g",
        "reference": "g-a",
        "candidate": "g-b",
        "scores": {"Visuals": 3, "Actions": 5},
    }
    (tmp_path / "gold.jsonl").write_text(json.dumps(gold))
    made = read_task(task(tmp_path, gold="gold.jsonl"))
    given = [
        answer("g", "good", {"Visuals": 2}, kind="gold"),
        answer("g", "far", {"Visuals": 1}, kind="gold"),
        answer("g", "none", differences={}, rejected="unclear", kind="gold"),
        answer("p1", "good"),
    ]
    people = {
        person.annotator: (person.gold_scores, person.gold)
        for person in agreement(given, made).annotators
    }
    assert people == {"good": (2, 1.0), "far": (2, 0.5), "none": (2, 0.0)}
    assert agreement(given).annotators[0].gold is None


def collection() -> list[Answer]:
    people = itertools.product(range(6), ("ann", "bob & <b>co</b> | x", "cy"))
    return [
        answer(f"p{i}", name, {"Visuals": 1 + (i + len(name)) % 5}, seconds=10.0 + i)
        for i, name in people
    ]


def test_a_file_is_recognised_by_its_content_not_by_its_name(tmp_path: Path) -> None:
    write_answers(tmp_path / "answers.csv", collection())
    assert read_collected(tmp_path / "answers.csv") == collection()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "no column 'pair'; a table of answers has"),
        ("[]", "has no answers; give JSON lines or CSV"),
        ("[1]", "Label Studio|ConViS"),
        ("[" * 10_000, "not JSON"),
        ("[{", "not JSON"),
        ("a,b\n1,2\n", "no column|columns"),
        (
            '[{"user_id": "u", "video_pair_id": "a-b", "user_inputs": {"x": "1"}}]',
            "answer 1: expects video_pair_id",
        ),
        (
            '[{"user_id": "u", "video_pair_id": "a.mp4-b.mp4", "user_inputs": {"x": "9"}}]',
            "score should be .*, not 9",
        ),
        ('[{"user_id": 7, "video_pair_id": "a.mp4-b.mp4", "user_inputs": {"x": "9"}}]', "answer 1"),
    ],
)
def test_a_file_of_no_known_form_lists_the_forms(content: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(StepDiffError, match=why) as error:
        read_collected(tmp_path / "file")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_the_tables_show_every_figure_and_no_name_is_markup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "a.jsonl", tmp_path / "made/agreement.md"
    write_answers(file, [*collection(), answer("p9", "cy", rejected="unclear", differences={})])
    assert command.main([str(file), "--task", str(task(tmp_path)), "--out", str(out)]) == 0
    shown, page = capsys.readouterr().out, out.read_text()
    assert "19 answers of 3 people about 7 pairs, 1 of them rejections." in shown
    for sentence in (
        "5 = not different, 1 = very different",
        "rejecting the pair",
        "all categories",
    ):
        assert sentence in shown and sentence in page
    assert "bob & <b>co</b> | x" in shown and "<b>" not in page.replace("\\<b\\>", "")
    assert Counter(line.split(" | ")[0] for line in page.splitlines())["| cy"] == 1


PUBLISHED_RANKS = Path(__file__).parents[3] / "shared/data/stepdiff/diffrank_dataset.jsonl"


def collected(made: list[Answer]) -> Collection:
    found = Collection()
    found.add_answers(made)
    return found


@given(answers())
def test_totals_are_those_of_a_naive_count(made: list[Answer]) -> None:
    found = statistics_of(collected(made))
    counted = [each for each in latest(made) if each.kind == "work" and each.rejected is None]
    given = [(each, name, d) for each in counted for name, d in each.differences.items()]
    captions = [(name, d) for _, name, d in given if d.text.strip()]
    assert (found.captions, found.scores, found.written) == (
        len(captions),
        len(given),
        len(captions),
    )
    assert found.pairs == len({frozenset((each.reference, each.candidate)) for each, _, _ in given})
    assert found.clips == len(
        {clip for each in counted for clip in (each.reference, each.candidate)}
    )
    assert {n: c.captions for n, c in found.categories.items() if c.captions} == Counter(
        n for n, _ in captions
    )
    for name, category in found.categories.items():
        scores = Counter(str(d.score) for n, d in captions if n == name)
        assert category.written == {score: scores[score] for score in "12345"}
        assert category.mean == pytest.approx(fmean(d.score for _, n, d in given if n == name))


def test_a_pair_counts_once_in_both_directions() -> None:
    found = Collection()
    found.add_diffcap(
        [DiffCap("a", "b", "Visuals", ("x", " ")), DiffCap("b", "a", "Visuals", ("y",))]
    )
    found.add_diffcap([DiffCap("a", "c", "Actions", ())])
    made = statistics_of(found)
    assert (made.captions, made.pairs, made.clips) == (2, 1, 3)
    assert (
        made.sentence
        == "2 difference captions across 1 video clip pairs involving 3 unique video clips"
    )
    assert made.aggregate is None and made.aggregates == [0] * BINS and made.written == 0


@given(answers())
def test_the_aggregate_is_the_mean_over_categories(made: list[Answer]) -> None:
    found = collected(made)
    scores: dict[frozenset[str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for pair, category, score, _ in found.scores:
        scores[frozenset(pair)][category].append(score)
    expected = {pair: fmean(fmean(own) for own in of.values()) for pair, of in scores.items()}
    assert {frozenset(pair): value for pair, value in aggregates(found).items()} == pytest.approx(
        expected
    )
    assert sum(statistics_of(found).aggregates) == len(expected)


def test_targets_of_another_step_change_no_score() -> None:
    found = Collection()
    found.add_diffrank(
        [
            DiffRank("a", ("b", "c", "d"), "Visuals", (0, 3, 5)),
            DiffRank("x", ("y",), "Visuals", (0,)),
        ]
    )
    made = statistics_of(found)
    assert (made.other_step, made.scores, made.pairs, made.clips, made.aggregate) == (
        2,
        2,
        2,
        3,
        4.0,
    )
    assert made.sentence.startswith("2 scores across 2 video clip pairs")


captions = st.lists(
    st.tuples(
        st.just(""),
        st.sampled_from(("Visuals", "Actions")),
        st.lists(
            st.sampled_from(("milk", "bowl", "stir", "salt", "pan", "oven", "lid")), max_size=5
        ).map(" ".join),
    ),
    min_size=1,
    max_size=20,
)


@given(captions)
def test_weights_are_those_of_scikit_learn(made: list[tuple[str, str, str]]) -> None:
    text = pytest.importorskip(
        "sklearn.feature_extraction.text", reason="scikit-learn is not installed"
    )
    found = terms(made, 100)
    kept = sorted({term.term for own in found.values() for term in own})
    if not kept:
        return
    # idf_ is that of all captions, also of those without a kept term
    matrix = (
        text.TfidfVectorizer(vocabulary=kept)
        .fit_transform([caption for _, _, caption in made])
        .toarray()
    )
    for category, own in found.items():
        rows = [number for number, (_, name, _) in enumerate(made) if name == category]
        for term in own:
            assert term.weight == pytest.approx(matrix[rows, kept.index(term.term)].mean())


def many() -> list[Answer]:
    """Answers with texts of different words in three categories, one of which has a hostile
    name."""
    nouns = ("whisk", "spoon", "bowl", "oven", "butter", "salt")
    names = ("Visuals", "Actions", "<b>$x^2$</b> 調理 & a very long name of a category")
    texts = [Judgement(f"uses a {noun}", 1 + number % 5) for number, noun in enumerate(nouns)]
    return [
        answer(f"p{i}", who, differences=dict.fromkeys(names, texts[(i + k) % 6]))
        for i in range(12)
        for k, who in enumerate(("ann", "bob"))
    ]


def colours(png: bytes, tmp_path: Path) -> set[tuple[int, int, int]]:
    (tmp_path / "a.png").write_bytes(png)
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG" and image.width > 500 and image.height > 300
        return {colour for _, colour in image.convert("RGB").getcolors(2**24)}  # type: ignore[misc, union-attr]


def test_no_name_is_a_formula_and_all_figures_are_drawn(tmp_path: Path) -> None:
    found = statistics_of(collected(many()))
    for draw in (scores_figure, clouds_figure):
        png = draw(found)
        assert png is not None and png == draw(found)
        assert (255, 255, 255) in colours(png, tmp_path)
    drawn = colours(scores_figure(found) or b"", tmp_path)
    assert {(0, 114, 178), (213, 94, 0), (0, 158, 115)} <= drawn  # one colour a category


def test_files_are_recognised_and_counted_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_test_set("diffcap", tmp_path / "one", [DiffCap("a", "b", "Visuals", ("paler",))])
    write_test_set("diffrank", tmp_path / "two", [DiffRank("a", ("b", "c"), "Visuals", (3, 0))])
    write_answers(tmp_path / "three", [answer(scores={"Actions": 2})])
    files = [str(tmp_path / name) for name in ("one", "two", "three")]
    assert statistics_command.main([*files, "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["captions"], found["pairs"], found["other_step"], found["people"]) == (2, 2, 1, 1)
    assert json.loads((tmp_path / "out/statistics.json").read_text())["files"] == files


def test_nothing_of_the_data_is_markup_of_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_answers(tmp_path / "a.jsonl", many())
    assert statistics_command.main([str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out")]) == 0
    page, shown = (tmp_path / "out/statistics.md").read_text(), capsys.readouterr().out
    assert (
        "72 difference captions across 12 video clip pairs involving 24 unique video clips." in page
    )
    assert (
        page.splitlines()[2] in shown
        and "5 = not different, 1 = very different" in page
        and "2 people" in page
    )
    assert "](scores.png)" in page and "](words.png)" in page
    assert "<b>" not in page.replace("\\<b\\>", "") and "whisk (" in page
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "scores.png",
        "statistics.json",
        "statistics.md",
        "words.png",
    }


def test_a_figure_without_data_is_left_out_and_the_page_says_so(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_answers(tmp_path / "a.jsonl", many())
    assert statistics_command.main([str(tmp_path / "a.jsonl"), "--out", str(out)]) == 0
    write_test_set("diffrank", tmp_path / "b.jsonl", [DiffRank("a", ("b", "c"), "Visuals", (3, 5))])
    assert statistics_command.main([str(tmp_path / "b.jsonl"), "--out", str(out)]) == 0
    assert not (out / "words.png").exists() and "no picture" in (out / "statistics.md").read_text()


def test_the_published_diffrank_set_has_its_known_totals(tmp_path: Path) -> None:
    if not PUBLISHED_RANKS.is_file():
        pytest.skip("the published DiffRank set is not here")
    found = statistics_of(read_files([PUBLISHED_RANKS]))
    rows = [json.loads(line) for line in PUBLISHED_RANKS.read_text().splitlines()]
    scores = [score for row in rows for score in row["scores"]]
    assert (
        (found.other_step, found.scores)
        == (scores.count(0), len(scores) - scores.count(0))
        == (4890, 11430)
    )
    assert found.aggregate == pytest.approx(3.57, abs=0.005) and len(found.categories) == 6


@pytest.mark.full
@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "no column"),
        ("{", "not a JSON object"),
        ('{"pair": "x"}', "a.jsonl:1: reference is missing"),
    ],
)
def test_an_unusable_file_is_one_line(
    content: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    out = ["--out", str(tmp_path / "out")]
    refuses(statistics_command.main, [str(tmp_path / "a.jsonl"), *out], capsys, why)
    refuses(command.main, [str(tmp_path / "none")], capsys, str(tmp_path / "none"))
    assert not (tmp_path / "out").exists()


def person(**figures: Any) -> PersonFigures:
    """A person who raises no flag, but for these figures."""
    usual = {
        "annotator": "ann",
        "answers": 40,
        "rejected": 0,
        "seconds": 60.0,
        "distance": 0.8,
        "shared": 100,
    }
    return PersonFigures(
        **(usual | {"scored": 40, "equal": 4, "gold_scores": 10, "gold": 0.9} | figures)
    )


@pytest.mark.parametrize(
    ("figures", "reasons"),
    [
        ({"distance": 1.3}, []),
        ({"distance": 1.34}, ["1.3 from the scores of others, over 100 shared scores"]),
        ({"distance": 3.0, "shared": 19}, []),
        ({"gold": 0.6}, ["4 of 10 gold scores are too far from the known ones"]),
        ({"gold": 0.0, "gold_scores": 4}, []),
        ({"seconds": 19.0}, ["19 s a pair, others take 60 s"]),
        ({"seconds": 1.0, "answers": 4}, []),
        ({"equal": 21}, ["one score in all categories for 21 of 40 pairs"]),
        ({"seconds": 20.0, "equal": 20, "gold": 0.7}, []),
        ({"scored": 4, "equal": 4}, []),
        ({"seconds": None, "distance": None, "gold": None, "scored": 0, "equal": 0}, []),
    ],
)
def test_a_figure_that_passes_a_threshold_is_a_flag_in_words(
    figures: dict[str, Any], reasons: list[str]
) -> None:
    one = person(**figures)
    others = [
        person(annotator=name, seconds=seconds) for name, seconds in (("bob", 50.0), ("cid", 70.0))
    ]
    beginner = person(annotator="dan", answers=1, seconds=9000.0)
    assert flags(one, [one, *others, beginner]) == reasons
    assert not one.seconds or not any("s a pair" in reason for reason in flags(one, [one])), (
        "nobody to compare with"
    )


def test_flags_read_figures_of_answers() -> None:
    """Five pairs: bob gives 5 everywhere in less time, where others give 1 to one category."""
    given = [
        answer(
            f"p{pair}",
            name,
            {"Visuals": 5 if name == "bob" else 1},
            seconds=5.0 if name == "bob" else 40.0,
        )
        for pair in range(5)
        for name in ("ann", "bob", "cid")
    ]
    figures = agreement(given).annotators
    assert {one.annotator: flags(one, figures) for one in figures} == {
        "ann": [],
        "bob": ["5 s a pair, others take 40 s", "one score in all categories for 5 of 5 pairs"],
        "cid": [],
    }
    assert [(one.shared, one.scored, one.equal) for one in figures] == [
        (25, 5, 0),
        (25, 5, 5),
        (25, 5, 0),
    ]
