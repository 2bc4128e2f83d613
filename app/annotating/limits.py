"""How many requests a person and an address may send: a bucket that is filled at a constant rate.

Guarantees
- a limit passes at most its burst and rate: over any time t a key passes `burst + rate * t` requests
- the keys of a limit are bounded, however many addresses send requests: the one that was used longest ago goes first
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_KEYS = 10_000


class Limit:
    """One limit, of many keys."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Pass `rate` requests a second on average, and `burst` at once."""
        self._rate, self._burst, self._clock = rate, burst, clock
        self._lock = threading.Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> requests left, and when

    def take(self, key: str) -> int:
        """Take one request; return 0, or after how many seconds there is one again."""
        now = self._clock()
        with self._lock:
            left, at = self._left.pop(key, (self._burst, now))
            left = min(self._burst, left + (now - at) * self._rate)
            passed = left >= 1
            self._left[key] = (left - 1 if passed else left, now)
            while len(self._left) > _KEYS:
                self._left.popitem(last=False)
        return 0 if passed else math.ceil((1 - left) / self._rate)
