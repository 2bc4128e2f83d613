"""Rows of a view in batches, read ahead while the batch before is used.

    batches = Batches(view, "tokens", batch_size=32)
    for epoch in range(batches.epoch, 10):
        for batch in batches:  # another order every epoch
            train(batch.rows, batch.arrays["tokens"])  # [B], [B, N, D]; int8 brings "scale" [B, N, blocks]
            save(batches.state_dict())

The arrays of a batch are filled again after `keep` more batches were asked for: copy what must
stay, or say `keep=None`. A torch tensor shares them by `torch.from_numpy`; what a GPU still copies
(`non_blocking`) must have arrived before they are filled again. Inside a worker of torch's
DataLoader say `keep=None`, with the worker's number as `rank` and their number as `world`.

Guarantees
- every row once an epoch; a seed and an epoch give one order, on every machine
- a resumed iteration gives exactly what the unbroken one would have given
- workers share no row and lose none, and all have the same number of batches, none empty
- the next batches are read while one is used
- an error of a read reaches whoever asks for its batch
- an iteration that is left early leaves no thread
- safe in a worker of torch's DataLoader, forked or spawned
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from common.errors import StepDiffError
from common.io.direct_io import aligned_empty
from common.io.seal import crc32c
from store.format.quantise import Quantised
from store.io.row_checks import Check, known_check
from store.view import OK, View

_READERS = 2  # batches that are read at once: a disk waits for no batch's end
Allocate = Callable[[tuple[int, ...], np.dtype], np.ndarray]


class Batch(NamedTuple):
    """Rows of a view."""

    rows: Int[np.ndarray, " B"]
    arrays: dict[str, Shaped[np.ndarray, "B ..."]]
    """by name, in the stored dtype; beside an int8 feature its float16 "scale" """


class Batches:
    """Batches of one epoch after the other: every iteration is an epoch."""

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
        ahead: int = 3,
        keep: int | None = 1,
        allocate: Allocate = aligned_empty,
        in_place: bool = False,
        direct: bool | None = None,
        check: Check | None = None,
    ) -> None:
        """Batches of `rows` (by default all that are ok now), for worker `rank` of `world`.

        Parameters
        - batch_size: rows of a batch of one worker; together they take `world * batch_size` a step
        - shuffle, seed: another order every epoch; without, the order of `rows`
        - drop_last: leave out the remainder of an epoch that fills no whole step. Without, the
          last step shares it out evenly: its batches are smaller, and differ by one row at most;
          where it is less than a row a worker, the step before hands some of its rows on.
        - ahead: batches that are read or being read while one is used
        - keep: batches that stay as they are when the next is asked for; None: all, each in new memory
        - allocate: makes the reused buffers from shape and dtype, e.g. pinned ones:
          `lambda shape, dtype: torch.empty(shape, dtype=..., pin_memory=True).numpy()`
        - direct: large rows come past the page cache (`View.read`); by default where they are more than half of the
          machine's memory, which could not keep them until the next epoch
        - in_place: arrays may be read-only parts of the store's files (`View.in_place`): for rows in order
        - check: when rows are compared with their stored checksums (`View.read`); by default as the view says

        Raises StepDiffError where the rows cannot be shared out so, or a feature is not there.
        """
        self.view = view
        self.features = [features] if isinstance(features, str) else list(features)
        self.rows = np.flatnonzero(view.status() == OK) if rows is None else np.asarray(rows, np.int64)
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.rank, self.world = rank, world
        self.ahead, self.keep, self.allocate, self.in_place = ahead, keep, allocate, in_place
        self.check = view.check if check is None else known_check(check)
        self.epoch = 0
        self.position = 0
        self._first = 0  # of the next iteration
        if min(batch_size, ahead) < 1 or seed < 0 or not 0 <= rank < world or not (keep is None or keep >= 1):
            raise StepDiffError("batches need batch_size, ahead, keep >= 1, seed >= 0 and 0 <= rank < world")
        for feature in self.features:
            if feature not in view.features:
                raise StepDiffError(f"no feature {feature!r} in view {view.name}: it has {', '.join(view.features)}")
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
        """Batches of an epoch, the same for every worker."""
        return len(self._bounds) - 1

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is this epoch, from its start."""
        self.epoch, self.position, self._first = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration is: after the batch given last. Plain JSON, the same for all workers."""
        return {"epoch": self.epoch, "position": self.position, "order": self._order_of}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on behind `state`; StepDiffError where it is of another order."""
        differs = [name for name, value in self._order_of.items() if state["order"].get(name) != value]
        if differs:
            raise StepDiffError(f"the state is of other batches, which differ in {', '.join(differs)}: start anew")
        self.epoch, self.position = state["epoch"], state["position"]
        self._first = self.position

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the epoch, from its start or from where a loaded state says.

        The epoch counts on when the last one was given; an iteration left early starts it over.
        """
        first, self._first = self._first, 0
        self.position = first
        return self._iterate(first)

    def _iterate(self, first: int) -> Iterator[Batch]:
        order, pid = self._order(), os.getpid()
        buffers = self._buffers()
        todo = iter(range(first, len(self)))
        pending: deque[Future[Batch]] = deque()
        reader = ThreadPoolExecutor(min(self.ahead, _READERS), thread_name_prefix="store-batches")

        def ask() -> None:
            for step in todo:
                rows = order[self._mine(step)]
                pending.append(reader.submit(self._read, rows, buffers[step % len(buffers)] if buffers else None))
                return

        try:
            for _ in range(self.ahead):
                ask()
            while pending:
                batch = pending.popleft().result()
                self.position += 1
                ask()
                yield batch
                if os.getpid() != pid:
                    raise StepDiffError("a forked process cannot go on with its parent's iteration: iterate anew in it")
            self.epoch, self.position = self.epoch + 1, 0
        finally:
            reader.shutdown(wait=True, cancel_futures=True)

    def _order(self) -> Int[np.ndarray, " R"]:
        """The rows in this epoch's order. Raw bits: what numpy draws from them may change, they do not."""
        if not self.shuffle:
            return self.rows
        bits = np.random.Philox(key=np.array([self.seed, self.epoch], np.uint64)).random_raw(len(self.rows))
        return self.rows[np.argsort(bits, kind="stable")]

    def _mine(self, step: int) -> slice:
        """This worker's part of a step."""
        start, stop = self._bounds[step], self._bounds[step + 1]
        return slice(*(int(start + (stop - start) * part // self.world) for part in (self.rank, self.rank + 1)))

    def _buffers(self) -> list[dict[str, np.ndarray]]:
        """Memory for the batches that are read ahead and those that must stay."""
        if self.keep is None:
            return []
        forms = self.view.arrays_of(self.features)
        rows = min(self.batch_size, len(self.rows))
        return [
            {
                name: self.allocate((rows, *form.shape), np.dtype(form.dtype).newbyteorder("<"))
                for name, form in forms.items()
            }
            for _ in range(self.ahead + self.keep)
        ]

    def _read(self, rows: Int[np.ndarray, " B"], buffer: dict[str, np.ndarray] | None) -> Batch:
        out = {name: array[: len(rows)] for name, array in (buffer or {}).items()}
        arrays: dict[str, np.ndarray] = {}
        for feature in self.features:
            if self._is_int8(feature):
                into = Quantised(out[feature], out["scale"]) if out else None
                arrays[feature], arrays["scale"] = self.view.read_quantised(
                    feature, rows, into, self.direct, self.check
                )
                continue
            lying = self.view.in_place(feature, rows, self.check) if self.in_place else None
            if lying is None:
                lying = self.view.read(feature, rows, out.get(feature), self.direct, self.check)
            arrays[feature] = lying
        return Batch(rows, arrays)

    def _is_int8(self, feature: str) -> bool:
        return self.view.features[feature].dtype == "int8"


def _steps(rows: int, world: int, batch_size: int, drop_last: bool) -> Int[np.ndarray, " starts"]:
    """Where each step starts in the order, and the end."""
    size = world * batch_size
    if drop_last:
        return np.arange(rows // size + 1) * size
    bounds = np.minimum(np.arange(-(-rows // size) + 1) * size, rows)
    if len(bounds) > 2:
        bounds[-2] = min(bounds[-2], rows - world)
    if rows and np.diff(bounds).min() < world:
        raise StepDiffError(f"{rows} rows cannot be shared out among {world} workers, none empty: use drop_last")
    return bounds
