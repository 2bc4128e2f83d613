"""A frame as a table on a terminal, or as a file.

In a CSV a text that a spreadsheet would compute has a quote before it, and a list or struct is
JSON; numbers are unchanged.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import whole

PIPED_WIDTH = 200  # characters of the table where no terminal says how many fit
NARROWEST = 18  # characters of a column; columns that would get fewer are left out
MARGIN = 3  # characters around a column
WIDEST = 60  # characters of a cell
FORMATS = (".parquet", ".csv", ".jsonl")
_FORMULA = "^('*(?:[=+@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]|-[\\w.-]*[^\\w.-]))"
"""OWASP, "CSV Injection", also after quotes. A clip id may begin with "-": with no other characters
it is no formula"""


def print_table(frame: pl.DataFrame, fixed: Sequence[str], title: str) -> None:
    """Print the columns `fixed`, whole, then as many of the others as fit, in their order."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=max(console.width, PIPED_WIDTH))
    rows = [[_shown(value) for value in row] for row in frame.select(fixed).iter_rows()]
    taken = sum(max(map(len, column)) for column in zip(fixed, *rows, strict=True))
    space = max(console.width - taken - MARGIN * len(fixed), 0)
    others = [name for name in frame.columns if name not in fixed][: space // NARROWEST]
    each = min(space // max(len(others), 1) - MARGIN, WIDEST)
    table = Table(*fixed, *others, box=SIMPLE_HEAD)
    for whole_cells, cut in zip(
        rows, frame.select(others).iter_rows() if others else [()] * len(rows), strict=True
    ):
        table.add_row(*map(Text, [*whole_cells, *(short(value, each) for value in cut)]))
    console.print(Text(title), table)  # a title of the table's own would be folded to its width


def _shown(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def short(value: object, widest: int = WIDEST) -> str:
    """Return a value on one line of at most `widest` characters."""
    words = "" if value is None else " ".join(str(value).split())
    return words if len(words) <= widest else words[: widest - 1] + "…"


def check_format(path: Path) -> None:
    """Raise StepDiffError if `write_table` has no format for the suffix."""
    if path.suffix not in FORMATS:
        raise StepDiffError(
            f"{path} is none of {', '.join(FORMATS)}: give the output one of these suffixes"
        )


def escaped(text: str) -> str:
    """Return a text as a CSV has it: one that a spreadsheet would take for a formula has a single
    quote before it."""
    return re.sub(_FORMULA, r"'\1", text)


def unescaped(text: str) -> str:
    """Return the text that `escaped` made this one of."""
    return re.sub("^'" + _FORMULA[1:], r"\1", text)


def write_table(path: Path, frame: pl.DataFrame) -> None:
    """Write the frame as Parquet, CSV or JSON lines, by the suffix."""
    check_format(path)
    with whole(path) as temporary:
        if path.suffix == ".parquet":
            frame.write_parquet(temporary)
        elif path.suffix == ".csv":
            nested = [name for name, dtype in frame.schema.items() if dtype.is_nested()]
            texts = frame.with_columns(pl.col(pl.String).str.replace(_FORMULA, "'${1}"))
            texts = texts.with_columns(_as_json_text(frame[name]) for name in nested)
            texts.rename(escaped).write_csv(temporary)
        else:
            frame.write_ndjson(temporary)


def _as_json_text(values: pl.Series) -> pl.Series:
    rows = values.to_list()
    texts = [
        None if row is None else json.dumps(row, ensure_ascii=False, default=str) for row in rows
    ]
    return pl.Series(values.name, texts, pl.String)


def as_json(frame: pl.DataFrame) -> list[dict[str, object]]:
    """Return the rows as JSON objects."""
    return json.loads(json.dumps(frame.to_dicts(), default=str))
