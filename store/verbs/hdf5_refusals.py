"""Datasets and links of an HDF5 file that are refused before anything is read through them.

An HDF5 file can make its reader open other files (external raw storage, virtual datasets, external links), load code
(filter plugins) and allocate any amount of memory (declared shapes, chunk sizes, chained compression).

Guarantees
- an import reads bytes of the named file only
- a soft link that leaves the named group is refused
- filters that HDF5 would load as plugins are refused
- declared shapes are compared with the file size before allocation
"""

import math
from pathlib import PurePosixPath

import h5py

from common.errors import StepDiffError

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
