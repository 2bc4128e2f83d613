"""Imports: a round trip keeps every bit, bad rows fail alone, and what does not fit is refused in
one line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store import Feature, Store, View
from store.verbs.verify import verify
from tests.store.conftest import ROOT, Run
from tests.stores import write_view

from .conftest import FAILED, FORMATS, KEYS, MADE_BY, READABLE, imported, refused

ABC = ["a", "b", "c"]


pytestmark = pytest.mark.usefixtures("small_parts")


def taken(path: Path, **options: Any) -> dict[str, Any]:
    return imported(path, "other", **{"view": "net", **options})


def opened(path: Path) -> View:
    return Store.open(path.parent / "other").view("clips", "net")


def lists(array: np.ndarray) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array[0].size)


def arrays(count: int, *shape: int, dtype: str = "float16") -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, *shape)).astype(dtype)


def write(path: Path, format: str, columns: dict[str, Any]) -> None:
    table = pa.table(columns)
    if format == "lance":
        import lance

        lance.write_dataset(table, str(path))
    else:
        pq.write_table(table, path, row_group_size=3)


def same_features(copy: View, view: View, rows: np.ndarray) -> None:
    there = copy.rows([KEYS[row] for row in rows])
    for name in ("tokens", "embedding"):
        assert copy.read(name, there).tobytes() == view.read(name, rows).tobytes()
    for stored, expected in zip(
        copy.read_quantised("q", there), view.read_quantised("q", rows), strict=True
    ):
        assert stored.tobytes() == expected.tobytes()


@pytest.mark.parametrize("format", [*FORMATS[:3], "hdf5"])
def test_float16_float32_and_int8_with_scales_keep_every_bit(
    view: View, finished: np.ndarray, save: Run, load: Run, tmp_path: Path, format: str
) -> None:
    name = "out.h5" if format == "hdf5" else "out"
    assert save(name, "--format", format).status == load(name).status == 0
    copy = opened(tmp_path / name)
    assert copy.features == view.features and copy.provenance == view.provenance
    same_features(copy, view, finished)
    catalog, before = copy.catalog.frame(), view.catalog.frame()[finished.tolist()]
    assert catalog["key"].to_list() == [KEYS[row] for row in finished]
    for column in ("video", "start", "step", "seen", "made"):
        assert catalog[column].to_list() == before[column].to_list(), column
    assert verify(Store.open(tmp_path / "other")) == []
    assert KEYS[FAILED] not in catalog["key"].to_list()


def test_what_was_changed_after_the_export_is_noticed(
    view: View, save: Run, tmp_path: Path
) -> None:
    """By the checksums of each row, whatever the format: here files that their library wrote
    again."""
    assert save("out.parquet").status == 0
    table, path = (
        pq.read_table(tmp_path / "out.parquet/data/part-000000.parquet"),
        tmp_path / "f.parquet",
    )

    def changed(column: str, values: pa.Array) -> Any:
        return table.set_column(
            table.schema.names.index(column), table.schema.field(column), values
        )

    tokens = np.array(table["embedding"].to_pylist(), np.float32)
    tokens[2].view(np.uint32)[3] ^= 1
    pq.write_table(changed("embedding", lists(tokens)), path)
    done = taken(path)
    assert done["done"] == len(table) - 1 and done["left_out"] == []
    remedy = "as it was exported: export it again, or remove the column crc32c if you changed it"
    assert done["failures"] == [{"key": KEYS[2], "reason": f"embedding is not {remedy}"}]
    nothing = dict.fromkeys(MADE_BY)
    for column, values in (
        ("key", pa.array([*KEYS[:2], "c2", KEYS[3]])),
        ("step", pa.array([0, 1, 3, None])),
        ("start", pa.array([0, 0.5, 1, 1.25])),
    ):
        path = tmp_path / column / "f.parquet"
        path.parent.mkdir()
        pq.write_table(changed(column, values), path)
        assert (
            f"{path}: key or metadata of "
            f"{('c2' if column == 'key' else KEYS[2 + (column == 'start')])!r} are not"
            in (refused(path, **nothing))
        )
    card = table.schema.metadata[b"stepdiff"]
    metadata = {**table.schema.metadata, b"stepdiff": card.replace(b"centre 224", b"centre 225")}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    assert "the card is damaged (its checksum differs)" in refused(path, **nothing)
    pq.write_table(table.drop_columns(["tokens"]), path)
    assert "has no column 'tokens', which its card names: export it again, or name" in refused(
        path, **nothing
    )
    pq.write_table(changed("embedding", lists(tokens)).drop_columns(["crc32c"]), path)
    assert taken(path)["failed"] == 0


def test_usable_int8_of_another_program_keeps_every_bit(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(-100, 100, (6, 64)).astype(np.int8)
    scale = np.array([[0.5], [1], [np.nan], [0], [-1], [2**-24]], np.float16)
    levels[1, 5] = -128
    write(
        tmp_path / "f.parquet",
        "parquet",
        {"key": list("abcdef"), "x": lists(levels), "x_scale": lists(scale)},
    )
    done = taken(tmp_path / "f.parquet", **MADE_BY)
    assert done["done"] == 2 and [failure["key"] for failure in done["failures"]] == list("bcde")
    assert all(
        "x is not int8 as a store has it: levels from -127" in failure["reason"]
        for failure in done["failures"]
    )
    stored = opened(tmp_path / "f.parquet").read_quantised("x", np.array([0, 5]))
    assert (
        stored.levels.tobytes() == levels[[0, 5]].tobytes()
        and stored.scale.tobytes() == scale[[0, 5]].tobytes()
    )
    taken(tmp_path / "f.parquet", view="floats", dtype="float32", **MADE_BY)
    floats = Store.open(tmp_path / "other").view("clips", "floats").read("x", [0, 5])
    assert floats.tobytes() == (levels[[0, 5]] * scale[[0, 5]].astype(np.float32)).tobytes()


@pytest.mark.parametrize("format", READABLE)
def test_the_provenance_in_an_export_cannot_be_contradicted(
    save: Run, load: Run, tmp_path: Path, format: str
) -> None:
    assert save("out", "--format", format, "--dtype", "float32").status == 0
    assert (
        f"--encoder 'another' contradicts {tmp_path / 'out'}"
        in load("out", "--encoder", "another").errors
    )
    assert not (tmp_path / "other").exists()
    assert load("out", "--encoder", "net", "--frames", "8 evenly").status == 0
    copy = opened(tmp_path / "out").provenance
    assert (copy.encoder, copy.weights, copy.layer) == ("net", "0" * 64, "last")
    assert copy.dtypes == {
        "tokens": "float32 from float16",
        "embedding": "float32",
        "q": "float32 from int8 from float32",
    }
    write(tmp_path / "f.parquet", "parquet", {"key": ["a"], "embedding": lists(arrays(1, 4))})
    status, _, error = load("f.parquet")
    assert status == 2 and "--encoder must be given: " in error


@pytest.mark.parametrize("format", READABLE)
def test_a_row_that_does_not_fit_fails_alone(tmp_path: Path, format: str) -> None:
    path = tmp_path / ("f.lance" if format == "lance" else "f.parquet")
    values = arrays(9, 4, dtype="float32").tolist()
    values[1], values[2], values[3] = None, [1.0, None, 2.0, 3.0], [1.0, 2.0]
    values[5][2] = float("nan")
    keys = [f"k{i}" for i in range(9)]
    write(
        path,
        format,
        {"id": keys, "vector": pa.array(values, pa.list_(pa.float32())), "n": list(range(9))},
    )
    done = taken(path, **MADE_BY)
    assert (done["asked"], done["done"], done["failed"]) == (9, 5, 4)
    assert {row["key"]: row["reason"] for row in done["failures"]} == {
        "k1": "vector is null",
        "k2": "vector holds null",
        "k3": "vector is not [4]",
        "k5": "vector holds NaN",
    }
    copy = opened(path)
    assert (
        copy.read("vector", keys=["k0", "k8"]).tolist()
        == np.array([values[0], values[8]], np.float32).tolist()
    )
    assert copy.catalog.frame()["n"].to_list() == list(range(9))
    again = taken(path, **MADE_BY)
    assert (again["done"], again["already"], again["failed"]) == (0, 5, 4)


def test_lists_of_every_kind_are_features(tmp_path: Path) -> None:
    tokens = arrays(7, 2, 3)
    tensor = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float16(), (2, 3)), lists(tokens)
    )
    nested = pa.array([row.tolist() for row in tokens], pa.list_(pa.large_list(pa.float16())))
    double = pa.FixedSizeListArray.from_arrays(lists(tokens.reshape(-1, 3).astype("float64")), 2)
    for name, column in (("tensor", tensor), ("nested", nested), ("double", double)):
        path = tmp_path / name / "f.parquet"
        path.parent.mkdir()
        write(
            path,
            "parquet",
            {"key": pa.array([f"k{i}" for i in range(7)]).dictionary_encode(), name: column},
        )
        assert taken(path, features=(f"tokens={name}",), **MADE_BY)["done"] == 7
        values = opened(path).read("tokens", np.arange(7))
        expected = tokens.astype("float32") if name == "double" else tokens
        assert values.dtype == expected.dtype and values.tobytes() == expected.tobytes()


def test_rows_are_found_by_key_in_any_order(tmp_path: Path) -> None:
    tokens, order = arrays(40, 2, 3), np.random.default_rng(1).permutation(40)
    store = Store.open(tmp_path / "other", create=True)
    store.catalog("clips").append(pl.DataFrame({"key": [f"k{i}" for i in order]}))
    folder = tmp_path / "files"
    folder.mkdir()
    for part in range(4):
        rows = slice(part * 10, part * 10 + 10)
        keys = [f"k{i}" for i in range(40)][rows]
        write(folder / f"{part}.parquet", "parquet", {"key": keys, "tokens": lists(tokens[rows])})
    assert taken(folder, dtype="int8", **MADE_BY)["done"] == 40
    view = store.view("clips", "net")
    values = view.read("tokens", keys=[f"k{i}" for i in range(40)], dtype="float32")
    assert np.abs(values.reshape(40, -1) - tokens.reshape(40, -1)).max() < 0.05


PEAK = """
import sys
from pathlib import Path
import store.feature_store
from store.__main__ import main
store.feature_store.shard_rows = lambda *_: 64
there, files, to = sys.argv[1:]
assert main(["export", files, "--store", there, "--view", "net"]) == 0
assert main(["import", files, "--store", to, "--view", "net"]) == 0
status = Path("/proc/self/status").read_text()  # ru_maxrss counts the process that started this one
print(status.partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.full
def test_exports_and_imports_hold_one_shard_in_memory(tmp_path: Path) -> None:
    """200 MB of features leave and enter a store with less than 100 MB more than 8 MB of features
    need."""
    peaks = []
    for rows in (64, 1600):
        values = {"tokens": np.random.default_rng(0).random((rows, 128, 256), np.float32)}
        write_view(
            tmp_path / f"s{rows}",
            rows,
            {"tokens": Feature((128, 256), "float32")},
            values,
            shard=64,
        )
        words = [
            str(tmp_path / f"s{rows}"),
            str(tmp_path / f"o{rows}.parquet"),
            str(tmp_path / f"t{rows}"),
        ]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *words], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.splitlines()[-1]) * 1024)
    assert peaks[1] - peaks[0] < 100 * 2**20


def test_columns_that_are_left_out_are_named(save: Run, load: Run, tmp_path: Path) -> None:
    """A column that was added to an exported file, and columns of others that no catalog can
    have."""
    assert save("out.parquet", "--features", "tokens").status == 0
    table = pq.read_table(tmp_path / "out.parquet/data/part-000000.parquet")
    pq.write_table(
        table.append_column("label", pa.array([1] * len(table))), tmp_path / "more.parquet"
    )
    assert "\n  columns left out: label\n" in load("more.parquet").out
    some = load("more.parquet", "--view", "some", "--columns", "video", "label")
    assert "\n  columns left out: start, step, seen, made\n" in some.out
    levels = pa.array([[1, 2]], pa.list_(pa.int8(), 2))
    floats = pa.array([[1.0]], pa.list_(pa.float32(), 1))
    pq.write_table(
        pa.table({"key": ["a"], "row": [7], "levels": levels, "x": floats, "m": [3]}),
        tmp_path / "f.parquet",
    )
    assert imported(tmp_path / "f.parquet", **MADE_BY)["left_out"] == ["row", "levels"]
    assert Store.open(tmp_path / "s").catalog("clips").frame().rows() == [("a", 0, 3)]


FLOATS = pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32(), 2))
INT8 = pa.array([[1, 2], [3, 4], [5, 127]], pa.list_(pa.int8(), 2))


@pytest.mark.parametrize(
    "columns, options, message",
    [
        ({"key": ABC}, {}, "has no column of lists of floats: it has key"),
        (
            {"key": [1, 2, 3], "x": FLOATS},
            {},
            "column 'key' of {path} is int64; keys are texts: cast it to text, or ",
        ),
        (
            {"id": [1, 2, 3], "x": FLOATS},
            {},
            "has no column 'key' of texts: name that of the keys with --keys (none)",
        ),
        (
            {"id": [1, 2, 3], "x": FLOATS},
            {"keys": "id"},
            "column 'id' of {path} is int64; keys are texts: cast it",
        ),
        (
            {"a": ABC, "b": ABC, "x": FLOATS},
            {},
            "column 'key' of texts: name that of the keys with --keys (a, b)",
        ),
        ({"key": ABC, "x": FLOATS}, {"keys": "y"}, "has no column 'y' of texts: name"),
        ({"key": ["a", None, "c"], "x": FLOATS}, {}, "has no key for row 1: give every row one"),
        ({"key": ["a", "b", ""], "x": FLOATS}, {}, "has no key for row 2: give every row one"),
        ({"key": ["a", "b", "a"], "x": FLOATS}, {}, "has key 'a' in rows 0 and 2: keys are unique"),
        ({"key": ABC, "x": FLOATS}, {"features": ("y",)}, "column 'y' of {path} does not exist"),
        (
            {"key": ABC, "x": [[1, 2]] * 3},
            {"features": ("x",)},
            "list<element: int64>: features are lists of floats",
        ),
        (
            {"key": ABC, "x": [1.0, 2.0, 3.0]},
            {"features": ("x",)},
            "is double: features are lists of floats",
        ),
        ({"key": ABC, "x": FLOATS}, {"columns": ("y",)}, "has no column 'y': it has key, x"),
        (
            {"key": ABC, "x": FLOATS},
            {"columns": ("key",)},
            "column 'key' cannot be metadata, the store has its own",
        ),
        (
            {"key": ABC, "x": FLOATS, "m": [{"a": 1}] * 3},
            {},
            "column 'm' of {path} is struct<a: int64>, which is not",
        ),
        ({"key": ABC, "x": INT8}, {}, "has no column of lists of floats"),
        (
            {"key": ABC, "x": INT8},
            {"features": ("x",)},
            "'x' of {path} is int8 without a column 'x_scale' of scales",
        ),
        (
            {"key": ABC, "x": INT8, "x_scale": FLOATS},
            {},
            "x_scale are not its scales: give float16 of shape [1]",
        ),
        (
            {"key": ABC, "x": pa.array([None] * 3, pa.list_(pa.float32()))},
            {},
            "has no values in its first rows",
        ),
        ({"key": ABC, "a b": FLOATS}, {}, "feature name 'a b' is refused"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table(columns), path)
    assert message.replace("{path}", str(path)) in refused(path, **options)
