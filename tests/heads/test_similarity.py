"""Guarantees of heads/methods/similarity.py, with a small random model and, if it is fetched, with the real one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from heads.methods.similarity import MODEL, Sentences
from store import Feature, Provenance, Store, text_key
from tasks.captions import similarity_rows
from tasks.scoring import score
from tasks.testsets import DiffCap, DiffRank
from weights import fingerprint, resolve

TEXTS = ["the cook stirs slowly", "the cook whisks", "a red bowl", "so much more salt goes into the pan"]


@pytest.fixture(scope="module")
def tiny_mpnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that sentence-transformers loads: a random MPNet of one layer with the words of TEXTS."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import MPNetConfig, MPNetModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_mpnet")
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted({word for text in TEXTS for word in text.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=32,
    )  # fmt: skip
    torch.manual_seed(0)
    config = MPNetConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, initializer_range=0.5,
    )  # fmt: skip
    MPNetModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


def as_words(texts: Sequence[str]) -> np.ndarray:
    """Return normalised counts of a, b, c and d in each text."""
    counts = np.array([[text.count(letter) for letter in "abcd"] for text in texts], np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_the_score_of_a_row_is_its_highest_cosine() -> None:
    references = [["a b", "c"], ["d"], ["a", "b"]]
    found = similarity_rows(references, ["c c", "a", "a a b"], as_words)
    np.testing.assert_allclose(found, [1, 0, 2 / np.sqrt(5)], rtol=1e-6)


def test_a_caption_that_repeats_a_reference_scores_1_whatever_the_other_references_are() -> None:
    assert similarity_rows([["a b d", "c"]], ["a b d"], as_words) == pytest.approx(1)
    once, twice = (similarity_rows([refs], ["a b"], as_words) for refs in (["a", "c d"], ["a", "c d", "a", "c d"]))
    assert once == twice


def test_a_text_without_a_word_has_cosine_0_with_every_text() -> None:
    found = similarity_rows([["a", "b"], ["", " \t"], ["", "a"], [""]], ["", "a", "a", "\n"], as_words)
    np.testing.assert_allclose(found, [0, 0, 1, 0])
    assert similarity_rows([[""]], [" "], as_words).tolist() == [0]


def filled(folder: Path, texts: list[str], vectors: np.ndarray, weights: str) -> Store:
    store = Store.open(folder, create=True)
    provenance = Provenance(MODEL, weights, "mean", "none", "none", {"embedding": "float32"})
    with store.lock():
        store.catalog("texts").append(pl.DataFrame({"key": [text_key(text) for text in texts], "text": texts}))
        view = store.create_view("texts", MODEL, provenance, {"embedding": Feature((vectors.shape[1],), "float32")})
        view.resize()
        view.write_shard(0, np.arange(len(texts)), {"embedding": vectors}, {})
    return store


def test_embeddings_in_the_store_are_read_and_others_are_computed(tiny_mpnet: str, tmp_path: Path) -> None:
    computed = Sentences(model=tiny_mpnet)(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(computed, axis=1), 1, rtol=1e-5)
    planted = np.eye(16, dtype=np.float32)[:2]
    store = filled(tmp_path / "features", [TEXTS[2], TEXTS[0]], planted, fingerprint(resolve(tiny_mpnet)))
    found = Sentences(store, model=tiny_mpnet)(TEXTS)
    np.testing.assert_array_equal(found[[2, 0]], planted)
    np.testing.assert_allclose(found[[1, 3]], computed[[1, 3]], atol=1e-5)
    only = Sentences(store, model="nowhere/none")([TEXTS[0]])  # no embedding is missing, so that no model is loaded
    np.testing.assert_array_equal(only, planted[1:])


def test_embeddings_of_other_weights_are_refused(tiny_mpnet: str, tmp_path: Path) -> None:
    store = filled(tmp_path / "features", TEXTS[:1], np.eye(16, dtype=np.float32)[:1], "0" * 64)
    with pytest.raises(
        StepDiffError, match="features: mpnet-base of texts was made with other weights than .*tiny_mpnet"
    ):
        Sentences(store, model=tiny_mpnet)(TEXTS)
    assert len(Sentences(store, model=tiny_mpnet)(TEXTS[1:])) == 3


def test_a_lone_surrogate_is_a_text(tiny_mpnet: str) -> None:
    assert np.isfinite(Sentences(model=tiny_mpnet)(["\ud800 whisks"])).all()


def test_only_diffcap_has_the_metric_mpnet() -> None:
    rows = [DiffCap("a_0_1", "b_0_1", "Visuals", ("a b", "c")), DiffCap("c_0_1", "b_0_1", "Visuals", ())]
    found = score("diffcap", rows, ["a", "d"], bootstrap=0, embed=as_words)
    assert found["MPNet"] == pytest.approx(1 / np.sqrt(2))
    assert "MPNet" not in score("diffcap", rows, ["a", "d"], bootstrap=0)
    with pytest.raises(StepDiffError, match="diffrank has no captions"):
        score("diffrank", [DiffRank("a_0_1", ("b_0_1",), "Visuals", (5,))], [[1.0]], embed=as_words)


def test_sentences_of_similar_meaning_score_higher() -> None:
    try:
        resolve(MODEL)
    except StepDiffError as problem:
        pytest.skip(str(problem))
    references = [["the person whisks the eggs slowly instead of quickly"]] * 3
    captions = ["they beat the eggs at a slower pace", "the onions are red", "a car is parked outside"]
    like, less, least = similarity_rows(references, captions, Sentences())
    assert like > 0.6 > less and least < 0.3
