"""The FAISS index: correct rows and similarities, refused after its store has changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.errors import DamageError, StepDiffError
from common.io.sealed import crc32c
from retrieval.index.builder import build_index
from retrieval.index.index import open_index
from retrieval.index.index_card import card_path, index_file
from retrieval.vectors import filled_rows, normalised
from store import Store, View
from store.format.shard import encode_chunk, read_chunk

Fill = Callable[..., View]


def brute(store: Store, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return the ok rows and the cosines between all of them."""
    rows = filled_rows(view)
    vectors = view.read("embedding", rows, dtype="float32").astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return rows, vectors @ vectors.T


def test_similarities_are_exact(store: Store, clips: View) -> None:
    build_index(store, clips)
    index = open_index(store, clips)
    rows, cosines = brute(store, clips)
    queries = normalised(store, clips, "embedding", rows).astype(np.float32)
    found, similarities = index.search(queries, len(rows))
    for at in range(len(rows)):
        assert sorted(found[at]) == rows.tolist()
        place = np.searchsorted(rows, found[at])
        np.testing.assert_allclose(similarities[at], cosines[at, place], atol=1e-6)
        assert (np.diff(similarities[at]) <= 0).all()


def test_ids_are_store_rows(store: Store, clips: View) -> None:
    assert (clips.status()[[3, 8, 29]] == 2).all()
    build_index(store, clips)
    index = open_index(store, clips)
    assert len(index) == 27
    for row in filled_rows(clips):
        query = normalised(store, clips, "embedding", np.array([row])).astype(np.float32)
        found, _ = index.search(query, 27)
        assert row in found[0, :2]  # 5 and 6 are equal
        assert not set(found[0]) & {3, 8, 29}


@pytest.mark.parametrize("factory", ["IVF4,SQfp16", "IVF8,PQ8x4", "HNSW8", "HNSW32,SQfp16"])
def test_similarities_of_approximate_indexes_are_exact(store: Store, fill: Fill, factory: str) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 16))
    vectors = centres[rng.integers(20, size=1500)] + 0.3 * rng.normal(size=(1500, 16))
    view = fill(store, vectors.astype(np.float32), [f"c_{at}_1" for at in range(1500)], shard=2048)
    card = build_index(store, view, factory=factory)
    assert (card["factory"], card["exact"]) == (factory, False)
    index = open_index(store, view)
    rows, cosines = brute(store, view)
    queries = normalised(store, view, "embedding", rows[:50]).astype(np.float32)
    found, similarities = index.search(queries, 10)
    np.testing.assert_allclose(similarities, np.take_along_axis(cosines[:50], found, 1), atol=1e-6)
    best = np.argsort(-cosines[:50], axis=1)[:, :10]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, best, strict=True)])
    assert recall > 0.9


def test_the_card_describes_the_index(store: Store, clips: View) -> None:
    build_index(store, clips)
    path = card_path(store, "clips", "tiny")
    assert path == store.path / "indexes" / "clips" / "tiny.json"
    card = json.loads(path.read_text())
    assert card["provenance"] == clips.provenance.as_dict()
    assert (card["factory"], card["rows"], card["dim"]) == ("Flat", 27, 16)
    assert (card["feature"], card["metric"]) == ("embedding", "inner product of L2-normalised rows")
    assert {"digest", "faiss", "seconds", "latency", "why"} <= set(card)
    assert card["files"] == {}  # an exact index has only a card
    assert sorted(file.name for file in path.parent.iterdir()) == [".tiny.lock", "tiny.json"]
    card = build_index(store, clips, factory="IVF2,SQfp16")
    assert {name: known["bytes"] for name, known in card["files"].items()} == {
        file.name: file.stat().st_size for file in path.parent.glob("tiny.*.*")
    }


def refused(store: Store, view: View, why: str, command: str = "--view tiny") -> None:
    with pytest.raises(StepDiffError, match=why) as caught:
        open_index(store, view)
    line = str(caught.value)
    assert "\n" not in line
    assert line.endswith(f"run `python -m retrieval build --store {store.path} {command}`")


def test_an_index_is_refused_after_an_append(store: Store, clips: View, fill: Fill) -> None:
    build_index(store, clips)
    fill(store, np.ones((1, 16), np.float32), ["new_0_1"])
    refused(store, clips, "it holds 27 rows and the view now has 28")
    build_index(store, clips)
    assert len(open_index(store, clips)) == 28


def test_new_rows_without_features_do_not_invalidate_an_index(store: Store, clips: View, fill: Fill) -> None:
    build_index(store, clips)
    fill(store, np.ones((1, 16), np.float32), ["new_0_1"], failed=[0])
    assert len(open_index(store, clips)) == 27


def test_an_index_is_refused_after_rows_were_written(store: Store, clips: View) -> None:
    build_index(store, clips)
    with store.lock():
        clips.write_shard(0, np.array([3]), {"embedding": np.ones((1, 16), np.float32)}, {})
    refused(store, clips, "it holds 27 rows and the view now has 28")


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


def test_an_index_with_a_damaged_file_is_refused(store: Store, clips: View) -> None:
    card = build_index(store, clips, factory="IVF2,SQfp16")
    path = card_path(store, "clips", "tiny").with_name(index_file(card))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (b"", whole[:10], whole[:-1], bytes(flipped)):
        path.write_bytes(content)
        refused(store, clips, "its file is damaged")
    path.unlink()
    refused(store, clips, "its file is damaged")
    path.write_bytes(whole)
    assert len(open_index(store, clips)) == 27


@pytest.mark.parametrize("change", ["edited", "empty", "no object"])
def test_an_index_with_a_damaged_card_is_refused(store: Store, clips: View, change: str) -> None:
    build_index(store, clips, factory="IVF2,SQfp16")
    card = card_path(store, "clips", "tiny")
    if change == "edited":
        card.write_text(card.read_text().replace('"IVF2,SQfp16"', '"HNSW32"'))
    else:
        card.write_text("" if change == "empty" else "[]")
    refused(store, clips, r"its card \(the .json file next to it\) is missing or was changed")


def test_the_message_for_a_missing_index_gives_the_command(store: Store, clips: View, fill: Fill) -> None:
    refused(store, clips, "view clips/tiny of .* has no index")
    texts = fill(store, np.ones((2, 4), np.float32), ["a", "b"], entity="texts")
    refused(store, texts, "view texts/tiny of .* has no index", "--view tiny --entity texts")


def test_an_index_is_complete_or_absent(store: Store, clips: View, fill: Fill) -> None:
    build_index(store, clips, factory="IVF2,SQfp16")
    before = {path: path.read_bytes() for path in card_path(store, "clips", "tiny").parent.glob("tiny.*")}
    assert len(before) == 2
    fill(store, np.zeros((1, 16), np.float32), ["zeros_0_1"])
    for factory in ("IVF2,SQfp16", "auto"):
        with pytest.raises(StepDiffError, match="the embedding of zeros_0_1 in clips/tiny is all zer"):
            build_index(store, clips, factory=factory)
        assert {path: path.read_bytes() for path in before} == before


def test_every_vector_has_length_1(store: Store, clips: View) -> None:
    rows = filled_rows(clips)
    vectors = normalised(store, clips, "embedding", rows)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-15)


def test_a_nan_is_refused_with_its_key(store: Store, clips: View) -> None:
    """The store writes no NaN; here a shard file and its checksum are changed by hand."""
    (shard,) = (store.path / "arrays.zarr/clips/tiny/embedding/c").glob("1/0")
    content = bytearray(shard.read_bytes())
    stored = clips.read("embedding", np.array([10]), dtype="float32")[0]
    at = content.find(stored.tobytes())
    content[at : at + 4] = np.float32("nan").tobytes()
    shard.write_bytes(content)
    with pytest.raises(DamageError, match="video_10_0_11: stored embedding of view tiny .* is not as it was written"):
        build_index(store, store.view("clips", "tiny"))
    path = clips.paths.checksum(1)
    sums = read_chunk(path, (clips.rows_per_shard, 1), "uint32").copy()
    sums[10 % clips.rows_per_shard] = crc32c(content[at : at + stored.nbytes])
    path.write_bytes(encode_chunk(sums))
    with pytest.raises(StepDiffError, match="embedding of video_10_0_11 .* holds NaN or infinity"):
        build_index(store, store.view("clips", "tiny"))


def test_unusable_factories_are_refused(store: Store, clips: View) -> None:
    for factory in ("Nonsense", "IVF4096,Flat", "IVF4,PQ5", "HNSW32,PQ5", ""):
        with pytest.raises(StepDiffError, match=f"FAISS cannot build '{factory}'") as caught:
            build_index(store, clips, factory=factory)
        assert "\n" not in str(caught.value)
    assert not list(card_path(store, "clips", "tiny").parent.glob("tiny.*.*"))


def test_unusable_features_are_refused(store: Store, clips: View) -> None:
    with pytest.raises(StepDiffError, match="no embedding called tokens: it has embedding"):
        build_index(store, clips, "tokens")


def test_an_empty_view_is_refused(store: Store, fill: Fill) -> None:
    view = fill(store, np.ones((1, 4), np.float32), ["a_0_1"], failed=[0])
    with pytest.raises(StepDiffError, match="view clips/tiny of .* has no features yet"):
        build_index(store, view)


def test_an_unknown_view_is_refused_by_the_store(store: Store, clips: View) -> None:
    with pytest.raises(StepDiffError, match="tiny"):
        store.view("clips", "huge")
