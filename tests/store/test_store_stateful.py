"""A store that is randomly written, killed, damaged, compacted and read, compared with a model of plain dictionaries.

    pytest tests/store/test_store_stateful.py                       a short run
    STATEFUL_SECONDS=600 pytest tests/store/test_store_stateful.py -s   ten minutes, with counts at the end;
        with -o addopts=--import-mode=importlib twice as many steps, since shapes are not checked at every call

Guarantees
- after any sequence of writes, kills, compactions, requantisations and drops, reads give the model's values
- after a bit flip anywhere every read gives the model's values or raises StepDiffError, and verify finds it
- once the flip is undone, or the rows are computed again, every read gives the model's values
"""

import copy
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from common.errors import StepDiffError
from store import Store
from store.verbs.verify import verify

from .store_checks import COUNTS, Checks
from .store_model import MAIN, OK, ModelStore, ModelView
from .store_writers import CRASHED, SHAPES, Writers, perform

SECONDS = float(os.environ.get("STATEFUL_SECONDS", "0"))
DTYPES = ("float16", "float32", "int8")
VIEWS = ("a", "b")
WAYS = st.sampled_from(["here", "here", "child", "kill", "crash"])


class Machine(RuleBasedStateMachine, Checks):
    """One store and its model."""

    writers: Writers

    @initialize(dtype=st.sampled_from(DTYPES))
    def begin(self, dtype: str) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="stateful"))
        self.path = self.root / "store"
        self.store = Store.open(self.path, create=True)
        self.model = ModelStore()
        self.flips: dict[Path, tuple[int, int, int]] = {}  # file -> inode, offset, original byte
        self.named = 0
        self.append(6, 0, "here", 1)
        self.create("a", dtype, 4, 0, "here", 1)
        self._write(self._filling("a", self.model.keys[:5], {}), lambda m: m.views["a"].fill(m.keys[:5], {}), "here", 1)

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
        self._write(self._filling(name, good, bad), lambda model: model.views[name].fill(good, bad), way, at)

    def _filling(self, name: str, good: list[str], bad: dict[str, str]) -> dict[str, Any]:
        return {"op": "fill", "view": name, "good": good, "bad": bad, "seed": self.model.views[name].seed}

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
            with pytest.raises(StepDiffError):
                perform(self.store, command)
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

    def _fresh(self) -> Store | None:
        try:
            return Store.open(self.path)
        except StepDiffError:
            assert self.flips, "an undamaged store does not open"
            return None

    def _write(self, command: dict[str, Any], apply: Callable[[ModelStore], Any], way: str, at: int) -> None:
        """Execute a command in the store and in the model; if interrupted, each shard may be old or new."""
        COUNTS["writes"] += 1
        before, after = self.model, copy.deepcopy(self.model)
        apply(after)
        if way == "here" or self.flips:
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
        store = Store.open(self.path)
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
                                of_now[key] = of_old[key]  # type: ignore[index]
                for key in keys:  # the reason of a row that had failed already may be written before its status
                    if key in old.failed and key in now.failed and reasons.get(key) == old.failed[key]:
                        now.failed[key] = old.failed[key]
                    elif key in old.failed and key in now.failed and new and key in new.failed:
                        now.failed[key] = new.failed[key]
            self.model.views[name] = now
        missing = [name for name in before.views if name in after.views and name not in self.model.views]
        assert not missing, f"view {missing} is lost"
        self.check_all(store)

    # -- damage ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.flips) < 2)
    @rule(
        dice=st.lists(
            st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 7)), min_size=3, max_size=6
        ),
        last_stays=st.booleans(),
    )
    def flip(self, dice: list[tuple[int, int, int]], last_stays: bool) -> None:
        """Flip a bit, check and undo it, several times; the last flip may stay."""
        for number, die in enumerate(dice):
            before = dict(self.flips)
            self._flip(*die)
            if number < len(dice) - 1 or not last_stays:
                self._undo(self.flips.keys() - before)

    def _flip(self, which: int, place: int, bit: int) -> None:
        files = [path for path in sorted(self.path.rglob("*")) if path.is_file() and path.stat().st_size]
        files = [path for path in files if path.suffix != ".lock" and path.name != "lock.json"]
        files = [
            path for path in files if ".tmp." not in str(path) and path not in self.flips and self._committed(path)
        ]
        if not files:
            return
        path = files[which % len(files)]
        at = place % path.stat().st_size
        self._put(path, at, (old := path.read_bytes()[at]) ^ 1 << bit)
        self.flips[path] = path.stat().st_ino, at, old
        COUNTS["flips"] += 1
        COUNTS[f"flips in {path.relative_to(self.path).parts[0]}"] += 1
        if store := self._fresh():
            assert verify(store), f"verify misses byte {at} of {path}"
            self.check_all(store)
        if which % 4 == 0:
            self.check_all(self.store)  # this reader has files open

    def _committed(self, path: Path) -> bool:
        """Return whether a reader or verify uses a file; uncommitted files of a killed run are not used."""
        parts = path.relative_to(self.path).parts
        if parts[0] not in ("arrays.zarr", "failures", "shards") or path.name == "zarr.json":
            return len(parts) < 4 or parts[0] == "arrays.zarr" or parts[2] in self.model.views
        name = parts[2]
        if name not in self.model.views or path.name.startswith("merged-"):
            return False
        shard = int(parts[5]) if parts[0] == "arrays.zarr" else int(path.stem)
        status = Store.open(self.path).view("clips", name).shard_status(shard)
        if parts[0] == "arrays.zarr" and parts[3] not in ("status",):
            return bool((status == OK).any())
        return bool(status.any())

    @precondition(lambda self: self.flips)
    @rule(check_first=st.booleans())
    def undo(self, check_first: bool) -> None:
        if check_first:
            self.check_all(self.store)
        self._undo()
        self.check_all(self._fresh() or self.store)

    @precondition(lambda self: any("arrays.zarr" in path.parts and path.name != "zarr.json" for path in self.flips))
    @rule()
    def compute_again(self) -> None:
        """Recompute damaged array data: delete the shard's status and write the rows again."""
        for path in [path for path in self.flips if "arrays.zarr" in path.parts and path.name != "zarr.json"]:
            name, shard = path.relative_to(self.path).parts[2], int(path.relative_to(self.path).parts[5])
            model = self.model.views[name]
            self._undo([other for other in self.flips if other != path])
            store = Store.open(self.path)
            view = store.view("clips", name)
            rows = slice(shard * view.rows_per_shard, (shard + 1) * view.rows_per_shard)
            keys = self.model.keys[rows]
            view.paths.status(shard).unlink()
            good, bad = (
                [key for key in keys if key in model.ok],
                {k: model.failed[k] for k in keys if k in model.failed},
            )
            for key in keys:
                model.ok.pop(key, None), model.failed.pop(key, None)
            if len(model.chain) == 1:
                perform(store, self._filling(name, good, bad))
                model.fill(good, bad)
                COUNTS["computed again"] += 1
            self.flips.clear()
            self.check_all(store)
            return

    def _put(self, path: Path, at: int, byte: int) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes([byte]))

    def _undo(self, paths: Iterable[Path] | None = None) -> None:
        """Undo flips, all by default."""
        self._forget_replaced()
        for path in list(self.flips) if paths is None else [path for path in paths if path in self.flips]:
            _, at, byte = self.flips.pop(path)
            self._put(path, at, byte)

    def _forget_replaced(self) -> None:
        """Forget the flips of files that a write has replaced or removed: later reads must be right."""
        for path, (inode, _, _) in list(self.flips.items()):
            if not path.exists() or path.stat().st_ino != inode:
                del self.flips[path]

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
                with pytest.raises(
                    StepDiffError, match=r" is (absent|failed) in view |damaged|not as it was|cannot be"
                ):
                    view.read(MAIN, rows)
                COUNTS["reads of rows that are not there"] += 1

    def teardown(self) -> None:
        if not hasattr(self, "root"):
            return
        try:
            self._undo()
            self.check_all(Store.open(self.path))
        finally:
            shutil.rmtree(self.root)


@pytest.fixture
def writers() -> Iterator[Writers]:
    writers = Writers()
    yield writers
    writers.end()


@pytest.mark.timeout(300 + 2 * SECONDS)
def test_any_history_of_a_store_gives_the_reads_of_the_model(writers: Writers) -> None:
    Machine.writers = writers
    quick = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    common: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": quick}
    begin = time.monotonic()
    if not SECONDS:
        short = settings(max_examples=3, stateful_step_count=15, derandomize=True, phases=[Phase.generate], **common)
        run_state_machine_as_test(Machine, settings=short)
    while time.monotonic() - begin < SECONDS:
        long = settings(max_examples=2, stateful_step_count=50, phases=[Phase.generate], **common)
        run_state_machine_as_test(Machine, settings=long)
        COUNTS["histories"] += 2
    print(
        f"\n{time.monotonic() - begin:.0f} s:", ", ".join(f"{count:,} {what}" for what, count in sorted(COUNTS.items()))
    )
