"""FAISS on a GPU: IVF indexes are copied to the card, where they are trained, filled and searched.

Guarantees
- on the CPU an index is not copied; everything else is the same code
- a copy has the same codes, and its hits are compared again by the store's vectors (index.py)
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

from stepdiff_core.errors import StepDiffError, first_line

if TYPE_CHECKING:
    import faiss

Device = Literal["auto", "cpu", "cuda"]
LARGE = 1_000_000  # rows from which `auto` uses a card
MOST = 2048  # hits and probed lists of a query, on a card
BUILDS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12")
"""distributions that install the module faiss, all into one folder"""


def device_for(device: Device, rows: int) -> Device:
    """Return where an index of `rows` rows is filled and searched: `cpu` unless there is a card
    that may be used.

    StepDiffError: `cuda` without a card, or several distributions of FAISS.
    """
    faiss: Any = import_module("faiss")
    builds = [name for name in BUILDS if _installed(name)]
    if len(builds) > 1:
        raise StepDiffError(
            f"{' and '.join(builds)} are installed into the same folder: run `python -m pip "
            f"uninstall --yes {' '.join(builds)}`, then install stepdiff[index] or stepdiff[gpu]"
        )
    cards = faiss.get_num_gpus()
    if device == "cuda" and not cards:
        reason = "sees no GPU" if hasattr(faiss, "StandardGpuResources") else "is built for CPUs"
        raise StepDiffError(
            f"--device cuda: {', '.join(builds) or 'FAISS'} {reason}: leave --device out, or "
            "install stepdiff[gpu] (docs/guides/retrieval.md) on a machine with a GPU"
        )
    return "cpu" if not cards or (device == "auto" and rows < LARGE) else device


def _installed(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False


def on_device(index: faiss.Index, device: Device) -> faiss.Index:
    """Return a copy of an IVF or flat index on the first card, or the index itself if it stays on
    the CPU.

    With `auto` that is also an index for which FAISS has no GPU code. StepDiffError: with `cuda` it
    is one.
    """
    if device == "cpu":
        return index
    faiss: Any = import_module("faiss")
    ivf, reason = faiss.try_extract_index_ivf(index), "graphs stay on the CPU"
    if isinstance(index, faiss.IndexFlat) or (ivf is not None and ivf.nprobe <= MOST):
        options = faiss.GpuClonerOptions()
        codes = None if ivf is None else faiss.downcast_index(ivf)
        # tables of more than 48 pieces fit a card only so
        options.useFloat16 = isinstance(codes, faiss.IndexIVFPQ)
        try:
            return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index, options)
        except RuntimeError as error:
            reason = first_line(error)
    elif ivf is not None:
        reason = f"it probes {ivf.nprobe} lists, more than {MOST}"
    if device == "auto":
        return index
    raise StepDiffError(
        f"FAISS cannot use this index on a GPU ({reason}): leave --device out, or give --factory"
    )


def on_cpu(index: faiss.Index, device: Device) -> faiss.Index:
    """Return an index of `on_device` on the CPU."""
    faiss: Any = import_module("faiss")
    return index if device == "cpu" else faiss.index_gpu_to_cpu(index)
