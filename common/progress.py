"""How far a run is, on standard error: a bar on a terminal, a plain line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_EVERY = 10.0
"""seconds"""


Show = Callable[[int], None]
"""is told how many rows are finished"""


@contextmanager
def progress(what: str, unit: str, total: int) -> Iterator[Show]:
    """Shows `what`: count out of total, `unit` a second, time left."""
    if not sys.stderr.isatty():
        yield _lines(what, unit, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn(f"{{task.fields[rate]}} {unit}/s")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, rate="-")

        def show(done: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, rate=f"{speed:.1f}" if speed else "-")

        yield show


def _lines(what: str, unit: str, total: int) -> Show:
    begin = spoke = time.monotonic()

    def show(done: int) -> None:
        nonlocal spoke
        now = time.monotonic()
        if now - spoke < LINE_EVERY:
            return
        spoke = now
        if not done:
            say(f"{what}: none of {total} {unit} yet, {now - begin:.0f} s")
            return
        rate = done / (now - begin)
        left = (total - done) / rate
        say(f"{what}: {done}/{total} {unit}, {rate:.1f} {unit}/s, {left:.0f} s left")

    return show


def say(line: str) -> None:
    """One line for people, on standard error."""
    print(line, file=sys.stderr, flush=True)
