"""Cached features as datasets of torch.

    view = Store.open("data/features").view("clips", "clip")
    train = pl.col("split") == "train"
    stream = FeatureStream(view, "tokens", batch_size=64, where=train, labels=["step"])
    for epoch in range(10):
        stream.set_epoch(epoch)
        for batch in prefetch(stream, "cuda"):
            ...  # {"key": B keys, "tokens": [B, N, D], "step": B labels}

`FeatureStream` reads shuffled batches ahead in threads. For worker processes pass it to torch's
`DataLoader` or torchdata's `StatefulDataLoader` with `batch_size=None`. `FeatureDataset` is
map-style, for a sampler of your own.

int8 features arrive as `QuantisedTensors`, a quarter of the bytes of float32; `prefetch` and
`to_device` dequantise them on the device.

Guarantees
- each row is read once per epoch by exactly one worker of one rank
- the batches and their order are the same with any number of worker processes
- a resumed epoch continues with exactly the remaining batches: in a new process, with any number of
  worker processes, and after a kill
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import stepdiff_core

stepdiff_core.require("store.torch", "train", ("torch",))

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float16, Int8
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from stepdiff_core.errors import StepDiffError
from store.batches import Batch, Batches
from store.catalog.key_index import pack
from store.format.quantise import BLOCK
from store.io.reader import OK, Check
from store.view import Keys, View

KEY = "key"
Labels = Sequence[str | pl.Expr]
_MOST = torch.finfo(torch.float16).max


class QuantisedTensors(NamedTuple):
    """int8 features as stored: value = levels * scale of its block of 64 channels."""

    levels: Int8[Tensor, "*axes D"]
    scale: Float16[Tensor, "*axes blocks"]

    def dequantise(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "*axes D"]:
        """Return the values in `dtype`, on the device of the levels."""
        return dequantise(self.levels, self.scale, dtype)


def dequantise(
    levels: Int8[Tensor, "*axes D"],
    scale: Float16[Tensor, "*axes blocks"],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*axes D"]:
    """Return levels * scale, bit for bit as `View.read`; float16 stops at 65504."""
    channels = levels.shape[-1]
    blocks = pad(levels, (0, -channels % BLOCK)).unflatten(-1, (-1, BLOCK)).float()
    values = (blocks * scale.float().unsqueeze(-1)).flatten(-2)[..., :channels]
    if dtype == torch.float16:
        values = values.clamp(-_MOST, _MOST)
    return values.to(dtype)


def to_device(
    sample: Mapping[str, Any], device: str | torch.device, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Move the tensors of a batch to `device`; int8 features are dequantised to `dtype` there."""
    batch = _each_tensor(sample, lambda tensor: tensor.to(device, non_blocking=True))
    return {
        name: x.dequantise(dtype) if isinstance(x, QuantisedTensors) else x
        for name, x in batch.items()
    }


def _each_tensor(batch: Mapping[str, Any], do: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Return a batch with `do` of each tensor, also of quantised ones."""
    changed = dict(batch)
    for name, x in batch.items():
        if isinstance(x, QuantisedTensors):
            changed[name] = QuantisedTensors(*map(do, x))
        elif isinstance(x, Tensor):
            changed[name] = do(x)
    return changed


def prefetch(
    batches: Iterable[Mapping[str, Any]],
    device: str | torch.device,
    dtype: torch.dtype = torch.float32,
) -> Iterator[dict[str, Any]]:
    """Move batches to `device` while it works on the one before; see `to_device`.

    On CUDA a stream of its own copies from pinned memory, next to the work that the caller queued
    for the last batch. No batch is taken ahead: the state of the stream or loader is exact after
    every batch.
    """
    device = torch.device(device)
    if device.type != "cuda":
        yield from (to_device(batch, device, dtype) for batch in batches)
        return
    copies = torch.cuda.Stream(device)
    for batch in batches:
        copies.synchronize()  # the last copy began a batch ago: its pinned memory may be reused
        pinned = _each_tensor(
            batch, lambda tensor: tensor.pin_memory() if tensor.device.type == "cpu" else tensor
        )
        with torch.cuda.stream(copies):
            moved = to_device(pinned, device, dtype)
        current = torch.cuda.current_stream(device)
        current.wait_stream(copies)
        for value in moved.values():
            if isinstance(value, Tensor):
                # its memory is not reused before the caller's work is done
                value.record_stream(current)
        yield moved


class _Selection:
    """Rows of a view, with their keys and labels."""

    def __init__(
        self,
        view: View,
        features: str | Sequence[str],
        keys: Keys | None,
        where: pl.Expr | None,
        labels: Labels,
    ) -> None:
        if keys is not None and where is not None:
            raise StepDiffError("choose rows by keys or by a where clause, not by both")
        status = view.status()
        self.rows = np.flatnonzero(status == OK) if keys is None else view.rows(keys)
        if keys is not None:
            view.check_ok(self.rows)
        columns = [pl.col(label) if isinstance(label, str) else label for label in labels]
        expressions = columns if where is None else [where, *columns]
        named = {KEY, "row"}.union(*(expression.meta.root_names() for expression in expressions))
        frame = view.catalog.frame(sorted(named))
        if missing := named - set(frame.columns):
            raise StepDiffError(
                f"no column {min(missing)!r} in the catalog of {view.entity}: see "
                f"Store.open({str(view.paths.store)!r}).catalog({view.entity!r}).frame().columns"
            )
        try:
            chosen = frame[self.rows] if where is None else frame[self.rows].filter(where)
            table = chosen.select(columns)
        except pl.exceptions.PolarsError as error:
            raise StepDiffError(
                f"where clause or labels do not fit the catalog of {view.entity}: {error}"
            ) from error
        self.rows = chosen["row"].to_numpy().astype(np.int64)
        if not len(self.rows):
            raise StepDiffError(
                f"no row to read: view {view.name} of {view.entity} has no features of such rows"
            )
        if clash := {KEY, *([features] if isinstance(features, str) else features)} & set(
            table.columns
        ):
            raise StepDiffError(
                f"label {min(clash)!r} has the name of another part of a batch: use alias()"
            )
        order = np.argsort(self.rows, kind="stable")
        self._sorted = self.rows[order]
        self._keys = pack(chosen[KEY][order])  # compact, and needs no catalog in a worker process
        self._labels: dict[str, np.ndarray] = {}
        for values in table:
            if values.null_count():
                key = chosen.filter(values.is_null())[KEY][0]
                raise StepDiffError(
                    f"{values.null_count()} rows have no label {values.name!r}, the first is "
                    f"{key}: leave them out by a where clause, "
                    f"pl.col({values.name!r}).is_not_null()"
                )
            number = values.dtype.is_numeric() or values.dtype == pl.Boolean
            array = values.to_numpy() if number else np.fromiter(values.to_list(), object)
            self._labels[values.name] = array[order]

    def of(self, batch: Batch) -> dict[str, Any]:
        """Return keys, features and labels of a batch."""
        arrays = {name: torch.from_numpy(array) for name, array in batch.arrays.items()}
        scale = arrays.pop("scale", None)
        features = {
            name: QuantisedTensors(values, scale)
            if scale is not None and values.dtype == torch.int8
            else values
            for name, values in arrays.items()
        }
        at = np.searchsorted(self._sorted, batch.rows)
        parts = {name: values[at] for name, values in self._labels.items()}
        labels = {
            name: x.tolist() if x.dtype == object else torch.from_numpy(x)
            for name, x in parts.items()
        }
        return {KEY: self._keys.take(at), **features, **labels}


class FeatureDataset(Dataset):
    """Map-style dataset of a view: item i has the features and labels of the i-th row.

    A DataLoader reads the rows of a batch together.
    """

    def __init__(
        self,
        view: View,
        features: str | Sequence[str],
        keys: Keys | None = None,
        *,
        where: pl.Expr | None = None,
        labels: Labels = (),
        check: Check | None = None,
    ) -> None:
        """Choose rows and labels; with the arguments of `FeatureStream`."""
        self._selection = _Selection(view, features, keys, where, labels)
        self._batches = Batches(
            view, features, self._selection.rows, batch_size=1, shuffle=False, check=check
        )

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._selection.rows)

    def __getitem__(self, item: int) -> dict[str, Any]:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[int]) -> list[dict[str, Any]]:
        """Return several rows, read together."""
        batch = self._batches.read(self._selection.rows[np.asarray(items, np.int64)])
        whole = self._selection.of(batch)
        return [
            {name: _one(values, at) for name, values in whole.items()}
            for at in range(len(batch.rows))
        ]


class FeatureStream(IterableDataset):
    """Iterable dataset of shuffled, prefetched batches of a view.

    Every iteration is one epoch. In one process the next iteration is the next epoch. With worker
    processes call `set_epoch` before each epoch, as with torch's DistributedSampler; a shuffled
    stream refuses to go on without.
    """

    def __init__(
        self,
        view: View,
        features: str | Sequence[str],
        keys: Keys | None = None,
        *,
        where: pl.Expr | None = None,
        labels: Labels = (),
        rank: int | None = None,
        world: int | None = None,
        **options: Any,
    ) -> None:
        """Choose rows and labels, and plan the batches.

        Args:
            view: the view to read.
            features: one or more of its features.
            keys: the rows to read; by default all that are ok and, if given, that `where` selects.
            where: a Polars expression over the catalog's columns, such as `pl.col("split") ==
                "train"`.
            labels: columns of the catalog, or Polars expressions over them, that each batch also
                has: numbers and booleans as a tensor [B], anything else as a list.
            rank: the part of the rows to read; by default the rank in `torch.distributed`, else
                $RANK, else 0.
            world: the number of ranks; by default as in `torch.distributed`, else $WORLD_SIZE, else
                1.
            options: of `Batches`: `batch_size` (of one rank), `shuffle`, `seed`, `drop_last`,
                `ahead` (in every process), `check`.
        """
        self._selection = _Selection(view, features, keys, where, labels)
        self.rank, self.world = _rank(rank, world)
        self._batches = Batches(
            view,
            features,
            self._selection.rows,
            rank=self.rank,
            world=self.world,
            keep=None,
            **options,
        )
        # after the last batch; at the start of the iteration
        self._state = self._begun = self._batches.state_dict()
        self._resumes = False  # the next iteration starts at the state's position
        self._loaded_by = 0  # the process that loaded the state
        # The epoch to read, -1 if none was set; its first batch; and whether worker processes began
        # it. All processes share this memory.
        self._shared = torch.tensor([-1, 0, 0]).share_memory_()

    def __len__(self) -> int:
        """Return the batches of an epoch of this rank, with any number of worker processes."""
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration read this epoch: from its start, or from a state of this epoch
        that was loaded."""
        if self._shared[2] or not (self._resumes and self._state["epoch"] == epoch):
            self._begin({**self._batches.state_dict(), "epoch": epoch, "position": 0})
        else:
            self._begin(self._state)

    def _begin(self, state: dict[str, Any]) -> None:
        """Let the next iteration start at a state, in this process or in worker processes."""
        self._state, self._begun, self._resumes, self._loaded_by = state, state, True, os.getpid()
        if get_worker_info() is None:
            self._shared[:] = torch.tensor([state["epoch"], state["position"], 0])

    def state_dict(self, received: int | None = None) -> dict[str, Any]:
        """Return the position after the last batch. Plain JSON, the same for every rank.

        Args:
            received: the batches that you received since `set_epoch` or `load_state_dict`. Only
                worker processes of a DataLoader, which read ahead, need it; a StatefulDataLoader
                has a state_dict of its own.
        """
        if get_worker_info() is not None or not self._shared[2]:
            return dict(self._state)
        if received is None:
            raise StepDiffError(
                "worker processes read this epoch: pass the number of batches that you received, "
                "state_dict(received), or take the state_dict of a StatefulDataLoader"
            )
        first, end = self._begun["position"], len(self)
        if not 0 <= received <= end - first:
            raise StepDiffError(
                f"received={received} is refused: {end - first} batches were left of this epoch"
            )
        return {**self._begun, "position": first + received}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration continue after `state`; StepDiffError if it is of another order.

        Another number of ranks may load it if `world * batch_size` is the same.
        """
        info = get_worker_info()
        workers = info.num_workers if info else 0
        if state.get("workers", workers) != workers:
            raise StepDiffError(
                f"the state is of {state['workers']} worker processes, not of {workers}"
            )
        self._batches.load_state_dict(state)
        self._begin(dict(state))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info, state = get_worker_info(), self._state
        epoch, position, begun = self._shared.tolist()
        loaded = self._resumes and (info is None or self._loaded_by == os.getpid())
        if not loaded:
            first = {"epoch": max(epoch, 0), "position": position} if info else {"position": 0}
            state = {**self._batches.state_dict(), "epoch": state["epoch"], **first}
        unset = info is not None and epoch < 0 and not loaded
        repeated = info is not None and info.id == 0 and begun > 0
        uncounted = (unset or repeated) and (self._batches.shuffle or position > 0)
        self._resumes = False
        if info:
            if info.id == 0:
                self._shared[2] = int(state["position"] < len(self))
            self._batches.stride = info.num_workers
            if "workers" not in state:  # workers take turns, from the state's position on
                state = {
                    **state,
                    "position": state["position"] + info.id,
                    "workers": info.num_workers,
                }
        self._batches.load_state_dict(state)
        self._state = self._begun = state
        return self._iterate(iter(self._batches), state, uncounted)

    def _iterate(
        self, batches: Iterator[Batch], state: dict[str, Any], uncounted: bool
    ) -> Iterator[dict[str, Any]]:
        if uncounted:  # raised at the first batch: a DataLoader passes on no error of iter()
            raise StepDiffError(
                "call set_epoch(epoch) before each epoch: worker processes cannot count epochs"
            )
        for batch in batches:
            self._state = {**state, "position": self._batches.position}
            yield self._selection.of(batch)
        if "workers" not in state:
            self.set_epoch(state["epoch"] + 1)


def _one(values: Any, at: int) -> Any:
    return (
        QuantisedTensors(values.levels[at], values.scale[at])
        if isinstance(values, QuantisedTensors)
        else values[at]
    )


def _rank(rank: int | None, world: int | None) -> tuple[int, int]:
    if (rank is None) != (world is None):
        raise StepDiffError("give both rank and world, or neither")
    if rank is not None and world is not None:
        return rank, world
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if not 0 <= rank < world:
        raise StepDiffError(f"RANK is {rank} and WORLD_SIZE is {world}: set both variables")
    return rank, world
