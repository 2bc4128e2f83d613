"""An index of a store on an S3 server, stored on the server too."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from common.errors import StepDiffError
from retrieval.__main__ import main
from retrieval.index.builder import build_index
from retrieval.index.index import open_index
from retrieval.index.index_card import card_path, index_file
from store import Store, View

Fill = Callable[..., View]


def test_an_index_is_stored_in_and_searched_from_the_object_store(
    bucket: str, fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{bucket}/features"
    store = Store.open(url, create=True)
    vectors = np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32)
    fill(store, vectors, [f"c{n}" for n in range(30)], failed=[4])
    assert main(["build", "--store", url, "--view", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 29
    assert main(["query", "--store", url, "--view", "tiny", "--clip", "c7", "-k", "3", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit[7]
    cosines[[4, 7]] = -1
    assert [hit["clip"] for hit in hits] == [f"c{n}" for n in np.argsort(-cosines)[:3]]


def test_an_approximate_index_is_searched_from_the_object_store(bucket: str, fill: Fill) -> None:
    store = Store.open(f"{bucket}/features", create=True)
    vectors = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    view = fill(store, vectors, [f"c{n}" for n in range(200)], shard=64)
    build_index(store, view, factory="IVF4,SQfp16")
    found, cosines = open_index(store, view).search(vectors[:5] / np.linalg.norm(vectors[:5], axis=1, keepdims=True), 1)
    assert found.ravel().tolist() == [0, 1, 2, 3, 4] and np.allclose(cosines, 1)


def test_a_stale_or_damaged_index_is_refused(bucket: str, fill: Fill) -> None:
    store = Store.open(f"{bucket}/features", create=True)
    vectors = np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32)
    view = fill(store, vectors, [f"c{n}" for n in range(20)])
    with pytest.raises(StepDiffError, match=f"has no index: run .*--store {bucket}/features"):
        open_index(store, view)
    card = build_index(store, view, factory="IVF2,SQfp16")
    path = card_path(store, "clips", "tiny").parent / index_file(card)
    whole = path.read_bytes()
    path.put([whole[:-1]])
    with pytest.raises(StepDiffError, match="damaged or of another build"):
        open_index(store, view)
    path.put([whole])
    assert len(open_index(store, view)) == 20
    fill(store, vectors[:1] + 1, ["new"])
    with pytest.raises(StepDiffError, match="holds 20 rows and the view now has 21"):
        open_index(store, view)
