"""Imports: a round trip keeps every bit, bad rows fail alone, provenance of exports is used."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import Store, View
from store.__main__ import main
from store.exchange.commands import ImportOptions
from store.exchange.intake import take_in
from store.verbs.verify import verify

from .conftest import ABSENT, FAILED, KEYS

Run = Callable[..., int]
ROOT = Path(__file__).parents[3]
MADE_BY = {"encoder": "net", "weights_sha256": "ab" * 32, "layer": "last", "frames": "8 evenly", "crop": "centre 224"}
pytestmark = pytest.mark.usefixtures("small_parts")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def needs(format: str) -> None:
    if format == "lance":
        pytest.importorskip("lance")


def asked(path: Path, **options: Any) -> ImportOptions:
    return ImportOptions(**{"path": str(path), "store": str(path.parent / "other"), "view": "net", **options})


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


def same_features(made: View, view: View, rows: np.ndarray) -> None:
    there = made.rows([KEYS[row] for row in rows])
    for name in ("tokens", "embedding"):
        assert made.read(name, there).tobytes() == view.read(name, rows).tobytes()
    for found, expected in zip(made.read_quantised("q", there), view.read_quantised("q", rows), strict=True):
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("format", ["parquet", "lance", "huggingface"])
def test_float16_float32_and_int8_with_scales_keep_every_bit(
    view: View, finished: np.ndarray, run: Run, tmp_path: Path, format: str
) -> None:
    needs(format)
    assert run("out", "--format", format) == 0
    assert main(["import", str(tmp_path / "out"), "--store", str(tmp_path / "other"), "--view", "net"]) == 0
    made = opened(tmp_path / "out")
    assert made.features == view.features and made.provenance == view.provenance
    same_features(made, view, finished)
    catalog, before = made.catalog.frame(), view.catalog.frame()[finished.tolist()]
    assert catalog["key"].to_list() == [KEYS[row] for row in finished]
    for column in ("video", "start", "step", "seen", "made"):
        assert catalog[column].to_list() == before[column].to_list(), column
    assert verify(Store.open(tmp_path / "other")) == []
    assert KEYS[FAILED] not in catalog["key"].to_list()


@pytest.mark.parametrize("format", ["parquet", "lance"])
def test_the_provenance_in_the_files_of_store_export_is_used_and_one_that_contradicts_it_is_refused(
    view: View, run: Run, tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    needs(format)
    assert run("out", "--format", format, "--dtype", "float32") == 0
    capsys.readouterr()
    command = ["import", str(tmp_path / "out"), "--store", str(tmp_path / "other"), "--view", "net"]
    assert main([*command, "--encoder", "another"]) == 2
    assert capsys.readouterr().err == (
        f"error: --encoder 'another' contradicts {tmp_path / 'out'}, which says 'net': leave it out\n"
    )
    assert not (tmp_path / "other").exists()
    assert main([*command, "--encoder", "net", "--frames", "8 evenly"]) == 0
    made = opened(tmp_path / "out").provenance
    assert (made.encoder, made.weights, made.layer) == ("net", "0" * 64, "last")
    assert made.dtypes == {
        "tokens": "float32 from float16",
        "embedding": "float32",
        "q": "float32 from int8 from float32",
    }
    (tmp_path / "f.parquet").write_bytes(b"")
    write(tmp_path / "f.parquet", "parquet", {"key": ["a"], "embedding": lists(arrays(1, 4))})
    assert main(["import", str(tmp_path / "f.parquet"), *command[2:]]) == 2
    assert "--encoder must be given: " in capsys.readouterr().err


@pytest.mark.parametrize("format", ["parquet", "lance"])
def test_a_row_that_does_not_fit_fails_alone(tmp_path: Path, format: str) -> None:
    needs(format)
    path = tmp_path / ("f.lance" if format == "lance" else "f.parquet")
    values = arrays(9, 4, dtype="float32").tolist()
    values[1], values[2], values[3] = None, [1.0, None, 2.0, 3.0], [1.0, 2.0]
    values[5][2] = float("nan")
    keys = [f"k{i}" for i in range(9)]
    write(path, format, {"id": keys, "vector": pa.array(values, pa.list_(pa.float32())), "n": list(range(9))})
    done = take_in(asked(path, **MADE_BY))
    assert (done.asked, done.done, done.failed) == (9, 5, 4)
    assert {row["key"]: row["reason"] for row in done.failures} == {
        "k1": "vector is null", "k2": "vector holds null", "k3": "vector is not [4]", "k5": "vector holds NaN",
    }  # fmt: skip
    made = opened(path)
    assert made.read("vector", keys=["k0", "k8"]).tolist() == np.array([values[0], values[8]], np.float32).tolist()
    assert made.catalog.frame()["n"].to_list() == list(range(9))
    again = take_in(asked(path, **MADE_BY))
    assert (again.done, again.already, again.failed) == (0, 5, 4)


def test_lists_of_every_kind_are_features(tmp_path: Path) -> None:
    tokens = arrays(7, 2, 3)
    tensor = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float16(), (2, 3)), lists(tokens))
    nested = pa.array([row.tolist() for row in tokens], pa.list_(pa.large_list(pa.float16())))
    double = pa.FixedSizeListArray.from_arrays(lists(tokens.reshape(-1, 3).astype("float64")), 2)
    for name, column in (("tensor", tensor), ("nested", nested), ("double", double)):
        path = tmp_path / name / "f.parquet"
        path.parent.mkdir()
        write(path, "parquet", {"key": pa.array([f"k{i}" for i in range(7)]).dictionary_encode(), name: column})
        assert take_in(asked(path, features=(f"tokens={name}",), **MADE_BY)).done == 7
        found = opened(path).read("tokens", np.arange(7))
        expected = tokens.astype("float32") if name == "double" else tokens
        assert found.dtype == expected.dtype and found.tobytes() == expected.tobytes()


def test_rows_are_found_by_key_in_any_order(tmp_path: Path) -> None:
    tokens, order = arrays(40, 2, 3), np.random.default_rng(1).permutation(40)
    store = Store.open(tmp_path / "other", create=True)
    import polars as pl

    store.catalog("clips").append(pl.DataFrame({"key": [f"k{i}" for i in order]}))
    folder = tmp_path / "files"
    folder.mkdir()
    for part in range(4):
        rows = slice(part * 10, part * 10 + 10)
        keys = [f"k{i}" for i in range(40)][rows]
        write(folder / f"{part}.parquet", "parquet", {"key": keys, "tokens": lists(tokens[rows])})
    assert take_in(asked(folder, dtype="int8", **MADE_BY)).done == 40
    view = store.view("clips", "net")
    found = view.read("tokens", keys=[f"k{i}" for i in range(40)], dtype="float32")
    assert np.abs(found.reshape(40, -1) - tokens.reshape(40, -1)).max() < 0.05


KILLED = """
import os, signal, sys
import store.view
from store.__main__ import main
left, write = int(sys.argv[1]), store.view.View.write_shard
def killed(*arguments):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    write(*arguments)
store.view.View.write_shard = killed
import store.feature_store
store.feature_store.shard_rows = lambda *_: 2
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("format", ["parquet", "lance"])
def test_an_import_that_was_killed_resumes_and_ends_with_the_same_arrays_as_an_uninterrupted_one(
    view: View, finished: np.ndarray, run: Run, tmp_path: Path, format: str
) -> None:
    needs(format)
    assert run("out", "--format", format) == 0
    command = ["import", str(tmp_path / "out"), "--store", str(tmp_path / "other"), "--view", "net", "--json"]
    codes = []
    while not codes or codes[-1] != 0:
        done = subprocess.run([sys.executable, "-c", KILLED, "2", *command], cwd=ROOT, capture_output=True, text=True)
        codes.append(done.returncode)
        assert codes[-1] in (0, -signal.SIGKILL) and len(codes) < 9, done.stderr
    record = json.loads(done.stdout)
    assert codes == [-9, -9, 0] and (record["done"], record["already"]) == (2, 8)
    same_features(opened(tmp_path / "out"), view, finished)
    assert verify(Store.open(tmp_path / "other")) == []


def test_a_single_part_is_imported(view: View, run: Run, tmp_path: Path) -> None:
    assert run("out.parquet") == 0
    os.rename(tmp_path / "out.parquet/data/part-000001.parquet", tmp_path / "part.parquet")
    assert take_in(asked(tmp_path / "part.parquet")).done == 2


def test_a_snapshot_is_exported_as_it_was(view: View, finished: np.ndarray, run: Run, tmp_path: Path) -> None:
    store = str(view.paths.store)
    assert main(["tag", store, "then"]) == 0
    again = {name: np.ones((1, *form.shape), np.float32) for name, form in view.features.items()}
    view.write_shard(ABSENT // 4, np.array([ABSENT]), again, {})
    assert main(["export", str(tmp_path / "out.parquet"), "--store", f"{store}@then", "--view", "net"]) == 0
    assert main(["import", str(tmp_path / "out.parquet"), "--store", str(tmp_path / "other"), "--view", "net"]) == 0
    same_features(opened(tmp_path / "out.parquet"), view, finished)
    assert len(opened(tmp_path / "out.parquet").catalog) == len(finished)


def test_an_import_holds_the_keys_and_the_features_of_one_shard_in_memory(tmp_path: Path) -> None:
    """200 MB of features are imported with less than 100 MB more than 8 MB of features need."""
    peaks = []
    for rows in (64, 1600):
        path = tmp_path / f"{rows}.parquet"
        kind = pa.schema([("key", pa.string()), ("tokens", pa.list_(pa.float32(), 128 * 256))])
        with pq.ParquetWriter(path, kind, use_dictionary=False, compression="none") as file:
            for first in range(0, rows, 64):
                values = np.random.default_rng(first).random((64, 128 * 256), np.float32)
                keys = [f"k{row}" for row in range(first, first + 64)]
                file.write_table(pa.table({"key": keys, "tokens": lists(values)}, kind))
        script = (
            "import resource, sys, store.feature_store; from store.__main__ import main;"
            "store.feature_store.shard_rows = lambda *_: 64; assert main(sys.argv[1:]) == 0;"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in MADE_BY.items()]
        command = ["import", str(path), "--store", str(tmp_path / f"s{rows}"), "--view", "net", *flags]
        done = subprocess.run([sys.executable, "-c", script, *command], cwd=ROOT, capture_output=True, text=True)
        peaks.append(int(done.stdout.splitlines()[-1]) * 1024)
    print(peaks)
    assert peaks[1] - peaks[0] < 100 * 2**20


def test_columns_that_are_left_out_are_named(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A column that was added to an exported file, and columns of others that no catalog can have."""
    assert run("out.parquet", "--features", "tokens") == 0
    table = pq.read_table(tmp_path / "out.parquet/data/part-000000.parquet")
    pq.write_table(table.append_column("label", pa.array([1] * len(table))), tmp_path / "more.parquet")
    command = ["import", str(tmp_path / "more.parquet"), "--store", str(tmp_path / "s"), "--view"]
    capsys.readouterr()
    assert main([*command, "all"]) == 0
    assert "\n  columns left out: label\n" in capsys.readouterr().out
    assert main([*command, "some", "--columns", "video", "label"]) == 0
    assert "\n  columns left out: start, step, seen, made\n" in capsys.readouterr().out
    levels = pa.array([[1, 2]], pa.list_(pa.int8(), 2))
    floats = pa.array([[1.0]], pa.list_(pa.float32(), 1))
    pq.write_table(
        pa.table({"key": ["a"], "row": [7], "levels": levels, "x": floats, "m": [3]}), tmp_path / "f.parquet"
    )
    done = take_in(ImportOptions(str(tmp_path / "f.parquet"), str(tmp_path / "t"), "v", **MADE_BY))
    assert done.left_out == ["row", "levels"]
    assert Store.open(tmp_path / "t").catalog("clips").frame().rows() == [("a", 0, 3)]
