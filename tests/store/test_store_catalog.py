"""The catalog: each row number is assigned once, whichever process appends; its index finds each
key and no other."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurize.manifest import read_manifest, read_windows
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.local import LocalPath
from stepdiff_core.io.remote import RemotePath
from store import Catalog, Feature, Store
from store.catalog.key_index import BLOCK, KeyIndex, built, in_memory, joined, pack
from store.exchange.intake import take_in
from store.verbs.compact import compact
from store.verbs.options import CompactOptions, ImportOptions
from tests.store.conftest import ROOT, flip
from tests.store.exchange.conftest import MADE_BY
from tests.stores import write_view


@pytest.fixture(params=["folder", pytest.param("object store", marks=pytest.mark.full)])
def append_place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (
        f"{tmp_path if request.param == 'folder' else request.getfixturevalue('bucket')}/features"
    )


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
    assert catalog.frame().rows() == [
        ("b", 0, 1.5, None),
        ("a", 1, 2.5, None),
        ("c", 2, 3.0, "stir"),
    ]
    assert catalog.rows(["c", "nobody", "b", "b", "", "zz"]).tolist() == [2, -1, 0, 0, -1, -1]
    assert pl.read_parquet(catalog.parts()[0]).rows() == [("b", 0, 1.5), ("a", 1, 2.5)]
    assert Store.open(catalog.folder.parents[1]).catalog("texts").frame().schema == {
        "key": pl.String,
        "row": pl.Int64,
    }


def test_metadata_of_existing_rows_is_updated(tmp_path: Path, catalog: Catalog) -> None:
    catalog.append(frame("b", "a", split=["train", "train"], start=[1, 2]))
    catalog.append(frame("c"))
    other = Store.open(tmp_path / "store").catalog("clips")
    assert other.rows(["a", "c"]).tolist() == [1, 2]
    updates = frame(
        "c",
        "a",
        "nobody",
        split=["val", "test", "val"],
        start=[None, 2.5, 3.0],
        step=["stir", None, "x"],
    )
    assert catalog.update(updates) == 2
    assert catalog.update(updates) == 0
    assert catalog.frame().sort("row").rows() == [
        ("b", 0, "train", 1.0, None),
        ("a", 1, "test", 2.5, None),
        ("c", 2, "val", None, "stir"),
    ]
    assert other.frame().equals(catalog.frame()) and other.rows(["a", "c", "nobody"]).tolist() == [
        1,
        2,
        -1,
    ]
    assert catalog.update(frame("a")) == catalog.update(frame()) == 0
    with pytest.raises(StepDiffError, match="give values of its type"):
        catalog.update(frame("a", start=[["no", "number"]]))


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
def test_a_frame_without_valid_keys_is_refused(
    catalog: Catalog, bad: pl.DataFrame, message: str
) -> None:
    with pytest.raises(StepDiffError, match=message):
        catalog.append(bad)
    assert len(catalog) == 0 and not catalog.parts()


APPEND = """
import sys, polars as pl
from store import Store
catalog = Store.open(sys.argv[1]).catalog("clips")
who = sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for n in range(10):
    catalog.append(pl.DataFrame({"key": [f"shared{n}", f"{who}{n}"], "who": [who, who]}))
"""


def test_concurrent_appends_never_assign_a_row_twice(append_place: str) -> None:
    catalog = Store.open(append_place, create=True).catalog("clips")
    command = [sys.executable, "-c", APPEND, append_place]
    writers = [
        subprocess.Popen([*command, who], stdin=-1, stdout=-1, text=True, cwd=ROOT) for who in "xyz"
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("go\n", timeout=120)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    rows = catalog.frame()
    assert rows["row"].to_list() == list(range(10 * 4))
    assert sorted(rows["key"]) == sorted(
        f"{who}{n}" for who in ("shared", *"xyz") for n in range(10)
    )
    assert not [path for path in catalog.folder.iterdir() if path.name.startswith(".")]


def test_blocks_are_the_rows_of_the_frame_while_parts_are_merged(
    tmp_path: Path, catalog: Catalog
) -> None:
    for first, end in ((0, 4), (4, 10)):
        catalog.append(frame(*(f"c{n}" for n in range(first, end)), start=list(range(first, end))))
    assert catalog.append(frame("d", step=["stir"])) == 1
    assert catalog.schema() == {
        "key": pl.String,
        "row": pl.Int64,
        "start": pl.Int64,
        "step": pl.String,
    }
    like = pl.DataFrame(schema={"key": pl.String, "start": pl.Float64, "no": pl.String})
    whole = catalog.frame(["row", "key", "start"]).with_columns(
        pl.col("start").cast(pl.Float64), no=pl.lit(None)
    )
    blocks = catalog.blocks(like)
    first_block = next(blocks)
    compact(CompactOptions(str(tmp_path / "store")))
    assert len(catalog.parts()) == 1 and len(first_block) == 4
    assert pl.concat([first_block, *blocks]).equals(whole.cast({"no": pl.String}))
    assert list(Store.open(tmp_path / "store").catalog("texts").blocks(like)) == []


def test_a_missing_part_is_named_although_an_index_has_its_rows(catalog: Catalog) -> None:
    for key in "abc":
        catalog.append(frame(key))
    catalog.parts()[1].unlink()
    for ask in (
        lambda c: c.frame(),
        lambda c: c.rows(["a"]),
        lambda c: list(c.blocks(frame().select("key"))),
    ):
        with pytest.raises(StepDiffError, match="no part for rows 1 to 1"):
            ask(Catalog(catalog.folder))


def test_a_column_of_a_type_that_does_not_fit_is_refused_first(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "clips")
    catalog.append(pl.DataFrame({"key": ["a"], "split": ["train"], "start": [1]}))
    for wrong in ([[1, 2]], [timedelta(seconds=1)]):
        with pytest.raises(
            StepDiffError, match="column 'split' of clips is String in the catalog and .* here"
        ):
            Catalog(tmp_path / "clips").append(pl.DataFrame({"key": ["b"], "split": wrong}))
    catalog.append(pl.DataFrame({"key": ["b"], "split": ["val"], "start": [1.5], "new": [[1]]}))
    assert catalog.frame()["key"].to_list() == ["a", "b"]


WRONG = {
    "a long key": ({"key": ["a", "ü" * 2049]}, "has KEY 'üüü"),
    "a key with NUL": ({"key": ["a", "b\0"]}, r"has KEY 'b\x00', with a NUL character: remove it"),
    "a path with NUL": (
        {"video": ["a.mp4", "v\0.mp4"]},
        r"has video 'v\x00.mp4', with a NUL character: remove it",
    ),
    "a start far away": (
        {"start": [0.0, 1e18]},
        "has start '1e+18', not a time in a video: give seconds below 1,000,",
    ),
    "a start as text": ({"start": ["0", "1e18"]}, "has start '1e18', not a time in a video"),
    "an infinite end": ({"end": [9.0, float("inf")]}, "has end 'inf', not a time in a video"),
    "an end that is NaN": ({"end": [9.0, float("nan")]}, "has end 'nan', not a time in a video"),
}
"""columns of two clips, and why the second is refused"""


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    "door", ["append", "update", "write", "failures", "import", "manifest", "windows"]
)
def test_bad_keys_paths_and_times_are_refused_at_every_door(
    tmp_path: Path, door: str, wrong: str
) -> None:
    columns, message = WRONG[wrong]
    clips = pl.DataFrame(
        {
            "key": ["a", "b"],
            "video": ["a.mp4", "b.mp4"],
            "start": [0.0, 1.0],
            "end": [9.0, 9.0],
            **columns,
        }
    )
    store = Store.open(tmp_path / "s", create=True)
    features = {"x": Feature((2,), "float32")}
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
            failures = dict.fromkeys(clips["key"], "no video") if door == "failures" else {}
            write_view(store, clips if door == "write" else [], features, failures=failures)
        elif door == "import":
            clips.with_columns(x=np.ones((2, 2), np.float32)).write_parquet(path)
            take_in(ImportOptions(str(path), str(tmp_path / "new"), "v", **MADE_BY))
        else:
            clips.rename({"key": "clip"}).write_parquet(path)
            list(read_windows(path, window=1)) if door == "windows" else read_manifest(path)
    name = "clip" if door in ("manifest", "windows") else "key"
    assert row in str(caught.value) and message.replace("KEY", name) in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert len(store.catalog("clips")) == 0 and not (tmp_path / "new").exists()


HERE = LocalPath("here.keys")
MASK = 2**64 - 1
PARTS = ((0, 10), (10, 19), (19, 30))  # each append merges the earlier indexes


def naive_mixed(z: Any) -> Any:
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def colliding(count: int) -> list[str]:
    """Return different keys of 16 ASCII characters with one hash, as someone can make them."""
    first = np.random.default_rng(0).integers(33, 127, (2**18, 8), np.uint8).view("<u8").ravel()
    second = naive_mixed(naive_mixed(16) ^ first) ^ np.uint64(0x6B6B6B6B6B6B6B6B)
    text = np.stack([first, second], 1).view(np.uint8)
    keys = [bytes(key).decode() for key in text[((text > 0) & (text < 128)).all(1)][:count]]
    assert len(set(keys)) == count
    return keys


def index_of(keys: list[str], first: int = 0) -> KeyIndex:
    return in_memory(HERE, built(first, pack(keys), {f"{first}.parquet": "0"}))


def find(index: KeyIndex, keys: list[str]) -> list[int]:
    packed = pack(keys)
    return index.find(packed, packed.hashes(), np.arange(len(keys))).tolist()


@given(st.lists(st.text("ab_0", min_size=1), unique=True, min_size=1), st.data())
def test_an_index_finds_the_same_rows_as_a_dict(keys: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(keys)), max_size=3)) | {0, len(keys)})
    packed = joined([index_of(keys[a:b], a).packed for a, b in zip(cuts, cuts[1:], strict=False)])
    index = in_memory(HERE, built(0, packed, {}))
    assert (index.first, index.end) == (0, len(keys))
    rows = {key: row for row, key in enumerate(keys)}
    sought = [*reversed(keys), "", "abc", *data.draw(st.lists(st.text("ab_0")))]
    assert find(index, sought) == [rows.get(key, -1) for key in sought]
    assert index.keys(np.arange(len(keys))) == keys


def test_keys_with_equal_hashes_are_distinguished(tmp_path: Path) -> None:
    catalog, keys = Store.open(tmp_path / "store", create=True).catalog("clips"), colliding(500)
    assert len(set(pack(keys).hashes().tolist())) == 1
    lengths = ["k" * length for length in (3, 16, 8, 17, 9, 1)]
    assert pack(lengths).hashes().tolist() == [int(pack([key]).hashes()[0]) for key in lengths]
    for part in (keys[:30], keys[30:499]):
        catalog.append(frame(*part))
    assert catalog.rows([*keys, "x"]).tolist() == [*range(499), -1, -1]


@pytest.fixture
def thirty(tmp_path: Path) -> Catalog:
    """A catalog of thirty rows in three parts."""
    catalog = Store.open(tmp_path / "store", create=True).catalog("clips")
    for first, end in PARTS:
        catalog.append(frame(*(f"c{n}" for n in range(first, end))))
    return catalog


def indexes(catalog: Catalog) -> list[Path]:
    return sorted(catalog.folder.glob("*.keys"))


def works(catalog: Catalog, rows: int = 30) -> None:
    """Return whether a newly opened catalog finds rows and keys."""
    catalog = Catalog(catalog.folder)
    assert len(catalog) == rows
    assert catalog.rows([*(f"c{n}" for n in range(rows)), "c", "nobody"]).tolist() == [
        *range(rows),
        -1,
        -1,
    ]
    assert catalog.keys(np.arange(rows)[::-1]) == [f"c{n}" for n in reversed(range(rows))]


@pytest.mark.parametrize("what", ["missing", "damaged", "cut", "empty", "of other parts"])
def test_an_index_that_is_lost_or_wrong_is_rebuilt(
    thirty: Catalog, tmp_path: Path, what: str
) -> None:
    works(thirty)
    (index,) = indexes(thirty)
    good = index.read_bytes()
    if what == "missing":
        index.unlink()
    elif what == "of other parts":
        other = Store.open(tmp_path / "other", create=True).catalog("clips")
        for first, end in PARTS:
            other.append(frame(*(f"c{29 - n}" for n in range(first, end))))
        assert indexes(other)[0].name == index.name
        index.write_bytes(indexes(other)[0].read_bytes())
    elif what != "damaged":
        index.write_bytes(good[:-100] if what == "cut" else b"")
    for at in (0, 3 * BLOCK, len(good) - 1) if what == "damaged" else (None,):
        if at is not None:
            flip(index, at)
        works(thirty)
        assert index.read_bytes() == good


ROWS = 30_000
KEYS = pl.Series([f"video_{row % 97}_{row}.000_{row + 4}.000" for row in range(ROWS)])


@pytest.fixture
def place(bucket: str) -> str:
    """A store of 30,000 rows in an object store."""
    Store.open(f"{bucket}/features", create=True).catalog("clips").append(
        pl.DataFrame({"key": KEYS})
    )
    return f"{bucket}/features"


def opened(place: str) -> Catalog:
    return Store.open(place).catalog("clips")


def index_object(place: str) -> RemotePath:
    (index,) = opened(place).folder.glob("*.keys")
    assert isinstance(index, RemotePath)
    return index


@pytest.mark.full
def test_an_index_that_is_merged_while_it_is_used(place: str) -> None:
    catalog = opened(place)
    # its index is open, and most of it is not fetched yet
    assert catalog.keys(np.array([3])) == [KEYS[3]]
    more = pl.Series([f"more_{row}" for row in range(ROWS)])
    assert opened(place).append(pl.DataFrame({"key": more})) == ROWS
    assert index_object(place).name.endswith(f"-{2 * ROWS:012d}.keys")
    assert np.array_equal(catalog.rows(pl.concat([KEYS, more])), np.arange(2 * ROWS))
    catalog = opened(place)
    assert catalog.keys(np.array([3])) == [KEYS[3]]
    index_object(place).unlink()
    assert catalog.rows([more[-1]]).tolist() == [2 * ROWS - 1] and index_object(place).exists()
