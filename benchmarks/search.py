"""Nearest neighbours, exact and approximate, next to FAISS, hnswlib and usearch.

python -m benchmarks.search                                                  # about 10 minutes, 1.5 GB of disk
python -m benchmarks.search --rows 20000 --approximate [5000] --rounds 3     # a first look
python -m benchmarks.search --rows 0 --approximate [2000000] --dim 128       # an hour, 9 GB of memory, 2 GB of disk
python -m benchmarks.search --store data/features                            # the embeddings of that store too

Ours reads the store, whose pages are in memory after the first round; the peers hold normalised vectors, which are made
before the clock starts. They take turns in another order every round, and the median counts. Exact answers are
compared row by row: where two differ, their cosines must be equal in float32. The time of the product alone is the
limit of any float32 search here.

Approximate searches are compared at the same recall of the 10 nearest: ours is the index that `--factory auto` builds
for a recall of 0.95, and each peer has the least effort with which it finds as many of the neighbours as ours. Ours
compares its hits with the store too, so its similarities are exact; those of the peers are of their codes. It is
measured as an index in use, which has mapped the rows that it compares; the first search is printed apart.

The features have the structure of clips: activities, their steps (a few of them frequent), videos of ten clips each and
clips, in fewer directions than channels. Queries are clips of other videos. Features of a store are asked with some of
their own rows.
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
from stepdiff.common.cli import command

if TYPE_CHECKING:
    from benchmarks.harness.searchers import Searcher
    from store import Store, View

K = 10
A_VIDEO, A_STEP, AN_ACTIVITY = 10, 500, 12  # clips, clips, steps
OF_LIMIT = 0.8  # of the rate of the product alone, which nothing that multiplies in float32 can pass
PRODUCT = "the product alone"
PRODUCT_ROWS = 8192  # multiplied at a time
SLOWER = 1.1  # than the best peer at the same recall, at most
SAME = 2e-6  # cosines as near as that are one number to float32
ONE_BY_ONE = 16  # queries that are asked singly too
IN_USE = 32  # searches before the clock starts, so that rows that are often compared are mapped
OURS = "ours"


@dataclass(frozen=True)
class Options:
    rows: int = 200_000
    """rows of the features of the exact search; 0: none"""
    approximate: list[int] = field(default_factory=lambda: [20_000, 200_000])
    """rows of the features of the approximate searches, a size after the other"""
    peers: list[str] | None = None
    """names of the peers of the approximate searches; by default all"""
    dim: int = 768
    """channels of the features"""
    queries: list[int] = field(default_factory=lambda: [1, 16, 64, 256, 1024])
    """queries asked at once by the exact search, a size after the other"""
    asked: int = 256
    """queries of the approximate searches"""
    rounds: int = 5
    """measurements, whose median counts, after one to warm up"""
    store: Path | None = None
    """a feature store whose embeddings are searched too"""
    folder: Path | None = None
    """where the features lie, on disk; by default a temporary folder"""


def clustered(view_folder: Path, rows: int, dim: int) -> "tuple[Store, View]":
    """Write a store of features; return it and its view."""
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
        view.write_shard(shard, here, {"embedding": clips(here, rows, dim)}, {})
    return store, view


def clips(numbers: np.ndarray, rows: int, dim: int, others: bool = False) -> np.ndarray:
    """Return the embeddings [R, dim] of consecutive clips of a set of `rows`, or of clips of `others`, other videos."""
    rng = np.random.default_rng(7)
    steps = max(rows // A_STEP, 2)
    activities = rng.standard_normal((-(-steps // AN_ACTIVITY), dim), dtype=np.float32)
    centres = rng.standard_normal((steps, dim), dtype=np.float32)
    centres = 0.8 * centres + activities[rng.integers(len(activities), size=steps)]
    often = np.arange(1, steps + 1) ** -0.7
    rng = np.random.default_rng([8, int(others), int(numbers[0])])
    embeddings = centres[rng.choice(steps, len(numbers), p=often / often.sum())]
    video = numbers // A_VIDEO - numbers[0] // A_VIDEO
    embeddings += 0.5 * rng.standard_normal((video[-1] + 1, dim), dtype=np.float32)[video]
    embeddings += 0.6 * rng.standard_normal((len(numbers), dim), dtype=np.float32)
    spectrum = np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    return (embeddings + 0.5) * (spectrum / np.linalg.norm(spectrum))


def clip_queries(rows: int, dim: int, count: int) -> np.ndarray:
    """Return normalised queries: clips of videos that are not among the `rows` clips."""
    vectors = clips(np.arange(count) * A_VIDEO, rows, dim, others=True)
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
        case, own = f"{name}, {len(queries)} queries at once", medians[OURS]
        for peer_name in peers:
            lines.append(line(case, medians[peer_name].clock, own.clock, 1.0, peer_name))
            lines.append(line(f"{case}, by CPU time", medians[peer_name].cpu, own.cpu, 1.0, peer_name))
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


def one_by_one(search: Callable[[np.ndarray], np.ndarray], queries: np.ndarray) -> list[np.ndarray]:
    return [search(query[None]) for query in queries]


def recall(found: np.ndarray, true: np.ndarray) -> float:
    """Return the share of the true neighbours that were found."""
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, true, strict=True)]))


def least_effort(peer: "Searcher", queries: np.ndarray, true: np.ndarray, wanted: float) -> int | None:
    """Return the least effort with which a peer has the wanted recall, None if it never has."""
    for effort in peer.efforts:
        if recall(peer.search(queries, K, effort), true) >= wanted:
            return effort
    return None


def approximate(
    name: str, store: "Store", view: "View", queries: np.ndarray, rounds: int, chosen: list[str] | None
) -> tuple[list[Row], list[Row]]:
    """Search one view approximately; return rows and lines."""
    from benchmarks.harness.searchers import APPROXIMATE
    from retrieval.exact import search_exactly
    from retrieval.index.builder import build_index
    from retrieval.index.factory import Budgets
    from retrieval.index.index import open_index
    from retrieval.vectors import compact, filled_rows, width

    rows = filled_rows(view)
    true, _ = search_exactly(store, view, "embedding", rows, queries, K)
    true = np.searchsorted(rows, true)  # places, as the peers give them
    given = Budgets(latency=0.0)  # an index, however few the rows are
    card = build_index(store, view, given=given, rebuild=True, workers=1)
    index = open_index(store, view)
    start = time.perf_counter()
    ours = np.searchsorted(rows, index.search(queries, K)[0])
    first = time.perf_counter() - start
    for _ in range(IN_USE):
        index.search(queries, K)
    wanted = recall(ours, true)
    chooser = f"{OURS}: {card['factory']}"
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {chooser: lambda asked: index.search(asked, K)[0]}
    facts = {chooser: (card["probes"], wanted, card["seconds"])}
    vectors = compact(store, view, "embedding", rows)
    for peer, seconds in built(
        tuple(kind for kind in APPROXIMATE if kind.name in (chosen or [kind.name])), vectors
    ).values():
        effort = least_effort(peer, queries, true, wanted)
        if effort is None:
            print(f"{peer.name} never reaches our recall of {wanted:.3f}", file=sys.stderr)
            continue
        ways[peer.name] = partial(peer.search, k=K, effort=effort)
        facts[peer.name] = effort, recall(peer.search(queries, K, effort), true), seconds
    timed: dict[str, Callable[[], object]] = {way: partial(search, queries) for way, search in ways.items()}
    singly = {f"{way}, one": partial(one_by_one, search, queries[:ONE_BY_ONE]) for way, search in ways.items()}
    medians = measured(timed | singly, rounds, f"{name}, ", warm_up=True)
    table: list[Row] = []
    for way, (effort, reached, seconds) in facts.items():
        took, one = medians[way], medians[f"{way}, one"].clock / ONE_BY_ONE
        table.append(
            {
                "features": name,
                "rows": len(rows),
                "dim": width(view, "embedding"),
                "search": way,
                "effort": effort,
                "recall@10": round(reached, 4),
                "queries/s": round(len(queries) / took.clock, 1),
                "CPU us a query": round(took.cpu / len(queries) * 1e6, 1),
                "ms one by one": round(one * 1e3, 3),
                "build s": round(seconds, 1),
                "auto is faster by": round(took.clock / medians[chooser].clock, 2),
            }
        )
    case = f"{name}, {len(rows):,} rows"
    print(f"{case}: the card says recall {card['recall']}, these queries {wanted:.4f}", file=sys.stderr)
    print(f"{case}: the first search of {len(queries)} queries took {first * 1e3:.0f} ms", file=sys.stderr)
    lines = [line(f"{case}: recall", wanted, 1.0, 0.93, "the true neighbours")]
    rivals = [way for way in ways if way != chooser]
    for what in ("clock", "cpu") if rivals else ():
        best = min(rivals, key=lambda way: getattr(medians[way], what))
        least = round(1 / SLOWER, 2)
        took, own = getattr(medians[best], what), getattr(medians[chooser], what)
        by = "" if what == "clock" else ", by CPU time"
        lines.append(line(f"{case}: queries/s of auto at its recall{by}", took, own, least, f"the best peer, {best}"))
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

    table: list[Row] = []
    lines: list[Row] = []
    near: list[Row] = []
    for size in sorted({*options.approximate, options.rows} - {0}):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            store, view = clustered(Path(folder, "store"), size, options.dim)
            if size in options.approximate:
                queries = clip_queries(size, options.dim, options.asked)
                found, held = approximate("clips", store, view, queries, options.rounds, options.peers)
                near += found
                lines += held
            if size == options.rows:
                asked = [clip_queries(size, options.dim, count) for count in options.queries]
                table, held = exact("clips", store, view, asked, options.rounds)
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
