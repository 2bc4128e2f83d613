"""Files of strangers: forged or random content is read rightly or refused in one line, before any
allocation."""

import io
import json
import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import sealed as table
from stepdiff_core.io.local import LocalPath
from stepdiff_core.io.locks import locked
from stepdiff_core.io.sealed import BLANK, crc32c, seal
from store import Catalog, Store, View
from store.__main__ import main
from store.catalog.key_index import built, pack
from store.format.layout import FORMAT, ViewPaths, read_json, write_json
from store.format.shard import ShardFile, index_bytes, pieces
from store.io.reader import Checksums, RowChecks, RowReader, read_together
from store.verbs.compact import compact
from store.verbs.options import CompactOptions
from store.verbs.verify import verify
from tests.store.conftest import Run, flip, opened

Make = Callable[..., Any]
pytestmark = pytest.mark.full
HUGE = [2**40, 2**50, 2**60, 2**63, 2**200]
ODD: list[Any] = [-1, 0, 3, 1.5, "4", None, True, [4], {}, *HUGE]


@pytest.fixture
def view(filled: View, fill: Make) -> View:
    fill(filled, np.array([9]))
    return filled


@contextmanager
def little_memory(most: int = 64 * 2**20) -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < most


def forge(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = read_json(path)
    change(value)
    value.setdefault("attributes", {})["seal"] = BLANK
    value.pop("seal", None)
    write_json(path, value)


def one_line(ask: Callable[[], Any], *words: str) -> None:
    with pytest.raises(StepDiffError) as caught:
        ask()
    line = str(caught.value)
    assert "\n" not in line and len(line) < 1000 and all(word in line for word in words), line


def verify_ends(view: View, *words: str) -> None:
    """Check that verify ends, needs little memory and reports each problem in one line."""
    with little_memory():
        damages = verify(Store.open(view.paths.store))
    lines = [f"{damage.path} {damage.what}" for damage in damages]
    assert lines and not any("\n" in line for line in lines)
    assert any(all(word in line for word in words) for line in lines), lines


@pytest.mark.parametrize("rows", [*HUGE, 12, -1, 1.5, "11", None, True])
def test_a_view_longer_than_the_catalog_is_refused(view: View, rows: Any) -> None:
    status = view.paths.metadata("status")
    forge(status, lambda value: value["shape"].__setitem__(0, rows))
    again = opened(view)
    one_line(lambda: len(again), str(status))
    one_line(again.status, str(status))
    with Store.open(view.paths.store).lock():
        if not isinstance(rows, int) or rows < 0 or isinstance(rows, bool) or rows > 2**60:
            one_line(again.resize, str(status))
    verify_ends(view, "status/zarr.json", "is refused")
    assert main(["info", str(view.paths.store)]) == 2


FEATURES: list[Any] = [
    *({"tokens": {"shape": [size, 5], "dtype": "float16"}} for size in ODD if size != 3),
    {"tokens": {"shape": [2**16, 2**16], "dtype": "float16"}},
    {"tokens": {"shape": [1] * 10_000, "dtype": "float16"}},
    *(
        {"tokens": {"shape": [3, 5], "dtype": dtype}}
        for dtype in ("object", "O", "V999999999", ">f2", 3, None, [])
    ),
    *(
        {name: {"shape": [3, 5], "dtype": "float16"}}
        for name in ("../x", "/etc", "..", "a/b", "", "a\nb", "scale")
    ),
    {"a": {"shape": [3], "dtype": "int8"}, "b": {"shape": [3], "dtype": "int8"}},
    {},
    [],
    None,
    {"tokens": None},
    {"tokens": {}},
    {"tokens": {"shape": 3, "dtype": "float16"}},
]


def test_an_array_whose_metadata_differs_from_the_view_is_found(view: View) -> None:
    """Other Zarr readers would read wrong values."""
    forge(view.paths.metadata("tokens"), lambda value: value.__setitem__("data_type", "float32"))
    forge(view.paths.metadata("embedding"), lambda value: value["shape"].__setitem__(1, 8))
    verify_ends(view, "tokens/zarr.json", "data_type")
    verify_ends(view, "embedding/zarr.json", "shape")


@pytest.mark.parametrize(
    "rows",
    [[0, 0, 2], [1, 2, 3], [-1, 0, 1], [2**62] * 3, [None, 1, 2], ["0", "1", "2"], [2, 1, 0]],
)
def test_a_catalog_part_whose_name_and_rows_disagree_is_refused(
    tmp_path: Path, rows: list[Any]
) -> None:
    catalog = Store.open(tmp_path / "s", create=True).catalog("clips")
    catalog.append(pl.DataFrame({"key": ["a", "b", "c"]}))
    (part,) = catalog.parts()
    for index in catalog.folder.glob("*.keys"):
        index.unlink()
    part.write_bytes(table.encode(pl.DataFrame({"key": ["a", "b", "c"], "row": rows})))
    for ask in (len, Catalog.frame, lambda c: c.rows(["a"]), lambda c: c.keys(np.array([0]))):
        one_line(lambda ask=ask: ask(Catalog(catalog.folder)), str(part))
    assert verify(Store.open(tmp_path / "s"))


def test_a_part_at_a_huge_row_number_makes_no_billions_of_rows(view: View) -> None:
    far = view.catalog.folder / "999999999999.parquet"
    far.write_bytes(table.encode(pl.DataFrame({"key": ["x"], "row": [999_999_999_999]})))
    (view.catalog.folder / f"{'9' * 60}.parquet").write_bytes(b"no part: a name of 12 digits is")
    with little_memory():
        one_line(lambda: len(Catalog(view.catalog.folder)), "rows by the names of its parts")
        one_line(opened(view).status)
    verify_ends(view, "has no part for rows 11 to 999999999998")
    far.write_bytes(table.encode(pl.DataFrame({"key": ["x"], "row": [11]})))
    one_line(lambda: len(Catalog(view.catalog.folder)))


def bomb(kind: str) -> bytes:
    """Return a small Parquet file that decodes to a large one."""
    file = io.BytesIO()
    if kind == "rows":
        pl.DataFrame({"key": pl.repeat("k", 2**21, eager=True)}).write_parquet(
            file, metadata={"seal": BLANK}
        )
    else:
        text = pl.Series(["a" * 2**20]).gather(pl.Series([0] * 1100))
        pl.DataFrame({"key": text.cast(pl.Categorical).cast(pl.String)}).write_parquet(
            file, metadata={"seal": BLANK}
        )
    return seal(file.getvalue())


@pytest.mark.parametrize("kind", ["rows", "text"])
def test_a_parquet_file_decodes_in_proportion_to_its_size(view: View, kind: str) -> None:
    data = bomb(kind)
    assert len(data) < 2**21
    path = view.paths.failures(1)
    path.write_bytes(data)
    one_line(view.failures, str(path))


@pytest.mark.parametrize(
    "columns", [{"key": [6], "reason": ["x"]}, {"key": ["c6"]}, {"key": ["c6"], "reason": [b"x"]}]
)
def test_a_failures_file_without_keys_and_reasons_is_refused(
    view: View, columns: dict[str, Any]
) -> None:
    view.paths.failures(1).write_bytes(table.encode(pl.DataFrame(columns)))
    one_line(view.failures, "not key and reason")


@pytest.mark.parametrize(
    "writes",
    [
        None,
        3,
        [3],
        [{}],
        [{"rows": [[4, 2**60]], "info": {}}],
        [{"rows": [[0, 3]], "info": {}}],
        [{"rows": [[5, 4]], "info": {}}],
        [{"rows": [[4]], "info": {}}],
        [{"rows": [["4", "5"]], "info": {}}],
    ],
)
def test_shard_info_about_rows_of_other_shards_is_refused(
    view: View, values: Make, writes: Any
) -> None:
    write_json(view.paths.info(1), {"shard": 1, "writes": writes, "seal": BLANK})
    row = np.array([6])
    with little_memory():
        one_line(lambda: view.write_shard(1, row, values(view, row), {}), str(view.paths.info(1)))
    assert view.status()[6] == 2


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "data", [DEEP.encode(), b'{"format": ' + DEEP.encode(), b"1" * 10_000, b"[]", b'"x"', b"\xff"]
)
def test_deeply_nested_json_is_refused_in_one_line(view: View, data: bytes) -> None:
    for path in (
        view.paths.store / "store.json",
        view.paths.group / "zarr.json",
        view.paths.metadata("status"),
    ):
        good = path.read_bytes()
        path.write_bytes(data)
        one_line(lambda: opened(view).status(), str(path))
        path.write_bytes(good)


def test_a_fifo_or_a_huge_file_is_refused_without_reading_it(view: View, tmp_path: Path) -> None:
    for path in (
        view.paths.metadata("status"),
        view.paths.status(1),
        view.paths.shard("tokens", 1, 3),
    ):
        good = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        again = opened(view)
        one_line(
            lambda again=again: [again.status(), again.read("tokens", np.array([5]))], str(path)
        )
        path.unlink()
        path.write_bytes(good)
    (vast := tmp_path / "vast").touch()
    os.truncate(vast, 2**40)
    one_line(lambda: LocalPath(vast).read_whole(100), "1,099,511,627,776 bytes")
    one_line(lambda: read_json(vast), str(vast))


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", DEEP[:4000], '{"pid": [1], "host": "x"}', '{"pid": 1, "host": "a\\nb"}', ""],
)
def test_a_lock_without_a_valid_holder_names_another_process(tmp_path: Path, text: str) -> None:
    with locked(tmp_path / "lock.json", wait=False):
        (tmp_path / "lock.json").write_text(text)

        def second() -> None:
            with locked(tmp_path / "lock.json", wait=False):
                pass

        one_line(second, "is being written by")


def test_a_lock_that_is_a_symbolic_link_truncates_no_file(tmp_path: Path) -> None:
    (precious := tmp_path / "precious").write_text("all of it")
    (tmp_path / "lock.json").symlink_to(precious)
    with (
        pytest.raises(StepDiffError, match=r"cannot write .*lock.json"),
        locked(tmp_path / "lock.json", wait=False),
    ):
        pass
    assert precious.read_text() == "all of it"


def forged_index(
    change: Callable[[dict[str, Any]], Any], offsets: list[int] | None = None
) -> bytes:
    """Return a key index with a changed header or changed offsets."""
    data = b"".join(bytes(piece) for piece in built(0, pack([f"c{n}" for n in range(11)]), {}))
    size = int.from_bytes(data[-8:], "little")
    body, head = bytearray(data[: -8 - size]), json.loads(data[-8 - size : -8])
    if offsets:
        body[2 * 2**16 : 2 * 2**16 + 8 * len(offsets)] = struct.pack(f"<{len(offsets)}q", *offsets)
        sums = np.array(
            [crc32c(bytes(body[at : at + 2**16])) for at in range(0, 4 * 2**16, 2**16)], "<u4"
        )
        body[4 * 2**16 :] = sums.tobytes()
        head["sums"] = crc32c(sums)
    change(head)
    head["seal"] = BLANK
    text = seal(json.dumps(head).encode())
    return bytes(body) + text + len(text).to_bytes(8, "little")


@pytest.mark.parametrize(
    "data",
    [
        *(
            forged_index(lambda head, v=v: head["about"].__setitem__("end", v))
            for v in (-1, 2**62, 5, "11", None)
        ),
        *(
            forged_index(lambda head, v=v: head["arrays"][0].__setitem__(2, v))
            for v in (-1, 2**62, 10, 1.5, None)
        ),
        *(
            forged_index(lambda head, v=v: head["arrays"][0].__setitem__(1, v))
            for v in ("O", "V999", "<i8", None, "x")
        ),
        *(
            forged_index(lambda head, v=v: head.__setitem__("arrays", v))
            for v in ([], None, [[]], 3)
        ),
        forged_index(lambda head: head.__setitem__("about", None)),
        *(
            forged_index(lambda head: None, offsets)
            for offsets in ([0, -(2**40)], [0, 2**62], [2**62, 0], [9, 3, 2])
        ),
    ],
)
def test_a_forged_key_index_is_rebuilt(view: View, data: bytes) -> None:
    (index,) = view.catalog.folder.glob("*.keys")
    index.write_bytes(data)
    keys = [f"c{n}" for n in range(11)]
    with little_memory():
        assert Catalog(view.catalog.folder).rows([*keys, "x"]).tolist() == [*range(11), -1]
        assert Catalog(view.catalog.folder).keys(np.arange(11)) == keys


def test_files_that_belong_to_no_shard_are_ignored(view: View) -> None:
    for name in ("x", "9" * 40, "-1", "007"):
        (view.paths.group / "tokens" / "c" / name).mkdir()
        view.paths.status(0).with_name(name).write_bytes(b"")
        view.paths.info(0).with_name(f"{name}.json").write_bytes(b"")
        view.paths.failures(0).with_name(f"{name}.parquet").write_bytes(b"")
    compact(CompactOptions(str(view.paths.store)))
    again = opened(view)
    assert again.status().tolist() == view.status().tolist() and again.failures().rows() == [
        ("c6", "no video")
    ]
    assert (
        ViewPaths(view.paths.store, "clips", "net").group.is_dir()
        and verify(Store.open(view.paths.store)) == []
    )


GROUPS: list[tuple[str, Any]] = [
    *(("rows_per_shard", rows) for rows in ODD),
    *(
        ("checksummed", names)
        for names in ([], ["tokens"], ["tokens"] * 2, ["tokens", "../x"], [1, 2], "ab", None)
    ),
    *(("provenance", forged) for forged in (None, {}, [], {"encoder": "x"}, "text")),
    *(("features", features) for features in FEATURES),
]


@pytest.mark.parametrize(("name", "forged"), GROUPS, ids=range(len(GROUPS)))
def test_forged_metadata_of_a_view_are_refused(view: View, name: str, forged: Any) -> None:
    def change(value: dict[str, Any]) -> None:
        value["attributes"][name] = forged
        if name == "features":
            value["attributes"]["checksummed"] = list(forged or [])

    forge(view.paths.group / "zarr.json", change)
    one_line(lambda: opened(view), "zarr.json", *([name] * (name != "features")))
    verify_ends(view, "is refused" if name == "features" else name)


def test_a_damaged_store_json_is_refused_in_one_line(view: View, run: Run) -> None:
    path = view.paths.store / "store.json"
    good = path.read_bytes()
    for at in range(len(good)):
        flip(path, at)
        status, out, errors = run("verify", view.paths.store)
        assert status in (1, 2) and "store.json" in out + errors and "Traceback" not in errors, (
            f"byte {at}"
        )
        path.write_bytes(good)


FUZZED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
SLOTS, ROW = 4, 6
SIZES = st.sampled_from(
    [0, 1, 6, 12, 24, 70, 2**31, 2**62, 2**63, 2**64 - 6, 2**64 - 1]
) | st.integers(0, 2**64 - 1)


def refused(error: StepDiffError, path: Path) -> None:
    assert "\n" not in str(error) and str(path) in str(error)


def read_row(path: Path, slot: int) -> bytes | None:
    """Return a row, or None if the reader refuses it in one line."""
    out = np.empty((1, ROW), np.uint8)
    try:
        checks = RowChecks(
            Checksums(ViewPaths(path.parent, "clips", "net"), SLOTS, 1), 0, SLOTS, ROW
        )
        read_together(
            np.array([slot]),
            [(RowReader(lambda shard: path, SLOTS, ROW, checks), out)],
            check="never",
        )
    except StepDiffError as error:
        return refused(error, path)
    return out.tobytes()


@FUZZED
@given(st.binary(max_size=40), st.lists(st.tuples(SIZES, SIZES), min_size=SLOTS, max_size=SLOTS))
@example(b"abcdefghijklmnopqrstuvwx", [(0, 6), (2**64 - 1, 6), (18, 6), (2**64 - 1, 2**64 - 1)])
def test_a_random_shard_index_gives_its_rows_or_one_line(
    tmp_path: Path, rows: bytes, index: list[tuple[int, int]]
) -> None:
    places = np.array(index, "<u8").tobytes()
    path = LocalPath(tmp_path) / "shard"
    path.write_bytes(rows + places + crc32c(places).to_bytes(4, "little"))
    for slot, (offset, length) in enumerate(index):
        content = read_row(path, slot)
        if content is None:
            continue
        if offset == 2**64 - 1:
            assert content == bytes(ROW)  # Zarr leaves out chunks equal to the fill value
        else:
            assert (
                length == ROW
                and offset + ROW <= len(rows)
                and content == rows[offset : offset + ROW]
            )
    try:
        every = pieces(
            ShardFile(path, SLOTS), np.ones(SLOTS, bool), [], ROW, lambda slot, row: None
        )
        new = b"".join(bytes(piece) for piece in every)
        kept = [
            rows[offset : offset + ROW] if offset != 2**64 - 1 else bytes(ROW)
            for offset, _ in index
        ]
        assert new == b"".join(kept) + index_bytes(np.ones(SLOTS, bool), ROW)
    except StepDiffError as error:
        refused(error, path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["format", "version", "x"]), inner)
    ),
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
