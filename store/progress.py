"""Progress of long work on stderr: a live bar on a terminal, a plain line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LINE_EVERY = 10.0
"""seconds"""

Advance = Callable[[int], None]
"""is told how many more are done"""


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Yields `advance(count)`; shows `what`, the count out of `total`, the rate and the time left."""
    if not sys.stderr.isatty():
        yield _lines(what, total)
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def _lines(what: str, total: int) -> Advance:
    start = spoke = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, spoke
        done += count
        now = time.monotonic()
        if now - spoke < _LINE_EVERY or not done:
            return
        spoke = now
        rate = done / (now - start)
        left = (total - done) / rate
        print(f"{what}: {done:,} of {total:,}, {rate:,.1f}/s, {left:,.0f} s left", file=sys.stderr, flush=True)

    return advance
