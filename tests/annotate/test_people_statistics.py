"""Guarantees of annotate.people: statistics and pictures; and of annotate/statistics.py."""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from annotate import statistics as command
from annotate.people.answers import latest, write_answers
from annotate.people.form import Answer, Difference
from annotate.people.pictures import cloud, clouds_figure, scores_figure
from annotate.people.statistics import BINS, Collection, aggregates, read_files, statistics_of, terms, words
from tasks.testsets import DiffCap, DiffRank, write_test_set

from .people_made import answer, answers

PUBLISHED = Path(__file__).parents[3] / "shared/data/stepdiff/diffrank_dataset.jsonl"


def collected(made: list[Answer]) -> Collection:
    found = Collection()
    found.add_answers(made)
    return found


@settings(deadline=None)
@given(answers())
def test_totals_are_those_of_a_naive_count(made: list[Answer]) -> None:
    found = statistics_of(collected(made))
    counted = [each for each in latest(made) if each.kind == "work" and each.rejected is None]
    given = [(each, name, d) for each in counted for name, d in each.differences.items()]
    captions = [(name, d) for _, name, d in given if d.text.strip()]
    assert (found.captions, found.scores, found.written) == (len(captions), len(given), len(captions))
    assert found.pairs == len({frozenset((each.reference, each.candidate)) for each, _, _ in given})
    assert found.clips == len({clip for each in counted for clip in (each.reference, each.candidate)})
    assert {n: c.captions for n, c in found.categories.items() if c.captions} == Counter(n for n, _ in captions)
    for name, category in found.categories.items():
        scores = Counter(str(d.score) for n, d in captions if n == name)
        assert category.written == {score: scores[score] for score in "12345"}
        assert category.mean == pytest.approx(fmean(d.score for _, n, d in given if n == name))


def test_a_pair_counts_once_in_both_directions() -> None:
    found = Collection()
    found.add_diffcap([DiffCap("a", "b", "Visuals", ("x", " ")), DiffCap("b", "a", "Visuals", ("y",))])
    found.add_diffcap([DiffCap("a", "c", "Actions", ())])
    made = statistics_of(found)
    assert (made.captions, made.pairs, made.clips) == (2, 1, 3)
    assert made.sentence == "2 difference captions across 1 video clip pairs involving 3 unique video clips"
    assert made.aggregate is None and made.aggregates == [0] * BINS and made.written == 0


@settings(deadline=None)
@given(answers())
def test_the_aggregate_is_the_mean_over_categories_not_over_answers(made: list[Answer]) -> None:
    found = collected(made)
    scores: dict[frozenset[str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for pair, category, score, _ in found.scores:
        scores[frozenset(pair)][category].append(score)
    expected = {pair: fmean(fmean(own) for own in of.values()) for pair, of in scores.items()}
    assert {frozenset(pair): value for pair, value in aggregates(found).items()} == pytest.approx(expected)
    assert sum(statistics_of(found).aggregates) == len(expected)


def test_a_category_that_more_people_scored_weighs_the_same() -> None:
    def only(name: str, **scores: int) -> Answer:
        return answer(annotator=name, differences={n: Difference("", score) for n, score in scores.items()})

    found = collected([only("a", Visuals=1, Actions=5), only("b", Visuals=1), only("c", Visuals=1)])
    assert list(aggregates(found).values()) == [3.0]
    assert statistics_of(found).aggregates == [0] * 8 + [1] + [0] * 7


def test_targets_of_another_step_change_no_score() -> None:
    found = Collection()
    found.add_diffrank([DiffRank("a", ("b", "c", "d"), "Visuals", (0, 3, 5)), DiffRank("x", ("y",), "Visuals", (0,))])
    made = statistics_of(found)
    assert (made.other_step, made.scores, made.pairs, made.clips, made.aggregate) == (2, 2, 2, 3, 4.0)
    assert made.sentence.startswith("2 scores across 2 video clip pairs")


def test_a_score_of_diffrank_has_a_text_where_diffcap_has_one() -> None:
    found = Collection()
    found.add_diffrank([DiffRank("a", ("b", "c"), "Visuals", (3, 5)), DiffRank("a", ("b",), "Actions", (2,))])
    found.add_diffcap([DiffCap("b", "a", "Visuals", ("paler",))])
    made = statistics_of(found)
    assert made.written == 1 and made.categories["Visuals"].written["3"] == 1


def test_terms_in_more_than_a_quarter_of_the_captions_are_left_out() -> None:
    captions = [("", "Visuals", f"person pours the milk word{'abcdefgh'[i]}") for i in range(8)]
    captions += [("", "Actions", "stirs twice"), ("", "Actions", "stirs")]
    found = terms(captions)
    assert {term.term for term in found["Visuals"]} == {f"word{letter}" for letter in "abcdefgh"}
    assert [(term.term, term.captions) for term in found["Actions"]] == [("stirs", 2), ("twice", 1)]
    assert found["Actions"][0].weight > found["Actions"][1].weight
    assert terms([]) == {} and terms([("", "Visuals", "the of")]) == {}


captions = st.lists(
    st.tuples(
        st.just(""),
        st.sampled_from(("Visuals", "Actions")),
        st.lists(st.sampled_from(("milk", "bowl", "stir", "salt", "pan", "oven", "lid")), max_size=5).map(" ".join),
    ),
    min_size=1,
    max_size=20,
)


@settings(deadline=None)
@given(captions)
def test_weights_are_those_of_scikit_learn(made: list[tuple[str, str, str]]) -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text", reason="scikit-learn is not installed")
    found = terms(made, 100)
    kept = sorted({term.term for own in found.values() for term in own})
    if not kept:
        return
    # idf_ is that of all captions, also of those without a kept term
    matrix = text.TfidfVectorizer(vocabulary=kept).fit_transform([caption for _, _, caption in made]).toarray()
    for category, own in found.items():
        rows = [number for number, (_, name, _) in enumerate(made) if name == category]
        for term in own:
            assert term.weight == pytest.approx(matrix[rows, kept.index(term.term)].mean())


def test_words_are_whole_words_in_lower_case_without_function_words() -> None:
    assert words("The cook's NON-STICK pan, 2 of them: crème <b>brûlée</b> x") == [
        "cook's",
        "non-stick",
        "pan",
        "crème",
        "brûlée",
    ]


# ------------------------------------------------------------------------------------------------- pictures


def test_a_word_that_the_font_cannot_draw_is_left_out_of_the_cloud() -> None:
    stir = cloud({"stir": 0.5}, "#0072b2")
    assert np.array_equal(cloud({"切る": 1.0, "x" * 500: 2.0, "stir": 0.5}, "#0072b2"), stir)
    assert stir.min() == 0 and (cloud({"切る": 1.0}, "#0072b2") == 255).all()


def many() -> list[Answer]:
    """Answers with texts of different words in three categories, one of which has a hostile name."""
    nouns = ("whisk", "spoon", "bowl", "oven", "butter", "salt")
    names = ("Visuals", "Actions", "<b>$x^2$</b> 調理 & a very long name of a category")
    texts = [Difference(f"uses a {noun}", 1 + number % 5) for number, noun in enumerate(nouns)]
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


def test_nothing_in_a_name_is_read_as_a_formula_and_all_figures_are_drawn(tmp_path: Path) -> None:
    found = statistics_of(collected(many()))
    for draw in (scores_figure, clouds_figure):
        png = draw(found)
        assert png is not None and png == draw(found)
        assert (255, 255, 255) in colours(png, tmp_path)
    drawn = colours(scores_figure(found) or b"", tmp_path)
    assert {(0, 114, 178), (213, 94, 0), (0, 158, 115)} <= drawn  # one colour a category


def test_a_figure_without_data_is_left_out() -> None:
    nothing = statistics_of(Collection())
    assert scores_figure(nothing) is None and clouds_figure(nothing) is None
    scores = Collection()
    scores.add_diffrank([DiffRank("a", ("b", "c"), "Visuals", (3, 5))])
    assert scores_figure(statistics_of(scores)) is not None and clouds_figure(statistics_of(scores)) is None
    texts = Collection()
    texts.add_diffcap([DiffCap("a", "b", "Visuals", ("paler",))])
    assert scores_figure(statistics_of(texts)) is not None


# -------------------------------------------------------------------------------------------------- command


def test_a_file_is_recognised_by_its_content_and_several_are_counted_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_test_set("diffcap", tmp_path / "one", [DiffCap("a", "b", "Visuals", ("paler",))])
    write_test_set("diffrank", tmp_path / "two", [DiffRank("a", ("b", "c"), "Visuals", (3, 0))])
    write_answers(tmp_path / "three", [answer(scores={"Actions": 2})])
    files = [str(tmp_path / name) for name in ("one", "two", "three")]
    assert command.main([*files, "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["captions"], found["pairs"], found["other_step"], found["people"]) == (2, 2, 1, 1)
    assert json.loads((tmp_path / "out/statistics.json").read_text())["files"] == files


def test_the_page_has_the_figures_and_nothing_of_the_data_is_markup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_answers(tmp_path / "a.jsonl", many())
    assert command.main([str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out")]) == 0
    page, shown = (tmp_path / "out/statistics.md").read_text(), capsys.readouterr().out
    assert "72 difference captions across 12 video clip pairs involving 24 unique video clips." in page
    assert page.splitlines()[2] in shown and "5 = not different, 1 = very different" in page and "2 people" in page
    assert "](scores.png)" in page and "](words.png)" in page
    assert "<b>" not in page.replace("\\<b\\>", "") and "whisk (" in page
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "scores.png",
        "statistics.json",
        "statistics.md",
        "words.png",
    }


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    write_answers(tmp_path / "a.jsonl", many())
    made = []
    for name in ("out", "again"):
        assert command.main([str(tmp_path / "a.jsonl"), "--out", str(tmp_path / name)]) == 0
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert made[0] == made[1]


def test_a_figure_without_data_is_left_out_and_the_page_says_so(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_answers(tmp_path / "a.jsonl", many())
    assert command.main([str(tmp_path / "a.jsonl"), "--out", str(out)]) == 0
    write_test_set("diffrank", tmp_path / "b.jsonl", [DiffRank("a", ("b", "c"), "Visuals", (3, 5))])
    assert command.main([str(tmp_path / "b.jsonl"), "--out", str(out)]) == 0
    assert not (out / "words.png").exists() and "no picture" in (out / "statistics.md").read_text()


def test_the_published_diffrank_set_has_its_known_totals(tmp_path: Path) -> None:
    if not PUBLISHED.is_file():
        pytest.skip("the published DiffRank set is not here")
    found = statistics_of(read_files([PUBLISHED]))
    rows = [json.loads(line) for line in PUBLISHED.read_text().splitlines()]
    scores = [score for row in rows for score in row["scores"]]
    assert (found.other_step, found.scores) == (scores.count(0), len(scores) - scores.count(0)) == (4890, 11430)
    assert found.aggregate == pytest.approx(3.57, abs=0.005) and len(found.categories) == 6


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "no column"),
        ("{", "not a JSON object"),
        ('{"text": []}', "has no 'reference'"),
        ('{"targets": ["a"]}', "scores"),
        ('{"pair": "x"}', "a.jsonl:1: reference is missing"),
    ],
)
def test_an_unusable_file_is_one_line_and_exit_status_2(
    content: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    assert command.main([str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert re.search(why, printed.err) and printed.err.count("\n") == 1 and not (tmp_path / "out").exists()
