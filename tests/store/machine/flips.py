"""The rules of the state machine that damage files of a store, and undo or repair that."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from common.errors import StepDiffError
from common.io.files import Place
from store import Store, View
from store.damage.view_damage import view_damage
from store.damage.withdrawal import unfinished, withdraw_damaged
from store.verbs.verify import verify
from tests.store.machine.checks import COUNTS, Checks
from tests.store.machine.model import FAILED, OK, ModelView
from tests.store.machine.writers import filling, perform


class Flips(Checks):
    """Bits of files flip: of stores in a folder only."""

    path: Place
    store: Any

    def open(self, path: Place) -> Any:
        """Open the store in `path`."""
        raise NotImplementedError

    def _fresh(self) -> Any:
        raise NotImplementedError

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
        COUNTS["flips"] += 1
        COUNTS[f"flips in {path.relative_to(self.path).parts[0]}"] += 1
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
            COUNTS["computed again"] += 1
        self.check_all(self.open(self.path))

    def _withdraw(self, view: View, model: ModelView) -> list[str]:
        """Withdraw the damaged rows of a view and return their keys."""
        with Store.open(self.path).lock():
            withdraw_damaged(view, list(view_damage(view, len(view.catalog))))
        keys, reasons = self.model.keys, dict(view.failures().rows())
        for key, status in zip(keys, view.status().tolist(), strict=True):  # what a killed writer finished may return
            if status == OK and key not in model.ok:
                model.ok[key] = model.computed(key)
                model.failed.pop(key, None)
            elif status == FAILED:
                model.failed.setdefault(key, reasons[key])
        return [keys[row] for row in unfinished(view)]

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
