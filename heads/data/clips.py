"""Cached features by clip id: all that a head ever knows of a video.

int8 features of the store become numbers on the device that uses them: a quarter of the bytes travel.

Whether a catalog says which clips may train.

Guarantees
- a clip without features is named, with what to run
- rows come back in the order of the ids
- the values are those of the store's own kernel, to the bit
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
    """What gives N tokens of D channels for every clip: cached features, or token ids of texts."""

    def read(self, keys: Sequence[str], device: str | torch.device = "cpu") -> Float32[Tensor, "K N D"]:
        """On `device`; StepDiffError names the first clip that has none."""


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
        """Rows [K] of the keys; StepDiffError names the first that has no features."""
        rows = self.catalog.rows(keys)
        there = self._there(rows)
        if not there.all():
            first = int(np.flatnonzero(~there)[0])
            state = "unknown" if rows[first] < 0 else ("absent", "ok", "failed")[self._status[rows[first]]]
            raise StepDiffError(
                f"{keys[first]}: no {self.view.name} features in the store ({state}); run python -m featurize with "
                f"--encoder {self.view.provenance.encoder} and a manifest that holds it"
            )
        return rows

    def has(self, keys: Sequence[str]) -> np.ndarray:
        """bool [K]: whether features stand for the key."""
        return self._there(self.catalog.rows(keys))

    def read(self, keys: Sequence[str], device: str | torch.device = "cpu") -> Float32[Tensor, "K ..."]:
        """The features on `device`: they travel as they are stored, and become float32 there."""
        rows = self.rows(keys)
        if self.view.features[self.feature].dtype != "int8":
            return torch.from_numpy(self.view.read(self.feature, rows, direct=self._direct)).to(device).float()
        if torch.device(device).type == "cpu":
            return torch.from_numpy(self.view.read(self.feature, rows, direct=self._direct, dtype="float32"))
        stored = self.view.read_quantised(self.feature, rows, direct=self._direct)
        levels, scale = (torch.from_numpy(part).to(device) for part in stored)
        return dequantise(levels, scale)

    def _there(self, rows: np.ndarray) -> np.ndarray:
        """bool [K]: whether features stand for the row, -1 for none."""
        there = rows >= 0
        there[there] = self._status[rows[there]] == OK
        return there


def knows_splits(catalog: pl.DataFrame) -> bool:
    """Whether it says of any clip which split that is of; where it does not, every clip may train."""
    return "split" in catalog.columns and catalog["split"].null_count() < catalog.height
