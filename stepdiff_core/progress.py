"""Progress of long work on standard error: a bar on a terminal, elsewhere a plain line every ten
seconds.

With `--progress json` every line is a JSON object, also on a terminal.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from stepdiff_core.errors import some

LINE_EVERY = 10.0
"""seconds"""
_LINES_OF_NOW = 6
"""lines over which the current rate is the mean: a minute, because shards end at intervals"""
_LOST_SHOWN = 4
_MB = 1_000_000
_Item = TypeVar("_Item")

Advance = Callable[[int], None]
"""receives how many more are done; a negative number if work starts again"""


_as_json = False
_running: "list[Progress]" = []
"""jobs whose progress this process shows, the innermost last"""


def use_json(as_json: bool) -> None:
    """Print every line of progress as a JSON object from now on, or as text."""
    global _as_json
    _as_json = as_json


def say(line: str, **facts: Any) -> None:
    """Print one line for people to standard error; in JSON it is the `message` of an object with
    `facts`."""
    _print(json.dumps({"message": line, **facts}) if _as_json else line)


def _print(line: str) -> None:
    """Print a line and its end in one piece: Ray's thread prints to the same stream."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def lost(kind: Literal["worker", "node"], name: str, line: str) -> None:
    """Say that a worker or a node was lost, and name it in all later lines of progress."""
    for job in _running:
        job.lost.append(f"{kind} {name}")
    say(line, lost=kind, name=name)


def spent(stages: Mapping[str, float]) -> None:
    """Take the seconds that the workers of the running job have spent in each stage so far."""
    if _running:
        _running[-1].stages = {stage: seconds for stage, seconds in stages.items() if seconds > 0}


def timed(
    items: Iterable[_Item], stages: dict[str, float], stage: str, within: Collection[str] = ()
) -> Iterator[_Item]:
    """Yield the items; add the seconds spent waiting for them to `stage`, without the seconds of
    stages `within`."""
    stages.setdefault(stage, 0.0)
    iterator = iter(items)
    while True:
        begin = time.monotonic() - sum(stages.get(other, 0.0) for other in within)
        try:
            item = next(iterator)
        except StopIteration:
            return
        finally:
            stages[stage] += (
                time.monotonic() - sum(stages.get(other, 0.0) for other in within) - begin
            )
        yield item


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """Yield `show(what)`, for stages of unknown length: a line each, which replaces the one before
    on a terminal."""
    if _as_json or not sys.stderr.isatty():
        yield say
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("") as status:
        yield lambda what: status.update(escape(what))


class Progress:
    """How far a job is: call it with how many more are done."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        """Take the arguments of `progress`."""
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.stages: dict[str, float] = {}
        """seconds of all workers in each stage"""
        self.lost: list[str] = []
        """names of workers and nodes"""
        self.update: Callable[[], None] = lambda: None
        """redraws the bar of a terminal; without one, lines are printed"""
        self._now = time.monotonic()
        self._start = self._now
        self._looks = deque([(self._now, 0)], _LINES_OF_NOW)

    def __call__(self, count: int) -> None:
        self.done += count
        self._now = time.monotonic()
        self.update()
        if self._now - self._looks[-1][0] >= LINE_EVERY:
            self.line()
            self._looks.append((self._now, self.done))

    def facts(self) -> dict[str, Any]:
        """Return the figures of a line."""
        seconds, (begin, before) = self._now - self._start, self._looks[0]
        rate = self.done / seconds if seconds else 0.0
        total = sum(self.stages.values())
        slowest_first = sorted(self.stages, key=lambda stage: -self.stages[stage])
        shares = {stage: round(self.stages[stage] / total, 3) for stage in slowest_first}
        return {
            "job": self.what,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "seconds": round(seconds, 1),
            "per_second_now": round(max(self.done - before, 0) / (self._now - begin), 3)
            if self._now > begin
            else rate,
            "per_second": round(rate, 3),
            "hours_left": round((self.total - self.done) / rate / 3600, 6) if rate else None,
            "stages": shares,
            "slowest": next(iter(shares), None),
            "lost": self.lost,
        }

    def line(self) -> None:
        """Print the progress of the job; on a terminal the bar shows it."""
        facts = self.facts()
        if _as_json:
            _print(json.dumps(facts))
        elif not sys.stderr.isatty():
            hours = facts["hours_left"]
            now, mean = (_rate(facts[name], self.unit) for name in ("per_second_now", "per_second"))
            time_left = f"{_time(hours)} left" if hours is not None else "time left unknown"
            shares = ", ".join(
                f"{stage} {100 * share:.0f} %" for stage, share in facts["stages"].items()
            )
            rates = f"{now} now, {mean} on average" if facts["per_second"] else ""
            parts = [rates, time_left, shares and f"workers' time: {shares}"]
            parts += [f"lost: {some(self.lost, _LOST_SHOWN)}"] if self.lost else []
            say(f"{self.what}: {self.count()}, {'; '.join(filter(None, parts))}")

    def count(self) -> str:
        """Return the done count and the total, in words."""
        if self.unit == "bytes":
            return f"{self.done / _MB:,.0f} of {self.total / _MB:,.0f} MB"
        return f"{self.done:,} of {self.total:,}{self.unit and ' '}{self.unit}"


def _rate(rate: float, unit: str) -> str:
    if unit == "bytes":
        return f"{rate / _MB:,.1f} MB/s"
    return f"{rate:,.1f}/s" if rate >= 0.1 else f"{60 * rate:,.1f} a minute"


def _time(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{hours * 3600:,.0f} s"


@contextmanager
def progress(what: str, total: int, unit: str = "") -> Iterator[Progress]:
    """Yield `advance(count)`; show `what`, the count out of `total`, the rate and the time left.

    unit: of the count, e.g. clips; `bytes` are shown in MB.
    """
    job = Progress(what, total, unit)
    _running.append(job)
    try:
        if _as_json or not sys.stderr.isatty():
            yield job
            if _as_json:
                job.line()
            return
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        words = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"))
        with Bars(*words, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
            task = bars.add_task(what, total=total, words=job.count())

            def update() -> None:
                slowest = max(job.stages, key=job.stages.__getitem__, default=None)
                # bars know none of one step, or of slow ones
                rate = bars.tasks[0].speed or job.facts()["per_second"]
                words = (
                    f"{job.count()}, {_rate(rate, unit)}{slowest and f', slowest: {slowest}' or ''}"
                )
                bars.update(task, completed=job.done, words=words)

            job.update = update
            yield job
    finally:
        _running.remove(job)
