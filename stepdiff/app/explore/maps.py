"""Maps of views: coordinates in memory, the catalog's columns in files of the site's cache.

UMAP takes minutes without a pause, and a thread cannot be ended: a child process computes it.

Guarantees
- a map is computed once and requests wait only briefly; it is computed again if rows were added or
  the view replaced
- at most three maps and eight results are in memory; columns are read when they are needed, the
  catalog in pieces
- UMAP is ended if nobody wants it and holds up no PCA; an error of the child is an error of the
  caller
"""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from jaxtyping import Int64

from retrieval.projection import MOST, PROJECTIONS, Advance, Map, missing, project, sample_rows
from stepdiff.app.cache import LRUCache
from stepdiff.app.site import RefusedError, Site, UnknownError
from stepdiff_core.errors import StepDiffError
from store import Store, View

# a fork would copy locks that threads of the server hold
_SPAWN = multiprocessing.get_context("spawn")
_POLL = 0.2  # seconds between two looks whether the result is still wanted


def write_coordinates(
    view: View,
    rows: Int64[np.ndarray, " rows"],
    projection: str,
    path: Path,
    advance: Advance = lambda count: None,
) -> None:
    """Write `xy` and `shares` of the rows of a view to an .npz file."""
    xy, shares = project(view, rows, projection, advance=advance)
    with path.open("wb") as file:
        np.savez(file, xy=xy, shares=np.array(shares))


def write_in_child(
    store: Store,
    view: str,
    rows: Int64[np.ndarray, " rows"],
    projection: str,
    path: Path,
    check: Callable[[], None],
) -> None:
    """Write the same file as `write_coordinates` from a child process.

    check: called several times a second. Its exception ends the computation, and is raised here.
    """
    here, there = _SPAWN.Pipe(duplex=False)
    arguments = (there, store, view, rows, projection, str(path))
    child = _SPAWN.Process(target=_compute, args=arguments, name=f"map of {view}", daemon=True)
    child.start()
    there.close()
    try:
        while not here.poll(_POLL):
            check()
        problem = here.recv_bytes().decode()
    except EOFError:
        child.join()
        why = f"its process ended with status {child.exitcode}"
        raise StepDiffError(f"the map of {view} failed ({why}): is there enough memory?") from None
    finally:
        child.kill()
        child.join()
        here.close()
    if problem:
        raise StepDiffError(problem)


def _compute(
    answer: Connection, store: Store, view: str, rows: np.ndarray, projection: str, path: str
) -> None:
    """Write the coordinates, and send an empty message or the error."""
    # Ctrl-C in the terminal is for the server, which ends this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        write_coordinates(store.view("clips", view), rows, projection, Path(path))
        answer.send_bytes(b"")
    except StepDiffError as error:
        answer.send_bytes(str(error).encode())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


MOST_MAPS = 3
MOST_REMEMBERED = 8  # results of a map, such as the colours of a column
PIECE = 2**18  # clips whose columns are read from the catalog at a time
_WAIT = 2.0  # seconds that a request waits before it reports how far the work is


Answer = TypeVar("Answer")


@dataclass(frozen=True, eq=False)
class Shown:
    """A map and the catalog's columns of its clips."""

    version: str  # changes with the rows, their coordinates and their columns
    map: Map
    # key, row and the catalog's other columns; place n is that of `map.rows[n]`
    scan: Callable[[], pl.LazyFrame]
    like: pl.DataFrame  # an empty frame with these columns
    _results: LRUCache[Hashable, Any] = field(default_factory=lambda: LRUCache(MOST_REMEMBERED))

    def read(self, *columns: str) -> pl.DataFrame:
        return self.scan().select(columns).collect()

    def remembered(self, name: Hashable, make: Callable[[], Answer]) -> Answer:
        """Return the result of `make` for this name, if it is among the last MOST_REMEMBERED."""
        value = self._results.get(name)
        if value is None:
            self._results.put(name, value := make())
        return value

    def places(self, rows: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """Return the place of each row of the catalog in the map, -1 if it has none."""
        inside = np.minimum(np.searchsorted(self.map.rows, rows), len(self.map.rows) - 1)
        return np.where(self.map.rows[inside] == rows, inside, -1)


@dataclass(eq=False)
class _Making:
    """A map that is computed by a thread."""

    version: str
    total: int
    done: int = 0
    shown: Future[Shown] = field(default_factory=Future)


class Maps:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._workers = {name: ThreadPoolExecutor(1, f"{name} maps") for name in PROJECTIONS}
        self._making: OrderedDict[tuple[str, str], _Making] = OrderedDict()
        self._closed = threading.Event()

    def get(self, view: str, projection: str, fresh: bool = False) -> Shown:
        """Return a map. fresh: look whether the store has new rows, even if a map is in memory.

        RefusedError: it is not ready yet, status 202: ask again; StepDiffError: it cannot be
        computed.
        """
        with self._lock:
            making = self._making.get((view, projection))
        if making is None or fresh or _failed(making):
            making = self._start(self.view(view), projection, making)
        if not futures.wait([making.shown], _WAIT).done:
            done = f"the map is being computed: {making.done:,} of {making.total:,} clips"
            raise RefusedError(done, status=202, retry_after=1)
        return making.shown.result()

    def close(self) -> None:
        """End the computations: PCA after its block of rows, UMAP at once."""
        self._closed.set()

    def view(self, name: str) -> View:
        """Return a view of clips. UnknownError lists those that exist."""
        if name not in (views := self._site.store.views("clips")):
            raise UnknownError(
                f"no view {name[:100]!r} of clips: the views are {', '.join(views) or 'none'}"
            )
        return self._site.store.view("clips", name)

    def _start(self, view: View, projection: str, before: _Making | None) -> _Making:
        """Return the making of the current version; start it if it is not running yet."""
        if projection not in PROJECTIONS:
            raise UnknownError(
                f"no projection {projection[:100]!r}: the projections are {', '.join(PROJECTIONS)}"
            )
        if reason := missing(projection):
            raise StepDiffError(reason)
        rows, total = sample_rows(view, MOST[projection])
        identity = _identity(self._site, view, projection, rows, total)
        parts = view.catalog.folder.identities().items()
        catalog = sorted((name, str(part)) for name, part in parts if name.endswith(".parquet"))
        version = hashlib.sha256(f"{identity}\n{catalog}".encode()).hexdigest()[:16]
        with self._lock:
            making = self._making.get((view.name, projection), before)
            if making is None or making.version != version or _failed(making):
                making = self._making[view.name, projection] = _Making(version, len(rows))
                worker = self._workers[projection]
                making.shown = worker.submit(
                    self._make, making, view, projection, rows, total, identity
                )
            self._making.move_to_end((view.name, projection))
            while len(self._making) > MOST_MAPS:
                self._making.popitem(last=False)
        return making

    def _make(
        self,
        making: _Making,
        view: View,
        projection: str,
        rows: np.ndarray,
        total: int,
        identity: str,
    ) -> Shown:
        def advance(count: int = 0) -> None:
            making.done += count
            if self._closed.is_set():
                raise StepDiffError("the server ends")
            if self._making.get((view.name, projection)) is not making:
                raise StepDiffError(
                    "the store has a newer version of this map, or others were opened: ask again"
                )

        def write(path: Path) -> None:
            if projection == "umap":
                write_in_child(self._site.store, view.name, rows, projection, path, advance)
            else:
                write_coordinates(view, rows, projection, path, advance)

        path = self._site.cache.get(identity, ".npz", write)
        with np.load(path, allow_pickle=False) as arrays:
            xy, shares = arrays["xy"], arrays["shares"]
        scan = partial(self._scan, view, rows, making.version)
        like = pl.DataFrame(schema=scan().collect_schema())
        return Shown(
            making.version, Map(rows, xy, (float(shares[0]), float(shares[1])), total), scan, like
        )

    def _scan(self, view: View, rows: np.ndarray, version: str) -> pl.LazyFrame:
        """Return the catalog's columns of the rows, in files of the site's cache, which are made
        again if needed."""
        pieces = []
        for start in range(0, len(rows), PIECE):

            def write(path: Path, piece: np.ndarray = rows[start : start + PIECE]) -> None:
                view.catalog.select(piece).write_parquet(path)

            pieces.append(
                pl.scan_parquet(
                    self._site.cache.get(f"columns 1\n{version}\n{start}", ".parquet", write)
                )
            )
        return pl.concat(pieces, how="diagonal_relaxed").select(
            "key", "row", pl.exclude("key", "row")
        )


def _failed(making: _Making) -> bool:
    return making.shown.done() and making.shown.exception() is not None


def _identity(site: Site, view: View, projection: str, rows: np.ndarray, total: int) -> str:
    provenance = json.dumps(view.provenance.as_dict(), sort_keys=True)
    numbers = hashlib.sha256(rows.tobytes()).hexdigest()
    return "\n".join(
        map(str, ("map 1", site.store.location, view.name, provenance, projection, total, numbers))
    )
