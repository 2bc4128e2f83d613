"""Exports open in their own libraries, with the values and metadata of the store; record batches of a view."""

import gc
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml

from store import Store, View
from store.exchange.arrow import record_batches
from store.format.quantise import dequantise

from .conftest import ABSENT, FAILED, FORGOTTEN, FORMATS, KEYS

Run = Callable[..., int]
pytestmark = pytest.mark.usefixtures("small_parts")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Datasets of Hugging Face are cached in the test's folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for module in ("datasets.config", "datasets.builder"):
        if module in sys.modules:
            monkeypatch.setattr(f"{module.split('.')[0]}.config.HF_DATASETS_CACHE", tmp_path / "cache")


def same(values: np.ndarray, expected: np.ndarray) -> None:
    assert values.dtype == expected.dtype and values.shape == expected.shape
    assert values.tobytes() == expected.tobytes()


def quantised(view: View, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    levels, scale = view.read_quantised("q", rows)
    return levels, scale


def test_parquet_opens_in_polars_pandas_and_pyarrow(
    view: View, finished: np.ndarray, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run("out.parquet", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    figures = ("rows", "failed", "absent", "forgotten", "parts")
    assert tuple(record[name] for name in figures) == (10, 1, 1, 1, 4)
    frame = pl.read_parquet(tmp_path / "out.parquet/data/*.parquet")
    assert frame["key"].to_list() == [KEYS[row] for row in finished]
    same(frame["tokens"].to_numpy().reshape(-1, 3, 5), view.read("tokens", finished))
    same(frame["embedding"].to_numpy(), view.read("embedding", finished))
    same(frame["q"].to_numpy().reshape(-1, 2, 70), quantised(view, finished)[0])
    same(frame["q_scale"].to_numpy().reshape(-1, 2, 2), quantised(view, finished)[1])
    catalog = view.catalog.frame()[finished.tolist()]
    for name in ("video", "start", "step", "seen", "made"):
        assert frame[name].to_list() == catalog[name].to_list()
    other = pd.read_parquet(tmp_path / "out.parquet")
    same(np.stack(other["tokens"].to_list()).reshape(-1, 3, 5), view.read("tokens", finished))
    table = pq.read_table(tmp_path / "out.parquet")
    assert str(table.schema.field("tokens").type) == "fixed_size_list<element: halffloat>[15]"
    assert table.schema.field("tokens").metadata[b"shape"] == b"[3, 5]"
    assert [path.name for path in sorted((tmp_path / "out.parquet/data").iterdir())] == [
        f"part-{n:06d}.parquet" for n in range(4)
    ]


def test_lance_opens_in_lance_and_is_indexed(view: View, finished: np.ndarray, run: Run, tmp_path: Path) -> None:
    import lance

    assert run("out.lance") == 0
    dataset = lance.dataset(str(tmp_path / "out.lance"))
    assert dataset.version == 1 and dataset.count_rows() == len(finished)
    table = dataset.to_table()
    assert table["key"].to_pylist() == [KEYS[row] for row in finished]
    for name in ("tokens", "embedding"):
        values = table[name].combine_chunks().flatten().to_numpy()
        expected = view.read(name, finished)
        same(values.reshape(expected.shape), expected)
    same(table["q"].combine_chunks().flatten().to_numpy().reshape(-1, 2, 70), quantised(view, finished)[0])
    assert table["step"].to_pylist() == view.catalog.frame()["step"].gather(finished).to_list()
    dataset.create_index("embedding", "IVF_FLAT", num_partitions=1, metric="l2")
    wanted = view.read("embedding", finished)[3]
    nearest = dataset.to_table(nearest={"column": "embedding", "q": wanted, "k": 1})
    assert nearest["key"].to_pylist() == [KEYS[finished[3]]]


@pytest.mark.full
def test_huggingface_opens_in_datasets(view: View, finished: np.ndarray, run: Run, tmp_path: Path) -> None:
    import datasets

    assert run("out", "--format", "huggingface", "--license", "cc-by-4.0") == 0
    load = lambda **more: datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "c"), **more)  # noqa: E731
    rows = load(split="train")
    assert rows.features["tokens"] == datasets.Array2D((3, 5), "float16")
    assert rows.features["q"] == datasets.Array2D((2, 70), "int8")
    assert rows["key"][:] == [KEYS[row] for row in finished]
    for name in ("made", "step"):
        assert rows[name][:] == view.catalog.frame()[name].gather(finished).to_list()
    arrays = rows.with_format("numpy")[:]
    for name in ("tokens", "embedding"):  # as float32, which datasets makes of other floats
        same(arrays[name], view.read(name, finished).astype(np.float32))
    assert (arrays["q"] == quantised(view, finished)[0]).all()
    assert [row["key"] for row in load(split="train", streaming=True)] == rows["key"][:]
    _, header, _ = (tmp_path / "out/README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "cc-by-4.0"


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_webdataset_opens_in_webdataset(view: View, finished: np.ndarray, run: Run, tmp_path: Path) -> None:
    import webdataset as wds

    assert run("out", "--format", "webdataset") == 0
    url = str(tmp_path / "out/data/features-{000000..000003}.tar")
    samples = list(wds.WebDataset(url, shardshuffle=False).decode())
    assert [sample["json"]["key"] for sample in samples] == [KEYS[row] for row in finished]
    assert [unquote(sample["__key__"]) for sample in samples] == [KEYS[row] for row in finished]
    same(np.stack([sample["tokens.npy"] for sample in samples]), view.read("tokens", finished))
    same(np.stack([sample["embedding.npy"] for sample in samples]), view.read("embedding", finished))
    same(np.stack([sample["q.npy"] for sample in samples]), quantised(view, finished)[0])
    same(np.stack([sample["q_scale.npy"] for sample in samples]), quantised(view, finished)[1])
    assert samples[1]["json"] == {
        "key": KEYS[1], "video": "v0.mp4", "start": 0.5, "step": 1, "seen": False, "made": "2026-01-02 00:00:00",
        "crc32c": samples[1]["json"]["crc32c"],
    }  # fmt: skip
    (raw, *_) = wds.WebDataset(url, shardshuffle=False)
    np.load(io.BytesIO(raw["tokens.npy"]), allow_pickle=False)
    gc.collect()  # it leaves closing files to the collector


def test_a_dtype_dequantises(view: View, finished: np.ndarray, run: Run, tmp_path: Path) -> None:
    dtype = "float16"

    assert run("out.parquet", "--dtype", dtype, "--features", "q", "--columns", "video") == 0
    frame = pl.read_parquet(tmp_path / "out.parquet/data/*.parquet")
    assert frame.columns == ["key", "video", "q", "crc32c"]
    same(frame["q"].to_numpy().reshape(-1, 2, 70), view.read("q", finished, dtype=dtype))
    assert (frame["q"].to_numpy().reshape(-1, 2, 70) == dequantise(*quantised(view, finished)).astype(dtype)).all()


@pytest.mark.parametrize("format", FORMATS)
def test_the_card_says_what_was_exported_and_how_to_open_it(
    view: View, run: Run, tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("out", "--format", format) == 0
    out = capsys.readouterr().out
    assert "(left out: 1 failed, 1 absent, 1 forgotten)" in out
    card = (tmp_path / "out" / ("_README.md" if format == "parquet" else "README.md")).read_text()
    for text in ("- encoder: `net`", "0" * 64, "rows 10, failed 1, absent 1, forgotten 1", "stepdiff-store 1"):
        assert text in card, text
    code = card.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) == 3
    script = f"{code}\nimport numpy as np\nprint(np.asarray(values).size)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 0, done.stderr[-2000:]


def values(batches: list, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([b[name].flatten().to_numpy().reshape(b.num_rows, *shape) for b in batches])


def address(array: Any) -> int:
    return array.values.buffers()[1].address + array.values.offset * array.values.type.bit_width // 8


def test_float16_and_float32_features_that_are_in_memory_are_not_copied(view: View, finished: np.ndarray) -> None:
    view.read("tokens", finished), view.read("embedding", finished)  # they are in the page cache now
    batches = list(record_batches(view, ["tokens", "embedding"]))
    assert len(batches) == 4
    for batch in batches:
        rows = view.rows(batch["key"].to_pylist())
        for name in ("tokens", "embedding"):
            in_memory = view.in_place(name, rows)
            assert in_memory is not None and address(batch[name]) == in_memory.ctypes.data
            assert not batch[name].values.buffers()[1].is_mutable


def test_a_batch_outlives_its_view(view: View, finished: np.ndarray) -> None:
    expected = view.read("tokens", finished)
    batches = list(record_batches(Store.open(view.paths.store).view("clips", "net"), "tokens"))
    view.paths.shard("tokens", 0, 3).unlink()
    assert values(batches, "tokens", (3, 5)).tobytes() == expected.tobytes()


def test_only_finished_rows_are_returned_in_the_order_that_is_asked_for(view: View, finished: np.ndarray) -> None:
    batches = list(record_batches(view))
    assert [key for b in batches for key in b["key"].to_pylist()] == [KEYS[row] for row in finished]
    assert [b.num_rows for b in batches] == [4, 2, 3, 1], "batches end where shards do"
    for name, shape in (("tokens", (3, 5)), ("embedding", (7,))):
        assert values(batches, name, shape).tobytes() == view.read(name, finished).tobytes()
    levels, scale = view.read_quantised("q", finished)
    assert values(batches, "q", (2, 70)).tobytes() == levels.tobytes()
    assert values(batches, "q_scale", (2, 2)).tobytes() == scale.tobytes()
    wanted = [12, FAILED, 0, ABSENT, 5, FORGOTTEN, 0, 99]
    some = list(record_batches(view, "tokens", rows=wanted, batch_rows=3, columns=["step"]))
    assert [b.num_rows for b in some] == [3, 1]
    assert [key for b in some for key in b["key"].to_pylist()] == [KEYS[row] for row in (12, 0, 5, 0)]
    assert [step for b in some for step in b["step"].to_pylist()] == [None, 0, 5, 0]
    assert values(some, "tokens", (3, 5)).tobytes() == view.read("tokens", [12, 0, 5, 0]).tobytes()
