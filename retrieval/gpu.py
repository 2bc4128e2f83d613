"""GPUs, where FAISS has any (`pip install -e '.[gpu]'`): training there takes minutes where it takes hours"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import faiss


@contextmanager
def cluster_on_gpu(ivf: faiss.IndexIVF | None) -> Iterator[None]:
    """Let the centroids of an IVF index be trained on all GPUs within this block; without GPUs nothing changes."""
    import faiss

    if ivf is None or not faiss.get_num_gpus():
        yield
        return
    ivf.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(ivf.d))
    yield
    ivf.clustering_index = None
