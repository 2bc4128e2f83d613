"""Libraries that search vectors in memory, each built and asked at its best.

Every peer is given normalised float32 vectors and answers with their places. `effort` is the number by which a peer
trades speed for recall, `efforts` its useful values; an exact peer has none.
"""

from typing import Any

import faiss
import numpy as np

LINKS = 32  # of a graph's node
CONSTRUCTION = 80  # candidates that a graph looks at for a new node
PROBES = (*range(1, 17), 20, 24, 28, 32, 40, 48, 64, 96, 128, 192, 256)  # lists
CANDIDATES = (10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 192, 256, 512)  # nodes of a graph


class Searcher:
    """One way to search."""

    name: str
    efforts: tuple[int, ...] = (0,)

    def build(self, vectors: np.ndarray) -> None:
        """Build the index of vectors [R, D]."""
        raise NotImplementedError

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        """Return the places of the k nearest, [Q, k]."""
        raise NotImplementedError


class FaissFlat(Searcher):
    """FAISS, exact, in memory."""

    name = "faiss flat"

    def build(self, vectors: np.ndarray) -> None:
        self.index = faiss.IndexFlatIP(vectors.shape[1])
        self.index.add(vectors)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        return self.index.search(queries, k)[1]


class NumpyPartition(Searcher):
    """What is usually written: one product with all rows, and argpartition."""

    name = "numpy product + argpartition"

    def build(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        cosines = queries @ self.vectors.T
        near = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(cosines, near, axis=1), axis=1)
        return np.take_along_axis(near, order, axis=1)


class FaissIvf(Searcher):
    """FAISS with half floats in 4 sqrt(rows) lists, the number that it recommends."""

    name = "faiss IVF,SQfp16"
    code = "SQfp16"
    efforts = PROBES

    def build(self, vectors: np.ndarray) -> None:
        lists = max(min(round(4 * len(vectors) ** 0.5), len(vectors) // 39), 1)
        self.index = faiss.index_factory(vectors.shape[1], f"IVF{lists},{self.code}", faiss.METRIC_INNER_PRODUCT)
        self.index.train(vectors[np.random.default_rng(0).permutation(len(vectors))[: 64 * lists]])
        self.index.add(vectors)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        self.index.nprobe = effort
        return self.index.search(queries, k)[1]


class FaissIvfBytes(FaissIvf):
    """The same with a byte a channel."""

    name = "faiss IVF,SQ8"
    code = "SQ8"


class FaissIvfFlat(FaissIvf):
    """The same with float32."""

    name = "faiss IVF,Flat"
    code = "Flat"


class FaissHnsw(Searcher):
    """FAISS, a graph over float32."""

    name = "faiss HNSW32"
    factory = f"HNSW{LINKS}"
    efforts = CANDIDATES

    def build(self, vectors: np.ndarray) -> None:
        self.index = faiss.index_factory(vectors.shape[1], self.factory, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = CONSTRUCTION
        self.index.train(vectors)
        self.index.add(vectors)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        self.index.hnsw.efSearch = effort
        return self.index.search(queries, k)[1]


class FaissHnswHalf(FaissHnsw):
    """The same over half floats."""

    name = "faiss HNSW32,SQfp16"
    factory = f"HNSW{LINKS},SQfp16"


class Hnswlib(Searcher):
    """hnswlib, a graph over float32."""

    name = "hnswlib"
    efforts = CANDIDATES

    def build(self, vectors: np.ndarray) -> None:
        import hnswlib

        self.index: Any = hnswlib.Index("ip", vectors.shape[1])
        self.index.init_index(len(vectors), M=LINKS // 2, ef_construction=CONSTRUCTION)
        self.index.add_items(vectors)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        self.index.set_ef(max(effort, k))
        return self.index.knn_query(queries, k)[0].astype(np.int64)


class Usearch(Searcher):
    """usearch, a graph over half floats."""

    name = "usearch"
    efforts = CANDIDATES

    def build(self, vectors: np.ndarray) -> None:
        from usearch.index import Index

        self.index: Any = Index(
            ndim=vectors.shape[1], metric="ip", dtype="f16", connectivity=LINKS // 2, expansion_add=CONSTRUCTION
        )
        self.index.add(np.arange(len(vectors)), vectors)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        self.index.expansion_search = effort
        return self.index.search(queries, k).keys.astype(np.int64).reshape(len(queries), k)


EXACT = (FaissFlat, NumpyPartition)
APPROXIMATE = (FaissIvf, FaissIvfBytes, FaissIvfFlat, FaissHnsw, FaissHnswHalf, Hnswlib, Usearch)
