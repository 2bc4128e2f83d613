"""Clips in an HDF5 file, read in either of the two layouts that feature releases use.

- clips: a dataset a clip, whose key is the dataset's path; or a group a clip, with a dataset a feature
- rows: a dataset a feature, a row a clip, and a dataset of keys

Guarantees
- a clip that cannot be read, or has another shape than it should, fails alone
"""

from collections.abc import Mapping
from dataclasses import dataclass

import h5py
import numpy as np
from jaxtyping import Int

DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, SystemError)
"""what h5py raises on a damaged file: its exceptions follow the place in the HDF5 library, and a visit of links that
ends early is a SystemError"""

Read = tuple[dict[str, np.ndarray], dict[int, str]]
"""features of P places of a file [P, ...], and why some of the P could not be read"""


@dataclass(frozen=True)
class Kind:
    """What a dataset holds."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def is_text(self) -> bool:
        """Whether it is one text a row."""
        return len(self.shape) == 1 and h5py.check_string_dtype(self.dtype) is not None

    @property
    def is_float(self) -> bool:
        """Whether it is of floats."""
        return self.dtype.kind == "f"

    @property
    def stored(self) -> str:
        """The dtype that holds its values in a store."""
        return "float16" if self.dtype.itemsize == 2 else "float32"


@dataclass(frozen=True)
class ClipDatasets:
    """The layout `clips`."""

    file: h5py.Group
    keys: list[str]
    paths: dict[str, str]
    """feature -> what follows the key in the path of its dataset"""
    kinds: dict[str, Kind]
    """feature -> what a clip has of it"""

    def read(self, places: Int[np.ndarray, " P"]) -> Read:
        """The features of the clips at `places`."""
        features = _empty(self.kinds, len(places))
        reasons: dict[int, str] = {}
        for at, place in enumerate(places.tolist()):
            for name, path in self.paths.items():
                try:
                    dataset = self.file.get(self.keys[place] + path)
                    reason = self._misfit(name, dataset)
                    if reason is None:
                        features[name][at] = dataset[()]
                except DAMAGE as error:
                    reason = f"{name} cannot be read ({one_line(error)})"
                if reason:
                    reasons.setdefault(at, reason)
        return features, reasons

    def _misfit(self, name: str, dataset: object) -> str | None:
        if not isinstance(dataset, h5py.Dataset):
            return f"there is no dataset of {name}"
        if dataset.shape != self.kinds[name].shape:
            return f"{name} is {list(dataset.shape or ())}, not {list(self.kinds[name].shape)}"
        return None if dataset.dtype.kind == "f" else f"{name} is {dataset.dtype}, not floats"


@dataclass(frozen=True)
class RowDatasets:
    """The layout `rows`."""

    file: h5py.Group
    keys: list[str]
    paths: dict[str, str]
    """feature -> its dataset"""
    kinds: dict[str, Kind]
    """feature -> what a row of it is"""

    def read(self, places: Int[np.ndarray, " P"]) -> Read:
        """The features of the rows at `places`."""
        features = _empty(self.kinds, len(places))
        reasons: dict[int, str] = {}
        ends = [*(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
        for name, path in self.paths.items():
            dataset = self.file[path]
            for start, end in zip([0, *ends[:-1]], ends, strict=True):
                first = int(places[start])
                try:
                    features[name][start:end] = dataset[first : first + end - start]
                except DAMAGE:
                    for at in range(start, end):  # its neighbours may be sound
                        try:
                            features[name][at] = dataset[first + at - start]
                        except DAMAGE as error:
                            reasons.setdefault(at, f"{name} cannot be read ({one_line(error)})")
        return features, reasons


Source = ClipDatasets | RowDatasets


def _empty(kinds: Mapping[str, Kind], count: int) -> dict[str, np.ndarray]:
    return {name: np.empty((count, *kind.shape), kind.stored) for name, kind in kinds.items()}


def one_line(error: BaseException) -> str:
    """What h5py says, in one line."""
    return " ".join(str(error).split())[:200]
