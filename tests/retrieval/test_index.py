"""The index: built, resumed, extended, measured, refused after its store has changed, and stored on
an object store."""

import json
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest

from retrieval.index import device
from retrieval.index.builder import build_index, factory_for
from retrieval.index.index import open_index
from retrieval.index.index_card import card_path
from retrieval.queries.search import compute, of_clips, resolve
from retrieval.vectors import filled_rows, normalised
from stepdiff_core.errors import StepDiffError
from store import Store, View
from tests.retrieval.conftest import Fill, all_cosines
from tests.store.conftest import Run


def test_similarities_are_exact_and_ids_are_rows_of_the_store(store: Store, clips: View) -> None:
    build_index(store, clips)
    index = open_index(store, clips)
    rows, cosines = all_cosines(clips)
    assert len(index) == 27 and not {3, 8, 29} & set(rows.tolist())
    hits, similarities = index.search(
        normalised(clips, "embedding", rows).astype(np.float32), len(rows)
    )
    for at in range(len(rows)):
        assert sorted(hits[at]) == rows.tolist() and rows[at] in hits[at, :2]  # 5 and 6 are equal
        place = np.searchsorted(rows, hits[at])
        np.testing.assert_allclose(similarities[at], cosines[at, place], atol=1e-6)
        assert (np.diff(similarities[at]) <= 0).all()


@pytest.mark.parametrize(
    "factory",
    ["IVF4,SQfp16", "IVF8,PQ8x4", "HNSW8", "HNSW32,SQfp16", "IDMap2,HNSW8,Flat", "IDMap,IVF4,Flat"],
)
def test_similarities_of_approximate_indexes_are_exact(
    store: Store, fill: Fill, factory: str
) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 16))
    vectors = centres[rng.integers(20, size=1500)] + 0.3 * rng.normal(size=(1500, 16))
    view = fill(store, vectors.astype(np.float32), [f"c_{at}_1" for at in range(1500)], shard=2048)
    card = build_index(store, view, factory=factory)
    assert (card["factory"], card["exact"]) == (factory, False)
    index = open_index(store, view)
    rows, cosines = all_cosines(view)
    queries = normalised(view, "embedding", rows[:50]).astype(np.float32)
    hits, similarities = index.search(queries, 10)
    np.testing.assert_allclose(similarities, np.take_along_axis(cosines[:50], hits, 1), atol=1e-6)
    best = np.argsort(-cosines[:50], axis=1)[:, :10]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(hits, best, strict=True)])
    assert recall > 0.9


def refused(store: Store, view: View, why: str, command: str = "--view tiny") -> None:
    with pytest.raises(StepDiffError, match=why) as caught:
        open_index(store, view)
    line = str(caught.value)
    assert "\n" not in line
    assert line.endswith(f"run `python -m retrieval build --store {store.path} {command}`")


def test_an_index_is_refused_after_rows_were_added_or_written(
    store: Store, clips: View, fill: Fill
) -> None:
    build_index(store, clips)
    fill(store, np.ones((1, 16), np.float32), ["new_0_1"])
    refused(store, clips, "27 rows .* 28")
    build_index(store, clips)
    assert len(open_index(store, clips)) == 28
    with store.lock():
        clips.write_shard(0, np.array([3]), {"embedding": np.ones((1, 16), np.float32)}, {})
    refused(store, clips, "28 rows .* 29")


def test_new_rows_without_features_do_not_invalidate_an_index(
    store: Store, clips: View, fill: Fill
) -> None:
    build_index(store, clips)
    fill(store, np.ones((1, 16), np.float32), ["new_0_1"], failed=[0])
    assert len(open_index(store, clips)) == 27


@pytest.mark.parametrize("change", ["values", "keys", "rows"])
def test_an_index_of_changed_rows_is_refused(tmp_path: Path, fill: Fill, change: str) -> None:
    path = tmp_path / "features"
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    keys = [f"c_{at}_1" for at in range(9)]
    store = Store.open(path, create=True)
    build_index(store, fill(store, vectors, keys))
    card = card_path(store, "clips", "tiny")
    kept = card.read_bytes()
    shutil.rmtree(path)
    failed = []
    if change == "values":
        vectors[8, 3] += 1e-6
    elif change == "keys":
        keys[7], keys[8] = keys[8], keys[7]
    else:  # the same bytes, one row later
        keys, failed = ["failed_0_1", *keys], [0]
        vectors = np.concatenate([vectors[:1], vectors])
    store = Store.open(path, create=True)
    view = fill(store, vectors, keys, failed=failed)
    card.parent.mkdir(parents=True)
    card.write_bytes(kept)
    refused(store, view, "rows of its view were rewritten")


def test_an_index_of_another_provenance_is_refused(store: Store, clips: View, fill: Fill) -> None:
    build_index(store, clips)
    shutil.rmtree(store.path / "arrays.zarr" / "clips" / "tiny")
    vectors = np.ones((30, 16), np.float32)
    keys = store.catalog("clips").frame()["key"].to_list()
    view = fill(store, vectors, keys, failed=(3, 8, 29), layer="first")
    refused(store, view, "its view was replaced .*layer 'last' against 'first'")


def test_the_message_for_a_missing_index_gives_the_command(
    store: Store, clips: View, fill: Fill
) -> None:
    refused(store, clips, "view clips/tiny of .* has no index")
    texts = fill(store, np.ones((2, 4), np.float32), ["a", "b"], entity="texts")
    refused(store, texts, "view texts/tiny of .* has no index", "--view tiny --entity texts")


def test_an_index_is_complete_or_absent(store: Store, clips: View, fill: Fill) -> None:
    build_index(store, clips, factory="IVF2,SQfp16")
    before = {
        path: path.read_bytes() for path in card_path(store, "clips", "tiny").parent.glob("tiny.*")
    }
    assert len(before) == 2
    fill(store, np.zeros((1, 16), np.float32), ["zeros_0_1"])
    for factory in ("IVF2,SQfp16", "auto"):
        with pytest.raises(
            StepDiffError, match="the embedding of zeros_0_1 in clips/tiny is all zer"
        ):
            build_index(store, clips, factory=factory)
        assert {path: path.read_bytes() for path in before} == before


def test_what_cannot_be_built_is_refused(store: Store, clips: View, fill: Fill) -> None:
    for factory in (
        "Nonsense",
        "IVF4096,Flat",
        "IVF4,PQ5",
        "HNSW32,PQ5",
        "",
        "IVF2,Flat,RFlat",
        "PCA8,IDMap,Flat",
    ):
        with pytest.raises(StepDiffError, match=f"FAISS cannot build '{factory}'") as caught:
            build_index(store, clips, factory=factory)
        assert "\n" not in str(caught.value)
    with pytest.raises(StepDiffError, match="tokens: it has embedding"):
        build_index(store, clips, "tokens")
    with pytest.raises(StepDiffError, match="clips/empty of .* has no features yet"):
        build_index(store, fill(store, np.ones((1, 4), np.float32), ["a_0_1"], "empty", failed=[0]))
    assert not list(card_path(store, "clips", "tiny").parent.glob("[!.]*.*.*"))


FACTORY = "IVF16,SQfp16"
PART = 256  # rows


@pytest.fixture
def clustered(store: Store, fill: Fill) -> View:
    """A view of 1,500 rows around 20 centres in shards of 128; every ninth row has failed."""
    return fill(
        store,
        clusters(1500, 0),
        [f"c{at}" for at in range(1500)],
        failed=range(0, 1500, 9),
        shard=128,
    )


def clusters(rows: int, seed: int, spread: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(20, 16))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(20, size=rows)] + spread * rng.normal(size=(rows, 16))).astype(
        np.float32
    )


def built(store: Store, view: View, **how: object) -> dict:
    return build_index(store, view, factory=FACTORY, workers=1, part_rows=PART, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("factory", ["IVF16,SQfp16", "IVF16,PQ4", "HNSW8,SQfp16"])
def test_an_index_of_a_card_finds_what_one_of_the_cpu_finds(
    store: Store, clustered: View, monkeypatch: pytest.MonkeyPatch, factory: str
) -> None:
    """The card is a copy in memory: what FAISS computes on a GPU is not tested."""
    copies: list[str] = []

    def copy(_: object, card: int, index: Any, options: SimpleNamespace) -> Any:
        copies.append(f"{type(index).__name__} {options.useFloat16}")
        return faiss.clone_index(index)

    queries = normalised(clustered, "embedding", filled_rows(clustered)[:50]).astype(np.float32)
    card = build_index(store, clustered, factory=factory, workers=1, part_rows=PART)
    rows, similarities = open_index(store, clustered).search(queries, 20)
    parts = {
        "index_cpu_to_gpu": copy,
        "index_gpu_to_cpu": faiss.clone_index,
        "StandardGpuResources": object,
    }
    for name, part in {
        **parts,
        "GpuClonerOptions": SimpleNamespace,
        "get_num_gpus": lambda: 1,
    }.items():
        monkeypatch.setattr(faiss, name, part, raising=False)
    if factory.startswith("HNSW"):
        with pytest.raises(StepDiffError, match="graphs stay on the CPU"):
            build_index(store, clustered, factory=factory, rebuild=True, device="cuda")
        open_index(store, clustered, "cuda")
        return
    again = build_index(
        store, clustered, factory=factory, part_rows=PART, rebuild=True, device="cuda"
    )
    kind = {"SQfp16": "IndexIVFScalarQuantizer False", "PQ4": "IndexIVFPQ True"}[factory[6:]]
    assert copies == ["IndexFlatIP False", *[kind] * 6] and again["rows"] == card["rows"]
    opened = open_index(store, clustered, "cuda")
    hits = opened.search(queries, 20)
    np.testing.assert_array_equal(hits[1], similarities)
    np.testing.assert_array_equal(hits[0], rows)
    opened.search(queries, 3000)
    assert len(copies) == 8, "more hits than a card returns are found on the CPU"
    monkeypatch.setattr(device, "LARGE", 2000)
    assert device.device_for("auto", 1999) == "cpu" and device.device_for("auto", 2000) == "auto"


def test_a_device_that_cannot_be_used_is_refused(
    store: Store, clustered: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in (partial(built, device="cuda"), partial(open_index, device="cuda")):
        with pytest.raises(
            StepDiffError,
            match="^--device cuda: faiss-cpu is built for CPUs: leave --device out, or ",
        ):
            call(store, clustered)
        built(store, clustered)
    about = tmp_path / "faiss_gpu_cu12-1.9.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: faiss-gpu-cu12\nVersion: 1.9.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        StepDiffError,
        match="^faiss-cpu and faiss-gpu-cu12 are installed into the same folder: run ",
    ):
        open_index(store, clustered)


def files(store: Store) -> list[Path]:
    """Return the files of the index without its card."""
    return sorted(Path(str(card_path(store, "clips", "tiny").parent)).glob("tiny.*.*"))


def content(store: Store) -> dict[str, bytes]:
    return {path.suffix: path.read_bytes() for path in files(store)}


def true_recall(store: Store, view: View, k: int = 10) -> float:
    """Return the share of each row's k nearest rows in float64 that the index finds."""
    rows = filled_rows(view)
    unit = normalised(view, "embedding", rows)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    best = rows[np.argsort(-cosines, axis=1)[:, :k]]
    hits, _ = open_index(store, view).search(unit.astype(np.float32), k + 1)
    return float(np.mean([len(set(f) & set(b)) / k for f, b in zip(hits, best, strict=True)]))


def test_recall_is_measured(store: Store, clustered: View) -> None:
    card = built(store, clustered, least_recall=0.9)
    assert 0.9 <= card["recall"] <= 1 and card["probes"] < 16
    # 256 of 1,333 queries
    assert card["recall"] == pytest.approx(true_recall(store, clustered), abs=0.03)
    few = json.loads(card_path(store, "clips", "tiny").read_text())
    assert few["recall_queries"] == 256


@pytest.mark.full
@pytest.mark.parametrize(
    "factory", [FACTORY, "IVF8,PQ4x4", "PCA8,IVF8,SQ8", "IVF16_HNSW8,Flat", "IVF200,SQ8"]
)
def test_parts_equal_one_build(
    tmp_path: Path, fill: Fill, factory: str, capfd: pytest.CaptureFixture[str]
) -> None:
    searches = []
    for name, size in (("parts", PART), ("whole", 10**6)):
        store = Store.open(tmp_path / name, create=True)
        view = fill(store, clusters(1500, 0), [f"c{at}" for at in range(1500)], shard=128)
        build_index(store, view, factory=factory, workers=1, part_rows=size)
        searches.append(
            open_index(store, view).search(
                normalised(view, "embedding", np.arange(99)).astype("f4"), 9
            )
        )
    np.testing.assert_array_equal(searches[0][0], searches[1][0])
    np.testing.assert_array_equal(searches[0][1], searches[1][1])
    assert capfd.readouterr().out == ""


def test_a_killed_build_keeps_the_old_index_and_resumes(store: Store, clustered: View) -> None:
    how: dict = {"factory": FACTORY, "workers": 1, "part_rows": 16}
    build_index(store, clustered, **how)
    unbroken = content(store)
    code = (
        "import sys; from retrieval.index.builder import build_index; from store import Store\n"
        "store = Store.open(sys.argv[1])\n"
        f"build_index(store, store.view('clips', 'tiny'), rebuild=True, **{how})"
    )
    work = store.path / "indexes/clips/tiny.building"
    parts: list[Path] = []
    while len(parts) < 2:  # a build that ends before it is killed is started again
        run = subprocess.Popen([sys.executable, "-c", code, str(store.path)])
        while len(list(work.glob("*/*-*.faiss"))) < 2 and run.poll() is None:
            time.sleep(0.001)
        run.kill()
        assert run.wait() in (0, -signal.SIGKILL)
        parts = sorted(work.glob("*/*-*.faiss"))
    assert (
        len(open_index(store, clustered)) == 1333 and unbroken[".faiss"] in content(store).values()
    )
    whole = parts[0].read_bytes()
    parts[0].write_bytes(whole[:20])
    with pytest.raises(
        StepDiffError,
        match=f"is damaged: .*; delete {parts[0].parent} and run the same command again",
    ):
        build_index(store, clustered, rebuild=True, **how)
    parts[0].write_bytes(whole)
    card = build_index(store, clustered, rebuild=True, **how)
    assert content(store) == unbroken and card["rows"] == 1333 and not work.exists()


def test_new_rows_are_added(store: Store, clustered: View, fill: Fill) -> None:
    built(store, clustered)
    with store.lock():  # a failed row in the middle is fixed
        clustered.write_shard(0, np.array([9]), {"embedding": clusters(1, 5)}, {})
    view = fill(store, clusters(300, 3), [f"new{at}" for at in range(300)], shard=128)
    card = built(store, view)
    assert (card["rows"], card["trained_rows"], card["new_share"], card["rebuild"]) == (
        1634,
        1333,
        0.1842,
        False,
    )
    assert true_recall(store, view) > 0.9 and card["recall"] >= 0.95
    fill(store, clusters(600, 4), [f"newer{at}" for at in range(600)], shard=128)
    assert built(store, view)["rebuild"] is True
    card = built(store, view, rebuild=True)
    assert (card["trained_rows"], card["new_share"], card["rebuild"]) == (2234, 0.0, False)


@pytest.mark.full
def test_new_rows_are_added_to_a_graph(store: Store, clustered: View, fill: Fill) -> None:
    """A graph is neither divided into parts nor trained, so no row is new to it; its effort is
    measured as of lists."""
    card = build_index(store, clustered, factory="HNSW32,SQfp16", least_recall=0.99)
    assert card["probes"] > 12 and card["recall"] >= 0.99 and card["rebuild"] is False
    view = fill(store, clusters(900, 3), [f"new{at}" for at in range(900)], shard=128)
    card = build_index(store, view, factory="HNSW32,SQfp16")
    assert (card["rows"], card["trained_rows"], card["rebuild"]) == (2233, 2233, False)
    assert (
        card["recall"] == pytest.approx(true_recall(store, view), abs=0.03)
        and card["recall"] >= 0.95
    )


def test_a_second_build_adds_nothing(store: Store, clustered: View) -> None:
    built(store, clustered)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files(store)}
    built(store, clustered)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files(store)} == before


def test_a_low_recall_is_reported(store: Store, clustered: View, run: Run) -> None:
    build = "build", "--store", store.path, "--view", "tiny"
    ended = run(*build, "--factory", "IVF4,PQ1x2", "--workers", 1, "--min-recall", 0.999, "--json")
    assert ended.status == 1 and ended.json["recall"] < 0.999
    assert "is below --min-recall 0.999" in ended.errors and ended.errors.count("\n") == 1
    assert "Flat over 1333 rows" in run(*build).out


@pytest.mark.full
def test_ray_fills_parts_in_parallel(store: Store, clustered: View) -> None:
    built(store, clustered)
    here = content(store)
    card = build_index(store, clustered, factory=FACTORY, rebuild=True, workers=2, part_rows=PART)
    assert content(store) == here and card["rows"] == 1333


def test_a_snapshot_is_not_indexed(store: Store, clips: View) -> None:
    card = build_index(store, clips, factory="Flat")
    path = card_path(store, "clips", clips.name)
    before = path.read_bytes()
    store.tag("v1")
    with store.lock():
        clips.withdraw(np.array([0]))
    then = Store.open(f"{store.path}@v1")
    with pytest.raises(
        StepDiffError, match="snapshot v1 of .* is not indexed: .* give the store without @v1"
    ):
        build_index(then, then.view("clips", clips.name), factory="Flat")
    assert (
        path.read_bytes() == before
        and open_index(then, then.view("clips", clips.name)).card == card
    )


def test_an_index_of_other_rows_is_not_used_for_a_snapshot(store: Store, clips: View) -> None:
    store.tag("v1")
    with store.lock():
        clips.withdraw(np.array([0]))
    build_index(store, clips, factory="Flat")
    then = Store.open(f"{store.path}@v1")
    view = then.view("clips", clips.name)
    with pytest.raises(StepDiffError, match="is not of snapshot v1 .* give the store without @v1"):
        open_index(then, view)
    search = resolve(then, view, partial(of_clips, clips=["video_1_0_2"]))
    assert search.index.faiss is None and "video_0_0_1" in compute(search, 27)["clip"].to_list()


@pytest.mark.parametrize(
    ("rows", "dim", "factory"),
    [
        (9_999, 1280, "Flat"),
        (10_000, 1280, "HNSW32,SQfp16"),
        (1_000_000, 1280, "HNSW32,SQfp16"),
        (1_000_001, 1280, "IVF2000,SQfp16"),
        (10_000_000, 1280, "IVF6325,SQfp16"),
        (10_000_001, 1280, "IVF6325,PQ64"),
        (20_000_000, 50, "IVF8944,PQ50"),
        (136_000_000, 768, "IVF23324,PQ64"),
    ],
)
def test_the_factory_depends_on_the_number_of_rows(rows: int, dim: int, factory: str) -> None:
    assert factory_for(rows, dim) == factory


def test_an_index_in_an_object_store(bucket: str, fill: Fill, run: Run) -> None:
    url = f"{bucket}/features"
    store = Store.open(url, create=True)
    vectors = np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32)
    fill(store, vectors, [f"c{n}" for n in range(30)], failed=[4])
    assert run("build", "--store", url, "--view", "tiny", "--json").json["rows"] == 29
    hits = run("query", "--store", url, "--view", "tiny", "--clip", "c7", "-k", 3, "--json").json[
        "hits"
    ]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit[7]
    cosines[[4, 7]] = -1
    assert [hit["clip"] for hit in hits] == [f"c{n}" for n in np.argsort(-cosines)[:3]]
