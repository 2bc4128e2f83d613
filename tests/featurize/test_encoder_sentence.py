"""The sentence encoder compared with sentence-transformers, on a tiny random checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import StepDiffError
from featurize.encoders import Encoder, load

TEXTS = ["flip the pancake", "a", "clean the pool " * 20, "pour the batter slowly"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights with mean pooling, in the published format of such models."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("sentence")
    letters = [chr(code) for code in range(97, 123)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}).save_pretrained(folder)
    small = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(pieces), max_position_embeddings=64, **small))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.normal_(model.embeddings.word_embeddings.weight, std=3)  # words weigh more than positions
    model.save_pretrained(folder)
    modules(folder, Transformer="", Pooling="1_Pooling")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32, "do_lower_case": False}))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def modules(folder: Path, **places: str) -> None:
    """Return the file that lists the modules of a model and their folders."""
    steps = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(places.items())
    ]
    (folder / "modules.json").write_text(json.dumps(steps))


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> Encoder:
    return load("sentence", str(checkpoint), "cpu")


def test_embeddings_equal_sentence_transformers(checkpoint: Path, encoder: Encoder) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(checkpoint), device="cpu")
    got = encoder.encode_texts(TEXTS)["embedding"]
    for text, row in zip(TEXTS, got, strict=True):  # one by one, without padding
        expected = model.encode(text)
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), rtol=0, atol=1e-5)
    assert np.abs(got[0] - got[3]).max() > 0.01
    assert encoder.features("texts")["embedding"].shape == got.shape[1:] == (24,)
    assert encoder.encode_texts(TEXTS)["embedding"].tobytes() == got.tobytes()


def test_provenance_records_the_modules_and_the_limit(encoder: Encoder) -> None:
    provenance = encoder.provenance("texts")
    assert provenance.layer == "Transformer, Pooling; L2-normalised"
    assert provenance.crop == "first 32 tokens"
    assert len(encoder.tokenizer("clean the pool " * 20, verbose=False)["input_ids"]) > 32


def test_a_model_without_attention_has_no_limit(tmp_path: Path) -> None:
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "flip", "the", "pancake", "pour"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    place = tmp_path / "0_StaticEmbedding"
    place.mkdir()
    tokenizer.save(str(place / "tokenizer.json"))
    vectors = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    save_file({"embedding.weight": vectors}, place / "model.safetensors")
    modules(tmp_path, StaticEmbedding=place.name)
    encoder = load("sentence", str(tmp_path), "cpu")
    assert encoder.max_tokens is None and encoder.provenance("texts").crop == "all tokens"
    got = encoder.encode_texts(["flip the pancake", "pour"])["embedding"]
    expected = np.stack([vectors[1:4].mean(0), vectors[4]])
    np.testing.assert_allclose(got, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=0, atol=1e-6)


def refusal(folder: Path, **choices: object) -> str:
    with pytest.raises(StepDiffError) as caught:
        load("sentence", str(folder), "cpu", **choices)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unusable_weights_are_refused_in_one_line(checkpoint: Path, tiny_clip: Path, tmp_path: Path) -> None:
    assert "is no sentence-transformers folder" in refusal(tiny_clip)
    assert "no choice of frames or sampling" in refusal(checkpoint, frames=4, sampling="segment-centres")
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "os.system"}]))
    assert "cannot be loaded" in refusal(tmp_path)
