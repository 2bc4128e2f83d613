"""Progress of long work on stderr: count, rate, time left."""

import sys
import time
from types import TracebackType

EVERY = 10.0
"""Seconds between two plain lines."""


class Progress:
    """A bar on a terminal; elsewhere a plain line every ten seconds."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._started = self._told = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and total:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(what, total=total, rate="")

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._done and kind is None:
            self._line()

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        now = time.monotonic()
        if self._bar is not None:
            rate = f"{self._done / max(now - self._started, 1e-9):.2f}/s"
            self._bar.update(self._task, advance=1, rate=rate)
        elif now - self._told >= EVERY:
            self._told = now
            self._line()

    def _line(self) -> None:
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        left = (self._total - self._done) / rate if rate else 0.0
        print(
            f"{self._what}: {self._done}/{self._total}, {rate:.2f}/s, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
