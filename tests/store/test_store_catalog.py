"""The catalog: each row number is assigned once, whichever process appends."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import StepDiffError
from common.io import sealed as table
from featurize.manifest import read_manifest
from featurize.windows import read_windows
from store import Catalog, Feature, Provenance, Store, text_key
from store.catalog.catalog import MOST_EQUAL, check_rows
from store.catalog.key_index import pack
from store.exchange.commands import ImportOptions
from store.exchange.intake import take_in
from store.verbs.compact import compact
from store.verbs.options import CompactOptions

ROOT = Path(__file__).parents[2]


def frame(*keys: str, **columns: list[object]) -> pl.DataFrame:
    return pl.DataFrame({"key": list(keys), **columns}, schema_overrides={"key": pl.String})


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Store.open(tmp_path / "store", create=True).catalog("clips")


def test_a_row_number_is_assigned_once_and_never_changes(catalog: Catalog) -> None:
    assert catalog.append(frame("b", "a", start=[1.5, 2.5])) == 2
    assert catalog.append(frame("a", "c", start=[9.0, 3], step=["x", "stir"])) == 1
    assert catalog.append(frame("b", "c")) == 0
    assert len(catalog) == 3
    assert catalog.frame().rows() == [("b", 0, 1.5, None), ("a", 1, 2.5, None), ("c", 2, 3.0, "stir")]
    assert catalog.rows(["c", "nobody", "b", "b", "", "zz"]).tolist() == [2, -1, 0, 0, -1, -1]
    assert [part.name for part in catalog.parts()] == ["000000000000.parquet", "000000000002.parquet"]


def test_the_row_number_is_an_ordinary_column(catalog: Catalog) -> None:
    catalog.append(frame("b", "a", start=[1.5, 2.5]))
    assert catalog.frame(["start", "row"]).rows() == [(1.5, 0), (2.5, 1)]


def test_metadata_of_existing_rows_is_updated(tmp_path: Path, catalog: Catalog) -> None:
    catalog.append(frame("b", "a", split=["train", "train"], start=[1, 2]))
    catalog.append(frame("c"))
    other = Store.open(tmp_path / "store").catalog("clips")
    assert other.rows(["a", "c"]).tolist() == [1, 2]
    updates = frame("c", "a", "nobody", split=["val", "test", "val"], start=[None, 2.5, 3.0], step=["stir", None, "x"])
    assert catalog.update(updates) == 2
    assert catalog.update(updates) == 0
    assert catalog.frame().sort("row").rows() == [
        ("b", 0, "train", 1.0, None),
        ("a", 1, "test", 2.5, None),
        ("c", 2, "val", None, "stir"),
    ]
    assert other.frame().equals(catalog.frame()) and other.rows(["a", "c", "nobody"]).tolist() == [1, 2, -1]
    assert catalog.update(frame("a")) == catalog.update(frame()) == 0
    with pytest.raises(StepDiffError, match="give values of its type"):
        catalog.update(frame("a", start=[["no", "number"]]))


def test_an_empty_catalog_has_its_two_columns(catalog: Catalog) -> None:
    assert len(catalog) == 0
    assert catalog.frame().schema == {"key": pl.String, "row": pl.Int64}
    assert catalog.rows(["a"]).tolist() == [-1]
    assert catalog.rows([]).tolist() == []
    assert catalog.append(frame()) == 0


def test_any_parquet_reader_can_read_a_part(catalog: Catalog) -> None:
    catalog.append(frame("b", "a"))
    assert pl.read_parquet(catalog.parts()[0]).rows() == [("b", 0), ("a", 1)]


def test_columns_of_parts_may_differ_in_dtype(catalog: Catalog) -> None:
    catalog.append(frame("a", start=[1]))
    catalog.append(frame("b", start=[1.5]))
    assert catalog.frame()["start"].to_list() == [1.0, 1.5]


def test_a_catalog_sees_rows_that_other_processes_append(tmp_path: Path, catalog: Catalog) -> None:
    catalog.append(frame("a"))
    assert (len(catalog), catalog.rows(["b"]).tolist()) == (1, [-1])
    Store.open(tmp_path / "store").catalog("clips").append(frame("b"))
    assert (len(catalog), catalog.rows(["b"]).tolist()) == (2, [1])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (frame("a", "b", "a"), "'a' twice"),
        (frame("a", row=[3]), "column `row`"),
        (frame("a", ""), "is missing"),
        (pl.DataFrame({"key": ["a", None]}), "is missing"),
        (pl.DataFrame({"key": [1]}), "text column `key`"),
        (pl.DataFrame({"clip": ["a"]}), "text column `key`"),
    ],
)
def test_a_frame_without_valid_keys_is_refused(catalog: Catalog, bad: pl.DataFrame, message: str) -> None:
    with pytest.raises(StepDiffError, match=message):
        catalog.append(bad)
    assert len(catalog) == 0 and not catalog.parts()


def test_a_missing_part_is_named(catalog: Catalog) -> None:
    for key in "abc":
        catalog.append(frame(key))
    catalog.parts()[1].unlink()
    with pytest.raises(StepDiffError, match="no part for rows 1 to 1"):
        catalog.frame()


def test_opening_reads_no_part(tmp_path: Path, catalog: Catalog) -> None:
    catalog.append(frame("a"))
    catalog.parts()[0].write_bytes(b"damaged")
    store = Store.open(tmp_path / "store")
    assert store.entities() == ["clips"] and store.views("clips") == []
    with pytest.raises(StepDiffError, match="000000000000.parquet is not as it was written"):
        store.catalog("clips").frame()


APPEND = """
import sys, polars as pl
from store import Store
catalog = Store.open(sys.argv[1]).catalog("clips")
who = sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for n in range(30):
    catalog.append(pl.DataFrame({"key": [f"shared{n}", f"{who}{n}"], "who": [who, who]}))
"""


def test_concurrent_appends_never_assign_a_row_twice(tmp_path: Path, catalog: Catalog) -> None:
    command = [sys.executable, "-c", APPEND, str(tmp_path / "store")]
    writers = [
        subprocess.Popen([*command, who], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for who in "xyz"
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("go\n", timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    found = catalog.frame()
    assert found["row"].to_list() == list(range(30 * 4))
    assert sorted(found["key"]) == sorted(f"{who}{n}" for who in ("shared", *"xyz") for n in range(30))
    assert not [p for p in catalog.folder.iterdir() if p.name.startswith(".")]


@given(st.text())
def test_the_key_of_a_text_is_computed_from_its_exact_utf_8(text: str) -> None:
    key = text_key(text)
    assert len(key) == 64 and set(key) <= set("0123456789abcdef")
    assert key != text_key(text + " ")


def test_the_key_of_a_text_is_sha256() -> None:
    assert text_key("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_blocks_are_the_rows_of_the_frame_also_while_parts_are_merged(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.catalog.catalog.MOST_ROWS", 4)
    assert catalog.append(frame(*(f"c{n}" for n in range(10)), start=list(range(10)))) == 10
    assert [part.name for part in catalog.parts()] == [f"{first:012d}.parquet" for first in (0, 4, 8)]
    assert catalog.append(frame("d", step=["stir"])) == 1
    assert catalog.schema() == {"key": pl.String, "row": pl.Int64, "start": pl.Int64, "step": pl.String}
    like = pl.DataFrame(schema={"key": pl.String, "start": pl.Float64, "no": pl.String})
    whole = catalog.frame(["row", "key", "start"]).with_columns(pl.col("start").cast(pl.Float64), no=pl.lit(None))
    found = []
    for block in catalog.blocks(like):
        found.append(block)
        if len(found) == 1:
            compact(CompactOptions(str(tmp_path / "store")))
            assert len(catalog.parts()) == 1
    assert [len(block) for block in found] == [4, 7]
    assert pl.concat(found).equals(whole.cast({"no": pl.String}))
    assert list(Store.open(tmp_path / "store").catalog("texts").blocks(like)) == []


def test_blocks_refuse_a_lost_part(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.catalog.catalog.MOST_ROWS", 2)
    catalog.append(frame(*"abcde"))
    catalog.parts()[1].unlink()
    with pytest.raises(StepDiffError, match="no part for rows 2 to 3"):
        list(catalog.blocks(frame().select("key")))


def test_a_look_up_decodes_the_row_groups_of_its_rows_alone(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog.append(frame(*(f"c{n}" for n in range(1000)), step=[f"s{n}" for n in range(1000)]))
    decoded: list[int] = []
    read = table.read

    def watched(*given: object, **more: object) -> pl.DataFrame:
        decoded.append(len(found := read(*given, **more)))  # type: ignore[arg-type]
        return found

    monkeypatch.setattr("store.catalog.catalog.table.read", watched)
    found = catalog.select(catalog.rows(["c7", "c900", "no"]))
    assert found.select("row", "step").rows() == [(7, "s7"), (900, "s900")] and decoded == [2]


def test_indexes_beyond_a_size_are_not_merged(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.catalog.key_indexes.MOST_ROWS", 8)
    for first in range(0, 20, 4):
        catalog.append(frame(*(f"c{n}" for n in range(first, first + 4))))
    assert catalog.rows([f"c{n}" for n in range(20)]).tolist() == list(range(20))
    assert len(list(catalog.folder.glob("*.keys"))) == 3


def test_a_column_of_a_type_that_the_catalog_cannot_take_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "clips")
    catalog.append(pl.DataFrame({"key": ["a"], "split": ["train"], "start": [1]}))
    for wrong in ([[1, 2]], [timedelta(seconds=1)]):
        with pytest.raises(StepDiffError, match="column 'split' of clips is String in the catalog and .* here"):
            Catalog(tmp_path / "clips").append(pl.DataFrame({"key": ["b"], "split": wrong}))
    catalog.append(pl.DataFrame({"key": ["b"], "split": ["val"], "start": [1.5], "new": [[1]]}))
    assert catalog.frame()["key"].to_list() == ["a", "b"]


MADE_BY = {"encoder": "net", "weights_sha256": "ab" * 32, "layer": "last", "frames": "8 evenly", "crop": "centre 224"}
WRONG = {
    "a long key": ({"key": ["a", "ü" * 2049]}, "has KEY 'üüü"),
    "a key with NUL": ({"key": ["a", "b\0"]}, r"has KEY 'b\x00', with a NUL character: remove it"),
    "a path with NUL": ({"video": ["a.mp4", "v\0.mp4"]}, r"has video 'v\x00.mp4', with a NUL character: remove it"),
    "a start far away": ({"start": [0.0, 1e18]}, "has start '1e+18', not a time in a video: give seconds below 1,000,"),
    "a start as text": ({"start": ["0", "1e18"]}, "has start '1e18', not a time in a video"),
    "an infinite end": ({"end": [9.0, float("inf")]}, "has end 'inf', not a time in a video"),
    "an end that is NaN": ({"end": [9.0, float("nan")]}, "has end 'nan', not a time in a video"),
}
"""columns of two clips, and why the second is refused"""


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("door", ["append", "update", "write", "failures", "import", "manifest", "windows"])
def test_keys_paths_and_times_that_no_catalog_takes_are_refused_at_every_door_with_their_row(
    tmp_path: Path, door: str, wrong: str
) -> None:
    columns, message = WRONG[wrong]
    clips = pl.DataFrame(
        {"key": ["a", "b"], "video": ["a.mp4", "b.mp4"], "start": [0.0, 1.0], "end": [9.0, 9.0], **columns}
    )
    store = Store.open(tmp_path / "s", create=True)
    features, ones = {"x": Feature((2,), "float32")}, np.ones((2, 2), np.float32)
    row = "row 2" if door in ("manifest", "windows") else "row 1"
    path = tmp_path / "f.parquet"
    if door in ("manifest", "windows") and not {"start", "end"}.isdisjoint(columns):
        clips.rename({"key": "clip"}).write_parquet(path)
        assert list(read_manifest(path).failures) == ["b"], "a bad interval fails alone"
        return
    if door == "failures" and "key" not in columns:
        return
    with pytest.raises(StepDiffError) as caught:
        if door == "append":
            store.catalog("clips").append(clips)
        elif door == "update":
            store.catalog("clips").update(clips)
        elif door in ("write", "failures"):
            with store.writer("clips", "v", Provenance("n", "0" * 64, "l", "f", "c", {}), features) as writer:
                if door == "write":
                    writer.write(clips, {"x": ones})
                writer.write([], {}, dict.fromkeys(clips["key"], "no video"))
        elif door == "import":
            clips.with_columns(x=ones).write_parquet(path)
            take_in(ImportOptions(str(path), str(tmp_path / "new"), "v", **MADE_BY))
        else:
            clips.rename({"key": "clip"}).write_parquet(path)
            list(read_windows(path, window=1)) if door == "windows" else read_manifest(path)
    name = "clip" if door in ("manifest", "windows") else "key"
    assert row in str(caught.value) and message.replace("KEY", name) in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert len(store.catalog("clips")) == 0 and not (tmp_path / "new").exists()


def test_a_store_with_keys_that_no_door_takes_now_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "a" * 5000
    with monkeypatch.context() as earlier:
        earlier.setattr("store.catalog.catalog.MOST_BYTES", 10_000)
        Store.open(tmp_path / "s", create=True).catalog("clips").append(frame("b", long, start=[0.0, 1.0]))
    store = Store.open(tmp_path / "s")
    assert store.catalog("clips").rows([long, "b"]).tolist() == [1, 0]
    assert store.catalog("clips").append(frame("c")) == 1
    compact(CompactOptions(str(tmp_path / "s")))
    assert store.catalog("clips").keys(np.arange(3)) == ["b", long, "c"]


def test_keys_that_were_made_to_have_one_hash_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"{n}" for n in range(MOST_EQUAL + 2)]
    check_rows(frame(*keys, *["7"] * 100), "f")  # equal keys are refused elsewhere, with a line that says so
    hashes = pack(keys).hashes()
    monkeypatch.setattr("store.catalog.key_index.PackedKeys.hashes", lambda keys: hashes[: len(keys)] * 0)
    check_rows(frame(*keys[:MOST_EQUAL]), "f")
    with pytest.raises(StepDiffError, match="f has keys that were made to have one hash"):
        check_rows(frame(*keys), "f")
