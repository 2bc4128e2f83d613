"""Guarantees of heads.methods.stepdiff."""

from hypothesis import given
from hypothesis import strategies as st

from heads.methods.stepdiff import (
    ROWS_A_BATCH,
    TURNS_A_BATCH,
    batches,
    difference_turn,
    evenly,
    option_scores,
    pair_texts,
)
from tasks.testsets import DiffMCQ

CLIPS = st.sampled_from(["a_0_1", "b_0_1", "c_0_1", "d_0_1"])
OPTIONS = st.lists(st.tuples(CLIPS, CLIPS), min_size=4, max_size=4)
ASKED = st.lists(
    st.tuples(st.sampled_from(["x", "y", "z"]), st.sampled_from(["Visuals", "Technique"]), OPTIONS),
    min_size=1,
    max_size=12,
)
Asked = list[tuple[str, str, list[tuple[str, str]]]]


def questions(asked: Asked) -> list[DiffMCQ]:
    return [DiffMCQ(text, category, tuple(options), options[0]) for text, category, options in asked]


@given(ASKED)
def test_every_pair_is_scored_with_every_text_of_its_questions_once(asked: Asked) -> None:
    rows = questions(asked)
    pairs = pair_texts(rows)
    found = [(own.pair, text) for own in pairs for text in own.texts]
    assert len(found) == len(set(found)) and len({own.pair for own in pairs}) == len(pairs)
    assert set(found) == {(pair, (row.category, row.difference)) for row in rows for pair in row.options}
    assert [own.answers for own in pairs] == [len(own.texts) for own in pairs]


@given(ASKED)
def test_scores_return_to_the_options_that_they_belong_to(asked: Asked) -> None:
    def score(pair: tuple[str, str], category: str, difference: str) -> float:
        return float(int.from_bytes("|".join([*pair, category, difference]).encode(), "big") % 10007)

    rows = questions(asked)
    pairs = pair_texts(rows)
    found = option_scores(rows, pairs, [[score(own.pair, *text) for text in own.texts] for own in pairs])
    assert found == [[score(pair, row.category, row.difference) for pair in row.options] for row in rows]


@given(st.integers(0, 90), st.integers(1, 16))
def test_the_texts_of_a_pair_are_divided_evenly_and_in_order(count: int, most: int) -> None:
    turns = [difference_turn("Visuals", str(number)) for number in range(count)]
    lists = evenly(turns, most)
    sizes = [len(some) for some in lists]
    assert [turn for some in lists for turn in some] == turns
    assert max(sizes, default=0) <= most and max(sizes, default=0) - min(sizes, default=0) <= 1
    assert len(lists) == -(-count // most)


@given(st.lists(st.integers(1, 300), max_size=20))
def test_a_batch_contains_whole_pairs_if_possible(counts: list[int]) -> None:
    turns = [difference_turn("Visuals", str(number)) for number in range(max(counts, default=0))]
    asked = {(str(n), "b"): dict.fromkeys(turns[:count]) for n, count in enumerate(counts)}
    found = list(batches(asked))
    rows = [row for batch in found for row in batch]
    for pair, own in asked.items():
        parts = [some for other, some in rows if other == pair]
        assert len(parts) == -(-len(own) // TURNS_A_BATCH) and [t for some in parts for t in some] == list(own)
    sizes = [sum(len(some) for _, some in batch) for batch in found]
    assert all(batch and len(batch) <= ROWS_A_BATCH for batch in found) and all(n <= TURNS_A_BATCH for n in sizes)
