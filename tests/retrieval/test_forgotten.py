"""Clips that were forgotten are in no answer, also not through an index that was built before."""

import json
from collections.abc import Callable

import pytest

from retrieval.__main__ import main
from store import Store, View
from store.__main__ import main as store_main

Fill = Callable[..., View]


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", None])
def test_a_forgotten_clip_is_in_no_answer(
    store: Store, clips: View, factory: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    view = ["--store", str(store.path), "--view", "tiny"]
    query = ["query", *view, "--clip", "video_5_0_6", "-k", "30", "--json"]
    if factory:
        assert main(["build", *view, "--factory", factory]) == 0
        capsys.readouterr()
    assert main(query) == 0
    assert json.loads(capsys.readouterr().out)["hits"][0]["clip"] == "video_6_0_7"
    assert store_main(["forget", str(store.path), "video_6_0_7"]) == 0
    assert ("tiny.json is stale" in capsys.readouterr().out) == bool(factory)
    if factory:
        assert main(query) == 2
        out, err = capsys.readouterr()
        assert out == "" and "is stale, it holds 27 rows and the view now has 26" in err
        assert main(["build", *view, "--factory", factory]) == 0
        capsys.readouterr()
    assert main(query) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert "video_6_0_7" not in {hit["clip"] for hit in hits} and len(hits) == 25
    assert main(["query", *view, "--clip", "video_6_0_7"]) == 2
    assert "video_6_0_7 of clips was forgotten: leave it out, or recall it" in capsys.readouterr().err
