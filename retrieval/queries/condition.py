"""A condition on catalog columns, parsed from a user's text: a small, safe subset of SQL's WHERE.

Allowed are comparisons, AND, OR, NOT, IN with a list, LIKE, ILIKE, BETWEEN, IS NULL, + - * / %,
parentheses, strings, numbers, TRUE, FALSE, NULL, column names (in double quotes if they are SQL
keywords) and the functions lower, upper and length. The column `duration` is end minus start, in
seconds, if the catalog has both and no column of that name.

sqlglot parses the text. Each node of its tree must be on the list below and is written again in one
fixed form, with every name in quotes, so the text that Polars parses cannot contain anything else.

Guarantees
- a text for which Polars would open a file or an address, or call a function, is refused by name
- an accepted condition selects the rows that Polars' own SQL selects for the same text
- length, nesting, number of operators and length of a LIKE pattern have limits; all but the last
  before parsing
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Int64
from sqlglot import exp, parse_one, tokenize
from sqlglot.errors import ErrorLevel, ParseError, TokenError
from sqlglot.tokens import Token, TokenType

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.tables import short
from store import Store

LONGEST = 10_000  # characters of a condition
LONGEST_PATTERN = 500  # characters after LIKE
DEEPEST = 20  # nested parentheses, NOT and minus signs; Polars' parser stops at about 50
MOST_OPERATORS = 256  # Polars takes 0.3 s for a chain of this length, and minutes for 3,000

ALLOWED = (
    "comparisons, AND, OR, NOT, IN (...), LIKE, ILIKE, BETWEEN, IS NULL, + - * / %, and the "
    "functions lower, upper, length"
)
_Signs = dict[type[exp.Expr], str]
_COMPARISONS: _Signs = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
}
_LIKE: _Signs = {exp.Like: "LIKE", exp.ILike: "ILIKE"}
_ARITHMETIC: _Signs = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%"}
_BINARY: _Signs = {
    **_COMPARISONS,
    **_LIKE,
    **_ARITHMETIC,
    exp.And: "AND",
    exp.Or: "OR",
    exp.Is: "IS",
}
_UNFINISHED = {*_BINARY.values(), "!=", "NOT", "IN", "BETWEEN"}  # something follows each
_FUNCTIONS: _Signs = {exp.Lower: "LOWER", exp.Upper: "UPPER", exp.Length: "LENGTH"}
_BOOLEAN = (exp.And, exp.Or, exp.Not, exp.Paren)  # of which NOT may be a part
# of allowed nodes
_ARGUMENTS = {"this", "expression", "expressions", "low", "high", "negate", "is_string", "quoted"}
_OPERANDS = (
    TokenType.STRING,
    TokenType.NUMBER,
    TokenType.IDENTIFIER,
    TokenType.VAR,
    TokenType.COMMA,
)
_PARENTHESES = (TokenType.L_PAREN, TokenType.R_PAREN)
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?", re.IGNORECASE | re.ASCII)
_PATTERN_NAME = re.compile(r"\*|\^.*\$", re.DOTALL)  # Polars expands such a name to several columns
DURATION = "duration"
_PLACE = "\0place"  # a column that no catalog has


def rows_where(store: Store, entity: str, where: str) -> Int64[np.ndarray, " rows"]:
    """Return the catalog rows for which `where` is true, rising. StepDiffError if there is none."""
    condition = read_condition(where)
    catalog = store.catalog(entity)
    there = catalog.schema()
    if condition.columns - {*there, DURATION}:
        places_where(pl.DataFrame(schema=there), condition)  # the error lists its columns
    spans = ["start", "end"] if DURATION in condition.columns else []
    frame = catalog.frame(sorted({"row", *condition.columns, *spans}))
    rows = frame["row"].to_numpy()[places_where(frame, condition)]
    if not len(rows):
        raise StepDiffError(f"no {entity[:-1]} of {store.path} has {where}: widen --where")
    return rows


def places_where(frame: pl.DataFrame, condition: Condition) -> Int64[np.ndarray, " places"]:
    """Return the places in a catalog's `frame` at which the condition is true, rising.

    Raises StepDiffError: it names a column that the frame lacks, or is no condition on its columns.
    """
    made = DURATION in condition.columns - set(frame.columns) and {"start", "end"} <= set(
        frame.columns
    )
    if unknown := ", ".join(
        sorted(condition.columns - set(frame.columns) - ({DURATION} if made else set()))
    ):
        existing = ", ".join([*frame.drop("row", strict=False).columns, DURATION])
        raise StepDiffError(
            f"{condition.option} names no column of the clips: {unknown}; the catalog has "
            f"{existing}"
        )
    try:
        if made:
            frame = frame.with_columns((pl.col("end") - pl.col("start")).alias(DURATION))
        return (
            frame.with_row_index(_PLACE).filter(condition.expr)[_PLACE].to_numpy().astype(np.int64)
        )
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        # the latter: arithmetic out of range
        raise not_a_condition(condition.option, condition.text, error) from None


def parts_of(text: str) -> list[str]:
    """Return the parts of a condition that its outermost ANDs join; the condition itself if an OR
    joins them.

    The text is one that `read_condition` accepts.
    """
    tree = parse_one(text, into=exp.Condition)
    parts = list(tree.flatten(unnest=False)) if isinstance(tree, exp.And) else []
    return [part.sql(comments=False) for part in parts] or [text.strip()]


@dataclass(frozen=True)
class Condition:
    """A condition and the columns that it reads."""

    text: str
    expr: pl.Expr
    columns: frozenset[str]
    option: str  # name of the option, with which error messages begin


def read_condition(text: str, option: str = "--where") -> Condition:
    """Parse a condition such as `step = 'whisk' AND duration > 4`; errors begin with `option`.

    Raises StepDiffError: it is not a condition, exceeds a limit, or uses something that is not
    allowed.
    """
    if len(text) > LONGEST:
        raise StepDiffError(
            f"{option} has {len(text):,} characters: write one of at most {LONGEST:,}"
        )
    try:
        tokens = tokenize(text)
    except TokenError:
        raise not_a_condition(option, text, "a quote or a comment is not closed") from None
    _check_size(tokens, option)
    try:
        tree = parse_one(text, into=exp.Condition)
    except ParseError as error:
        place = next((each["highlight"] for each in error.errors if each["highlight"]), "")
        why = (
            f"it cannot be read at {repr(place) if place else 'its end'}"
            if tokens
            else "it is empty"
        )
        if tokens and place == tokens[-1].text and place.upper() in _UNFINISHED:
            why = "it ends too early"
        raise not_a_condition(option, text, why) from None
    sql = _written(tree, option)
    columns = frozenset(column.name for column in tree.find_all(exp.Column))
    # sqlglot adds parentheses where it reads IS as nearer than Polars does, drops a + and accepts
    # BETWEEN without AND
    for sign, advice in (
        ("(", "put each comparison in parentheses"),
        ("+", "leave out the + before a value"),
    ):
        if sum(token.text == sign for token in tokenize(sql)) != sum(
            token.text == sign for token in tokens
        ):
            raise not_a_condition(option, text, advice)
    if len(tokenize(sql)) != len(tokens):
        raise not_a_condition(option, text, "a word is missing or unknown")
    try:
        return Condition(text, pl.sql_expr(sql), columns, option)
    except (pl.exceptions.PolarsError, UnicodeEncodeError) as error:
        # the latter: half of a surrogate pair
        raise not_a_condition(option, text, error) from None


def not_a_condition(option: str, text: str, why: str | Exception) -> StepDiffError:
    reason = str(why).strip().splitlines()[0]
    return StepDiffError(
        f"{option} {text!r} is not a condition ({reason}): write one as after SQL's WHERE, "
        "for example \"step = 'whisk' AND duration > 4\""
    )


def _check_size(tokens: list[Token], option: str) -> None:
    """Raise StepDiffError for a condition of several, of too many operators, or nested too deep to
    be parsed."""
    depth = prefixes = operators = 0
    for kind in (token.token_type for token in tokens):
        depth += (kind == TokenType.L_PAREN) - (kind == TokenType.R_PAREN)
        prefixes = prefixes + 1 if kind in (TokenType.NOT, TokenType.DASH, TokenType.PLUS) else 0
        operators += kind not in (*_OPERANDS, *_PARENTHESES)
        if kind == TokenType.SEMICOLON:
            raise _refusal(option, ";")
        if depth + prefixes > DEEPEST:
            raise StepDiffError(
                f"{option} nests more than {DEEPEST} deep: write it with fewer parentheses"
            )
        if operators > MOST_OPERATORS:
            raise StepDiffError(
                f"{option} has more than {MOST_OPERATORS} operators: use IN (...) for a list of "
                "values"
            )


def _written(node: exp.Expr, option: str) -> str:
    """Return the SQL of an allowed node in one fixed form. Raises StepDiffError for any other
    node."""
    kind = type(node)
    parts = {name: part for name, part in node.args.items() if part}
    if not _ARGUMENTS.issuperset(parts):
        raise _refusal(option, node)
    negation = "NOT " if "negate" in parts else ""
    if kind is exp.Column and type(node.this) is exp.Identifier:
        if _PATTERN_NAME.fullmatch(node.name):
            raise _refusal(option, f"the column name {node.name!r}")
        return '"' + node.name.replace('"', '""') + '"'
    if kind is exp.Literal and (node.is_string or _NUMBER.fullmatch(node.name)):
        return "'" + node.name.replace("'", "''") + "'" if node.is_string else node.name
    if kind in (exp.Boolean, exp.Null):
        return "NULL" if kind is exp.Null else str(node.this).upper()
    if kind is exp.Not and (node.parent is None or type(node.parent) in _BOOLEAN):
        return f"NOT {_written(node.this, option)}"
    if kind is exp.Neg:
        return f"- {_written(node.this, option)}"
    if kind is exp.Paren or kind in _FUNCTIONS:
        return f"{_FUNCTIONS.get(kind, '')}({_written(node.this, option)})"
    if kind is exp.In:
        values = ", ".join([_written(value, option) for value in node.expressions])
        return f"{_written(node.this, option)} {negation}IN ({values})"
    if kind is exp.Between:
        low, high = _written(node.args["low"], option), _written(node.args["high"], option)
        return f"{_written(node.this, option)} {negation}BETWEEN {low} AND {high}"
    if kind not in _BINARY:
        raise _refusal(option, node)
    sign, other = _BINARY[kind], node.args["expression"]
    if kind in _COMPARISONS and {type(node.this), type(other)} & {*_COMPARISONS}:
        raise _refusal(option, f"a second {sign} in one comparison (join two comparisons with AND)")
    if kind in _LIKE and len(other.name) > LONGEST_PATTERN:
        raise StepDiffError(
            f"{option} has a {sign} pattern of {len(other.name):,} characters: write one of at "
            f"most {LONGEST_PATTERN}"
        )
    if kind is exp.Is and type(other) is not exp.Null:
        raise _refusal(option, node)
    if kind is exp.Is:
        return f"{_written(node.this, option)} IS {negation}NULL"
    return f"{_written(node.this, option)} {negation}{sign} {_written(other, option)}"


def _refusal(option: str, what: exp.Expr | str) -> StepDiffError:
    """Return the error about something that a condition may not use, a node by its SQL."""
    name = (
        what
        if isinstance(what, str)
        else what.sql(comments=False, unsupported_level=ErrorLevel.IGNORE)
    )
    name = name if name.isprintable() else repr(name)
    return StepDiffError(f"{option} uses {short(name)}, which is not allowed: use {ALLOWED}")
