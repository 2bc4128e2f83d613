"""A store that is randomly written, killed, damaged, repaired, compacted and read, compared with a plain model.

pytest tests/store/test_store_stateful.py                       a short run
STATEFUL_SECONDS=600 pytest tests/store/test_store_stateful.py      ten minutes;
    with -o addopts=--import-mode=importlib twice as many steps, since shapes are not checked at every call

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
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from zarr.storage import ObjectStore

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import Place, place
from stepdiff.common.io.remote import objects
from store import Store, View
from store.batches import Batches
from store.io.records import ABSENT
from store.verbs.verify import verify
from tests.store import forks
from tests.store.forks import Forks
from tests.store.store_model import (
    MAIN,
    OK,
    SHAPES,
    ModelStore,
    ModelView,
    filling,
    perform,
    perform_in,
)  # fmt: skip


class Checks:
    """Comparison of reads with the model, for a store that may be damaged."""

    model: ModelStore
    flips: dict[Any, tuple[int, int, int]]
    """damaged file -> its inode, the place of the flipped bit, and the byte that was there"""

    @contextmanager
    def damage(self) -> Iterator[None]:
        """Accept StepDiffError while a file is damaged, and only then."""
        try:
            yield
        except StepDiffError as error:
            assert "\n" not in str(error)
            if not self.flips:
                raise

    def check_all(self, store: Any) -> None:
        """Check that every read returns the values of the model."""
        keys, catalog = self.model.keys, store.catalog("clips")
        for ask, answer in (
            (lambda: catalog.frame(["key"])["key"].to_list() if keys else [], keys),
            (lambda: catalog.keys(np.arange(len(keys))), keys),
            (lambda: catalog.rows([*keys, "no such clip"]).tolist(), [*range(len(keys)), -1]),
            (lambda: len(catalog), len(keys)),
        ):
            with self.damage():
                assert ask() == answer
        with self.damage():
            assert store.views("clips") == sorted(self.model.views)
        if not self.flips:
            assert verify(Store.open(store.path)) == []
        for name, model in self.model.views.items():
            with self.damage():
                view = store.view("clips", name)
                assert view.rows_per_shard == (model.rows_per_shard or view.rows_per_shard)
                assert {n: f.dtype for n, f in view.features.items()} == model.dtypes
                assert {n: f.shape for n, f in view.features.items()} == SHAPES
                with self.damage():
                    assert view.status().tolist() == model.status(keys)
                with self.damage():
                    assert view.failures().rows() == [(key, model.failed[key]) for key in keys if key in model.failed]
                ok = np.array([row for row, key in enumerate(keys) if key in model.ok], np.int64)
                self.check_rows(view, model, ok)
                for row in ok.tolist() if self.flips else ():
                    self.check_rows(view, model, np.array([row]))
                with self.damage():
                    self._check_batches(view, model)
                if not self.flips:
                    self._check_with_zarr(view, model, ok)

    def check_rows(self, view: View, model: ModelView, rows: np.ndarray) -> None:
        expected = [model.ok[self.model.keys[row]] for row in rows.tolist()]
        for name, shape in SHAPES.items():
            with self.damage():
                stored = view.read(name, rows)
                self._equal(stored, [row.stored[name] for row in expected], shape, f"{name} of {view.name}")
            with self.damage():
                floats = view.read(name, rows, dtype="float32")
                self._equal(floats, [row.floats(name) for row in expected], shape, f"{name} of {view.name}, as floats")
            with self.damage():
                if len(rows) and (lying := view.in_place(name, rows)) is not None:
                    self._equal(lying, [row.stored[name] for row in expected], shape, f"{name} in place")
        if model.chain[-1] == "int8":
            with self.damage():
                levels, scale = view.read_quantised(MAIN, rows)
                self._equal(levels, [row.stored[MAIN] for row in expected], SHAPES[MAIN], "levels")
                self._equal(scale, [row.scale[MAIN] for row in expected], scale.shape[1:], "scales")

    def _equal(self, read: np.ndarray, expected: list[np.ndarray], shape: tuple[int, ...], what: str) -> None:
        assert read.shape == (len(expected), *shape), what
        if expected:
            wanted = np.stack(expected)
            assert read.dtype == wanted.dtype, what
            assert read.tobytes() == wanted.tobytes(), f"{what} is silently wrong, flips {self.flips}"

    def _check_batches(self, view: View, model: ModelView) -> None:
        seen = []
        for batch in Batches(view, list(SHAPES), batch_size=3, seed=1):
            expected = [model.ok[self.model.keys[row]] for row in batch.rows.tolist()]
            seen += batch.rows.tolist()
            for name, shape in SHAPES.items():
                self._equal(batch.arrays[name], [row.stored[name] for row in expected], shape, f"batches of {name}")
        assert sorted(seen) == [row for row, key in enumerate(self.model.keys) if key in model.ok]

    def _check_with_zarr(self, view: View, model: ModelView, ok: np.ndarray) -> None:
        if str(view.paths.store).startswith("memory://"):  # which other readers cannot open
            return
        path = view.paths.group
        source = ObjectStore(objects(str(path)), read_only=True) if path.remote else path
        group: Any = zarr.open_group(source, mode="r")
        status = group["status"][:].tolist()
        assert status == model.status(self.model.keys)[: len(status)]
        for name in SHAPES:
            whole = np.asarray(group[name][:])
            assert whole[ok].tobytes() == view.read(name, ok).tobytes(), f"zarr reads another {name}"


class Flips(Checks):
    """Bits of files flip: of stores in a folder only."""

    path: Place
    store: Any

    open: Callable[[Place], Any]
    _fresh: Callable[[], Any]

    @precondition(lambda self: isinstance(self.path, Path) and len(self.flips) < 2)
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
        assert isinstance(self.path, Path)
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
        if store := self._fresh():
            assert verify(store), f"verify misses byte {at} of {path}"
            self.check_all(store)
        if which % 4 == 0:
            self.check_all(self.store)  # this reader has files open

    def _committed(self, path: Path) -> bool:
        """Return whether a reader or verify uses a file; uncommitted files of a killed run are not used."""
        assert isinstance(self.path, Path)
        parts = path.relative_to(self.path).parts
        if parts[0] not in ("arrays.zarr", "failures", "shards") or path.name == "zarr.json":
            return len(parts) < 4 or parts[0] == "arrays.zarr" or parts[2] in self.model.views
        name = parts[2]
        if name not in self.model.views or path.name.startswith("merged-"):
            return False
        shard = int(parts[5]) if parts[0] == "arrays.zarr" else int(path.stem)
        try:
            status = Store.open(self.path).view("clips", name).shard_status(shard)
        except StepDiffError:  # a bit of it, or of the view's metadata, flipped before
            return False
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
    @rule(by_hand=st.booleans())
    def compute_again(self, by_hand: bool) -> None:
        """Withdraw damaged rows, or delete the status of their shard by hand; then write the rows again."""
        assert isinstance(self.path, Path)
        path = next(path for path in self.flips if "arrays.zarr" in path.parts and path.name != "zarr.json")
        name, shard = path.relative_to(self.path).parts[2], int(path.relative_to(self.path).parts[5])
        model = self.model.views[name]
        self._undo([other for other in self.flips if other != path])
        view = Store.open(self.path).view("clips", name)
        if by_hand:
            view.paths.status(shard).unlink()
            lost = self.model.keys[shard * view.rows_per_shard : (shard + 1) * view.rows_per_shard]
        else:
            lost = self._withdraw(view, model)
        self.flips.clear()
        good, bad = [key for key in lost if key in model.ok], {k: model.failed[k] for k in lost if k in model.failed}
        for key in lost:
            model.ok.pop(key, None), model.failed.pop(key, None)
        if len(model.chain) == 1:
            perform(self.open(self.path), filling(name, model.seed, good, bad))
            model.fill(good, bad)
        self.check_all(self.open(self.path))

    def _withdraw(self, view: View, model: ModelView) -> list[str]:
        """Withdraw the damaged rows of a view and return their keys."""
        with Store.open(self.path).lock():
            verify(Store.open(self.path), withdraw=True)
        rows = zip(self.model.keys, view.status().tolist(), strict=True)
        return [key for key, status in rows if status == ABSENT and (key in model.ok or key in model.failed)]

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


DTYPES = ("float16", "float32", "int8")
VIEWS = ("a", "b")
WAYS = st.sampled_from(["here", "here", "child", "kill", "crash"])


class StoreMachine(RuleBasedStateMachine, Flips):
    """One store and its model."""

    ways: ClassVar[tuple[str, ...]] = ("here", "child", "kill", "crash")
    """how writes are done: in this process, in a child, in one that is killed at some time, or before some file
    operation"""
    writers: ClassVar[Forks | None] = None

    def location(self) -> str | Path:
        """Return a place, a folder or a URL, where no store is yet."""
        return Path(tempfile.mkdtemp(prefix="store-machine")) / "store"

    def open(self, path: Place) -> Any:
        """Open the store in `path`, which is made if it does not exist."""
        return Store.open(path, create=True)

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
        view = ModelView(SHAPES, (dtype,), shard, seed)
        self._write(command, lambda model: model.views.setdefault(name, copy.deepcopy(view)), way, at)

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
            derived = model.views.setdefault(to, ModelView(SHAPES, chain, None, source.seed))
            derived.take_over(model.views[name])

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
        before, after = self.model, copy.deepcopy(self.model)
        apply(after)
        if way == "here" or way not in self.ways or self.flips:
            try:
                perform(self.store, command)
            except StepDiffError as error:
                assert self.flips, f"{command} in an undamaged store: {error}"
                self._undo()
                self._settle(before, after)
            else:
                self.model = after
                self._forget_replaced()
            return
        if type(self).writers is None:
            StoreMachine.writers = Forks(perform_in.__module__)
        assert self.writers is not None
        ended = self.writers.run(
            perform_in, str(self.path), command, kill_at=at if way == "crash" else 0, operations=forks.ALL,
            kill_after=random.uniform(0, 0.001 * at) if way == "kill" else None,
        )  # fmt: skip
        assert ended in (0, -9), f"{command}: exit status {ended}"
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
            shutil.rmtree(self.path.parent) if isinstance(self.path, Path) else self.path.remove()


def run_machine(
    machine: type[StoreMachine] = StoreMachine, examples: int = 3, steps: int = 15, repeatable: bool = True
) -> None:
    """Run a machine on some stores, each with that many steps at most, the same at every call if `repeatable`."""
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


pytestmark = pytest.mark.full
SECONDS = float(os.environ.get("STATEFUL_SECONDS", "0"))


@pytest.mark.timeout(300 + 2 * SECONDS)
def test_any_history_of_a_store_gives_the_reads_of_the_model() -> None:
    begin = time.monotonic()
    if not SECONDS:
        run_machine()
    while time.monotonic() - begin < SECONDS:
        run_machine(examples=2, steps=50, repeatable=False)


class InMemory(StoreMachine):
    """Stores of an object store in the memory of this process."""

    ways = ("here",)

    def location(self) -> str:
        return f"memory://{uuid.uuid4().hex}/features"


def test_a_store_in_an_object_store_gives_the_reads_of_the_model() -> None:
    run_machine(InMemory, examples=2)
