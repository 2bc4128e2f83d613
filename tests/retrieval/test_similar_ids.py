"""Similar ids of an unknown clip, out of a catalog of any size."""

import resource
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from retrieval.queries.search import similar_ids
from store import Catalog, Store, View


def test_ids_that_begin_alike_are_compared_in_a_large_catalog(
    store: Store, clips: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = store.catalog("clips").frame()["key"].to_list()
    assert similar_ids(store, "vidoe_1") == ids and len(ids) > 20
    monkeypatch.setattr("retrieval.queries.search.MOST_IDS", 5)
    assert similar_ids(store, "video_2_9") == [one for one in ids if one.startswith("video_2")][:5]
    assert len(similar_ids(store, "x")) == 5


def test_similar_ids_do_not_keep_the_other_ids_of_their_blocks_in_memory(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocks(self: Catalog, like: pl.DataFrame) -> Iterator[pl.DataFrame]:
        for number in range(40):  # 10 MB each
            other = pl.Series([f"{number:03}{place:05}" for place in range(1000)]) + "x" * 10_000
            yield pl.DataFrame({"key": [*(f"{place}".rjust(100, "a") + str(number) for place in range(5)), *other]})

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    monkeypatch.setattr(Catalog, "blocks", blocks)
    monkeypatch.setattr("retrieval.queries.search.MOST_IDS", 500)
    before = resident()
    ids = similar_ids(store, "ab")
    grown = resident() - before
    assert len(ids) == 200 and grown < 150e6, f"{grown / 1e6:.0f} MB"
