"""A file of checked blocks in an object store: one request for its end opens it, blocks are fetched when touched."""

from collections.abc import Iterator

import numpy as np

from common.io.object_stores import pool
from common.io.remote import RemotePath
from store.catalog.block_file import BlockFile, Spans, end_bytes

_END_BYTES = 2**20  # asked for at first: all of a small file, and the end of a large one
_REQUEST_BYTES = 8 * 2**20  # longer spans are several requests


def open_remote(path: RemotePath) -> BlockFile:
    """The file `path`. FileNotFoundError where there is none; DamagedFile where its head is none.

    Later ReplacedError where another stands there meanwhile, or none.
    """
    end, etag, size = path.read_tail(_END_BYTES)
    if end_bytes(end, size) > len(end):
        end, etag, size = path.read_tail(end_bytes(end, size))
    data = np.zeros(size, np.uint8)  # no memory until it is touched
    there = size - len(end)
    data[there:] = end

    def read(request: tuple[int, int]) -> None:
        first, last = request
        data[first:last] = np.frombuffer(path.read_range(first, last, etag), np.uint8)

    def fetch(spans: Spans) -> None:
        for _ in pool().map(read, _requests(spans, there)):
            pass

    return BlockFile(path, data.data, fetch)


def _requests(spans: Spans, there: int) -> Iterator[tuple[int, int]]:
    """The spans in pieces, as far as byte `there`, from which on all is there."""
    for first, last in spans:
        for at in range(first, min(last, there), _REQUEST_BYTES):
            yield at, min(at + _REQUEST_BYTES, last, there)
