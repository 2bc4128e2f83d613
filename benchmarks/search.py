"""Nearest neighbours, exact and approximate, next to FAISS and numpy.

python -m benchmarks.search    # about 10 minutes, 1.5 GB of disk
python -m benchmarks.search --rows 2000 --approximate [1200] --dim 16 --rounds 1
# an hour, 9 GB of memory, 2 GB of disk
python -m benchmarks.search --rows 0 --approximate [2000000] --dim 128

Ours reads the store, whose pages are in memory after the first round; the peers hold normalised
vectors, which are made before the clock starts. They take turns in another order every round, and
the median counts. Exact answers are compared row by row: where two differ, their cosines must be
equal in float32. The ceiling of any float32 search is the time of the product alone.

Approximate searches are compared at the same recall of the 10 nearest: ours is the index that
`--factory auto` builds for a recall of 0.95, and each peer has the least effort with which it finds
as many of the neighbours as ours. Ours compares its hits with the store too, so its similarities
are exact; those of the peers are of their codes, except for `RFlat`, which compares its hits with
float32 copies in memory. Ours is measured as an index in use, which has mapped the rows that it
compares.

The features have the structure of clips: activities, their steps (a few of them frequent), videos
of ten clips each and clips, in fewer directions than channels. Queries are clips of other videos.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl

from benchmarks.harness import Row, benchmark, measured, race, races, timed, times, write_view
from retrieval.exact import search_exactly
from retrieval.index.builder import GRAPH, INDEXED_FROM, build_index
from retrieval.index.index import open_index
from retrieval.vectors import compact, filled_rows
from stepdiff_core.cli import command
from store import Feature, Store, View

K = 10
CLIPS_A_VIDEO, CLIPS_A_STEP, STEPS_AN_ACTIVITY = 10, 500, 12
OF_CEILING = 0.8  # of the rate of the product alone
CEILING = "the product alone"
PRODUCT_ROWS = 8192  # multiplied at a time
SLOWER = 1.1  # than the best peer at the same recall, at most
SAME = 2e-6  # cosines as near as that are one number to float32
IN_USE = 32  # searches before the clock starts, so that rows that are often compared are mapped
CONSTRUCTION = 80  # candidates that a graph looks at for a new node
PROBES = (*range(1, 17), 20, 24, 28, 32, 40, 48, 64, 96, 128, 192, 256)  # lists
# nodes of a graph
CANDIDATES = (10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 192, 256, 512)
REFINED = 1.2  # hits that a refining index compares exactly, for each that it returns
FACTORIES = ("IVF,SQfp16", "HNSW32,SQfp16", "HNSW32,SQfp16,RFlat")

Search = Callable[..., np.ndarray]
"""queries [Q, D] -> places of the K nearest [Q, K]. `effort` trades speed for recall; exact
searches have none"""


@dataclass(frozen=True)
class SearchBenchmarkOptions:
    rows: int = 200_000
    """rows of the features of the exact search; 0: none"""
    approximate: list[int] = field(default_factory=lambda: [20_000, 200_000])
    """rows of the features of the approximate searches, a size after the other"""
    dim: int = 768
    """channels of the features"""
    queries: list[int] = field(default_factory=lambda: [1, 16, 64, 256, 1024])
    """queries asked at once by the exact search, a size after the other"""
    asked: int = 256
    """queries of the approximate searches"""
    rounds: int = 5
    """measurements, whose median counts, after one to warm up"""
    folder: Path | None = None
    """where the features are written, on disk; by default a temporary folder"""


def clips(numbers: np.ndarray, rows: int, dim: int, others: bool = False) -> np.ndarray:
    """Return the embeddings [R, dim] of consecutive clips of a set of `rows`, or of clips of
    `others`, other videos."""
    rng = np.random.default_rng(7)
    steps = max(rows // CLIPS_A_STEP, 2)
    activities = rng.standard_normal((-(-steps // STEPS_AN_ACTIVITY), dim), dtype=np.float32)
    centres = rng.standard_normal((steps, dim), dtype=np.float32)
    centres = 0.8 * centres + activities[rng.integers(len(activities), size=steps)]
    often = np.arange(1, steps + 1) ** -0.7
    rng = np.random.default_rng([8, int(others), int(numbers[0])])
    embeddings = centres[rng.choice(steps, len(numbers), p=often / often.sum())]
    video = numbers // CLIPS_A_VIDEO - numbers[0] // CLIPS_A_VIDEO
    embeddings += 0.5 * rng.standard_normal((video[-1] + 1, dim), dtype=np.float32)[video]
    embeddings += 0.6 * rng.standard_normal((len(numbers), dim), dtype=np.float32)
    spectrum = np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    return (embeddings + 0.5) * (spectrum / np.linalg.norm(spectrum))


def clustered(folder: Path, rows: int, dim: int) -> View:
    """Write a store of clips; return its view."""

    def blocks() -> Iterator[tuple[pl.DataFrame, dict[str, np.ndarray]]]:
        for numbers in np.array_split(np.arange(rows), -(-rows // 2**16)):
            yield (
                pl.DataFrame({"key": [f"c{number}" for number in numbers]}),
                {"embedding": clips(numbers, rows, dim)},
            )

    return write_view(folder, "clustered", {"embedding": Feature((dim,), "float32")}, blocks())


def clip_queries(rows: int, dim: int, count: int) -> np.ndarray:
    """Return normalised queries: clips of videos that are not among the `rows` clips."""
    vectors = clips(np.arange(count) * CLIPS_A_VIDEO, rows, dim, others=True)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def with_faiss(factory: str, vectors: np.ndarray) -> Search:
    """Index with FAISS; IVF has 4 sqrt(rows) lists, the number that it recommends."""
    lists = max(min(round(4 * len(vectors) ** 0.5), len(vectors) // 39), 1)
    factory = factory.replace("IVF", f"IVF{lists}")
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    base = index
    if "RFlat" in factory:
        index.k_factor = REFINED
        base = faiss.downcast_index(index.base_index)
    if "HNSW" in factory:
        base.hnsw.efConstruction = CONSTRUCTION
    index.train(vectors[np.random.default_rng(0).permutation(len(vectors))[: 64 * lists]])
    index.add(vectors)

    def search(queries: np.ndarray, effort: int = 0) -> np.ndarray:
        if "IVF" in factory:
            index.nprobe = effort
        elif "HNSW" in factory:
            base.hnsw.efSearch = effort
        return index.search(queries, K)[1]

    return search


def with_numpy(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Search as is usually written: one product with all rows, and argpartition."""
    cosines = queries @ vectors.T
    near = np.argpartition(-cosines, K - 1, axis=1)[:, :K]
    order = np.argsort(-np.take_along_axis(cosines, near, axis=1), axis=1)
    return np.take_along_axis(near, order, axis=1)


def multiply(vectors: np.ndarray, queries: np.ndarray) -> None:
    """Multiply all vectors and queries, by the threads of BLAS, and drop the products."""
    products = np.empty((PRODUCT_ROWS, len(queries)), np.float32)
    for start in range(0, len(vectors), PRODUCT_ROWS):
        block = vectors[start : start + PRODUCT_ROWS]
        np.matmul(block, queries.T, out=products[: len(block)])


def compare(ours: np.ndarray, theirs: np.ndarray, vectors: np.ndarray, queries: np.ndarray) -> int:
    """Return the number of places at which two exact answers differ. AssertionError: their cosines
    differ too."""
    differ = np.argwhere(ours != theirs)
    for query, place in differ:
        mine, other = (
            vectors[nearest[query, place]] @ queries[query] for nearest in (ours, theirs)
        )
        assert abs(mine - other) <= SAME, f"query {query}: {mine} is not {other}"
    return len(differ)


def exact(view: View, options: SearchBenchmarkOptions) -> tuple[list[Row], list[Row]]:
    """Search one view exactly; return rows and races."""
    rows = filled_rows(view)  # all: a row's number is its place
    vectors = compact(view, "embedding", rows)
    peers: dict[str, Search] = {
        "faiss flat": with_faiss("Flat", vectors),
        "numpy product + argpartition": partial(with_numpy, vectors),
    }
    table: list[Row] = []
    held: list[Row] = []
    for count in options.queries:
        queries, case = clip_queries(len(rows), options.dim, count), f"{count} queries at once"
        ways: dict[str, Callable[[], Any]] = {
            "ours": partial(search_exactly, view, "embedding", rows, queries, K),
            **{name: partial(search, queries) for name, search in peers.items()},
            CEILING: partial(multiply, vectors, queries),
        }
        different = compare(ways["ours"]()[0], ways["faiss flat"](), vectors, queries)
        seconds = measured(ways, options.rounds, f"{case}, ")
        table += times(
            seconds,
            count,
            "query",
            rows=len(rows),
            queries=count,
            **{"differ in float32": different},
        )
        held += races(case, seconds, "ours", {**dict.fromkeys(peers, 1.0), CEILING: OF_CEILING})
    return table, held


def approximate(view: View, options: SearchBenchmarkOptions) -> tuple[list[Row], list[Row]]:
    """Search one view approximately; return rows and races."""
    store = Store.open(view.paths.store)
    rows = filled_rows(view)
    queries = clip_queries(len(rows), options.dim, options.asked)
    nearest, _ = search_exactly(view, "embedding", rows, queries, K)

    def recall(places: np.ndarray) -> float:
        return (
            sum(
                len(set(a) & set(b)) for a, b in zip(places.tolist(), nearest.tolist(), strict=True)
            )
            / nearest.size
        )

    factory = "auto" if len(rows) >= INDEXED_FROM else GRAPH  # an index, however few the rows are
    card = build_index(store, view, factory=factory, rebuild=True, workers=1)
    index = open_index(store, view)
    chooser = f"ours: {card['factory']}"
    for _ in range(IN_USE):
        wanted = recall(index.search(queries, K)[0])
    ways: dict[str, Search] = {chooser: lambda asked: index.search(asked, K)[0]}
    facts = {chooser: (card["probes"], wanted, card["seconds"])}
    vectors = compact(view, "embedding", rows)
    for factory in FACTORIES:
        name = f"faiss {factory}"
        build_s, search = timed(partial(with_faiss, factory, vectors))
        for effort in PROBES if "IVF" in name else CANDIDATES:
            if (reached := recall(search(queries, effort))) >= wanted:
                ways[name] = partial(search, effort=effort)
                facts[name] = effort, reached, build_s
                break
        else:
            print(f"{name} never reaches our recall of {wanted:.3f}", file=sys.stderr)

    calls = {way: partial(search, queries) for way, search in ways.items()}
    medians = measured(calls, options.rounds, f"{len(rows):,} rows, ")
    table: list[Row] = [
        {
            "rows": len(rows),
            "dim": options.dim,
            "search": way,
            "effort": effort,
            "recall@10": round(reached, 4),
            "queries/s": round(len(queries) / medians[way].clock, 1),
            "CPU us a query": round(medians[way].cpu / len(queries) * 1e6, 1),
            "build s": round(build_s, 1),
        }
        for way, (effort, reached, build_s) in facts.items()
    ]
    case = f"{len(rows):,} rows, approximate"
    recalled = race(f"{case}: recall", wanted, 1.0, 0.93, "the true neighbours")
    peers = dict.fromkeys([way for way in ways if way != chooser], round(1 / SLOWER, 2))
    return table, [recalled, *races(f"{case}, at its recall", medians, chooser, peers)]


def run(options: SearchBenchmarkOptions) -> dict[str, Any]:
    """Return the record, with a table of the approximate searches."""
    table: list[Row] = []
    near: list[Row] = []
    held: list[Row] = []
    for size in sorted({*options.approximate, options.rows} - {0}):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            view = clustered(Path(folder, "store"), size, options.dim)
            if size in options.approximate:
                rows, more = approximate(view, options)
                near, held = near + rows, held + more
            if size == options.rows:
                table, more = exact(view, options)
                held += more
    return {
        "rows": table,
        "races": held,
        "approximate": near,
        "rounds": options.rounds,
        "dim": options.dim,
    }


main = benchmark("search", SearchBenchmarkOptions, __doc__, run)

if __name__ == "__main__":
    command.run(main)
