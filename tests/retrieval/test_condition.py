"""Conditions of a user: a safe subset of SQL, compared with Polars' SQL, and refusals by name."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.errors import StepDiffError
from retrieval.queries.condition import DEEPEST, LONGEST, LONGEST_PATTERN, MOST_OPERATORS, read_condition

FRAME = pl.DataFrame(
    {
        "i": [0, 1, -1, 2, 7, None, 2**62, -5],
        "f": [0.5, None, float("nan"), -1.0, 2.0, 1e300, float("inf"), 7.0],
        "s": ["", "a", "A%b", None, "it's", "x_y\nz", "Äö", "1"],
        "t": ["a", "a", "a%b", "b", None, "x", "äö", "a\\"],
        "b": [True, None, False, True, None, False, True, False],
        'odd "name"': [1, 2, 3, None, 5, 6, 7, 8],
        "end": [1.5, 2.5, None, 4.5, 5.5, 6.5, 7.5, 8.5],
    }
)
NAMES = st.sampled_from(["i", "f", "s", "t", "b", '"i"', '"odd ""name"""', '"end"'])
TEXT = st.text(alphabet="aAbx%_ \\'Ä.^$[*\n1", max_size=5).map(lambda text: "'" + text.replace("'", "''") + "'")
NUMBER = st.sampled_from("0 1 2 7 0.5 1e3 2. 1.5E-2 10000000000000000000 4611686018427387904".split())
VALUE = st.one_of(NUMBER, TEXT, st.sampled_from(["true", "FALSE", "null", "-1", "- 2.5"]))
COMPARISON = st.sampled_from(["=", "==", "!=", "<>", "<", "<=", ">", ">="])


def words(*parts: Any) -> st.SearchStrategy[str]:
    """Return a strategy that joins parts with spaces; a part is a text or a strategy."""
    return st.tuples(*(st.just(part) if isinstance(part, str) else part for part in parts)).map(" ".join)


ATOM = st.one_of(
    NAMES,
    VALUE,
    words(st.sampled_from(["lower(", "UPPER (", "length("]), NAMES, ")"),
)
TERM = st.recursive(
    ATOM,
    lambda inner: st.one_of(
        words(inner, st.sampled_from("+-*/%"), inner), words("(", inner, ")"), words("-", inner), words("+", inner)
    ),
    max_leaves=4,
)
PREDICATE = st.one_of(
    words(TERM, COMPARISON, TERM),
    words(NAMES, st.sampled_from(["in", "NOT IN"]), "(", st.lists(VALUE, min_size=1, max_size=4).map(", ".join), ")"),
    words(NAMES, st.sampled_from(["like", "not like", "ilike", "NOT ILIKE"]), TEXT),
    words(TERM, st.sampled_from(["between", "not between"]), ATOM, "AND", ATOM),
    words(TERM, st.sampled_from(["is null", "IS NOT NULL"])),
    NAMES,
)
CONDITION = st.recursive(
    PREDICATE,
    lambda inner: st.one_of(
        words(inner, st.sampled_from(["and", "OR"]), inner), words("not", inner), words("(", inner, ")")
    ),
    max_leaves=5,
)
SOUP = st.lists(
    st.one_of(NAMES, VALUE, COMPARISON, st.sampled_from("( ) , + - * / % and or not in like is null between".split())),
    min_size=1,
    max_size=9,
).map(" ".join)


def rows(expr: Any, text: str) -> list[int] | str:
    """Return the rows of FRAME that the condition selects, or the type of Polars' error."""
    try:
        return FRAME.with_row_index().filter(expr(text))["index"].to_list()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        return type(error).__name__


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CONDITION)
@example("not i = 1 and b or s like 'a%' and f > - 1")
@example("i / 2 = 0.5 or i % 2 = 1 or - i * 2 + 3 / f > 1")
@example("i in (1, null) or not i in (2, null)")
@example("t like '%\\' or s like 'A\\%b' or s ilike 'ä_'")
@example("not (f = f) or f > 1e308")
@example("i = 7.0 or i < 0.5 or f = 2")
def test_a_condition_selects_the_same_rows_as_polars(text: str) -> None:
    """The expected rows are those of Polars for the same text."""
    assert rows(lambda text: read_condition(text).expr, text) == rows(pl.sql_expr, text), text


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SOUP)
@example("i = b is null")
@example("s like 'a' = b")
@example("i between 1 and 2 = b")
def test_any_words_mean_the_same_as_in_polars_or_are_refused(text: str) -> None:
    """Any accepted sequence of words has the meaning that it has in Polars, with the same precedence of operators."""
    try:
        condition = read_condition(text)
    except StepDiffError as refused:
        assert "\n" not in str(refused)
        return
    expected = rows(pl.sql_expr, text)
    assert rows(lambda _: condition.expr, text) == expected, text
    assert condition.columns == set(condition.expr.meta.root_names())


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
@example("N'a' = a")
@example("\x00")
@example("a = '\ud800'")
def test_random_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        read_condition(text)
    except StepDiffError as refused:
        assert "\n" not in str(refused) and str(refused).startswith("--where ")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("step in (select a from read_csv('{path}'))", "a subquery (SELECT)"),
        ("exists (select 1)", "a subquery (EXISTS)"),
        ("read_csv('{path}') = 1", "the function read_csv"),
        ("\"read_csv\"('{path}') = 1", "the function read_csv"),
        ("step = (with x as (values (1)) table x)", "a subquery (WITH)"),
        ("lpad(step, 2000000000, 'x') = 'a'", "the function lpad"),
        ("sum(row) over (partition by step) > 1", "the function sum"),
        ("case when true then true end", "case"),
        ("cast(step as int) = 1", "cast"),
        ("step::int = 1", "::"),
        ("step || step = 'aa'", "||"),
        ("step ~ '(a+)+$'", "~"),
        ("N'step' = step", "N'step'"),
        ("step = 1; drop table x", ";"),
        ("step = 'a' escape", "\"escape\" after 'a'"),
        ("step is true", "IS TRUE"),
        ("step is not distinct from 'a'", 'IS "distinct"'),
        ("1 < row < 3", "a second < in one comparison (join two comparisons with AND)"),
        ("clips.step = 'a'", "a dot outside a number"),
        ('"^.*$" = 1', "the column name '^.*$'"),
        ('"*" = 1', "the column name '*'"),
        ("step = \\0", "\\"),
    ],
)
def test_a_condition_cannot_open_a_file(tmp_path: Path, text: str, named: str) -> None:
    """Forbidden functions are refused by name, and no line of a file is printed."""
    path = tmp_path / "secret.csv"
    path.write_text("a\nhidden words\n")
    with pytest.raises(StepDiffError) as refused:
        read_condition(text.format(path=path))
    line = str(refused.value)
    assert line.startswith(f"--where uses {named}") and ", which is not allowed: use comparisons, AND" in line
    assert "hidden" not in line and "\n" not in line


def test_a_condition_cannot_open_a_pipe(tmp_path: Path) -> None:
    """A process that opens it would wait forever."""
    os.mkfifo(tmp_path / "pipe")
    where = f"s in (select a from read_csv('{tmp_path}/pipe'))"
    code = f"from retrieval.queries.condition import read_condition; read_condition({where!r})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert "--where uses a subquery (SELECT)" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"s = '{'x' * LONGEST}'", "has 10,006 characters: write one of at most 10,000"),
        (f"s like '{'%a' * LONGEST_PATTERN}'", "has a LIKE pattern of 1,000 characters: write one of at most 500"),
        ("(" * 3000 + "b" + ")" * 3000, "nests more than 20 deep"),
        ("not " * 2000 + "b", "nests more than 20 deep"),
        ("i = " + "- " * 4000 + "1", "nests more than 20 deep"),
        ("lower(" * 1000 + "s" + ")" * 1000, "nests more than 20 deep"),
        (" + ".join("i" for _ in range(2000)) + " > 1", "has more than 256 operators"),
    ],
)
def test_too_complex_conditions_are_refused(text: str, why: str) -> None:
    with pytest.raises(StepDiffError, match=why):
        read_condition(text)


def test_conditions_at_the_limits_are_accepted() -> None:
    for text in (
        "(" * DEEPEST + "b" + ")" * DEEPEST,
        " or ".join(["b"] * (MOST_OPERATORS + 1)),
        f"s like '{'%a' * (LONGEST_PATTERN // 2)}'",
        "s in (" + ",".join(f"'clip_{at}'" for at in range(800)) + ")",
    ):
        assert rows(lambda text: read_condition(text).expr, text) == rows(pl.sql_expr, text)


def test_the_caller_can_name_the_option_in_the_message() -> None:
    with pytest.raises(StepDiffError, match="^the filter uses the function now, which is not allowed"):
        read_condition("now() > 1", "the filter")
    assert read_condition('End > 1 AND "end" < lower(s)').columns == {"End", "end", "s"}
