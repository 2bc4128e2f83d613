"""Key indexes of a catalog in an object store: only needed blocks are fetched, and no replaced block is used."""

import numpy as np
import polars as pl
import pytest

from common.io import remote
from common.io.remote import RemotePath
from store import Catalog, Store
from store.catalog.block_file import BLOCK
from store.verbs.verify import verify

ROWS = 30_000
KEYS = pl.Series([f"video_{row % 97}_{row}.000_{row + 4}.000" for row in range(ROWS)])


@pytest.fixture
def place(bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store of 30,000 rows, whose index is opened with its last 64 KiB."""
    monkeypatch.setattr(remote, "_END_BYTES", BLOCK)
    Store.open(f"{bucket}/features", create=True).catalog("clips").append(pl.DataFrame({"key": KEYS}))
    return f"{bucket}/features"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the bytes of every range request."""
    sizes: list[int] = []
    read_range = RemotePath.read_range

    def counted(self: RemotePath, start: int, end: int, etag: str) -> memoryview:
        sizes.append(end - start)
        return read_range(self, start, end, etag)

    monkeypatch.setattr(RemotePath, "read_range", counted)
    return sizes


def opened(place: str) -> Catalog:
    return Store.open(place).catalog("clips")


def index_of(place: str) -> RemotePath:
    (found,) = opened(place).folder.glob("*.keys")
    assert isinstance(found, RemotePath)
    return found


def test_only_needed_blocks_are_fetched(place: str, fetched: list[int]) -> None:
    catalog = opened(place)
    assert len(catalog) == ROWS and not fetched
    assert catalog.keys(np.array([7, ROWS - 1])) == [KEYS[7], KEYS[ROWS - 1]]
    assert 0 < sum(fetched) <= 4 * BLOCK
    assert catalog.rows([KEYS[5], "none", KEYS[20_000]]).tolist() == [5, -1, 20_000]
    assert sum(fetched) < 0.6 * len(index_of(place).read_bytes())
    assert np.array_equal(catalog.rows(KEYS), np.arange(ROWS))
    whole = sum(fetched)
    assert np.array_equal(catalog.rows(KEYS), np.arange(ROWS)) and sum(fetched) == whole


def test_an_index_that_is_merged_while_it_is_used(place: str) -> None:
    catalog = opened(place)
    assert catalog.keys(np.array([3])) == [KEYS[3]]  # its index is open, and most of it is not fetched yet
    more = pl.Series([f"more_{row}" for row in range(ROWS)])
    assert opened(place).append(pl.DataFrame({"key": more})) == ROWS
    assert index_of(place).name.endswith(f"-{2 * ROWS:012d}.keys")
    assert np.array_equal(catalog.rows(pl.concat([KEYS, more])), np.arange(2 * ROWS))
    catalog = opened(place)
    assert catalog.keys(np.array([3])) == [KEYS[3]]
    index_of(place).unlink()
    assert catalog.rows([more[-1]]).tolist() == [2 * ROWS - 1] and index_of(place).exists()


@pytest.mark.parametrize("at", [1000, -100])
def test_a_damaged_index_is_detected_and_rebuilt(place: str, at: int) -> None:
    index = index_of(place)
    data = bytearray(index.read_bytes())
    data[at] ^= 1
    index.put([bytes(data)])
    assert [found.clips for found in verify(Store.open(place))] == [()]
    assert np.array_equal(opened(place).rows(KEYS), np.arange(ROWS))
    assert verify(Store.open(place)) == []
