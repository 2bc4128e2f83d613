"""Cached features by clip id: all that a head ever knows of a video.

Guarantees
- a clip without features is named, with what to run
- rows come back in the order of the ids
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from heads.dequantise import dequantise
from heads.errors import HeadsError
from store import Store


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

    def read(self, keys: Sequence[str], device: str | torch.device = "cpu") -> Float32[Tensor, "K ..."]:
        """The features on `device`: they travel as they are stored, and become float32 there."""
        rows = self.rows(keys)
        if self.view.features[self.feature].dtype != "int8":
            return torch.from_numpy(self.view.read(self.feature, rows)).to(device).float()
        if torch.device(device).type == "cpu":
            return torch.from_numpy(self.view.read_float(self.feature, rows))
        levels, scale = (torch.from_numpy(part).to(device) for part in self.view.read_quantised(self.feature, rows))
        return dequantise(levels, scale)
