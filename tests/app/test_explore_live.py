"""Guarantees of app.explore.live: texts are encoded as those of the store were, or the search says why not."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from app.explore import live
from app.explore.nearest import Searcher
from app.site import Site
from common.errors import StepDiffError
from store import Feature, Provenance, Store, View, text_key

FEATURE = {"embedding": Feature((4,), "float32")}


def made(encoder: str, entity: str = "texts") -> Provenance:
    return Provenance(encoder, "1" * 64, "last", "none" if entity == "texts" else "8", "all", {"embedding": "float32"})


def fill(store: Store, entity: str, frame: pl.DataFrame, vectors: np.ndarray, encoder: str, view: str) -> None:
    with store.lock():
        store.catalog(entity).append(frame)
        with store.writer(entity, view, made(encoder, entity), FEATURE, rows_per_shard=8) as writer:
            writer.fill(np.arange(len(vectors)), lambda rows: ({"embedding": vectors[rows]}, {}))


def site_of(tmp_path: Path, encoder: str, weights: str | None = "folder") -> Site:
    """A site whose view `space` has four clips on the axes and one text."""
    store = Store.open(tmp_path / "features", create=True)
    fill(store, "clips", pl.DataFrame({"key": list("abcd")}), np.eye(4, dtype=np.float32), encoder, "space")
    text = pl.DataFrame({"key": [text_key("stored")], "text": ["stored"]})
    fill(store, "texts", text, np.array([[0, 1, 0.5, 0]], np.float32), encoder, "space")
    return Site.open(str(store.path), cache=str(tmp_path / "cache"), weights=weights)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """What was loaded: an encoder whose text `n words` is nearest to axis n."""
    calls: list[tuple[str, str | None]] = []

    def load(name: str, weights: str | None, device: str | None) -> SimpleNamespace:
        calls.append((name, weights))

        def encode(texts: list[str]) -> dict[str, np.ndarray]:
            axis = len(texts[0].split()) - 1
            return {"embedding": (7 * np.eye(4)[axis] + np.arange(4))[None].astype(np.float32)}

        return SimpleNamespace(encode_texts=encode, provenance=lambda entity: made("clip" if weights else "other"))

    monkeypatch.setattr(live, "load", load)
    return calls


def test_a_new_text_is_encoded_by_an_encoder_that_is_loaded_once(
    tmp_path: Path, loaded: list[tuple[str, str | None]]
) -> None:
    searcher, view = (
        Searcher(site := site_of(tmp_path, "clip")),
        Store.open(tmp_path / "features").view("clips", "space"),
    )
    for words, best in (("one", 0), ("now three words", 2)):
        hits = searcher.of_text(view, words, 4, None)
        expected = 7 * np.eye(4)[best] + np.arange(4)
        assert hits.rows.tolist() == np.lexsort((np.arange(4), -expected)).tolist()
        np.testing.assert_allclose(hits.similarities, np.sort(expected / np.linalg.norm(expected))[::-1], atol=1e-6)
        assert hits.title == f"text '{words}'"
    assert loaded == [("clip", "folder")] and site.weights == "folder"


def test_a_text_of_the_store_needs_no_encoder(tmp_path: Path, loaded: list[tuple[str, str | None]]) -> None:
    site_ = site_of(tmp_path, "clip", weights=None)
    hits = Searcher(site_).of_text(site_.store.view("clips", "space"), "stored", 2, np.array([0, 1, 2]))
    assert hits.rows.tolist() == [1, 2] and loaded == []


def test_a_view_of_clips_alone_is_searched_by_words_where_its_encoder_encodes_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has texts yet. The encoder is loaded once, from the place that the view records."""
    calls: list[tuple[str, str | None]] = []

    def encoder_of(store: Store, view: View, weights: str | None, device: str | None) -> SimpleNamespace:
        calls.append((view.name, weights))
        return SimpleNamespace(encode_texts=lambda texts: {"embedding": 3 * np.eye(4, dtype=np.float32)[len(texts) :]})

    monkeypatch.setattr(live, "encoder_of", encoder_of)
    site = site_of(tmp_path, "clip", weights=None)
    with site.store.lock(), site.store.writer("clips", "alone", made("clip", "clips"), FEATURE) as writer:
        writer.fill(np.arange(4), lambda rows: ({"embedding": np.eye(4, dtype=np.float32)[rows]}, {}))
    searcher = Searcher(site)
    for words in ("one", "two words"):
        hits = searcher.of_text(site.store.view("clips", "alone"), words, 1, None)
        assert hits.rows.tolist() == [1] and hits.similarities.tolist() == [1]
    assert calls == [("alone", None)]


@pytest.mark.parametrize(
    ("encoder", "weights", "message"),
    [
        ("clip", None, r"to encode it needs weights of clip: start the server with --weights"),
        ("siglip", "folder", r"texts/space differs from what siglip makes of a text now \(encoder"),
        ("contrastive head over clip", "folder", "by a contrastive head over clip that is not among the runs"),
    ],
)  # fmt: skip
def test_a_search_that_is_not_possible_says_why(
    tmp_path: Path, loaded: list[tuple[str, str | None]], encoder: str, weights: str | None, message: str
) -> None:
    site = site_of(tmp_path, encoder, weights)
    with pytest.raises(StepDiffError, match=message):
        Searcher(site).of_text(site.store.view("clips", "space"), "new", 2, None)


def test_a_view_without_texts_and_an_empty_text_are_refused(
    tmp_path: Path, loaded: list[tuple[str, str | None]]
) -> None:
    site = site_of(tmp_path, "clip")
    with site.store.lock(), site.store.writer("clips", "alone", made("tiny", "clips"), FEATURE) as writer:
        writer.fill(np.arange(4), lambda rows: ({"embedding": np.eye(4, dtype=np.float32)[rows]}, {}))
    with pytest.raises(StepDiffError, match="is not in texts/alone of .*, which has no texts yet"):
        Searcher(site).of_text(site.store.view("clips", "alone"), "new", 2, None)
    with pytest.raises(StepDiffError, match="the text is empty"):
        Searcher(site).of_text(site.store.view("clips", "space"), " ", 2, None)
