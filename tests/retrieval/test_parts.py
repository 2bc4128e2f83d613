"""The parts of a condition, and its places in a frame."""

import polars as pl
import pytest

from common.errors import StepDiffError
from retrieval.queries.condition import parts_of, places_where, read_condition

PARTS = {
    "a = 1": ["a = 1"],
    "a = 1 AND b > 2": ["a = 1", "b > 2"],
    " a = 1 and (b > 2 AND c < 3) and d IS NULL ": ["a = 1", "(b > 2 AND c < 3)", "d IS NULL"],
    "a BETWEEN 1 AND 2 AND b = 'x AND y'": ["a BETWEEN 1 AND 2", "b = 'x AND y'"],
    "a NOT BETWEEN 1 AND 2": ["a NOT BETWEEN 1 AND 2"],
    "\"and\" = 'or' AND b IN ('(', ')')": ["\"and\" = 'or'", "b IN ('(', ')')"],
    "a = 1 AND b = 2 OR c = 3": ["a = 1 AND b = 2 OR c = 3"],
    "(a = 1 OR b = 2) AND NOT c = 3": ["(a = 1 OR b = 2)", "NOT c = 3"],
}


@pytest.mark.parametrize("text", PARTS)
def test_a_condition_is_split_at_its_outermost_ands(text: str) -> None:
    assert parts_of(text) == PARTS[text]
    assert [read_condition(part).text for part in parts_of(text)] == PARTS[text]


def test_the_parts_together_select_what_the_condition_selects() -> None:
    frame = pl.DataFrame(
        {"a": [0, 1, 2, 3, None] * 4, "b": [*range(20)], "start": 1.0, "end": [*map(float, range(20))]}
    )
    text = "a BETWEEN 1 AND 2 AND duration > 3 AND (b < 10 OR b = 17)"
    chosen = [set(places_where(frame, read_condition(part)).tolist()) for part in parts_of(text)]
    expected = {at for at in range(20) if at % 5 in (1, 2) and at - 1 > 3 and (at < 10 or at == 17)}
    assert set.intersection(*chosen) == expected == set(places_where(frame, read_condition(text)).tolist())


def test_a_condition_that_the_frame_cannot_answer_is_one_line() -> None:
    frame = pl.DataFrame({"key": ["x"], "row": [0], "step": ["whisk"]})
    with pytest.raises(StepDiffError, match="^the filter names no column of the clips: size; .* key, step, duration$"):
        places_where(frame, read_condition("size > 3", "the filter"))
    with pytest.raises(StepDiffError, match="^the filter 'step > 3' is not a condition [^\n]*$"):
        places_where(frame, read_condition("step > 3", "the filter"))
