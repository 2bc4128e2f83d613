"""Build of a view's index: choose, train, fill part by part, merge, measure, commit.

Guarantees
- an_index_is_complete_or_absent: the index is written under its own name, then its card; an interrupted build keeps the
  old index
- new_rows_are_added: newer rows are added to the existing index, which is neither trained nor read again
- recall_is_measured: the card holds the share of the true neighbours of sample queries that the index finds
- a_damaged_row_is_refused: every row is compared with its stored checksum when it is read into an index
"""

from __future__ import annotations

import hashlib
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from common.errors import StepDiffError
from common.io.files import local, make_folder, whole
from common.io.locks import locked
from common.progress import progress
from retrieval.exact import squares
from retrieval.index.factory import FLAT, PART_ROWS, Budgets, Choice, choose
from retrieval.index.index import DamagedIndex, Index, check_ids, ivf_of, probe, read_files
from retrieval.index.index_card import (
    INDEX,
    SAMPLE,
    VERSION,
    Card,
    card_path,
    described,
    digest,
    file_of,
    new_files,
    read_card,
    remove_others,
    write_card,
)
from retrieval.index.parts import Filled, Job, Part, emptied, fill_all, merge, parts_of, rows_in, train, write_index
from retrieval.index.sample import K, Sample, recall, without_itself
from retrieval.vectors import checked_norms, command, filled_rows, raw_blocks, width
from store import Store, View

if TYPE_CHECKING:
    import faiss

METRIC = "inner product of L2-normalised rows"
GIVEN = "it was given"  # why of a factory that the user named
REBUILD_FROM = 0.3  # share of rows added after training from which a rebuild is recommended
TIMED = 32  # single queries whose median time is the latency


def build_index(
    store: Store,
    view: View,
    feature: str = "embedding",
    factory: str = "auto",
    given: Budgets | None = None,
    rebuild: bool = False,
    workers: int | None = None,
    address: str | None = None,
    part_rows: int = PART_ROWS,
) -> Card:
    """Index the filled rows of a view and return the card.

    Args:
        factory: FAISS factory string, or "auto".
        given: Budgets of memory, time and recall.
        rebuild: Train again; otherwise newer rows are added to an existing index.
        workers: Processes that fill parts on Ray (default: one per CPU); 1 fills them here.
        address: Ray cluster; by default a local one is started for several parts.

    Raises:
        StepDiffError: No such embedding, no rows, a row without a direction, an unusable factory, no index that fits
            the memory, or a snapshot.
    """
    if store.at is not None:
        raise StepDiffError(
            f"snapshot {store.at} of {store.path} is not indexed: an index is of the store as it is now, so give the "
            f"store without @{store.at}"
        )
    start = time.monotonic()
    dim, rows = width(view, feature), filled_rows(view)
    if not len(rows):
        raise StepDiffError(
            f"view {view.entity}/{view.name} of {store.path} has no features yet: fill it first "
            f"with {command('python', '-m', 'featurize', '--help')}"
        )
    given = given or Budgets()
    choice = choose(len(rows), dim, given) if factory == "auto" else Choice(factory, GIVEN)
    path = card_path(store, view.entity, view.name)
    make_folder(path.parent)
    with locked(path.parent / f".{view.name}.lock", wait=False):
        built = _Build(store, view, feature, choice, rows, given, rebuild, part_rows)
        card = built.exact() if choice.factory == FLAT else built.approximate(workers, address)
        card["seconds"] = round(time.monotonic() - start, 3)
        write_card(path, card)
        remove_others(path, card)
    built.work.remove()
    return card


class _Build:
    def __init__(
        self,
        store: Store,
        view: View,
        feature: str,
        choice: Choice,
        rows: Int64[np.ndarray, " rows"],
        given: Budgets,
        rebuild: bool,
        part_rows: int,
    ) -> None:
        self.store, self.view, self.feature, self.rows, self.given = store, view, feature, rows, given
        self.choice, self.part_rows = choice, part_rows
        self.copied = store.view(view.entity, view.name, check="always")
        path = card_path(store, view.entity, view.name)
        self.folder, self.work = path.parent, path.parent / f"{view.name}.building"
        self.index, self.drawn = new_files(path)
        self.digest = digest(store, view, rows)
        self.old = None if rebuild else self._extendable(read_card(path))

    def exact(self) -> Card:
        """Check that every row has a direction; an exact index has no files."""
        with progress("checked rows", len(self.rows)) as advance:
            for rows, vectors in raw_blocks(self.copied, self.feature, self.rows):
                checked_norms(self.store, self.view, self.feature, rows, squares(vectors))
                advance(len(rows))
        card = self._card(FLAT, {})
        index = Index(self.store, self.view, card, None)
        queries = Sample.drawn(self.store, self.copied, self.feature, self.rows, 1)
        return card | {"recall": 1.0, "latency": _latency(index, queries), "memory": 0, "bytes": 0}

    def approximate(self, workers: int | None, address: str | None) -> Card:
        """Train or take the existing index, then fill, merge and measure."""
        held = rows_in(self.old[1]) if self.old else np.empty(0, np.int64)
        new = np.setdiff1d(self.rows, held, assume_unique=True)
        factory = self.old[0]["factory"] if self.old else self.choice.factory
        job = self._job(factory, held)
        begun = time.monotonic()
        if not job.sample.exists() or not job.trained.exists():
            self._train(job, factory)
        trained = time.monotonic()
        parts = parts_of(job, new, self.view.rows_per_shard, self.part_rows) if len(new) else []
        if not job.mergeable():  # all rows form one part
            parts = parts_of(job, new, 1, 2**62)
        missing = [part for part in parts if not part.passed.exists()]
        with progress("indexed rows", len(new)) as advance:
            advance(len(new) - sum(len(part.rows) for part in missing))
            filled = list(fill_all(missing, workers, address, advance))
        added = time.monotonic()
        with job.naming_folder():
            files, sample = self._merge(job, parts)
        merged = time.monotonic()
        trained_rows = self.old[0]["trained_rows"] if self.old else len(self.rows)
        card = self._card(factory, files) | {"trained_rows": trained_rows}
        with job.naming_folder():
            card |= self._measured(card, sample)
        share = (len(self.rows) - trained_rows) / len(self.rows)
        phases = {"training": trained - begun, "adding": added - trained, "merging": merged - added}
        phases["measuring"] = time.monotonic() - merged
        return card | {
            "new_share": round(share, 4),
            "rebuild": share > REBUILD_FROM,
            "phases": {name: round(seconds, 3) for name, seconds in phases.items()},
            "build_memory": max((one.memory for one in filled), default=0),
            "recall_share": _recall_share(filled),
        }

    def _extendable(self, card: Card | str) -> tuple[Card, faiss.Index] | None:
        """The existing card and index if they lack only newer rows."""
        if isinstance(card, str) or not card["files"] or card["feature"] != self.feature:
            return None
        same = card["factory"] == self.choice.factory
        codes = card["factory"].rpartition(",")[2] == self.choice.factory.rpartition(",")[2]
        wanted = same or (codes and self.choice.why != GIVEN)
        if not wanted or card["provenance"] != self.view.provenance.as_dict():
            return None
        try:
            index = read_files(self.store, self.view, card)
        except DamagedIndex:
            return None
        if index is None or ivf_of(index) is None:
            return None
        held = rows_in(index)
        lost = len(np.setdiff1d(held, self.rows, assume_unique=True))
        return None if lost or digest(self.store, self.view, held) != card["digest"] else (card, index)

    def _job(self, factory: str, held: Int64[np.ndarray, " held"]) -> Job:
        """The job, whose folder depends on rows and factory; folders of other builds are removed."""
        same = f"{VERSION} {faiss_version()} {factory} {self.feature} {self.digest} {len(held)} {self.part_rows}"
        folder = self.work / hashlib.sha256(same.encode()).hexdigest()[:16]
        if not folder.is_dir():
            self.work.remove()
            make_folder(folder)
        return Job(self.store.path, self.view.entity, self.view.name, self.feature, folder)

    def _train(self, job: Job, factory: str) -> None:
        if self.old is None:
            train(job, factory, self.rows)
            return
        with local(self.folder / file_of(self.old[0], SAMPLE)) as known, whole(job.sample) as temporary:
            temporary.write_bytes(known.read_bytes())
        write_index(emptied(self.old[1]), job.trained)

    def _merge(self, job: Job, parts: list[Part]) -> tuple[dict[str, Any], Sample]:
        """Write index and sample under the names of this build; returns the card's entries and the sample."""
        with ExitStack() as stack:
            here = {}
            if self.old:
                old = stack.enter_context(local(self.folder / file_of(self.old[0], INDEX)))
                here[old] = self.old[0]["rows"]
            here |= {stack.enter_context(local(part.lists)): len(part.rows) for part in parts}
            known = Sample.read(stack.enter_context(local(job.sample)), self.rows)
            others = [Sample.read(stack.enter_context(local(part.passed)), self.rows) for part in parts]
            sample = known.joined(others)
            with whole(self.index) as index, whole(self.drawn) as drawn:
                if job.mergeable():
                    merge(stack.enter_context(local(job.trained)), here, width(self.view, self.feature), index)
                else:
                    index.write_bytes(next(iter(here)).read_bytes())
                sample.write(drawn)
                files = described(index, drawn)
        names = (self.index.name, self.drawn.name)
        return dict(zip(names, files.values(), strict=True)), sample

    def _measured(self, card: Card, sample: Sample) -> Card:
        """Find the fewest probed lists that reach the recall; returns the measurements."""
        index = read_files(self.store, self.view, card)
        assert index is not None
        check_ids(index, file_of(card, INDEX), self.rows)
        opened = Index(self.store, self.view, card, index)
        true = sample.least_cosines(self.store, self.view, self.feature)
        ivf = ivf_of(index)
        lists = ivf.nlist if ivf is not None else 1

        def found(probes: int) -> float:
            probe(index, probes)
            hits, cosines = opened.search(sample.queries, K + 1)
            return recall(without_itself(hits, cosines, sample.rows)[1], true)

        few, probes = 0, 1  # `few` lists find too little
        while (reached := found(probes)) < self.given.recall and probes < lists:
            few, probes = probes, min(probes * 2, lists)
        while reached >= self.given.recall and probes - few > 1:  # the fewest lists that find enough
            middle = (few + probes) // 2
            if (share := found(middle)) >= self.given.recall:
                probes, reached = middle, share
            else:
                few = middle
        probe(index, probes)
        size = sum(file["bytes"] for file in card["files"].values())
        figures = {"probes": probes, "recall": round(reached, 4), "recall_queries": len(sample.rows), "recall_k": K}
        return figures | {"latency": _latency(opened, sample), "memory": size, "bytes": size}

    def _card(self, factory: str, files: dict[str, Any]) -> Card:
        return {
            "version": VERSION,
            "entity": self.view.entity,
            "view": self.view.name,
            "feature": self.feature,
            "provenance": self.view.provenance.as_dict(),
            "factory": factory,
            "why": self.choice.why,
            "exact": factory == FLAT,
            "metric": METRIC,
            "rows": len(self.rows),
            "dim": width(self.view, self.feature),
            "digest": self.digest,
            "files": files,
            "probes": 1,
            "faiss": faiss_version(),
        }


def broken(card: Card, given: Budgets, rebuild: str) -> list[str]:
    """Return a line for each budget that an index exceeds, with advice. `rebuild` is the command that rebuilds it."""
    lines = []
    if card["recall"] < given.recall:
        lines.append(
            f"recall {card['recall']:.3f} is below --min-recall {given.recall}, with all its lists: {rebuild} "
            f"with --factory of larger codes, or a lower --min-recall"
        )
    if given.latency is not None and card["latency"] > given.latency:
        lines.append(
            f"a query takes {card['latency'] * 1e3:.1f} ms, --max-latency is {given.latency * 1e3:g} ms: "
            f"lower --min-recall, or raise --max-latency"
        )
    if given.memory is not None and card["memory"] > given.memory:
        lines.append(
            f"the index takes {card['memory'] / 1e9:.2f} GB, --max-memory is {given.memory / 1e9:g} GB: "
            f"use --factory auto"
        )
    return lines


def faiss_version() -> str:
    """Return the version of the installed FAISS."""
    import faiss

    return str(faiss.__version__)


def _latency(index: Index, sample: Sample) -> float:
    """Median seconds of one query."""
    seconds = []
    for query in sample.queries[:TIMED]:
        start = time.perf_counter()
        index.search(query[None], K)
        seconds.append(time.perf_counter() - start)
    return round(float(np.median(seconds)), 6)


def _recall_share(filled: list[Filled]) -> float | None:
    """Seconds spent on the sample's true neighbours per second of adding; None if no part was filled."""
    aside = sum(one.recall_seconds for one in filled)
    rest = sum(one.seconds for one in filled) - aside
    return round(aside / rest, 4) if filled else None
