"""Cached features by clip id: all that a head ever knows of a video.

Guarantees
- a clip without features is named, with what to run
- rows come back in the order of the ids
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from heads.errors import HeadsError
from store import Store


@runtime_checkable
class Reads(Protocol):
    """What gives N tokens of D channels for every clip: cached features, or token ids of texts."""

    def read(self, keys: Sequence[str]) -> Float32[Tensor, "K N D"]:
        """HeadsError names the first clip that has none."""


class Features:
    """One feature of one view of an entity, read by key: a clip id, or the key of a text."""

    def __init__(self, store: Store, view: str, feature: str, entity: str = "clips") -> None:
        self.catalog = store.catalog(entity)
        self.view = store.view(entity, view)
        if feature not in self.view.features:
            raise HeadsError(
                f"{store.path}: view {view} of {entity} has no feature {feature!r}, only "
                f"{', '.join(sorted(self.view.features))}"
            )
        self.feature = feature
        self.shape = self.view.features[feature].shape
        self._status = self.view.status()

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Rows [K] of the keys; HeadsError names the first that has no features."""
        rows = np.asarray(self.catalog.rows(list(keys)))
        for key, row in zip(keys, rows, strict=True):
            if row < 0 or self._status[row] != 1:
                state = "unknown" if row < 0 else ("absent", "ok", "failed")[self._status[row]]
                raise HeadsError(
                    f"{key}: no {self.view.name} features in the store ({state}); run python -m featurize with "
                    f"--encoder {self.view.provenance.encoder} and a manifest that holds it"
                )
        return rows

    def has(self, keys: Sequence[str]) -> np.ndarray:
        """bool [K]: whether features stand for the key."""
        rows = np.asarray(self.catalog.rows(list(keys)))
        return (rows >= 0) & (self._status[np.maximum(rows, 0)] == 1)

    def read(self, keys: Sequence[str]) -> Float32[Tensor, "K ..."]:
        return torch.from_numpy(self.view.read_float(self.feature, self.rows(keys)))
