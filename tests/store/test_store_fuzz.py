"""Random bytes in a store's files give the right answer or a one-line StepDiffError."""

import contextlib
import json
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.errors import StepDiffError
from common.io import sealed as table
from common.io.local import LocalPath
from common.io.sealed import BLANK, crc32c, seal
from store import Catalog, Store
from store.format.layout import FORMAT, ViewPaths
from store.format.shard import ShardFile, index_bytes, pieces, read_chunk
from store.io.reader import RowReader, read_together
from store.io.row_checks import Checksums, RowChecks

FUZZED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
SLOTS, ROW = 4, 6
SIZES = st.sampled_from([0, 1, 6, 12, 24, 70, 2**31, 2**62, 2**63, 2**64 - 6, 2**64 - 1]) | st.integers(0, 2**64 - 1)


def refused(error: StepDiffError, path: Path) -> None:
    assert "\n" not in str(error) and str(path) in str(error)


def read_row(path: Path, slot: int) -> bytes | None:
    """Return a row, or None if the reader refuses it in one line."""
    out = np.empty((1, ROW), np.uint8)
    try:
        checks = RowChecks(Checksums(ViewPaths(path.parent, "clips", "net"), SLOTS, 1), 0, SLOTS, ROW)
        read_together(np.array([slot]), [(RowReader(lambda shard: path, SLOTS, ROW, checks), out)], check="never")
    except StepDiffError as error:
        return refused(error, path)
    return out.tobytes()


@FUZZED
@given(st.binary(max_size=3 * SLOTS * 16))
def test_random_bytes_as_a_shard_are_read_or_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    path = LocalPath(tmp_path) / "shard"
    path.write_bytes(data)
    assert read_row(path, 1) is None  # noise has no checksum


@FUZZED
@given(st.binary(max_size=40), st.lists(st.tuples(SIZES, SIZES), min_size=SLOTS, max_size=SLOTS))
@example(b"abcdefghijklmnopqrstuvwx", [(0, 6), (2**64 - 1, 6), (18, 6), (2**64 - 1, 2**64 - 1)])
def test_a_random_shard_index_gives_its_rows_or_is_refused_in_one_line(
    tmp_path: Path, rows: bytes, index: list[tuple[int, int]]
) -> None:
    table_ = np.array(index, "<u8").tobytes()
    path = LocalPath(tmp_path) / "shard"
    path.write_bytes(rows + table_ + crc32c(table_).to_bytes(4, "little"))
    for slot, (offset, length) in enumerate(index):
        found = read_row(path, slot)
        if found is None:
            continue
        if offset == 2**64 - 1:
            assert found == bytes(ROW)  # Zarr leaves out chunks equal to the fill value
        else:
            assert length == ROW and offset + ROW <= len(rows) and found == rows[offset : offset + ROW]
    try:
        every = pieces(ShardFile(path, SLOTS), np.ones(SLOTS, bool), [], ROW, lambda slot, row: None)
        new = b"".join(bytes(piece) for piece in every)
        kept = [rows[offset : offset + ROW] if offset != 2**64 - 1 else bytes(ROW) for offset, _ in index]
        assert new == b"".join(kept) + index_bytes(np.ones(SLOTS, bool), ROW)
    except StepDiffError as error:
        refused(error, path)


@FUZZED
@given(st.binary(max_size=40))
def test_random_bytes_as_a_chunk_are_read_or_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    path = LocalPath(tmp_path) / "chunk"
    path.write_bytes(data)
    with pytest.raises(StepDiffError, match="is damaged") as caught:
        read_chunk(path, (SLOTS,), "uint8")
    refused(caught.value, path)
    path.write_bytes(data[:SLOTS].ljust(SLOTS, b"x") + crc32c(data[:SLOTS].ljust(SLOTS, b"x")).to_bytes(4, "little"))
    found = read_chunk(path, (SLOTS,), "uint8")
    assert found is not None and found.tobytes() == data[:SLOTS].ljust(SLOTS, b"x")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    catalog = Store.open(tmp_path / "store", create=True).catalog("clips")
    catalog.append(pl.DataFrame({"key": [f"c{n}" for n in range(50)], "step": list(range(50))}))
    return catalog


def asks(catalog: Catalog) -> None:
    """Check that every query of a newly opened catalog is answered correctly or refused in one line."""
    keys = [f"c{n}" for n in range(50)]
    for ask, answer in (
        (lambda c: c.frame()["step"].to_list(), list(range(50))),
        (lambda c: c.frame(["key"])["key"].to_list(), keys),
        (lambda c: c.rows([*keys, "x"]).tolist(), [*range(50), -1]),
        (lambda c: c.keys(np.arange(50)), keys),
        (len, 50),
    ):
        try:
            assert ask(Catalog(catalog.folder)) == answer
        except StepDiffError as error:
            refused(error, catalog.folder)


@pytest.mark.parametrize("indexed", [True, False])
def test_a_corrupt_catalog_part_is_refused_in_one_line(catalog: Catalog, indexed: bool) -> None:
    (part,), (index,) = catalog.parts(), catalog.folder.glob("*.keys")
    good, dice = part.read_bytes(), random.Random(0)
    for at in [0, 5, len(good) - 1, *dice.sample(range(len(good)), 40)]:
        for bad in (good[:at], good[:at] + bytes([good[at] ^ 1 << dice.randrange(8)]) + good[at + 1 :]):
            part.write_bytes(bad)
            if not indexed:
                index.unlink(missing_ok=True)
            asks(catalog)


def sealed(frame: pl.DataFrame) -> bytes:
    return table.encode(frame)


@pytest.mark.parametrize(
    "data",
    [
        seal(BLANK.encode()),
        seal(b"PAR1" + BLANK.encode() + b"\1\0\0\0PAR1"),
        sealed(pl.DataFrame({"row": [0]})),
        sealed(pl.DataFrame({"key": [1], "row": [0]})),
        sealed(pl.DataFrame({"key": [None], "row": [0]}, schema={"key": pl.String, "row": pl.Int64})),
    ],
)
def test_a_sealed_file_that_is_not_a_part_is_refused_in_one_line(catalog: Catalog, data: bytes) -> None:
    for index in catalog.folder.glob("*.keys"):
        index.unlink()
    (part,) = catalog.parts()
    part.write_bytes(data)
    frame = pl.DataFrame({"key": ["new"]})
    for ask in (lambda c: c.rows(["c1"]), lambda c: c.keys(np.array([0])), lambda c: c.append(frame)):
        with pytest.raises(StepDiffError) as caught:
            ask(Catalog(catalog.folder))
        refused(caught.value, part)
    for ask in (len, Catalog.frame):  # the query may not need the wrong column
        with contextlib.suppress(StepDiffError):
            ask(Catalog(catalog.folder))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["format", "version", "x"]), inner),
)


@FUZZED
@given(JSON | st.fixed_dictionaries({"format": st.just(FORMAT), "version": JSON}))
def test_a_random_store_json_is_valid_or_refused_in_one_line(tmp_path: Path, about: object) -> None:
    (tmp_path / "store.json").write_text(json.dumps(about))
    try:
        Store.open(tmp_path)
    except StepDiffError as error:
        return refused(error, tmp_path)
    assert isinstance(about, dict) and about["format"] == FORMAT and about["version"] == 1


@FUZZED
@given(st.binary(max_size=40))
def test_random_bytes_as_store_json_are_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "store.json").write_bytes(data)
    with pytest.raises(StepDiffError) as caught:
        Store.open(tmp_path)
    refused(caught.value, tmp_path)
