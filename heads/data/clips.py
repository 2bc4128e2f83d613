"""Cached features by clip id, all that a head knows of a video.

int8 features are dequantised on the device that uses them, so that a quarter of the bytes is transferred.

Guarantees
- a clip without features is named, with the command to run
- rows are returned in the order of the ids
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32
from torch import Tensor

from common.errors import StepDiffError
from store import Store
from store.torch import dequantise
from store.view import OK


@runtime_checkable
class Reads(Protocol):
    """Tokens or an embedding by key: cached features, token ids of texts, or what a head in training computes."""

    def read(self, keys: Sequence[str], device: str | torch.device = "cpu") -> Float32[Tensor, "K ..."]:
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
        self._status = self.view.status()
        self._direct = self.view.fill_memory([feature], int(np.count_nonzero(self._status == OK)))

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Return rows [K] of the keys. StepDiffError names the first without features."""
        rows = self.catalog.rows(keys)
        present = self._present(rows)
        if not present.all():
            first = int(np.flatnonzero(~present)[0])
            state = "unknown" if rows[first] < 0 else ("absent", "ok", "failed")[self._status[rows[first]]]
            raise StepDiffError(
                f"{keys[first]}: no {self.view.name} features in the store ({state}); run python -m featurize with "
                f"--encoder {self.view.provenance.encoder} and a manifest that contains it"
            )
        return rows

    def has(self, keys: Sequence[str]) -> np.ndarray:
        """Return bool [K]: whether each key has features."""
        return self._present(self.catalog.rows(keys))

    def present(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows (key, ...) whose key has features."""
        return rows.filter(pl.Series(self.has(rows["key"].to_list()), dtype=pl.Boolean))

    def read(self, keys: Sequence[str], device: str | torch.device = "cpu") -> Float32[Tensor, "K ..."]:
        """Return the features as float32 on `device`; they are transferred as stored and converted there."""
        rows = self.rows(keys)
        if self.view.features[self.feature].dtype != "int8":
            return torch.from_numpy(self.view.read(self.feature, rows, direct=self._direct)).to(device).float()
        if torch.device(device).type == "cpu":
            return torch.from_numpy(self.view.read(self.feature, rows, direct=self._direct, dtype="float32"))
        stored = self.view.read_quantised(self.feature, rows, direct=self._direct)
        levels, scale = (torch.from_numpy(part).to(device) for part in stored)
        return dequantise(levels, scale)

    def _present(self, rows: np.ndarray) -> np.ndarray:
        """Return bool [K]: whether each row has features; row -1 has none."""
        present = rows >= 0
        present[present] = self._status[rows[present]] == OK
        return present


def split_texts(catalog: pl.DataFrame, column: str, features: Features, split: str) -> pl.DataFrame:
    """Return key and text of a split's clips with features and a text in `column` of the catalog."""
    need_columns(catalog, "split", column)
    rows = catalog.filter((pl.col("split") == split) & (pl.col(column).str.len_chars() > 0))
    return features.present(rows.select("key", pl.col(column).alias("text")))


def need_columns(catalog: pl.DataFrame, *names: str, reader: str = "", otherwise: str = "") -> None:
    """Raise StepDiffError if the catalog lacks a column. reader, otherwise: begin and end of the message."""
    if missing := set(names) - set(catalog.columns):
        raise StepDiffError(
            f"{reader}the store's catalog has no column {', '.join(sorted(missing))}; featurize with a manifest that "
            f"has it{otherwise}"
        )
