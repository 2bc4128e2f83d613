"""Rows of a view in batches, prefetched by threads.

    batches = Batches(view, "tokens", batch_size=32)
    for epoch in range(batches.epoch, 10):
        for batch in batches:  # another order every epoch
            train(batch.rows, batch.arrays["tokens"])  # [B], [B, N, D]; int8 brings "scale" [B, N, blocks]
            save(batches.state_dict())

The arrays of a batch are filled again once `keep` more batches were asked for: copy what must stay, or pass
`keep=None`. `store.torch` makes torch tensors of them, for training loops and DataLoaders.

Guarantees
- an epoch reads every row once; seed and epoch determine the order, on every machine
- a resumed iteration gives the same batches as an uninterrupted one
- each row is read by exactly one worker, and all workers have the same number of batches, none empty
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.direct_io import aligned_empty
from stepdiff.common.io.sealed import crc32c
from store.format.quantise import Quantised
from store.io.reader import Check, known_check
from store.view import OK, View, row_numbers

_READERS = 2  # batches that are read at once, so that the disk is never idle


class Batch(NamedTuple):
    """Rows of a view."""

    rows: Int[np.ndarray, " B"]
    arrays: dict[str, Shaped[np.ndarray, "B ..."]]
    """by name, in the stored dtype; for an int8 feature also its float16 "scale" """


class Batches:
    """Batches of rows: every iteration is an epoch."""

    def __init__(
        self,
        view: View,
        features: str | Sequence[str],
        rows: Int[np.ndarray, " R"] | None = None,
        *,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        stride: int = 1,
        ahead: int = 3,
        keep: int | None = 1,
        in_place: bool = False,
        direct: bool | None = None,
        check: Check | None = None,
    ) -> None:
        """Plan the batches of `rows` (by default all that are ok now) for worker `rank` of `world`.

        Args:
            view: the view to read.
            features: one or more of its features.
            rows: row numbers.
            batch_size: rows of a batch of one worker; together the workers take `world * batch_size` rows a step.
            shuffle: another order every epoch; without, the order of `rows`.
            seed: decides the order, with the epoch.
            drop_last: leave out the rows that fill no whole step. Without, the last step is shared evenly: its batches
                differ by one row at most; if it has fewer rows than workers, the step before gives it some.
            rank: this worker's number.
            world: the number of workers.
            stride: give only every n-th batch, from the loaded position on: n processes of one rank take turns.
            ahead: batches that are read or being read while one is used.
            keep: batches that stay valid when the next one is asked for; None: all, each in new memory.
            in_place: arrays may be read-only parts of the store's files (`View.in_place`): for rows in order.
            direct: read large rows past the page cache (`View.read`); by default if they take more than half of the
                machine's memory, which could not keep them until the next epoch.
            check: when to compare rows with their stored checksums (`View.read`); by default as the view says.

        Raises:
            StepDiffError: an unsuitable option, an unknown feature, or too few rows for the workers.
        """
        self.view = view
        self.features = [features] if isinstance(features, str) else list(features)
        self.rows = np.flatnonzero(view.status() == OK) if rows is None else row_numbers(rows)
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.rank, self.world, self.stride = rank, world, stride
        self.ahead, self.keep, self.in_place = ahead, keep, in_place
        self.check = view.check if check is None else known_check(check)
        self.epoch = 0
        self.position = 0
        self._first = 0  # of the next iteration
        for name, value in {"batch_size": batch_size, "ahead": ahead, "stride": stride, "keep": keep}.items():
            if value is not None and value < 1:
                raise StepDiffError(f"{name} is {value}: give 1 or more")
        if seed < 0:
            raise StepDiffError(f"seed is {seed}: give 0 or more")
        if not 0 <= rank < world:
            raise StepDiffError(f"rank is {rank} and world is {world}: give a rank of 0 or more, below world")
        for feature in self.features:
            view.check_feature(feature)
        self.direct = view.fill_memory(self.features, len(self.rows)) if direct is None else direct
        self._bounds = _steps(len(self.rows), world, batch_size, drop_last)
        self._order_of = {
            "rows": len(self.rows),
            "crc32c": crc32c(np.ascontiguousarray(self.rows, "<i8")),
            "batch_size": batch_size,
            "world": world,
            "shuffle": shuffle,
            "seed": seed,
            "drop_last": drop_last,
        }

    def __len__(self) -> int:
        """Return the batches of an epoch, the same for every worker, whatever the stride."""
        return len(self._bounds) - 1

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration give this epoch, from its start."""
        self.epoch, self.position, self._first = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last given batch. Plain JSON, the same for all workers."""
        return {"epoch": self.epoch, "position": self.position, "order": self._order_of}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration continue after `state`; StepDiffError if it is of another order.

        Another number of workers may load it if `world * batch_size` is the same: their steps have the same rows.
        """
        differs = [name for name, value in self._order_of.items() if state["order"].get(name) != value]
        if differs and not self._same_steps(state["order"], state["position"]):
            raise StepDiffError(
                f"the state is of other batches, which differ in {', '.join(differs)}: pass the same options, "
                "or do not load it"
            )
        self.epoch, self.position = state["epoch"], state["position"]
        self._first = self.position

    def _same_steps(self, order: Mapping[str, Any], position: int) -> bool:
        """Return whether batches of another number of workers have read the same rows before a step."""
        world, size = order.get("world"), order.get("batch_size")
        if {**order, "world": self.world, "batch_size": self.batch_size} != self._order_of:
            return False
        if not isinstance(world, int) or not isinstance(size, int) or world * size != self.world * self.batch_size:
            return False
        theirs = _steps(len(self.rows), world, size, bool(order["drop_last"]))  # only the last two steps may differ
        return position >= len(self) or bool(theirs[position] == self._bounds[position])

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the epoch from its start, or from a loaded state.

        The next epoch begins after the last batch; an iteration left early starts its epoch over.
        """
        first, self._first = self._first, 0
        self.position = first
        return self._iterate(first)

    def _iterate(self, first: int) -> Iterator[Batch]:
        order, pid = self._order(), os.getpid()
        size, count = min(self.batch_size, len(self.rows)), 0 if self.keep is None else self.ahead + self.keep
        buffers = [self._buffer(size) for _ in range(count)]
        todo = iter(range(first, len(self), self.stride))
        pending: deque[Future[Batch]] = deque()
        reader = ThreadPoolExecutor(min(self.ahead, _READERS), thread_name_prefix="store-batches")

        def ask() -> None:
            if (step := next(todo, None)) is not None:
                buffer = buffers[step // self.stride % len(buffers)] if buffers else None
                pending.append(reader.submit(self.read, order[self._mine(step)], buffer))

        try:
            for _ in range(self.ahead):
                ask()
            while pending:
                batch = pending.popleft().result()
                self.position += self.stride
                ask()
                yield batch
                if os.getpid() != pid:
                    raise StepDiffError("a forked process cannot continue its parent's iteration: start one in it")
            self.epoch, self.position = self.epoch + 1, 0
        finally:
            reader.shutdown(wait=True, cancel_futures=True)

    def _order(self) -> Int[np.ndarray, " R"]:
        """Return the rows in this epoch's order, from raw bits: they are the same in every version of numpy."""
        if not self.shuffle:
            return self.rows
        bits = np.random.Philox(key=np.array([self.seed, self.epoch], np.uint64)).random_raw(len(self.rows))
        return self.rows[np.argsort(bits, kind="stable")]

    def _mine(self, step: int) -> slice:
        start, stop = self._bounds[step], self._bounds[step + 1]
        return slice(*(int(start + (stop - start) * part // self.world) for part in (self.rank, self.rank + 1)))

    def _buffer(self, rows: int) -> dict[str, np.ndarray]:
        return {
            name: aligned_empty((rows, *form.shape), np.dtype(form.dtype).newbyteorder("<"))
            for name, form in self.view.arrays_of(self.features).items()
        }

    def read(self, rows: Int[np.ndarray, " B"], buffer: Mapping[str, np.ndarray] | None = None) -> Batch:
        """Read a batch of any rows, into `buffer` or into new memory."""
        if buffer is None and not self.in_place:
            buffer = self._buffer(len(rows))
        out = {name: array[: len(rows)] for name, array in (buffer or {}).items()}
        arrays: dict[str, np.ndarray] = {}
        for feature in self.features:
            if self.view.features[feature].dtype == "int8":
                into = Quantised(out[feature], out["scale"]) if out else None
                arrays[feature], arrays["scale"] = self.view.read_quantised(
                    feature, rows, into, self.direct, self.check
                )
                continue
            values = self.view.in_place(feature, rows, self.check) if self.in_place else None
            if values is None:
                values = self.view.read(feature, rows, out.get(feature), self.direct, self.check)
            arrays[feature] = values
        return Batch(rows, arrays)


def _steps(rows: int, world: int, batch_size: int, drop_last: bool) -> Int[np.ndarray, " starts"]:
    """Return where each step starts in the order, and the end."""
    size = world * batch_size
    if drop_last:
        return np.arange(rows // size + 1) * size
    bounds = np.minimum(np.arange(-(-rows // size) + 1) * size, rows)
    if len(bounds) > 2:
        bounds[-2] = min(bounds[-2], rows - world)
    if rows and np.diff(bounds).min() < world:
        raise StepDiffError(f"{rows} rows are too few for {world} workers without empty batches: use drop_last")
    return bounds
