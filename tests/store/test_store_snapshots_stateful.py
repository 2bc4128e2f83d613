"""Snapshots of a store that is randomly written, withdrawn, forgotten, updated and compacted, compared with copies.

Every read of a snapshot gives what the store held when it was made, locally and in an object store.
"""

import tempfile
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from stepdiff.common.errors import StepDiffError
from store import Feature, Store
from store.snapshots.snapshot import delete_snapshot
from store.verbs.compact import compact
from store.verbs.options import CompactOptions, ForgetOptions
from store.verbs.removal import forget
from store.verbs.verify import verify
from tests.stores import write_view

FEATURES = {"tokens": Feature((2, 70), "int8"), "embedding": Feature((3,), "float32")}
ROWS = st.lists(st.integers(0, 11), min_size=1, max_size=6, unique=True)


@dataclass
class Copied:
    """Everything that reads of a store return."""

    catalog: pl.DataFrame
    status: np.ndarray
    failures: pl.DataFrame
    values: list[np.ndarray]

    @classmethod
    def of(cls, store: Store) -> "Copied":
        view = store.view("clips", "net", check="always")
        ok = np.flatnonzero(view.status() == 1)
        values = [*view.read_quantised("tokens", ok), view.read("embedding", ok), view.checksums(ok)]
        return cls(store.catalog("clips").frame(), view.status(), view.failures(), values)

    def check(self, other: "Copied") -> None:
        assert self.catalog.equals(other.catalog)
        assert self.status.tolist() == other.status.tolist()
        assert self.failures.equals(other.failures)
        for mine, theirs in zip(self.values, other.values, strict=True):
            assert np.array_equal(mine, theirs)


class Machine(RuleBasedStateMachine):
    """A store, and a copy of it for each snapshot."""

    remote = False

    @initialize()
    def begin(self) -> None:
        self.path = f"memory://{uuid.uuid4().hex}/s" if self.remote else tempfile.mkdtemp(prefix="snapshots") + "/s"
        self.store, self.number, self.tags, self.copies = Store.open(self.path, create=True), 0, 0, dict[str, Copied]()
        clips = pl.DataFrame({"key": [f"c{row}" for row in range(5)], "step": ["a"] * 5})
        write_view(self.store, clips, FEATURES, shard=4)

    @rule(rows=ROWS, failed=st.booleans())
    def write(self, rows: list[int], failed: bool) -> None:
        keys = [f"c{row}" for row in rows if f"c{row}" not in set(self.store.forgotten("clips")["key"])]
        reasons = {keys.pop(): f"why {self.number}"} if failed and keys else {}
        frame = pl.DataFrame({"key": keys, "step": ["new"] * len(keys)}, {"key": pl.String, "step": pl.String})
        self.number += 1
        rng = np.random.default_rng(self.number)
        values = {name: rng.normal(size=(len(keys), *form.shape)).astype("f4") for name, form in FEATURES.items()}
        write_view(self.store, frame, FEATURES, values, reasons)

    @rule(rows=ROWS, step=st.sampled_from(["a", "b", "c"]))
    def update(self, rows: list[int], step: str) -> None:
        frame = pl.DataFrame({"key": [f"c{row}" for row in rows], "step": [step] * len(rows)})
        with self.store.lock():
            self.store.view("clips", "net").withdraw(self.store.catalog("clips").rows(frame["key"]))
            self.store.catalog("clips").update(frame)

    @rule(row=st.integers(0, 11), undo=st.booleans())
    def forget(self, row: int, undo: bool) -> None:
        if self.store.catalog("clips").rows([f"c{row}"])[0] >= 0:
            forget(ForgetOptions(self.path, (f"c{row}",), "asked", undo=undo))

    @rule()
    def compact(self) -> None:
        compact(CompactOptions(self.path))

    @rule()
    def tag(self) -> None:
        self.tags += 1  # the name of a deleted snapshot is not given again
        name = f"t{self.tags}"
        self.store.tag(name)
        self.copies[name] = Copied.of(self.store)

    @precondition(lambda self: len(self.copies) > 1)
    @rule()
    def delete(self) -> None:
        name = next(iter(self.copies))
        del self.copies[name]
        delete_snapshot(self.store.path, name)
        with pytest.raises(StepDiffError, match="no snapshot"):
            Store.open(self.path, at=name)

    @rule()
    def check(self) -> None:
        for name, copied in self.copies.items():
            copied.check(Copied.of(Store.open(f"{self.path}@{name}")))
        assert verify(self.store) == []
        if not self.remote:
            Copied.of(self.store).check(Copied.of(Store.open(self.path)))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.check()


@pytest.mark.full
@pytest.mark.parametrize("remote", [False, True])
def test_every_read_of_a_snapshot_gives_what_the_store_held_then(remote: bool) -> None:
    machine: Any = type("Machine", (Machine,), {"remote": remote})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=8, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
