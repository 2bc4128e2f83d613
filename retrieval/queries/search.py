"""A search for the nearest of a clip, a pair of clips, a text or a file.

It is resolved to the query's vector, the index and the eligible rows, then computed.

Guarantees
- a clip is not its own neighbour, even if others have the same features
- the k nearest are those among the clips that the condition selects
- a text's embedding is read from texts/VIEW by the text's key if it is there; no encoder runs then
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float32, Int64

from retrieval.index.index import FLAT_BELOW, Index, check_feature, exact_index, open_index
from retrieval.index.index_card import card_path
from retrieval.vectors import command, fill_command, filled_rows, normalised, width
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.sealed import copied
from stepdiff_core.io.tables import short
from store import Store, View, text_key
from store.catalog.catalog import refuse_forgotten
from store.view import FAILED, OK

_OWN = ("rank", "similarity", "clip")  # columns of the hits that hide the catalog's of that name
# ids that are compared with an unknown one, and those that an error names
MOST_IDS, NEAR = 2**16, 3


@dataclass(frozen=True)
class Query:
    """A query as a vector."""

    title: str  # its source in a few words
    vector: Float32[np.ndarray, " dim"]  # of length 1
    rows: Int64[np.ndarray, " clips"]  # rows of its clips, which are not results


def of_clips(store: Store, view: View, feature: str, clips: list[str]) -> Query:
    """Return the query of one clip, or of a pair: the average of their normalised embeddings,
    normalised."""
    rows = np.array([row_of_clip(store, view, clip) for clip in clips])
    average = normalised(view, feature, rows).mean(axis=0)
    length = np.sqrt(np.sum(average * average))
    if length == 0:
        raise StepDiffError(
            f"{' and '.join(clips)} have opposite embeddings, whose average is zero: query with one"
        )
    return Query(
        f"{'clip' if len(clips) == 1 else 'pair'} {', '.join(clips)}",
        (average / length).astype("f4"),
        rows,
    )


def row_of_clip(store: Store, view: View, clip: str) -> int:
    """Return the row of a clip with features. Raises StepDiffError with similar ids, or the reason
    of a failure."""
    row = int(store.catalog("clips").rows([clip])[0])
    if row < 0:
        near = difflib.get_close_matches(clip, similar_ids(store, clip), n=NEAR, cutoff=0.0)
        raise StepDiffError(
            f"no clip {clip!r} in {store.path}: the nearest ids are {', '.join(near)}"
        )
    (status,) = view.status(np.array([row]))
    if status == FAILED:
        reasons = view.failures(np.array([row]))
        reason = " ".join(reasons.filter(reasons["key"] == clip)["reason"].to_list())
        raise StepDiffError(
            f"clip {clip} failed in view clips/{view.name} ({reason}): fix it and run "
            "`python -m featurize` with --retry-failed"
        )
    if status != OK:
        refuse_forgotten(store.path, "clips", np.array([row]), lambda _: clip)
        raise StepDiffError(
            f"clip {clip} has no features in view clips/{view.name}: run "
            f"{fill_command(store.path, view.name, view.provenance.encoder, 'CLIPS.csv')}"
        )
    return row


def similar_ids(store: Store, clip: str) -> list[str]:
    """Return all ids of clips; if there are more than MOST_IDS, some of those that begin as `clip`
    does."""
    ids, begin = pl.Series(dtype=pl.String), ""
    for block in store.catalog("clips").blocks(pl.DataFrame(schema={"key": pl.String})):
        # without the texts of the whole block
        matching = copied(block.filter(pl.col("key").str.starts_with(begin)))
        ids = pl.concat([ids, matching["key"]])
        while len(ids) > MOST_IDS:
            begin = clip[: len(begin) + 1]
            longer = ids.filter(ids.str.starts_with(begin))
            if len(longer) < NEAR or begin == clip:
                begin, longer = begin[:-1], ids.head(MOST_IDS)
            ids = longer
    return ids.to_list()


def of_text(
    store: Store,
    view: View,
    feature: str,
    text: str,
    weights: str | None = None,
    encoder: str | None = None,
) -> Query:
    """Return the query of a text: its embedding in texts/VIEW, or the view's own encoder computes
    it now.

    Raises StepDiffError that names the remedy.
    """
    from retrieval.queries.live import embed_text, encodes

    title, name = f"text {short(text)!r}", view.name
    texts = store.view("texts", name) if name in store.views("texts") else None
    row = store.catalog("texts").rows([text_key(text)])
    if texts is not None and row[0] >= 0 and texts.status(row)[0] == OK:
        check_space(store, view, texts, feature)
        return Query(
            title, normalised(texts, feature, row)[0].astype(np.float32), np.empty(0, np.int64)
        )
    if encodes(view, "texts", encoder):
        return Query(
            title, embed_text(store, view, feature, text, weights, encoder), np.empty(0, np.int64)
        )
    embed = command("python", "-m", "heads.embed", "--head", "RUN", "--store", store.path)
    where = f"the text {short(text)!r} is not in texts/{name} of {store.path}"
    if texts is None and encodes(view, "clips", encoder):
        raise StepDiffError(
            f"{where}, and {view.provenance.encoder} encodes no texts: query a view of an encoder "
            f"that does, such as clip, or one that a head trained on texts wrote ({embed})"
        )
    made_by = (view if texts is None else texts).provenance.encoder
    fill = fill_command(store.path, name, made_by, "TEXTS.jsonl")
    add = f"put it into the column `text` of a file TEXTS.jsonl and run {fill}"
    if texts is None:
        raise StepDiffError(
            f"{where}, which has no texts yet: if {made_by} is your own encoder and encodes texts "
            f"too, name it with --encoder package.module:Class, or {add}; otherwise query a view "
            f"that a head trained on texts wrote ({embed})"
        )
    raise StepDiffError(f"{where}: {add}")


def check_space(store: Store, view: View, texts: View, feature: str) -> None:
    """Raise StepDiffError unless a view of texts is in the space of a view of clips."""
    ours, theirs = view.provenance.weights, texts.provenance.weights
    channels, others = width(view, feature), width(texts, feature)
    if ours != theirs or channels != others:
        raise StepDiffError(
            f"texts/{texts.name} and clips/{view.name} of {store.path} are different spaces "
            f"(weights {theirs[:12]} and {ours[:12]}, {others} and {channels} channels): query "
            "with --clip"
        )


@dataclass(frozen=True)
class PlannedSearch:
    """A query and the rows among which its neighbours are searched."""

    store: Store
    query: Query
    rows: Int64[np.ndarray, " rows"] | None
    """eligible rows: filled, selected by the condition, and not the query's own; None: all others
    of the index"""
    index: Index

    def __len__(self) -> int:
        """Return the number of eligible rows."""
        if self.rows is not None:
            return len(self.rows)
        return len(self.index) - int(
            np.count_nonzero(self.index.view.status(np.unique(self.query.rows)) == OK)
        )


def resolve(
    store: Store,
    view: View,
    query_of: Callable[[Store, View, str], Query],
    where: str | None = None,
    feature: str | None = None,
    among: Int64[np.ndarray, " some"] | None = None,
    opened: Callable[[Store, View], Index] = open_index,
) -> PlannedSearch:
    """Choose the index, the embedding and the eligible rows of a search.

    The index is used if there is one and no condition, or if more than FLAT_BELOW rows are
    eligible; of a snapshot only in the second case.

    Args:
        query_of: Makes the query from the store, the view and the name of the embedding.
        where: Condition that eligible clips fulfil.
        among: The only rows that are eligible, a condition like `where`.
        opened: Returns the index; a program that searches often keeps it open.
    """
    rows = None
    if where is not None:
        from retrieval.queries.condition import rows_where  # loads sqlglot: 0.3 s

        rows = rows_where(store, "clips", where)
    if among is not None:
        rows = np.unique(among) if rows is None else np.intersect1d(rows, among)
    if rows is not None:
        rows = rows[view.status(rows) == OK].astype(np.int64)
    elif store.at is not None or not card_path(store, "clips", view.name).exists():
        rows = filled_rows(view)
    if rows is not None and len(rows) <= FLAT_BELOW:
        index = exact_index(view, feature or "embedding")
    else:
        index = opened(store, view)
        check_feature(index, feature)
    query = query_of(store, view, index.card["feature"])
    return PlannedSearch(
        store, query, None if rows is None else rows[~np.isin(rows, query.rows)], index
    )


def compute(search: PlannedSearch, k: int) -> pl.DataFrame:
    """Return the k nearest clips, best first: rank, similarity, clip and the catalog's other
    columns.

    There are fewer if fewer rows are eligible, or if an approximate index finds fewer.
    """
    k, query_rows = min(k, len(search)), search.query.rows
    rows, cosines = np.empty(0, np.int64), np.empty(0, np.float32)
    if k:
        (rows,), (cosines,) = search.index.search(
            search.query.vector[None], k + len(query_rows), search.rows
        )
        keep = np.flatnonzero((rows >= 0) & ~np.isin(rows, query_rows))[:k]
        rows, cosines = rows[keep], cosines[keep]
    catalog = search.store.catalog("clips").select(rows)
    frame = pl.DataFrame({"row": rows}).join(catalog, on="row", how="left", maintain_order="left")
    ranks = pl.int_range(1, frame.height + 1, eager=True).alias("rank")
    cosine = pl.Series("similarity", cosines.astype(float))
    return frame.select(ranks, cosine, pl.col("key").alias("clip"), pl.exclude("key", "row", *_OWN))
