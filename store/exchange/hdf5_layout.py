"""The two layouts of features in HDF5 files, and how their clips are read.

- clips: one dataset per clip, named by its key; or one group per clip, with one dataset per feature
- rows: one dataset per feature with one row per clip, and a dataset of keys

An HDF5 file can make its reader open other files (external raw storage, virtual datasets, external links), load code
(filter plugins) and allocate any amount of memory (declared shapes, chunk sizes, chained compression). Such links and
datasets are refused before anything is read through them.

Guarantees
- a file that is not HDF5, has a damaged structure, or ambiguous keys is refused in one line
- a clip that cannot be read, or has another shape than it should, fails alone
- an import reads bytes of the named file only
- a soft link that leaves the named group is refused
- filters that HDF5 would load as plugins are refused
- declared shapes are compared with the file size before allocation
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
from jaxtyping import Int

from common.errors import StepDiffError, some
from store.exchange.options import Layout
from store.provenance import check_name

_BUILT_IN = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_SZIP,
    h5py.h5z.FILTER_NBIT,
    h5py.h5z.FILTER_SCALEOFFSET,
    h5py.h5z.FILTER_LZF,  # part of h5py
}
_COMPRESSORS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SZIP, h5py.h5z.FILTER_LZF}
_RATIO = 1100  # bytes out of one byte: DEFLATE reaches 1,032, the others less
_FREE_BYTES = 64 * 2**20  # always allowed: sparse and constant datasets of that size are common


def named_group(file: h5py.File, group: str) -> h5py.Group:
    """Return the group `group` of a file.

    Raises:
        StepDiffError: it does not exist, is a dataset, or a link on the way leads to another file or place.
    """
    at: h5py.Group = file
    for name in PurePosixPath(group).parts:
        if name in ("/", "."):
            continue
        link = at.get(name, getlink=True)
        if link is None:
            raise StepDiffError(f"cannot read group {group} of {file.filename}: {name!r} does not exist in {at.name}")
        if not isinstance(link, h5py.HardLink):
            target = f"{link.filename}:{link.path}" if isinstance(link, h5py.ExternalLink) else link.path
            raise StepDiffError(
                f"group {group} of {file.filename} leads through a link {name!r} to {target}: name the group itself"
            )
        at = at[name]
        if not isinstance(at, h5py.Group):
            raise StepDiffError(f"{group} of {file.filename} is not a group: {at.name} is a dataset")
    return at


def refuse_link(root: h5py.Group, name: str, link: object) -> None:
    """Raise StepDiffError where the link `name`, a path from `root`, leads out of `root`."""
    where = f"{root.file.filename} links {name}"
    if isinstance(link, h5py.ExternalLink):
        raise StepDiffError(f"{where} to {link.filename}: copy it into one file first")
    if isinstance(link, h5py.SoftLink):
        inside = PurePosixPath(root.name)
        target = inside / PurePosixPath(name).parent / link.path  # an absolute path replaces what is before it
        if not target.is_relative_to(inside):
            raise StepDiffError(f"{where} to {link.path}, outside group {root.name}: name a group that holds both")
    elif not isinstance(link, h5py.HardLink):
        raise StepDiffError(f"{where} by a link of an unknown kind: copy it into one file first")


def refuse_dataset(name: str, dataset: h5py.Dataset) -> None:
    """Raise StepDiffError where reading `dataset` would open another file, load code, or allocate too much."""
    where = f"dataset {name} of {dataset.file.filename}"
    if dataset.is_virtual:
        raise StepDiffError(f"{where} is virtual, which reads other datasets: copy the values into the file first")
    if dataset.external:
        raise StepDiffError(
            f"{where} reads the file {dataset.external[0][0]}: copy the values into the HDF5 file first"
        )
    pipeline = dataset.id.get_create_plist()
    filters = [pipeline.get_filter(number)[0] for number in range(pipeline.get_nfilters())]
    for code in filters:
        if code not in _BUILT_IN:
            raise StepDiffError(
                f"{where} needs filter plugin {code}, and none is loaded: rewrite it with h5repack -f GZIP=4"
            )
    if len(set(filters)) < len(filters) or len(_COMPRESSORS & set(filters)) > 1:
        raise StepDiffError(f"{where} is compressed more than once: rewrite it with h5repack -f GZIP=4")
    size = dataset.file.id.get_filesize()
    held = min(dataset.id.get_storage_size(), size)
    most = max(_FREE_BYTES, size, held * (_RATIO if filters else 1))
    for what, shape in (("values", dataset.shape or ()), ("a chunk", dataset.chunks or ())):
        declared = math.prod(shape) * dataset.dtype.itemsize
        if declared > most:
            raise StepDiffError(
                f"{where} declares {declared:,} bytes for {what}, and the file holds {held:,} of it: damaged?"
            )


DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, SystemError)
"""what h5py raises on a damaged file; SystemError where a visit of links ends early"""

Read = tuple[dict[str, np.ndarray], dict[int, str]]
"""features of P places of a file [P, ...], and why some of the P could not be read"""


@dataclass(frozen=True)
class Kind:
    """Shape and dtype of a dataset."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def is_text(self) -> bool:
        """Whether each row is one text."""
        return len(self.shape) == 1 and h5py.check_string_dtype(self.dtype) is not None

    @property
    def is_float(self) -> bool:
        """Whether values are floats."""
        return self.dtype.kind == "f"

    @property
    def is_feature(self) -> bool:
        """Whether values are floats, or int8, which needs scales."""
        return self.is_float or self.dtype == np.int8

    @property
    def stored(self) -> str:
        """The dtype that holds its values in a store."""
        if not self.is_float:
            return "int8"
        return "float16" if self.dtype.itemsize == 2 else "float32"


@dataclass(frozen=True)
class ClipDatasets:
    """The layout `clips`."""

    file: h5py.Group
    keys: list[str]
    paths: dict[str, str]
    """feature -> the path of its dataset after the key"""
    kinds: dict[str, Kind]
    """feature -> the dataset of one clip"""

    def read(self, places: Int[np.ndarray, " P"]) -> Read:
        """Return the features of the clips at `places`."""
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
        wanted = self.kinds[name].dtype
        if dataset.dtype.kind != wanted.kind or (wanted.kind == "i" and dataset.dtype != wanted):
            return f"{name} is {dataset.dtype}, not {'floats' if wanted.kind == 'f' else wanted}"
        return None


@dataclass(frozen=True)
class RowDatasets:
    """The layout `rows`."""

    file: h5py.Group
    keys: list[str]
    paths: dict[str, str]
    """feature -> its dataset"""
    kinds: dict[str, Kind]
    """feature -> one row"""

    def read(self, places: Int[np.ndarray, " P"]) -> Read:
        """Return the features of the rows at `places`."""
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
    """Return the message of h5py on one line."""
    return " ".join(str(error).split())[:200]


@contextmanager
def opened(
    path: Path, group: str, layout: Layout | None, keys: str | None, features: Sequence[str]
) -> Iterator[Source]:
    """Yield the clips of a file.

    Arguments are as in `Hdf5ImportOptions`. Raises StepDiffError where the file cannot be used.
    """
    try:
        file = h5py.File(path, "r")
    except DAMAGE as error:
        why = "it does not exist" if not path.exists() else f"it is not an HDF5 file, or damaged: {one_line(error)}"
        raise StepDiffError(f"cannot open {path}: {why}") from error
    with file:
        try:
            root = named_group(file, group)
            found = dict(_datasets(root))
            if not found:
                raise StepDiffError(f"group {group} of {path} holds no datasets")
            wanted = list(features) or _exported(root, len(found))
            source = _source(path, root, found, layout, keys, wanted)
        except DAMAGE as error:
            raise StepDiffError(f"cannot read group {group} of {path}: {one_line(error)}") from error
        yield source


def _exported(root: h5py.Group, datasets: int) -> list[str]:
    """Return the features that export-hdf5 noted about its own file, at most one a dataset; empty of other files."""
    if "features" not in root.attrs:
        return []
    noted = root.attrs.get_id("features")
    if len(noted.shape) != 1 or noted.shape[0] > datasets or h5py.check_string_dtype(noted.dtype) is None:
        raise StepDiffError(
            f"attribute features of {root.file.filename} is not a list of its datasets: give --features"
        )
    return [str(name) for name in root.attrs["features"]]


def _source(
    path: Path,
    root: h5py.Group,
    found: Mapping[str, Kind],
    layout: Layout | None,
    keys: str | None,
    features: list[str],
) -> Source:
    texts = [name for name, kind in found.items() if kind.is_text]
    if layout == "rows" or keys or (layout is None and texts):
        if keys is None and len(texts) != 1:
            raise StepDiffError(f"{path} has datasets of texts {texts}: name that of the keys with --keys")
        return _rows(path, root, found, keys or texts[0], features)
    if layout is None:
        _refuse_numbers(path, found)
    return _clips(path, root, found, features)


def _rows(path: Path, root: h5py.Group, found: Mapping[str, Kind], keys: str, features: list[str]) -> RowDatasets:
    if keys not in found or not found[keys].is_text:
        raise StepDiffError(f"{path} has no dataset {keys!r} of one text a row: it has {some(found)}")
    (count,) = found[keys].shape
    paths = _named(features)
    if not paths:
        fitting = [name for name, kind in found.items() if kind.is_float and kind.shape[:1] == (count,)]
        paths = {check_name("feature", name): name for name in fitting}
    if not paths:
        raise StepDiffError(f"{path} has no dataset of floats with {count} rows, as {keys!r}: it has {some(found)}")
    kinds = {}
    for name, dataset in paths.items():
        kind = found.get(dataset)
        if kind is None or not kind.is_feature or kind.shape[:1] != (count,) or len(kind.shape) < 2:
            is_there = f"is {kind.dtype} {list(kind.shape)}" if kind else f"is not there: it has {some(found)}"
            raise StepDiffError(f"dataset {dataset!r} of {path} {is_there}: give floats [{count}, ...], a row a key")
        kinds[name] = Kind(kind.shape[1:], kind.dtype)
    try:
        texts = root[keys].asstr("utf-8")[()].tolist()
    except UnicodeDecodeError as error:
        raise StepDiffError(f"keys {keys!r} of {path} are not UTF-8: {error}") from error
    return RowDatasets(root, texts, paths, kinds)


def _clips(path: Path, root: h5py.Group, found: Mapping[str, Kind], features: list[str]) -> ClipDatasets:
    if len(features) > 1 or any("=" in feature for feature in features):
        paths = {name: f"/{dataset}" for name, dataset in _named(features).items()}
        ends = tuple(paths.values())
        keys = list(dict.fromkeys(d.removesuffix(end) for d in found for end in ends if d.endswith(end)))
    else:
        if not features:
            _refuse_groups(path, found)
        keys = list(found)
        axes = Counter(len(kind.shape) for kind in found.values())
        name = features[0] if features else "embedding" if axes[1] > len(found) / 2 else "tokens"
        paths = {name: ""}
    if not keys:
        raise StepDiffError(f"{path} has no clips with datasets {', '.join(paths)}: it has {some(found)}")
    kinds = {name: _commonest(path, name, keys, end, found) for name, end in paths.items()}
    return ClipDatasets(root, keys, paths, kinds)


def _refuse_numbers(path: Path, found: Mapping[str, Kind]) -> None:
    """Raise StepDiffError where a dataset of integers may be the keys of another one's rows."""
    alone = {name: kind for name, kind in found.items() if "/" not in name}
    rows = {kind.shape[:1]: name for name, kind in alone.items() if kind.is_float and len(kind.shape) > 1}
    for name, kind in alone.items():
        if kind.dtype.kind in "iu" and kind.shape in rows:
            raise StepDiffError(
                f"dataset {name!r} of {path} has an integer for each row of {rows[kind.shape]!r}; keys are texts: "
                f"write it as texts and give --keys {name}, or --layout clips if each dataset is a clip"
            )


def _refuse_groups(path: Path, found: Mapping[str, Kind]) -> None:
    """Raise StepDiffError where datasets of groups have the same name: clips may be groups."""
    for name, count in Counter(dataset.rpartition("/")[2] for dataset in found).items():
        if count > 1:
            raise StepDiffError(
                f"{path} has a dataset {name!r} in {count} groups: give --features NAME={name} if a group is a "
                "clip, or --features NAME if each dataset is one"
            )


def _commonest(path: Path, name: str, keys: list[str], end: str, found: Mapping[str, Kind]) -> Kind:
    """Return the shape that most clips have of a feature: rows of a store all have one shape."""
    kinds = [found[key + end] for key in keys if key + end in found]
    floats = [kind for kind in kinds if kind.is_float] or [kind for kind in kinds if kind.is_feature]
    if not floats:
        dtype = str(kinds[0].dtype) if kinds else "not there"
        raise StepDiffError(f"{name} of {path} is {dtype}: features are floats, or int8 with a dataset of scales")
    (shape, count), *others = Counter(kind.shape for kind in floats).most_common()
    if not shape or min(shape) < 1:
        raise StepDiffError(f"{name} of {path} is {list(shape)}: features have one axis or more, none 0")
    if count < len(keys) / 2:
        raise StepDiffError(
            f"{name} of {path} has {1 + len(others)} shapes, the commonest, {list(shape)}, in {count} of {len(keys)} "
            "clips: rows of a view have one shape, so pool or pad them first"
        )
    return next(kind for kind in floats if kind.shape == shape)


def _datasets(root: h5py.Group) -> Iterator[tuple[str, Kind]]:
    """Yield every dataset below `root`, by its path from there."""
    links: dict[str, object] = {}
    root.visititems_links(links.__setitem__)  # visititems would leave out the second name of a dataset
    for name, link in links.items():
        refuse_link(root, name, link)
    for name in links:
        try:
            item = root.get(name)
            if isinstance(item, h5py.Dataset):
                refuse_dataset(name, item)
        except DAMAGE:
            item = None
        if item is None:  # a dangling link, or damaged: the clip fails
            yield name, Kind((), np.dtype(object))
        elif isinstance(item, h5py.Dataset):
            yield name, Kind(item.shape or (), item.dtype)


def _named(features: list[str]) -> dict[str, str]:
    """Return feature -> dataset, from `NAME` or `NAME=DATASET`."""
    pairs = [feature.partition("=") for feature in features]
    return {name: dataset or name for name, _, dataset in pairs}
