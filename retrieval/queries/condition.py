"""A condition on catalog columns, parsed from a user's text: a small, safe subset of SQL's WHERE.

Allowed are comparisons, AND, OR, NOT, IN with a list, LIKE, ILIKE, BETWEEN, IS NULL, + - * / %, parentheses, strings,
numbers, TRUE, FALSE, NULL, column names (in double quotes if they are SQL keywords) and the functions lower, upper and
length. The column `duration` is end minus start, in seconds, if the catalog has both and no column of that name.

sqlglot splits the text into tokens. Each token must be on this list and is written again in one fixed form,
with every name in quotes, so the text that Polars parses cannot contain anything else.

Guarantees
- a text for which Polars would open a file or an address, or call a function, is refused by name
- an accepted condition selects the rows that Polars' own SQL selects for the same text
- length, nesting, number of operators and length of a LIKE pattern have limits, checked before parsing
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import polars as pl
from jaxtyping import Int64
from sqlglot import tokenize
from sqlglot.errors import TokenError
from sqlglot.tokens import Token, TokenType

from stepdiff.common.errors import StepDiffError
from store import Store

LONGEST = 10_000  # characters of a condition
LONGEST_PATTERN = 500  # characters after LIKE
DEEPEST = 20  # nested parentheses, NOT and minus signs; Polars' parser stops at about 50
MOST_OPERATORS = 256  # Polars takes 0.3 s for a chain of this length, and minutes for 3,000

FUNCTIONS = ("lower", "upper", "length")
ALLOWED = (
    "comparisons, AND, OR, NOT, IN (...), LIKE, ILIKE, BETWEEN, IS NULL, + - * / %, and the functions "
    + ", ".join(FUNCTIONS)
)
_VALUES = ("TRUE", "FALSE", "NULL")
_WORDS = ("AND", "OR", "NOT", "IN", "LIKE", "ILIKE", "BETWEEN", "IS")
_COMPARISONS = ("=", "==", "!=", "<>", "<", "<=", ">", ">=")
_SIGNS = (*_COMPARISONS, "+", "-", "*", "/", "%")
_SUBQUERY = ("SELECT", "WITH", "FROM", "EXISTS", "VALUES", "TABLE")
_BINARY = (*_COMPARISONS, "*", "/", "%", "AND", "OR", "IN", "LIKE", "ILIKE", "BETWEEN", "IS")  # they follow a value
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?", re.IGNORECASE | re.ASCII)
_PATTERN_NAME = re.compile(r"\*|\^.*\$", re.DOTALL)  # Polars expands such a name to several columns
_QUOTED = (TokenType.STRING, TokenType.IDENTIFIER)
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
    made = DURATION in condition.columns - set(frame.columns) and {"start", "end"} <= set(frame.columns)
    if unknown := ", ".join(sorted(condition.columns - set(frame.columns) - ({DURATION} if made else set()))):
        existing = ", ".join([*frame.drop("row", strict=False).columns, DURATION])
        raise StepDiffError(f"{condition.option} names no column of the clips: {unknown}; the catalog has {existing}")
    try:
        if made:
            frame = frame.with_columns((pl.col("end") - pl.col("start")).alias(DURATION))
        return frame.with_row_index(_PLACE).filter(condition.expr)[_PLACE].to_numpy().astype(np.int64)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:  # the latter: arithmetic out of range
        raise not_a_condition(condition.option, condition.text, error) from None


def parts_of(text: str) -> list[str]:
    """Return the parts of a condition that its outermost ANDs join; the condition itself if an OR joins them.

    The text is one that `read_condition` accepts.
    """
    depth, between, ends = 0, 0, []
    for token in tokenize(text):
        word = text[token.start : token.end + 1].upper() if token.token_type not in _QUOTED else ""
        depth += (word == "(") - (word == ")")
        if depth == 0 and word == "OR":
            return [text.strip()]
        if depth == 0 and word == "AND" and not between:
            ends.append((token.start, token.end + 1))
        between = between + 1 if word == "BETWEEN" else between - 1 if word == "AND" and between else between
    starts = [0, *(end for _, end in ends)]
    return [text[start:end].strip() for start, end in zip(starts, [*(at for at, _ in ends), len(text)], strict=True)]


@dataclass(frozen=True)
class Condition:
    """A condition and the columns that it reads."""

    text: str
    expr: pl.Expr
    columns: frozenset[str]
    option: str  # name of the option, with which error messages begin


def read_condition(text: str, option: str = "--where") -> Condition:
    """Parse a condition such as `step = 'whisk' AND duration > 4`; errors begin with `option`.

    Raises StepDiffError: it is not a condition, exceeds a limit, or uses something that is not allowed.
    """
    if len(text) > LONGEST:
        raise StepDiffError(f"{option} has {len(text):,} characters: write one of at most {LONGEST:,}")
    try:
        tokens = tokenize(text)
    except TokenError:
        raise not_a_condition(option, text, "a quote or a comment is not closed") from None
    reading = _Reading(text, tokens, option)
    try:
        return Condition(text, pl.sql_expr(" ".join(reading.words)), frozenset(reading.columns), option)
    except (pl.exceptions.PolarsError, UnicodeEncodeError) as error:  # the latter: half of a surrogate pair
        raise not_a_condition(option, text, error) from None


def not_a_condition(option: str, text: str, why: str | Exception) -> StepDiffError:
    reason = str(why).strip().splitlines()[0]
    return StepDiffError(
        f"{option} {text!r} is not a condition ({reason}): write one as after SQL's WHERE, "
        "for example \"step = 'whisk' AND duration > 4\""
    )


class _Reading:
    """Tokens, checked and written again one by one."""

    def __init__(self, text: str, tokens: list[Token], option: str) -> None:
        self.words: list[str] = []
        self.columns: set[str] = set()
        self._text, self._option = text, option
        self._compared = [False]  # whether there was a comparison, for each open parenthesis
        self._prefixes, self._operators = 0, 0
        for place, token in enumerate(tokens):
            following = tokens[place + 1].text if place + 1 < len(tokens) else ""
            self._take(token, text[token.start : token.end + 1], following)
        if self._expects_operand():
            self._misplaced("it ends too early" if tokens else "it is empty")

    def _take(self, token: Token, written: str, following: str) -> None:
        """Check one token, whose characters are `written`; `following` is the next token."""
        word = written.upper() if written.isascii() else written
        if token.token_type == TokenType.STRING:
            self._string(token.text)
        elif token.token_type == TokenType.IDENTIFIER:
            self._column(token.text) if following != "(" else self._refuse(f"the function {token.text}")
        elif token.token_type == TokenType.NUMBER:
            self._operand(word) if _NUMBER.fullmatch(word) else self._refuse(f"the number {written}")
        elif word in ("(", ")", ",", *_SIGNS, *_WORDS):
            self._sign(word)
        elif word in _VALUES:
            self._operand(word)
        elif word == ".":
            self._refuse("a dot outside a number (write 0.5, not .5, and a column name with a dot in double quotes)")
        elif word in _SUBQUERY:
            self._refuse(f"a subquery ({word})")
        elif not re.fullmatch(r"\w+", word) or word in ("CASE", "CAST"):
            self._refuse(written)
        elif following == "(":
            self._operand(word) if word.lower() in FUNCTIONS else self._refuse(f"the function {written}")
        else:
            self._column(written)

    def _sign(self, word: str) -> None:
        """Check a parenthesis, a comma or an operator."""
        negated = self.words[-1:] == ["NOT"] and word in ("IN", "LIKE", "ILIKE", "BETWEEN")
        if word in _BINARY and self._expects_operand() and not negated:
            self._misplaced(f"a value is missing before {word}")
        if word == "(":
            self._must_be_expected(word)
            self._compared.append(False)
        elif word == ")" and len(self._compared) > 1:
            self._compared.pop()
        elif word in ("AND", "OR", ","):
            self._compared[-1] = False
        elif word in _COMPARISONS:
            if self._compared[-1]:
                self._refuse(f"a second {word} in one comparison (join two comparisons with AND)")
            self._compared[-1] = True
        self._prefixes = self._prefixes + 1 if word in ("NOT", "-", "+") else 0
        self._operators += word not in ("(", ")", ",")
        if len(self._compared) - 1 + self._prefixes > DEEPEST:
            raise StepDiffError(f"{self._option} nests more than {DEEPEST} deep: write it with fewer parentheses")
        if self._operators > MOST_OPERATORS:
            raise StepDiffError(
                f"{self._option} has more than {MOST_OPERATORS} operators: use IN (...) for a list of values"
            )
        self.words.append(word)

    def _column(self, name: str) -> None:
        if _PATTERN_NAME.fullmatch(name):
            self._refuse(f"the column name {name!r}")
        self._operand('"' + name.replace('"', '""') + '"')
        self.columns.add(name)

    def _string(self, text: str) -> None:
        before = self.words[-1] if self.words else ""
        if before in ("LIKE", "ILIKE") and len(text) > LONGEST_PATTERN:
            raise StepDiffError(
                f"{self._option} has a {before} pattern of {len(text):,} characters: write one of at most "
                f"{LONGEST_PATTERN}"
            )
        self._operand("'" + text.replace("'", "''") + "'")

    def _operand(self, written: str) -> None:
        """Check a value, a column or a function."""
        self._must_be_expected(written)
        self._prefixes = 0
        self.words.append(written)

    def _must_be_expected(self, written: str) -> None:
        """Refuse a value, a column, a function or a parenthesis that does not follow an operator."""
        before = self.words[-1] if self.words else ""
        if not (self._expects_operand() or (before.lower() in FUNCTIONS and written == "(")):
            self._refuse(f"{written} after {before}")
        if (before == "IS" or self.words[-2:] == ["IS", "NOT"]) and written != "NULL":
            self._refuse(f"IS {written}")

    def _expects_operand(self) -> bool:
        """Return whether a value, a column, a function or a parenthesis must come next."""
        return not self.words or self.words[-1] in ("(", ",", *_SIGNS, *_WORDS)

    def _misplaced(self, why: str) -> NoReturn:
        raise not_a_condition(self._option, self._text, why)

    def _refuse(self, what: str) -> NoReturn:
        what = what if what.isprintable() else repr(what)
        raise StepDiffError(f"{self._option} uses {what}, which is not allowed: use {ALLOWED}")
