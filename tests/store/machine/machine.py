"""A store that is randomly written, killed, damaged, repaired, compacted and read, compared with a plain model.

A subclass says where stores are made (`location`), how they are opened (`open`: a `Store`, or an object with its
methods) and how rows are read (`read`). Everything else is compared with the model of `tests.store.machine.model`.

Guarantees
- after any sequence of writes, kills, compactions, requantisations and drops, reads give the model's values
- after a bit flip anywhere every read gives the model's values or raises StepDiffError, and verify finds it
- once the flip is undone, or the rows are computed again, every read gives the model's values
- a reader that returns other values is found
"""

import copy
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from common.errors import StepDiffError
from common.io.files import Place, place
from store import Store
from store.verbs.verify import verify
from tests.store.machine.checks import COUNTS
from tests.store.machine.flips import Flips
from tests.store.machine.model import MAIN, SHAPES, ModelStore, ModelView
from tests.store.machine.writers import CRASHED, Writers, filling, perform

DTYPES = ("float16", "float32", "int8")
VIEWS = ("a", "b")
WAYS = st.sampled_from(["here", "here", "child", "kill", "crash"])


class StoreMachine(RuleBasedStateMachine, Flips):
    """One store and its model. Override `location`, `open`, `read` and `remove`."""

    ways: ClassVar[tuple[str, ...]] = ("here", "child", "kill", "crash")
    """how writes are done: in this process, in a child, in one that is killed at some time, or before some file
    operation. A child sees no memory of this process: of `memory://` and of stores with a writer of their own use
    ("here",)"""
    writers: ClassVar[Writers | None] = None

    def location(self) -> str | Path:
        """Return a place, a folder or a URL, where no store is yet."""
        return Path(tempfile.mkdtemp(prefix="store-machine")) / "store"

    def open(self, path: Place) -> Any:
        """Open the store in `path`, which is made if it does not exist."""
        return Store.open(path, create=True)

    def remove(self, path: Place) -> None:
        """Delete the store in `path`, at the end of an example."""
        if isinstance(path, Path):
            shutil.rmtree(path.parent if path.parent.name.startswith("store-machine") else path)
        else:
            path.remove()

    @initialize(dtype=st.sampled_from(DTYPES))
    def begin(self, dtype: str) -> None:
        self.path = place(self.location())
        self.store = self.open(self.path)
        self.model = ModelStore()
        self.flips: dict[Any, tuple[int, int, int]] = {}  # file -> inode, offset, original byte
        self.named = 0
        self.append(6, 0, "here", 1)
        self.create("a", dtype, 4, 0, "here", 1)
        self._write(filling("a", 0, self.model.keys[:5], {}), lambda m: m.views["a"].fill(m.keys[:5], {}), "here", 1)

    # -- writing ---------------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 6), again=st.integers(0, 2), way=WAYS, at=st.integers(1, 12))
    def append(self, count: int, again: int, way: str, at: int) -> None:
        keys = self.model.keys[:again] + [f"clip_{self.named + n}_ü" for n in range(count)]
        self.named += count
        self._write({"op": "append", "keys": keys}, lambda model: model.append(keys), way, at)

    @rule(
        name=st.sampled_from(VIEWS), dtype=st.sampled_from(DTYPES), shard=st.sampled_from([1, 2, 4]),
        seed=st.integers(0, 1), way=WAYS, at=st.integers(1, 40),
    )  # fmt: skip
    def create(self, name: str, dtype: str, shard: int, seed: int, way: str, at: int) -> None:
        if name in self.model.views:
            return
        command = {"op": "create", "view": name, "dtype": dtype, "shard": shard, "seed": seed}
        made = ModelView(SHAPES, (dtype,), shard, seed)
        self._write(command, lambda model: model.views.setdefault(name, copy.deepcopy(made)), way, at)

    @precondition(lambda self: self.model.views and self.model.keys)
    @rule(data=st.data(), way=WAYS, at=st.integers(1, 120))
    def fill(self, data: st.DataObject, way: str, at: int) -> None:
        name = data.draw(st.sampled_from(sorted(n for n, v in self.model.views.items() if len(v.chain) == 1) or [""]))
        if not name:
            return
        chosen = data.draw(st.lists(st.sampled_from(self.model.keys), min_size=1, max_size=8, unique=True))
        fates = data.draw(st.lists(st.integers(0, 9), min_size=len(chosen), max_size=len(chosen)))
        why = {0: f"{MAIN} holds NaN", 1: f"{MAIN} holds infinity", 2: f"no video {at}"}
        bad = {key: why[fate] for key, fate in zip(chosen, fates, strict=True) if fate in why}
        good = [key for key in chosen if key not in bad]
        self._write(
            filling(name, self.model.views[name].seed, good, bad),
            lambda model: model.views[name].fill(good, bad),
            way,
            at,
        )

    @precondition(lambda self: self.model.views)
    @rule(data=st.data(), dtype=st.sampled_from(DTYPES), way=WAYS, at=st.integers(1, 160))
    def requantise(self, data: st.DataObject, dtype: str, way: str, at: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.views)))
        source, to = self.model.views[name], f"{name}-{dtype}"
        chain = (*source.chain, dtype)
        there = self.model.views.get(to)
        if len(chain) > 3:
            return
        command = {"op": "requantise", "view": name, "to": to, "dtype": dtype}
        if dtype == source.chain[-1] or (there and (there.chain, there.seed) != (chain, source.seed)):
            self._refused(lambda: perform(self.store, command))
            return

        def apply(model: ModelStore) -> None:
            made = model.views.setdefault(to, ModelView(SHAPES, chain, None, source.seed))
            made.take_over(model.views[name])

        self._write(command, apply, way, at)

    @precondition(lambda self: len(self.model.views) > 1)
    @rule(data=st.data(), way=WAYS, at=st.integers(1, 30))
    def drop(self, data: st.DataObject, way: str, at: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.views)))
        self._write({"op": "drop", "view": name}, lambda model: model.views.pop(name), way, at)

    @rule(way=WAYS, at=st.integers(1, 60))
    def compact(self, way: str, at: int) -> None:
        self._write({"op": "compact"}, lambda model: None, way, at)

    @rule()
    def reopen(self) -> None:
        self.store = self._fresh() or self.store

    def _fresh(self) -> Any:
        try:
            return self.open(self.path)
        except StepDiffError:
            assert self.flips, "an undamaged store does not open"
            return None

    def _write(self, command: dict[str, Any], apply: Callable[[ModelStore], Any], way: str, at: int) -> None:
        """Execute a command in the store and in the model; if interrupted, each shard may be old or new."""
        COUNTS["writes"] += 1
        before, after = self.model, copy.deepcopy(self.model)
        apply(after)
        if way == "here" or way not in self.ways or self.flips:
            try:
                perform(self.store, command)
            except StepDiffError as error:
                assert self.flips, f"{command} in an undamaged store: {error}"
                COUNTS["writes refused, damage"] += 1
                self._undo()
                self._settle(before, after)
            else:
                self.model = after
                self._forget_replaced()
            return
        asked = {**command, "path": str(self.path), "crash_at": at if way == "crash" else None}
        if type(self).writers is None:
            StoreMachine.writers = Writers()
        assert self.writers is not None
        ended = self.writers.run(asked, random.uniform(0, 0.001 * at) if way == "kill" else None)
        assert ended in (0, -9, CRASHED), f"{command}: exit status {ended}"
        COUNTS["kills"] += ended == -9
        COUNTS["crashes"] += ended == CRASHED
        self.model = after
        if ended:
            self._settle(before, after)
            assert verify(Store.open(self.path)) == [], command

    def _settle(self, before: ModelStore, after: ModelStore) -> None:
        """Find the committed parts of an interrupted write."""
        store = self.open(self.path)
        count = len(store.catalog("clips"))
        assert count in (len(before.keys), len(after.keys)), "an append is atomic"
        self.model = ModelStore(after.keys[:count] if count == len(after.keys) else before.keys)
        for name in store.views("clips"):
            old, new = before.views.get(name), after.views.get(name)
            assert old or new, f"view {name} appeared"
            view = store.view("clips", name)
            now = copy.deepcopy(new or old)
            assert now is not None
            old = old or ModelView(now.shapes, now.chain, now.rows_per_shard, now.seed)
            status = view.status().tolist()
            reasons = dict(view.failures().rows())
            for first in range(0, len(self.model.keys), view.rows_per_shard):
                keys = self.model.keys[first : first + view.rows_per_shard]
                if status[first : first + len(keys)] != now.status(keys):
                    for key in keys:
                        for of_now, of_old in ((now.ok, old.ok), (now.failed, old.failed)):
                            of_now.pop(key, None)  # type: ignore[attr-defined]
                            if key in of_old:
                                of_now[key] = of_old[key]  # type: ignore[index, assignment]
                for key in keys:  # the reason of a row that had failed already may be written before its status
                    if key in old.failed and key in now.failed and reasons.get(key) == old.failed[key]:
                        now.failed[key] = old.failed[key]
                    elif key in old.failed and key in now.failed and new and key in new.failed:
                        now.failed[key] = new.failed[key]
            self.model.views[name] = now
        missing = [name for name in before.views if name in after.views and name not in self.model.views]
        assert not missing, f"view {missing} is lost"
        self.check_all(store)

    # -- reading ---------------------------------------------------------------------------------------------------

    @rule(fresh=st.booleans())
    def read_all(self, fresh: bool) -> None:
        if store := self._fresh() if fresh else self.store:
            self.check_all(store)

    @precondition(lambda self: self.model.views and self.model.keys)
    @rule(data=st.data())
    def read_some(self, data: st.DataObject) -> None:
        """Read rows in any order, including absent and failed ones."""
        name = data.draw(st.sampled_from(sorted(self.model.views)))
        rows = np.array(data.draw(st.lists(st.integers(0, len(self.model.keys) - 1), min_size=1, max_size=6)))
        keys, model = [self.model.keys[row] for row in rows], self.model.views[name]
        with self.damage():
            view = self.store.view("clips", name)
            if all(key in model.ok for key in keys):
                self.check_rows(view, model, rows)
            else:
                self._refused(lambda: view.read(MAIN, rows))
                COUNTS["reads of rows that are not there"] += 1

    def _refused(self, do: Callable[[], Any]) -> None:
        """Check that a call is refused."""
        try:
            do()
        except StepDiffError:
            return
        raise AssertionError("a call that must be refused was not")

    def teardown(self) -> None:
        if not hasattr(self, "path"):
            return
        try:
            self._undo()
            self.check_all(self.open(self.path))
        finally:
            self.remove(self.path)


def run_machine(
    machine: type[StoreMachine] = StoreMachine, examples: int = 3, steps: int = 15, repeatable: bool = True
) -> None:
    """Run a machine. AssertionError, with the steps that led to it: the store and the model differ.

    Args:
        machine: `StoreMachine`, or your subclass of it.
        examples: stores that are made.
        steps: of each store, at most.
        repeatable: take the same steps at every call.
    """
    quick = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    chosen = settings(
        max_examples=examples, stateful_step_count=steps, derandomize=repeatable, phases=[Phase.generate],
        deadline=None, database=None, suppress_health_check=quick,
    )  # fmt: skip
    try:
        run_state_machine_as_test(machine, settings=chosen)
    finally:
        writers, StoreMachine.writers = StoreMachine.writers, None
        if writers is not None:
            writers.end()
