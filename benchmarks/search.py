"""Nearest neighbours, exact and approximate, next to FAISS, hnswlib and usearch.

python -m benchmarks.search                                                  # about 10 minutes, 0.7 GB of disk
python -m benchmarks.search --rows 20000 --approximate 5000 --rounds 3       # a first look
python -m benchmarks.search --store data/features                            # the embeddings of that store too

Ours reads the store, whose pages are in memory after the first round; the peers hold normalised vectors, which are made
before the clock starts. They take turns in another order every round, and the median counts. Exact answers are
compared row by row: where two differ, their cosines must be equal in float32. The time of the product alone is the
limit of any float32 search here. Approximate answers are reported as recall of the 10 nearest and rate, at several
efforts; ours has the effort that its build chose for a recall of 0.95.

Clustered features are normal around a centre for every 50 rows, as clips of one step are; queries are other rows of the
same clusters. Features of a store are asked with some of their own rows.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness.report import Row, benchmark, line, measured
from common.cli import command

if TYPE_CHECKING:
    from benchmarks.harness.searchers import Searcher
    from store import Store, View

K = 10
A_CLUSTER = 50  # rows
SPREAD = 0.5  # of a row around its centre, whose own length is about 1
FASTER = 1.7  # than FAISS flat
OF_LIMIT = 0.8  # of the rate of the product alone, which nothing that multiplies in float32 can pass
PRODUCT = "the product alone"
PRODUCT_ROWS = 8192  # multiplied at a time
MORE_TIME = 0.1  # of adding, for the recall
SAME = 2e-6  # cosines as near as that are one number to float32
ONE_BY_ONE = 16  # queries that are asked singly too
OURS = "ours"


@dataclass(frozen=True)
class Options:
    rows: int = 200_000
    """rows of the clustered features of the exact search"""
    approximate: int = 20_000
    """rows of the clustered features of the approximate searches, whose peers build graphs"""
    dim: int = 768
    """channels of clustered features"""
    queries: list[int] = field(default_factory=lambda: [1, 16, 64, 256, 1024])
    """queries asked at once by the exact search, a size after the other"""
    asked: int = 256
    """queries of the approximate searches"""
    rounds: int = 5
    """measurements, whose median counts, after one to warm up"""
    store: Path | None = None
    """a feature store whose embeddings are searched too"""
    folder: Path | None = None
    """where the clustered features lie, on disk; by default a temporary folder"""


def clustered(view_folder: Path, rows: int, dim: int) -> "tuple[Store, View]":
    """Write a store of clustered features; return it and its view."""
    import polars as pl

    from store import Feature, Provenance, Store

    store = Store.open(view_folder, create=True)
    store.catalog("clips").append(pl.DataFrame({"key": [f"c{n}" for n in range(rows)]}))
    made_by = Provenance("none", "0" * 64, "none", "none", "none", {"embedding": "float32"})
    with store.lock():
        view = store.create_view("clips", "clustered", made_by, {"embedding": Feature((dim,), "float32")})
        view.resize()
    size = view.rows_per_shard
    for shard in range(-(-rows // size)):
        here = np.arange(shard * size, min((shard + 1) * size, rows))
        view.write_shard(shard, here, {"embedding": around(here, rows, dim, shard)}, {})
    return store, view


def around(numbers: np.ndarray, rows: int, dim: int, seed: int) -> np.ndarray:
    """Return vectors around the centres of the rows `numbers`."""
    centres = np.random.default_rng(7).standard_normal((-(-rows // A_CLUSTER), dim), dtype=np.float32)
    rng = np.random.default_rng([8, seed])
    noise = rng.standard_normal((len(numbers), dim), dtype=np.float32)
    return (centres[numbers % len(centres)] + SPREAD * noise) / np.float32(dim**0.5)


def clustered_queries(rows: int, dim: int, count: int) -> np.ndarray:
    """Return normalised queries out of the clusters of `rows` rows, none of them a row."""
    vectors = around(np.arange(count) * 37, rows, dim, 2**32 - 1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def built(kinds: "tuple[type[Searcher], ...]", vectors: np.ndarray) -> "dict[str, tuple[Searcher, float]]":
    """Build every peer that is installed; return it with the seconds that its index took."""
    made = {}
    for kind in kinds:
        peer, start = kind(), time.perf_counter()
        try:
            peer.build(vectors)
        except ModuleNotFoundError as error:
            print(f"{peer.name} is left out: {error}", file=sys.stderr)
            continue
        made[peer.name] = peer, time.perf_counter() - start
        print(f"{peer.name}: built in {made[peer.name][1]:.1f} s", file=sys.stderr)
    return made


def exact(name: str, store: "Store", view: "View", asked: list[np.ndarray], rounds: int) -> tuple[list[Row], list[Row]]:
    """Search one view exactly; return rows and lines."""
    from benchmarks.harness.searchers import EXACT
    from retrieval.exact import search_exactly
    from retrieval.vectors import compact, filled_rows

    rows = filled_rows(view)
    vectors = compact(store, view, "embedding", rows)
    peers = built(EXACT, vectors)
    table: list[Row] = []
    lines: list[Row] = []
    for queries in asked:
        ours = partial(search_exactly, store, view, "embedding", rows, queries, K)
        ways: dict[str, Callable[[], object]] = {OURS: ours}
        for peer, _ in peers.values():
            ways[peer.name] = partial(peer.search, queries, K, 0)
        theirs = rows[peers["faiss flat"][0].search(queries, K, 0)]
        ways[PRODUCT] = partial(multiply, vectors, queries)
        different = compare(ours()[0], theirs, rows, vectors, queries)
        medians = measured(ways, rounds, f"{name}, {len(queries)} queries at once, ", warm_up=True)
        flops = 2 * len(rows) * vectors.shape[1] * len(queries)
        for way, seconds in medians.items():
            rate, speed = len(queries) / seconds.clock, flops / seconds.clock / 1e9
            table.append(
                {
                    "features": name,
                    "rows": len(rows),
                    "queries": len(queries),
                    "search": way,
                    "ms": round(seconds.clock * 1e3, 2),
                    "CPU ms": round(seconds.cpu * 1e3, 2),
                    "queries/s": round(rate, 1),
                    "GFLOP/s": round(speed, 1),
                    "differ in float32": different if way == OURS else "",
                }
            )
        case, flat, own = f"{name}, {len(queries)} queries at once", medians["faiss flat"], medians[OURS]
        lines.append(line(case, flat.clock, own.clock, FASTER, "faiss flat"))
        lines.append(line(f"{case}, by CPU time", flat.cpu, own.cpu, FASTER, "faiss flat"))
        lines.append(line(case, medians[PRODUCT].clock, own.clock, OF_LIMIT, PRODUCT))
    return table, lines


def multiply(vectors: np.ndarray, queries: np.ndarray) -> None:
    """Multiply all vectors and queries, by the threads of BLAS, and drop the products."""
    products = np.empty((PRODUCT_ROWS, len(queries)), np.float32)
    for start in range(0, len(vectors), PRODUCT_ROWS):
        block = vectors[start : start + PRODUCT_ROWS]
        np.matmul(block, queries.T, out=products[: len(block)])


def compare(found: np.ndarray, theirs: np.ndarray, rows: np.ndarray, vectors: np.ndarray, queries: np.ndarray) -> int:
    """Return the number of places at which two exact answers differ. AssertionError: their cosines differ too."""
    differ = np.argwhere(found != theirs)
    for query, place in differ:
        mine, other = (vectors[np.searchsorted(rows, of[query, place])] @ queries[query] for of in (found, theirs))
        assert abs(mine - other) <= SAME, f"query {query}: {mine} is not {other}"
    return len(differ)


def rows_by(peer: "Searcher", effort: int, rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    return rows[peer.search(queries, K, effort)]


def one_by_one(search: Callable[[np.ndarray], np.ndarray], queries: np.ndarray) -> list[np.ndarray]:
    return [search(query[None]) for query in queries]


def approximate(
    name: str, store: "Store", view: "View", queries: np.ndarray, rounds: int
) -> tuple[list[Row], list[Row]]:
    """Search one view approximately; return rows and lines."""
    from benchmarks.harness.searchers import APPROXIMATE
    from retrieval.exact import search_exactly
    from retrieval.index.builder import build_index
    from retrieval.index.factory import Budgets
    from retrieval.index.index import open_index
    from retrieval.vectors import compact, filled_rows

    rows = filled_rows(view)
    vectors = compact(store, view, "embedding", rows)
    true, _ = search_exactly(store, view, "embedding", rows, queries, K)
    lists = max(min(round(4 * len(rows) ** 0.5), len(rows) // 39), 1)
    card = build_index(store, view, factory=f"IVF{lists},SQfp16", given=Budgets(), rebuild=True, workers=1)
    index = open_index(store, view)
    peers = built(APPROXIMATE, vectors)
    settings: dict[tuple[str, int], Callable[[np.ndarray], np.ndarray]] = {
        (OURS, card["probes"]): lambda asked: index.search(asked, K)[0]
    }
    for peer, _ in peers.values():
        for effort in peer.efforts:
            settings[peer.name, effort] = partial(rows_by, peer, effort, rows)
    ways: dict[str, Callable[[], object]] = {}
    for (way, effort), search in settings.items():
        ways[f"{way} {effort}"] = partial(search, queries)
        ways[f"{way} {effort}, one"] = partial(one_by_one, search, queries[:ONE_BY_ONE])
    medians = measured(ways, rounds, f"{name}, ", warm_up=True)
    seconds = {peer: took for peer, (_, took) in peers.items()} | {OURS: card["seconds"]}
    table: list[Row] = []
    for (way, effort), search in settings.items():
        found = search(queries)
        recall = float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, true, strict=True)]))
        clock, one = medians[f"{way} {effort}"].clock, medians[f"{way} {effort}, one"].clock / ONE_BY_ONE
        table.append(
            {
                "features": name,
                "rows": len(rows),
                "search": way,
                "effort": effort,
                "recall@10": round(recall, 4),
                "queries/s": round(len(queries) / clock, 1),
                "ms one by one": round(one * 1e3, 3),
                "build s": round(seconds[way], 1),
            }
        )
    reached_by_us = next(row["recall@10"] for row in table if row["search"] == OURS)
    print(f"{name}: the card says recall {card['recall']}, these queries {reached_by_us}", file=sys.stderr)
    lines = [
        line(f"{name}: recall", reached_by_us, 1.0, 0.95, "the true neighbours"),
        line(f"{name}: recall during adding", MORE_TIME, card["recall_share"], 1.0, f"{MORE_TIME:.0%} of adding"),
    ]
    reached = [row for row in table if row["recall@10"] >= reached_by_us and row["search"] != OURS]
    for rival in sorted({str(row["search"]) for row in reached}):
        best = max(row["queries/s"] for row in reached if row["search"] == rival)
        mine = next(row["queries/s"] for row in table if row["search"] == OURS)
        lines.append(line(f"{name}: queries/s at our recall", mine, best, 1.0, rival))
    return table, lines


def embeddings(path: Path) -> "list[tuple[str, Store, View]]":
    """Return the views of a store that have an embedding and rows, with their names."""
    from retrieval.vectors import filled_rows, width
    from store import Store

    store = Store.open(path)
    views = [store.view(entity, name) for entity in store.entities() for name in store.views(entity)]
    return [
        (f"{view.entity}/{view.name}", store, view)
        for view in views
        if "embedding" in view.features and len(filled_rows(view)) > K and width(view, "embedding")
    ]


def run(options: Options) -> dict[str, Any]:
    """Return rows, lines, and the table of the approximate searches."""
    from retrieval.vectors import compact, filled_rows

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        asked = [clustered_queries(options.rows, options.dim, size) for size in options.queries]
        store, view = clustered(Path(folder, "exact"), options.rows, options.dim)
        table, lines = exact("clustered", store, view, asked, options.rounds)
        store, view = clustered(Path(folder, "approximate"), options.approximate, options.dim)
        queries = clustered_queries(options.approximate, options.dim, options.asked)
        near, held = approximate("clustered", store, view, queries, options.rounds)
        lines += held
    if options.store is not None:
        for name, store, view in embeddings(options.store):
            rows = filled_rows(view)
            own = compact(store, view, "embedding", rows[:: max(len(rows) // options.asked, 1)])
            more, held = exact(name, store, view, [own[:1], own], options.rounds)
            table += more
            lines += held
    return {"rows": table, "lines": lines, "approximate": near, "rounds": options.rounds, "dim": options.dim}


main = benchmark("search", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
