"""How long ways to do one thing take, in turns, by the clock and by the processor's time.

Other programs disturb the processor's time less.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

PAUSE = 0.2  # seconds in which threads that still spin after one way give up their core to the next


@dataclass(frozen=True)
class Seconds:
    """Medians over rounds."""

    clock: float
    cpu: float
    """of all threads"""


def measured(
    ways: Mapping[str, Callable[[], object]], rounds: int, what: str = "", warm_up: bool = False
) -> dict[str, Seconds]:
    """Every way `rounds` times, each round beginning with another one.

    warm_up: each once more before, which compiles and counts for nothing.
    """
    names = list(ways)
    for name in names if warm_up else []:
        ways[name]()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(PAUSE)
            clock, cpu = time.perf_counter(), time.process_time()
            ways[name]()
            taken[name].append((time.perf_counter() - clock, time.process_time() - cpu))
            print(f"{what}{name}: {taken[name][-1][0]:.2f} s, {taken[name][-1][1]:.2f} s of CPU", file=sys.stderr)
    return {name: Seconds(median(c for c, _ in times), median(p for _, p in times)) for name, times in taken.items()}
