"""A store that is randomly written, requantised, tagged, withdrawn, compacted and read, compared
with a plain model.

pytest tests/store/test_store_stateful.py                       a short run
STATEFUL_SECONDS=600 pytest tests/store/test_store_stateful.py      ten minutes;
    with -o addopts=--import-mode=importlib twice as many steps, since shapes are not checked

After any sequence of writes, in this process or in another, every read gives the model's values,
and every read of a snapshot those that the model had then. Kills are tested in test_store_killed,
damage in test_store_damage.
"""

import copy
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from stepdiff_core.errors import StepDiffError
from store import Store, View
from store.batches import Batches
from store.snapshots.snapshot import delete_snapshot
from store.verbs.verify import verify
from tests.store.forks import Forks
from tests.store.store_model import (
    MAIN,
    SHAPES,
    ModelStore,
    ModelView,
    filling,
    perform,
    perform_in,
)

DTYPES = ("float16", "float32", "int8")
VIEWS = ("a", "b")
WAYS = st.sampled_from(["here", "here", "child"])
"""how a write is done: by the open store, or in a process of its own"""


class StoreMachine(RuleBasedStateMachine):
    """One store, its model, and a copy of the model for each snapshot."""

    remote: ClassVar[bool] = False
    writers: ClassVar[Forks | None] = None

    @initialize(dtype=st.sampled_from(DTYPES))
    def begin(self, dtype: str) -> None:
        self.path = (
            f"memory://{uuid.uuid4().hex}/s"
            if self.remote
            else tempfile.mkdtemp(prefix="store-machine") + "/s"
        )
        self.store, self.model, self.named = Store.open(self.path, create=True), ModelStore(), 0
        self.snapshots, self.tags = dict[str, ModelStore](), 0
        self.append(6, 0, "here")
        self.create("a", dtype, 4, 0, "here")
        keys = self.model.keys[:5]
        self._write(
            filling("a", 0, keys, {}), lambda model: model.views["a"].fill(keys, {}), "here"
        )

    # -- writing

    @rule(count=st.integers(1, 6), again=st.integers(0, 2), way=WAYS)
    def append(self, count: int, again: int, way: str) -> None:
        keys = self.model.keys[:again] + [f"clip_{self.named + n}_ü" for n in range(count)]
        self.named += count
        self._write({"op": "append", "keys": keys}, lambda model: model.append(keys), way)

    @rule(
        name=st.sampled_from(VIEWS),
        dtype=st.sampled_from(DTYPES),
        shard=st.sampled_from([1, 2, 4]),
        seed=st.integers(0, 1),
        way=WAYS,
    )
    def create(self, name: str, dtype: str, shard: int, seed: int, way: str) -> None:
        if name in self.model.views:
            return
        command = {"op": "create", "view": name, "dtype": dtype, "shard": shard, "seed": seed}
        view = ModelView(SHAPES, (dtype,), shard, seed)
        self._write(command, lambda model: model.views.setdefault(name, view), way)

    @precondition(lambda self: self.model.views and self.model.keys)
    @rule(data=st.data(), number=st.integers(1, 120), way=WAYS)
    def fill(self, data: st.DataObject, number: int, way: str) -> None:
        name = data.draw(
            st.sampled_from(
                sorted(n for n, v in self.model.views.items() if len(v.chain) == 1) or [""]
            )
        )
        if not name:
            return
        chosen = data.draw(
            st.lists(st.sampled_from(self.model.keys), min_size=1, max_size=8, unique=True)
        )
        fates = data.draw(st.lists(st.integers(0, 9), min_size=len(chosen), max_size=len(chosen)))
        why = {0: f"{MAIN} holds NaN", 1: f"{MAIN} holds infinity", 2: f"no video {number}"}
        bad = {key: why[fate] for key, fate in zip(chosen, fates, strict=True) if fate in why}
        good = [key for key in chosen if key not in bad]
        command = filling(name, self.model.views[name].seed, good, bad)
        self._write(command, lambda model: model.views[name].fill(good, bad), way)

    @precondition(lambda self: self.model.views)
    @rule(data=st.data(), dtype=st.sampled_from(DTYPES), way=WAYS)
    def requantise(self, data: st.DataObject, dtype: str, way: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.views)))
        source, to = self.model.views[name], f"{name}-{dtype}"
        chain = (*source.chain, dtype)
        there = self.model.views.get(to)
        if len(chain) > 3:
            return
        command = {"op": "requantise", "view": name, "to": to, "dtype": dtype}
        if dtype == source.chain[-1] or (
            there and (there.chain, there.seed) != (chain, source.seed)
        ):
            with pytest.raises(StepDiffError):
                perform(self.store, command)
            return

        def apply(model: ModelStore) -> None:
            derived = model.views.setdefault(to, ModelView(SHAPES, chain, None, source.seed))
            derived.take_over(model.views[name])

        self._write(command, apply, way)

    @precondition(lambda self: len(self.model.views) > 1)
    @rule(data=st.data(), way=WAYS)
    def drop(self, data: st.DataObject, way: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.views)))
        if any(name in model.views for model in self.snapshots.values()):
            with pytest.raises(StepDiffError, match="delete that first"):
                perform(self.store, {"op": "drop", "view": name})
            return
        self._write({"op": "drop", "view": name}, lambda model: model.views.pop(name), way)

    @precondition(lambda self: self.model.views and self.model.keys)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.views)))
        rows = data.draw(st.lists(st.integers(0, len(self.model.keys) - 1), min_size=1, max_size=6))
        with self.store.lock():
            self.store.view("clips", name).withdraw(np.array(rows))
        for key in (self.model.keys[row] for row in rows):
            self.model.views[name].ok.pop(key, None), self.model.views[name].failed.pop(key, None)

    @rule()
    def tag(self) -> None:
        self.tags += 1  # the name of a deleted snapshot is not given again
        self.store.tag(f"t{self.tags}")
        self.snapshots[f"t{self.tags}"] = copy.deepcopy(self.model)

    @precondition(lambda self: len(self.snapshots) > 1)
    @rule()
    def delete_snapshot(self) -> None:
        name = next(iter(self.snapshots))
        del self.snapshots[name]
        delete_snapshot(self.store.path, name)
        with pytest.raises(StepDiffError, match="no snapshot"):
            Store.open(self.path, at=name)

    @rule(way=WAYS)
    def compact(self, way: str) -> None:
        self._write({"op": "compact"}, lambda model: None, way)

    def _write(self, command: dict[str, Any], apply: Callable[[ModelStore], Any], way: str) -> None:
        """Execute a command in the store and in the model."""
        model = copy.deepcopy(self.model)
        apply(model)
        if way == "here" or self.remote:
            perform(self.store, command)
        else:
            StoreMachine.writers = self.writers or Forks(perform_in.__module__)
            assert StoreMachine.writers.run(perform_in, self.path, command) == 0, command
        self.model = model

    # -- reading

    @rule(fresh=st.booleans())
    def read_all(self, fresh: bool) -> None:
        self.store = Store.open(self.path) if fresh else self.store
        self._check_all()

    def _check_all(self) -> None:
        assert verify(Store.open(self.path)) == []
        self._check_store(self.store, self.model)
        for name, model in self.snapshots.items():
            self._check_store(Store.open(f"{self.path}@{name}"), model)

    @precondition(lambda self: self.model.views and self.model.keys)
    @rule(data=st.data())
    def read_some(self, data: st.DataObject) -> None:
        """Read rows in any order, including absent and failed ones."""
        name = data.draw(st.sampled_from(sorted(self.model.views)))
        rows = np.array(
            data.draw(st.lists(st.integers(0, len(self.model.keys) - 1), min_size=1, max_size=6))
        )
        view, model = self.store.view("clips", name), self.model.views[name]
        if all(self.model.keys[row] in model.ok for row in rows):
            self._check_rows(view, model, rows)
        else:
            with pytest.raises(StepDiffError):
                view.read(MAIN, rows)

    def _check_store(self, store: Store, of_store: ModelStore) -> None:
        """Check that every read returns the values of the model."""
        keys, catalog = of_store.keys, store.catalog("clips")
        assert catalog.frame(["key"])["key"].to_list() == keys == catalog.keys(np.arange(len(keys)))
        assert catalog.rows([*keys, "no such clip"]).tolist() == [*range(len(keys)), -1] and len(
            catalog
        ) == len(keys)
        assert store.views("clips") == sorted(of_store.views)
        for name, model in of_store.views.items():
            view = store.view("clips", name)
            assert view.rows_per_shard == (model.rows_per_shard or view.rows_per_shard)
            assert {n: f.dtype for n, f in view.features.items()} == model.dtypes
            assert {n: f.shape for n, f in view.features.items()} == SHAPES
            assert view.status().tolist() == model.status(keys)
            assert view.failures().rows() == [
                (key, model.failed[key]) for key in keys if key in model.failed
            ]
            ok = np.array([row for row, key in enumerate(keys) if key in model.ok], np.int64)
            self._check_rows(view, model, ok)
            seen = []
            for batch in Batches(view, list(SHAPES), batch_size=3, seed=1):
                seen += batch.rows.tolist()
                for feature in SHAPES:
                    self._check(batch.arrays[feature], model, batch.rows, feature)
            assert sorted(seen) == ok.tolist()
            if not self.remote:  # other readers cannot open the memory of this process
                group: Any = zarr.open_group(view.paths.group, mode="r")
                status = group["status"][:].tolist()
                assert status == model.status(keys)[: len(status)]
                for feature in SHAPES:
                    self._check(np.asarray(group[feature][:])[ok], model, ok, feature)

    def _check_rows(self, view: View, model: ModelView, rows: np.ndarray) -> None:
        for name in SHAPES:
            self._check(view.read(name, rows), model, rows, name)
            self._check(view.read(name, rows, dtype="float32"), model, rows, name, "floats")
            if len(rows) and (lying := view.in_place(name, rows)) is not None:
                self._check(lying, model, rows, name)
        if model.chain[-1] == "int8":
            levels, scale = view.read_quantised(MAIN, rows)
            self._check(levels, model, rows, MAIN)
            self._check(scale, model, rows, MAIN, "scale")

    def _check(
        self,
        values: np.ndarray,
        model: ModelView,
        rows: np.ndarray,
        name: str,
        what: str = "stored",
    ) -> None:
        """Compare values of rows with those of the model: as stored, as floats, or the scales."""
        ok = [model.ok[self.model.keys[row]] for row in rows.tolist()]
        expected = [
            row.floats(name) if what == "floats" else getattr(row, what)[name] for row in ok
        ]
        assert len(values) == len(ok)
        if ok:
            assert (
                values.dtype == expected[0].dtype
                and values.tobytes() == np.stack(expected).tobytes()
            ), (name, what)

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        self._check_all()
        if not self.remote:
            shutil.rmtree(Path(self.path).parent)


def run_machine(
    machine: type[StoreMachine], examples: int, steps: int = 15, repeatable: bool = True
) -> None:
    """Run a machine on some stores, each with that many steps at most, the same at every call if
    `repeatable`."""
    quick = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=repeatable,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=quick,
    )
    try:
        run_state_machine_as_test(machine, settings=chosen)
    finally:
        writers, StoreMachine.writers = StoreMachine.writers, None
        if writers is not None:
            writers.end()


class InMemory(StoreMachine):
    """Stores of an object store in the memory of this process."""

    remote = True


pytestmark = pytest.mark.full
SECONDS = float(os.environ.get("STATEFUL_SECONDS", "0"))


@pytest.mark.timeout(300 + 2 * SECONDS)
@pytest.mark.parametrize("machine", [StoreMachine, InMemory])
def test_any_history_of_a_store_gives_the_reads_of_the_model(machine: type[StoreMachine]) -> None:
    begin = time.monotonic()
    if not SECONDS:
        run_machine(machine, examples=3)
    while time.monotonic() - begin < SECONDS:
        run_machine(machine, examples=2, steps=50, repeatable=False)
