"""DiffMCQ negatives compared with a naive implementation of the protocol."""

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import StepDiffError
from retrieval.mining import negatives
from retrieval.mining.negatives import Difference, Drawn, TestSet, draw, hard_negatives, random_negatives
from store import Store, View
from tasks.testsets import read_test_set

Fill = Callable[..., View]
CATEGORIES = ["Actions", "Visuals", "Tools/Equipment"]


def naive_negatives(
    rows: list[Difference],
    clip: dict[str, np.ndarray],
    text: dict[str, np.ndarray],
    variant: str,
    threshold: float = 0.8,
) -> list[list[tuple[str, str]]]:
    """Return the negatives of each difference, fewer than three if no more exist."""
    pairs: list[tuple[str, str]] = []
    for row in rows:
        if row.pair not in pairs:
            pairs.append(row.pair)

    unit_text = {words: unit(vector) for words, vector in text.items()}
    average = {(a, b): (unit(clip[a]) + unit(clip[b])) / 2 for a, b in pairs}
    found = []
    for row in rows:
        distances = []
        for place, pair in enumerate(pairs):
            apart = average[pair] - average[row.pair]
            distances.append((math.sqrt(float(np.sum(apart * apart))), place))
        chosen: list[tuple[str, str]] = []
        for _, place in sorted(distances):
            reference, candidate = pairs[place]
            if variant == "V1" and (reference in row.pair or candidate in row.pair):
                continue
            if variant == "V2" and pairs[place] in (row.pair, row.pair[::-1]):
                continue
            if variant == "V2 reversed" and pairs[place] == row.pair:
                continue
            theirs = [r.text for r in rows if (r.pair, r.category) == (pairs[place], row.category)]
            if any(float(np.sum(unit_text[t] * unit_text[row.text])) > threshold for t in theirs):
                continue
            chosen.append(pairs[place])
            if len(chosen) == 3:
                break
        found.append(chosen)
    return found


def unit(vector: np.ndarray) -> np.ndarray:
    vector = vector.astype(np.float64)
    return vector / math.sqrt(float(np.sum(vector * vector)))


def stacked(names: list[str], vectors: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([unit(vectors[name]) for name in names])


def check(
    rows: list[Difference],
    clip: dict[str, np.ndarray],
    text: dict[str, np.ndarray],
    variant: str,
) -> Drawn:
    """Check that the questions equal the naive ones, with options as a set, and that dropped ones are counted."""
    test_set = TestSet(rows)
    drawn = hard_negatives(
        test_set,
        stacked(test_set.clips, clip),
        stacked(test_set.texts, text),
        "V1" if variant == "V1" else "V2",
        0.8,
        seed=0,
        allow_reversed=variant == "V2 reversed",
    )
    expected = naive_negatives(rows, clip, text, variant)
    whole = [(row, three) for row, three in zip(rows, expected, strict=True) if len(three) == 3]
    assert drawn.dropped == len(rows) - len(whole)
    assert len(drawn.questions) == len(whole)
    for question, (row, three) in zip(drawn.questions, whole, strict=True):
        assert (question.difference, question.category) == (row.text, row.category)
        assert question.answer == row.pair
        assert sorted(question.options) == sorted([row.pair, *three])
    return drawn


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Difference], dict, dict]:
    """Draw few clips, few distinct vectors, reversed and repeated pairs, which give many ties."""
    vector = st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any)
    clips = [f"c{at}" for at in range(draw(st.integers(4, 12)))]
    texts = [f"t{at}" for at in range(draw(st.integers(1, 8)))]
    clip = {name: np.array(draw(vector), np.float32) for name in clips}
    text = {name: np.array(draw(vector), np.float32) for name in texts}
    pair = st.tuples(st.sampled_from(clips), st.sampled_from(clips)).filter(lambda p: p[0] != p[1])
    row = st.builds(Difference, pair, st.sampled_from(CATEGORIES[:2]), st.sampled_from(texts))
    return draw(st.lists(row, min_size=1, max_size=40)), clip, text


@pytest.mark.parametrize("variant", ["V1", "V2", "V2 reversed"])
@given(world=worlds())
@settings(max_examples=150, deadline=None)
def test_negatives_equal_the_naive_ones_with_ties(variant: str, world: tuple) -> None:
    check(*world, variant)


def big_world(
    seed: int, pairs: int, dim: int = 64
) -> tuple[list[Difference], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Make clips in tight groups, every fifth a copy of another, and texts in groups of similar ones."""
    rng = np.random.default_rng(seed)
    clips = [f"clip_{at}" for at in range(pairs)]
    steps = rng.normal(size=(6, dim))
    near = steps[rng.integers(6, size=pairs)] + 0.2 * rng.normal(size=(pairs, dim))
    near[::5] = near[rng.integers(pairs, size=len(near[::5]))]
    says = rng.normal(size=(12, 32))
    texts = [f"text {at}" for at in range(2 * pairs)]
    said = says[rng.integers(12, size=2 * pairs)] + 0.45 * rng.normal(size=(2 * pairs, 32))
    rows = []
    for _ in range(pairs):
        one, other = rng.choice(pairs, 2, replace=False)
        for _ in range(rng.integers(1, 4)):
            words = texts[rng.integers(2 * pairs)]
            category = CATEGORIES[rng.integers(3)]
            rows.append(Difference((clips[one], clips[other]), category, words))
    clip = dict(zip(clips, near.astype(np.float32), strict=True))
    return rows, clip, dict(zip(texts, said.astype(np.float32), strict=True))


@pytest.mark.parametrize("variant", ["V1", "V2", "V2 reversed"])
@pytest.mark.parametrize("shortlist", [1, 4, 64])
def test_negatives_equal_the_naive_ones(monkeypatch: pytest.MonkeyPatch, variant: str, shortlist: int) -> None:
    """More pairs than a block and a shortlist contain, so that both limits are crossed."""
    monkeypatch.setattr(negatives, "SHORTLIST", shortlist)
    monkeypatch.setattr(negatives, "BLOCK", 32)
    rows, clip, text = big_world(shortlist, 150)
    drawn = check(rows, clip, text, variant)
    unfiltered = {word: np.eye(300, dtype=np.float32)[at] for at, word in enumerate(text)}
    free = check(rows, clip, unfiltered, variant)
    assert drawn.questions != free.questions  # the filter removed something


@pytest.mark.parametrize("size", [4, 16, 64])
def test_only_exact_distances_order_the_candidates(size: int) -> None:
    """Distances differ by less than the error of the estimates, which must not decide."""
    rng = np.random.default_rng(size)
    clips = np.arange(602).reshape(301, 2)
    for gap in (0, 1e-9, 1e-7, 1e-6):
        averages = np.concatenate([[0.0], 0.5 + gap * rng.integers(300, size=300)])[:, None]
        wrong = averages[:, 0] ** 2 + rng.uniform(-0.5, 0.5, size=301) * negatives.error_of(1)
        texts = np.eye(301)
        asked = negatives.Questions(clips, np.arange(302), np.arange(301), texts)
        found = np.full((301, 3), -1)
        negatives._walk_block(np.array([0]), wrong[None].astype(np.float32), size, averages, asked, 0, 0.8, found)
        assert found[0].tolist() == np.argsort(averages[:, 0], kind="stable")[1:4].tolist()
        assert (found[1:] == -1).all()


def test_negatives_equal_the_naive_ones_if_most_texts_are_similar() -> None:
    """The search continues after its shortlist to the end and drops questions that it cannot complete."""
    rng = np.random.default_rng(3)
    clip = {f"c{at}": rng.normal(size=8).astype(np.float32) for at in range(400)}
    text = {"same": np.array([1, 0], np.float32), "other": np.array([0, 1], np.float32)}
    words = ["same"] * 195 + ["other"] * 5
    rows = [Difference((f"c{2 * at}", f"c{2 * at + 1}"), "Actions", words[at]) for at in range(200)]
    drawn = check(rows, clip, text, "V1")
    assert drawn.dropped == 0
    others = {row.pair for row in rows if row.text == "other"}
    assert all(
        set(question.options) - {question.answer} <= others
        for question in drawn.questions
        if question.difference == "same"
    )
    drawn = check(rows[:197], clip, text, "V1")
    assert drawn.dropped == 195


def test_the_threshold_is_strict() -> None:
    rng = np.random.default_rng(0)
    clip = {f"c{at}": rng.normal(size=8).astype(np.float32) for at in range(8)}
    rows = [Difference((f"c{2 * at}", f"c{2 * at + 1}"), "Actions", "same") for at in range(4)]
    test_set, vectors = TestSet(rows), np.array([[1.0, 0.0]])
    clips = stacked(test_set.clips, clip)
    assert hard_negatives(test_set, clips, vectors, "V1", 1.0, 0).dropped == 0
    assert hard_negatives(test_set, clips, vectors, "V1", 0.999, 0).dropped == 4


def test_one_question_per_text() -> None:
    rows, clip, text = big_world(9, 60)
    rows += rows[:5]  # a text that occurs twice gives two questions
    for variant in ("V1", "V2"):
        drawn = check(rows, clip, text, variant)
        assert len(drawn.questions) + drawn.dropped == len(rows)


def naive_random(rows: list[Difference], seed: int) -> list[list[tuple[str, str]]]:
    """Return V3 negatives by the protocol, drawn from the same random source in the same order."""
    clips = list(dict.fromkeys(clip for row in rows for clip in row.pair))
    found = []
    for row in rows:
        source = random.Random(json.dumps([seed, *row.pair, row.category, row.text]))
        keep_reference = source.random() < 0.5
        chosen: list[tuple[str, str]] = []
        for other in source.sample(clips, min(5, len(clips))):
            pair = (row.pair[0], other) if keep_reference else (other, row.pair[1])
            if pair[0] == pair[1] or pair in (row.pair, row.pair[::-1]) or len(chosen) == 3:
                continue
            chosen.append(pair)
        found.append(chosen)
    return found


def test_v3_equals_the_naive_draw() -> None:
    rows, _, _ = big_world(4, 80)
    drawn = random_negatives(TestSet(rows), seed=7)
    assert drawn.dropped == 0
    kept = Counter()
    expected = naive_random(rows, 7)
    for question, row, three in zip(drawn.questions, rows, expected, strict=True):
        assert (question.difference, question.answer) == (row.text, row.pair)
        assert sorted(question.options) == sorted([row.pair, *three])
        assert len(set(question.options)) == 4
        assert row.pair[::-1] not in question.options
        references = {pair[0] for pair in question.options}
        candidates = {pair[1] for pair in question.options}
        assert sorted([len(references), len(candidates)]) == [1, 4]
        kept["reference" if len(references) == 1 else "candidate"] += 1
    assert min(kept.values()) > len(rows) / 4


def test_v3_draws_all_other_clips_equally_often() -> None:
    clips = [f"c{at}" for at in range(10)]
    rows = [Difference((clips[0], clips[1]), "Actions", f"text {at}") for at in range(3000)]
    rows += [Difference((one, clips[0]), "Actions", "more") for one in clips[2:]]
    drawn = random_negatives(TestSet(rows), seed=0).questions[:3000]
    seen = Counter(c for q in drawn for pair in q.options for c in pair if c not in clips[:2])
    assert set(seen) == set(clips[2:])
    assert max(seen.values()) < 1.12 * min(seen.values())


def test_v3_drops_questions_with_too_few_clips() -> None:
    rows = [Difference(("a", "b"), "Actions", "x"), Difference(("c", "d"), "Actions", "x")]
    assert random_negatives(TestSet(rows), 0).dropped == 2
    rows.append(Difference(("e", "a"), "Actions", "x"))
    assert random_negatives(TestSet(rows), 0).dropped == 0


def test_the_order_of_options_depends_on_seed_and_content_only() -> None:
    rows, clip, text = big_world(5, 60)

    def options(rows: list[Difference], seed: int) -> dict:
        test_set = TestSet(rows)
        vectors = stacked(test_set.clips, clip), stacked(test_set.texts, text)
        drawn = hard_negatives(test_set, *vectors, "V1", 0.8, seed).questions
        return {(q.answer, q.category, q.difference): q.options for q in drawn}

    first = options(rows, 0)
    assert first == options(rows, 0) == options(rows[::-1], 0)
    other = options(rows, 1)
    assert first != other
    assert {key: sorted(four) for key, four in first.items()} == {key: sorted(four) for key, four in other.items()}
    places = Counter(four.index(key[0]) for key, four in first.items())
    assert min(places[at] for at in range(4)) > len(first) / 8


def write_diffcap(path: Path, rows: list[Difference]) -> Path:
    lines = [
        {"reference": row.pair[0], "candidate": row.pair[1], "category": row.category, "text": [row.text]}
        for row in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("variant", ["V1", "V2", "V2 reversed", "V3"])
def test_negatives_from_a_store_equal_the_naive_ones(
    tmp_path: Path, store: Store, fill: Fill, fill_texts: Fill, variant: str
) -> None:
    rows, clip, text = big_world(6, 70)
    fill(store, np.stack([*clip.values()])[::-1], [*clip][::-1])
    fill_texts(store, np.stack([*text.values()]), [*text], "mpnet-base")
    path = write_diffcap(tmp_path / "diffcap.jsonl", rows)
    view, reverse = store.view("clips", "tiny"), variant == "V2 reversed"
    drawn = draw(store, view, path, variant[:2], seed=3, allow_reversed=reverse)  # type: ignore[arg-type]
    with pytest.raises(StepDiffError, match="--allow-reversed is for V2; V1 never has"):
        draw(store, view, path, "V1", allow_reversed=True)
    naive = naive_random(rows, 3) if variant == "V3" else naive_negatives(rows, clip, text, variant)
    whole = [sorted([row.pair, *n]) for row, n in zip(rows, naive, strict=True) if len(n) == 3]
    assert [sorted(question.options) for question in drawn.questions] == whole
    assert drawn.dropped == len(rows) - len(whole)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", ":2: not a JSON object"),
        ("", ":2: an empty line; remove it"),
        ("[1]", ":2: not a JSON object but list"),
        ('{"reference": "a", "candidate": 3, "category": "c", "text": []}', ":2: 'candidate' holds int"),
        ('{"reference": "a", "candidate": "b", "category": "c"}', ":2: the row has no 'text'"),
        ('{"reference": "a", "candidate": "b", "category": "c", "text": "t"}', ":2: 'text' is str, not a list"),
        ('{"reference": "a", "candidate": "a", "category": "c", "text": []}', ":2: the row pairs a with itself"),
    ],
)
def test_unusable_rows_are_refused_with_their_line(tmp_path: Path, line: str, why: str) -> None:
    good = '{"reference": "a", "candidate": "b", "category": "c", "text": ["t\u2028u"]}\n'
    path = tmp_path / "diffcap.jsonl"
    path.write_text(good + line + "\n")
    with pytest.raises(StepDiffError, match=why):
        read_test_set("diffcap", path)


def test_pairs_clips_and_texts_are_in_order_of_first_appearance(tmp_path: Path) -> None:
    rows = [
        Difference(("c", "d"), "Actions", "x"),
        Difference(("b", "a"), "Actions", "y"),
        Difference(("c", "d"), "Visuals", "x"),
        Difference(("a", "b"), "Actions", "x\u2028z"),
    ]
    path = write_diffcap(tmp_path / "d.jsonl", rows)
    test_set = TestSet.of_rows(read_test_set("diffcap", path))
    assert test_set.differences == rows
    assert test_set.pairs == [("c", "d"), ("b", "a"), ("a", "b")]
    assert test_set.clips == ["c", "d", "b", "a"]
    assert test_set.texts == ["x", "y", "x\u2028z"]


def test_an_unusable_test_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match="absent.jsonl: no such file"):
        read_test_set("diffcap", tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(StepDiffError, match="empty.jsonl: has no rows"):
        read_test_set("diffcap", tmp_path / "empty.jsonl")
