"""Conditions over the catalog: a safe subset of SQL, compared with Polars' SQL; searches among the
selected clips."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from retrieval import build_index
from retrieval.index.index import open_index
from retrieval.queries.condition import (
    LONGEST,
    LONGEST_PATTERN,
    read_condition,
    rows_where,
)
from retrieval.queries.search import compute, of_clips, resolve
from stepdiff_core.errors import StepDiffError
from store import Store, View
from tests.retrieval.conftest import Fill, error
from tests.store.conftest import Run

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
TEXT = st.text(alphabet="aAbx%_ \\'Ä.^$[*\n1", max_size=5).map(
    lambda text: "'" + text.replace("'", "''") + "'"
)
NUMBER = st.sampled_from(
    "0 1 2 7 0.5 1e3 2. 1.5E-2 10000000000000000000 4611686018427387904".split()
)
VALUE = st.one_of(NUMBER, TEXT, st.sampled_from(["true", "FALSE", "null", "-1", "- 2.5"]))
COMPARISON = st.sampled_from(["=", "==", "!=", "<>", "<", "<=", ">", ">="])


def words(*parts: Any) -> st.SearchStrategy[str]:
    """Return a strategy that joins parts with spaces; a part is a text or a strategy."""
    return st.tuples(*(st.just(part) if isinstance(part, str) else part for part in parts)).map(
        " ".join
    )


ATOM = st.one_of(
    NAMES,
    VALUE,
    words(st.sampled_from(["lower(", "UPPER (", "length("]), NAMES, ")"),
)
TERM = st.recursive(
    ATOM,
    lambda inner: st.one_of(
        words(inner, st.sampled_from("+-*/%"), inner), words("(", inner, ")"), words("-", inner)
    ),
    max_leaves=4,
)
PREDICATE = st.one_of(
    words(TERM, COMPARISON, TERM),
    words(
        NAMES,
        st.sampled_from(["in", "NOT IN"]),
        "(",
        st.lists(VALUE, min_size=1, max_size=4).map(", ".join),
        ")",
    ),
    words(NAMES, st.sampled_from(["like", "not like", "ilike", "NOT ILIKE"]), TEXT),
    words(TERM, st.sampled_from(["between", "not between"]), ATOM, "AND", ATOM),
    words(TERM, st.sampled_from(["is null", "IS NOT NULL"])),
    NAMES,
)
CONDITION = st.recursive(
    PREDICATE,
    lambda inner: st.one_of(
        words(inner, st.sampled_from(["and", "OR"]), inner),
        words("not", inner),
        words("(", inner, ")"),
    ),
    max_leaves=5,
)
SOUP = st.lists(
    st.one_of(
        NAMES,
        VALUE,
        COMPARISON,
        st.sampled_from("( ) , + - * / % and or not in like is null between".split()),
    ),
    min_size=1,
    max_size=9,
).map(" ".join)


def rows(expr: Any, text: str) -> list[int] | str:
    """Return the rows of FRAME that the condition selects, or the type of Polars' error."""
    try:
        return FRAME.with_row_index().filter(expr(text))["index"].to_list()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        return type(error).__name__


@settings(suppress_health_check=[HealthCheck.too_slow])
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


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(SOUP)
@example("i = b is null")
@example("s like 'a' = b")
@example("i between 1 and 2 = b")
def test_any_words_mean_the_same_as_in_polars_or_are_refused(text: str) -> None:
    """Any accepted sequence of words has the meaning that it has in Polars, with the same
    precedence of operators."""
    try:
        condition = read_condition(text)
    except StepDiffError as refused:
        assert "\n" not in str(refused)
        return
    expected = rows(pl.sql_expr, text)
    assert rows(lambda _: condition.expr, text) == expected, text
    assert condition.columns == set(condition.expr.meta.root_names())


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
        ("step in (select a from read_csv('{path}'))", "step IN (SELECT a FROM READ_CSV('"),
        ("exists (select 1)", "EXISTS(SELECT 1)"),
        ("read_csv('{path}') = 1", "READ_CSV('"),
        ("\"read_csv\"('{path}') = 1", "READ_CSV('"),
        ("step = (with x as (values (1)) table x)", "(WITH x AS (SELECT"),
        ("lpad(step, 2000000000, 'x') = 'a'", "LPAD(step, 2000000000, 'x')"),
        ("sum(row) over (partition by step) > 1", "SUM(row) OVER (PARTITION BY step)"),
        ("case when true then true end", "CASE WHEN TRUE THEN TRUE END"),
        ("cast(step as int) = 1", "CAST(step AS INT)"),
        ("step::int = 1", "CAST(step AS INT)"),
        ("step || step = 'aa'", "step || step"),
        ("N'step' = step", "N'step'"),
        ("step = 1; drop table x", ";"),
        ("step like 'a' escape 'b'", "step LIKE 'a' ESCAPE 'b'"),
        ("step is true", "step IS TRUE"),
        ("step is not distinct from 'a'", "step IS NOT DISTINCT FROM 'a'"),
        ("1 < row < 3", "a second < in one comparison (join two comparisons with AND)"),
        ("clips.step = 'a'", "clips.step"),
        ('"^.*$" = 1', "the column name '^.*$'"),
        ('"*" = 1', "the column name '*'"),
    ],
)
def test_a_condition_cannot_open_a_file(tmp_path: Path, text: str, named: str) -> None:
    """Forbidden functions are refused by name, and no line of a file is printed."""
    path = tmp_path / "secret.csv"
    path.write_text("a\nhidden words\n")
    with pytest.raises(StepDiffError) as refused:
        read_condition(text.format(path=path))
    line = str(refused.value)
    assert (
        line.startswith(f"--where uses {named}")
        and ", which is not allowed: use comparisons, AND" in line
    )
    assert "hidden" not in line and "\n" not in line


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"s = '{'x' * LONGEST}'", "has 10,006 characters: write one of at most 10,000"),
        (
            f"s like '{'%a' * LONGEST_PATTERN}'",
            "has a LIKE pattern of 1,000 characters: write one of at most 500",
        ),
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


@pytest.fixture
def cut(store: Store, fill: Fill) -> View:
    """A view of 60 clips with step, split, start and end; row 6 has failed; rows 50 and later have
    no split."""
    vectors = np.random.default_rng(2).normal(size=(60, 16)).astype(np.float32)
    columns = {
        "step": [("chop", "whisk", "fry")[at % 3] for at in range(60)],
        "split": [("train", "test")[at % 2] if at < 50 else None for at in range(60)],
        "start": [0.5 * at for at in range(60)],
        "end": [0.5 * at + 1 + at % 7 for at in range(60)],
    }
    return fill(store, vectors, [f"clip_{at}" for at in range(60)], failed=(6,), columns=columns)


CONDITIONS = {
    "step = 'whisk'": lambda at: at % 3 == 1,
    "split == 'test' AND step != 'fry'": lambda at: at < 50 and at % 2 == 1 and at % 3 != 2,
    "duration > 4.5": lambda at: 1 + at % 7 > 4.5,
    "step LIKE '%h%' OR \"end\" < 3": lambda at: at % 3 < 2 or 0.5 * at + 1 + at % 7 < 3,
    "split IS NULL": lambda at: at >= 50,
    "key IN ('clip_3', 'clip_6')": lambda at: at in (3, 6),
}


@pytest.mark.parametrize("where", CONDITIONS)
def test_a_filter_selects_the_rows_for_which_it_is_true(
    store: Store, cut: View, where: str
) -> None:
    assert rows_where(store, "clips", where).tolist() == [
        at for at in range(60) if CONDITIONS[where](at)
    ]


@pytest.mark.parametrize("factory", [None, "Flat", "IVF4,SQfp16"])
@pytest.mark.parametrize("where", ["step = 'whisk'", "duration > 4.5 AND split = 'train'"])
def test_a_filter_is_applied_before_the_search(
    store: Store, cut: View, run: Run, factory: str | None, where: str
) -> None:
    """The nearest of the selected clips equal those of a direct comparison, with exact search and
    with an index."""
    if factory is not None:
        build_index(store, cut, factory=factory)
    vectors = np.random.default_rng(2).normal(size=(60, 16)).astype(np.float32).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    matches = {"step = 'whisk'": CONDITIONS["step = 'whisk'"]}.get(
        where, lambda at: CONDITIONS["duration > 4.5"](at) and at < 50 and at % 2 == 0
    )
    selected = [at for at in range(60) if matches(at) and at not in (4, 6)]
    expected = sorted(selected, key=lambda at: -float(vectors[at] @ vectors[4]))[:5]
    words = (
        "query",
        "--store",
        store.path,
        "--view",
        "tiny",
        "--clip",
        "clip_4",
        "-k",
        5,
        "--json",
        "--where",
        where,
    )
    hits = run(*words).json["hits"]
    assert [hit["clip"] for hit in hits] == [f"clip_{at}" for at in expected]
    assert [hit["similarity"] for hit in hits] == pytest.approx(
        [vectors[at] @ vectors[4] for at in expected], abs=1e-6
    )


@pytest.mark.full
def test_a_large_view_without_an_index_is_refused(store: Store, fill: Fill) -> None:
    keys = [f"clip_{at}" for at in range(100_001)]
    view = fill(
        store,
        np.random.default_rng(0).normal(size=(100_001, 4)).astype(np.float32),
        keys,
        shard=16_384,
    )
    with pytest.raises(StepDiffError, match="has no index: run `python -m retrieval build"):
        nearest(store, view, 5)
    assert nearest(store, view, 5, "key LIKE 'clip_1%'").height == 5


def test_a_selection_hides_all_other_rows_of_an_index(store: Store, cut: View) -> None:
    for factory in ("Flat", "IVF4,SQfp16", "HNSW8"):
        build_index(store, cut, factory=factory)
        index = open_index(store, cut)
        among = np.array([0, 7, 19, 41])
        rows, _ = index.search(cut.read("embedding", np.array([3, 40]), dtype="float32"), 4, among)
        assert set(rows.ravel().tolist()) <= {0, 7, 19, 41, -1}, factory
        if factory != "HNSW8":  # the search of a graph ends before it has visited every row
            assert all(set(hits) == {0, 7, 19, 41} for hits in rows.tolist()), factory
    build_index(store, cut, factory="PQ4x2")
    with pytest.raises(
        StepDiffError, match="cannot search only some rows of an index 'PQ4x2': build one"
    ):
        open_index(store, cut).search(
            cut.read("embedding", np.array([3]), dtype="float32"), 4, among
        )


@pytest.mark.parametrize(
    ("where", "why"),
    [
        (
            "colour = 'red'",
            "names no column of the clips: colour; the catalog has key, step, split, start, end, "
            "dur",
        ),
        ("step = ", "is not a condition (it ends too early)"),
        ("start + 1", "is not a condition ("),
        ("start > 'late'", "is not a condition ("),
        ("", "is not a condition (it is empty"),
        ("step = 'a' and", "is not a condition (it ends too early)"),
        ("step ~ '(a+)+$'", "is not a condition (it cannot be read at '~')"),
        ("step = 'a' escape", "is not a condition (it cannot be read at 'escape')"),
        ("step = \\0", "is not a condition (it cannot be read at '\\\\')"),
        ("start between 1 2", "is not a condition (a word is missing or unknown)"),
        ("start = + 1", "is not a condition (leave out the + before a value)"),
        ("start = step is null", "is not a condition (put each comparison in parentheses)"),
        ("step = 'whisk' AND", "write one as after SQL's WHERE"),
        ("step = 'bake'", "no clip of "),
    ],
)
def test_a_bad_filter_is_refused_in_one_line(
    store: Store, cut: View, run: Run, where: str, why: str
) -> None:
    assert why in error(
        run, "query", "--store", store.path, "--view", "tiny", "--clip", "clip_4", "--where", where
    )


def nearest(store: Store, view: View, k: int, where: str | None = None) -> pl.DataFrame:
    """Return the clips nearest to clip_4."""
    return compute(resolve(store, view, partial(of_clips, clips=["clip_4"]), where), k)


def test_fewer_selected_clips_than_k_are_all_returned(store: Store, cut: View) -> None:
    assert nearest(store, cut, 2, "key IN ('clip_3', 'clip_4', 'clip_6')")["clip"].to_list() == [
        "clip_3"
    ]
    assert nearest(store, cut, 2, "key = 'clip_4'").height == 0
