"""Progress of long work on standard error: a bar on a terminal, elsewhere a plain line every ten seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_EVERY = 10.0
"""seconds"""
_MB = 1_000_000

Advance = Callable[[int], None]
"""receives how many more are done"""


def say(line: str) -> None:
    """Print one line for people to standard error."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """Yield `show(what)`, for stages of unknown length: a line each, which replaces the one before on a terminal."""
    if not sys.stderr.isatty():
        yield say
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("") as status:
        yield lambda what: status.update(escape(what))


@contextmanager
def progress(what: str, total: int, unit: str = "") -> Iterator[Advance]:
    """Yield `advance(count)`; show `what`, the count out of `total`, the rate and the time left.

    unit: of the count, e.g. clips; `bytes` are shown in MB.
    """
    if not sys.stderr.isatty():
        yield _lines(what, total, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    fields = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeRemainingColumn())
    with Progress(*fields, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, count=_count(0, total, 0.0, unit))

        def advance(count: int) -> None:
            bar.advance(task, count)
            bar.update(task, count=_count(int(bar.tasks[0].completed), total, bar.tasks[0].speed or 0.0, unit))

        yield advance


def _count(done: int, total: int, rate: float, unit: str) -> str:
    """Return the count, the total and the rate, in words."""
    if unit == "bytes":
        return f"{done / _MB:,.0f} of {total / _MB:,.0f} MB, {rate / _MB:,.1f} MB/s"
    return f"{done:,} of {total:,}{unit and ' '}{unit}, {rate:,.1f}/s"


def _lines(what: str, total: int, unit: str) -> Advance:
    start = shown = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        now = time.monotonic()
        if now - shown < LINE_EVERY:
            return
        shown = now
        rate = done / (now - start)
        left = f"{(total - done) / rate:,.0f} s left" if done else "time left unknown"
        say(f"{what}: {_count(done, total, rate, unit)}, {left}")

    return advance
