"""Imported files of strangers: refused in one line before anything is allocated, or with single
rows failed."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from stepdiff.annotate.sources.images import read_images
from stepdiff_core.errors import StepDiffError
from store import Store, View
from store.__main__ import main
from store.exchange.intake import take_in
from store.verbs.options import ImportOptions
from tests.store.conftest import Run, ended

from .conftest import MADE_BY, imported, refused

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.full
KEYS = ["a", "b", "c"]
FLOATS = pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32(), 2))


def lance_of(
    path: Path, base: str | None = None, name: str | None = None, deleted: bool = False
) -> Path:
    """Write a Lance dataset whose data or deletions are at a base path, or whose data file has
    another name."""
    lance = pytest.importorskip("lance")
    dataset = lance.write_dataset(pa.table({"key": KEYS, "x": FLOATS}), str(path))
    if deleted:
        dataset.delete("key = 'b'")
    (fragment,) = (one.metadata.to_json() for one in dataset.get_fragments())
    if base:
        dataset.add_bases([lance.DatasetBasePath(base, "theirs", is_dataset_root=True, id=7)])
        (fragment["deletion_file"] if deleted else fragment["files"][0])["base_id"] = 7
    if name:
        fragment["files"][0]["path"] = name
    fragments = [lance.FragmentMetadata.from_json(json.dumps(fragment))]
    if deleted:
        operation = lance.LanceOperation.Delete(fragments, [], "key = 'b'")
    else:
        operation = lance.LanceOperation.Overwrite(dataset.schema, fragments)
    lance.LanceDataset.commit(str(path), operation, read_version=lance.dataset(str(path)).version)
    return path


def linked(path: Path, target: Path) -> Path:
    path.parent.mkdir()
    path.symlink_to(target)
    return path.parent


OUTSIDE = {
    "Lance, data at a local base path": (
        lambda t: lance_of(t / "f.lance", str(t / "secret.lance")),
        "has base paths",
    ),
    "Lance, data at an s3 base path": (
        lambda t: lance_of(t / "f.lance", "s3://bucket/f"),
        "has base paths",
    ),
    "Lance, deletions at a base path": (
        lambda t: lance_of(t / "f.lance", "s3://b/f", None, True),
        "has base paths",
    ),
    "Lance, an upward path": (
        lambda t: lance_of(t / "f.lance", None, "../../s.lance/data/f.lance"),
        "cannot read",
    ),
    "Lance, an absolute path": (
        lambda t: lance_of(t / "f.lance", None, f"{t}/s.lance/data/f.lance"),
        "cannot read",
    ),
    "Lance, a linked folder": (
        lambda t: linked(t / "f.lance/data", t / "secret.lance/data"),
        "data is a link to",
    ),
    "Parquet, a linked file": (
        lambda t: linked(t / "f/0.parquet", t / "secret.parquet"),
        "0.parquet is a link to",
    ),
    "Parquet, a linked folder": (
        lambda t: linked(t / "f.parquet/d", t / "secret"),
        "d is a link to",
    ),
    "tar, a linked file": (
        lambda t: linked(t / "tars/0.tar", t / "secret.tar"),
        "0.tar is a link to",
    ),
}
"""files that lead out of themselves or of their folder, and the refusal; what they lead to does not
exist"""


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_outside_the_given_path_is_read_or_requested(
    tmp_path: Path, listening: Callable[[], bool], name: str
) -> None:
    make, message = OUTSIDE[name]
    path = make(tmp_path)
    if name.startswith("tar"):
        with pytest.raises(StepDiffError, match=message):
            list(read_images([str(path)], tmp_path, Counter()))
    else:
        assert message in refused(path)
    assert not listening()


def test_links_inside_a_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "f/deep").mkdir(parents=True)
    pq.write_table(pa.table({"key": KEYS, "x": FLOATS}), tmp_path / "f/deep/0.data")
    (tmp_path / "f/0.parquet").symlink_to("deep/0.data")
    (tmp_path / "given").symlink_to("f")
    assert imported(tmp_path / "given", **MADE_BY)["done"] == 3


def test_a_name_that_several_columns_have_is_refused(tmp_path: Path) -> None:
    path, columns = (
        tmp_path / "f.parquet",
        [pa.array(KEYS), FLOATS, pa.array([[1.0]] * 3), pa.array([[2.0]] * 3)],
    )
    for names, twice in (
        (["key", "x", "m", "m"], "m"),
        (["key", "x", "x", "m"], "x"),
        (["key", "x", "key", "m"], "key"),
    ):
        pq.write_table(pa.Table.from_arrays(columns, names), path)
        assert refused(path) == f"{path} has several columns {twice!r}: give each a name of its own"
    (tmp_path / "files").mkdir()
    pq.write_table(pa.table({"key": ["d"], "x": FLOATS[:1]}), tmp_path / "files/0.parquet")
    pq.write_table(
        pa.Table.from_arrays([columns[0], FLOATS, FLOATS], ["key", "x", "x"]),
        tmp_path / "files/1.parquet",
    )
    assert "column 'x' is there several times in" in refused(tmp_path / "files")


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int64()), pa.duration("us"), pa.timestamp("us", "UTC")]
)
def test_metadata_that_do_not_fit_the_catalog_are_refused_first(tmp_path: Path, kind: Any) -> None:
    store, path = Store.open(tmp_path / "s", create=True), tmp_path / "f.parquet"
    store.catalog("clips").append(pl.DataFrame({"key": ["a", "z"], "m": ["u", "v"]}))
    values = [[1]] * 3 if pa.types.is_list(kind) else [1, 2, 3]
    pq.write_table(pa.table({"key": KEYS, "m": pa.array(values, kind), "x": FLOATS}), path)
    with pytest.raises(
        StepDiffError, match="f.parquet: column 'm' of clips is String .* with --columns"
    ) as caught:
        take_in(ImportOptions(str(path), str(store.path), "v", **MADE_BY))
    assert "\n" not in str(caught.value)
    assert store.views("clips") == [] and store.catalog("clips").frame()["m"].to_list() == [
        "u",
        "v",
    ]


def test_files_that_are_no_parquet_or_lance_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no Parquet")
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.parquet")
    pytest.importorskip("lance")
    (tmp_path / "broken.lance/_versions").mkdir(parents=True)
    for name, message in (
        ("text.parquet", "it is no Parquet file"),
        ("empty.parquet", "cannot read"),
        ("gone.parquet", "{path} does not exist"),
        ("pipe.parquet", "is not a regular file"),
        ("folder", "the format of {path} is not known by its name or content: Parquet, Lance and"),
        ("gone.txt", "{path} does not exist"),
        ("broken.lance", "cannot read {path}"),
    ):
        assert message.replace("{path}", str(tmp_path / name)) in refused(tmp_path / name)
    assert "has no Parquet files" in refused(tmp_path / "folder", format="parquet")


def test_a_parquet_file_that_declares_too_much_is_not_decoded(
    tmp_path: Path,
) -> None:
    """A row of 64 MiB of zeros takes a few bytes, and so do a thousand rows that repeat one
    text."""
    path, wide = tmp_path / "f.parquet", 2**24
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4 * wide, np.float32)), wide)
    pq.write_table(
        pa.table({"key": ["a", "b", "c", "d"], "x": zeros}),
        path,
        use_dictionary=True,
        compression="zstd",
    )
    assert path.stat().st_size < 2**16
    assert "it declares " in refused(path)
    text = pa.array(["x" * 2**21] * 1000).dictionary_encode()
    pq.write_table(pa.table({"key": text, "x": pa.array([[1.0]] * 1000)}), path, compression="zstd")
    assert path.stat().st_size < 2**20
    assert "repeats text beyond" in refused(path)


def test_only_rows_of_a_broken_row_group_fail(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    values = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float16)
    table = pa.table(
        {
            "key": [f"k{i}" for i in range(8)],
            "x": pa.FixedSizeListArray.from_arrays(values.reshape(-1), 64),
        }
    )
    pq.write_table(
        table,
        path,
        row_group_size=2,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    data = bytearray(path.read_bytes())
    data[data.index(values[4].tobytes()) + 5] ^= 4
    path.write_bytes(data)
    done = imported(path, **MADE_BY)
    assert (done["done"], done["failed"]) == (6, 2)
    assert {row["key"] for row in done["failures"]} == {"k4", "k5"}
    assert all(row["reason"].startswith("cannot be read (") for row in done["failures"])
    view = Store.open(tmp_path / "s").view("clips", "v")
    assert view.read("x", keys=["k3", "k6"]).tobytes() == values[[3, 6]].tobytes()


def test_parts_that_differ_or_are_missing_are_refused(
    tmp_path: Path, save: Run, small_parts: None
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    pq.write_table(pa.table({"key": KEYS, "x": FLOATS}), folder / "0.parquet")
    pq.write_table(
        pa.table({"key": ["d", "e", "f"], "x": FLOATS.cast(pa.list_(pa.float16(), 2))}),
        folder / "1.parquet",
    )
    assert "column 'x' is fixed_size_list<element: halffloat>[2] in" in refused(folder)
    pq.write_table(pa.table({"key": ["d", "e", "a"], "x": FLOATS}), folder / "1.parquet")
    assert "has key 'a' in rows 0 and 5: keys are unique" in refused(folder)
    assert save("out.parquet").status == 0
    (tmp_path / "out.parquet/data/part-000002.parquet").unlink()
    assert "has 7 rows and its card says 10: a part is missing" in refused(
        tmp_path / "out.parquet",
        encoder=None,
        weights_sha256=None,
        layer=None,
        frames=None,
        crop=None,
    )


def test_flipped_bits_give_one_line_or_failed_rows(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(9, 12)).astype(np.float16)
    lists = pa.FixedSizeListArray.from_arrays(values.reshape(-1), 12)
    table = pa.table({"key": [f"k{i}" for i in range(9)], "video": ["v"] * 9, "x": lists})
    pq.write_table(table, tmp_path / "f.parquet", row_group_size=4)
    whole, dice, outcomes = (tmp_path / "f.parquet").read_bytes(), np.random.default_rng(0), set()
    for number in range(60):
        data = bytearray(whole)
        for _ in range(2):
            data[int(dice.integers(len(data)))] ^= 1 << int(dice.integers(8))
        (tmp_path / "f.parquet").write_bytes(data)
        try:
            imported(tmp_path / "f.parquet", f"s{number}", **MADE_BY)
            outcomes.add("taken")
        except StepDiffError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {"taken", "refused"}


@pytest.mark.parametrize("format", ["lance", "hdf5"])
def test_no_flipped_bit_of_an_export_is_imported(
    tmp_path: Path, view: View, capfd: pytest.CaptureFixture[str], format: str
) -> None:
    """Lance, which has no checksums, prints panics where a damaged file breaks its code."""
    dice = np.random.default_rng(0)
    words = "export", tmp_path / "out", "--store", view.paths.store, "--view", "net"
    assert ended(capfd, main, *words, "--format", format).status == 0
    imported(tmp_path / "out", "whole", format=format)
    whole = Store.open(tmp_path / "whole").view("clips", "v")
    paths = sorted((tmp_path / "out").rglob("*.*")) if format == "lance" else [tmp_path / "out"]
    outcomes: Counter[str] = Counter()
    capfd.readouterr()
    for number in range(60):
        path = paths[number % len(paths)]
        if path.suffix == ".md" or path.is_dir():
            continue
        data = path.read_bytes()
        at, bit = int(dice.integers(len(data))), 1 << int(dice.integers(8))
        path.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
        try:
            done = imported(tmp_path / "out", f"s{number}", format=format)
            outcomes["failed" if done["failed"] else "same"] += 1
            other = Store.open(tmp_path / f"s{number}").view("clips", "v")
            rows = np.flatnonzero(other.status() == 1)
            assert other.provenance == whole.provenance
            about = whole.catalog.frame().filter(pl.col("key").is_in(other.catalog.keys(rows)))
            assert other.catalog.frame()[rows.tolist()].drop("row").equals(about.drop("row"))
            for name in ("tokens", "embedding", "q"):
                same = whole.rows(other.catalog.keys(rows))
                assert other.read(name, rows).tobytes() == whole.read(name, same).tobytes()
        except StepDiffError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
        path.write_bytes(data)
    assert outcomes["failed"] and outcomes["refused"] and capfd.readouterr().err == ""


def parquet_of(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path / "f.parquet", compression="zstd")
    return path / "f.parquet"


def floats(rows: int) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ones(rows, np.float32)), 1)


SLOW = {
    "a key of 50 MB": lambda t: parquet_of(t, {"key": ["a" * 50_000_000], "x": floats(1)}),
    "keys of every length": lambda t: parquet_of(
        t, {"key": ["a" * n for n in range(1, 4097)], "x": floats(4096)}
    ),
    "a text of 256 kB in 2,000 rows": lambda t: parquet_of(
        t,
        {
            "key": [f"{n}" for n in range(2000)],
            "m": pa.array(["x" * 2**18] * 2000).dictionary_encode(),
            "x": floats(2000),
        },
    ),
    "200 features": lambda t: parquet_of(
        t, {"key": ["a"], **{f"x{n}": floats(1) for n in range(200)}}
    ),
    "1,100 columns": lambda t: parquet_of(
        t, {"key": ["a"], "x": floats(1), **{f"m{n}": [1] for n in range(1100)}}
    ),
}
"""files of less than 2 MB that held the store's lock for up to 100 s"""


@pytest.mark.parametrize("name", SLOW)
def test_no_small_file_takes_more_than_seconds(tmp_path: Path, name: str) -> None:
    path = SLOW[name](tmp_path)
    assert path.stat().st_size < 2 * 2**20
    begin = time.process_time()
    with suppress(StepDiffError):
        imported(path, **MADE_BY)
    assert time.process_time() - begin < 8
