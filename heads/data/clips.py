"""Cached features by clip id, all that a head knows of a video; and batches of them, read ahead.

int8 features are dequantised on the device that uses them, so that a quarter of the bytes is
transferred; to a GPU from pinned memory, so that a thread that reads ahead does not wait for the
transfer.

Guarantees
- rows are returned in the order of the ids; a clip without features is named, with the command to
  run
- a view that was dropped or replaced since it was opened is not read
- training with and without reading ahead is the same, bit for bit; an error of a batch is raised
  when the batch is used
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from heads.data.catalog_rows import blocks, need_columns
from stepdiff_core.errors import StepDiffError
from stepdiff_core.progress import say
from store import Catalog, Store
from store.torch import dequantise
from store.view import FAILED, OK

Made = TypeVar("Made")


@runtime_checkable
class Reads(Protocol):
    """Tokens or an embedding by key: cached features, token ids of texts, or outputs of a head in
    training."""

    def read(
        self, keys: Sequence[str], device: str | torch.device = "cpu"
    ) -> Float32[Tensor, "K ..."]:
        """Return the values on `device`. StepDiffError names the first key without any."""


class Features:
    """One feature of one view of an entity, read by key: a clip id, or the key of a text."""

    def __init__(self, store: Store, view: str, feature: str, entity: str = "clips") -> None:
        self.catalog = store.catalog(entity)
        self.view = store.view(entity, view)
        if feature not in self.view.features:
            raise StepDiffError(
                f"{store.path}: view {view} of {entity} has no feature {feature!r}, only "
                f"{', '.join(sorted(self.view.features))}"
            )
        self.feature = feature
        self.shape = self.view.features[feature].shape
        self._direct = self.view.fill_memory([feature], len(self.view))

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Return rows [K] of the keys. StepDiffError names the first without features."""
        rows = self.catalog.rows(keys)
        present = self._present(rows)
        if not present.all():
            first = int(np.flatnonzero(~present)[0])
            raise StepDiffError(self._absence(keys[first], int(rows[first])))
        return rows

    def lacking(self, keys: Sequence[str], skip: bool) -> list[str]:
        """Return the keys without features, and say how many there are. StepDiffError: there are
        some, without `skip` (--skip-missing)."""
        rows = self.catalog.rows(keys)
        places = np.flatnonzero(~self._present(rows)).tolist()
        if places:
            first = self._absence(keys[places[0]], int(rows[places[0]]))
            if not skip:
                raise StepDiffError(
                    f"{first}; or leave the {len(places)} clips without features out: "
                    "--skip-missing"
                )
            say(f"{len(places)} clips without features are left out: {first}")
        return [keys[place] for place in places]

    def _absence(self, key: str, row: int) -> str:
        """Return why a key has no features, and the remedy."""
        what = f"{key}: no {self.view.name} features in the store"
        if row >= 0 and self.view.status(np.array([row]))[0] == FAILED:
            (reason,) = self.view.failures(np.array([row]))["reason"]
            return (
                f"{what}, python -m featurize recorded: {reason}; replace the file and run it with "
                "--retry-failed"
            )
        encoder = f"--encoder {self.view.provenance.encoder} and a manifest that contains it"
        return (
            f"{what} ({'unknown' if row < 0 else 'absent'}); run python -m featurize with {encoder}"
        )

    def has(self, keys: Sequence[str]) -> np.ndarray:
        """Return bool [K]: whether each key has features."""
        return self._present(self.catalog.rows(keys))

    def present(self, clips: pl.DataFrame) -> pl.DataFrame:
        """Return the clips (key, ...) that have features; their `row` in the catalog saves the
        look-up of keys."""
        rows = (
            clips["row"].to_numpy() if "row" in clips.columns else self.catalog.rows(clips["key"])
        )
        return clips.filter(pl.Series(self._present(rows), dtype=pl.Boolean))

    def read(
        self, keys: Sequence[str], device: str | torch.device = "cpu"
    ) -> Float32[Tensor, "K ..."]:
        """Return the features as float32 on `device`; they are transferred as stored and converted
        there."""
        rows = self.catalog.rows(keys)
        if (rows < 0).any():
            self.rows(keys)  # names the first
        return self.read_rows(rows, device)

    def read_rows(
        self, rows: Int64[np.ndarray, " K"], device: str | torch.device = "cpu"
    ) -> Float32[Tensor, "K ..."]:
        """Return the features of rows of the catalog, as `read` does."""
        if self.view.features[self.feature].dtype != "int8":
            return _moved(self.view.read(self.feature, rows, direct=self._direct), device).float()
        if torch.device(device).type == "cpu":
            return torch.from_numpy(
                self.view.read(self.feature, rows, direct=self._direct, dtype="float32")
            )
        stored = self.view.read_quantised(self.feature, rows, direct=self._direct)
        levels, scale = (_moved(part, device) for part in stored)
        return dequantise(levels, scale)

    def _present(self, rows: np.ndarray) -> np.ndarray:
        """Return bool [K]: whether each row has features; row -1 has none."""
        present = rows >= 0
        present[present] = self.view.status(rows[present]) == OK
        return present


def _moved(values: np.ndarray, device: str | torch.device) -> Tensor:
    here = torch.from_numpy(values)
    return (
        here
        if torch.device(device).type == "cpu"
        else here.pin_memory().to(device, non_blocking=True)
    )


def split_texts(
    catalog: Catalog, column: str, features: Features, split: str
) -> Iterator[pl.DataFrame]:
    """Yield row, key, video, end (seconds) and text of a split's clips with features and a text in
    `column`."""
    need_columns(catalog, "split", column)
    dtypes = {
        "key": pl.String,
        "video": pl.String,
        "end": pl.Float64,
        "split": pl.String,
        column: pl.String,
    }
    for block in blocks(catalog, dtypes):
        clips = block.filter((pl.col("split") == split) & (pl.col(column).str.len_chars() > 0))
        yield features.present(
            clips.select("row", "key", "video", "end", pl.col(column).alias("text"))
        )


class ReadAhead(Generic[Made]):
    """Batches by number; one thread reads the next batch while the current one is computed.

    On a GPU the thread copies and converts on a stream of its own, so that this overlaps with the
    computation.
    """

    def __init__(self, read: Callable[[int], Made], device: str) -> None:
        """read: Returns the batch of a number; never called twice at the same time. device: of the
        batches."""
        self._read = read
        self._stream = torch.cuda.Stream(device) if torch.device(device).type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._next: tuple[int, Future[Made]] | None = None
        self._used: Made | None = None

    def take(self, number: int, following: int | None = None) -> Made:
        """Return the batch of that number, and begin to read the following one, if there is one."""
        if self._next is None or self._next[0] != number:
            self._next = number, self._thread.submit(self._made, number)
        # Memory of the side stream is given out again when its tensor goes, also while another
        # stream reads it. The batch is therefore held until the next one is taken: the loop has
        # then waited for its loss.
        self._used, self._next = self._next[1].result(), None
        if following is not None:
            self._next = following, self._thread.submit(self._made, following)
        return self._used

    def _made(self, number: int) -> Made:
        if self._stream is None:
            return self._read(number)
        with torch.cuda.stream(self._stream):
            batch = self._read(number)
            self._stream.synchronize()
        return batch
