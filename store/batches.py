"""Rows of a view in batches, prefetched by threads.

    batches = Batches(view, "tokens", batch_size=32)
    for epoch in range(batches.epoch, 10):
        for batch in batches:  # another order every epoch
            train(batch.rows, batch.arrays["tokens"])  # [B], [B, N, D]; int8 brings "scale" [B, N,
                                                       blocks]
            save(batches.state_dict())

The arrays of a batch are filled again once `keep` more batches were asked for: copy what must stay,
or pass `keep=None`. `store.torch` makes torch tensors of them, for training loops and DataLoaders.

Guarantees
- an epoch reads every row once; seed and epoch determine the order, on every machine
- a resumed iteration gives the same batches as an uninterrupted one
- each row is read by exactly one worker, and all workers have the same number of batches, none
  empty
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.direct_io import aligned_empty
from stepdiff_core.io.sealed import crc32c
from store.format.quantise import Quantised
from store.io.reader import Check, known_check
from store.provenance import RowNumbers
from store.view import OK, View, row_numbers

_READERS = 2  # batches that are read at once, so that the disk is never idle


class Batch(NamedTuple):
    """Rows of a view."""

    rows: Int[np.ndarray, " B"]
    arrays: dict[str, Shaped[np.ndarray, "B ..."]]
    """by name, in the stored dtype; for an int8 feature also its float16 "scale" """


@dataclass(eq=False)
class Batches:
    """Batches of rows: every iteration is an epoch.

    StepDiffError: an unsuitable option, an unknown feature, or too few rows for the workers.
    """

    view: View
    """the view to read"""
    features: str | Sequence[str]
    """one or more of its features"""
    rows: Int[np.ndarray, " R"] | None = None
    """row numbers; by default all that are ok now"""
    _: KW_ONLY
    batch_size: int
    """rows of a batch of one worker; together the workers take `world * batch_size` rows a step"""
    shuffle: bool = True
    """another order every epoch; without, the order of `rows`"""
    seed: int = 0
    """decides the order, with the epoch"""
    drop_last: bool = False
    """leave out the rows that fill no whole step. Without, the last step is shared evenly: its
    batches differ by one row at most; if it has fewer rows than workers, the step before gives it
    some"""
    rank: int = 0
    """this worker's number"""
    world: int = 1
    """the number of workers"""
    stride: int = 1
    """give only every n-th batch, from the loaded position on: n processes of one rank take
    turns"""
    ahead: int = 3
    """batches that are read or being read while one is used"""
    keep: int | None = 1
    """batches that stay valid when the next one is asked for; None: all, each in new memory"""
    in_place: bool = False
    """arrays may be read-only parts of the store's files (`View.in_place`): for rows in order"""
    direct: bool | None = None
    """read large rows past the page cache (`View.read`); by default if they take more than half of
    the machine's memory, which could not keep them until the next epoch"""
    check: Check | None = None
    """when to compare rows with their stored checksums (`View.read`); by default as the view
    says"""

    def __post_init__(self) -> None:
        view, rank, world = self.view, self.rank, self.world
        self.features = [self.features] if isinstance(self.features, str) else list(self.features)
        self._rows = (
            np.flatnonzero(view.status() == OK) if self.rows is None else row_numbers(self.rows)
        )
        self.check = view.check if self.check is None else known_check(self.check)
        self.epoch = 0
        self.position = 0
        self._first = 0  # of the next iteration
        for name in ("batch_size", "ahead", "stride", "keep"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise StepDiffError(f"{name} is {value}: give 1 or more")
        if self.seed < 0:
            raise StepDiffError(f"seed is {self.seed}: give 0 or more")
        if not 0 <= rank < world:
            raise StepDiffError(
                f"rank is {rank} and world is {world}: give a rank of 0 or more, below world"
            )
        for feature in self.features:
            view.check_feature(feature)
        self._direct = (
            view.fill_memory(self.features, len(self._rows)) if self.direct is None else self.direct
        )
        self._bounds = _steps(len(self._rows), world, self.batch_size, self.drop_last)
        options = {
            name: getattr(self, name)
            for name in ("batch_size", "world", "shuffle", "seed", "drop_last")
        }
        checksum = crc32c(np.ascontiguousarray(self._rows, "<i8"))
        self._order_of = {"rows": len(self._rows), "crc32c": checksum, **options}

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

        Another number of workers may load it if `world * batch_size` is the same: their steps have
        the same rows.
        """
        differs = [
            name for name, value in self._order_of.items() if state["order"].get(name) != value
        ]
        if differs and not self._same_steps(state["order"], state["position"]):
            raise StepDiffError(
                f"the state is of other batches, which differ in {', '.join(differs)}: pass the "
                "same options, or do not load it"
            )
        self.epoch, self.position = state["epoch"], state["position"]
        self._first = self.position

    def _same_steps(self, order: Mapping[str, Any], position: int) -> bool:
        """Return whether batches of another number of workers have read the same rows before a
        step."""
        world, size = order.get("world"), order.get("batch_size")
        if {**order, "world": self.world, "batch_size": self.batch_size} != self._order_of:
            return False
        if (
            not isinstance(world, int)
            or not isinstance(size, int)
            or world * size != self.world * self.batch_size
        ):
            return False
        # only the last two steps may differ
        theirs = _steps(len(self._rows), world, size, bool(order["drop_last"]))
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
        size, count = (
            min(self.batch_size, len(self._rows)),
            0 if self.keep is None else self.ahead + self.keep,
        )
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
                    raise StepDiffError(
                        "a forked process cannot continue its parent's iteration: start one in it"
                    )
            self.epoch, self.position = self.epoch + 1, 0
        finally:
            reader.shutdown(wait=True, cancel_futures=True)

    def _order(self) -> Int[np.ndarray, " R"]:
        """Return the rows in this epoch's order, from raw bits: they are the same in every version
        of numpy."""
        if not self.shuffle:
            return self._rows
        bits = np.random.Philox(key=np.array([self.seed, self.epoch], np.uint64)).random_raw(
            len(self._rows)
        )
        return self._rows[np.argsort(bits, kind="stable")]

    def _mine(self, step: int) -> slice:
        start, stop = self._bounds[step], self._bounds[step + 1]
        return slice(
            *(
                int(start + (stop - start) * part // self.world)
                for part in (self.rank, self.rank + 1)
            )
        )

    def _buffer(self, rows: int) -> dict[str, np.ndarray]:
        return {
            name: aligned_empty((rows, *form.shape), np.dtype(form.dtype).newbyteorder("<"))
            for name, form in self.view.arrays_of(self.features).items()
        }

    def read(self, rows: RowNumbers, buffer: Mapping[str, np.ndarray] | None = None) -> Batch:
        """Read a batch of any rows, into `buffer` or into new memory."""
        if buffer is None and not self.in_place:
            buffer = self._buffer(len(rows))
        out = {name: array[: len(rows)] for name, array in (buffer or {}).items()}
        arrays: dict[str, np.ndarray] = {}
        for feature in self.features:
            if self.view.features[feature].dtype == "int8":
                into = Quantised(out[feature], out["scale"]) if out else None
                arrays[feature], arrays["scale"] = self.view.read_quantised(
                    feature, rows, into, self._direct, self.check
                )
                continue
            values = self.view.in_place(feature, rows, self.check) if self.in_place else None
            if values is None:
                values = self.view.read(feature, rows, out.get(feature), self._direct, self.check)
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
        raise StepDiffError(
            f"{rows} rows are too few for {world} workers without empty batches: use drop_last"
        )
    return bounds
