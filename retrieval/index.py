"""A FAISS index over one view of a store, and the card that says what it was built from.

On disk, in the store: indexes/ENTITY/VIEW.faiss, and VIEW.json (the card) beside it.

Guarantees:
- ids_are_store_rows: a hit is a row of the store, whatever rows failed or are not there yet.
- stale_is_refused: an index of rows that have changed since, of another provenance, without its
  card, or damaged in any byte is not searched; the error says why and how to build it anew.
- similarities_are_exact: hits of an index that approximates are compared again by the store's own
  vectors, so a similarity is always the cosine.
- whole_or_not_at_all: the index, then its card; a build that dies leaves the old index standing.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int64

from retrieval.advice import command
from retrieval.errors import RetrievalError
from retrieval.files import local, whole
from retrieval.progress import progress
from retrieval.vectors import blocks, filled_rows, normalised, width
from store import Store, View
from store.commit import make_folder
from store.layout import zarr_store
from store.remote import Place

if TYPE_CHECKING:
    import faiss

CARD_VERSION = 1
METRIC = "inner product of L2-normalised rows"
FLAT_BELOW = 100_000  # rows; measured: exact search is fast enough, and needs no training
QUANTISED_FROM = 10_000_000  # rows; beyond, half floats no longer fit the memory of one machine
PROBES = 64  # lists of an IVF index that a query looks at
TRAINING_ROWS_A_LIST = 64
AGAIN = 10  # hits of an approximate index compared exactly, for each one asked for


@dataclass(frozen=True)
class Index:
    """An index that was found true to its store."""

    store: Store
    view: View
    card: dict[str, Any]
    faiss: faiss.Index

    def __len__(self) -> int:
        return int(self.card["rows"])

    def search(
        self, queries: Float32[np.ndarray, "queries dim"], k: int, among: Int64[np.ndarray, " rows"] | None = None
    ) -> tuple[Int64[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]:
        """The k nearest rows of each normalised query and their cosines, best first; with `among`, of those rows.

        Where an approximate index finds fewer, the row is -1 and the cosine -inf. RetrievalError: an index of a kind
        that cannot leave rows out.
        """
        exact = self.card["exact"]
        only = None if among is None else selecting(self.faiss, among)
        try:
            similarities, rows = self.faiss.search(queries, k if exact else max(k * AGAIN, 100), params=only)
        except RuntimeError as error:
            raise RetrievalError(
                f"FAISS cannot search some rows alone in an index {self.card['factory']!r}: "
                "build one with --factory auto"
            ) from error
        if not exact:
            for one, found in enumerate(rows):
                hits = found[found >= 0]
                vectors = normalised(self.store, self.view, self.card["feature"], hits)
                similarities[one, found >= 0] = vectors.astype(np.float32) @ queries[one]
                similarities[one, found < 0] = -np.inf
            order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
            rows = np.take_along_axis(rows, order, axis=1)
            similarities = np.take_along_axis(similarities, order, axis=1)
        return rows, similarities


def selecting(index: faiss.Index, rows: Int64[np.ndarray, " rows"]) -> faiss.SearchParameters:
    """What makes a search of `index` look at `rows` alone, with its own settings otherwise."""
    import faiss

    chosen = np.zeros(int(rows.max(initial=0)) + 1, bool)
    chosen[rows] = True
    only = faiss.IDSelectorBitmap(np.packbits(chosen, bitorder="little"))
    inner = faiss.downcast_index(index.index)
    if isinstance(inner, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=only, nprobe=inner.nprobe)
    if isinstance(inner, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=only, efSearch=inner.hnsw.efSearch)
    return faiss.SearchParameters(sel=only)


def paths(store: Store, entity: str, view: str) -> tuple[Place, Place]:
    """The index file and its card."""
    folder = store.path / "indexes" / entity
    return folder / f"{view}.faiss", folder / f"{view}.json"


def factory_for(rows: int, dim: int) -> str:
    """The FAISS factory string that suits so many rows."""
    if rows < FLAT_BELOW:
        return "Flat"
    lists = round(4 * math.sqrt(rows))
    if rows <= QUANTISED_FROM:
        return f"IVF{lists},SQfp16"
    pieces = max(pieces for pieces in range(1, 65) if dim % pieces == 0)
    return f"IVF{lists},PQ{pieces}"


def build_index(
    store: Store,
    view: View,
    feature: str = "embedding",
    factory: str = "auto",
) -> dict[str, Any]:
    """Indexes the filled rows of `view` and returns the card.

    RetrievalError: no such embedding, no rows, a row without a direction, an unusable factory.
    """
    import faiss

    start = time.monotonic()
    dim = width(view, feature)
    rows = filled_rows(view)
    if not len(rows):
        raise RetrievalError(
            f"view {view.entity}/{view.name} of {store.path} has no features yet: fill it first "
            f"with {command('python', '-m', 'featurize', '--help')}"
        )
    state = digest(store, view, rows)
    named = factory_for(len(rows), dim) if factory == "auto" else factory
    try:
        index = faiss.index_factory(dim, f"IDMap,{named}", faiss.METRIC_INNER_PRODUCT)
        _train(index, store, view, feature, rows)
        with progress("indexed rows", len(rows)) as advance:
            for ids, vectors in blocks(store, view, feature, rows):
                index.add_with_ids(vectors.astype(np.float32), ids)
                advance(len(ids))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RetrievalError(
            f"FAISS cannot build {named!r} over {len(rows)} rows of {dim} channels ({reason}): "
            f"choose another --factory, or auto"
        ) from error
    path, card_path = paths(store, view.entity, view.name)
    make_folder(path.parent)
    with whole(path) as temporary:
        try:
            faiss.write_index(index, str(temporary))
        except RuntimeError as error:
            raise RetrievalError(f"cannot write {path}: make room on its disk") from error
        sha256 = _sha256(temporary)
    card = {
        "version": CARD_VERSION,
        "entity": view.entity,
        "view": view.name,
        "feature": feature,
        "provenance": view.provenance.as_dict(),
        "factory": named,
        "exact": named == "Flat",
        "metric": METRIC,
        "rows": len(rows),
        "dim": dim,
        "digest": state,
        "sha256": sha256,
        "faiss": faiss.__version__,
        "seconds": round(time.monotonic() - start, 3),
    }
    card["seal"] = _seal(card)
    with whole(card_path) as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


def _train(index: faiss.Index, store: Store, view: View, feature: str, rows: Int64[np.ndarray, " rows"]) -> None:
    """Trains an index that needs it on a seeded sample of the rows."""
    import faiss

    ivf = faiss.try_extract_index_ivf(index)
    if ivf is not None:
        ivf.nprobe = min(PROBES, ivf.nlist)
    if not index.is_trained:
        wanted = TRAINING_ROWS_A_LIST * (ivf.nlist if ivf is not None else 1024)
        sample = np.random.default_rng(0).permutation(len(rows))[:wanted]
        vectors = normalised(store, view, feature, rows[np.sort(sample)])
        index.train(vectors.astype(np.float32))


def open_index(store: Store, view: View) -> Index:
    """The index of `view`. RetrievalError where there is none, or where it is stale."""
    import faiss

    path, card_path = paths(store, view.entity, view.name)
    again = ["python", "-m", "retrieval", "build", "--store", store.path, "--view", view.name]
    again += ["--entity", view.entity] if view.entity != "clips" else []
    if not path.exists():
        raise RetrievalError(f"view {view.entity}/{view.name} of {store.path} has no index: run {command(*again)}")
    card = _read_card(card_path)
    if card and card["feature"] != "embedding":
        again += ["--feature", card["feature"]]
    with local(path) as file:
        if reason := _stale(store, view, file, card):
            raise RetrievalError(f"the index {path} is stale, {reason}: run {command(*again)}")
        assert card is not None
        mapped = not card["exact"] and file == path
        return Index(store, view, card, faiss.read_index(str(file), faiss.IO_FLAG_MMAP if mapped else 0))


def _read_card(path: Place) -> dict[str, Any] | None:
    """The card, or None where there is none or it is not as it was written."""
    try:
        card = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(card, dict) or card.pop("seal", None) != _seal(card):
        return None
    return card if card["version"] == CARD_VERSION else None


def _stale(store: Store, view: View, path: Path, card: dict[str, Any] | None) -> str | None:
    """Why the index may not be searched, or None where it may."""
    if card is None:
        return "its card (the .json beside it) is missing or was changed"
    provenance = type(view.provenance).from_dict(card["provenance"])
    if provenance != view.provenance:
        return f"its view was made anew ({provenance.difference(view.provenance)})"
    rows = filled_rows(view)
    if len(rows) != card["rows"]:
        return f"it holds {card['rows']} rows and the view now has {len(rows)}"
    if digest(store, view, rows) != card["digest"]:
        return "the rows of its view were written anew"
    if _sha256(path) != card["sha256"]:
        return "its file is damaged or of another build"
    return None


def digest(store: Store, view: View, rows: Int64[np.ndarray, " rows"]) -> str:
    """sha256, in hex, over the keys, rows and stored checksums of the filled `rows`."""
    import zarr

    array = zarr.open_array(zarr_store(view.paths.group / "checksum"), mode="r")
    checksums = np.asarray(array[:]).astype("<u4")[rows]
    state = hashlib.sha256()
    state.update("\n".join(store.catalog(view.entity).keys(rows)).encode())
    state.update(rows.astype("<i8").tobytes())
    state.update(np.ascontiguousarray(checksums).tobytes())
    return state.hexdigest()


def _seal(card: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
