"""The frame of a benchmark: its command line, a stopwatch, tables for people, and one JSON line for programs."""

import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from stepdiff.common.cli.options import parse
from stepdiff.common.threads import cores

Row = Mapping[str, Any]
Ways = Mapping[str, Callable[[], object]]
PAUSE = 0.2  # seconds, in which threads that still spin after one way give up their core to the next


class Main(Protocol):
    def __call__(self, argv: list[str] | None = None) -> int: ...


def benchmark(
    name: str, options: type, description: str | None, run: Callable[[Any], dict[str, Any]], **more: Any
) -> Main:
    """Return the `main` of `python -m benchmarks.NAME`.

    Args:
        run: takes the options and returns the arguments of `report`.
        more: as `stepdiff.common.cli.options.parse` takes it.
    """

    def main(argv: list[str] | None = None) -> int:
        def show(record: dict[str, Any]) -> None:
            report(name, **record)

        return parse(options, argv, f"benchmarks.{name}", description, run, show, **more)

    return main


@dataclass(frozen=True)
class Seconds:
    """Medians over rounds. Other programs disturb the processor's time less than the clock's."""

    clock: float
    cpu: float
    """of all threads"""


def measured(
    ways: Ways, rounds: int, what: str = "", warm_up: bool = False, before: Callable[[str], None] = lambda name: None
) -> dict[str, Seconds]:
    """Run every way `rounds` times, each round beginning with another one.

    Args:
        what: begins the lines on stderr.
        warm_up: run each way once before the first round.
        before: called with a way's name before each run; its time does not count.
    """
    names = list(ways)
    for name in names if warm_up else []:
        before(name)
        ways[name]()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            before(name)
            time.sleep(PAUSE)
            clock, cpu = time.perf_counter(), time.process_time()
            ways[name]()
            taken[name].append((time.perf_counter() - clock, time.process_time() - cpu))
            print(f"{what}{name}: {taken[name][-1][0]:.2f} s, {taken[name][-1][1]:.2f} s of CPU", file=sys.stderr)
    return {name: Seconds(median(c for c, _ in times), median(p for _, p in times)) for name, times in taken.items()}


def line(case: str, figure: float, over: float, least: float, compared: str) -> Row:
    """Return whether `figure` is at least `least` times `over`, the figure of what it is compared with."""
    ratio = round(figure / over, 3)
    return {"case": case, "line": f">= {least} of {compared}", "ratio": ratio, "met": ratio >= least}


def report(name: str, rows: Sequence[Row], lines: Sequence[Row] = (), **facts: Any) -> None:
    """Print `rows` as a table, `lines` as another, `facts`, and all of it as one JSON line.

    A fact that is a list of rows is a table too.
    """
    from rich.console import Console

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
        "cores": cores(),
        "python": platform.python_version(),
    }
    print(json.dumps({"benchmark": name, "rows": list(rows), "lines": list(lines), **facts, **machine}))


def _print_table(console: Any, title: str, rows: Sequence[Row]) -> None:
    from rich import box
    from rich.table import Table

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
