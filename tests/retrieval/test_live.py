"""Queries by texts and files that the store has no embedding of, encoded by the view's own encoder."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featurize.encoders import Encoder, load
from retrieval.__main__ import main
from store import Store, text_key

KEYS = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP checkpoint of random weights whose tokenizer knows letters."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder = tmp_path_factory.mktemp("clip")
    letters = list(bytes_to_unicode().values())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]).save_pretrained(folder)
    small = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config={**small, **ends, "vocab_size": len(pieces), "max_position_embeddings": 20},
            vision_config={**small, "image_size": 32, "patch_size": 8},
            projection_dim=12,
        )
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def filled(path: Path, encoder: Encoder, info: dict[str, object] | None = None) -> Store:
    """Return a store whose view `space` has four clips of that encoder."""
    store = Store.open(path, create=True)
    frames = np.random.default_rng(0).integers(0, 256, (4, encoder.frames, 32, 32, 3), dtype=np.uint8)
    made, features = encoder.provenance("clips"), encoder.features("clips")
    with store.writer("clips", "space", made, features, info=info) as writer:
        writer.write(pl.DataFrame({"key": KEYS}), encoder.encode_clips(frames))
    return store


def asked(capsys: pytest.CaptureFixture[str], store: Store, *words: object) -> tuple[int, str, str]:
    status = main(["query", "--store", str(store.path), "--view", "space", *map(str, words)])
    return status, *capsys.readouterr()


def test_a_live_text_equals_the_text_of_the_store(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No text was featurized. Then this one is, and the hits are the same."""
    encoder = load("clip", str(weights), "cpu", frames=2)
    store, words = filled(tmp_path / "store", encoder), "whisk the eggs"
    status, out, err = asked(capsys, store, "--text", words, "-k", 10, "--json", "--weights", weights)
    live = json.loads(out)["hits"]
    assert status == 0 and sorted(hit["clip"] for hit in live) == KEYS
    assert err == "-k 10: there are only 4 clips to choose from\n"
    vector = encoder.encode_texts([words])["embedding"][0]
    clips = store.view("clips", "space").read("embedding", keys=KEYS)
    cosines = clips @ vector / np.linalg.norm(clips, axis=1)
    assert [hit["clip"] for hit in live] == [KEYS[place] for place in np.argsort(-cosines)]
    np.testing.assert_allclose([hit["similarity"] for hit in live], np.sort(cosines)[::-1], atol=1e-6)
    assert np.ptp(cosines) > 0.01
    with store.writer("texts", "space", encoder.provenance("texts"), encoder.features("texts")) as writer:
        writer.write(pl.DataFrame({"key": [text_key(words)], "text": [words]}), {"embedding": vector[None]})
    status, out, _ = asked(capsys, store, "--text", words, "-k", 10, "--json")  # needs no weights now
    stored = json.loads(out)["hits"]
    assert [hit["clip"] for hit in stored] == [hit["clip"] for hit in live]
    np.testing.assert_allclose([hit["similarity"] for hit in stored], np.sort(cosines)[::-1], atol=1e-6)


def test_weights_are_found_by_the_record_of_the_view(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record names the weights and the choices of the encoder; weights of another sha256 there are not used."""
    encoder = load("clip", str(weights), "cpu", layer=1, frames=2)
    choices = {"layer": 1, "frames": 2, "odd": 7, "sampling": 3}
    store = filled(tmp_path / "store", encoder, {"weights": str(weights), "choices": choices})
    assert asked(capsys, store, "--text", "whisk")[0] == 0
    for name, source in (("gone", str(tmp_path / "gone")), ("other", str(tmp_path)), ("none", None)):
        (tmp_path / "file").write_text("not these")
        lost = filled(tmp_path / name / "store", encoder, {"weights": source, "choices": choices})
        status, out, err = asked(capsys, lost, "--text", "whisk")
        assert (status, out) == (2, "") and err.count("\n") == 1
        assert f"the weights of view clips/space (clip, sha256 {encoder.fingerprint[:12]}) are not found" in err
        assert (source is None or f" at {source}: " in err) and "--weights" in err
        assert asked(capsys, lost, "--text", "whisk", "--weights", weights)[0] == 0


def test_a_text_that_cannot_be_encoded_is_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = load("clip", str(weights), "cpu", frames=2)
    store = filled(tmp_path / "store", encoder, {"weights": str(weights)})
    status, _, err = asked(capsys, store, "--text", "  ")
    assert status == 2 and "the text is empty" in err


def test_a_view_of_an_encoder_without_texts_says_what_to_query(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from store import Feature, Provenance

    made = Provenance("videomae", "0" * 64, "last", "8", "centre", {"embedding": "float32"})
    store = Store.open(tmp_path / "store", create=True)
    with store.writer("clips", "space", made, {"embedding": Feature((4,), "float32")}) as writer:
        writer.write(KEYS, {"embedding": np.eye(4, dtype=np.float32)})
    status, _, err = asked(capsys, store, "--text", "whisk")
    assert status == 2 and "videomae encodes no texts: query a view of an encoder that does" in err
