"""Comparison of every read of a store with the model of the state machine."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import zarr
from jaxtyping import Int, Shaped

from common.errors import StepDiffError
from store import Store, View
from store.batches import Batches
from store.verbs.verify import verify
from tests.store.machine.model import MAIN, SHAPES, ModelStore, ModelView

COUNTS: Counter[str] = Counter()
"""what the machines of this process did so far"""


class Checks:
    """Comparison of reads with the model, for a store that may be damaged."""

    model: ModelStore
    flips: dict[Any, tuple[int, int, int]]
    """damaged file -> its inode, the place of the flipped bit, and the byte that was there"""

    def read(self, view: View, feature: str, rows: Int[np.ndarray, " B"]) -> Shaped[np.ndarray, "B ..."]:
        """Return rows of a feature in the dtype that they are stored in. Override it to test a reader of your own."""
        return view.read(feature, rows)

    @contextmanager
    def damage(self) -> Iterator[None]:
        """Accept StepDiffError while a file is damaged, and only then."""
        try:
            yield
        except StepDiffError as error:
            assert "\n" not in str(error)
            if not self.flips:
                raise
            COUNTS["reads refused, damage"] += 1

    def check_all(self, store: Any) -> None:
        """Check that every read returns the values of the model."""
        COUNTS["full checks"] += 1
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
                found = self.read(view, name, rows)
                self._equal(found, [row.stored[name] for row in expected], shape, f"{name} of {view.name}")
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

    def _equal(self, found: np.ndarray, expected: list[np.ndarray], shape: tuple[int, ...], what: str) -> None:
        COUNTS["arrays compared"] += 1
        assert found.shape == (len(expected), *shape), what
        if expected:
            wanted = np.stack(expected)
            assert found.dtype == wanted.dtype, what
            assert found.tobytes() == wanted.tobytes(), f"{what} is silently wrong, flips {self.flips}"

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
        group: Any = zarr.open_group(view.paths.group.zarr(), mode="r")
        status = group["status"][:].tolist()
        assert status == model.status(self.model.keys)[: len(status)]
        for name in SHAPES:
            whole = np.asarray(group[name][:])
            assert whole[ok].tobytes() == view.read(name, ok).tobytes(), f"zarr reads another {name}"
