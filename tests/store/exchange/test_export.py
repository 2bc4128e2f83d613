"""Exports open in their own libraries, with the values and metadata of the store."""

import gc
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import polars as pl
import pytest
import yaml

from store import Feature, Provenance, Store, View
from store.__main__ import main
from store.format.quantise import dequantise

from .conftest import FORMATS, KEYS

Run = Callable[..., int]
ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.usefixtures("small_parts")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Datasets of Hugging Face are cached in the test's folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for module in ("datasets.config", "datasets.builder"):
        if module in sys.modules:
            monkeypatch.setattr(f"{module.split('.')[0]}.config.HF_DATASETS_CACHE", tmp_path / "cache")


def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


def quantised(view: View, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    levels, scale = view.read_quantised("q", rows)
    return levels, scale


def test_parquet_opens_in_polars_pandas_and_pyarrow(view: View, finished: np.ndarray, run: Run, tmp_path: Path) -> None:
    pd, pq = pytest.importorskip("pandas"), pytest.importorskip("pyarrow.parquet")
    assert run("out.parquet") == 0
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


LINES = (
    'pd.read_parquet("data/exchange/clips.parquet")',
    'pyarrow.dataset.dataset("data/exchange/clips.parquet")',
    'load_dataset("data/exchange/clips", split="train")',
    'lance.dataset("data/exchange/clips.lance")',
    "webdataset.WebDataset(tar, shardshuffle=False)",
)


def test_an_export_opens_by_the_path_that_was_given_with_the_lines_of_the_guide(run: Run, tmp_path: Path) -> None:
    for package in ("pandas", "lance", "datasets", "webdataset"):
        pytest.importorskip(package)
    guide = (ROOT / "docs/guides/store.md").read_text().split("### Open the files")[1]
    code = guide.split("```python\n")[1].split("```")[0]
    assert [line for line in LINES if line not in code] == []
    for name, *more in (
        ("clips.parquet",), ("clips.lance",), ("clips", "--format", "huggingface"),
        ("tars", "--format", "webdataset"),
    ):  # fmt: skip
        assert run(f"data/exchange/{name}", *more) == 0
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    first, count, *_, clip, sample = done.stdout.splitlines()
    assert (first, count, clip, sample) == ("c0 (7,)", "10", "(3, 5)", "c0 (3, 5)")


def test_lance_opens_in_lance_and_is_indexed(view: View, finished: np.ndarray, run: Run, tmp_path: Path) -> None:
    lance = pytest.importorskip("lance")
    assert run("out.lance") == 0
    dataset = lance.dataset(str(tmp_path / "out.lance"))
    assert dataset.version == 1 and dataset.count_rows() == len(finished)
    table = dataset.to_table()
    assert table["key"].to_pylist() == [KEYS[row] for row in finished]
    for name in ("tokens", "embedding"):
        found = table[name].combine_chunks().flatten().to_numpy()
        expected = view.read(name, finished)
        same(found.reshape(expected.shape), expected)
    same(table["q"].combine_chunks().flatten().to_numpy().reshape(-1, 2, 70), quantised(view, finished)[0])
    assert table["step"].to_pylist() == view.catalog.frame()["step"].gather(finished).to_list()
    dataset.create_index("embedding", "IVF_FLAT", num_partitions=1, metric="l2")
    wanted = view.read("embedding", finished)[3]
    nearest = dataset.to_table(nearest={"column": "embedding", "q": wanted, "k": 1})
    assert nearest["key"].to_pylist() == [KEYS[finished[3]]]


def test_huggingface_opens_in_datasets(view: View, finished: np.ndarray, run: Run, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    assert run("out", "--format", "huggingface", "--license", "cc-by-4.0") == 0
    load = lambda **more: datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "c"), **more)  # noqa: E731
    found = load(split="train")
    assert found.features["tokens"] == datasets.Array2D((3, 5), "float16")
    assert found.features["q"] == datasets.Array2D((2, 70), "int8")
    assert found["key"][:] == [KEYS[row] for row in finished]
    assert found["made"][:] == view.catalog.frame()["made"].gather(finished).to_list()
    assert found["step"][:] == view.catalog.frame()["step"].gather(finished).to_list()
    arrays = found.with_format("numpy")[:]
    for name in ("tokens", "embedding"):  # as float32, which datasets makes of other floats
        same(arrays[name], view.read(name, finished).astype(np.float32))
    assert (arrays["q"] == quantised(view, finished)[0]).all()
    assert [row["key"] for row in load(split="train", streaming=True)] == found["key"][:]
    _, header, _ = (tmp_path / "out/README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "cc-by-4.0"


def test_metadata_of_one_length_open_in_datasets(view: View, run: Run, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    boxes = [[1.0 * i, 2.0] if i % 3 else None for i in range(13)]
    with Store.open(view.paths.store).lock():
        view.catalog.update(pl.DataFrame({"key": KEYS, "box": pl.Series(boxes, dtype=pl.Array(pl.Float32, 2))}))
    assert run("out", "--format", "huggingface", "--columns", "box", "--features", "tokens") == 0
    found = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "c"))
    kept = np.flatnonzero(view.status() == 1)
    assert found["box"][:] == [boxes[row] for row in kept]
    assert found.features["box"] == datasets.List(datasets.Value("float32"), 2)


def test_a_webdataset_with_upper_case_names_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(tmp_path / "s", create=True)
    features = {name: Feature((2,), "float32") for name in ("Tok", "emb")}
    with store.writer("clips", "net", Provenance("n", "0" * 64, "l", "f", "c", {}), features) as writer:
        writer.write(["a"], {name: np.ones((1, 2), np.float32) for name in features})
    command = ["export", str(tmp_path / "out"), "--format", "webdataset", "--store", str(store.path), "--view", "net"]
    assert main(command) == 2
    assert capsys.readouterr().err == (
        "error: feature Tok has upper case letters, which readers of WebDataset make lower case: leave it out with "
        "--features, or choose another format\n"
    )
    assert not (tmp_path / "out").exists()
    assert main([*command, "--features", "emb"]) == 0
    with tarfile.open(tmp_path / "out/data/features-000000.tar") as tar:
        assert tar.getnames() == ["a.emb.npy", "a.json"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_webdataset_opens_in_webdataset(view: View, finished: np.ndarray, run: Run, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    assert run("out", "--format", "webdataset") == 0
    url = str(tmp_path / "out/data/features-{000000..000003}.tar")
    found = list(wds.WebDataset(url, shardshuffle=False).decode())
    assert [sample["json"]["key"] for sample in found] == [KEYS[row] for row in finished]
    assert [unquote(sample["__key__"]) for sample in found] == [KEYS[row] for row in finished]
    same(np.stack([sample["tokens.npy"] for sample in found]), view.read("tokens", finished))
    same(np.stack([sample["embedding.npy"] for sample in found]), view.read("embedding", finished))
    same(np.stack([sample["q.npy"] for sample in found]), quantised(view, finished)[0])
    same(np.stack([sample["q_scale.npy"] for sample in found]), quantised(view, finished)[1])
    assert found[1]["json"] == {
        "key": KEYS[1], "video": "v0.mp4", "start": 0.5, "step": 1, "seen": False, "made": "2026-01-02 00:00:00",
    }  # fmt: skip
    (raw, *_) = wds.WebDataset(url, shardshuffle=False)
    np.load(io.BytesIO(raw["tokens.npy"]), allow_pickle=False)
    gc.collect()  # it leaves closing files to the collector


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_dtype_dequantises(view: View, finished: np.ndarray, run: Run, tmp_path: Path, dtype: str) -> None:
    assert run("out.parquet", "--dtype", dtype, "--features", "q", "--columns", "video") == 0
    frame = pl.read_parquet(tmp_path / "out.parquet/data/*.parquet")
    assert frame.columns == ["key", "video", "q"]
    same(frame["q"].to_numpy().reshape(-1, 2, 70), view.read("q", finished, dtype=dtype))
    assert (frame["q"].to_numpy().reshape(-1, 2, 70) == dequantise(*quantised(view, finished)).astype(dtype)).all()


@pytest.mark.parametrize("format", FORMATS)
def test_the_card_says_what_was_exported_and_how_to_open_it(
    view: View, run: Run, tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip({"huggingface": "datasets", "parquet": "pyarrow"}.get(format, format))
    assert run("out", "--format", format) == 0
    out = capsys.readouterr().out
    assert "(left out: 1 failed, 1 absent, 1 forgotten)" in out
    card = (tmp_path / "out" / ("_README.md" if format == "parquet" else "README.md")).read_text()
    for text in ("license: 'unknown: features inherit the licence of the videos'", "- encoder: `net`", "0" * 64,
                 "- layer: `last`", "- frames: `8 evenly`", "- crop: `centre 224`", "int8 from float32",
                 "rows 10, failed 1, absent 1, forgotten 1", "| tokens | [3, 5] | float16 | float16 |",
                 "- store format: `stepdiff-store 1`"):  # fmt: skip
        assert text in card, text
    code = card.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) == 3
    script = f"{code}\nimport numpy as np\nprint(np.asarray(values).size)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 0, done.stderr[-2000:]


def test_memory_does_not_grow_with_the_view(tmp_path: Path) -> None:
    """200 MB of features are exported with less than 100 MB more than 8 MB of features need."""
    peaks = []
    for rows in (64, 1600):
        store = Store.open(tmp_path / f"s{rows}", create=True)
        made = {"tokens": Feature((128, 256), "float32")}
        with store.writer("clips", "net", Provenance("n", "0" * 64, "l", "f", "c", {}), made, rows_per_shard=64) as to:
            for first in range(0, rows, 64):
                keys = [f"k{row}" for row in range(first, first + 64)]
                to.write(keys, {"tokens": np.full((64, 128, 256), first, np.float32)})
        script = (
            "import resource, sys; from store.__main__ import main; main(sys.argv[1:]);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        command = ["export", str(tmp_path / f"o{rows}.parquet"), "--store", str(store.path), "--view", "net"]
        done = subprocess.run([sys.executable, "-c", script, *command], cwd=ROOT, capture_output=True, text=True)
        peaks.append(int(done.stdout.splitlines()[-1]) * 1024)
    print(peaks)
    assert peaks[1] - peaks[0] < 100 * 2**20
