"""Files of an index, checked before memory is allocated for them: FAISS indexes and the arrays of a sample.

Guarantees
- forged_sizes_allocate_nothing: a file that declares more than it holds is refused before memory is allocated
- ids_that_are_not_ok_rows_are_refused: an index whose numbers are not the filled rows of its view is refused
"""

from __future__ import annotations

import math
import struct
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int64

from common.errors import StepDiffError

if TYPE_CHECKING:
    import faiss

_HEADER = struct.Struct("<4siqqq?i")  # kind, dimension, vectors, two unused numbers, is trained, metric
_LEAST_BYTES = 9  # of a vector in a file: one byte of code and its row number
_DERIVED = 64 * 2**20  # bytes of tables that FAISS computes from small codebooks while it reads
_limits = threading.Lock()  # FAISS's limits apply to the whole process


class DamagedIndex(StepDiffError):
    """A file of an index that differs from what was written; the message begins with the fault."""


def read_faiss(path: Path, dim: int, count: int, mapped: bool = False) -> faiss.Index:
    """Return the FAISS index in a file of `count` vectors of `dim` channels.

    `mapped` leaves the inverted lists in the mapped file.

    Raises:
        DamagedIndex: The header declares other numbers, or more than the file holds, or FAISS cannot read it.
    """
    import faiss

    size = path.stat().st_size
    with open(path, "rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise DamagedIndex(f"{path.name} is damaged: it ends within its header")
    _, d, vectors, _, _, _, metric = _HEADER.unpack(header)
    if (d, vectors, metric) != (dim, count, faiss.METRIC_INNER_PRODUCT) or vectors * _LEAST_BYTES > size:
        raise DamagedIndex(
            f"{path.name} is damaged: {size:,} bytes that declare {vectors:,} vectors of {d:,} channels, "
            f"but the index has {count:,} of {dim:,}"
        )
    flags = faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE  # only L2 distances need that table
    try:
        with _limited(size):
            index = faiss.read_index(str(path), flags | (faiss.IO_FLAG_MMAP if mapped else 0))
    except (RuntimeError, MemoryError) as error:
        reason = (str(error).strip().splitlines() or ["out of memory"])[-1]
        raise DamagedIndex(f"{path.name} is damaged: FAISS cannot read it ({reason})") from error
    if (index.d, index.ntotal) != (dim, count):  # a wrapper may declare other numbers than it holds
        raise DamagedIndex(f"{path.name} is damaged: it holds {index.ntotal:,} vectors of {index.d:,} channels")
    return index


@contextmanager
def _limited(size: int) -> Iterator[None]:
    """Limit the memory of each array that FAISS reads to what a file of `size` bytes can fill.

    FAISS has these limits since 1.14.2. faiss-gpu-cu12 is older: there only the header is checked.
    """
    import faiss

    if not hasattr(faiss, "set_deserialization_vector_byte_limit"):
        yield
        return
    with _limits:
        before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
        faiss.set_deserialization_vector_byte_limit(size + _DERIVED)
        faiss.set_deserialization_loop_limit(size)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before[0])
            faiss.set_deserialization_loop_limit(before[1])


def check_ids(index: faiss.Index, name: str, filled: Int64[np.ndarray, " rows"]) -> None:
    """Raise DamagedIndex unless the numbers in an index are the filled rows of its view, each exactly once."""
    found: Bool[np.ndarray, " up_to_last"] = np.zeros(int(filled.max(initial=-1)) + 1, bool)
    total = 0
    for part in ids(index):
        if len(part) and (part.min() < 0 or part.max() >= len(found)):
            break
        found[part] = True
        total += len(part)
    if total != len(filled) or np.count_nonzero(found) != len(filled) or not found[filled].all():
        raise DamagedIndex(f"{name} is damaged: its numbers are not the rows of its view")


def ids(index: faiss.Index) -> Iterator[Int64[np.ndarray, " list"]]:
    """Yield the row numbers of each inverted list that is not empty, or all at once if the index has no lists."""
    import faiss

    ivf = faiss.try_extract_index_ivf(index)
    if ivf is None:
        outer = faiss.downcast_index(index)
        yield faiss.vector_to_array(outer.id_map) if isinstance(outer, faiss.IndexIDMap) else np.empty(0, np.int64)
        return
    lists = ivf.invlists
    for n in range(lists.nlist):
        if size := lists.list_size(n):
            yield faiss.rev_swig_ptr(lists.get_ids(n), size)


def read_arrays(path: Path, forms: Mapping[str, tuple[str, int]]) -> dict[str, np.ndarray]:
    """Return the arrays of an uncompressed .npz file; `forms` gives the type and number of axes of each.

    Raises:
        DamagedIndex: Not such a file, or an array that declares another form or size than it has.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as file:
            members = {info.filename: info for info in file.infolist()}
            if sorted(members) != sorted(f"{name}.npy" for name in forms) or any(
                info.compress_type != zipfile.ZIP_STORED or info.file_size > size for info in members.values()
            ):
                raise ValueError("it contains other arrays, or compressed ones")
            return {name: _array(file.read(f"{name}.npy"), *form) for name, form in forms.items()}
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError, NotImplementedError, struct.error) as error:
        raise DamagedIndex(f"{path.name} is damaged: it cannot be read ({error})") from error


def _array(data: bytes, kind: str, axes: int) -> np.ndarray:
    """An array from the bytes of a .npy file. Raises ValueError where header and bytes disagree."""
    file = BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"version {version} of an array")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
    start = file.tell()
    if dtype != np.dtype(kind) or len(shape) != axes or math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"{len(data) - start:,} bytes that declare {dtype} {shape}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if by_column else "C").copy()
