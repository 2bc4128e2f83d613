"""Files of an index, checked before anything is allocated for them: FAISS indexes and the arrays of a sample.

Guarantees
- forged_sizes_allocate_nothing: a file that declares more than it holds is refused before memory is taken for that
- ids_are_filled_rows: an index whose numbers are not the rows of its view is refused
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
_LEAST_BYTES = 9  # of a vector in a file: a code of one byte and its row number
_DERIVED = 64 * 2**20  # bytes of tables that FAISS computes from small codebooks while it reads
_limits = threading.Lock()  # FAISS's limits apply to the whole process


class DamagedIndex(StepDiffError):
    """A file of an index that is not as it was written; the message begins with what is wrong."""


def read_faiss(path: Path, dim: int, count: int, mapped: bool = False) -> faiss.Index:
    """Return the FAISS index in a file.

    Args:
        path: the file.
        dim: channels that its vectors must have.
        count: vectors that it must hold.
        mapped: leave inverted lists in the file, and map it.

    Raises:
        DamagedIndex: the header declares anything else, or more than the file holds, or FAISS cannot read it.
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
            f"where the index has {count:,} of {dim:,}"
        )
    flags = faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE  # distances of L2 alone need that table
    try:
        with _limited(size):
            index = faiss.read_index(str(path), flags | (faiss.IO_FLAG_MMAP if mapped else 0))
    except (RuntimeError, MemoryError) as error:
        reason = (str(error).strip().splitlines() or ["out of memory"])[-1]
        raise DamagedIndex(f"{path.name} is damaged: FAISS cannot read it ({reason})") from error
    if (index.d, index.ntotal) != (dim, count):  # a wrapper that declares one thing and holds another
        raise DamagedIndex(f"{path.name} is damaged: it holds {index.ntotal:,} vectors of {index.d:,} channels")
    return index


@contextmanager
def _limited(size: int) -> Iterator[None]:
    """Let FAISS take no more memory for one array than a file of `size` bytes can fill.

    FAISS has such limits since 1.14.2. The newest faiss-gpu-cu12 is older: with it only the header is checked.
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
    """Raise DamagedIndex unless the numbers in an index are the filled rows of its view, each once."""
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
    """Yield the row numbers in an index: those of each inverted list that is not empty, or all at once."""
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
    """Return the arrays of an uncompressed .npz file.

    Args:
        path: the file.
        forms: type and number of axes that each array must have, by name.

    Raises:
        DamagedIndex: it is no such file, or an array declares another form or size than it has.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as file:
            members = {info.filename: info for info in file.infolist()}
            if sorted(members) != sorted(f"{name}.npy" for name in forms) or any(
                info.compress_type != zipfile.ZIP_STORED or info.file_size > size for info in members.values()
            ):
                raise ValueError("it holds other arrays, or compressed ones")
            return {name: _array(file.read(f"{name}.npy"), *form) for name, form in forms.items()}
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError, NotImplementedError, struct.error) as error:
        raise DamagedIndex(f"{path.name} is damaged: it cannot be read ({error})") from error


def _array(data: bytes, kind: str, axes: int) -> np.ndarray:
    """An array from the bytes of a .npy file. ValueError where header and bytes do not agree."""
    file = BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"version {version} of an array")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
    start = file.tell()
    if dtype != np.dtype(kind) or len(shape) != axes or math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"{len(data) - start:,} bytes that declare {dtype} {shape}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if by_column else "C").copy()
