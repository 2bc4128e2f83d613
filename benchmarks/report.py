"""What every benchmark prints: a table for people, then one JSON line for programs."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]


def report(name: str, rows: Sequence[Row], lines: Sequence[Row] = (), **facts: Any) -> None:
    """Print `rows` as a table, `lines` (see `line`) as another, `facts`, and all of it as one JSON line.

    A line that is missed is printed as LOST. A fact that is a list of rows is a table too.
    """
    console = Console(width=140)
    _print_table(console, name, rows)
    _print_table(console, "lines", [{**line, "met": "met" if line["met"] else "LOST"} for line in lines])
    for fact, value in facts.items():
        if isinstance(value, list):
            _print_table(console, fact, value)
        else:
            console.print(f"{fact}: {value}")
    machine = {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }
    print(json.dumps({"benchmark": name, "rows": list(rows), "lines": list(lines), **facts, **machine}))


def line(case: str, figure: float, over: float, least: float, beside: str) -> Row:
    """Return whether `figure` is at least `least` times `over`, which is the figure of the peer `beside`."""
    ratio = round(figure / over, 3)
    return {"case": case, "line": f">= {least} of {beside}", "ratio": ratio, "met": ratio >= least}


def _print_table(console: Console, title: str, rows: Sequence[Row]) -> None:
    if not rows:
        return
    table = Table(title=title, box=box.SIMPLE, title_justify="left")
    for column, value in rows[0].items():
        table.add_column(column, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(
            *(f"{value:,.1f}" if isinstance(value, float) and value > 10 else str(value) for value in row.values())
        )
    console.print(table)
