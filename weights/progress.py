"""How far a download is: a bar on a terminal, a plain line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LINE_EVERY = 10.0  # seconds
_MB = 1_000_000


@contextmanager
def bytes_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told the bytes done so far; writes to standard error."""
    if sys.stderr.isatty():
        yield from _bar(what, total)
    else:
        yield from _lines(what, total)


def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def _lines(what: str, total: int) -> Iterator[Callable[[int], None]]:
    begin = time.monotonic()
    spoke = begin

    def update(done: int) -> None:
        nonlocal spoke
        now = time.monotonic()
        if now - spoke < _LINE_EVERY:
            return
        spoke = now
        rate = done / (now - begin)
        left = f"{(total - done) / rate:.0f} s left" if rate else "time left unknown"
        print(
            f"{what}: {done / _MB:.0f} of {total / _MB:.0f} MB, {rate / _MB:.1f} MB/s, {left}",
            file=sys.stderr,
        )

    print(f"{what}: {total / _MB:.0f} MB", file=sys.stderr)
    yield update
