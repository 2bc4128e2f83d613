"""The shipped state machine on stores in a folder and in memory, and readers with faults, which it finds.

pytest tests/store/test_store_stateful.py                       a short run
STATEFUL_SECONDS=600 pytest tests/store/test_store_stateful.py -s   ten minutes, with counts at the end;
    with -o addopts=--import-mode=importlib twice as many steps, since shapes are not checked at every call
"""

import os
import time
import uuid
from typing import Any

import numpy as np
import pytest

from store import View
from tests.store.machine.checks import COUNTS
from tests.store.machine.machine import StoreMachine, run_machine

SECONDS = float(os.environ.get("STATEFUL_SECONDS", "0"))


@pytest.mark.timeout(300 + 2 * SECONDS)
def test_any_history_of_a_store_gives_the_reads_of_the_model() -> None:
    begin = time.monotonic()
    if not SECONDS:
        run_machine()
    while time.monotonic() - begin < SECONDS:
        run_machine(examples=2, steps=50, repeatable=False)
        COUNTS["histories"] += 2
    print(
        f"\n{time.monotonic() - begin:.0f} s:", ", ".join(f"{count:,} {what}" for what, count in sorted(COUNTS.items()))
    )


class InMemory(StoreMachine):
    """Stores of an object store in the memory of this process."""

    ways = ("here",)

    def location(self) -> str:
        return f"memory://{uuid.uuid4().hex}/features"


def test_a_store_in_an_object_store_gives_the_reads_of_the_model() -> None:
    before = COUNTS["arrays compared"]
    run_machine(InMemory, examples=2)
    assert COUNTS["arrays compared"] > before


class OffByOne(InMemory):
    """A reader that returns the first row for every row."""

    def read(self, view: View, feature: str, rows: np.ndarray) -> Any:
        return view.read(feature, np.zeros_like(rows))


class Casting(InMemory):
    """A reader that returns another dtype."""

    def read(self, view: View, feature: str, rows: np.ndarray) -> Any:
        return view.read(feature, rows).astype(np.float64)


@pytest.mark.parametrize("machine", [OffByOne, Casting])
def test_a_reader_that_returns_other_values_is_found(
    machine: type[StoreMachine], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AssertionError):
        run_machine(machine)
